"""The paper's three methods side by side: which records stand for them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

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
    assert methods.named("MixSTE", kept) == f"MixSTE\n2 of 3 seeds, {AT_LEVEL}"
    note = f"2 of 3 seeds, run mixste failed: the loss is nan; {AT_LEVEL}"
    assert methods.about("MixSTE", kept)["note"] == note
    other = "2 of 3 seeds, run poseformer failed: the loss is nan"
    assert methods.about("PoseFormer", kept, against="MixSTE")["note"] == "; ".join(
        [other, *(f"MixSTE: {fault}" for fault in note.split("; "))]
    )
