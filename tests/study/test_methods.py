"""The paper's three methods side by side: which records stand for them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mixste.skeleton import human36m
from mixste.study import methods, records, trainer
from mixste.study.profiles import PROFILES
from mixste.study.report import AT_LEVEL
from mixste.study.store import NotHere
from mixste.study.tables import TABLES


def test_failed_trainings_are_left_out_and_a_method_without_any_other_is_named(monkeypatch):
    profile = replace(PROFILES["open"], networks={})  # three seeds for all networks
    monkeypatch.setattr(trainer, "make_all", None)  # nothing is trained for a profile that needs a GPU
    monkeypatch.setattr(records, "find", lambda wanted, name: {})
    with pytest.raises(NotHere, match="no training of VideoPose3D, PoseFormer, MixSTE of profile open is in"):
        methods.compared(TABLES["table1"], profile)

    def find(wanted, name):
        return {run: record(run) for run in wanted}

    def record(run):
        failed = "the loss is nan" if run.seed == 1 else ""
        return SimpleNamespace(id=run.model, spec=run, failed=failed, at_constant_level=run.model == "mixste")

    monkeypatch.setattr(records, "find", find)
    kept = methods.compared(TABLES["table1"], profile)
    assert list(kept) == ["VideoPose3D", "PoseFormer", "MixSTE"]
    assert [[record.spec.seed for record in own] for own in kept.values()] == [[0, 2]] * 3
    assert methods.named("MixSTE", kept) == f"MixSTE\n1 of 3 seeds failed, {AT_LEVEL}"
    note = f"2 of 3 seeds, run mixste failed: the loss is nan; {AT_LEVEL}"
    assert methods.about("MixSTE", kept)["note"] == note
    other = "2 of 3 seeds, run poseformer failed: the loss is nan"
    assert methods.about("PoseFormer", kept, against="MixSTE")["note"] == "; ".join(
        [other, *(f"MixSTE: {fault}" for fault in note.split("; "))]
    )


def test_methods_that_are_not_trained_yet_are_left_out_where_that_is_asked_for(monkeypatch):
    """Of MixSTE and VideoPose3D, one of three seeds is trained each; nothing of PoseFormer is."""
    profile = replace(PROFILES["open"], networks={})

    def find(wanted, name):
        there = [run for run in wanted if run.seed == 1 and run.model != "poseformer"]
        return {run: SimpleNamespace(id=run.model, spec=run, failed="", at_constant_level=False) for run in there}

    monkeypatch.setattr(records, "find", find)
    with pytest.raises(NotHere, match="no training of PoseFormer of profile open"):
        methods.compared(TABLES["table1"], profile)
    kept = methods.compared(TABLES["table1"], profile, partial=True)
    assert list(kept) == ["VideoPose3D", "MixSTE"]
    assert methods.named("MixSTE", kept) == "MixSTE\n1 of 3 seeds trained"
    assert methods.about("MixSTE", kept)["note"] == "not trained here: 2 of 3 seeds"
    monkeypatch.setattr(records, "find", lambda wanted, name: {})
    with pytest.raises(NotHere, match="VideoPose3D, PoseFormer, MixSTE"):
        methods.compared(TABLES["table1"], profile, partial=True)


def test_the_variance_among_joints_is_the_mean_of_its_linear_approximation():
    """VAR. of two takes of one and three poses; moving one take's error moves the value as its derivative says."""
    errors = np.array([[10.0, 30.0, 50.0], [20.0, 40.0, 90.0]])  # of three joints
    takes = pd.MultiIndex.from_tuples([("S1", "walk", "1"), ("S2", "walk", "1")])

    def record(joints):
        frames = pd.Series([1, 3], takes)
        return SimpleNamespace(spec=SimpleNamespace(seed=0), joints=pd.DataFrame(joints, takes), frames=frames)

    def value(joints):
        values = methods.variance_by_take([record(joints)], [[0], [1], [2]])
        return values, np.average(values[0], weights=[1, 3])

    values, mean = value(errors)
    assert mean == pytest.approx(np.var([17.5, 37.5, 80.0]) / 10)
    step = 1e-3
    _, moved = value(np.add(errors, [[0, 0, 0], [0, 0, step]]))
    slope = (moved - mean) / step  # of the second take's error of the last joint
    assert slope == pytest.approx(2 * (80 - 45) / 3 / 10 * 3 / 4, rel=1e-4)
    assert values[0].iloc[1] - mean == pytest.approx(2 / 30 * np.dot([17.5 - 45, 37.5 - 45, 80 - 45], [2.5, 2.5, 10]))


def test_categories_merge_left_and_right():
    categories = methods.categories(human36m)
    assert len(categories) == 11
    assert [human36m.joints[joint] for joint in categories["Wrist"]] == ["LWrist", "RWrist"]
    assert categories["Hip (root)"] == [human36m.root]
    assert sorted(np.concatenate(list(categories.values()))) == list(range(17))
