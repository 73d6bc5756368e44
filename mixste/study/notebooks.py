"""Executing the notebooks of the study through papermill, each only if something that it depends on has changed."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path

from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import PACKAGE, needs_checkout
from mixste.study import records, store, trainer
from mixste.study.pages import page
from mixste.study.profiles import PROFILES, Profile, profile_of
from mixste.study.run import Data
from mixste.study.store import NotHere
from mixste.study.tables import TABLES, distinct, named

NOTEBOOKS = store.ROOT / "notebooks"
DEFAULT = "smoke"  # the profile that the notebooks themselves name


def reproduce(profile: str, chosen: list[Path], jobs: int | None = None, train: bool = True) -> None:
    """Train the runs that these notebooks read, then execute those that are out of date, on one machine.

    jobs: the number of trainings, and then of notebooks, at a time, see `trainer.jobs_for`. train: if False,
    tables and figures are drawn from the available records, without data.
    Executed copies go to notebooks/<profile>/ of the output folder. A training or a notebook that fails, or whose data
    are not there, does not keep the others from being made; RuntimeError then names it at the end.
    """
    scale = profile_of(profile)
    lacking = lacking_data(scale, chosen) if train else {}
    chosen = [path for path in chosen if path not in lacking]
    if lacking and not chosen:
        raise DataError(not_made(lacking))
    failed = [not_made(lacking)] if lacking else []
    if train:
        wanted = distinct(scale, tables_read(chosen))
        trainer.warn_without_gpu(scale, len(trainer.lacking(wanted)))
        failed += [trainer.make_all(wanted, jobs, title=f"training, profile {profile}")]
    for path, made in _in_workers(chosen, profile, train, trainer.jobs_for(len(chosen), jobs)):
        print(f"[{chosen.index(path) + 1}/{len(chosen)}] {path.name}", end="", flush=True)
        try:
            said = made()
        except RuntimeError as error:
            said = " … failed"
            failed.append(str(error))
        except OSError:  # a full disk, which the next notebook would meet too
            print(" … failed", flush=True)
            raise
        print(said, flush=True)
    renew_page()
    print(where(profile))
    if any(failed):
        raise RuntimeError("; ".join(filter(None, failed)))


def _in_workers(chosen: list[Path], profile: str, train: bool, jobs: int) -> Iterator[tuple[Path, Callable[[], str]]]:
    """`_make` for each notebook, `jobs` at a time; gives each as it ends, and what then returns or raises its result.

    With one job, it is made when that is called, in this process.
    """
    if jobs < 2:
        yield from ((path, partial(_make, path, profile, train)) for path in chosen)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (os.getpid(), threads)) as pool:
        try:
            waiting = {pool.submit(_make, path, profile, train): path for path in chosen}
            for done in as_completed(waiting):
                yield waiting[done], done.result
        except BaseException:  # Ctrl-C, a full disk
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _start_worker(parent: int, threads: int) -> None:
    """Begin a process that executes notebooks. threads: of its kernels, unless the user has set OMP_NUM_THREADS."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    trainer.start_worker(parent)


def _make(path: Path, profile: str, train: bool) -> str:
    """Execute a notebook if it is out of date. Returns what to say of it after its name; raises as `execute` does."""
    began = time.monotonic()
    with store.locked(_copy(path, profile)):  # by one process at a time, where several share the store
        damage = damaged(path, profile)
        if not damage and fresh(path, profile, train):
            return ": up to date"
        wanted = distinct(profile_of(profile), tables_read([path]))
        if not damage and not train and wanted and not any(run.poses for run in records.find(wanted, profile)):
            return ": there is no record of any of its trainings"
        execute(path, profile, train)
    again = f": no longer as written, and made again: {', '.join(damage)}" if damage else ""
    return f"{again} … {time.monotonic() - began:.0f} s"


