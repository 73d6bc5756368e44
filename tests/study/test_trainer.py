"""A run is made once, taken up again after an interruption, and kept with its reason where it fails."""

import fcntl
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

import mixste.train
from mixste import evaluate
from mixste.cli import list_runs
from mixste.io import weights
from mixste.networks import NETWORKS
from mixste.study import records, report, store, trainer
from mixste.study.profiles import PROFILES
from mixste.study.records import Record, by_take
from mixste.study.run import Data, Run
from mixste.study.store import RunError
from mixste.study.tables import Row, Table, runs_of
from mixste.study.trainer import make
from mixste.train import AUTHORS

DATA = Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking", "Waiting"), test_cameras=1)


RUN = Run(
    DATA,
    frames=9,
    poses=600,
    seed=0,
    options=(("depth", 1), ("dim", 8), ("heads", 2)),
    recipe=replace(AUTHORS, batch_frames=90),
)


def test_a_run_is_made_once_and_holds_what_it_says(folder, monkeypatch):
    done = make(RUN)
    spec = json.loads((done.path / "spec.json").read_text())
    assert (spec["frames"], spec["data"]["source"], spec["recipe"]["batch_frames"]) == (9, "synthetic", 90)
    assert done.history["poses"].iloc[-1] >= 600

    # Its errors are those of its weights, evaluated again.
    dataset = DATA.load()
    table = evaluate.evaluate(done.model(), dataset.test)
    stored = done.clips[done.clips["protocol"] == "authors"].reset_index(drop=True)
    assert stored["metric"].tolist() == table["metric"].tolist()
    np.testing.assert_allclose(stored["value"], table["value"], rtol=1e-4)
    exact = evaluate.evaluate(done.model(), dataset.test, "exact")
    mean = np.average(exact["value"][exact["metric"] == "MPJPE"], weights=exact["frames"][exact["metric"] == "MPJPE"])
    assert done.joint_errors.shape == (sum(map(len, dataset.test)), 17)
    assert done.joint_errors.mean() == pytest.approx(mean, rel=1e-3)

    monkeypatch.setattr(trainer, "_make", None)  # a second making would fail
    assert make(RUN) == done
    assert not list(folder.glob("*.part"))


def test_unseen_takes_are_measured_and_told_apart(folder, monkeypatch):
    """The errors of the test stay as they are, and those of the unseen takes stand beside them."""
    network, dataset = RUN.build(), DATA.load()
    keeping = replace(dataset, train=dataset.train[2:], unseen_takes=dataset.train[:2])
    table, joint, mpjpe = trainer.errors_of(network, keeping, lambda frames: None)
    of_test = table[table["split"] == "test"]
    alone, same_joint, same_mpjpe = trainer.errors_of(network, replace(keeping, unseen_takes=[]), lambda frames: None)
    pd.testing.assert_frame_equal(of_test, alone)
    np.testing.assert_array_equal(joint, same_joint)
    assert mpjpe == same_mpjpe
    for protocol in ("authors", "exact"):
        unseen = table.query(f"split == 'unseen_takes' and protocol == '{protocol}'").drop(
            columns=["split", "protocol"]
        )
        pd.testing.assert_frame_equal(
            unseen, evaluate.evaluate(network, dataset.train[:2], protocol).round({"value": 4})
        )

    monkeypatch.setattr(Data, "load", lambda data: keeping)
    done = make(replace(RUN, seed=1))
    assert set(done.clips["subject"]) == {"S9"}
    assert set(done.unseen_takes["subject"]) == {"S1"}
    record = Record.of(done)
    assert set(record.takes["subject"]) == {"S9"}
    pd.testing.assert_frame_equal(record.unseen_takes, by_take(done.unseen_takes), atol=1e-3)


def test_the_error_along_the_way_is_that_of_an_evaluation():
    dataset, model = DATA.load(), RUN.build()
    half = np.arange(len(dataset.test[0])) % 2 == 0
    dataset = replace(dataset, test=[replace(dataset.test[0], valid=half), *dataset.test[1:]])
    table = evaluate.evaluate(model, dataset.test, "authors")
    assert trainer.curve_mpjpe(model, dataset) == pytest.approx(evaluate.average(table)["MPJPE"], rel=1e-12)


