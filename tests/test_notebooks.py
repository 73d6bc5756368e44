"""The notebooks as they are committed: complete, executed from top to bottom, and showing what their tables hold.

What is deterministic in them is compared by nbval. Cells whose digits depend on training are not, since other
processors sum in another order; here their stored numbers are held against the stored tables instead.
"""

import json
import re

import pytest

from mixste.study import report, runs
from mixste.study.notebooks import NOTEBOOKS, notebooks

NAMES = [path.stem for path in notebooks()]
IGNORED = "nbval-ignore-output"


def cells(name: str) -> list[dict]:
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def code(name: str) -> list[dict]:
    return [cell for cell in cells(name) if cell["cell_type"] == "code"]


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def text_of(cell: dict) -> str:
    """What a cell shows as text."""
    parts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell["outputs"]]
    return "".join("".join(part) for part in parts)


def test_all_sixteen_are_there():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(16)]


@pytest.mark.parametrize("name", NAMES)
def test_executed_once_from_top_to_bottom_without_an_error(name):
    counts = [cell["execution_count"] for cell in code(name)]
    assert counts == list(range(1, len(counts) + 1))
    for cell in code(name):
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert not any(output.get("name") == "stderr" for output in cell["outputs"]), text_of(cell)


@pytest.mark.parametrize("name", NAMES)
def test_one_parameters_cell_and_the_source_named(name):
    [parameters] = [cell for cell in code(name) if "parameters" in tags(cell)]
    assert 'profile = "smoke"' in "".join(parameters["source"])
    shown = "".join(text_of(cell) for cell in code(name))
    assert "synthetic" in shown, "whoever reads it must know what it was measured on"


@pytest.mark.parametrize("name", NAMES)
def test_numbers_shown_stand_in_the_stored_table(name):
    """Every figure that a trained cell shows, to its own precision, is one of the table's."""
    ignored = [cell for cell in code(name) if IGNORED in tags(cell)]
    if not ignored:
        pytest.skip("nothing in it depends on training")
    table = report.read("smoke", name)
    known = table[["value", "low", "high", "printed", "seed_spread"]].to_numpy().ravel()
    for cell in ignored:
        for number in re.findall(r"(?<![\w.])[-+]?\d+\.\d+(?![\w.])", text_of(cell)):
            places = len(number.split(".")[1])
            rounded = {f"{value:.{places}f}" for value in known} | {f"{value:+.{places}f}" for value in known}
            assert number in rounded, f"{number} is nowhere in results/smoke/{name}.csv"


def test_every_table_has_its_figure():
    for name in NAMES:
        assert list((runs.ROOT / "figures" / "smoke").glob(f"{name[:2]}_*.png")), f"no figure of {name}"
