"""The store: a run is made once, found again, read whole or not at all."""

import ast
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import mixste.train
from mixste import evaluate
from mixste.data.splits import by_takes, validating
from mixste.io import weights
from mixste.skeleton import SKELETONS
from mixste.study import identity, trainer
from mixste.study import run as run_module
from mixste.study import store as store_module
from mixste.study.run import Data, Run
from mixste.study.store import RunError
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


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    return tmp_path


def test_a_run_is_made_once_and_holds_what_it_says(store, monkeypatch):
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
    assert not list(store.glob("*.part"))


def test_the_id_is_of_everything_that_bears_on_the_outcome(monkeypatch):
    others = [
        replace(RUN, seed=1),
        replace(RUN, poses=601),
        replace(RUN, recipe=replace(RUN.recipe, weights="paper")),
        replace(RUN, data=replace(DATA, keypoints="cpn")),
        replace(RUN, start=RUN),
    ]
    assert len({run.id for run in [RUN, *others]}) == 6
    before = RUN.id
    run_module._id.cache_clear()
    monkeypatch.setattr(run_module, "code_fingerprint", lambda modules: "changed code")
    assert RUN.id != before
    run_module._id.cache_clear()


def test_comments_and_docstrings_do_not_count_as_code(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)
    hashes = []
    for text in (
        "def f():\n    '''One.'''\n    return 1\n",
        "# why\ndef f():\n    '''Two.'''\n    return  1\n",
        "def f():\n    return 2\n",
    ):
        (tmp_path / "m.py").write_text(text)
        identity.code_fingerprint.cache_clear()
        hashes.append(identity.code_fingerprint(("m",)))
    identity.code_fingerprint.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_hash_of_code_is_the_same_on_every_python():
    """Later versions give nodes more fields, empty where the code does not use them."""
    tree = ast.parse("class A:\n    def f(self):\n        return [*x, 1]\n")
    later = ast.parse(ast.unparse(tree))
    for node in ast.walk(later):
        node._fields = (*node._fields, "type_params", "new")
        node.type_params, node.new = [], None
    assert identity._outline(later) == identity._outline(tree)


def empty_manifest(path):
    path.write_text(json.dumps({"files": {}, "sizes": {}}))


