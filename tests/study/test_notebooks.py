"""The notebooks as they are committed: complete, executed from top to bottom, and showing what their tables hold.

What is deterministic in them is compared by nbval. Cells whose digits depend on training are not, since other
processors sum in another order; here their stored numbers are held against the stored tables instead.
"""

import json
import re
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

from mixste.study import plots, report, store, tidy
from mixste.study.notebooks import NOTEBOOKS, notebooks, tables_read
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES

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


def test_their_numbers_have_no_gaps():
    assert len(NAMES) >= 19
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(len(NAMES))]


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
def test_a_notebook_that_reads_runs_trains_only_where_it_is_asked_to(name):
    [parameters] = [cell for cell in code(name) if "parameters" in tags(cell)]
    source = "\n".join("".join(cell["source"]) for cell in code(name))
    if tables_read([NOTEBOOKS / f"{name}.ipynb"]):
        assert "train_missing = None" in "".join(parameters["source"])
        assert ", scale, train_missing" in source
    assert "make(" not in source
    assert "make_all(" not in source


def tables_shown(name: str) -> list[dict]:
    """Cells that show the notebook's own tables."""
    calls = ("tidy.beside(", "tidy.with_intervals(")
    return [cell for cell in code(name) if any(call in "".join(cell["source"]) for call in calls)]


def lines_of(frame: pd.DataFrame):
    """The numbers of each line of a table on a page, with those of its label and without (a label is shown once)."""
    for label, line in frame.iterrows():
        numbers = DECIMAL.findall(" ".join(map(str, line)))
        yield tuple(numbers)
        yield (*DECIMAL.findall(str(label)), *numbers)


@pytest.mark.parametrize("name", [name for name in NAMES if tables_shown(name)])
def test_lines_shown_are_those_of_the_stored_tables(name):
    files = [path.stem for path in tidy.files("smoke") if path.stem[:3] == name[:3]]
    tables = [table for table in (tidy.read("smoke", file) for file in files) if (table["column"] == "Avg.").any()]
    known = {line for table in tables for line in lines_of(tidy.with_intervals(table))}
    metrics = [(table, metric) for table in tables for metric in table["metric"].unique()]
    wide = [Counter(line) for table, metric in metrics for line in lines_of(tidy.beside(table, metric))]
    for cell in tables_shown(name):
        assert IGNORED in tags(cell)
        html = "".join("".join(output["data"]["text/html"]) for output in cell["outputs"] if "data" in output)
        shown = {tuple(DECIMAL.findall(line)) for line in html.split("<tr")[2:]} - {()}
        assert shown
        for line in shown - known:  # a notebook may choose and order the columns of a wide one
            assert any(Counter(line) <= one for one in wide), line


def test_every_table_has_its_notebook_which_names_it():
    for table in TABLES.values():
        assert table.notebook in NAMES
        assert table.key in tables_read([NOTEBOOKS / f"{table.notebook}.ipynb"])


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_that_reads_runs_names_their_table(name):
    """Or its runs would not be trained before it is executed, and it not be executed again when they change."""
    source = "".join("".join(cell["source"]) for cell in code(name))
    reads = re.search(r"\b(report\.measure|report\.ready|trainer\.make|methods\.compared)\(", source)
    assert bool(reads) == bool(tables_read([NOTEBOOKS / f"{name}.ipynb"]))


def test_tables_are_read_off_the_code_of_a_notebook(tmp_path):
    sources = [
        ("markdown", 'TABLES["table1"]'),
        ("code", 'TABLES["table5"]; "limits of table6"'),
        ("code", "x = ['table2']"),
    ]
    notebook = {"cells": [{"cell_type": kind, "source": [source]} for kind, source in sources]}
    (tmp_path / "one.ipynb").write_text(json.dumps(notebook))
    assert tables_read([tmp_path / "one.ipynb"]) == ("table2", "table5"), "in the order of the study"


def test_every_table_has_its_figure():
    for name in NAMES:
        assert list((store.ROOT / "figures" / "smoke").glob(f"{name[:2]}_*.png")), f"no figure of {name}"


def test_the_first_setting_of_each_group_of_table_7_has_no_interval_in_the_figure(monkeypatch):
    """It is what the others are compared with; in the table, its own difference is to a row of another group."""
    scale, table = PROFILES["open"], TABLES["table7"]
    labels = {row.key: row.label for row in table.rows(scale) if row.trained}
    lines = []
    for row in table.rows(scale):
        about = {"row": row.label, "column": "Avg.", "metric": "MPJPE", "unit": "mm", "seeds": 2, "printed": 40.0}
        about |= {"over": "8 people, 2 seeds", "low": 45.0, "value": 50.0, "high": 55.0}
        lines.append(about)
        lines += (
            [about | {"against": labels[row.against], "low": -3.0, "value": -1.0, "high": 1.0}] if row.against else []
        )
    monkeypatch.setattr(plots, "save_figure", lambda *arguments: None)
    monkeypatch.setattr(plots, "show", lambda figure: None)
    sources = ["".join(cell["source"]) for cell in code("08_table7_grid")]
    names = {"values": tidy.table(lines, scale, "7"), "table": table, "scale": scale, "profile": "open"}
    names |= {"plots": plots, "report": report, "tidy": tidy}
    for source in sources[-2:]:
        exec(source, names)
    for axes in names["grid"]:
        [intervals] = [drawn for drawn in axes.collections if isinstance(drawn, LineCollection)]
        at = [ends[0][0] for ends in intervals.get_segments() if len(ends) and np.isfinite(ends).all()]
        assert at == list(range(1, len(axes.get_xticks())))
    plt.close("all")
