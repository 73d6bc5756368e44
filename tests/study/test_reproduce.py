"""The notebooks run to their ends on files as the licensed sets are published, and one that fails says so."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import licensed
import nbformat
import pandas as pd
import pytest

from mixste.io import DataError
from mixste.study import batch, notebooks, pages, run
from mixste.study.profiles import PROFILES, profile_of
from mixste.study.tables import distinct


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
        [*command, "--notebook", "04", "--notebook", "05", "--jobs", "1"],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ
        | {
            "MIXSTE_DATA": str(folder),
            "MIXSTE_RUNS": str(tmp_path / "runs"),
            "MIXSTE_POSES": "300",
        },
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, printed in (("04_table3", 66.5), ("05_table4", 16.1)):
        table = pd.read_csv(tmp_path / "runs" / "results" / "paper-cpu" / f"{name}.csv")
        assert printed in set(table["printed"])
        assert not table["comparable"].any()
    [copy] = (tmp_path / "runs" / "notebooks" / "paper-cpu").glob("05_*.ipynb")
    assert "CUT SHORT to 300 poses" in copy.read_text(encoding="utf-8")


@pytest.fixture
def other_data():
    """What was read of data elsewhere is forgotten, before and after."""
    caches = run._load, run._source, run._id
    [cache.cache_clear() for cache in caches]
    yield
    [cache.cache_clear() for cache in caches]


@pytest.mark.slow
def test_with_part_of_the_licensed_data_what_can_be_made_is_told_and_made(tmp_path, monkeypatch, capsys, other_data):
    """MPI-INF-3DHP is there, and Human3.6M without one detector's keypoints. Nothing is really trained or executed."""
    folder = tmp_path / "data"
    for name in ("human36m", "mpi_inf_3dhp"):
        (folder / name).mkdir(parents=True)
    licensed.write_human36m(folder / "human36m", frames=40, detectors=("gt", "cpn_ft_h36m_dbb"))
    licensed.write_mpi_inf_3dhp(folder / "mpi_inf_3dhp", frames=40)
    for name, value in {"MIXSTE_DATA": folder, "MIXSTE_RUNS": tmp_path / "runs", "MIXSTE_POSES": 300}.items():
        monkeypatch.setenv(name, str(value))

    lines = str(batch.plan("paper-cpu", notebooks.choose([], ["00", "02", "03", "04", "05"]))).splitlines()
    detector = f"expected data_2d_h36m_detectron_ft_h36m.npz in {folder}/human36m, found keypoints of these detectors"
    assert [line.split(":")[0].strip() for line in lines if "execute, " in line] == ["03_table2", "04_table3"]
    for name, why in {"00_data": detector, "02_table1": detector, "05_table4": "expected data_3d_humaneva15"}.items():
        assert sum(name in line and f"cannot be made: {why}" in line for line in lines) == 1
    assert "\n".join(lines).count(detector) == 1, "once for all that lack it"
    assert "2 of 2 notebooks to execute; 3 cannot be made (their " in lines[-1]

    trained, executed = [], []
    monkeypatch.setattr(notebooks.trainer, "make_all", lambda wanted, jobs, title: trained.extend(wanted) or "")
    monkeypatch.setattr(notebooks, "execute", lambda path, profile, train: executed.append(path.stem))
    with pytest.raises(RuntimeError, match=f"^02_table1 cannot be made: {re.escape(detector)}"):
        notebooks.reproduce("paper-cpu", notebooks.choose([], ["02", "04"]))
    assert trained == distinct(profile_of("paper-cpu"), ["table3"])
    assert executed == ["04_table3"]
    capsys.readouterr()
    with pytest.raises(DataError, match=f"^02_table1 cannot be made: {re.escape(detector)}"):
        notebooks.reproduce("paper-cpu", notebooks.choose([], ["02"]))
    assert capsys.readouterr().out == ""


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "page", lambda root, but: None)
    return tmp_path


def said(capsys) -> str:
    notebooks.reproduce("smoke", notebooks.choose())
    return capsys.readouterr().out


def test_a_notebook_is_executed_once_and_again_when_it_changes(folder, capsys):
    path = folder / "00_one.ipynb"
    notebook(path, 'profile = "smoke"', "print(profile)")
    assert "00_one.ipynb …" in said(capsys)
    copy = json.loads((folder / "runs" / "notebooks" / "smoke" / "00_one.ipynb").read_text())
    assert "smoke\n" in "".join(str(cell["outputs"]) for cell in copy["cells"]).replace("\\n", "\n")
    assert "up to date" in said(capsys)
    notebook(path, 'profile = "smoke"', "print(profile, 2)")
    assert "00_one.ipynb …" in said(capsys)


def test_other_profiles_are_the_notebooks_parameter(folder, monkeypatch):
    monkeypatch.setitem(PROFILES, "synthetic-too", replace(PROFILES["smoke"], name="synthetic-too"))
    notebook(folder / "00_one.ipynb", 'profile = "smoke"', "print('in', profile)")
    notebooks.execute(folder / "00_one.ipynb", "synthetic-too")
    assert "in synthetic-too" in (folder / "runs" / "notebooks" / "synthetic-too" / "00_one.ipynb").read_text()


def edited(file):
    file.write_text(file.read_text().replace("205.7", "105.7"))


def truncated(file):
    file.write_bytes(file.read_bytes()[:-2])


