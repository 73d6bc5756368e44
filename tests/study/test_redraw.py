"""The study in miniature, drawn again from its records alone: without the store, without the data, without training."""

from dataclasses import replace

import pandas as pd
import pytest

from mixste.io import DataError
from mixste.study import methods, notebooks, records, report, store, tidy
from mixste.study import run as run_module
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import CONSTANT, TABLES, Row, Table, references
from mixste.train import AUTHORS

PROFILE = replace(PROFILES["smoke"], gpu=True)  # nothing is trained unasked
DATA = Data("synthetic", "gt", skeleton="human36m", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1)
RECIPE = replace(AUTHORS, batch_frames=90)


def rows(profile) -> list[Row]:
    def seeds(dim: int) -> tuple[Run, ...]:
        options = {"dim": dim, "depth": 1, "heads": 2}
        return tuple(Run(DATA, 9, 200, seed, options=options, recipe=RECIPE) for seed in (0, 1))

    base = Row("narrow", seeds(8))
    return [base, Row("wide", seeds(16), against="narrow"), *references(DATA)]


TABLE = Table("mine", "99", "99_mine", "two networks", rows, averages_only=True)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A store and a repository of the test's own, both empty."""
    monkeypatch.setattr(store, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # in this process
    return tmp_path


def test_what_was_measured_in_the_store_is_drawn_again_from_records(folders, monkeypatch):
    wanted = rows(PROFILE)
    assert report.ready(wanted, PROFILE) == "0 of 6 runs ready"
    with pytest.raises(store.RunError, match="not all runs of narrow, wide, constant pose, linear regression"):
        report.measure(TABLE, PROFILE)
    assert report.ready(wanted, PROFILE, train=True) == "6 of 6 runs ready"
    before = report.measure(TABLE, PROFILE)
    assert before["value"].notna().all()
    every = [run for row in wanted for run in row.runs]
    assert len(records.publish(every, PROFILE.name)) == 6

    def absent(*arguments, **options):
        raise DataError("none here")

    monkeypatch.setenv("MIXSTE_RUNS", str(folders / "elsewhere"))
    monkeypatch.setattr("mixste.data.load", absent)
    monkeypatch.setattr("mixste.study.run._load", absent)
    assert report.ready(wanted, PROFILE) == "6 of 6 runs ready"
    pd.testing.assert_frame_equal(report.measure(TABLE, PROFILE), before)
    with pytest.raises(store.NotHere, match=r"this needs the network of mixste, T=9, trained on synthetic, seed 0, "):
        store.finished(wanted[0].runs[0])
    assert not (folders / "elsewhere").exists()


def test_a_table_with_rows_of_other_labels_is_saved_from_records_without_the_data(folders, monkeypatch):
    """As in notebook 18, whose last rows are runs of the table by another name. It needs no data, nor ids of today."""
    monkeypatch.setitem(PROFILES, PROFILE.name, PROFILE)
    monkeypatch.setitem(TABLES, TABLE.key, TABLE)
    monkeypatch.setenv("MIXSTE_OUT", str(folders / "out"))
    wanted = rows(PROFILE)
    report.ready(wanted, PROFILE, train=True)
    records.publish([run for row in wanted for run in row.runs], PROFILE.name)
    monkeypatch.setenv("MIXSTE_RUNS", str(folders / "elsewhere"))

    def absent(*arguments, **options):
        raise DataError("none here")

    monkeypatch.setattr(Data, "fingerprint", property(absent))
    run_module._id.cache_clear()
    values = report.measure(TABLE, PROFILE)
    own = values["row"] == "wide"
    tidy.save(values.assign(row=values["row"].mask(own, "wide: unseen takes")), TABLE.csv)
    assert "wide: unseen takes" in set(tidy.read(PROFILE.name, TABLE.csv, store.output())["row"])
    with pytest.raises(ValueError, match="a table of the study, without mine: save yours by another name"):
        tidy.save(
            values.assign(row=values["row"].mask(own, "mine"), runs=values["runs"].mask(own, "0" * 12)), TABLE.csv
        )


def test_code_that_needs_networks_takes_the_seeds_whose_weights_are_here(folders):
    """The weights of a study that was trained in several places are never all in one store."""
    row = rows(PROFILE)[0]
    with pytest.raises(store.NotHere, match="this needs the network of mixste, T=9"):
        report.sound(row)
    report.ready([row], PROFILE, train=True)
    assert report.sound(row) == row
    path = store.store() / row.runs[0].id
    (path / "weights.safetensors").unlink()
    store.seal(path)  # as a bundle without weights brings it
    left = report.sound(row)
    assert (left.runs, left.note) == (row.runs[1:], "networks of 1 of 2 seeds")
    store.remove(store.store() / row.runs[1].id)
    with pytest.raises(store.RunError, match=r"is here without its weights\.safetensors: unpack a bundle"):
        report.sound(row)


def test_what_networks_measured_is_kept_where_they_are_not_here(folders, monkeypatch):
    """From the published table: its lines that are of none of its rows, unless they are of an earlier version."""
    assert tidy.measured_before(TABLE, PROFILE).empty
    own, other = (
        {"row": name, "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 1.0}
        for name in ("narrow", "plain loop")
    )
    values = tidy.table([own, other], PROFILE, "99")
    monkeypatch.setenv("MIXSTE_OUT", str(store.ROOT))
    tidy.save(values, TABLE.csv)
    assert tidy.measured_before(TABLE, PROFILE)["row"].tolist() == ["plain loop"]
    tidy.save(values.assign(source="open-subjects"), TABLE.csv)
    assert tidy.measured_before(TABLE, PROFILE).empty


@pytest.mark.slow
@pytest.mark.parametrize("name", ["17_limits", "19_leaders"])
def test_a_notebook_of_the_published_study_is_drawn_again_without_data_gpu_and_networks(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    monkeypatch.setenv("MIXSTE_DATA", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    notebooks.execute(notebooks.NOTEBOOKS / f"{name}.ipynb", "open", train=False)
    drawn, published = (tidy.read("open", name, root) for root in (tmp_path / "store", store.ROOT))
    lines = [set(zip(table["row"], table["metric"], strict=True)) for table in (drawn, published)]
    assert lines[0] == lines[1]


def test_a_row_without_records_says_so(folders):
    """Asked for by an argument; figures of what is there can still be drawn."""
    table = report.measure(TABLE, PROFILE, partial=True)
    tidy.validate(table)
    assert table["value"].isna().all()
    assert (table["seeds"] == 0).all()
    notes = table.groupby("row")["note"].first()
    assert notes[["narrow", CONSTANT]].tolist() == [
        "not trained here: 2 of 2 seeds",
        "not trained here: 1 of 1 seeds",
    ]
    assert set(tidy.with_intervals(table)["value"]) == {"not trained here"}
    with pytest.raises(store.NotHere, match="VideoPose3D, PoseFormer, MixSTE of profile smoke"):
        methods.compared(TABLES["table1"], PROFILE)
