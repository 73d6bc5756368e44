"""The store of runs: each distinct training of the study happens once, and is found again by what it was.

`runs/<id>/` holds spec.json, history.csv (the learning curve), clips.csv (errors by clip, both protocols), errors.npz
(every joint in every test frame), weights.safetensors, environment.json and manifest.json with the hash of each. A run
is made in `runs/<id>.part/`, under a lock, and renamed when whole: what is half-made is never read, and taken up again.
A training that failed is kept too, so that it is not tried again unasked: failed.json, with the reason, stands in the
place of errors and weights. Several processes, on one machine or on several that share the folder, may work on one
store at a time.
"""

import ast
import contextlib
import functools
import hashlib
import io
import json
import math
import multiprocessing
import os
import platform
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

import mixste
from mixste import checkpoints, data, evaluate, losses
from mixste.data.clips import PoseDataset
from mixste.data.splits import by_takes, in_layout, validating
from mixste.io.files import replacing
from mixste.io.install import HOME, PACKAGE
from mixste.networks.references import REFERENCES, ConstantPose, at_constant_level
from mixste.skeleton import SKELETONS, Skeleton, human36m
from mixste.study import states
from mixste.study.progress import EVERY, Progress
from mixste.study.states import StateError
from mixste.train import AUTHORS, Recipe, seed_of, train

# The repository's folder, whose results/ and figures/ are the study as it was published; without it the current one.
ROOT = HOME

# Code that a run's outcome depends on, besides what made its data, which has a fingerprint of its own. Not `fast` and
# `kernels`: they compute what `model` does up to rounding, which tests hold them to, and which another GPU or another
# PyTorch changes too; a faster kernel leaves GPU days of runs what they are.
CODE = (
    *("model", "networks/videopose3d", "networks/poseformer", "losses", "metrics", "train", "predict", "evaluate"),
    *("skeleton", "camera", "data/windows", "data/augment"),
)
# What every run holds, and what it may have left behind where it was made: a hundred times the rest in size.
FILES = {"spec.json", "history.csv", "clips.csv", "errors.npz", "environment.json"}
FAILED = {"spec.json", "history.csv", "failed.json", "environment.json"}  # what a failed one holds instead
WEIGHTS = {"weights.safetensors", "best.safetensors"}
NAME = re.compile(r"[0-9a-f]{12}(\.part)?")  # of a run's folder in the store
SYNTHETIC_CODE = ("skeleton", "camera", "data/virtual", "data/sources/synthetic", "data/splits")


@dataclass(frozen=True)
class Data:
    """What a run reads: the arguments of `mixste.data.load`, and a choice of clips.

    skeleton: another layout than the source's, for stand-ins. subjects, actions: only these (empty: all). split:
    "published" for the source's own; "everyone" trains on its validation people too; "takes" trains and tests on the
    same people, as HumanEva does, the last take of each action being the test; "validation" tests on the people whom
    the source sets apart for choosing settings, or else on the last of those it trains on. test_cameras: test on the
    clips of the first so many cameras (0: all), where every view would cost more than it tells.
    """

    source: str
    keypoints: str = "gt"
    rig: str | None = None
    skeleton: str | None = None
    subjects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    split: str = "published"
    test_cameras: int = 0

    def load(self) -> PoseDataset:
        return _load(self)

    @property
    def fingerprint(self) -> str:
        """Of all that this reads; the synthetic source is what its code makes, and need not be made to be known."""
        if self.source != "synthetic":
            return self.load().fingerprint
        cameras = [path.read_text() for path in sorted((PACKAGE / "data" / "sources").glob("*_cameras.json"))]
        return hashlib.sha256(f"{self} {code_fingerprint(SYNTHETIC_CODE)} {cameras}".encode()).hexdigest()[:16]

    @property
    def layout(self) -> Skeleton:
        if self.skeleton:
            return SKELETONS[self.skeleton]
        return human36m if self.source == "synthetic" else self.load().skeleton