def test_a_run_killed_on_its_last_steps_is_not_trained_again(folder, monkeypatch):
    """With all files sealed, only to be renamed; or one step earlier, when the state of its training is still there."""

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(mixste.train, "SAVE_SECONDS", 0.0)
    run = replace(RUN, test_curve=True)
    for step in ("seal", "_rename"):
        with monkeypatch.context() as patch:
            patch.setattr(trainer, step, killed)
            with pytest.raises(KeyboardInterrupt):
                make(run)
        assert not (folder / run.id).exists()
    monkeypatch.setattr(trainer, "train", None)  # a training would fail
    done = make(run)
    assert done.environment["resumed_at"] == 1
    assert {path.name for path in done.path.iterdir()} == {"manifest.json"} | store.FILES | store.WEIGHTS


def test_a_reference_is_a_run_like_others_and_every_run_says_how_far_above_it_the_network_is(folder):
    constant = Run(DATA, frames=1, poses=0, seed=0, model="constant_pose")
    done, network = make(constant), make(RUN)
    errors = {run.id: evaluate.average(run.clips.query("protocol == 'exact'"))["MPJPE"] for run in (done, network)}
    about = network.environment
    assert about["mpjpe"] == pytest.approx(errors[RUN.id], abs=1e-3)
    assert about["constant_pose_mpjpe"] == pytest.approx(errors[constant.id], abs=1e-3)
    assert about["at_constant_level"] is True, "seven steps teach next to nothing"
    assert "at_constant_level" not in done.environment
    assert done.history["poses"].tolist() == [sum(map(len, DATA.load().train))]
    assert done.joint_errors.shape == network.joint_errors.shape


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_whole_and_is_finished_by_the_next(folder):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=make, args=(replace(RUN, poses=10**7),))
    process.start()
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(folder.glob("*.part")), "it was killed at work"
    assert not list(folder.glob("*/manifest.json"))
    assert make(RUN).model() is not None


@pytest.fixture
def other_code(monkeypatch):
    """As if the code that computes errors had changed since."""

    def change():
        for module in (store, trainer):
            monkeypatch.setattr(module, "code_of_errors", lambda run: "other code")

    return change


def test_errors_that_other_code_computed_are_computed_again_without_training(folder, other_code, monkeypatch):
    before = make(RUN)
    weights, clips = before.file("weights.safetensors").read_bytes(), before.clips
    spoiled = before.path / "clips.csv"  # as that code might have
    spoiled.write_text(spoiled.read_text().replace("MPJPE", "OLD"))
    store.seal(before.path)
    assert not store.outdated(RUN)
    other_code()
    assert store.outdated(RUN)
    assert store.listing()["state"].tolist() == ["outdated"]
    assert trainer.lacking([RUN]) == [], "nothing is to be trained"
    monkeypatch.setattr(trainer, "_make", None)
    assert not trainer.make_all([RUN])
    after = trainer.Finished(before.path)
    assert after.clips.equals(clips)
    assert after.file("weights.safetensors").read_bytes() == weights
    assert after.environment["code_of_errors"] == "other code"
    assert {"training_seconds", "resumed_at", "at_constant_level"} <= after.environment.keys()
    assert store.listing()["state"].tolist() == ["finished"]
    assert not list(folder.glob("*.part"))


def test_without_weights_errors_stay_as_they_are_and_that_is_said(folder, other_code):
    done = make(RUN)
    (done.path / "weights.safetensors").unlink()
    store.seal(done.path)
    other_code()
    other = replace(RUN, seed=1)
    for call in (lambda: make(RUN), lambda: trainer.make_all([RUN, other], jobs=1)):
        with pytest.raises(
            RunError, match=rf"run {RUN.id} is here without its weights.* computed by other code: unpack"
        ):
            call()
    assert store.is_whole(done.path)
    assert store.is_whole(folder / other.id), "the others are made"


@pytest.mark.parametrize("step", ["_write_errors", "seal", "remove", "_rename"])
def test_a_process_that_ends_while_errors_are_renewed_loses_no_training(folder, other_code, monkeypatch, step):
    weights = make(RUN).file("weights.safetensors").read_bytes()
    other_code()

    def killed(path, *arguments):
        if step != "remove" or path.suffix != ".part":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, step, killed)
        with pytest.raises(KeyboardInterrupt):
            make(RUN)
    monkeypatch.setattr(trainer, "train", None)  # a training would fail
    done = make(RUN)
    assert done.environment["code_of_errors"] == "other code"
    assert done.file("weights.safetensors").read_bytes() == weights
    assert not list(folder.glob("*.part"))


BAD = replace(RUN, recipe=replace(RUN.recipe, learning_rate=1e30, scaled_gradient=False))


