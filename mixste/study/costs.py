"""What trainings cost: seconds of a core or a GPU, estimated from trainings that were made.

results/*/runs.csv tells of hundreds. Their seconds are fitted by what a training does: it begins once, its steps call
so many operations, and its poses cost so many multiply-accumulates. Small networks spend their time on calls, large
ones on products, and a short training on a GPU on its beginning.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch.utils.flop_counter import FlopCounterMode

from mixste.io.install import PACKAGE
from mixste.networks import NETWORKS
from mixste.study import store
from mixste.study.profiles import PROFILES, Profile
from mixste.study.run import Data, Run
from mixste.study.store import Finished
from mixste.train import AUTHORS

RESULTS = PACKAGE.parent / "results"
GPU = re.compile("NVIDIA|AMD Instinct|Radeon")  # in a device's name
JOINTS = 17  # of the ledgers' networks: those of HumanEva, two fewer, cost little less


@dataclass(frozen=True)
class Cost:
    """One training that was made: its run, of which the data do not matter here, and its seconds. id: of the run."""

    id: str
    run: Run
    device: str
    training: float
    testing: float


@dataclass(frozen=True)
class Estimate:
    """seconds: of training and testing, by run. basis: what they rest on, in words."""

    seconds: dict[str, float]
    basis: str


def ledgers(gpu: bool, names: Iterable[str] = tuple(PROFILES)) -> list[Cost]:
    """The trainings that these profiles' runs.csv tell of, on a GPU or on a CPU core."""
    costs = []
    for name in names:
        path, profile = RESULTS / name / "runs.csv", PROFILES[name]
        lines = pd.read_csv(path).dropna(subset=["training_seconds", "testing_seconds"]) if path.exists() else None
        for line in () if lines is None else lines.itertuples():
            if bool(GPU.search(line.device)) != gpu:
                continue
            share = profile.pose_share.get(line.model, 1)
            batch = max(1, round(profile.recipe().batch_frames * share))  # but for one row
            recipe = replace(AUTHORS, batch_frames=batch)
            run = Run(Data("synthetic"), line.frames, line.poses, 0, line.model, _options(line.options), recipe)
            costs.append(Cost(line.run, run, line.device, line.training_seconds, line.testing_seconds))
    return costs


def _options(text: str) -> tuple[tuple[str, int | bool], ...]:
    """As "depth=8 dim=512 separate_joints=False"."""
    pairs = (pair.split("=") for pair in text.split())
    return tuple((name, value == "True" if value in ("True", "False") else int(value)) for name, value in pairs)


def measured(wanted: dict[str, Run], finished: Iterable[str], gpu: bool) -> list[Cost]:
    """The costs of these finished runs of the store, of the same kind of device, and all of whose training is known."""
    costs = []
    for name in finished:
        about = Finished(store.store() / name).environment
        share = 1 - about.get("resumed_at", 0.0)
        if share > 0.5 and bool(GPU.search(about["device"])) == gpu:
            seconds = about["training_seconds"] / share, about["testing_seconds"]
            costs.append(Cost(name, wanted[name], about["device"], *seconds))
    return costs


def estimate(
    profile: Profile, wanted: dict[str, Run], finished: Iterable[str], known: list[Cost] | None = None
) -> Estimate:
    """What runs cost on the kind of device that the profile is for.

    A run whose line stands in a ledger costs what is told there, any other by the fit. Finished runs in the store say
    how much faster or slower than the ledgers' this machine is. known: in the place of the ledgers.
    """
    known = ledgers(profile.gpu) if known is None else known
    if not known:
        return Estimate(dict.fromkeys(wanted, 0.0), "no training that is known")
    training, testing = fit(known, profile.gpu)
    told = {cost.id: cost.training + cost.testing for cost in known}

    def seconds(name: str, run: Run) -> float:
        tested = _testing(run) @ testing
        return told.get(name) or _training(run) @ training + tested * (1 + run.points * run.test_curve)

    fitted = {name: float(seconds(name, run)) for name, run in wanted.items()}
    here = measured(wanted, finished, profile.gpu)
    basis = known
    if here:
        pace = sum(cost.training + cost.testing for cost in here) / sum(fitted[cost.id] for cost in here)
        fitted, basis = {name: pace * value for name, value in fitted.items()}, here
    devices = ", ".join(sorted({cost.device for cost in basis}))
    where = "in the store" if here else "in results/*/runs.csv"
    return Estimate(fitted, f"{len(basis)} trainings {where}, on {devices}")


