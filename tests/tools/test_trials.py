"""A trial of a recipe: its line says what was trained, whether it held, and the errors on validation subjects."""

import math

import pytest
from trials import trial

from mixste import evaluate
from mixste.study.run import Data

SETTINGS = {
    "network": "mixste",
    "frames": 3,
    "poses": 900,
    "seed": 0,
    "options": {"dim": 8, "depth": 1, "heads": 2},
    "recipe": {"learning_rate": 1e-3, "batch_frames": 45, "measured_bodies": False},
}


@pytest.fixture(scope="module")
def data():
    return Data("synthetic", "cpn", subjects=("S5", "S6"), actions=("Walking",), split="validation")


def test_a_trial_that_held_is_judged_by_subject(data):
    line = trial(SETTINGS, data, math.inf)
    assert (line["state"], line["seed"], line["frames"]) == ("held", 0, 3)
    assert line["recipe"] == '{"learning_rate": 0.001, "batch_frames": 45, "measured_bodies": false}'
    assert 100 < line["mpjpe_validation"] < 2000
    assert line["p_mpjpe_validation"] < line["mpjpe_validation"]
    assert len(line["curve"].split()) == 20
    assert trial(SETTINGS, data, math.inf)["curve"] == line["curve"]


def test_a_trial_that_does_not_end_in_time_has_its_curve_so_far(data):
    line = trial(SETTINGS, data, 0.0)
    assert line["state"] == "unfinished"
    assert len(line["curve"].split()) == 1
    assert "mpjpe_validation" not in line


def test_a_trial_that_is_not_finite_says_so(data, monkeypatch):
    monkeypatch.setattr(evaluate, "evaluate", lambda *_, **__: pytest.fail("nothing to judge"))
    line = trial(SETTINGS | {"recipe": SETTINGS["recipe"] | {"learning_rate": 1e30}}, data, math.inf)
    assert line["state"] in ("not finite", "collapsed")