@functools.lru_cache(maxsize=4)
def _load(wanted: Data) -> PoseDataset:
    options = {"rig": wanted.rig} if wanted.rig else {}
    dataset = data.load(wanted.source, keypoints=wanted.keypoints, **options)
    if wanted.skeleton:
        dataset = in_layout(dataset, SKELETONS[wanted.skeleton])
    dataset = dataset.select(wanted.subjects or None, wanted.actions or None)
    if wanted.split == "takes":
        dataset = by_takes(dataset)
    elif wanted.split == "validation":
        dataset = validating(dataset)
    elif wanted.split == "everyone":
        dataset = replace(dataset, train=dataset.train + dataset.validation, validation=[])
    if wanted.test_cameras:
        cameras = sorted({clip.camera for clip in dataset.test})[: wanted.test_cameras]
        dataset = replace(dataset, test=[clip for clip in dataset.test if clip.camera in cameras])
    return dataset


@dataclass(frozen=True)
class Run:
    """One training and its evaluation, complete: whatever changes the outcome is in here, in the data, or in `CODE`.

    model: of `checkpoints.MODELS`; one of `references` is fitted in closed form, by no recipe, and poses are 0 then.
    options: of the network, besides frames and what the recipe sets; also as a dict. poses: length of training, in
    poses supervised. start: the run whose last weights this one begins with (fine-tuning). test_curve: evaluate on the
    test clips along the way and keep the best weights beside the last, which is how the authors chose theirs (notebook
    13, row 25).
    """

    data: Data
    frames: int
    poses: int
    seed: int
    model: str = "mixste"
    options: tuple[tuple[str, int | float | bool], ...] = ()
    recipe: Recipe = AUTHORS
    start: "Run | None" = None
    test_curve: bool = False

    def __post_init__(self):  # in one order, so that equal runs have one name
        object.__setattr__(self, "options", tuple(sorted(dict(self.options).items())))

    @property
    def id(self) -> str:
        return _id(self)

    def build(self) -> torch.nn.Module:
        """The untrained network, from the seed; or the trained one of `start`, made to fit."""
        if self.start is not None:
            begun = make(self.start).model()
            if self.model == "mixste":
                begun = checkpoints.transfer(begun, self.frames, self.start.data.layout, self.data.layout)
            return begun.train()
        torch.manual_seed(seed_of(self.seed, 2))
        return self.network(len(self.data.layout.joints))

    def network(self, joints: int) -> torch.nn.Module:
        options = {"frames": self.frames, "joints": joints, **dict(self.options)}
        if self.model == "mixste":
            for name in ("dropout", "drop_path", "attention_scale", "embedding_norm"):
                options[name] = getattr(self.recipe, name)
        return checkpoints.MODELS[self.model](**options)

    @property
    def poses_per_step(self) -> int:
        """Poses supervised in a step: of whole windows of T frames, or of their centres alone for the peers."""
        window = self.frames if self.model == "mixste" else 1
        return max(1, self.recipe.batch_frames // window) * window

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.poses / self.poses_per_step))

    @property
    def points(self) -> int:
        """Rows of the learning curve."""
        return 5 if self.test_curve else 20


@functools.lru_cache(maxsize=4096)
def _id(run: Run) -> str:
    parts = [spec(run), run.data.fingerprint, code_fingerprint(CODE)]
    parts += [run.start.id, code_fingerprint(("checkpoints",))] if run.start else [""]  # which fits one to the other
    parts += [_code(losses.own_code(name)[1]) for name, _ in run.recipe.loss if losses.is_own(name)]
    parts += [code_fingerprint(("networks/references",))] if run.model in REFERENCES else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def spec(run: Run) -> str:
    return json.dumps(asdict(run), indent=1, sort_keys=True)


