"""The batch: jobs that are killed, raise or meet another batch, on one machine and through a real SLURM."""

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from mixste.cli import train
from mixste.io.install import PACKAGE
from mixste.study import batch, notebooks, store, trainer
from mixste.study.batch import Batch
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run, read_spec, spec
from mixste.train import AUTHORS

snakemake = pytest.mark.skipif(
    not shutil.which("snakemake", path=os.path.dirname(sys.executable)), reason="no Snakemake"
)

RUN = Run(
    Data("synthetic", "gt", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1),
    frames=9,
    poses=300,
    seed=0,
    options=(("depth", 1), ("dim", 8), ("heads", 2)),
    recipe=replace(AUTHORS, batch_frames=90),
)
TUNED = replace(RUN, seed=1, start=RUN)
LONG = replace(RUN, poses=30_000)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with the same package and workflow, and notebooks of its own; what is started in it sees no other."""
    for name in ("mixste", "workflow", "pyproject.toml"):
        (tmp_path / name).symlink_to(PACKAGE.parent / name)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    return tmp_path


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)
    return path


def of(*wanted: Run) -> Batch:
    """What is missing of these runs and of the checkout's notebooks."""
    runs = {run.id: run for run in wanted}
    missing = [name for name in runs if not store.is_whole(store.store() / name)]
    chosen = notebooks.notebooks()
    return Batch(
        profile=PROFILES["smoke"],
        chosen=chosen,
        lacking={},
        runs=runs,
        labels={name: name for name in runs},
        missing=missing,
        busy=[],
        stale=[path for path in chosen if not notebooks.fresh(path, "smoke")],
        seconds=dict.fromkeys([*missing, *(path.stem for path in chosen)], 1.0),
        basis="a test",
    )


def when(condition, seconds=120):
    """Wait until a condition holds; returns its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def processes(checkout, text="") -> list[int]:
    """Of what was started for this checkout, the processes whose command line holds a text."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"MIXSTE_RUNS={checkout}/" in (path / "environ").read_text(errors="replace")
            if ours and text in (path / "cmdline").read_text(errors="replace"):
                pids.append(int(path.name))
        except OSError:  # it has ended, or is another user's
            continue
    return pids


def kill(checkout, text="") -> list[int]:
    """Kill these processes; their ids."""
    pids = processes(checkout, text)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(pid, signal.SIGKILL)
    return pids


def written(run: Run) -> int:
    """When a run was sealed: another number if it has been made again."""
    return (store.store() / run.id / "manifest.json").stat().st_mtime_ns


def test_tables_are_chosen_by_their_numbers_or_keys():
    assert [path.stem for path in notebooks.choose(["6", "table5"])] == ["06_table5_components", "07_table6_losses"]
    assert [path.stem for path in notebooks.choose(["3", "limits"], ["00"])] == ["00_data", "04_table3", "17_limits"]
    assert notebooks.choose() == notebooks.notebooks()
    with pytest.raises(ValueError, match=r"table must be among 1 \(table1\), .*, found 98"):
        notebooks.choose(["98"])
    with pytest.raises(ValueError, match=r"notebook must be among 00, 01, .*, found 99"):
        notebooks.choose([], ["99"])


def test_the_dry_run_says_what_is_there_and_what_would_be_done(checkout):
    notebook(checkout / "notebooks" / "00_one.ipynb", 'profile = "smoke"')
    trainer.make(RUN)
    lines = str(of(RUN, TUNED)).splitlines()
    assert f"  {RUN.id}  {RUN.id}: in the store" in lines
    assert f"  {TUNED.id}  {TUNED.id}: train, 1 s" in lines
    assert "  00_one: execute, 1 s" in lines
    assert lines[-1] == ("1 of 2 runs to train, 1 of 1 notebooks to execute: about 0.00056 core hours, by a test")


def test_a_run_planned_elsewhere_is_refused_where_data_or_code_differ(checkout):
    planned = checkout / "0123456789ab.json"
    planned.write_text(spec(TUNED))
    with pytest.raises(store.RunError, match=f"planned with other data or code .* it would be {TUNED.id}"):
        trainer.make_as_planned(planned)
    assert read_spec(planned) == TUNED


@snakemake
@pytest.mark.slow
def test_a_killed_job_and_a_notebook_that_raises_do_not_stop_the_rest(checkout, capfd):
    """The second call finishes the two, from where they were, and touches nothing else."""
    notebook(checkout / "notebooks" / "00_one.ipynb", 'profile = "smoke"', "1 / 0")

    def kill_when_training():
        when((store.store() / f"{LONG.id}.part").exists)
        kill(checkout, f"--run\0{LONG.id}.json")

    killer = threading.Thread(target=kill_when_training)
    killer.start()
    with pytest.raises(RuntimeError, match=rf"2 of 4 jobs are left: {LONG.id}, 00_one \(logs in"):
        batch.run_jobs(of(RUN, TUNED, LONG), batch.place("laptop"), jobs=2)
    killer.join()
    said = capfd.readouterr().out
    assert "ZeroDivisionError" in said
    assert re.search(rf"\[\d/4\] {LONG.id}: failed after \d+ s \(\d running, [12] failed", said)
    assert not (store.store() / LONG.id).exists(), "nothing half-written is there as a run"
    before = written(RUN), written(TUNED)

    notebook(checkout / "notebooks" / "00_one.ipynb", 'profile = "smoke"', "1 / 1")
    batch.run_jobs(of(RUN, TUNED, LONG), batch.place("laptop"), jobs=2)
    assert store.is_whole(store.store() / LONG.id)
    assert (written(RUN), written(TUNED)) == before
    assert of(RUN, TUNED, LONG).missing == of(RUN, TUNED, LONG).stale == []


