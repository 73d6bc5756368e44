"""The table of the study's own speed: what it counts and compares; the times themselves are the machine's."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import bench
import pandas as pd
import pytest
import speed
import torch

from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import distinct
from mixste.train import train

CPU = torch.device("cpu")
DATA = Data("synthetic", subjects=("S1", "S9"), actions=("Walking",))
RUN = Run(DATA, 9, 1, 0, "mixste", {"dim": 8, "depth": 1, "heads": 2}, PROFILES["open"].recipe(batch_frames=18))
KIND = speed.Kind(RUN, trainings=3, steps=1000)


def test_each_training_of_the_plan_is_of_one_kind():
    kinds, runs = speed.kinds("open"), [run for run in distinct(PROFILES["open"]) if run.poses]
    assert sum(kind.trainings for kind in kinds) == len(runs)
    assert sum(kind.steps for kind in kinds) == sum(run.steps for run in runs)
    told_apart = [tuple(kind.about().items()) for kind in kinds]
    assert len(set(told_apart)) == len(kinds) < 40
    assert {kind.run.data.source for kind in kinds} == {"synthetic"}, "no archives are needed"


def test_time_in_which_the_gpu_computes_counts_once_where_kernels_overlap():
    assert speed.covered([(0, 2), (1, 4), (2, 3), (6, 7)]) == 5
    assert speed.covered([]) == 0


def test_copies_and_kernels_of_a_trace_count(tmp_path):
    """In microseconds, by the format of Chrome's traces; what the host does meanwhile does not."""
    events = [("kernel", 10, 5), ("gpu_memcpy", 12, 6), ("cuda_runtime", 0, 100), ("gpu_user_annotation", 0, 100)]
    trace = {"traceEvents": [{"cat": cat, "ts": ts, "dur": dur} for cat, ts, dur in events] + [{"ph": "M"}]}
    profiler = SimpleNamespace(export_chrome_trace=lambda path: Path(path).write_text(json.dumps(trace)))
    assert speed.busy_seconds(profiler) == pytest.approx(8e-6)


def test_the_plain_step_is_that_of_the_training(monkeypatch):
    """From the same seed and data; also in pieces, as large batches need it."""
    dataset, losses = DATA.load(), []
    train(
        *(RUN.build(), dataset.train, dataset.skeleton, RUN.recipe, 2 * RUN.poses_per_step, RUN.seed),
        points=2,
        at_point=lambda _, row: losses.append(row["loss"]),
    )
    for limit in (8192, 9):
        monkeypatch.setattr("mixste.train.MOST_FRAMES", limit)
        step = speed.plain_step(RUN, CPU)
        assert float(step()) == pytest.approx(losses[0], rel=1e-4)
        rate = RUN.recipe.learning_rate
        assert float(step()) == pytest.approx(losses[1], rel=0.2 + rate)  # which follows a schedule there


@pytest.mark.slow
def test_the_whole_table_goes_on_after_a_kind_that_cannot_be_measured(monkeypatch, capsys):
    """And trainings among others have the weights of one alone, to the last bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    broken = replace(KIND, run=replace(RUN, options={"dim": 8, "depth": 1, "heads": 3}))
    monkeypatch.setattr(speed, "kinds", lambda profile: [broken, KIND])
    whole = speed.alone

    def alone(kind, device, duration):
        if kind is broken:
            raise torch.OutOfMemoryError("too large")
        return whole(kind, device, duration)

    monkeypatch.setattr(speed, "alone", alone)
    monkeypatch.setattr(speed.cards, "visible", lambda: [""])  # workers on the CPU
    monkeypatch.setattr(speed.cards, "mps", lambda gpus: contextlib.nullcontext(""))
    table = speed.table(CPU, duration=0.01, counts=(1, 2))
    assert table["processes"].tolist() == [1, 1, 2]
    assert table["same_weights"].tolist()[1:] == [1, 2]
    assert table["ms_per_step"].gt(0).all()
    assert "too large" in capsys.readouterr().out


def test_a_training_alone_is_known_by_its_weights():
    row, weights = speed.alone(KIND, CPU, 0.01)
    assert (row["processes"], row["trainings"], row["gpu_busy"]) == (1, 3, None)
    assert row["plan_seconds"] == pytest.approx(row["ms_per_step"], abs=0.1), "1000 steps"
    assert speed.alone(KIND, CPU, 0.01)[1] == weights
    assert speed.alone(replace(KIND, run=replace(RUN, seed=1)), CPU, 0.01)[1] != weights


def test_the_best_packing_counts_for_each_kind():
    about = KIND.about()
    rows = [about | {"plan_seconds": seconds} for seconds in (7200, 3600)] + [
        about | {"frames": 3, "plan_seconds": 3600}
    ]
    said = speed.summary(pd.DataFrame(rows))
    assert said == "all trainings of the plan, one after another: 3.0 GPU hours; by the best packing 2.0"


def test_without_a_gpu_one_sentence_says_so(monkeypatch):
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="on a GPU, and this machine has none"):
        bench.main("study=3")
