"""The paper's three methods side by side: which records stand for them, and averages with their intervals."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mixste.study import methods, records, trainer
from mixste.study.profiles import PROFILES
from mixste.study.store import NotHere
from mixste.study.tables import TABLES

FRAMES = pd.Series([10, 30, 60])  # of three takes


def test_average_counts_every_frame_once_and_its_interval_spans_takes_and_seeds():
    line = methods.average(pd.DataFrame({0: [1.0, 2.0, 4.0], 1: [3.0, 4.0, 6.0]}), FRAMES)
    assert line["value"] == pytest.approx(0.1 * 2 + 0.3 * 3 + 0.6 * 5)
    assert line["seed_spread"] == pytest.approx(np.sqrt(2))  # of two seeds that differ by 2
    assert line["seeds"] == 2
    assert 1.0 <= line["low"] < line["value"] < line["high"] <= 6.0


def test_an_average_that_does_not_vary_between_takes_has_no_width():
    line = methods.average(pd.DataFrame({0: [2.0] * 3}), FRAMES)
    assert (line["low"], line["value"], line["high"]) == pytest.approx((2.0, 2.0, 2.0))
    assert np.isnan(line["seed_spread"])


def test_a_difference_is_between_the_seeds_that_both_methods_have():
    ours, theirs = pd.DataFrame({0: [1.0, 2, 4], 2: [5.0, 6, 8]}), pd.DataFrame({1: [0.0] * 3, 2: [4.0, 5, 7]})
    line = methods.average(ours - theirs, FRAMES)
    assert (line["value"], line["seeds"]) == (pytest.approx(1.0), 1)


def test_failed_trainings_are_left_out_and_a_method_without_any_other_is_named(monkeypatch):
    profile = PROFILES["open"]
    monkeypatch.setattr(trainer, "make_all", None)  # nothing is trained for a profile that needs a GPU
    monkeypatch.setattr(records, "find", lambda wanted, name: {})
    with pytest.raises(NotHere, match="no training of VideoPose3D, PoseFormer, MixSTE of profile open is in"):
        methods.compared(TABLES["table1"], profile)

    def find(wanted, name):
        return {run: SimpleNamespace(spec=run, failed="the loss is nan" if run.seed == 1 else "") for run in wanted}

    monkeypatch.setattr(records, "find", find)
    kept = methods.compared(TABLES["table1"], profile)
    assert list(kept) == ["VideoPose3D", "PoseFormer", "MixSTE"]
    assert [[record.spec.seed for record in own] for own in kept.values()] == [[0, 2]] * 3
