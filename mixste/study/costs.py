"""The cost of trainings: seconds of a CPU core or a GPU, estimated from past trainings.

results/*/runs.csv lists hundreds. Their seconds are fitted to three terms: a constant for the start, the number of
operations called, and the number of multiply-accumulates. Calls dominate for small networks, matrix products for
large ones, and the start for short trainings on a GPU.
"""

import functools
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from mixste.io.install import PACKAGE
from mixste.networks import NETWORKS, ConstantPose, FrameRegression, MixSTE
from mixste.skeleton import SKELETONS
from mixste.study import store
from mixste.study.profiles import PROFILES, Profile
from mixste.study.run import Data, Run
from mixste.study.store import Finished
from mixste.train import AUTHORS

RESULTS = PACKAGE.parent / "results"
GPU = re.compile("NVIDIA|AMD Instinct|Radeon")  # in a device's name
SPEEDS = "h200.csv"  # in results/bench: of inference and training steps on a GPU
PEER_FRAMES = {"videopose3d": 243, "poseformer": 81}  # T of the peers in `SPEEDS`
# Of the networks in runs.csv. On a CPU, an operation of any other is taken to cost what MixSTE's do.
NAMES = (MixSTE.name, *PEER_FRAMES, ConstantPose.name, FrameRegression.name)
# Forward multiply-accumulates a second when a GPU trains a network that is in neither runs.csv nor study.csv: the
# median of the later networks of Table 8 in study.csv, 6e12 to 27e12, which have no kernels of their own.
UNMEASURED = 23e12
MOST = 0.5  # Recorded seconds are those since a training was resumed: no more than this part of it is no measure.
JOINTS = 17  # of the networks in runs.csv: those of HumanEva, two fewer, cost little less


@dataclass(frozen=True)
class Cost:
    """What one training took, in seconds of its device: where several shared that, an equal part.

    run: its settings; the data do not matter here. id: of the run.
    """

    id: str
    run: Run
    device: str
    training: float
    testing: float


@dataclass(frozen=True)
class Estimate:
    """seconds: of training and testing, by run. basis: the trainings that they are estimated from, in words."""

    seconds: dict[str, float]
    basis: str


def seconds(runs: pd.DataFrame) -> pd.DataFrame:
    """Columns training and testing: seconds of each run, of a device that several shared an equal part.

    Those of a training that was resumed are extrapolated to its whole length. runs: their environments, or lines of
    runs.csv, which have no number of `sharing` for a CPU core, nor if old.
    """
    names = ["training_seconds", "testing_seconds", "sharing", "resumed_at"]
    training, testing, sharing, resumed_at = runs.reindex(columns=names).apply(pd.to_numeric).fillna(0.0).T.to_numpy()
    sharing = np.maximum(sharing, 1)
    values = {"training": training / sharing / (1 - resumed_at), "testing": testing / sharing}
    return pd.DataFrame(values, runs.index)


def ledgers(gpu: bool, names: Iterable[str] = tuple(PROFILES)) -> list[Cost]:
    """The trainings in these profiles' runs.csv, on a GPU or on a CPU core, for the most part at once."""
    costs = []
    for name in names:
        if (path := RESULTS / name / "runs.csv").exists():
            lines = pd.read_csv(path).dropna(subset=["training_seconds", "testing_seconds"]).set_index("run")
            if "failed" in lines:  # stopped before all of its poses
                lines = lines[lines["failed"].isna()]
            costs += _costs(lines, gpu, lambda line, name=name: _run_of(line, name))
    return costs


def measured(runs: dict[str, Run], finished: Iterable[str], gpu: bool) -> list[Cost]:
    """The costs of those finished runs of the store that were trained on such a device, for the most part at once."""
    abouts = {name: Finished(store.store() / name).environment for name in finished}
    return _costs(pd.DataFrame.from_dict(abouts, orient="index"), gpu, lambda line: runs[line.Index])


def _costs(lines: pd.DataFrame, gpu: bool, run_of: Callable[..., Run]) -> list[Cost]:
    """Of lines of runs.csv, or of environments, by id of the run."""
    if lines.empty:
        return []
    resumed_at = lines.reindex(columns=["resumed_at"]).fillna(0.0)["resumed_at"]
    lines = lines[(1 - resumed_at > MOST) & (lines["device"].str.contains(GPU) == gpu)]
    lines = lines.assign(**seconds(lines))
    return [Cost(line.Index, run_of(line), line.device, line.training, line.testing) for line in lines.itertuples()]