def flip(path):
    """One bit, the size kept."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_size(path):
    manifest = json.loads(path.read_text())
    manifest["sizes"]["clips.csv"] += 1
    path.write_text(json.dumps(manifest))


def folder_instead(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("weights.safetensors", flip),
        ("environment.json", flip),
        ("clips.csv", lambda path: path.unlink()),
        ("errors.npz", folder_instead),
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", empty_manifest),
        ("manifest.json", other_size),
    ],
)
def test_a_run_damaged_by_hand_is_never_read_as_whole_and_is_made_again(store, name, damage):
    weights = make(RUN).file("weights.safetensors").read_bytes()
    damage(store / RUN.id / name)
    assert store_module.listing()["state"].tolist() == ["damaged"]
    said = []
    again = make(RUN, report=said.append)
    assert again.file("weights.safetensors").read_bytes() == weights
    assert any("damaged" in line for line in said)


def test_damage_that_keeps_size_and_time_is_found_on_reading(store):
    weights = make(RUN).file("weights.safetensors")
    times = weights.stat()
    flip(weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    if store_module.is_whole(store / RUN.id):  # unless it was written in the same tick of the clock as the manifest
        with pytest.raises(RunError, match=r"weights\.safetensors is not what was written; the next call makes"):
            make(RUN).model()
    assert not store_module.is_whole(store / RUN.id)
    assert make(RUN).model() is not None


def flip_weights(state):
    """One bit of the largest tensor in an archive that is otherwise sound."""
    with zipfile.ZipFile(state) as members:
        tensor = members.read(max(members.infolist(), key=lambda member: member.file_size))
    content = bytearray(state.read_bytes())
    content[content.index(tensor) + len(tensor) // 2] ^= 1
    state.write_bytes(content)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile",)


def edited(*keys, value=None):
    """Another value at this place of the state, or nothing there."""

    def damage(path):
        state = part = torch.load(path, weights_only=True)
        for key in keys[:-1]:
            part = part[key]
        part.pop(keys[-1]) if value is None else part.__setitem__(keys[-1], value)
        torch.save(state, path)

    return damage


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("more", bytes(10**6))


# What is done to a state kept after step 3 of 7 (rows of the curve at each), and what is said of it.
DAMAGES = {
    "a bit": (flip_weights, "a damaged file"),
    "bytes missing": (lambda path: path.write_bytes(path.read_bytes()[:-700]), "a damaged file"),
    "start only": (lambda path: path.write_bytes(b"PK"), "a damaged file"),
    "empty": (lambda path: os.truncate(path, 0), "a damaged file"),
    "a folder": (folder_instead, "a folder"),
    "hostile": (lambda path: torch.save(Hostile(), path), "a damaged file"),
    "compressed": (compressed, "another kind of archive"),
    "a list": (lambda path: torch.save([1], path), "a damaged file"),
    "no rng": (edited("rng"), "one without rng"),
    "no model": (edited("model"), "one without model"),
    "another shape": (edited("model", "head.bias", value=torch.zeros(5)), "the weights of another network"),
    "a weight less": (edited("model", "head.bias"), "the weights of another network"),
    "NaN": (edited("model", "head.bias", value=torch.full((3,), torch.nan)), "weights that are not finite"),
    "moments less": (edited("optimizer", "state", 0), "an optimizer of other parameters"),
    "a moment less": (edited("optimizer", "state", 0, "exp_avg"), "an optimizer that is not whole"),
    "other decay": (
        edited("optimizer", "param_groups", 0, "weight_decay", value=9.0),
        "an optimizer with other settings",
    ),
    "beyond the end": (edited("step", value=99), "step 99 of 7"),
    "a step earlier": (edited("step", value=2), "the learning curve of another training"),
    "no step": (edited("step", value="3"), "step '3' of 7"),
    "a row less": (edited("history", 0), "the learning curve of another training"),
    "no loss": (edited("history", 0, "loss"), "a damaged learning curve at step 1"),
    "a loss too many": (edited("counted", value=5), "the loss of other steps"),
    "random numbers": (edited("rng", 0, value=torch.zeros(7, dtype=torch.uint8)), "a damaged file"),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A training that was stopped after three of its seven steps."""
    folder, keep = tmp_path_factory.mktemp("begun"), mixste.train._keep

    def keep_then_stop(path, model, optimizer, step, *state):
        keep(path, model, optimizer, step, *state)
        if step == 3:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIXSTE_RUNS", str(folder))
        patch.setattr(mixste.train, "SAVE_SECONDS", 0.0)
        patch.setattr(mixste.train, "_keep", keep_then_stop)
        with pytest.raises(KeyboardInterrupt):
            make(RUN)
        assert store_module.listing()["state"].tolist() == ["unfinished"]
    return folder


@pytest.mark.parametrize("name", DAMAGES)
def test_a_state_that_is_not_whole_is_removed_and_the_training_begins_again(begun, tmp_path, capsys, name):
    damage, what = DAMAGES[name]
    part = tmp_path / f"{RUN.id}.part"
    shutil.copytree(begun / part.name, part)
    assert trainer.taken_up(part, RUN, [RUN.build()])["step"] == 3
    assert capsys.readouterr().out == ""
    damage(part / "state.pt")
    assert trainer.taken_up(part, RUN, [RUN.build()]) == {"step": 0, "history": []}
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"expected the state of this training, found {what}" in said
    assert [path.name for path in part.iterdir()] == ["spec.json"]
    assert not Path("hostile").exists()


def test_a_damaged_state_does_not_block_its_run(begun, store):
    shutil.copytree(begun, store, dirs_exist_ok=True)
    flip_weights(store / f"{RUN.id}.part" / "state.pt")
    assert make(RUN).environment["resumed_at"] == 0


def test_a_state_of_a_gpu_goes_on_without_one(begun, store):
    shutil.copytree(begun, store, dirs_exist_ok=True)
    state = store / f"{RUN.id}.part" / "state.pt"
    kept = torch.load(state, weights_only=True)
    torch.save(kept | {"rng": [*kept["rng"], torch.zeros(16, dtype=torch.uint8)]}, state)
    if not torch.cuda.is_available():
        assert make(RUN).environment["resumed_at"] == 3 / 7


