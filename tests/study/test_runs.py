"""The store: a run is made once, found again, read whole or not at all."""

import fcntl
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from mixste import evaluate
from mixste.study import runs
from mixste.study.runs import Data, Run, RunError, by_takes, make
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

    monkeypatch.setattr(runs, "_make", None)  # a second making would fail
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
    runs._id.cache_clear()
    monkeypatch.setattr(runs, "code_fingerprint", lambda modules: "changed code")
    assert RUN.id != before
    runs._id.cache_clear()


def test_comments_and_docstrings_do_not_count_as_code(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PACKAGE", tmp_path)
    hashes = []
    for text in (
        "def f():\n    '''One.'''\n    return 1\n",
        "# why\ndef f():\n    '''Two.'''\n    return  1\n",
        "def f():\n    return 2\n",
    ):
        (tmp_path / "m.py").write_text(text)
        runs.code_fingerprint.cache_clear()
        hashes.append(runs.code_fingerprint(("m",)))
    runs.code_fingerprint.cache_clear()
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest", "change"])
def test_a_damaged_run_is_never_read_as_whole(store, damage):
    done = make(RUN)
    weights = done.path / "weights.safetensors"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "delete":
        (done.path / "clips.csv").unlink()
    elif damage == "manifest":
        (done.path / "manifest.json").write_text("{")
    else:  # same size: only the hash tells
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(RunError, match="not what was written"):
            done.model()
        return
    said = []
    again = make(RUN, report=said.append)
    assert again.model() is not None
    assert any("damaged" in line for line in said)


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


def test_fine_tuning_begins_with_the_other_runs_weights(store):
    tuned = replace(RUN, seed=1, start=RUN, recipe=replace(RUN.recipe, learning_rate=1e-12))
    done = make(tuned)
    begun, ended = make(RUN).model().state_dict(), done.model().state_dict()
    for key, value in begun.items():
        np.testing.assert_allclose(ended[key], value, atol=1e-5)


def test_by_takes_splits_the_same_people():
    dataset = by_takes(DATA.load())
    assert {clip.subject for clip in dataset.train} == {clip.subject for clip in dataset.test}
    takes = {(clip.subject, clip.action): clip.take for clip in dataset.test}
    assert all(clip.take != takes[clip.subject, clip.action] for clip in dataset.train)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(store, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.checkpoints, "save_file", full)
    with pytest.raises(OSError, match=r"could not write .*weights\.safetensors: No space left on device"):
        make(RUN)
    assert not list(store.glob("*/manifest.json"))


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(store):
    """Two long runs at a time; their parent is killed, and soon nothing trains any more."""
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=runs.make_all, args=([replace(RUN, poses=10**8, seed=seed) for seed in (0, 1)], 2))
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
