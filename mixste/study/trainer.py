"""Training and evaluating runs into the store, several at a time; interrupted trainings are resumed."""

import contextlib
import functools
import json
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mixste import checkpoints, evaluate, metrics
from mixste.accel import accelerate
from mixste.data.clips import Clip, PoseDataset
from mixste.io.files import replacing
from mixste.networks.references import ConstantPose, at_constant_level
from mixste.skeleton import Skeleton
from mixste.study import cards, states
from mixste.study.profiles import Profile
from mixste.study.progress import EVERY, Progress
from mixste.study.run import Data, Run, code_of_errors, describe, read_spec, spec
from mixste.study.store import (
    FAILED,
    FILES,
    WEIGHTS,
    FailedRun,
    Finished,
    RunError,
    environment,
    failure,
    is_whole,
    locked,
    outdated,
    remove,
    seal,
    store,
)
from mixste.train import train


def forget_failed(wanted: Iterable[Run]) -> None:
    """Remove the failed ones of these runs from the store, so that the next call trains them again."""
    for run in wanted:
        path = store() / run.id
        if (path / "failed.json").exists():
            with locked(path):
                shutil.rmtree(path, ignore_errors=True)


def lacking(wanted: Iterable[Run]) -> list[Run]:
    """The runs that must be trained: missing from the store or incomplete, and not failed.

    Seed by seed, so that a study that is interrupted has every row from its first seeds.
    """
    missing = [run for run in wanted if not is_whole(store() / run.id) and not failure(run)]
    return sorted(missing, key=lambda run: run.seed)  # a run starts from one of its own seed, which stays before it


def make(run: Run, title: str = "", report: Callable[[str], None] = lambda line: None) -> Finished:
    """The finished run: from the store, or trained now, or by another process while this one waits.

    If the code of the evaluation has changed, the errors are computed again from the weights. Raises FailedRun if the
    training fails or has failed before (it is tried again only after `forget_failed`), and RunError if errors must be
    computed again but the weights are missing.
    """
    path = store() / run.id
    if not is_whole(path) and not failure(run):
        if run.start is not None:
            with contextlib.suppress(FailedRun):  # which `failure` then tells of this one
                make(run.start, title and f"start of {title}", report)
        with locked(path, report):
            if not is_whole(path) and not failure(run):
                if path.exists() or path.is_symlink():
                    report(f"run {run.id} is damaged and will be made again")
                    remove(path)
                _make(run, path, title or run.id, report)
                report(f"run {run.id}: {failure(run) or 'trained'}")
    if why := failure(run):
        raise FailedRun(
            f"run {describe(run)} failed: {why}; `mixste train --retry-failed`, in its profile, tries it again"
        )
    finished = Finished(path)
    if outdated(run):
        for name in {file.name for file in path.iterdir()} & WEIGHTS:
            finished.file(name)  # RunError if it is damaged
        with locked(path, report):
            if outdated(run):
                _renew_errors(run, path, title or run.id, report)
    return finished


def make_as_planned(path: Path, retry_failed: bool = False) -> Finished:
    """`make` for the run in <id>.json of a batch. RunError if data or code differ from those of its plan."""
    run = read_spec(path)
    if run.id != path.stem:
        raise RunError(f"run {path.stem} was planned with other data or code than are here, where it would be {run.id}")
    if retry_failed:
        forget_failed([run])
    return make(run, report=lambda line: print(line, flush=True))


