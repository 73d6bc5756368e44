"""Made mistakes are counted, clean motion is not blamed."""

import json

import numpy as np
import pytest
from test_outputs import a_lifted

from mixste.data import load
from mixste.skeleton import human36m
from mixste.wild.outputs import write_json, write_npz
from mixste.wild.quality import outside_training, quality, swaps


@pytest.fixture(scope="module")
def clips():
    return load("synthetic").test[::17]


def test_clean_motion_is_not_suspected_at_any_rate(clips):
    assert len(clips) > 5
    for clip in clips:
        for every in (1, 2, 4):
            assert not swaps(clip.keypoints[::every]).any()


def test_a_long_clip_in_parts_is_judged_as_a_whole(monkeypatch):
    keypoints = np.random.default_rng(0).uniform(0, 1000, (60, 17, 2))
    keypoints[20:30] = keypoints[19, human36m.mirror]
    whole = swaps(keypoints)
    assert whole[20]
    for part in (1, 7, 20):
        monkeypatch.setattr("mixste.wild.quality.PART", part)
        np.testing.assert_array_equal(swaps(keypoints), whole)


def test_swaps_are_found_where_they_are(clips):
    """Of a person seen from the front or behind, whose sides are apart: of the legs alone, and of the whole body."""
    legs = np.arange(17)
    legs[[1, 2, 3, 4, 5, 6]] = [4, 5, 6, 1, 2, 3]
    tried = 0
    for clip in clips:
        keypoints = clip.keypoints.copy()
        if np.abs(keypoints[18:42, 2] - keypoints[18:42, 5]).mean() < 0.08 * np.ptp(keypoints[0, :, 1]):
            continue
        tried += 1
        for order in (legs, human36m.mirror):
            swapped = keypoints.copy()
            swapped[20:30], swapped[40] = keypoints[20:30, order], keypoints[40, order]
            assert np.flatnonzero(swaps(swapped[:60])).tolist() == [20, 30, 40, 41]
    assert tried > 2


def test_joints_far_from_the_middle_are_outside():
    """Half an image is one unit: 0.93 of 500 pixels."""
    keypoints = np.tile([500.0, 500.0], (4, 17, 1))
    keypoints[:, 10, 1] -= 400  # a person of 400 pixels
    keypoints[1, 13, 0] = 500 + 464
    keypoints[2, 13, 0] = 500 + 466
    keypoints[3, 3, 1] = 500 + 466
    assert outside_training(keypoints, (1000, 1000)).tolist() == [False, False, True, True]


def test_the_words_say_what_the_numbers_do():
    still = np.tile(np.linspace(300, 700, 17)[:, None] * [1, 1], (200, 1, 1))
    filled = np.zeros((200, 17), dtype=bool)
    good = quality(still, filled, (1000, 1000), 50.0)
    assert (good["filled"], good["outside"], good["swaps"]) == (0, 0, [])
    assert good["words"] == (
        "none of the keypoints filled in; none of the frames farther from the middle of the image than in training; "
        "no swap of left and right suspected"
    )
    filled[:34] = True
    still[100] = still[100, human36m.mirror]
    bad = quality(still, filled, (1000, 1000), 12.0)
    assert bad["words"].startswith("17 % of the keypoints filled in; ")
    assert bad["words"].endswith("left and right may swap at 2 frames (100, 101); 12 frames/s, 25 to 50 in training")


def test_it_stands_in_the_files(tmp_path):
    lifted = a_lifted()
    write_json(lifted, tmp_path / "walk.json")
    assert json.loads((tmp_path / "walk.json").read_text())["quality"] == lifted.quality
    write_npz(lifted, tmp_path / "walk.npz")
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as file:
        assert str(file["quality"]) == lifted.quality["words"]
        assert file["swaps"].tolist() == lifted.quality["swaps"]