@snakemake
@pytest.mark.slow
def test_a_batch_ends_with_the_process_that_started_it(checkout):
    """The parent is killed as it trains and as a notebook waits; nothing goes on, and the next call knows it."""
    notebook(checkout / "notebooks" / "00_one.ipynb", 'profile = "smoke"', "import time; time.sleep(600)")
    endless, path = replace(RUN, poses=10**8), store.store() / replace(RUN, poses=10**8).id
    arguments = of(endless), batch.place("laptop"), 2
    parent = multiprocessing.get_context("spawn").Process(target=batch.run_jobs, args=arguments)
    parent.start()
    when(lambda: path.with_suffix(".part").exists() and processes(checkout, "ipykernel"))
    assert store.busy(path)
    when(lambda: len(processes(checkout, "job.py")) == 2)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    when(lambda: not any(processes(checkout, name) for name in ("snakemake", "job.py", "ipykernel")))
    when(lambda: not store.busy(path))  # a process that ends loses its command line before its locks


@snakemake
@pytest.mark.slow
def test_two_batches_at_once_go_on_after_one_that_vanished(checkout, monkeypatch):
    """Snakemake and its jobs are killed at work; then two batches share what is left, and nothing is trained twice."""
    monkeypatch.setattr(batch.shutil, "rmtree", lambda folder: None)  # keep the logs

    def vanishes():
        with pytest.raises(RuntimeError, match="2 of 2 jobs are left"):
            batch.run_jobs(of(LONG, replace(LONG, seed=2)), batch.place("node"), 1)

    first = threading.Thread(target=vanishes)
    first.start()
    when(lambda: list(store.store().glob("*.part")))
    when(lambda: not kill(checkout))  # also what they started meanwhile
    first.join()
    assert not list(store.store().glob("*/manifest.json"))

    both = [
        threading.Thread(target=batch.run_jobs, args=(of(LONG, RUN, TUNED), batch.place("node"), 2)) for _ in range(2)
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert of(LONG, RUN, TUNED).missing == []
    logs = "".join(path.read_text() for path in (store.store() / "batches").glob("*/logs/*.log"))
    for run in (LONG, RUN, TUNED):
        assert logs.count(f"run {run.id}: trained") == 1


def test_gpus_are_handed_out_one_a_command_and_come_back_from_the_dead(tmp_path):
    """Four commands on two GPUs, by a stand-in for nvidia-smi: never two on one; a killed command frees its own."""
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU-a\necho GPU-b\n")
    smi.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    env.pop("CUDA_VISIBLE_DEVICES", None)

    def start(script, **variables):
        command = [sys.executable, batch.WORKFLOW / "one_gpu.py", "sh", "-c", script]
        return subprocess.Popen(command, env=env | variables, stdout=subprocess.PIPE, text=True)

    # mkdir fails if another command has the GPU.
    hold = f"mkdir {tmp_path}/$CUDA_VISIBLE_DEVICES && sleep 1 && rmdir {tmp_path}/$CUDA_VISIBLE_DEVICES"
    assert [process.wait(30) for process in [start(hold) for _ in range(4)]] == [0] * 4
    stuck = [start("echo $CUDA_VISIBLE_DEVICES; exec sleep 60") for _ in range(2)]
    taken = [process.stdout.readline().strip() for process in stuck]
    assert sorted(taken) == ["GPU-a", "GPU-b"]
    waits = start("echo $CUDA_VISIBLE_DEVICES")
    time.sleep(0.5)
    assert waits.poll() is None
    stuck[1].kill()
    assert waits.communicate(timeout=30)[0].strip() == taken[1]
    stuck[0].kill()
    only = start("echo $CUDA_VISIBLE_DEVICES", CUDA_VISIBLE_DEVICES="1")
    assert only.communicate(timeout=30)[0].strip() == "GPU-b"

    # With two places on each, four commands run at once, and the first two on different GPUs.
    shared = [start("echo $CUDA_VISIBLE_DEVICES; exec sleep 60", MIXSTE_SHARING="2") for _ in range(4)]
    taken = [process.stdout.readline().strip() for process in shared]
    assert sorted(taken) == ["GPU-a", "GPU-a", "GPU-b", "GPU-b"]
    shared[taken.index("GPU-b")].kill()
    fifth = start("echo $CUDA_VISIBLE_DEVICES", MIXSTE_SHARING="2")
    assert fifth.communicate(timeout=30)[0].strip() == "GPU-b"
    for process in shared:
        process.kill()


@snakemake
def test_on_a_node_each_gpu_has_as_many_jobs_as_share_it(checkout, monkeypatch):
    """Snakemake is told so, and the jobs are. The first seed of every row comes first."""
    calls = []
    monkeypatch.setattr(batch, "call", lambda command, folder: calls.append((command, os.environ["MIXSTE_SHARING"])))
    monkeypatch.setattr(batch.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(batch.cards, "visible", lambda: ["GPU-a", "GPU-b"])
    monkeypatch.setattr(batch.cards, "mps", lambda gpus: contextlib.nullcontext(""))
    monkeypatch.setattr(batch.cards.shutil, "which", lambda name: name)
    wanted = of(*(replace(RUN, seed=seed) for seed in range(5)))
    wanted = replace(wanted, profile=replace(wanted.profile, gpu=True))
    for jobs, resources, sharing in ((None, "gpu=6", "3"), (4, "gpu=4", "2")):
        with pytest.raises(RuntimeError, match="5 of 5 jobs are left"):
            batch.run_jobs(wanted, batch.place("node"), jobs)
        command, told = calls.pop()
        assert (command[command.index("--resources") + 1], told) == (resources, sharing)
        first = command.index("--prioritize") + 1
        assert command[first] == f"trained/{RUN.id}"
        assert command[first + 1].startswith("--"), "and no other"


@pytest.fixture
def slurm(tmp_path):
    """A SLURM of one node: munged, slurmctld and slurmd of Debian's packages, all on this machine."""
    programs = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        pytest.skip(f"no SLURM here: {', '.join(missing)} not found (Debian: slurmctld slurmd slurm-client munge)")
    if os.getuid() != 0:
        pytest.skip("slurmd must be started by root")
    conf = "/etc/slurm/slurm.conf"
    if os.path.lexists(conf):
        pytest.skip("this machine has a SLURM of its own")
    folder = tmp_path / "slurm"
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    host = socket.gethostname().split(".")[0]
    settings = {
        "ClusterName": "test",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": ports[0],
        "SlurmdPort": ports[1],
        "SlurmUser": "root",
        "AuthInfo": f"socket={folder}/munge.socket",
        "StateSaveLocation": folder,
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "SlurmctldLogFile": folder / "slurmctld.log",
        "SlurmdLogFile": folder / "slurmd.log",
        "ProctrackType": "proctrack/pgid",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SlurmdParameters": "config_overrides",
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=64000",
        "PartitionName": "all Nodes=ALL Default=YES",
    }
    (folder / "slurm.conf").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    os.makedirs("/etc/slurm", exist_ok=True)
    os.symlink(folder / "slurm.conf", conf)
    munge = ["munged", "--force", "--foreground", f"--key-file={folder}/key", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            daemons.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if command is munge:
                when((folder / "munge.socket").exists, 10)
        when(lambda: "idle" in subprocess.run(["sinfo"], capture_output=True, text=True).stdout, 30)
        (folder / "config.yaml").write_text("slurm-status-command: squeue\n")  # it keeps no accounts for sacct
        yield folder
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(20)
        os.unlink(conf)


def test_every_way_to_train_says_that_there_is_no_gpu(checkout, monkeypatch):
    """Before anything is trained: `reproduce` with and without --on, and `train`."""
    warned = []
    monkeypatch.setattr(trainer, "warn_without_gpu", lambda profile, missing: warned.append((profile.name, missing)))
    monkeypatch.setattr(trainer, "make_all", lambda *args, **options: "")
    monkeypatch.setattr(batch, "call", lambda command, folder: None)
    monkeypatch.setattr(notebooks, "_in_workers", lambda *args: [])
    notebooks.reproduce("smoke", [notebook(checkout / "notebooks" / "04_table3.ipynb", 'TABLES["table3"]')])
    train("smoke", ["3"])
    with pytest.raises(RuntimeError, match="1 of 1 jobs are left"):
        batch.run_jobs(replace(of(RUN), stale=[]), batch.WORKFLOW / "profiles" / "node" / "config.yaml")
    assert warned == [("smoke", 4), ("smoke", 4), ("smoke", 1)]


def test_slurm_where_there_is_none_is_said_before_anything_starts(checkout, monkeypatch):
    monkeypatch.setenv("PATH", str(checkout))
    with pytest.raises(RuntimeError, match=r"--on slurm is for a login node .* found no sbatch"):
        batch.run_jobs(of(RUN), batch.WORKFLOW / "profiles" / "slurm" / "config.yaml")
    assert not (store.store() / "batches").exists()


@snakemake
@pytest.mark.slow
def test_on_slurm_a_job_whose_node_fails_is_started_again(checkout, slurm, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(slurm))
    notebook(checkout / "notebooks" / "00_one.ipynb", 'profile = "smoke"')
    failed = []

    def fail():
        when(lambda: (store.store() / f"{LONG.id}.part").exists())
        failed.extend(kill(checkout, f"--run\0{LONG.id}.json"))

    threading.Thread(target=fail, daemon=True).start()
    batch.run_jobs(of(LONG), batch.place("slurm"), jobs=2)
    assert failed
    assert of(LONG).missing == of(LONG).stale == []
