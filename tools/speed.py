"""The study's own speed: each kind of training in a profile's plan, alone on a GPU and several at a time.

A kind is a network, its sizes, its batch and its optimizer. Trainings are timed in the loop that trains the study, on
synthetic people.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from measuring import hardware, products
from torch import Tensor

from mixste.model import MixSTE
from mixste.study import cards, costs
from mixste.study.plain import plain_copy
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import distinct
from mixste.train import Batches, even_pieces, loss_of, optimizer_of, train

STEPS = 100_000  # of a training that is timed, which ends long before
CHECKED = 40  # steps after which weights are compared
BEGIN_BY = 200.0  # seconds after the start, after which no other kind is measured several at a time


@dataclass(frozen=True)
class Kind:
    """Trainings of the plan that take equally long for each step. run: one of them, on synthetic people."""

    run: Run
    trainings: int
    steps: int  # of all of them

    @property
    def every(self) -> int:
        """Steps between two rows of the learning curve."""
        return CHECKED if self.run.poses_per_step < 4096 else 1

    def about(self) -> dict[str, object]:
        about = {**costs.kind(self.run), "joints": len(self.run.data.layout.joints)}
        return about | {"trainings": self.trainings, "steps": self.steps}


def kinds(profile: str) -> list[Kind]:
    """The kinds of training in a profile's plan, in the order of the tables."""
    same: dict[tuple, list[Run]] = defaultdict(list)
    for run in distinct(PROFILES[profile]):
        if not run.network_class.closed_form:
            run = replace(run, data=Data("synthetic", skeleton=run.data.skeleton), start=None, test_curve=False)
            recipe, joints = run.recipe, len(run.data.layout.joints)
            step = (recipe.batch_frames, recipe.optimizer, recipe.dropout > 0)
            same[run.model, run.frames, run.options, joints, step].append(run)
    return [Kind(runs[0], len(runs), sum(run.steps for run in runs)) for runs in same.values()]


class Enough(Exception):
    """Ends a training that has been timed."""


@dataclass
class Watch:
    """Times a training from within, at the rows of its learning curve, and ends it.

    The first row is not counted: until then graphs are recorded. ready: called after it.
    """

    seconds: float
    every: int
    profile: bool = False
    ready: Callable[[], object] = lambda: None
    rows: list[tuple[int, float]] = field(default_factory=list)  # step, time
    weights: float | None = None  # the sum of all, after CHECKED steps
    busy: float | None = None  # seconds of a step in which the GPU computed
    profiler: torch.profiler.profile | None = None

    def __call__(self, model: torch.nn.Module, row: dict) -> None:
        if row["step"] == CHECKED:
            self.weights = sum(float(weight.detach().double().sum()) for weight in model.parameters())
        if self.profiler:
            torch.cuda.synchronize()
            self.profiler.stop()
            self.busy = busy_seconds(self.profiler) / self.every
            raise Enough
        if not self.rows:
            self.ready()
        self.rows.append((row["step"], time.perf_counter()))
        enough = len(self.rows) > 2 and self.rows[-1][1] - self.rows[0][1] > self.seconds
        if enough and row["step"] >= min(CHECKED, 4 * self.every):
            if not self.profile:
                raise Enough
            self.profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profiler.start()

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        spans = zip(self.rows, self.rows[1:], strict=False)
        return statistics.median((end - start) / (last - first) for (first, start), (last, end) in spans)


def busy_seconds(profiler: torch.profiler.profile) -> float:
    """The time in which at least one kernel or copy ran on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(errors="replace"))["traceEvents"]
    spans = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    )
    return covered(spans) / 1e6  # from microseconds


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of intervals, sorted by their starts."""
    total, last = 0.0, -float("inf")
    for start, end in spans:
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


def timed(kind: Kind, watch: Watch, device: torch.device) -> Watch:
    """Train a kind from its seed until the watch ends it."""
    run, dataset = kind.run, kind.run.data.load()
    model = run.build().to(device)
    poses, points = STEPS * run.poses_per_step, STEPS // watch.every
    with contextlib.suppress(Enough):
        train(model, dataset.train, dataset.skeleton, run.recipe, poses, run.seed, points=points, at_point=watch)
    return watch


def plain_step(run: Run, device: torch.device) -> Callable[[], Tensor]:
    """A step of the same training as the networks' authors wrote it: eager, in float32, only the optimizer fused."""
    dataset, model = run.data.load(), run.build().to(device).train()
    network = model
    if isinstance(model, MixSTE):
        with contextlib.suppress(ValueError):  # variants are not theirs
            network = plain_copy(model)
    batches = Batches(model, dataset.train, dataset.skeleton, run.recipe, run.seed, device)
    optimizer, loss = optimizer_of(network, run.recipe), loss_of(run.recipe, dataset.skeleton, device)
    pieces = even_pieces(network, batches.size, batches.poses_per_window)
    count = 0

    def step() -> Tensor:
        nonlocal count
        optimizer.zero_grad()
        total = 0.0
        for keypoints, target in zip(*(whole.chunk(pieces) for whole in batches[count]), strict=True):
            value = loss(network(keypoints), target) / pieces
            value.backward(value.detach() if run.recipe.scaled_gradient else None)
            total = total + value.detach()
        optimizer.step()
        count += 1
        return total

    return step


