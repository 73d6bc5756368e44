"""Trainings that are killed again and again end with the same bytes as those that were left alone."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

import mixste.train
from mixste.study.run import Data, Run
from mixste.study.trainer import make
from mixste.train import AUTHORS

RUN = Run(
    Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1),
    frames=9,
    poses=6000,
    seed=0,
    options=(("depth", 1), ("dim", 8), ("heads", 2)),
    recipe=replace(AUTHORS, batch_frames=18, learning_rate=0.01),
    test_curve=True,
)
# One whose best weights on the test clips are not its last, one that starts from it, and one of another network.
BATCH = [
    RUN,
    replace(RUN, seed=1, start=RUN, test_curve=False),
    replace(RUN, model="videopose3d", options=(("channels", 8),), poses=3000, test_curve=False),
]


def work(store: Path) -> None:
    os.environ["MIXSTE_RUNS"] = str(store)
    mixste.train.SAVE_SECONDS = 0.02
    for run in BATCH:
        make(run)


def storm(folder: Path, kills: int, counts) -> None:
    """In a process of its own, so that children forked from it share its data and begin at once."""
    fork = multiprocessing.get_context("fork")
    work(folder / "first")
    began = time.monotonic()
    work(folder / "calm")
    pace = min(time.monotonic() - began, 2.0) / 2
    chance = random.Random(0)
    killed, batches = 0, 0
    while killed < kills:
        store = folder / f"storm-{batches}"
        child = fork.Process(target=work, args=(store,))
        child.start()
        if killed % 2:  # every second one in the middle of a training, however slow this machine is
            while child.is_alive() and not list(store.glob("*.part/state.pt")):
                time.sleep(0.005)
            child.join(chance.uniform(0, pace / 20))
        else:
            child.join(chance.uniform(0, pace))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            killed += 1
        else:
            batches += 1
    work(folder / f"storm-{batches}")
    counts.put((killed, batches + 1))


def results(store: Path) -> dict[str, bytes]:
    """All but what tells how long it took."""
    paths = [path for path in sorted(store.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in paths
        if path.name not in ("environment.json", "manifest.json")
    }


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_no_byte(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    spawn = multiprocessing.get_context("spawn")
    counts = spawn.Queue()
    process = spawn.Process(target=storm, args=(tmp_path, 50, counts))
    process.start()
    killed, batches = counts.get(timeout=240)
    process.join()
    assert killed == 50
    calm = results(tmp_path / "calm")
    assert len({Path(name).parent for name in calm}) == len(BATCH)
    [best] = [name for name in calm if name.endswith("best.safetensors")]
    assert calm[best] != calm[best.replace("best", "weights")]
    resumed = 0
    for number in range(batches):
        store = tmp_path / f"storm-{number}"
        assert results(store) == calm, "the same files, with the same bytes, and nothing left over"
        for path in store.glob("*/environment.json"):
            resumed += json.loads(path.read_text())["resumed_at"] > 0
    assert resumed, "some were killed in the middle and resumed"