def _run_of(line, profile: str) -> Run:
    """The settings in a line of runs.csv, as far as they bear on its cost."""
    if getattr(line, "steps", 0) > 0:
        batch = max(1, math.ceil(line.poses / line.steps))  # references have no poses
    else:  # written before there was this column
        of_peer = PROFILES[profile].gpu and line.model == "poseformer"
        batch = 32 if of_peer else PROFILES[profile].recipe().batch_frames
    recipe = replace(AUTHORS, batch_frames=batch)
    return Run(Data("synthetic"), line.frames, line.poses, 0, line.model, _options(line.options), recipe)


def _options(text: str) -> tuple[tuple[str, int | bool], ...]:
    """As "depth=8 dim=512 separate_joints=False"."""
    pairs = (pair.split("=") for pair in text.split())
    return tuple((name, value == "True" if value in ("True", "False") else int(value)) for name, value in pairs)


def estimate(
    profile: Profile, runs: dict[str, Run], finished: Iterable[str], recorded: list[Cost] | None = None
) -> Estimate:
    """What runs cost on the kind of device that the profile is for.

    A run that is listed in a runs.csv costs what that says, one of a kind whose speed was measured what
    results/bench/study.csv says, and any other what the fit says. At these speeds, with as many trainings at a time as
    are best, a start costs nothing: the others use the GPU meanwhile.
    Finished runs in the store tell how much faster or slower this machine is. recorded: trainings to estimate from,
    instead of those in runs.csv.
    """
    recorded = ledgers(profile.gpu) if recorded is None else recorded
    if not recorded:
        return Estimate(dict.fromkeys(runs, 0.0), "no recorded training")
    training, testing = fit(recorded, profile.gpu)
    listed = {cost.id: cost.training + cost.testing for cost in recorded}

    def cost_of(name: str, run: Run) -> float:
        evaluation = _testing(run) @ testing * (1 + run.points * run.test_curve)
        at_speed = _planned(run) if profile.gpu and run.poses else math.nan
        return listed.get(name) or evaluation + (_training(run) @ training if math.isnan(at_speed) else at_speed)

    seconds = {name: float(cost_of(name, run)) for name, run in runs.items()}
    basis, where = recorded, "in results/*/runs.csv"
    # A reference takes next to nothing, so that its pace says nothing about a training's.
    trained = [name for name in finished if not runs[name].network_class.closed_form]
    if local := measured(runs, trained, profile.gpu):
        pace = sum(cost.training + cost.testing for cost in local) / sum(seconds[cost.id] for cost in local)
        seconds = {name: pace * value for name, value in seconds.items()}
        basis, where = local, "in the store"
    devices = ", ".join(sorted({cost.device for cost in basis}))
    speeds, first = RESULTS / "bench" / "study.csv", ""
    if profile.gpu and not local and speeds.exists():
        cards = ", ".join(pd.read_csv(speeds)["hardware"].unique())
        first = f"the speeds in results/bench/study.csv ({cards}) and "
    return Estimate(seconds, f"{first}{len(basis)} trainings {where}, on {devices}")


def fit(recorded: list[Cost], gpu: bool) -> tuple[np.ndarray, np.ndarray]:
    """Seconds for each unit of what `_training` and `_testing` count, none negative.

    Trainings of the same size count as their mean, weighted like counts: the variance of seconds grows with them. On a
    GPU the speeds of full batches in results/bench stand for long trainings, of which no runs.csv lists any.
    """
    groups = defaultdict(list)
    for cost in recorded:
        run = cost.run
        groups[run.model, run.options, run.frames, run.poses, run.recipe.batch_frames].append(cost)
    counts = [_training(group[0].run) for group in groups.values()]
    means = [np.mean([cost.training for cost in group]) for group in groups.values()]
    weights = [len(group) for group in groups.values()]
    for run, seconds in _bench() if gpu else ():
        counts.append(_training(run) * (np.arange(1 + 2 * len(NAMES)) > 0))  # without the start
        means.append(seconds)
        weights.append(1)
    tests = [_testing(group[0].run) for group in groups.values()]
    test_means = [np.mean([cost.testing for cost in group]) for group in groups.values()]
    return _prices(counts, means, weights), _prices(tests, test_means, weights[: len(tests)])


def _prices(counts: list[np.ndarray], seconds: list[float], weights: list[int]) -> np.ndarray:
    seconds = np.maximum(seconds, 0.05)  # they are rounded to 0.1 s
    scale = np.sqrt(np.array(weights) / seconds)
    table = np.array(counts) * scale[:, None]
    unit = np.maximum(table.max(axis=0), 1e-30)
    return nnls(table / unit, seconds * scale)[0] / unit