def choose(tables: Sequence[str] = (), numbers: Sequence[str] = ()) -> list[Path]:
    """The notebooks of these tables, by number or key ("5", "table5"), and those of these numbers of their own ("06").

    All notebooks if none is named. ValueError for an unknown one lists all.
    """
    needs_checkout("mixste reproduce")
    of_number = {path.name[:2]: path for path in notebooks()}
    if unknown := [number for number in numbers if number not in of_number]:
        raise ValueError(f"notebook must be among {', '.join(of_number)}, found {', '.join(unknown)}")
    chosen = {NOTEBOOKS / f"{table.notebook}.ipynb" for table in named(tables)}
    return sorted(chosen | {of_number[number] for number in numbers}) or notebooks()


def tables_read(chosen: Iterable[Path]) -> tuple[str, ...]:
    """The tables whose runs these notebooks read, by key: those that their code names, as in `TABLES["table5"]`."""
    code = "".join(_code(path) for path in chosen)
    names = set(re.findall(r"""["'](\w+)["']""", code))
    return tuple(key for key in TABLES if key in names)


def _code(path: Path) -> str:
    """The source of a notebook's cells of code."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def looks_at(path: Path, scale: Profile) -> list[Data]:
    """The data that a notebook reads besides those of its runs."""
    detected = [replace(scale.data, keypoints=name) for name in scale.detectors]
    return {"00": [scale.data, *detected], "01": [scale.data]}.get(path.name[:2], [])


def lacking_data(scale: Profile, chosen: list[Path]) -> dict[Path, str]:
    """The notebooks whose data are missing or unusable, each with the fault in a sentence."""
    planned = {path: distinct(scale, tables_read([path])) for path in chosen}
    read = {path: dict.fromkeys([*looks_at(path, scale), *(run.data for run in planned[path])]) for path in chosen}
    wrong: dict[Data, str] = {}
    for data in dict.fromkeys(data for several in read.values() for data in several):
        try:
            data.fingerprint  # noqa: B018, it reads them
        except DataError as error:
            wrong[data] = str(error)
        else:  # the ids of its runs, while it is at hand
            with contextlib.suppress(DataError):
                [run.id for several in planned.values() for run in several if run.data == data]
    reasons = {path: dict.fromkeys(wrong[data] for data in several if data in wrong) for path, several in read.items()}
    return {path: "; ".join(sentences) for path, sentences in reasons.items() if sentences}


def not_made(lacking: dict[Path, str], between: str = "; ") -> str:
    """What `lacking_data` gives, in words: which notebooks, and why, each reason once."""
    names = defaultdict(list)
    for path, sentence in lacking.items():
        names[sentence].append(path.stem)
    return between.join(f"{', '.join(stems)} cannot be made: {sentence}" for sentence, stems in names.items())


def notebooks() -> list[Path]:
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def renew_page() -> None:
    """Write `page` anew for the output folder, without tables that have changed since a notebook wrote them."""
    out, changed = store.output(), []
    for profile in PROFILES:
        for path in notebooks():
            for table in (out / name for name in damaged(path, profile) if Path(name).suffix == ".csv"):
                if not table.exists():
                    continue
                changed.append(table)
                print(
                    f"{store.shown(table)} has changed since it was written, and is left out of results/README.md: "
                    f"`mixste reproduce --profile {profile} --notebook {path.name[:2]}` makes it again",
                    flush=True,
                )
    page(out, changed)


def where(profile: str) -> str:
    """A message: what was made, and where to look first."""
    out = store.shown(store.output())
    return (
        f"Made: all tables on one page in {out}/results/README.md, one by one in {out}/results/{profile}/, "
        f"figures in {out}/figures/{profile}/, executed notebooks in {out}/notebooks/{profile}/."
    )


def execute(path: Path, profile: str, train: bool = True) -> None:
    """Run one notebook from top to bottom. RuntimeError if it fails, or needs something that is missing.

    profile: its parameter. train: whether it may train what the store lacks, its parameter `train_missing`.
    """
    import papermill
    from traitlets.config import Config

    logging.getLogger("papermill").setLevel(logging.ERROR)
    out = _copy(path, profile)
    out.parent.mkdir(parents=True, exist_ok=True)
    _stamp(out).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Kernels over TCP can take each other's ports; files in a folder of their own cannot.
        transport = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/k"})
        executed = Path(folder, path.name)  # papermill writes down where, which has to be text
        try:
            papermill.execute_notebook(
                *(path, executed),
                parameters=({} if profile == DEFAULT else {"profile": profile})
                | ({} if train else {"train_missing": False}),
                cwd=NOTEBOOKS,
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],  # otherwise it logs its own shutdown as an error
                config=transport,
            )
        except papermill.PapermillExecutionError as error:
            if error.ename in (NotHere.__name__, DataError.__name__):
                raise RuntimeError(f"{path.stem} cannot be made: {error.evalue}") from None
            raise RuntimeError(f"{path.name} failed with {error.ename}: {error.evalue} (see {out})") from None
        finally:
            if executed.exists():
                with replacing(out) as temporary:
                    shutil.copyfile(executed, temporary)
    files = {name: _hash(name) for name in _files(path, profile)}
    stamp = {"inputs": _inputs(path, profile, of_records=True), "files": files}
    with replacing(_stamp(out)) as temporary:
        temporary.write_text(json.dumps(stamp, indent=1))


def fresh(path: Path, profile: str, train: bool = True) -> bool:
    """Whether the executed copy, its tables and figures are there as they were written, from the same notebook and
    package, and from the runs that training would give or, without it, from the records that there are."""
    stamp = _stamped(path, profile)
    return stamp["inputs"] == _inputs(path, profile, of_records=not train) and not damaged(path, profile)


def damaged(path: Path, profile: str) -> list[str]:
    """The files written by the last execution of the notebook that are missing or have changed."""
    return [name for name, written in _stamped(path, profile)["files"].items() if _hash(name) != written]


def files_of(path: Path, profile: str) -> list[str]:
    """The files that the notebook wrote when it was executed last, by their names below the output folder."""
    return list(_stamped(path, profile)["files"])


def _copy(path: Path, profile: str) -> Path:
    return store.output() / "notebooks" / profile / path.name


def _stamp(out: Path) -> Path:
    return out.with_suffix(".stamp")


def _stamped(path: Path, profile: str) -> dict:
    """What was written down when the notebook was executed last; empty if it was not, or its stamp is damaged."""
    try:
        stamp = json.loads(_stamp(_copy(path, profile)).read_text())
        return {"inputs": str(stamp["inputs"]), "files": dict(stamp["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"inputs": "", "files": {}}


def _files(path: Path, profile: str) -> list[str]:
    """Of the files below the output folder, those that this notebook writes: its executed copy, tables and figures."""
    out, number = store.output(), path.name[:2]
    files = (file for kind in ("results", "figures") for file in (out / kind / profile).glob(f"{number}_*"))
    return [str(file.relative_to(out)) for file in (_copy(path, profile), *sorted(files))]


def _hash(name: str) -> str:
    try:
        return hashlib.sha256((store.output() / name).read_bytes()).hexdigest()
    except OSError:
        return ""


def _inputs(path: Path, profile: str, of_records: bool) -> str:
    """Hash of what bears on a notebook: its source, the package, the benchmarks, and its runs.

    of_records: the runs are those with a record, rather than those of the plan.
    """
    scale = profile_of(profile)
    wanted = distinct(scale, tables_read([path]))
    if of_records:
        kept = records.find(wanted, profile)
        ids = [kept[run].id if run in kept else "" for run in wanted]
    else:
        ids = [run.id for run in wanted]  # data that changed make other runs
    read = []
    for data in looks_at(path, scale):
        with contextlib.suppress(DataError):
            read.append(data.fingerprint)
    digest = hashlib.sha256(f"{scale.name} {scale.title} {read} {ids}".encode())
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    digest.update(json.dumps([cell["source"] for cell in cells]).encode())
    benchmarks = (store.ROOT / "results" / "bench").glob("*.csv")
    for file in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.csv"), *benchmarks]):
        digest.update(file.read_bytes())
    return digest.hexdigest()