def make_all(wanted: list[Run], jobs: int | None = None, title: str = "runs", end: float = math.inf) -> str:
    """`make` for many runs, `jobs` at a time (default: one for each CPU core, or what `cards.shared` says of GPUs).

    end: when the running trainings are ended, by `time.monotonic`; the next call resumes them from their last state.
    If a training fails, the others are still made. Returns one sentence that names the failed ones, now or before;
    empty if there are none. Raises RunError, once the others are made, for a run whose process was ended from
    outside, and for one whose errors cannot be computed again, see `make`.
    """
    missing, killed = lacking(wanted), []
    renewed = [run for run in wanted if outdated(run)]
    without = [run for run in renewed if not _has_weights(run)]
    missing += [run for run in renewed if run not in without]
    with _places(len(missing), jobs) as places, Progress(len(missing), title) as progress:
        if len(places) > 1 or end < math.inf:
            ended = _in_workers(missing, places, progress, end)
        else:
            ended = _in_turn(missing, title, progress)
        with contextlib.suppress(TimeIsUp):
            for run, died in ended:
                killed += [run] if died else []
                progress.advance()
    if killed:
        raise RunError(
            f"the process that trained run {', '.join(map(describe, killed))} was ended from outside, perhaps for lack "
            "of memory; the same command goes on from there, and --jobs 1 needs the least memory"
        )
    if without:
        make(without[0])  # raises the error that names what is missing
    failed = {run: why for run in wanted if (why := failure(run))}
    named = "; ".join(f"{describe(run)}: {why}" for run, why in failed.items())
    return named and (
        f"{len(failed)} of {len(wanted)} runs failed, and tables leave them out: {named} "
        "(`mixste train --retry-failed`, in their profile, tries them again)"
    )


def warn_without_gpu(profile: Profile, missing: int) -> None:
    """Say, before it costs days, if so many trainings of a profile that needs a GPU would run on the CPU."""
    if missing and profile.gpu and not torch.cuda.is_available():
        print(
            f"mixste: profile {profile.name} is for a GPU, and PyTorch {torch.__version__} finds none here: the "
            f"{missing} missing runs are trained on the CPU, which may take weeks",
            file=sys.stderr,
            flush=True,
        )


def jobs_for(count: int, jobs: int | None = None) -> int:
    """The number of processes for `count` jobs: by default one for each CPU core, or one on a GPU."""
    return min(count, jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1))


@contextlib.contextmanager
def _places(count: int, jobs: int | None) -> Iterator[list[str]]:
    """The GPU of each of the processes for `count` trainings; empty where a process has no GPU to choose."""
    gpus = cards.visible() if count > 1 and torch.cuda.is_available() else []
    if not gpus:
        yield [""] * jobs_for(count, jobs)
        return
    with cards.shared(gpus, count, jobs, lambda line: print(line, flush=True)) as per_card:
        yield (gpus * per_card)[: min(count, jobs or count)]


def _in_turn(wanted: list[Run], title: str, progress: Progress) -> Iterator[tuple[Run, bool]]:
    """`make` for each run in this process; gives each as it ends, as `_in_workers` does."""
    for run in wanted:
        with contextlib.suppress(FailedRun):  # the store holds why
            make(run, title, progress.tell)
        yield run, False


class TimeIsUp(Exception):
    """The time for trainings is over, before they are."""


