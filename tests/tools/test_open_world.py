"""The measurements of people in the world: of poses that are true, and of such as are moved by known amounts."""

import numpy as np
import open_world
import pandas as pd
import pytest
from scipy.spatial.transform import Rotation

from mixste.data.sources.synthetic import perform
from mixste.data.virtual import film
from mixste.io.weights import bundled_file


@pytest.fixture(scope="module")
def clip():
    clips = film(perform("S1", "Walking", "1"), subject="S1", action="Walking", take="1", fps=50.0)
    return next(clip for clip in clips if clip.camera == "C2")


def test_the_true_vertical_is_perpendicular_to_where_the_feet_stand(clip):
    feet = clip.poses[:, open_world.FEET].astype(np.float64)
    heights = feet @ open_world.vertical_of(clip)
    lowest = heights < heights.min() + 0.02
    assert lowest.sum() > 50  # most of both feet's stances, on a path of metres, are within two centimetres
    assert np.ptp(feet[lowest], axis=0).max() > 1


def test_true_poses_have_small_errors(clip):
    values = open_world.errors_of(clip, clip.poses - clip.poses[:, :1], 1.0)
    assert values["walked, m"] > 2
    assert values["path error, %"] < 2
    assert values["tilt, degrees"] < 4
    assert values["skating, cm/s"] < 2
    assert values["MPJPE as lifted, mm"] == pytest.approx(0, abs=1e-3)


def test_a_path_is_compared_after_the_best_rotation():
    path = np.random.default_rng(0).normal(size=(50, 3))
    turned = Rotation.from_euler("xyz", [20, -40, 70], degrees=True).apply(path) + np.array([1, 2, 3])
    np.testing.assert_allclose(open_world._moved_onto(turned, path, turn=True), path, atol=1e-9)
    np.testing.assert_allclose(open_world._moved_onto(path + 5, path, turn=False), path, atol=1e-9)


def test_rows_are_medians_over_clips_and_errors_averages_over_frames():
    errors = pd.DataFrame({"subject": ["a", "a", "b"], "walked, m": [1.0, 3, 5], "frames": [100, 300, 100]})
    errors[["MPJPE as lifted, mm", "MPJPE, mm"]] = [[40.0, 30], [80, 70], [50, 50]]
    first, _, everyone = open_world.rows_of(errors, {"keypoints": "gt"})
    assert (first["subject"], first["walked, m"], first["walks"], first["MPJPE, mm"]) == ("a", 2, 1, 60)
    assert (everyone["subject"], everyone["walked, m"], everyone["clips"], everyone["MPJPE, mm"]) == ("all", 3, 3, 58)


@pytest.mark.parametrize("name", pd.read_csv(open_world.RESULT)["weights"].unique())
def test_the_card_shows_what_was_measured(name):
    table = open_world.markdown(pd.read_csv(open_world.RESULT).query("weights == @name"))
    assert table in bundled_file(name).with_suffix(".md").read_text(encoding="utf-8")