def test_a_training_that_fails_is_recorded_and_takes_no_other_along(folder, monkeypatch):
    """Nor is it tried again unasked; a run that starts from it fails with it."""
    tuned, sound = replace(RUN, seed=2, start=BAD), replace(RUN, seed=1)
    said = trainer.make_all([BAD, tuned, sound], jobs=1)
    assert said.startswith(
        f"2 of 3 runs failed, and tables leave them out: {BAD.id} (mixste, T=9, synthetic, seed 0): "
    )
    assert (store.failure(BAD), store.failure(sound)) == ("the loss is nan at step 2 of 7", "")
    assert store.failure(tuned) == f"run {BAD.id}, from which it starts, failed: the loss is nan at step 2 of 7"
    assert {path.name for path in (folder / BAD.id).iterdir()} == store.FAILED | {"manifest.json"}
    assert pd.read_csv(folder / BAD.id / "history.csv")["step"].tolist() == [1], "the curve up to there"
    assert store.listing().set_index("run")["state"].to_dict() == {BAD.id: "failed", sound.id: "finished"}
    assert not list(folder.glob("*.part"))

    monkeypatch.setattr(trainer, "_make", None)  # a training would fail
    assert trainer.make_all([BAD, tuned, sound]) == said
    with pytest.raises(RunError, match=rf"run {BAD.id} .* failed: the loss is nan .*; `mixste train --retry-failed`"):
        make(BAD)
    trainer.forget_failed([BAD, tuned, sound])
    assert trainer.lacking([BAD, tuned, sound]) == [BAD, tuned]


FADING = """
import torch
from mixste.network import Network

class Fading(Network):
    name = "fading"

    def __init__(self, frames=1, joints=17, steps=0):
        super().__init__(frames=frames, joints=joints, steps=steps)
        self.layer = torch.nn.Linear(2 * joints, 3 * joints)
        self.calls = 0

    def forward(self, keypoints):
        self.calls += self.training
        if self.options["steps"] < self.calls:
            keypoints = 0 * keypoints
        return self.layer(keypoints.flatten(-2)).unflatten(-1, (self.joints, 3))
"""