def fit(known: list[Cost], gpu: bool) -> tuple[np.ndarray, np.ndarray]:
    """The prices of what `_training` and `_testing` count, none below zero.

    Lines of the same size count as their mean, weighted as counts are: seconds scatter more, the more they are. On a
    GPU the speeds of full batches in results/bench stand for the long trainings that no ledger has.
    """
    groups = defaultdict(list)
    for cost in known:
        run = cost.run
        groups[run.model, run.options, run.frames, run.poses, run.recipe.batch_frames].append(cost)
    counts = [_training(group[0].run) for group in groups.values()]
    means = [np.mean([cost.training for cost in group]) for group in groups.values()]
    weights = [len(group) for group in groups.values()]
    for run, seconds in _bench() if gpu else ():
        counts.append(_training(run) * (np.arange(1 + 2 * len(NETWORKS)) > 0))  # without a beginning
        means.append(seconds)
        weights.append(1)
    tests = [_testing(group[0].run) for group in groups.values()]
    tested = [np.mean([cost.testing for cost in group]) for group in groups.values()]
    return _prices(counts, means, weights), _prices(tests, tested, weights[: len(tests)])


def _prices(counts: list[np.ndarray], seconds: list[float], weights: list[int]) -> np.ndarray:
    seconds = np.maximum(seconds, 0.05)  # they are rounded to 0.1 s
    scale = np.sqrt(np.array(weights) / seconds)
    table = np.array(counts) * scale[:, None]
    unit = np.maximum(table.max(axis=0), 1e-30)
    return nnls(table / unit, seconds * scale)[0] / unit


def _training(run: Run) -> np.ndarray:
    """(1 + 2 × models): one beginning; steps × tensors of weights, and multiply-accumulates, in its model's places."""
    macs, tensors = size(run.model, run.frames, run.options)
    place = _place(run)
    return np.concatenate([[1.0], run.steps * tensors * place, run.poses * macs * place])


def _place(run: Run) -> np.ndarray:
    """(models): 1 in its model's place."""
    return np.array([run.network_class.name == name for name in NETWORKS])


def _testing(run: Run) -> np.ndarray:
    """(1 + models): one beginning, and multiply-accumulates a pose; how many frames are tested, no ledger tells."""
    macs, _ = size(run.model, run.frames, run.options)
    return np.concatenate([[1.0], macs * _place(run)])


def _bench() -> list[tuple[Run, float]]:
    """Trainings of the published networks at the speeds of results/bench/h100.csv, with their seconds.

    Of the peers only lifting was measured; a training step is taken for three times that.
    """
    table = pd.read_csv(RESULTS / "bench" / "h100.csv")
    paper = PROFILES["paper"]
    rows = [
        (paper.full(), "training loop", "data, schedule, logging", 1),
        (paper.peer("videopose3d", 243), "inference, VideoPose3D", "recorded, bfloat16 autocast", 3),
        (paper.peer("poseformer", 81), "inference, PoseFormer", "recorded, bfloat16 autocast", 3),
    ]
    trainings = []
    for [run, *_], what, variant, lifts in rows:
        speed = table[(table["what"] == what) & (table["variant"] == variant)]["frames_per_second"]
        trainings += [(replace(run, poses=10**7), lifts * 10**7 / frames) for frames in speed]
    return trainings


@functools.lru_cache(maxsize=1024)
def size(model: str, frames: int, options: tuple, joints: int = JOINTS) -> tuple[float, int]:
    """Multiply-accumulates of lifting for each pose supervised, one a window where only its centre is; and how many
    tensors hold a network's weights."""
    with torch.device("meta"):
        network = Run(Data("synthetic"), frames, 1, 0, model, options).network(joints).eval()
        window = torch.empty(1, frames, joints, 2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        lifted = network(window)
    return counter.get_total_flops() / 2 / lifted.shape[1], len(list(network.parameters()))