@functools.cache
def code_fingerprint(modules: tuple[str, ...]) -> str:
    """Hash of what the code of some modules does: comments, docstrings and formatting do not count.

    The same on every version of Python, so that a run made on one machine is found on another.
    """
    digest = hashlib.sha256()
    for name in modules:
        digest.update(_code((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def _code(text: str) -> str:
    return repr(_outline(ast.parse(text)))


def _outline(node):
    """A syntax tree as plain values, without docstrings, and without the empty fields that versions of Python add."""
    if isinstance(node, list):
        return [_outline(item) for item in node]
    if not isinstance(node, ast.AST):
        return node
    fields = dict(ast.iter_fields(node))
    body = fields.get("body")
    if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        fields["body"] = body[1:]
    return [
        type(node).__name__,
        *((name, _outline(value)) for name, value in fields.items() if value not in (None, [])),
    ]


def read_spec(path: Path) -> Run:
    """The run that a spec.json describes. ValueError if it describes none."""
    try:
        return _run(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected the settings of a run in {path}: {error}") from None


def _run(spec: dict) -> Run:
    start = spec["start"] and _run(spec["start"])
    data, recipe = Data(**_tuples(spec["data"])), Recipe(**_tuples(spec["recipe"]))
    return Run(**_tuples(spec) | {"data": data, "recipe": recipe, "start": start})


def _tuples(value):
    """JSON's lists are our tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class RunError(RuntimeError):
    """A run that cannot be read; the message says which, and what is wrong with it."""


class FailedRun(RunError):
    """A run whose training failed; the message says which, and why."""


@dataclass(frozen=True)
class Finished:
    """A whole run in the store. Every file is checked against its hash as it is read.

    RunError if it differs; the run then no longer counts as whole, and the next call makes it again.
    """

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def file(self, name: str) -> Path:
        if not self._holds(name):
            with locked(self.path):  # not while another process replaces it
                if not self._holds(name):
                    (self.path / "manifest.json").unlink(missing_ok=True)
                    raise RunError(f"run {self.id}: {name} is not what was written; the next call makes the run again")
        return self.path / name

    def _holds(self, name: str) -> bool:
        manifest = _manifest(self.path)
        return manifest is not None and _hash(self.path / name) == manifest["files"].get(name)

    @property
    def history(self) -> pd.DataFrame:
        return pd.read_csv(self.file("history.csv"))

    @property
    def clips(self) -> pd.DataFrame:
        """The table of `mixste.evaluate.evaluate`, with a column protocol."""
        return pd.read_csv(self.file("clips.csv"), dtype={"take": str}, keep_default_na=False)

    @property
    def joint_errors(self) -> np.ndarray:
        """Millimetres, (test frames, joints), each frame once."""
        with np.load(self.file("errors.npz"), allow_pickle=False) as arrays:
            return arrays["joint"].astype(np.float32)

    @property
    def environment(self) -> dict:
        return json.loads(self.file("environment.json").read_text())

    @property
    def at_constant_level(self) -> bool:
        """Whether the network has learned little else than a constant pose, see `mixste.networks.references`."""
        return self.environment.get("at_constant_level", False)

    def model(self, which: str = "weights") -> torch.nn.Module:
        """The trained network: "weights" at the end, or "best" on the test clips where the run kept it.

        RunError if the run was brought here without.
        """
        name = f"{which}.safetensors"
        if name not in (_manifest(self.path) or {"files": {name}})["files"]:
            raise RunError(
                f"run {self.id} is here without its {name}: unpack a parcel that holds it, or remove {self.path} to "
                "train again"
            )
        return checkpoints.load_checkpoint(self.file(name))


def store() -> Path:
    return Path(os.environ.get("MIXSTE_RUNS", ROOT / "runs"))


def output() -> Path:
    """The folder in which notebooks write results/, figures/ and executed copies: the store, or MIXSTE_OUT.

    Never the repository's own, which `publish` alone writes.
    """
    return Path(os.environ.get("MIXSTE_OUT", store()))


def shown(path: Path) -> Path:
    """A path as messages give it: relative to the repository where it lies inside."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def so_far() -> bool:
    """Whether nothing is to be trained, see `mixste.study.report.trained`."""
    return os.environ.get("MIXSTE_SO_FAR") == "1"


def is_whole(path: Path) -> bool:
    """All files are there as they were written: in their size and, where one has changed since, by its hash.

    Hashing all of a large store at each call would take minutes; `Finished` hashes whatever it reads.
    """
    manifest = _manifest(path)
    if manifest is None:
        return False
    try:
        sealed = (path / "manifest.json").stat().st_mtime_ns
        for name, size in manifest["sizes"].items():
            stat = (path / name).stat()
            changed = stat.st_mtime_ns >= sealed
            if stat.st_size != size or (changed and _hash(path / name) != manifest["files"][name]):
                return False
    except OSError:
        return False
    return True


def failure(run: Run) -> str:
    """Why the training of this run failed, or of the run that it starts from; empty if neither did."""
    path = store() / run.id
    if is_whole(path):
        failed = path / "failed.json"
        return json.loads(failed.read_text())["reason"] if failed.exists() else ""
    why = failure(run.start) if run.start else ""
    return why and f"run {run.start.id}, from which it starts, failed: {why}"


def forget_failed(wanted: Iterable[Run]) -> None:
    """Remove the failed ones of these runs from the store, so that the next call trains them again."""
    for run in wanted:
        path = store() / run.id
        if (path / "failed.json").exists():
            with locked(path):
                shutil.rmtree(path, ignore_errors=True)


def lacking(wanted: Iterable[Run]) -> list[Run]:
    """Those that are to be trained: not in the store, or not whole, and not failed."""
    return [run for run in wanted if not is_whole(store() / run.id) and not failure(run)]


def collect(finished: list[Finished]) -> pd.DataFrame:
    """The errors by clip of many runs as one table, with a column run: read at once, where one by one takes seconds."""
    tables = [run.file("clips.csv").read_text(encoding="utf-8") for run in finished]
    heads, bodies = zip(*(table.split("\n", 1) for table in tables), strict=True)
    text = io.StringIO("\n".join([heads[0], "".join(bodies)]))
    table = pd.read_csv(text, dtype={"take": str}, keep_default_na=False)
    return table.assign(run=np.repeat([run.id for run in finished], [body.count("\n") for body in bodies]))


def listing() -> pd.DataFrame:
    """Every run in the store, finished or not, one a row: id, state, settings, MPJPE by the authors' protocol, cost.

    Whatever has the name of a run and is none, or cannot be read, is a row too, "damaged".
    """
    rows = [_listed(path) for path in sorted(store().glob("*")) if NAME.fullmatch(path.name)]
    if not rows:
        return pd.DataFrame(columns=["run", "state"])
    table = pd.DataFrame(rows)
    finished = [Finished(store() / name) for name in table["run"][table["state"] == "finished"]]
    try:
        errors = _errors(finished)
    except Exception:  # of a table that is not what a run holds: which one, takes longer to find
        errors = {}
        for run in finished:
            try:
                errors |= _errors([run])
            except Exception:
                table.loc[table["run"] == run.id, "state"] = "damaged"
    if errors:
        table["MPJPE"] = table["run"].map(errors)
    return table


def _listed(path: Path) -> dict[str, object]:
    """The row of one run, but for its error."""
    row = {"run": path.stem, "state": "unfinished" if path.suffix and path.is_dir() else "damaged"}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        spec = json.loads((path / "spec.json").read_text(encoding="utf-8"))
        settings = {key: spec[key] for key in ("model", "frames", "poses", "seed")}
        row |= settings | {key: spec["data"][key] for key in ("source", "keypoints")}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RunError):
        if not path.suffix and is_whole(path):
            run = Finished(path)
            if (path / "failed.json").exists():
                row["state"] = "failed"
            else:
                run.file("clips.csv")
                row |= {"seconds": float(run.environment["training_seconds"]), "state": "finished"}
    with contextlib.suppress(OSError):
        row["MiB"] = sum(file.lstat().st_size for file in path.iterdir()) / 2**20
    return row


def _errors(finished: list[Finished]) -> dict[str, float]:
    """MPJPE of each run by the authors' protocol, mm, on average over actions."""
    if not finished:
        return {}
    clips = collect(finished).query("protocol == 'authors' and metric == 'MPJPE'")
    clips = clips.assign(total=clips["value"] * clips["frames"])
    actions = clips.groupby(["run", "action"])[["total", "frames"]].sum()
    return (actions["total"] / actions["frames"]).groupby("run").mean().to_dict()


def make(run: Run, title: str = "", report: Callable[[str], None] = lambda line: None) -> Finished:
    """The finished run: found in the store, or trained now, or finished by another process while this one waits.

    Raises FailedRun if the training fails, or failed before: it is tried again only after `forget_failed`.
    """
    path = store() / run.id
    if not is_whole(path) and not failure(run):
        if so_far():
            raise RunError(f"{title or run.id} is not trained yet, and MIXSTE_SO_FAR=1 trains nothing")
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
    return Finished(path)


def describe(run: Run) -> str:
    """A run in a few words, for messages."""
    return f"{run.id} ({run.model}, T={run.frames}, {run.data.source}, seed {run.seed})"


def make_as_planned(path: Path, retry_failed: bool = False) -> Finished:
    """`make` for the run that <id>.json of a batch describes. RunError where data or code are not those of its plan."""
    run = read_spec(path)
    if run.id != path.stem:
        raise RunError(f"run {path.stem} was planned with other data or code than are here, where it would be {run.id}")
    if retry_failed:
        forget_failed([run])
    return make(run, report=lambda line: print(line, flush=True))


def make_all(wanted: list[Run], jobs: int | None = None, title: str = "runs") -> str:
    """`make` for many runs, `jobs` at a time (default: one for each CPU core, or one on a GPU).

    A training that fails does not keep the others from being made. Returns one sentence that names those that failed,
    now or before; empty if none did. Raises RunError, once the others are made, for a run whose process was ended from
    outside.
    """
    missing, killed = lacking(wanted), []
    jobs = min(len(missing), jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1))
    with Progress(len(missing), title) as progress:
        ended = _in_workers(missing, jobs, progress) if jobs > 1 else _in_turn(missing, title, progress)
        for run, died in ended:
            killed += [run] if died else []
            progress.advance()
    if killed:
        raise RunError(
            f"the process that trained run {', '.join(map(describe, killed))} was ended from outside, perhaps for lack "
            "of memory; the same command goes on from there, and --jobs 1 needs the least memory"
        )
    failed = {run: why for run in wanted if (why := failure(run))}
    named = "; ".join(f"{describe(run)}: {why}" for run, why in failed.items())
    return named and (
        f"{len(failed)} of {len(wanted)} runs failed, and tables leave them out: {named} "
        "(`mixste train --retry-failed`, in their profile, tries them again)"
    )


def _in_turn(wanted: list[Run], title: str, progress: Progress) -> Iterator[tuple[Run, bool]]:
    """`make` for each run in this process; gives each as it ends, as `_in_workers` does."""
    for run in wanted:
        with contextlib.suppress(FailedRun):  # the store holds why
            make(run, title, progress.tell)
        yield run, False


def _in_workers(wanted: list[Run], jobs: int, progress: Progress) -> Iterator[tuple[Run, bool]]:
    """`make` for each run in one of `jobs` processes; gives each as it ends, and whether its process died before it.

    Each process has a pool of its own, so that it is known which run a dead one was at, and no other is lost with it.
    """
    context = multiprocessing.get_context("spawn")

    def pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, context, initializer=_worker, initargs=(os.getpid(),))

    waiting, idle, working = list(wanted), [pool() for _ in range(jobs)], {}
    try:
        while waiting or working:
            while waiting and idle:
                run, worker = waiting.pop(0), idle.pop()
                working[worker.submit(make, run)] = run, worker
            ended = wait(working, EVERY, return_when=FIRST_COMPLETED).done
            if not ended:
                progress.tell()
            for done in ended:
                run, worker = working.pop(done)
                killed = False
                try:
                    done.result()
                except FailedRun:
                    pass  # the store holds why
                except BrokenProcessPool:
                    killed, worker = True, pool()
                idle.append(worker)
                yield run, killed
        for worker in idle:
            worker.shutdown()
    except BaseException:  # Ctrl-C, a full disk: what is running is taken up again by the next call
        for worker in [*idle, *(worker for _, worker in working.values())]:
            worker.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it does, however it ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        # Sums depend on how many threads share them. One gives the same digits on any number of cores; several runs
        # at a time make use of those.
        torch.set_num_threads(1)
    began = time.monotonic()
    dataset = run.data.load()
    model = run.build().to(device)
    begun = taken_up(part, run, [model])
    history = list(begun["history"])
    curve = {row["step"]: row["test_mpjpe"] for row in history} if run.test_curve else {}

    def at_point(model, row):
        if run.test_curve:
            table = evaluate.score(_lift(model, dataset), dataset.test, "authors", dataset.skeleton)
            row["test_mpjpe"] = evaluate.average(table)["MPJPE"]
            if row["test_mpjpe"] < min(curve.values(), default=np.inf):
                checkpoints.save_checkpoint(model, _best(part, row["step"]))
            curve[row["step"]] = row["test_mpjpe"]
        history.append(row)
        report(f"run {run.id}: {min(1, row['poses'] / run.poses):.0%} trained, loss {row['loss']:.4f}")

    try:
        if run.model in REFERENCES:
            loss, fitted = model.fit(dataset.train, dataset.skeleton), sum(map(len, dataset.train))
            history.append({"step": 1, "poses": fitted, "epoch": 0, "learning_rate": 0.0, "loss": loss})
        else:
            train(
                *(model, dataset.train, dataset.skeleton, run.recipe, run.poses, run.seed, part),
                points=run.points,
                at_point=at_point,
                title=title,
            )
        trained = time.monotonic()
        with tqdm(desc=f"{title}: testing", unit="frame", unit_scale=True, disable=None, leave=False) as bar:
            lifted = _lift(model, dataset, bar.update)
    except FloatingPointError as error:
        _record_failure(part, history, str(error).removeprefix(f"{title}: "), time.monotonic() - began)
        _rename(part, path)
        return
    tables = [
        evaluate.score(lifted, dataset.test, protocol, dataset.skeleton).assign(protocol=protocol)
        for protocol in ("authors", "exact")
    ]
    joint = evaluate.joint_errors(lifted, dataset.test, dataset.skeleton)

    with replacing(part / "history.csv") as file:
        pd.DataFrame(history).to_csv(file, index=False)
    with replacing(part / "clips.csv") as file:
        pd.concat(tables).round({"value": 4}).to_csv(file, index=False)
    with replacing(part / "errors.npz") as file:
        np.savez_compressed(file, joint=joint.astype(np.float16))  # to 1/16 mm at 100 mm
    checkpoints.save_checkpoint(model, part / "weights.safetensors")
    if curve:
        with replacing(part / "best.safetensors") as file:
            shutil.copyfile(_best(part, min(curve, key=curve.get)), file)
    about = environment() | {"training_seconds": trained - began, "testing_seconds": time.monotonic() - trained}
    about["resumed_at"] = begun["step"] / history[-1]["step"]  # the share of the training that these seconds are not of
    if run.model not in REFERENCES:
        level = {"mpjpe": evaluate.average(tables[1])["MPJPE"], "constant_pose_mpjpe": constant_pose_mpjpe(run.data)}
        about |= level | {"at_constant_level": at_constant_level(*level.values())}
    with replacing(part / "environment.json") as file:
        file.write_text(json.dumps(about, indent=1))
    seal(part)
    _rename(part, path)


@functools.lru_cache(maxsize=16)
def constant_pose_mpjpe(data: Data) -> float:
    """Millimetres, average over actions, each frame once: what a network must be well below, see `references`."""
    dataset = data.load()
    model = ConstantPose(joints=len(dataset.skeleton.joints))
    model.fit(dataset.train, dataset.skeleton)
    return evaluate.average(evaluate.score(_lift(model, dataset), dataset.test, "exact", dataset.skeleton))["MPJPE"]


def _lift(model: torch.nn.Module, dataset: PoseDataset, progress=lambda frames: None) -> evaluate.Predictions:
    """The test clips, lifted. FloatingPointError if a pose is not finite, of which no error could be told."""
    lifted = evaluate.lift_clips(model, dataset.test, dataset.skeleton, progress=progress)
    if not all(np.isfinite(poses).all() for _, poses in lifted):
        raise FloatingPointError("the poses that it lifts are not finite")
    return lifted


def _record_failure(part: Path, history: list[dict], reason: str, seconds: float) -> None:
    """What is kept of a training that failed: its settings, its curve up to there, and why."""
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
    """Give a whole run its name, without what it took to make it."""
    for file in part.iterdir():
        if file.name not in {"manifest.json"} | FILES | WEIGHTS | FAILED:
            file.unlink()
    os.replace(part, path)


def _best(part: Path, step: int) -> Path:
    """The weights kept at a point of the test curve, until it is known whether they stay the best."""
    return part / f"best-{step}.safetensors"


def taken_up(part: Path, run: Run, networks: list[torch.nn.Module]) -> dict:
    """What a killed training left: its step and history. A state of no use is removed, and the training begins again.

    networks: the one that is trained, or all that it may be.
    """
    path = part / "state.pt"
    try:
        state = whole_state(part, run, networks)
    except FileNotFoundError:
        return {"step": 0, "history": []}
    except StateError as error:
        print(
            f"{path}: expected the state of this training, found {error}; it is removed, and the training begins again",
            flush=True,
        )
        remove(path)
        return {"step": 0, "history": []}
    if len(state["rng"]) > 1 and not torch.cuda.is_available():  # begun on a GPU: only the CPU's numbers go on here
        with replacing(path) as file:
            torch.save(state | {"rng": state["rng"][:1]}, file)
    return state


def whole_state(part: Path, run: Run, networks: list[torch.nn.Module]) -> dict:
    """The state that a killed training left, with the best weights that it tells of: StateError unless both are whole.

    FileNotFoundError if it left none.
    """
    state = states.read(part / "state.pt", run, networks)
    if run.test_curve and state["history"]:
        best = min(state["history"], key=lambda row: row["test_mpjpe"])["step"]
        try:
            weights = checkpoints.load_checkpoint(_best(part, best)).state_dict()
        except checkpoints.CheckpointError:
            weights = {}
        if not states.same(weights, state["model"]):
            raise StateError(f"none of its best weights, those of step {best}")
    return state


def remove(path: Path) -> None:
    """A file, a link or a folder, whichever is there; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Write the manifest of a run's files, once they are on the disk: from then on it counts as whole."""
    files = [folder / name for name in sorted(FILES | WEIGHTS | FAILED) if (folder / name).exists()]
    for file in files:
        with open(file, "rb") as written:
            os.fsync(written.fileno())
    manifest = {
        "files": {file.name: _hash(file) for file in files},
        "sizes": {file.name: file.stat().st_size for file in files},
    }
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(json.dumps(manifest, indent=1))


@contextlib.contextmanager
def locked(path: Path, report: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """One process at a time at what is or will be `path`; the system frees the lock of a process that dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report(f"{path.name} is being made by another process: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def busy(path: Path) -> bool:
    """Whether a process works at this moment on what is or will be `path`."""
    if not path.with_suffix(".lock").exists():
        return False
    try:
        with FileLock(path.with_suffix(".lock"), timeout=0):
            return False
    except Timeout:
        return True


def _manifest(path: Path) -> dict | None:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        whole = any(names <= manifest["files"].keys() for names in (FILES, FAILED))
        return manifest if whole and manifest["files"].keys() == manifest["sizes"].keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def environment() -> dict[str, str]:
    """What may change digits or speed."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "device": device,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "mixste": mixste.__version__,
    }
