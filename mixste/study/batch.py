"""The study as a batch of jobs that Snakemake runs, on this machine or through SLURM (workflow/Snakefile).

The list of jobs is computed from the store at each call: a job is a run that is incomplete, or a notebook that is out
of date. Snakemake orders the jobs, starts them and continues when one fails. Each job is a command of
`mixste`, which resumes interrupted work, and does nothing if another process has done it.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from mixste.io import DataError
from mixste.io.install import PACKAGE, install
from mixste.study import cards, costs, notebooks, records, store, trainer
from mixste.study.profiles import Profile, profile_of
from mixste.study.progress import span
from mixste.study.run import Run, spec
from mixste.study.tables import TABLES, distinct

WORKFLOW = PACKAGE.parent / "workflow"
JOB_SECONDS = 10.0  # of a job of its own: to start, and to read data
# Of a core (AMD EPYC) to execute a notebook in profile smoke, with its runs in the store, and those that take longer.
NOTEBOOK_SECONDS = 7
SLOW_NOTEBOOKS = {"00": 17, "01": 20, "13": 15, "14": 13, "15": 58, "16": 36, "17": 28}


@dataclass(frozen=True)
class Batch:
    """The plan of a batch.

    chosen: the notebooks that can be made. lacking: those whose data are missing, and which. runs: all that the
    notebooks need, by id. labels: the first table row of each run. missing: ids of the runs to train, each after the
    one it starts from. busy: those of them that another process is training at this moment, such as a batch on another
    machine. stale: the notebooks to execute. seconds: the estimated cost of each missing run and, by its stem, of each
    stale notebook. basis: what the estimate rests on.
    """

    profile: Profile
    chosen: list[Path]
    lacking: dict[Path, str]
    runs: dict[str, Run]
    labels: dict[str, str]
    missing: list[str]
    busy: list[str]
    stale: list[Path]
    seconds: dict[str, float]
    basis: str

    def __str__(self) -> str:
        """The dry run: what would be done, what is there, and the estimated cost."""
        lines = [f"profile {self.profile.name}: {self.profile.title}", ""]
        lines += [f"  {run}  {label}: {self._state(run)}" for run, label in self.labels.items()]
        tables = defaultdict(list)
        for run in self.missing:
            tables[self.labels[run].partition(", ")[0]].append(self.seconds[run])
        lines += [f"  {table}: {len(own)} runs to train, {span(sum(own))}" for table, own in tables.items()]
        for path in self.chosen:
            state = f"execute, {span(self.seconds[path.stem])}" if path in self.stale else "up to date"
            lines.append(f"  {path.stem}: {state}")
        lines += ["", notebooks.not_made(self.lacking, "\n")] if self.lacking else []
        return "\n".join([*lines, "", self.total()])

    def _state(self, run: str) -> str:
        if run not in self.missing:
            return "failed, not tried again" if store.failure(self.runs[run]) else "in the store"
        interrupted = (store.store() / f"{run}.part" / "state.pt").exists()
        verb = "another process trains it" if run in self.busy else "resume" if interrupted else "train"
        return f"{verb}, {span(self.seconds[run])}"

    def total(self) -> str:
        """The last line of the dry run: how much is left to do, and its cost."""
        to_do = [f"{len(self.missing)} of {len(self.runs)} runs to train"] if self.runs else []
        if recorded := len(records.find([self.runs[name] for name in self.missing], self.profile.name)):
            to_do[0] += f" ({recorded} of them have published records, see --records)"
        to_do.append(f"{len(self.stale)} of {len(self.chosen)} notebooks to execute")
        left_out = f"; {len(self.lacking)} cannot be made{self._without_data()}" if self.lacking else ""
        hours, kind = sum(self.seconds.values()) / 3600, "GPU" if self.profile.gpu else "core"
        hours = f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"
        cost = f": about {hours} {kind} hours" if self.runs or not self.lacking else ""
        return f"{', '.join(to_do)}{left_out}{cost}, by {self.basis}"

    def _without_data(self) -> str:
        """What the runs would cost that only the notebooks without data need."""
        planned = distinct(self.profile, notebooks.tables_read(list(self.lacking)))
        runs = dict(enumerate(run for run in planned if run not in set(self.runs.values())))
        hours = sum(costs.estimate(self.profile, runs, []).seconds.values()) / 3600
        return f" (their {len(runs)} runs would take about {hours:.1f} {'GPU' if self.profile.gpu else 'core'} hours)"


def plan(profile: str, chosen: list[Path]) -> Batch:
    """The jobs that bring these notebooks, and the runs that they read, up to date."""
    scale = profile_of(profile)
    lacking = notebooks.lacking_data(scale, chosen)
    chosen = [path for path in chosen if path not in lacking]
    tables = notebooks.tables_read(chosen)
    runs = {run.id: run for run in distinct(scale, tables)}
    missing = [run.id for run in trainer.lacking(runs.values())]  # failed runs are not tried again
    finished = [name for name, run in runs.items() if name not in missing and not store.failure(run)]
    estimated = costs.estimate(scale, runs, finished)
    stale = [path for path in chosen if not notebooks.fresh(path, profile)]
    seconds = {name: estimated.seconds[name] for name in missing}
    seconds |= {path.stem: SLOW_NOTEBOOKS.get(path.name[:2], NOTEBOOK_SECONDS) for path in stale}
    return Batch(
        profile=scale,
        chosen=chosen,
        lacking=lacking,
        runs=runs,
        labels=_labels(scale, tables),
        missing=missing,
        busy=[name for name in missing if store.busy(store.store() / name)],
        stale=stale,
        seconds=seconds,
        basis=estimated.basis,
    )


def _labels(profile: Profile, tables: tuple[str, ...]) -> dict[str, str]:
    labels = {}
    for table in tables:
        for row in TABLES[table].rows(profile):
            for run in row.runs:
                labels.setdefault(run.id, f"{table}, {row.label}, seed {run.seed}")
                if run.start:
                    labels.setdefault(run.start.id, f"{table}, start of {row.label}, seed {run.seed}")
    return labels


def place(name: str) -> Path:
    """The Snakemake profile with this name. ValueError lists all names, ImportError says what to install."""
    places = {path.parent.name: path for path in sorted((WORKFLOW / "profiles").glob("*/config.yaml"))}
    if name not in places:
        raise ValueError(f"--on must be one of {', '.join(places)}, found {name!r}")
    if importlib.util.find_spec("snakemake") is None:
        raise ImportError(f"--on needs Snakemake, which is not installed: {install('batch')}")
    return places[name]


def run_jobs(batch: Batch, on: Path, jobs: int | None = None) -> None:
    """Run a batch through Snakemake, to its end.

    on: its profile, by `place`. jobs: at most so many at a time (default: one a CPU core, or what `cards.shared` says
    of GPUs; on SLURM what the profile says). Raises RuntimeError, naming the logs, if a job failed or the data of a
    notebook are missing; the others are done nevertheless.
    """
    if batch.lacking and not batch.chosen:
        raise DataError(notebooks.not_made(batch.lacking))
    print(batch.total(), flush=True)
    names, problems = [*batch.missing, *(path.stem for path in batch.stale)], []
    if batch.lacking:
        problems.append(notebooks.not_made(batch.lacking))
    if names:
        executor = yaml.safe_load(on.read_text()).get("executor", "local")
        remote = executor != "local"
        if executor == "slurm" and not shutil.which("sbatch"):
            raise RuntimeError(
                "--on slurm is for a login node of a cluster: expected SLURM's commands, found no sbatch"
            )
        gpus = torch.cuda.device_count()
        gpu = batch.profile.gpu and (remote or gpus > 0)
        folder = write(batch, gpu)
        command = [sys.executable, "-m", "snakemake", "--snakefile", WORKFLOW / "Snakefile", "--directory", folder]
        command += ["--workflow-profile", on.parent, "--logger", "mixste"]
        first = [name for name in batch.missing if batch.runs[name].seed == batch.runs[batch.missing[0]].seed]
        command += ["--prioritize", *(f"trained/{name}" for name in first)] if first else []  # see `trainer.lacking`
        if remote:
            call([*command, *(["--jobs", str(jobs)] if jobs else [])], folder)
        else:
            trainer.warn_without_gpu(batch.profile, len(batch.missing))
            with cards.shared(cards.visible() if gpu else [], len(names), jobs) as per_card:
                places = gpus * per_card
                cores = jobs or max(places, os.cpu_count() or 1)
                call([*command, "--cores", str(cores), "--resources", f"gpu={places}"], folder)
        left = [name for name in names if not any((folder / done / name).exists() for done in ("trained", "executed"))]
        if left:
            problems.append(
                f"{len(left)} of {len(names)} jobs are left: {', '.join(left[:5])}{', …' if left[5:] else ''} "
                f"(logs in {folder}/logs); the same command goes on from here"
            )
        else:
            shutil.rmtree(folder)
    notebooks.renew_page()
    if problems:
        raise RuntimeError("; ".join(problems))
    print(notebooks.where(batch.profile.name))


def write(batch: Batch, gpu: bool) -> Path:
    """A new folder in the store with all that the jobs need to know: plan.json, and <id>.json for each run."""
    parent = store.store() / "batches"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=time.strftime("%Y%m%d-%H%M%S-")))
    folder.chmod(0o755)
    jobs = {"profile": batch.profile.name, "gpu": gpu, "runs": {}, "notebooks": {}}
    for name in batch.missing:
        run = batch.runs[name]
        needs = [run.start.id] if run.start and run.start.id in batch.missing else []
        jobs["runs"][name] = {"needs": needs, "label": batch.labels[name], "seconds": batch.seconds[name] + JOB_SECONDS}
        (folder / f"{name}.json").write_text(spec(run))
    for path in batch.stale:
        reads = {run.id for run in distinct(batch.profile, notebooks.tables_read([path]))}
        needs = [name for name in batch.missing if name in reads]
        seconds = batch.seconds[path.stem] + JOB_SECONDS
        jobs["notebooks"][path.stem] = {"needs": needs, "label": path.stem, "seconds": seconds}
    (folder / "plan.json").write_text(json.dumps(jobs, indent=1))
    return folder


def call(command: list, folder: Path) -> None:
    """Run Snakemake to its end. It handles Ctrl-C itself, and ends its jobs."""
    path = os.pathsep.join(filter(None, [str(WORKFLOW / "progress"), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path, "MIXSTE_BATCH": str(folder)})
    try:
        process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