def test_what_is_no_run_or_cannot_be_read_is_a_line_of_the_list(store):
    """Among a finished run and one that is begun: links that lead nowhere, files, a table that is none."""
    done = make(RUN)
    shutil.copytree(done.path, store / "0123456789ab.part")
    (store / "0123456789ab.part" / "link").symlink_to(store / "nowhere")
    shutil.copytree(done.path, store / "000000000001")
    (store / "000000000001" / "clips.csv").write_text("protocol\nauthors,1,2\n")
    store_module.seal(store / "000000000001")
    shutil.copytree(done.path, store / "000000000002")
    (store / "000000000002" / "environment.json").write_text("{}")
    store_module.seal(store / "000000000002")
    (store / "000000000003").symlink_to(store / "nowhere")
    (store / "000000000004").write_text("a file")
    (store / "000000000005").mkdir()
    (store / "000000000005" / "spec.json").write_text("[" * 100_000)
    (store / "notes.txt").write_text("a file")
    listed = store_module.listing().set_index("run")
    states = {f"{number:012}": "damaged" for number in range(1, 6)} | {"0123456789ab": "unfinished", RUN.id: "finished"}
    assert listed["state"].to_dict() == states
    assert listed["MPJPE"].notna().to_dict() == {name: name == RUN.id for name in states}


@pytest.mark.parametrize("name", [RUN.id, f"{RUN.id}.part"])
def test_a_link_that_leads_nowhere_or_a_file_in_the_place_of_a_run_does_not_block_it(store, name):
    for put in (lambda path: path.symlink_to(store / "nowhere"), lambda path: path.write_text("a file")):
        put(store / name)
        assert make(RUN).path.is_dir()
        shutil.rmtree(store / RUN.id)


def test_500_runs_are_listed_and_collected_in_a_second(store):
    """Each with the files of one that was made, and the error that it has by the field's average."""
    done = make(RUN)
    for number in range(499):
        (store / f"{number:012x}").mkdir()
        for path in done.path.iterdir():
            shutil.copyfile(path, store / f"{number:012x}" / path.name)
        os.utime(store / f"{number:012x}" / "manifest.json", (time.time() + 1, time.time() + 1))
    began = time.process_time()
    table = store_module.listing()
    clips = store_module.collect([store_module.Finished(store / name) for name in table["run"]])
    assert time.process_time() - began < 1
    assert len(table) == 500
    assert table["state"].eq("finished").all()
    assert len(clips) == 500 * len(done.clips)
    own = done.clips[done.clips["protocol"] == "authors"]
    assert table["MPJPE"].to_numpy() == pytest.approx(np.full(500, evaluate.average(own)["MPJPE"]))


def test_a_run_killed_on_its_last_steps_is_not_trained_again(store, monkeypatch):
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
        assert not (store / run.id).exists()
    monkeypatch.setattr(trainer, "train", None)  # a training would fail
    done = make(run)
    assert done.environment["resumed_at"] == 1
    assert {path.name for path in done.path.iterdir()} == {"manifest.json"} | store_module.FILES | store_module.WEIGHTS


def test_a_reference_is_a_run_like_others_and_every_record_says_how_far_above_it_the_network_is(store, monkeypatch):
    constant = Run(DATA, frames=1, poses=0, seed=0, model="constant_pose")
    done, network = make(constant), make(RUN)
    errors = {run.id: evaluate.average(run.clips.query("protocol == 'exact'"))["MPJPE"] for run in (done, network)}
    about = network.environment
    assert about["mpjpe"] == pytest.approx(errors[RUN.id], abs=1e-3)
    assert about["constant_pose_mpjpe"] == pytest.approx(errors[constant.id], abs=1e-3)
    assert about["at_constant_level"] is network.at_constant_level is True, "seven steps teach next to nothing"
    assert not done.at_constant_level
    assert done.history["poses"].tolist() == [sum(map(len, DATA.load().train))]
    assert done.joint_errors.shape == network.joint_errors.shape

    before = constant.id, RUN.id
    run_module._id.cache_clear()
    fingerprint = identity.code_fingerprint
    monkeypatch.setattr(
        run_module, "code_fingerprint", lambda of: "other" if of == ("networks/references",) else fingerprint(of)
    )
    assert (constant.id != before[0], RUN.id == before[1]) == (True, True), "its code is in its id, and in no other's"
    run_module._id.cache_clear()