def _in_workers(
    wanted: list[Run], places: list[str], progress: Progress, end: float = math.inf
) -> Iterator[tuple[Run, bool]]:
    """`make` for each run in one of several processes; gives each as it ends, and whether its process died before it.

    places: the GPU of each process, see `_places`. Each process has its own pool: if one dies, its run is known, and no
    other run is lost. end: when TimeIsUp is raised, by `time.monotonic`.
    """
    context = multiprocessing.get_context("spawn")

    def pool(place: str) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, initializer=start_worker, initargs=(os.getpid(), place))

    waiting, idle, working = list(wanted), [(place, pool(place)) for place in reversed(places)], {}
    try:
        while waiting or working:
            if time.monotonic() >= end:
                raise TimeIsUp
            while waiting and idle:
                run, (place, worker) = waiting.pop(0), idle.pop()
                working[worker.submit(make, run)] = run, place, worker
            ended = wait(working, min(EVERY, end - time.monotonic()), return_when=FIRST_COMPLETED).done
            if not ended:
                progress.tell()
            for done in ended:
                run, place, worker = working.pop(done)
                killed = False
                try:
                    done.result()
                except FailedRun:
                    pass  # the store holds why
                except BrokenProcessPool:
                    killed, worker = True, pool(place)
                except torch.OutOfMemoryError:
                    raise RunError(
                        f"run {describe(run)} needs more memory than is left on its GPU, which {cards.sharing()} "
                        "trainings share: the same command with --jobs 1 goes on from there"
                    ) from None
                idle.append((place, worker))
                yield run, killed
        for _, worker in idle:
            worker.shutdown()
    except BaseException:  # Ctrl-C, a full disk, the end: the next call resumes the running trainings
        for *_, worker in [*idle, *working.values()]:
            worker.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def start_worker(parent: int, gpu: str = "") -> None:
    """Leave Ctrl-C to the parent, and end when it does, however it ended. gpu: the one to train on."""
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # in time: CUDA is not in use before the first network
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tqdm.set_lock(threading.RLock())  # by default one of all processes, of whose loss Python warns if this one is ended
    end_with(parent)


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, however that ended."""

    def watch():
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _make(run: Run, path: Path, title: str, report: Callable[[str], None]) -> None:
    part = path.with_suffix(".part")
    if not part.is_dir():
        remove(part)  # a file, or a link that leads nowhere
    part.mkdir(parents=True, exist_ok=True)
    if is_whole(part):  # killed on the last steps
        _rename(part, path)
        return
    for left in part.glob(".*"):  # by a process that was killed while it wrote
        left.unlink()
    with replacing(part / "spec.json") as file:
        file.write_text(spec(run))
    device = run_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    dataset = run.data.load()
    model = initial(run).to(device)
    network = evaluated(model)
    state = states.resume(part, run, [model])
    history = list(state["history"])
    curve = {row["step"]: row["test_mpjpe"] for row in history} if run.test_curve else {}

    def at_point(model, row):
        if run.test_curve:
            row["test_mpjpe"] = curve_mpjpe(network, dataset)
            if row["test_mpjpe"] < min(curve.values(), default=np.inf):
                checkpoints.save_checkpoint(model, states.best_weights(part, row["step"]))
            curve[row["step"]] = row["test_mpjpe"]
        history.append(row)
        report(f"run {run.id}: {min(1, row['poses'] / run.poses):.0%} trained, loss {row['loss']:.4f}")

    try:
        if model.closed_form:
            loss, poses = model.fit(dataset.train, dataset.skeleton), sum(map(len, dataset.train))
            history.append({"step": 1, "poses": poses, "epoch": 0, "learning_rate": 0.0, "loss": loss})
        else:
            train_run(run, model, dataset, part, at_point, title)
        end = time.monotonic()
        errors = _write_errors(part, run, network, dataset, title)
    except FloatingPointError as error:
        _record_failure(part, history, str(error).removeprefix(f"{title}: "), time.monotonic() - began)
        _rename(part, path)
        return

    with replacing(part / "history.csv") as file:
        pd.DataFrame(history).to_csv(file, index=False)
    checkpoints.save_checkpoint(model, part / "weights.safetensors")
    if curve:
        with replacing(part / "best.safetensors") as file:
            shutil.copyfile(states.best_weights(part, min(curve, key=curve.get)), file)
    about = environment() | {"training_seconds": end - began, "testing_seconds": time.monotonic() - end}
    about["layout"] = dataset.skeleton.name  # of the joints in errors.npz
    # The share of the training that the seconds do not include.
    about |= {"steps": history[-1]["step"], "resumed_at": state["step"] / history[-1]["step"]}
    with replacing(part / "environment.json") as file:
        file.write_text(json.dumps(about | errors, indent=1))
    seal(part)
    _rename(part, path)


def train_run(run: Run, model: torch.nn.Module, dataset: PoseDataset, folder: Path, at_point, title: str) -> None:
    """Train the network of a run in place, by its settings. This code is part of the run's identity."""
    train(
        *(model, dataset.train, dataset.skeleton, run.recipe, run.poses, run.seed, folder),
        points=run.points,
        at_point=at_point,
        title=title,
    )


