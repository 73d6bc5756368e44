"""What is measured of the bands and ranges of bundled weights, by cases worked by hand."""

from types import SimpleNamespace

import calibrate
import numpy as np
import pandas as pd
import pytest

from mixste.io.weights import bundled
from mixste.wild.calibration import Calibration


def test_people_weigh_the_same_in_the_coverage():
    radii = np.full((10, 17), 0.1)
    inside, outside = (np.full((10, 17), size) for size in (0.09, 0.11))
    pairs = [(errors, radii) for errors in (inside, inside, outside, outside)]
    table = calibrate.coverage(pairs, ["a", "a", "a", "b"], "cpn").set_index("subject")
    assert table["coverage, %"].to_dict() == {"a": pytest.approx(66.67), "b": 0, "all": pytest.approx(33.33, abs=0.01)}
    assert (table["radius, mm"] == 100).all()


def test_bands_of_the_real_clip_are_measured_by_camera(monkeypatch):
    """Of two cameras, one sees every joint where the network puts it, the other sees them 10 cm to the right."""
    lifting = SimpleNamespace(poses=np.zeros((4, 17, 3)), bands=np.full((4, 17), 0.05))
    monkeypatch.setattr(calibrate, "lift_clip", lambda clip, model, **options: lifting)
    monkeypatch.setattr(calibrate.open_weights, "mediapipe_keypoints", lambda film: film)
    views = [
        SimpleNamespace(camera=name, view="", film="", frames=np.arange(1, 4), poses=np.full((3, 17, 3), [right, 0, 0]))
        for name, right in (("left", 0.0), ("right", 0.1))
    ]
    monkeypatch.setattr(calibrate.open_weights, "real_views", lambda demo: views)
    for table, kind in zip(calibrate.on_real_clip(None, None), ("openpose", "mediapipe"), strict=True):
        assert dict(zip(table["subject"], table["coverage, %"], strict=True)) == {"left": 100, "right": 0, "all": 50}
        assert set(table["keypoints"]) == {f"{kind}, real clip"}


def test_errors_of_a_network_trained_on_fewer_people_are_scaled():
    clips = [SimpleNamespace(subject=subject) for subject in ("cmu_02", "cmu_14", "hdm_bd")]
    fewer = [(np.full((4, 17), error), np.full(4, disagreement)) for error, disagreement in ((2, 3), (5, 7), (4, 3))]
    validated = [(errors * 0.8, disagreement / 3) for errors, disagreement in (fewer[0], fewer[2])]
    measured, ratio = calibrate.scaled(fewer, validated, clips)
    assert ratio == pytest.approx(0.8)
    assert [errors[0, 0] for errors, _ in measured] == pytest.approx([1.6, 4, 3.2])
    assert [disagreement[0] for _, disagreement in measured] == pytest.approx([1, 7 / 3, 1])


def test_ranges_are_those_of_nearly_all_windows():
    windows = np.zeros((1000, 5, 17, 2))
    heights = np.linspace(0.2, 1.2, 1000)
    windows[:, :, 10, 1] = -heights[:, None] / 2
    windows[:, :, 3, 1] = heights[:, None] / 2
    windows[::2, 2, 13, 0] = 0.7
    windows[5, 0, 16, 0] = 3  # one window's mistake
    limits = calibrate.ranges(windows, (12, 100))
    assert (limits.shortest, limits.median, limits.tallest) == pytest.approx((0.2, 0.7, 1.2), abs=0.01)
    assert limits.reach == pytest.approx(0.7, abs=0.01)
    assert (limits.slowest, limits.fastest) == (12, 100)


@pytest.mark.parametrize("name", [name for name, path in bundled().items() if Calibration.beside(path).bands])
def test_the_card_shows_what_was_measured(name):
    table = pd.read_csv(calibrate.RESULT).query("weights == @name")
    bands = Calibration.beside(bundled()[name]).bands
    card = bundled()[name].with_suffix(".md").read_text(encoding="utf-8")
    assert calibrate.markdown(table, bands) in card
    whole = table.query("subject == 'all'").set_index("keypoints")["coverage, %"]
    few = len(bands.people) < 8
    np.testing.assert_allclose(whole[[*calibrate.CALIBRATED]], 90, atol=6 if few else 2)
