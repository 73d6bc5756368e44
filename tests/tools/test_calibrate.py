"""What is measured of the bands and ranges of bundled weights, by cases worked by hand."""

from types import SimpleNamespace

import calibrate
import numpy as np
import pandas as pd
import pytest

from mixste.io.weights import bundled
from mixste.wild.calibration import Bands, Calibration


def test_people_weigh_the_same_in_the_coverage():
    bands = Bands(("x",), ("cpn",), (0.05,) * 17, (0.0, *[2.0] * 16))  # radii of 10 cm
    inside, outside = (np.full((10, 17), size) for size in (0.09, 0.11))
    still = np.zeros(10)
    clips = [SimpleNamespace(subject=subject) for subject in ("a", "a", "a", "b")]
    measured = [(inside, still), (inside, still), (outside, still), (outside, still)]
    table = calibrate.coverage(bands, clips, measured, "cpn").set_index("subject")
    assert table["coverage, %"].to_dict() == {"a": pytest.approx(66.67), "b": 0, "all": pytest.approx(33.33, abs=0.01)}
    assert (table["radius, mm"] == 100).all()


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
    np.testing.assert_allclose(whole[[*calibrate.CALIBRATED]], 90, atol=6)
