"""The notebooks run to their ends on files as the licensed sets are published, and one that fails says so."""

import json
import os
import subprocess
import sys

import licensed
import nbformat
import pytest

from mixste.study import notebooks, report


@pytest.mark.slow
def test_tables_3_and_4_on_the_papers_data_cut_short(tmp_path):
    folder = tmp_path / "data"
    detectors = ("gt", "cpn_ft_h36m_dbb", "detectron_ft_h36m")
    for name in ("human36m", "humaneva", "mpi_inf_3dhp"):
        (folder / name).mkdir(parents=True)
    licensed.write_human36m(folder / "human36m", frames=40, detectors=detectors)
    licensed.write_humaneva(folder / "humaneva", frames=40)
    licensed.write_mpi_inf_3dhp(folder / "mpi_inf_3dhp", frames=40)
    command = [sys.executable, "-c", "from mixste.cli import main; main()", "reproduce", "--profile", "paper-cpu"]
    done = subprocess.run(
        [*command, "--notebook", "04", "--notebook", "05"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ
        | {
            "MIXSTE_DATA": str(folder),
            "MIXSTE_RUNS": str(tmp_path / "runs"),
            "MIXSTE_STUDY": str(tmp_path),
            "MIXSTE_POSES": "300",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, printed in (("04_table3", 66.5), ("05_table4", 16.1)):
        table = report.pd.read_csv(tmp_path / "results" / "paper-cpu" / f"{name}.csv")
        assert printed in set(table["printed"])
        assert not table["comparable"].any()
    [copy] = (tmp_path / "runs" / "notebooks" / "paper-cpu").glob("05_*.ipynb")
    assert "CUT SHORT to 300 poses" in copy.read_text(encoding="utf-8")


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "page", lambda: None)
    return tmp_path


def test_a_notebook_is_executed_once_and_again_when_it_changes(folder, capsys):
    def said():
        notebooks.reproduce("smoke", notebooks.choose())
        return capsys.readouterr().out

    path = folder / "00_one.ipynb"
    notebook(path, 'profile = "other"', "print(profile)")
    assert "00_one.ipynb …" in said()
    copy = json.loads((folder / "runs" / "notebooks" / "smoke" / "00_one.ipynb").read_text())
    assert "smoke\n" in "".join(str(cell["outputs"]) for cell in copy["cells"]).replace("\\n", "\n")
    assert "up to date" in said()
    notebook(path, 'profile = "other"', "print(profile, 2)")
    assert "00_one.ipynb …" in said()
    (folder / "runs" / "notebooks" / "smoke" / "00_one.ipynb").unlink()
    assert "00_one.ipynb …" in said()


def test_a_notebook_that_raises_is_named_and_not_taken_for_done_and_the_rest_goes_on(folder, monkeypatch):
    notebook(folder / "00_one.ipynb", 'profile = "smoke"', "1 / 0")
    notebook(folder / "00_two.ipynb", 'profile = "smoke"')
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"00_one\.ipynb failed with ZeroDivisionError: division by zero"):
            notebooks.reproduce("smoke", notebooks.notebooks())
        assert notebooks.fresh(folder / "00_two.ipynb", "smoke")
    monkeypatch.setenv("MIXSTE_POSES", "300")
    assert not notebooks.fresh(folder / "00_two.ipynb", "smoke"), "made of other runs"


def test_so_far_trains_nothing(tmp_path):
    command = [sys.executable, "-c", "from mixste.cli import main; main()", "reproduce", "--so-far"]
    where = {"MIXSTE_RUNS": str(tmp_path / "runs"), "MIXSTE_STUDY": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nothing is trained yet") == 10
    assert not list(tmp_path.glob("runs/????????????*"))
