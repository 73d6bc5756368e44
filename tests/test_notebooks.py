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
DECIMAL = re.compile(r"(?<![\w.])[-+]?\d+\.\d+(?![\w.])")


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


def test_all_eighteen_are_there():
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(18)]


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


def tables_shown(name: str) -> list[dict]:
    """Cells that show the notebook's own table."""
    calls = ("report.beside(", "report.with_intervals(")
    return [cell for cell in code(name) if any(call in "".join(cell["source"]) for call in calls)]


@pytest.mark.parametrize("name", [name for name in NAMES if tables_shown(name)])
def test_numbers_shown_stand_in_the_stored_table(name):
    """Every figure of a table on the page, to its own precision, is one of the stored table's."""
    table = report.read("smoke", name)
    known = table[["value", "low", "high", "printed"]].to_numpy().ravel()
    known = {shown.format(value) for value in known for shown in ("{:.1f}", "{:+.1f}")}
    known |= {number for label in table["row"] for number in DECIMAL.findall(label)}
    for cell in tables_shown(name):
        assert IGNORED in tags(cell)
        shown = DECIMAL.findall(text_of(cell))
        assert shown
        assert set(shown) <= known


def test_every_table_has_its_figure():
    for name in NAMES:
        assert list((runs.ROOT / "figures" / "smoke").glob(f"{name[:2]}_*.png")), f"no figure of {name}"