def alone(kind: Kind, device: torch.device, duration: float) -> tuple[dict, float | None]:
    """The row of a kind that has the device to itself, and the sum of its weights after the first steps."""
    cuda = device.type == "cuda"
    empty(device)
    watch = timed(kind, Watch(duration, kind.every, profile=cuda), device)
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else float("nan")
    empty(device)
    with products():
        reference = step_seconds(plain_step(kind.run, device), duration / 2)
    row = line(device, kind, 1, watch.step)
    row |= {"gpu_busy": watch.busy and round(min(1.0, watch.busy / watch.step), 3), "peak_gib": round(peak, 2)}
    row |= {"reference_ms_per_step": round(1000 * reference, 3), "ratio": round(reference / watch.step, 2)}
    return row, watch.weights


def empty(device: torch.device) -> None:
    """Give back the memory of what was measured before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def step_seconds(step: Callable[[], Tensor], duration: float) -> float:
    """Median seconds of a step that returns the loss; of one step alone where that takes longer than `duration`."""
    times, began = [], time.perf_counter()
    while len(times) < 3 or (len(times) < 10 and time.perf_counter() - began < 2 * duration):
        start = time.perf_counter()
        float(step())  # waits for it
        times.append(time.perf_counter() - start)
        if len(times) == 2 and times[1] > duration:
            break
    return statistics.median(times[2:] or times[1:])


def line(device: torch.device, kind: Kind, processes: int, step: float) -> dict:
    """step: seconds in which each process makes one. plan_seconds: of the device, for all trainings of the kind."""
    return {
        "hardware": hardware(device),
        **kind.about(),
        "processes": processes,
        "poses_per_second": round(processes * kind.run.poses_per_step / step),
        "ms_per_step": round(1000 * step, 3),
        "plan_seconds": round(kind.steps * step / processes, 1),
    }


def work(connection, barriers: dict, card: str) -> None:
    """A process that trains each kind that it is told to, at the same time as others."""
    os.environ["CUDA_VISIBLE_DEVICES"] = card  # in time: CUDA is not in use yet
    device = torch.device("cuda" if card else "cpu")
    while (order := connection.recv()) is not None:
        kind, processes, duration = order
        every = max(1, kind.every // 4)  # shorter intervals, in which all of them train
        try:
            watch = timed(kind, Watch(duration, every, ready=lambda n=processes: barriers[n].wait(120)), device)
            connection.send((watch.step, watch.weights))
        except Exception as error:
            barriers[processes].abort()
            connection.send(error)
        empty(device)


@contextlib.contextmanager
def workers(counts: tuple[int, ...], card: str) -> Iterator[list]:
    """As many processes as the largest of `counts`, by their connections."""
    context = multiprocessing.get_context("spawn")
    barriers = {count: context.Barrier(count) for count in counts}
    pairs = [context.Pipe() for _ in range(max(counts))]
    processes = [context.Process(target=work, args=(theirs, barriers, card), daemon=True) for _, theirs in pairs]
    for process in processes:
        process.start()
    try:
        yield [ours for ours, _ in pairs]
        for ours, _ in pairs:
            ours.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.terminate()


def together(kind: Kind, connections: list, device, duration: float, weights: float | None) -> dict:
    """The row of a kind that as many processes train at the same time.

    same_weights: how many of them have the weights of the training alone after CHECKED steps, to the last bit.
    """
    for connection in connections:
        connection.send((kind, len(connections), duration))
    answers = []
    for connection in connections:
        if not connection.poll(150):
            raise TimeoutError("a process does not answer")
        answers.append(connection.recv())
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    rate = sum(1 / step for step, _ in answers)  # steps a second of all
    row = line(device, kind, len(answers), len(answers) / rate)
    return row | {"same_weights": sum(theirs == weights for _, theirs in answers) if weights is not None else None}


def table(
    device: torch.device, profile: str = "open", most: int = 0, duration: float = 1.0, counts=(1, 2, 4)
) -> pd.DataFrame:
    """Every kind alone; then those that cost most, several at a time under MPS, for as long as BEGIN_BY allows.

    most: only so many kinds, those with the most steps in the plan; 0: all.
    """
    began = time.monotonic()
    wanted = kinds(profile)
    if most:
        wanted = sorted(wanted, key=lambda kind: -kind.steps)[:most]
    rows, weights, cost = [], {}, {}

    def add(row: dict) -> dict:
        rows.append(row)
        print(row, flush=True)
        return row

    for kind in wanted:
        try:
            row, weights[kind] = alone(kind, device, duration)
        except RuntimeError as error:  # as where its memory does not suffice; the others count
            print(f"not measured: {kind.about()}: {error}", flush=True)
            continue
        cost[kind] = add(row)["plan_seconds"]
    gpus = cards.visible()[:1]
    with cards.mps(gpus) if gpus else contextlib.nullcontext("no GPU") as why:
        if why:
            print(f"not measured several at a time: {why}", flush=True)
        else:
            with workers(counts, gpus[0]) as connections:
                try:
                    for kind in sorted(cost, key=lambda kind: -cost[kind]):
                        if time.monotonic() - began > BEGIN_BY:
                            break
                        for count in counts:
                            add(together(kind, connections[:count], device, duration, weights[kind]))
                except (RuntimeError, OSError, EOFError) as error:  # memory, or a process that ended: the rest counts
                    print(f"no more kinds are measured several at a time: {error!r}", flush=True)
    return pd.DataFrame(rows).assign(torch=torch.__version__)


def summary(speeds: pd.DataFrame) -> str:
    """A sentence on the hours of the whole plan, alone and by the best number of processes."""
    columns = ["network", "frames", "joints", "options", "poses_per_step", "optimizer"]
    of_kinds = speeds.groupby(columns, sort=False)["plan_seconds"]
    hours = of_kinds.first().sum() / 3600, of_kinds.min().sum() / 3600
    return f"all trainings of the plan, one after another: {hours[0]:.1f} GPU hours; by the best packing {hours[1]:.1f}"