def errors_of(
    network: torch.nn.Module, dataset: PoseDataset, progress: Callable[[int], None]
) -> tuple[pd.DataFrame, np.ndarray, float]:
    """Of a trained network: the errors by clip, by both protocols; those of every joint, (frames, joints); the MPJPE.

    Millimetres; MPJPE counts each frame once and is the average over actions. Errors by clip are of the test and, in
    rows that their column "split" tells apart, of the unseen takes; all else is of the test alone. FloatingPointError
    if a pose is not finite. This code is part of the identity of the errors.
    """
    tables, lifted = [], {}
    for split in ("test", "unseen_takes"):
        if clips := getattr(dataset, split):
            lifted[split] = _lift(network, clips, dataset.skeleton, progress)
            for protocol in ("authors", "exact"):
                errors = evaluate.score(lifted[split], clips, protocol, dataset.skeleton)
                tables.append(errors.assign(protocol=protocol, split=split))
    table = pd.concat(tables).round({"value": 4})
    joint = evaluate.joint_errors(lifted["test"], dataset.test, dataset.skeleton).astype(np.float16)  # to 1/16 mm
    return table, joint, evaluate.average(table.query("split == 'test' and protocol == 'exact'"))["MPJPE"]


def _write_errors(part: Path, run: Run, network: torch.nn.Module, dataset: PoseDataset, title: str) -> dict:
    """Evaluate a trained network into the folder of its run. Returns what environment.json tells of it.

    FloatingPointError if a pose that it predicts is not finite.
    """
    with tqdm(desc=f"{title}: testing", unit="frame", unit_scale=True, disable=None, leave=False) as bar:
        clips, joint, mpjpe = errors_of(network, dataset, bar.update)
    with replacing(part / "clips.csv") as file:
        clips.to_csv(file, index=False)
    with replacing(part / "errors.npz") as file:
        np.savez_compressed(file, joint=joint)
    about = {"code_of_errors": code_of_errors(run)}
    if not run.network_class.closed_form:
        level = {"mpjpe": mpjpe, "constant_pose_mpjpe": constant_pose_mpjpe(run.data)}
        about |= level | {"at_constant_level": at_constant_level(*level.values())}
    return about


def _renew_errors(run: Run, path: Path, title: str, report: Callable[[str], None]) -> None:
    """Compute a whole run's errors again, from its weights, with the current code.

    The run is replaced only when its new files are complete, so that nothing is lost if the process dies. RunError if
    its weights are missing.
    """
    if not _has_weights(run):
        raise RunError(
            f"run {run.id} is here without its weights.safetensors, and its errors were computed by other code: unpack "
            f"a bundle that holds it, or remove {path} to train again"
        )
    report(f"run {run.id}: its errors were computed by other code, and are computed again")
    device, dataset, part = run_device(), run.data.load(), path.with_suffix(".part")
    began = time.monotonic()
    remove(part)
    part.mkdir()
    for name in {file.name for file in path.iterdir()} & (FILES | WEIGHTS):
        shutil.copyfile(path / name, part / name)
    model = checkpoints.load_checkpoint(part / "weights.safetensors").to(device)
    try:
        errors = _write_errors(part, run, evaluated(model), dataset, title)
    except FloatingPointError as error:
        raise RunError(f"the errors of run {run.id} cannot be computed: {error}") from None
    about = json.loads((part / "environment.json").read_text(encoding="utf-8"))
    about |= {"testing_seconds": time.monotonic() - began} | errors
    with replacing(part / "environment.json") as file:
        file.write_text(json.dumps(about, indent=1))
    seal(part)
    remove(path)  # if the process dies here, the next call finds the complete run
    _rename(part, path)


def _has_weights(run: Run) -> bool:
    return (store() / run.id / "weights.safetensors").exists()


