"""The clips of the site: how takes are chosen, and that the committed file has what the site says of it."""

import json

import numpy as np
import open_clips
import pandas as pd
import pytest

from mixste.data.sources.people import subjects
from mixste.skeleton import SKELETONS
from mixste.study import records, store
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES


def test_of_each_subject_three_takes_by_their_errors():
    class Recorded:
        takes = pd.DataFrame(
            [("A", "Walk", str(place), "exact", "MPJPE", error) for place, error in enumerate((30, 10, 50, 20, 40))]
            + [("A", "Walk", "0", "authors", "MPJPE", 5), ("A", "Walk", "0", "exact", "MPJVE", 1)]
            + [("B", "Run", "0", "exact", "MPJPE", 7)],
            columns=[*records.TAKE, "protocol", "metric", "value"],
        )

    takes = open_clips.chosen(Recorded)
    assert takes[:3] == [
        ("lowest", ("A", "Walk", "1")),
        ("median", ("A", "Walk", "0")),
        ("highest", ("A", "Walk", "2")),
    ]
    assert [take for _, take in takes[3:]] == 3 * [("B", "Run", "0")]


def test_the_committed_clips():
    """Three of each test subject, a few seconds each, relative to the hip, below a megabyte, of runs with records."""
    with np.load(open_clips.CLIPS) as content:
        arrays = {name: content[name] for name in content.files}
    about = json.loads(str(arrays.pop("about")))
    frames = [clip["frames"] for clip in about["clips"]]
    names = [clip["subject"] for clip in about["clips"]]
    assert {name: names.count(name) for name in names} == dict.fromkeys(subjects("test"), 3)
    assert len({(*map(str, clip.values()),) for clip in about["clips"]}) == len(names)
    assert max(frames) <= open_clips.SECONDS * open_clips.RATE
    assert {len(array) for array in arrays.values()} == {sum(frames)}
    skeleton = SKELETONS[about["skeleton"]]
    for name in arrays.keys() - {"keypoints"}:
        assert not arrays[name][:, skeleton.root].any()
        assert 1000 < np.ptp(arrays[name][..., 1]) < 3000, "millimetres, of a person"
    assert open_clips.CLIPS.stat().st_size < 1e6
    rows = {row.short: row.runs for row in TABLES["table1"].rows(PROFILES["open"])}
    for name, run in about["runs"].items():
        assert records.read(records.folder("open") / f"{run}.json").spec in rows[name]


def test_without_the_runs_nothing_is_written(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    monkeypatch.setenv("MIXSTE_DATA", str(tmp_path))
    monkeypatch.setattr(open_clips, "CLIPS", tmp_path / "clips.npz")
    with pytest.raises(store.NotHere, match="this needs the network of mixste, T=81"):
        open_clips.main()
    assert not open_clips.CLIPS.exists()
