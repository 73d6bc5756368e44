"""The store of runs: each distinct training of the study is run once and looked up by its settings.

`runs/<id>/` holds spec.json, history.csv (the learning curve), clips.csv (errors by clip, both protocols, of the test
and of unseen takes, which column split tells apart), errors.npz (every joint in every test frame), weights.safetensors,
environment.json and manifest.json with the hash of each. A run is written to `runs/<id>.part/`, under a lock, and
renamed when complete: an incomplete one is resumed, not read. A failed training is kept too, with failed.json (the
reason) instead of errors and weights, and is tried again only on request. Several processes, on one machine or on
several that share the folder, may work on one store at a time.
"""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

import mixste
from mixste import checkpoints
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import CHECKOUT, HOME
from mixste.network import NETWORKS
from mixste.study import cards
from mixste.study.run import Run, code_of_errors, run_of

# The repository, whose results/ and figures/ are the published study; in an installation without it, the current
# folder.
ROOT = HOME

FILES = {"spec.json", "history.csv", "clips.csv", "errors.npz", "environment.json"}  # files of every run
FAILED = {"spec.json", "history.csv", "failed.json", "environment.json"}  # files of a failed run
WEIGHTS = {"weights.safetensors", "best.safetensors"}  # a hundred times larger than the rest; a run may lack them
NAME = re.compile(r"[0-9a-f]{12}(\.part)?")  # of a run's folder in the store


class RunError(RuntimeError):
    """A run that cannot be read; the message names it and the fault."""


class FailedRun(RunError):
    """A run whose training failed; the message names it and the reason."""


class NotHere(RunError):
    """A trained network is needed that is not in the store, by code that does not train."""

    def _render_traceback_(self) -> list[str]:  # which Jupyter shows instead of a traceback
        return [str(self)]


@dataclass(frozen=True)
class Finished:
    """A complete run in the store. Each file is checked against its hash when it is read.

    RunError if it differs; the run then counts as incomplete, and the next call makes it again.
    """

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    def file(self, name: str) -> Path:
        if not self._holds(name):
            with locked(self.path):  # another process may be replacing it
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
        """The table of `mixste.evaluate.evaluate` of the test clips, with a column protocol."""
        return _read_clips(self.file("clips.csv")).query("split == 'test'").drop(columns="split")

    @property
    def unseen_takes(self) -> pd.DataFrame:
        """The same of the takes of training subjects that were not trained on; empty where none are kept back."""
        return _read_clips(self.file("clips.csv")).query("split == 'unseen_takes'").drop(columns="split")

    @property
    def joint_errors(self) -> np.ndarray:
        """Millimetres, (test frames, joints), each frame once."""
        with np.load(self.file("errors.npz"), allow_pickle=False) as arrays:
            return arrays["joint"].astype(np.float32)

    @property
    def environment(self) -> dict:
        return json.loads(self.file("environment.json").read_text())

    @property
    def failed(self) -> str:
        """Why the training failed; empty if it did not."""
        if not (self.path / "failed.json").exists():
            return ""
        return json.loads(self.file("failed.json").read_text())["reason"]

    def model(self, which: str = "weights") -> torch.nn.Module:
        """The trained network: "weights" at the end, or "best" on the test clips where the run kept it.

        RunError if the run lacks it.
        """
        name = f"{which}.safetensors"
        if name not in (_manifest(self.path) or {"files": {name}})["files"]:
            raise RunError(
                f"run {self.id} is here without its {name}: unpack a bundle that holds it, or remove {self.path} to "
                "train again"
            )
        return checkpoints.load_checkpoint(self.file(name))


def store() -> Path:
    return Path(os.environ.get("MIXSTE_RUNS", ROOT / "runs"))


def output() -> Path:
    """The folder in which notebooks write results/, figures/ and executed copies: the store, or MIXSTE_OUT.

    Never the published ones of the repository, which only tools/publish.py writes.
    """
    return Path(os.environ.get("MIXSTE_OUT", store()))


def shown(path: Path) -> Path:
    """A path for messages: relative to the repository if it is inside."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def is_whole(path: Path) -> bool:
    """Whether all files are as written, by their sizes, and by the hash if a file was modified later.

    Hashing all files of a large store at each call would take minutes; `Finished` hashes each file that it reads.
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


def outdated(run: Run, path: Path | None = None) -> bool:
    """Whether the errors of a complete run, in the store or in folder `path`, come from outdated code."""
    path = path or store() / run.id
    if (path / "failed.json").exists() or not is_whole(path):
        return False
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a damaged file is reported where it is read
        about = json.loads((path / "environment.json").read_text(encoding="utf-8"))
        return about.get("code_of_errors") != code_of_errors(run)
    return False