def test_a_second_process_waits_and_finds_the_run(store):
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        first, second = pool.map(make, [RUN, RUN])
    assert first == second
    assert len(list(store.glob("*/manifest.json"))) == 1


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_that_looks_whole_and_is_finished_by_the_next(store):
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=make, args=(replace(RUN, poses=10**7),))
    process.start()
    deadline = time.monotonic() + 60
    while not list(store.glob("*.part")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert list(store.glob("*.part")), "it was killed at work"
    assert not list(store.glob("*/manifest.json"))
    assert make(RUN).model() is not None


BAD = replace(RUN, recipe=replace(RUN.recipe, learning_rate=1e30, scaled_gradient=False))


def test_a_training_that_fails_is_recorded_and_takes_no_other_along(store, monkeypatch):
    """Nor is it tried again unasked; a run that starts from it fails with it."""
    tuned, sound = replace(RUN, seed=2, start=BAD), replace(RUN, seed=1)
    said = trainer.make_all([BAD, tuned, sound], jobs=1)
    assert said.startswith(
        f"2 of 3 runs failed, and tables leave them out: {BAD.id} (mixste, T=9, synthetic, seed 0): "
    )
    assert (store_module.failure(BAD), store_module.failure(sound)) == ("the loss is nan at step 2 of 7", "")
    assert store_module.failure(tuned) == f"run {BAD.id}, from which it starts, failed: the loss is nan at step 2 of 7"
    assert {path.name for path in (store / BAD.id).iterdir()} == store_module.FAILED | {"manifest.json"}
    assert pd.read_csv(store / BAD.id / "history.csv")["step"].tolist() == [1], "the curve up to there"
    assert store_module.listing().set_index("run")["state"].to_dict() == {BAD.id: "failed", sound.id: "finished"}
    assert not list(store.glob("*.part"))

    monkeypatch.setattr(trainer, "_make", None)  # a training would fail
    assert trainer.make_all([BAD, tuned, sound]) == said
    with pytest.raises(RunError, match=rf"run {BAD.id} .* failed: the loss is nan .*; `mixste train --retry-failed`"):
        make(BAD)
    trainer.forget_failed([BAD, tuned, sound])
    assert trainer.lacking([BAD, tuned, sound]) == [BAD, tuned]


def test_a_network_whose_poses_are_not_finite_has_failed(store, monkeypatch):
    """After the last step there is no loss that would tell."""

    def train(model, *arguments, **options):
        next(model.parameters()).data.fill_(np.nan)

    monkeypatch.setattr(trainer, "train", train)
    trainer.make_all([RUN])
    assert store_module.failure(RUN) == "the poses that it lifts are not finite"
    assert store_module.listing()["state"].tolist() == ["failed"]


@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()])
def test_a_damaged_record_of_a_failure_is_made_again(store, damage):
    trainer.make_all([BAD])
    damage(store / BAD.id / "failed.json")
    assert trainer.lacking([BAD]) == [BAD]
    trainer.make_all([BAD])
    assert store_module.failure(BAD)


