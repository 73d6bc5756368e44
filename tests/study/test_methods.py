"""The paper's three methods side by side: which records stand for them."""

from types import SimpleNamespace

import pytest

from mixste.study import methods, records, trainer
from mixste.study.profiles import PROFILES
from mixste.study.store import NotHere
from mixste.study.tables import TABLES


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