def finished(run: Run) -> Finished:
    """A run in the store, for code that needs its network. NotHere if it is missing, FailedRun if it failed."""
    what = f"the network of {run.model}, T={run.frames}, trained on {run.data.source}, seed {run.seed}"
    how = "`mixste reproduce` trains it, in its profile, and `mixste runs unpack` brings it from another machine"
    try:
        path, why = store() / run.id, failure(run)
    except DataError as error:
        raise NotHere(f"this needs {what}, and data that are not here: {error}") from None
    if why:
        raise FailedRun(f"this needs {what}, whose training failed: {why}")
    if not is_whole(path):
        raise NotHere(f"this needs {what}, which is not in {shown(store())}: {how}")
    return Finished(path)


def with_weights(runs: Sequence[Run]) -> Run:
    """The first of these runs whose weights are in the store; the first of all if none has any here."""
    return next((run for run in runs if (store() / run.id / "weights.safetensors").exists()), runs[0])


def failure(run: Run) -> str:
    """Why the training of this run failed, or of the run that it starts from; empty if neither did."""
    path = store() / run.id
    if is_whole(path):
        failed = path / "failed.json"
        return json.loads(failed.read_text())["reason"] if failed.exists() else ""
    why = failure(run.start) if run.start else ""
    return why and f"run {run.start.id}, from which it starts, failed: {why}"


def _read_clips(file) -> pd.DataFrame:
    """The table of a clips.csv; one that was written before there were unseen takes has no column split."""
    table = pd.read_csv(file, dtype={"take": str}, keep_default_na=False)
    return table if "split" in table else table.assign(split="test")


def listing() -> pd.DataFrame:
    """Every run in the store, finished or not, one a row: id, state, settings, MPJPE by the authors' protocol, cost.

    "outdated": the errors were computed by code that has changed, and the next call computes them again. "damaged": it
    has the name of a run, but is not one or cannot be read. Column failed says why a training failed, where one did.
    """
    rows = [_listed(path) for path in sorted(store().glob("*")) if NAME.fullmatch(path.name)]
    if not rows:
        return pd.DataFrame(columns=["run", "state"])
    table = pd.DataFrame(rows)
    counts = table.columns.intersection(["frames", "poses", "seed"])  # which damaged runs lack
    table[counts] = table[counts].convert_dtypes().astype(object).fillna("")
    return table


def _listed(path: Path) -> dict[str, object]:
    """The row of one run."""
    spec = None
    row = {"run": path.stem, "state": "unfinished" if path.suffix and path.is_dir() else "damaged"}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        spec = json.loads((path / "spec.json").read_text(encoding="utf-8"))
        settings = {key: spec[key] for key in ("model", "frames", "poses", "seed")}
        row |= settings | {key: spec["data"][key] for key in ("source", "keypoints")}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RunError):
        if not path.suffix and is_whole(path):
            run = Finished(path)
            if (path / "failed.json").exists():
                row |= {"state": "failed", "failed": run.failed}
            else:
                clips = run.clips
                clips = clips[(clips["protocol"] == "authors") & (clips["metric"] == "MPJPE")]
                about = {"seconds": float(run.environment["training_seconds"]), "state": "finished"}
                row |= about | {"MPJPE": over_frames(clips, ["action"])["value"].mean()}
                described = run_of(spec)
                if described.model in NETWORKS and outdated(described, path):  # else its code would have to be imported
                    row["state"] = "outdated"
    with contextlib.suppress(OSError):
        row["MiB"] = sum(file.lstat().st_size for file in path.iterdir()) / 2**20
    return row


def over_frames(errors: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Errors by clip averaged over the frames of each group, and how many these are: columns value and frames."""
    sums = errors.assign(value=errors["value"] * errors["frames"])
    sums = sums.groupby(by, sort=False)[["value", "frames"]].sum()
    return sums.assign(value=sums["value"] / sums["frames"])


def remove(path: Path) -> None:
    """Remove a file, a folder, or a link without its target."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Write the manifest of a run's files, after syncing them to the disk. The run then counts as complete."""
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
    """Let one process at a time work on `path`, which need not exist yet; a lock is freed when its process dies."""
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
    """Whether a process holds the lock of `path`."""
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


def environment() -> dict[str, object]:
    """The environment of a run, as far as it may change digits or speed.

    On a GPU also its driver, the peak memory of this process in GiB, and sharing: the number of trainings that shared
    the GPU. Where that is 1, seconds are those of a training alone.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    about = {
        "device": device,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": str(torch.get_num_threads()),
        "mixste": mixste.__version__,
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**30
        about |= {"driver": cards.driver(), "sharing": cards.sharing(), "peak_gib": peak}
    return about


@functools.cache
def _commit() -> str:
    """Of the checkout that the package runs from, with "-dirty" if files differ from it; empty without git."""
    command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() if CHECKOUT else ""
    except (OSError, subprocess.CalledProcessError):
        return ""