class Deadly(Run):
    """A run at which the system kills its process."""

    def build(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_process_killed_at_work_is_told_and_the_other_runs_are_made(store):
    deadly = Deadly(**{field.name: getattr(RUN, field.name) for field in fields(RUN)})
    others = [replace(RUN, seed=seed) for seed in (1, 2, 3)]
    with pytest.raises(
        RunError, match=rf"the process that trained run {RUN.id} \(mixste, T=9, .* was ended from outside"
    ):
        trainer.make_all([deadly, *others], jobs=2)
    assert trainer.lacking([RUN, *others]) == [RUN]
    assert trainer.make_all([RUN, *others]) == "", "nothing keeps it from being made"


def test_fine_tuning_begins_with_the_other_runs_weights(store):
    tuned = replace(RUN, seed=1, start=RUN, recipe=replace(RUN.recipe, learning_rate=1e-12))
    done = make(tuned)
    begun, ended = make(RUN).model().state_dict(), done.model().state_dict()
    for key, value in begun.items():
        np.testing.assert_allclose(ended[key], value, atol=1e-5)


def test_other_layouts_take_their_joints_by_name():
    dataset = DATA.load()
    stand_in = replace(DATA, skeleton="humaneva15").load()
    assert stand_in.skeleton is SKELETONS["humaneva15"]
    for name in ("LKnee", "RWrist", "LShoulder"):
        here, there = (one.skeleton.joints.index(name) for one in (dataset, stand_in))
        np.testing.assert_array_equal(stand_in.test[0].poses[:, there], dataset.test[0].poses[:, here])
        np.testing.assert_array_equal(stand_in.test[0].keypoints[:, there], dataset.test[0].keypoints[:, here])


def test_by_takes_splits_the_same_people():
    dataset = by_takes(DATA.load())
    assert {clip.subject for clip in dataset.train} == {clip.subject for clip in dataset.test}
    takes = {(clip.subject, clip.action): clip.take for clip in dataset.test}
    assert all(clip.take != takes[clip.subject, clip.action] for clip in dataset.train)


def test_validating_never_touches_the_test_people():
    wanted = replace(DATA, subjects=("S1", "S5", "S8", "S9"))
    dataset = wanted.load()
    last = validating(dataset)  # the source sets nobody apart
    assert ({clip.subject for clip in last.train}, {clip.subject for clip in last.test}) == ({"S1", "S5"}, {"S8"})
    loaded = replace(wanted, split="validation").load()
    assert ({clip.subject for clip in loaded.train}, {clip.subject for clip in loaded.test}) == ({"S1", "S5"}, {"S8"})
    apart = validating(replace(dataset, validation=dataset.train[:2], train=dataset.train[2:]))
    assert (apart.train, apart.test) == (dataset.train[2:], dataset.train[:2])


def test_everyone_trains_but_the_test_people(monkeypatch):
    own = replace(DATA, subjects=("S1", "S5", "S8", "S9")).load()
    apart = replace(own, train=own.train[1:], validation=own.train[:1])
    monkeypatch.setattr(mixste.data, "load", lambda *args, **options: apart)
    every = run_module._load.__wrapped__(replace(DATA, subjects=(), split="everyone", test_cameras=0))
    assert {clip.name for clip in every.train} == {clip.name for clip in own.train}
    assert ([clip.name for clip in every.test], every.validation) == ([clip.name for clip in apart.test], [])


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*weights\.safetensors: No space left on device"):
        make(RUN)
    assert not list(store.glob("*/manifest.json"))


@pytest.mark.parametrize("size", [100, 1000, 3000, 12_000])
def test_whichever_file_no_longer_fits_the_run_is_not_there_and_is_made_by_the_next_call(store, size):
    """No file may grow over a size: the error of a full disk, at another place each time."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make(RUN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(store.glob("*/manifest.json"))
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
def test_workers_end_with_the_process_that_started_them(store):
    """Two long runs at a time; their parent is killed, and soon nothing trains any more."""
    context = multiprocessing.get_context("spawn")
    endless = [replace(RUN, poses=10**8, seed=seed) for seed in (0, 1)]
    parent = context.Process(target=trainer.make_all, args=(endless, 2))
    parent.start()

    def at_work():
        return len(list(store.glob("*.part")))

    deadline = time.monotonic() + 120
    while at_work() < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert at_work() == 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the lock of a run is free once its worker has ended
        if all(_free(path) for path in store.glob("*.lock")):
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


def test_one_process_at_a_time_also_without_fcntl(tmp_path):
    """As on Windows. The second process is told, and has its turn when the first ends."""
    script = "import sys; sys.modules['fcntl'] = None\n"
    script += "from pathlib import Path; from mixste.study.store import locked\n"
    script += "with locked(Path(sys.argv[1]), lambda line: print(line, flush=True)): print('mine', flush=True); input()"

    def start():
        command = [sys.executable, "-W", "ignore", "-c", script, tmp_path / "run"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, process.stdout.readline()

    first, said = start()
    assert said == "mine\n"
    second, said = start()
    assert "is being made by another process" in said
    first.communicate("\n", timeout=30)
    assert second.communicate("\n", timeout=30)[0] == "mine\n"