def run_device() -> torch.device:
    """Where a run is trained: the GPU, or else the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        # Sums depend on how many threads share them. One gives the same digits on any number of cores; several runs
        # at a time make use of those.
        torch.set_num_threads(1)
    return device


def evaluated(model: torch.nn.Module) -> torch.nn.Module:
    """The network that errors are measured with.

    On the CPU errors are the model's own to the last bit; on a GPU, up to rounding (results/bench/accuracy.csv).
    """
    return accelerate(model) if next(model.parameters()).is_cuda else model


def initial(run: Run) -> torch.nn.Module:
    """The network that a training starts with: untrained, from the seed, or that of `start`, adapted to this run."""
    if run.start is None:
        return run.build()
    return checkpoints.transfer(make(run.start).model(), run.frames, run.start.data.layout, run.data.layout).train()


@functools.lru_cache(maxsize=16)
def constant_pose_mpjpe(data: Data) -> float:
    """Millimetres, average over actions, each frame once. A network must be well below it, see `references`."""
    return constant_pose_of(data.load())


def constant_pose_of(dataset: PoseDataset) -> float:
    model = ConstantPose(joints=len(dataset.skeleton.joints))
    model.fit(dataset.train, dataset.skeleton)
    lifted = _lift(model, dataset.test, dataset.skeleton)
    return evaluate.average(evaluate.score(lifted, dataset.test, "exact", dataset.skeleton))["MPJPE"]


def curve_mpjpe(network: torch.nn.Module, dataset: PoseDataset) -> float:
    """MPJPE on the test clips by the authors' protocol, millimetres, on average over actions.

    The same as `evaluate.average` of `evaluate.score`, without the other metrics: it chooses the best weights, so this
    code is part of the run's identity, which a change of another metric must leave alone.
    """
    sums = defaultdict(lambda: np.zeros(2))  # of an action: errors, frames
    for clip, (indices, poses) in zip(dataset.test, _lift(network, dataset.test, dataset.skeleton), strict=True):
        target = (clip.poses - clip.poses[:, [dataset.skeleton.root]])[indices]
        valid = np.ones(len(indices), bool) if clip.valid is None else clip.valid[indices]
        if frames := int(valid.sum()):
            error = metrics.mpjpe(poses[valid] * 1000, target[valid] * 1000)
            sums[clip.action] += [error * frames, frames]
    return float(np.mean([total / frames for total, frames in sums.values()]))


def _lift(
    model: torch.nn.Module, clips: list[Clip], skeleton: Skeleton, progress=lambda frames: None
) -> evaluate.Predictions:
    """The poses predicted for clips. FloatingPointError if one is not finite."""
    lifted = evaluate.lift_clips(model, clips, skeleton, progress=progress)
    if not all(np.isfinite(poses).all() for _, poses in lifted):
        raise FloatingPointError("the poses that it lifts are not finite")
    return lifted


def _record_failure(part: Path, history: list[dict], reason: str, seconds: float) -> None:
    """Keep the settings, the curve so far and the reason of a failed training."""
    columns = list(history[0] if history else ("step", "poses", "epoch", "learning_rate", "loss"))
    with replacing(part / "history.csv") as file:
        pd.DataFrame(history, columns=columns).to_csv(file, index=False)
    about = environment() | {"training_seconds": seconds, "testing_seconds": 0.0}
    for name, content in (("failed.json", {"reason": reason}), ("environment.json", about)):
        with replacing(part / name) as file:
            file.write_text(json.dumps(content, indent=1))
    for file in part.iterdir():
        if file.name not in FAILED:
            file.unlink()
    seal(part)


def _rename(part: Path, path: Path) -> None:
    """Give a whole run its final name, without the temporary files of its training."""
    for file in part.iterdir():
        if file.name not in {"manifest.json"} | FILES | WEIGHTS | FAILED:
            file.unlink()
    os.replace(part, path)
