"""Executing the notebooks of the study through papermill, each only when something that bears on it has changed."""

import hashlib
import json
import logging
import tempfile
import time
from pathlib import Path

from mixste.study import runs
from mixste.study.plan import distinct
from mixste.study.report import page, profile_of

NOTEBOOKS = runs.PACKAGE.parent / "notebooks"


def reproduce(profile: str, only: list[str] = (), jobs: int | None = None, in_place: bool = False) -> None:
    """Train the profile's runs, then execute the notebooks that are out of date.

    only: numbers of notebooks, as "02"; all by default. Executed copies go to runs/notebooks/<profile>/; with
    in_place (smoke alone), into the notebooks themselves. Raises RuntimeError, naming the notebook, if one fails.
    """
    chosen = [path for path in notebooks() if not only or path.name[:2] in only]
    if not chosen:
        numbers = ", ".join(path.name[:2] for path in notebooks())
        raise ValueError(f"notebook must be among {numbers}, found {', '.join(only)}")
    scale = profile_of(profile)
    stale = [path for path in chosen if in_place or not fresh(path, profile)]
    if stale and not only:
        runs.make_all(distinct(scale), jobs, title=f"training, profile {profile}")
    for number, path in enumerate(chosen, 1):
        began = time.monotonic()
        label = f"[{number}/{len(chosen)}] {path.name}"
        if path not in stale:
            print(f"{label}: up to date", flush=True)
            continue
        print(f"{label} …", end="", flush=True)
        execute(path, profile, in_place)
        print(f" {time.monotonic() - began:.0f} s", flush=True)
    page()
    print(f"tables: results/{profile}/   figures: figures/{profile}/   notebooks: {_copies(profile)}/")


def notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def execute(path: Path, profile: str, in_place: bool = False) -> None:
    """Run one notebook from top to bottom, with `profile` as its parameter."""
    import papermill
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    out = _copies(profile) / path.name
    out.parent.mkdir(parents=True, exist_ok=True)
    _stamp(out).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as sockets:
        # Kernels over TCP can take each other's ports; files in a folder of their own cannot.
        transport = Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/k"})
        try:
            papermill.execute_notebook(
                *(path, path if in_place else out),
                parameters={} if in_place else {"profile": profile},
                cwd=NOTEBOOKS,
                kernel_name="python3",
                progress_bar=False,
                config=transport,
            )
        except papermill.PapermillExecutionError as error:
            where = path if in_place else out
            raise RuntimeError(f"{path.name} failed with {error.ename}: {error.evalue} (see {where})") from None
    _stamp(out).write_text(_state(path, profile))


def fresh(path: Path, profile: str) -> bool:
    """Whether the executed copy was made from the same notebook, package and results as are there now."""
    stamp = _stamp(_copies(profile) / path.name)
    return stamp.exists() and stamp.read_text() == _state(path, profile)


def _copies(profile: str) -> Path:
    return runs.store() / "notebooks" / profile


def _stamp(out: Path) -> Path:
    return out.with_suffix(".stamp")


def _state(path: Path, profile: str) -> str:
    """Hash of what bears on a notebook: its source, the package, and the tables and figures that are there."""
    digest = hashlib.sha256(profile.encode())
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    digest.update(json.dumps([cell["source"] for cell in cells]).encode())
    for module in sorted(runs.PACKAGE.rglob("*.py")):
        digest.update(module.read_bytes())
    for folder in ("results", "figures"):
        here = runs.ROOT / folder / profile
        digest.update(" ".join(sorted(file.name for file in here.glob(f"{path.name[:2]}_*"))).encode())
    return digest.hexdigest()