def test_a_training_that_collapses_is_recorded_with_its_curve_and_counted_in_the_table(tmp_path, monkeypatch, capsys):
    """Of two seeds, one sees nothing any more after 300 steps of 1000."""
    (tmp_path / "fading.py").write_text(FADING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(store, "ROOT", tmp_path)
    recipe = replace(AUTHORS, batch_frames=16, learning_rate=1e-2, loss=(("mpjpe", 1.0),), scaled_gradient=False)
    bad, sound = (
        Run(DATA, 1, 16_000, seed, "fading:Fading", (("steps", steps),), recipe)
        for seed, steps in enumerate((300, 10**6))
    )
    try:
        said = trainer.make_all([bad, sound], jobs=1)
        why = store.failure(bad)
        assert re.fullmatch(r"collapsed at step 300 of 1000 \(loss 0\.\d+ over 300 steps, constant pose 0\.\d+\)", why)
        assert said.startswith("1 of 2 runs failed, and tables leave them out")
        assert why in said
        list_runs()
        listed = capsys.readouterr().out.splitlines()
        assert f"run {bad.id} failed: {why}" in listed
        assert "1 failed" in listed[-1]

        [path] = records.publish([bad], "smoke")
        curve = records.read(path).curve
        assert curve["step"].tolist() == [50 * row for row in range(1, 13)]
        assert curve["loss"][6:].min() > curve["loss"][5]
        table = Table("toys", "toys", "toys", "toys", lambda profile: [], metrics=("MPJPE",), averages_only=True)
        values = report.measure(table, PROFILES["smoke"], [Row("toy", (bad, sound))])
        assert values["note"].tolist() == [f"1 of 2 seeds, run {bad.id} failed: {why}"]
        assert (values["seeds"].tolist(), values["runs"].tolist()) == ([1], [sound.id])

        monkeypatch.setattr(trainer, "train", None)  # a training would fail
        assert trainer.make_all([bad, sound], jobs=1) == said
        trainer.forget_failed([bad, sound])
        with pytest.raises(TypeError, match="not callable"):
            trainer.make_all([bad, sound], jobs=1)
    finally:
        NETWORKS.pop("fading", None)
        sys.modules.pop("fading", None)


def test_a_network_whose_poses_are_not_finite_has_failed(folder, monkeypatch):
    """After the last step there is no loss that would tell."""

    def train(model, *arguments, **options):
        next(model.parameters()).data.fill_(np.nan)

    monkeypatch.setattr(trainer, "train", train)
    trainer.make_all([RUN])
    assert store.failure(RUN) == "the poses that it lifts are not finite"
    assert store.listing()["state"].tolist() == ["failed"]


class Deadly(Run):
    """A run at which the system kills its process."""

    def build(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_killed_at_work_is_told_and_the_other_runs_are_made(folder):
    deadly = Deadly(**{field.name: getattr(RUN, field.name) for field in fields(RUN)})
    others = [replace(RUN, seed=seed) for seed in (1, 2, 3)]
    with pytest.raises(
        RunError, match=rf"the process that trained run {RUN.id} \(mixste, T=9, .* was ended from outside"
    ):
        trainer.make_all([deadly, *others], jobs=2)
    assert trainer.lacking([RUN, *others]) == [RUN]
    assert trainer.make_all([RUN, *others]) == "", "nothing keeps it from being made"


def test_the_first_seed_of_every_row_is_trained_before_the_second_of_any(folder):
    """A run comes after the one it starts from."""
    row, other = [replace(RUN, seed=seed) for seed in (0, 1)], [replace(RUN, seed=seed, frames=3) for seed in (0, 1)]
    tuned = [replace(run, frames=1, start=run) for run in row]
    first, second = zip(row, tuned, other, strict=True)
    rows = [Row(str(number), tuple(runs)) for number, runs in enumerate((tuned, other))]
    assert trainer.lacking(runs_of(rows)) == [*first, *second]


@pytest.mark.slow
def test_after_the_minutes_nothing_trains_any_more_and_nothing_is_begun(folder):
    endless, other = replace(RUN, poses=10**8), replace(RUN, seed=1)
    began = time.monotonic()
    assert trainer.make_all([endless, other], jobs=1, end=began + 15) == ""
    assert 15 <= time.monotonic() - began < 30
    assert [path.name for path in folder.glob("*.part")] == [f"{endless.id}.part"]
    assert trainer.lacking([endless, other]) == [endless, other]
    time.sleep(1)
    assert all(_free(path) for path in folder.glob("*.lock"))
    assert trainer.make_all([other], jobs=1, end=began + 600) == ""
    assert trainer.lacking([endless, other]) == [endless]


@pytest.mark.parametrize(
    ("gpu", "there", "missing"), [(True, False, 1), (True, False, 0), (True, True, 1), (False, False, 1)]
)
def test_trainings_for_a_gpu_that_is_not_here_are_announced(gpu, there, missing, monkeypatch, capsys):
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: there)
    trainer.warn_without_gpu(replace(PROFILES["smoke"], gpu=gpu), missing)
    said = capsys.readouterr().err
    assert ("profile smoke is for a GPU" in said) == (gpu and not there and missing > 0)


def test_fine_tuning_begins_with_the_other_runs_weights(folder):
    tuned = replace(RUN, seed=1, start=RUN, recipe=replace(RUN.recipe, learning_rate=1e-12))
    done = make(tuned)
    begun, ended = make(RUN).model().state_dict(), done.model().state_dict()
    for key, value in begun.items():
        np.testing.assert_allclose(ended[key], value, atol=1e-5)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*weights\.safetensors: No space left on device"):
        make(RUN)
    assert not list(folder.glob("*/manifest.json"))


@pytest.mark.parametrize("size", [100, 1000, 3000, 12_000])
def test_whichever_file_no_longer_fits_the_run_is_not_there_and_is_made_by_the_next_call(folder, size):
    """No file may grow over a size: the error of a full disk, at another place each time."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(folder.glob("*/manifest.json"))
    assert make(RUN).model() is not None


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    """A file system of 64 KiB; with room made on it, the next call makes the run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        monkeypatch.setenv("MIXSTE_RUNS", str(disk))
        (disk / "full").write_bytes(bytes(60 * 1024))
        with pytest.raises(OSError, match="No space left on device"):
            make(RUN)
        assert not list(disk.glob("*/manifest.json"))
        (disk / "full").unlink()
        assert make(RUN).model() is not None
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(folder):
    """Two long runs at a time; their parent is killed, and soon nothing trains any more."""
    context = multiprocessing.get_context("spawn")
    endless = [replace(RUN, poses=10**8, seed=seed) for seed in (0, 1)]
    parent = context.Process(target=trainer.make_all, args=(endless, 2))
    parent.start()

    def at_work():
        return len(list(folder.glob("*.part")))

    deadline = time.monotonic() + 120
    while at_work() < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert at_work() == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the lock of a run is free once its worker has ended
        if all(_free(path) for path in folder.glob("*.lock")):
            return
        time.sleep(0.5)
    pytest.fail("the workers outlived their parent")


def _free(path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
