"""Records: what they keep of a run, by cases worked out by hand, and that what comes from them is the run's own."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mixste.io import DataError
from mixste.study import records, store
from mixste.study.records import LIMIT, Record, RecordError
from mixste.study.run import Data, Run, spec
from mixste.study.store import Finished
from mixste.study.uncertainty import mean_interval

RUN = Run(Data("synthetic", "gt"), frames=9, poses=600, seed=3, options={"dim": 8, "depth": 1})
# Subject, action, take, camera, and the error of each frame, the same in all joints. Views of a take are neighbours.
CLIPS = [
    ("S9", "Walk", "1", "a", [10.0, 20.5]),
    ("S9", "Walk", "1", "b", [30.0, 30.25, 39.75, 70.0]),
    ("S9", "Sit", "1", "a", [1200.0]),
]


def finished(folder, clips=CLIPS, run=RUN, name="0123456789ab", **environment) -> Finished:
    """A run in a store as the trainer leaves it, with these errors."""
    path = folder / name
    path.mkdir(parents=True)
    rows = []
    for subject, action, take, camera, errors in clips:
        about = {"subject": subject, "action": action, "take": take, "camera": camera, "frames": len(errors)}
        row = about | {"metric": "MPJPE", "value": np.mean(errors), "unit": "mm", "protocol": "exact"}
        rows += [row, row | {"protocol": "authors", "frames": 9, "value": 2 * np.mean(errors)}]
        if len(errors) > 1:
            rows += [row | {"metric": "MPJVE", "value": 1.0 + len(errors), "unit": "mm/frame"}]
    pd.DataFrame(rows).to_csv(path / "clips.csv", index=False)
    joint = np.concatenate([errors for *_, errors in clips])[:, None] * np.ones(17)
    np.savez_compressed(path / "errors.npz", joint=joint.astype(np.float16))
    (path / "spec.json").write_text(spec(run))
    (path / "history.csv").write_text("step,poses,loss\n1,300,0.123456789\n2,600,0.1\n")
    about = {"device": "a CPU", "training_seconds": 1.23456789, "at_constant_level": False} | environment
    (path / "environment.json").write_text(json.dumps(about))
    store.seal(path)
    return Finished(path)


def test_views_of_a_take_are_averaged_by_their_frames(tmp_path):
    takes = Record.of(finished(tmp_path)).takes.set_index(["protocol", "metric", "action"]).sort_index()
    assert takes.loc[("exact", "MPJPE"), "frames"].to_dict() == {"Walk": 6, "Sit": 1}
    walk = (10 + 20.5 + 30 + 30.25 + 39.75 + 70) / 6
    assert takes.loc[("exact", "MPJPE"), "value"].to_dict() == pytest.approx({"Walk": walk, "Sit": 1200}, abs=1e-3)
    assert takes.loc[("authors", "MPJPE"), "frames"].to_dict() == {"Walk": 18, "Sit": 9}
    views = (9 * (10 + 20.5) + 9 * (170 / 2)) / 18  # twice the mean of each view, which weigh alike here
    assert takes.loc[("authors", "MPJPE", "Walk"), "value"].item() == pytest.approx(views, abs=1e-3)
    assert takes.loc[("exact", "MPJVE"), "value"].to_dict() == pytest.approx({"Walk": (2 * 3 + 4 * 5) / 6}, abs=1e-3)
    assert takes.loc[("exact", "MPJVE"), "frames"].to_dict() == {"Walk": 6}, "of one frame there is no velocity"


def test_joints_and_histogram_count_each_frame_once(tmp_path):
    record = Record.of(finished(tmp_path))
    walk, sit = record.histogram.to_numpy()
    assert {int(bin): int(walk[bin]) for bin in np.flatnonzero(walk)} == {10: 1, 20: 1, 30: 2, 39: 1, 70: 1}
    assert np.flatnonzero(sit).tolist() == [LIMIT], "what is off by a metre or more is counted together"
    assert record.joints.shape == (2, 17)
    assert record.joints.to_numpy()[0] == pytest.approx(200.5 / 6, abs=0.01)
    assert list(record.joints) == list(RUN.data.layout.joints)
    assert record.frames.tolist() == [6, 1]


def test_shares_and_quantiles(tmp_path):
    """Exact at whole millimetres: 30.0 mm is not below 30. Within a bin its poses count as spread evenly."""
    record = Record.of(finished(tmp_path))
    assert record.shares(30).tolist() == pytest.approx([100 * 2 / 6, 0])
    assert record.shares(40).tolist() == pytest.approx([100 * 5 / 6, 0])
    assert record.shares(30.25).tolist() == pytest.approx([100 * 2.5 / 6, 0])
    # Of seven poses, at 10, 20, 30, 30, 39, 70 and more: half a pose is below 10.5, three below 30.5.
    percent = [50 / 7, 300 / 7, 350 / 7, 550 / 7, 100]
    assert records.quantiles([record], percent) == pytest.approx([10.5, 30.5, 30.75, 70.5, LIMIT])
    assert records.quantiles([record, record], percent) == pytest.approx([10.5, 30.5, 30.75, 70.5, LIMIT])
    assert records.quantiles([record], [0]) == pytest.approx([10])


def test_intervals_are_those_of_the_clips(tmp_path):
    """A thousand clips drawn at random: value and interval over people, from the record and from the run."""
    rng = np.random.default_rng(0)
    clips = [
        (f"S{s}", f"A{a}", str(take), camera, rng.gamma(9, 10, rng.integers(1, 90)).tolist())
        for s in range(5) for a in range(10) for take in range(5) for camera in "abcd"
    ]  # fmt: skip
    run = finished(tmp_path, clips)
    record = Record.of(run)
    tables = record.takes, run.clips
    for protocol, metric in ("exact", "MPJPE"), ("authors", "MPJPE"), ("exact", "MPJVE"):
        own, table = (table.set_index(["protocol", "metric"]).loc[(protocol, metric)] for table in tables)
        sums = table.assign(total=table["value"] * table["frames"]).groupby(records.TAKE, sort=False)
        sums = sums[["total", "frames"]].sum()
        people = list(sums.index.get_level_values("subject"))
        expected = mean_interval(
            (sums["total"] / sums["frames"]).to_numpy()[:, None], people, sums["frames"].to_numpy()
        )
        interval = mean_interval(own["value"].to_numpy()[:, None], list(own["subject"]), own["frames"].to_numpy())
        ends = [interval.value, interval.low, interval.high]
        assert ends == pytest.approx([expected.value, expected.low, expected.high], abs=5e-3)
    errors = np.concatenate([errors for *_, errors in clips]).astype(np.float16)
    assert np.average(record.shares(40), weights=record.frames) == pytest.approx(100 * (errors < 40).mean())
    found = records.quantiles([record], [10, 50, 99])
    np.testing.assert_allclose(found, np.percentile(errors, [10, 50, 99]), atol=0.2)


def test_some_30_kb_and_the_same_bytes_again(tmp_path):
    """As many takes and poses as profile `open` tests on."""
    rng = np.random.default_rng(0)
    errors = rng.gamma(9, 10, (103, 1)) + rng.gamma(4, 7, (103, 147))
    clips = [("S", "A", str(take), "a", own.tolist()) for take, own in enumerate(errors)]
    run = finished(tmp_path, clips)
    first, second = (records.write(Record.of(run), tmp_path / name) for name in "ab")
    assert first.stat().st_size < 40_000
    assert first.read_bytes() == second.read_bytes()
    again = records.write(records.read(first), tmp_path / "c")
    assert again.read_bytes() == first.read_bytes()


def test_a_record_read_is_the_record_written(tmp_path):
    record = Record.of(finished(tmp_path, at_constant_level=True))
    same = records.read(records.write(record, tmp_path))
    assert (same.id, same.failed, same.spec) == ("0123456789ab", "", RUN)
    assert same.spec != replace(RUN, seed=4)
    assert same.at_constant_level
    assert same.environment["training_seconds"] == 1.23457
    assert same.curve["loss"].tolist() == [0.123457, 0.1]
    assert same.layout.name == "human36m"
    for name in "takes", "joints", "histogram":
        pd.testing.assert_frame_equal(getattr(same, name), getattr(record, name))


def fail(run: Finished, reason: str) -> None:
    for name in "clips.csv", "errors.npz":
        (run.path / name).unlink()
    (run.path / "failed.json").write_text(json.dumps({"reason": reason}))
    store.seal(run.path)


def test_a_failed_training_leaves_its_reason_and_its_curve(tmp_path):
    run = finished(tmp_path)
    (run.path / "history.csv").write_text("step,poses,loss\n1,300,inf\n")
    fail(run, "the loss is nan at step 3 of 9")
    record = records.read(records.write(Record.of(run), tmp_path))
    assert record.failed == "the loss is nan at step 3 of 9"
    assert record.curve["step"].tolist() == [1]
    assert record.spec == RUN


DAMAGE = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "a list": lambda text: "[1, 2]",
    "another file": lambda text: '{"cells": []}',
    "a later format": lambda text: text.replace('"format":1', '"format":2'),
    "another run's": lambda text: text.replace("0123456789ab", "ba9876543210"),
    "no settings": lambda text: text.replace('"poses"', '"pose"'),
    "an unknown layout": lambda text: text.replace("human36m", "dog"),
    "code": lambda text: text.replace('"a CPU"', "__import__('os')"),
    "a take too few": lambda text: text.replace(',["S9","Sit","1"]', ""),
    "poses too many": lambda text: text.replace("[1000,[1]]", "[1000,[2]]"),
    "a negative bin": lambda text: text.replace("[1000,[1]]", "[-1,[1]]"),
    "text for numbers": lambda text: text.replace("1200.0", '"much"'),
    "not a number": lambda text: text.replace("1200.0", "NaN", 1),
    "a missing error": lambda text: text.replace("2400.0", "null"),
    "a number too large": lambda text: text.replace("1200.0", "1" + 400 * "0", 1),
    "an error below zero": lambda text: text.replace("2400.0", "-2400.0"),
    "a take twice": lambda text: text.replace('["S9","Sit","1"]', '["S9","Walk","1"]'),
    "settings that cannot be compared": lambda text: text.replace('"seed":3', '"seed":{}'),
    "nested too deep": lambda text: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_or_foreign_file_is_told_in_one_sentence(tmp_path, damage):
    path = records.write(Record.of(finished(tmp_path)), tmp_path)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(RecordError, match=r"^expected the record of a run in .*0123456789ab\.json, found ") as error:
        records.read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(RecordError, match="No such file"):
        records.read(tmp_path / "none.json")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An empty store, and a repository without records."""
    monkeypatch.setattr(store, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    return tmp_path / "store", tmp_path / "repository" / "results" / "smoke" / "records"


def test_the_store_comes_before_what_is_published(folders):
    in_store, published = folders
    assert records.find([RUN], "smoke") == {}
    records.write(Record.of(finished(in_store / "other")), published)
    assert records.find([RUN], "smoke")[RUN].id == "0123456789ab", "made of other code or data, with these settings"
    assert records.find([RUN], "open") == {}
    assert records.find([replace(RUN, seed=4)], "smoke") == {}
    finished(in_store, name=RUN.id)
    assert records.find([RUN, replace(RUN, seed=4)], "smoke")[RUN].id == RUN.id
    (in_store / RUN.id / "clips.csv").unlink()
    assert records.find([RUN], "smoke")[RUN].id == "0123456789ab"


def test_publishing_writes_what_is_behind_the_tables_and_removes_the_rest(folders):
    in_store, published = folders
    other = replace(RUN, seed=4)
    for name, run in ("a" * 12, RUN), ("b" * 12, other):
        records.write(Record.of(finished(in_store / "other", name=name, run=run)), published)
    finished(in_store, name=RUN.id)
    [written] = records.publish([RUN, replace(RUN, seed=5)], "smoke")
    assert list(published.iterdir()) == [written] == [published / f"{RUN.id}.json"]


def test_of_two_published_records_with_equal_settings_none_is_preferred(folders):
    in_store, published = folders
    for name in "a" * 12, "b" * 12:
        records.write(Record.of(finished(in_store / "other", name=name)), published)
    with pytest.raises(RecordError, match=f"found {'a' * 12}.json and {'b' * 12}.json with the same settings"):
        records.find([RUN], "smoke")


def test_published_records_need_no_data(folders, monkeypatch):
    """Nor are they read where a run of the same settings is in the store, which might be one of other data."""

    def absent(*arguments, **options):
        raise DataError("none here")

    monkeypatch.setattr("mixste.data.load", absent)
    in_store, published = folders
    run = replace(RUN, data=Data("human36m", "gt", skeleton="human36m"))
    records.write(Record.of(finished(in_store / "other", run=run)), published)
    assert list(records.find([run], "smoke")) == [run]
    finished(in_store, run=run)
    assert records.find([run], "smoke")[run].id == "0123456789ab"


def test_a_run_that_starts_from_a_failed_one_has_failed(folders):
    in_store, published = folders
    tuned = replace(RUN, start=RUN)
    assert records.find([tuned], "smoke") == {}
    fail(finished(in_store, name=RUN.id), "the loss is nan")
    record = records.find([tuned], "smoke")[tuned]
    assert record.failed == f"run {RUN.id}, from which it starts, failed: the loss is nan"
    assert records.read(records.write(record, published)).spec == tuned


def test_a_damaged_record_is_told_and_left_out(folders, capsys):
    _, published = folders
    published.mkdir(parents=True)
    (published / "0123456789ab.json").write_text("{}")
    for _ in range(2):
        assert records.find([RUN], "smoke") == {}
    assert capsys.readouterr().out.count("0123456789ab.json is left out: expected the record of a run in ") == 1
