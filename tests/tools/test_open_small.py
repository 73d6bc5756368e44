"""The bundled weights are those that the command describes, and their card shows the measured errors."""

import numpy as np
import open_small
import pandas as pd

from mixste import MixSTE
from mixste.data import Clip, PoseDataset
from mixste.skeleton import human36m


def test_half_rate_keeps_every_second_frame(monkeypatch):
    poses = np.arange(5 * 17 * 3, dtype=np.float32).reshape(5, 17, 3) / 50
    clip = Clip(open_small.TRAINED[0], "Walking", "C1", 50, (1000, 1000), poses[..., :2], poses)
    dataset = PoseDataset("toy", "toy", human36m, [clip], [], "none")
    monkeypatch.setattr(open_small, "load", lambda source, keypoints: dataset)
    *whole, slower = open_small.training_clips()[: len(open_small.KEYPOINTS) + 1]
    assert {one.fps for one in whole} == {50}
    assert slower.fps == 25
    np.testing.assert_array_equal(slower.poses, poses[[0, 2, 4]])
    np.testing.assert_array_equal(slower.keypoints, poses[[0, 2, 4], :, :2])


def test_the_table_averages_over_frames():
    rows = [("S1", "MPJPE", 40.0, 300), ("S2", "MPJPE", 80.0, 100), ("S1", "P-MPJPE", 30.0, 300)]
    found = pd.DataFrame(rows, columns=["subject", "metric", "value", "frames"])
    lines = open_small.table(found.assign(source="here", keypoints="gt", fps=50)).splitlines()
    assert lines[2:] == ["| here | gt | 50 | 50.0 | 30.0 |"]


def test_the_card_shows_what_was_measured():
    measured = pd.read_csv(open_small.BUNDLED.with_suffix(".csv"))
    assert set(measured["source"]) == {"open-people", "open-styles", "synthetic"}
    card = open_small.BUNDLED.with_suffix(".md").read_text(encoding="utf-8")
    assert open_small.table(measured) in card


def test_the_weights_are_of_the_size_that_the_command_trains():
    model = MixSTE.from_pretrained("open-small")
    assert {name: model.options[name] for name in open_small.SIZES} == open_small.SIZES
    assert open_small.BUNDLED.stat().st_size < 2**23
