"""A new table is one entry and one notebook: it is planned, measured, saved, on the page, and chosen by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mixste.io.install import PACKAGE
from mixste.study import tidy

ENTRY = """

def _toy(p: Profile) -> list[Row]:
    data = replace(p.data, keypoints="gt", subjects=("S1", "S9"), actions=("Walking", "Waiting"))
    narrow = p.mixste(27, dim=64, depth=4, data=data)
    base = Row("narrow", narrow, "narrow network")
    return [base, base.variant("wide", options={"dim": 16})]


TABLES["toy"] = Table("toy", "19", "19_toy", "a toy", _toy, metrics=("MPJPE",), averages_only=True)
"""
CELLS = (
    'profile = "smoke"',
    """from mixste.study import report, tidy
from mixste.study.profiles import profile_of
from mixste.study.tables import TABLES

scale, table = profile_of(profile), TABLES["toy"]
report.ready(table.rows(scale), scale)
values = report.measure(table, scale)
tidy.save(values, table.notebook)""",
)


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the package with the entry, and nothing but the notebook."""
    shutil.copytree(PACKAGE, tmp_path / "mixste", ignore=shutil.ignore_patterns("__pycache__", "weights"))
    with (tmp_path / "mixste" / "study" / "tables.py").open("a", encoding="utf-8") as file:
        file.write(ENTRY)
    shutil.copy(PACKAGE.parent / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "notebooks" / "19_toy.ipynb")
    return tmp_path


@pytest.mark.slow
def test_a_table_is_one_entry_and_one_notebook(checkout):
    where = {"PYTHONPATH": str(checkout), "MIXSTE_RUNS": str(checkout / "runs"), "MIXSTE_POSES": "300"}

    def mixste(*arguments: str) -> str:
        command = [sys.executable, "-m", "mixste", *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=checkout, env=os.environ | where
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    plan = mixste("reproduce", "--tables", "toy", "--dry-run")
    assert "toy, narrow network, seed 0: train" in plan
    assert "2 of 2 runs to train, 1 of 1 notebooks to execute" in plan
    assert "[1/1] 19_toy.ipynb" in mixste("reproduce", "--tables", "19", "--jobs", "1")
    values = tidy.read("smoke", "19_toy", checkout / "runs")
    assert values["row"].tolist() == ["narrow network", "wide", "wide"]
    assert values["against"].tolist() == ["", "", "narrow network"]
    assert set(values["table"]) == {"19"}
    page = (checkout / "runs" / "results" / "README.md").read_text(encoding="utf-8")
    assert "### [19_toy](smoke/19_toy.csv): a toy" in page
    assert "Not trained yet" not in page