def test_what_is_not_as_it_was_written_is_named_and_made_again(folder, capsys):
    write = "file = store.output() / kind / 'smoke' / name; file.parent.mkdir(parents=True, exist_ok=True)"
    write += "; file.write_text('205.7 mm')"
    loop = f"for kind, name in (('results', '00_one.csv'), ('figures', '00_one.png')):\n    {write}"
    path = folder / "00_one.ipynb"
    notebook(path, 'profile = "smoke"', f"from mixste.study import store\n{loop}", "print(205.7)")
    said(capsys)
    names = ["results/smoke/00_one.csv", "figures/smoke/00_one.png", "notebooks/smoke/00_one.ipynb"]
    for name, damage in itertools.product(names, (edited, truncated, Path.unlink)):
        file = folder / "runs" / name
        before = file.read_bytes()
        damage(file)
        assert notebooks.damaged(path, "smoke") == [name]
        file.write_bytes(before)
    for name, damage in zip(names, (edited, truncated, Path.unlink), strict=True):
        damage(folder / "runs" / name)
    line = said(capsys).splitlines()[0]
    assert "00_one.ipynb: no longer as written, and made again: " in line
    assert all(name in line for name in names)
    assert all("205.7" in (folder / "runs" / name).read_text() for name in names)
    assert "up to date" in said(capsys)


def test_the_page_leaves_out_what_no_notebook_wrote(folder, monkeypatch, capsys):
    """Of notebooks that are not among the chosen ones too: an edited value, half a table, and a file of somebody's."""
    monkeypatch.setattr(notebooks, "page", pages.page)
    for number in ("02", "03"):
        value = {"row": f"row {number}", "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 205.7, "runs": "a"}
        save = f"tidy.save(tidy.table([{value}], profile_of('smoke'), '{number}'), '{number}_table')"
        notebook(
            folder / f"{number}_table.ipynb",
            'profile = "smoke"',
            f"from mixste.study import tidy\nfrom mixste.study.profiles import profile_of\n{save}",
        )
        notebooks.execute(folder / f"{number}_table.ipynb", "smoke")
    tables = folder / "runs" / "results" / "smoke"
    (tables / "99_mine.csv").write_text("a,b\n1,2\n")
    for damage in (edited, truncated, lambda file: file.write_text("")):
        damage(tables / "02_table.csv")
        (tables / "runs.csv").write_text("a,b\n")
        notebooks.renew_page()
        said = capsys.readouterr().out
        assert "02_table.csv has changed" in said
        assert "--profile smoke --notebook 02" in said
        assert "99_mine.csv is left out of results/README.md: expected a table of the study" in said
        page = (tables.parent / "README.md").read_text()
        assert "row 03" in page
        assert "row 02" not in page


def test_a_damaged_stamp_is_no_stamp(folder):
    path = folder / "00_one.ipynb"
    notebook(path, 'profile = "smoke"')
    notebooks.execute(path, "smoke")
    assert notebooks.fresh(path, "smoke")
    for text in ("", "[]", '{"inputs": 1}', '{"files": [1], "inputs": ""}'):
        (folder / "runs" / "notebooks" / "smoke" / "00_one.stamp").write_text(text)
        assert not notebooks.fresh(path, "smoke")


def test_a_kernel_says_nothing_of_its_own(folder, capfd):
    """Such as "KeyboardInterrupt caught in kernel", when it is asked to end before it has come to rest."""
    code = "from traitlets.config import Application; Application.instance().log.error('of a kernel')"
    notebook(folder / "00_one.ipynb", 'profile = "other"', code)
    notebooks.reproduce("smoke", notebooks.choose())
    assert capfd.readouterr().err == ""


def test_a_notebook_that_raises_is_named_and_not_taken_for_done_and_the_rest_goes_on(folder, monkeypatch):
    notebook(folder / "00_one.ipynb", 'profile = "smoke"', "1 / 0")
    notebook(folder / "00_two.ipynb", 'profile = "smoke"')
    for jobs in (2, 1):
        with pytest.raises(RuntimeError, match=r"00_one\.ipynb failed with ZeroDivisionError: division by zero"):
            notebooks.reproduce("smoke", notebooks.notebooks(), jobs)
        assert notebooks.fresh(folder / "00_two.ipynb", "smoke")
    monkeypatch.setenv("MIXSTE_POSES", "300")
    assert not notebooks.fresh(folder / "00_two.ipynb", "smoke"), "made of other runs"


def test_a_full_disk_ends_the_call_below_the_notebooks_line(folder, monkeypatch, capsys):
    def full(*arguments):
        raise OSError("no space")

    monkeypatch.setattr(notebooks, "execute", full)
    notebook(folder / "00_one.ipynb", "")
    with pytest.raises(OSError, match="no space"):
        notebooks.reproduce("smoke", notebooks.choose())
    assert capsys.readouterr().out.endswith("00_one.ipynb … failed\n")


def test_of_records_alone_nothing_is_trained(tmp_path):
    """Of a profile whose runs left none, and which needs a GPU and data: each notebook says what it lacks."""
    command = [sys.executable, "-c", "from mixste.cli import main; main()", "reproduce", "--profile", "paper"]
    command += ["--records", "--tables", "5", "--notebook", "9"]
    where = {"MIXSTE_RUNS": str(tmp_path / "runs"), "MIXSTE_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("there is no record of any of its trainings") == 2
    assert not list(tmp_path.glob("runs/????????????*"))


def test_a_notebook_that_needs_a_network_that_is_not_there_says_so_in_a_sentence(folder):
    code = "from mixste.study import store\nraise store.NotHere('this needs the network of a run')"
    notebook(folder / "00_one.ipynb", 'profile = "smoke"\ntrain_missing = None', code, "print(1)")
    with pytest.raises(RuntimeError, match=r"^00_one cannot be made: this needs the network of a run$"):
        notebooks.reproduce("smoke", notebooks.choose(), train=False)
    text = (folder / "runs" / "notebooks" / "smoke" / "00_one.ipynb").read_text()
    assert "train_missing = False" in text
    assert "Traceback" not in text
    assert not notebooks.fresh(folder / "00_one.ipynb", "smoke")