def _training(run: Run) -> np.ndarray:
    """(1 + 2 × networks): one start; steps × tensors of weights, and multiply-accumulates, in the network's places."""
    macs, tensors = size(run.model, run.frames, run.options)
    place = _place(run)
    return np.concatenate([[1.0], run.steps * tensors * place, run.poses * macs * place])


def _place(run: Run) -> np.ndarray:
    """(networks): 1 in the network's place, 0 elsewhere."""
    name = run.network_class.name
    return np.array([one == (name if name in NAMES else MixSTE.name) for one in NAMES])


def _testing(run: Run) -> np.ndarray:
    """(1 + networks): one start, and multiply-accumulates a pose. No runs.csv has the number of test frames."""
    macs, _ = size(run.model, run.frames, run.options)
    return np.concatenate([[1.0], macs * _place(run)])


def _bench() -> list[tuple[Run, float]]:
    """Trainings of the published networks at the speeds of `SPEEDS`, with their seconds.

    Of MixSTE, training is measured; of the peers, inference, and a training step counts as three times that.
    """
    table = pd.read_csv(RESULTS / "bench" / SPEEDS).set_index(["what", "variant"])["frames_per_second"]
    paper = PROFILES["paper"]
    rows = [(paper.full(), ("training loop", "data, schedule, logging"), 1)]
    for name, frames in PEER_FRAMES.items():
        what = f"inference, {NETWORKS[name].__name__}"
        rows.append((paper.peer(name, frames), (what, "recorded, bfloat16 autocast"), 3))
    return [
        (replace(run, poses=10**7), forwards * 10**7 / speed)
        for [run, *_], row, forwards in rows
        for speed in table[[row]]
    ]


def alone(run: Run) -> float:
    """GPU seconds of a training that has the GPU of results/bench/study.csv to itself; nan for a kind not in there."""
    return _at_speed(run, "first")


def _at_speed(run: Run, of_kind: str) -> float:
    """Seconds of a training at the speed in results/bench/study.csv; nan for a kind not in there. of_kind: as below."""
    speeds = _speeds(RESULTS / "bench" / "study.csv", of_kind)
    return run.poses / speeds.get(tuple(kind(run).values()), math.nan)


def _planned(run: Run) -> float:
    """Seconds of a training on a GPU in a plan; nan if only the fit can tell them.

    Of a kind that was measured with Muon alone, those with Muon, whose step takes a little longer than Adam's.
    """
    seconds = _at_speed(run, "max")
    if math.isnan(seconds):
        seconds = _at_speed(replace(run, recipe=replace(run.recipe, optimizer="muon")), "max")
    if math.isnan(seconds) and run.network_class.name not in NAMES:
        return run.poses * size(run.model, run.frames, run.options)[0] / UNMEASURED
    return seconds


def kind(run: Run) -> dict[str, object]:
    """What the duration of a step depends on, by the columns of results/bench/study.csv."""
    dropout = f" dropout={run.recipe.dropout}" if run.recipe.dropout else ""
    options = " ".join(f"{name}={value}" for name, value in run.options) + dropout
    # Not of the data themselves, which may not be here.
    skeleton = run.data.skeleton or ("humaneva15" if run.data.source == "humaneva" else "human36m")
    about = {"network": run.model, "frames": run.frames, "joints": len(SKELETONS[skeleton].joints), "options": options}
    return about | {"poses_per_step": run.poses_per_step, "optimizer": run.recipe.optimizer}


@functools.cache
def _speeds(path: Path, of_kind: str) -> dict[tuple, float]:
    """Poses a second, by the values of `kind`.

    of_kind: "first" for trainings alone, whose rows come first; "max" for as many at a time as are best.
    """
    if not path.exists():
        return {}
    kinds = pd.read_csv(path).groupby(["network", "frames", "joints", "options", "poses_per_step", "optimizer"])
    return kinds["poses_per_second"].agg(of_kind).to_dict()


@functools.lru_cache(maxsize=1024)
def size(model: str, frames: int, options: tuple, joints: int = JOINTS) -> tuple[float, int]:
    """Multiply-accumulates of the forward pass for each supervised pose, and the number of tensors of weights."""
    with torch.device("meta"):
        network = Run(Data("synthetic"), frames, 1, 0, model, options).network(joints).eval()
        window = torch.empty(1, frames, joints, 2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lifted = network(window)
    return counter.get_total_flops() / 2 / lifted.shape[1], len(list(network.parameters()))
