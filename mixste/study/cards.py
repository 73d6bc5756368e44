"""The GPUs of this machine, and how several trainings share one.

A small network leaves a GPU idle for much of each step. Processes on one GPU take turns; under CUDA's Multi-Process
Service (MPS) they compute at the same time. `mixste bench study` measures what that gains. MPS runs as the user, and
changes no setting of the GPU.
"""

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

SHARING = "MIXSTE_SHARING"  # environment variable: the number of trainings that share each GPU
PIPES = "CUDA_MPS_PIPE_DIRECTORY"  # environment variable: where processes meet the MPS server
PER_CARD = 4  # trainings that share a GPU by default
MEMORY = 16  # GiB of a GPU for each of them
CONTROL = "nvidia-cuda-mps-control"
# Starts MPS, and ends it as soon as the process that holds the other end of its standard input closes it or ends.
KEEPER = f"""
{CONTROL} -d < /dev/null > "$1/message" 2>&1 || exit 1
echo started
read -r _
echo quit | {CONTROL} > /dev/null 2>&1
rm -rf "$1"
"""
PROBE = [sys.executable, "-c", "import torch; torch.zeros(1, device='cuda')"]


def query(*columns: str) -> list[list[str]]:
    """What nvidia-smi says of each GPU of the machine; empty where it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(columns)}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []
    return [[value.strip() for value in line.split(",")] for line in lines if line.strip()]


@functools.cache
def driver() -> str:
    """The version of the GPUs' driver; empty where nvidia-smi does not say it."""
    return next((version for [version] in query("driver_version")), "")


def sharing() -> int:
    """How many trainings share the GPU of this process."""
    return int(os.environ.get(SHARING, 1))


def visible() -> list[str]:
    """The names (UUIDs) of the GPUs that this process may use; empty where nvidia-smi does not list them."""
    names, setting = [name for [name] in query("uuid")], os.environ.get("CUDA_VISIBLE_DEVICES")
    if setting is None or not names:
        return names
    entries = [entry.strip() for entry in setting.split(",") if entry.strip()]
    return [names[int(entry)] if entry.isdecimal() and int(entry) < len(names) else entry for entry in entries]


@contextlib.contextmanager
def shared(gpus: list[str], count: int, jobs: int | None = None, say: Callable[[str], None] = print) -> Iterator[int]:
    """Let `count` trainings that are started in this context share these GPUs; yields how many at a time on each.

    jobs: trainings at a time on all GPUs. By default up to PER_CARD on each, as far as it has MEMORY for each, if MPS
    is running already or can be started, and otherwise one. With `jobs` but no MPS, those on one GPU take turns.
    """
    per_card = -(-min(count, jobs or count) // len(gpus)) if gpus else 1
    if jobs is None:
        mib = [int(total) for name, total in query("uuid", "memory.total") if name in gpus and total.isdecimal()]
        per_card = min(per_card, PER_CARD, *(total // 1024 // MEMORY for total in mib))
        if SHARING in os.environ or not shutil.which(CONTROL):  # in a training's place already
            per_card = 1
    if per_card < 2:
        yield 1
        return
    with mps(gpus) as why:
        if why:
            per_card = per_card if jobs else 1
            rest = "trainings on one GPU take turns" if jobs else "one training at a time runs on each GPU"
            say(f"CUDA's Multi-Process Service cannot be used ({why}): {rest}")
        with _environment({SHARING: str(per_card)} if per_card > 1 else {}):
            yield per_card


@contextlib.contextmanager
def mps(gpus: list[str]) -> Iterator[str]:
    """Let processes that are started in this context compute on one of these GPUs at the same time.

    They must name their GPU by its UUID. Yields why they cannot; empty if they can. An MPS server that runs already is
    used and left as it is; one that is started here ends with the context, however it or its process ends.
    """
    if not shutil.which(CONTROL):
        yield f"{CONTROL} is not installed"
        return
    if _is_running():
        yield ""
        return
    folder = Path(tempfile.mkdtemp(prefix="mixste-mps-"))
    for name in ("pipes", "log"):
        (folder / name).mkdir()
    place = {PIPES: str(folder / "pipes")}
    environment = os.environ | place | {"CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # no server on others' GPUs
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    keeper = subprocess.Popen(
        ["sh", "-c", KEEPER, "sh", folder],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is not for it
    )
    try:
        if keeper.stdout.readline() != "started\n":
            message = folder / "message"
            first_line = message.read_text(errors="replace").split("\n")[0] if message.exists() else ""
            yield first_line or f"{CONTROL} failed"
        elif why := _probe(place | {"CUDA_VISIBLE_DEVICES": gpus[0]}):
            yield why
        else:
            with _environment(place):
                yield ""
    finally:
        keeper.stdin.close()
        keeper.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a process, and ends after it
            keeper.wait(30)
        if keeper.returncode:
            shutil.rmtree(folder, ignore_errors=True)


def _is_running() -> bool:
    """Whether an MPS server is where processes of this environment look for it."""
    try:
        answer = subprocess.run(CONTROL, input="get_server_list\n", capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return False
    return answer.returncode == 0 and "Cannot find" not in answer.stdout + answer.stderr


def _probe(variables: dict[str, str]) -> str:
    """Why a process cannot use its GPU under MPS; empty if it can. A training would go on without a GPU."""
    try:
        probe = subprocess.run(PROBE, env=os.environ | variables, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "a first process under it hangs"
    errors = [line for line in probe.stderr.splitlines() if "Error: " in line]  # PyTorch's hints follow it
    return (errors or ["a first process under it failed"])[-1] if probe.returncode else ""


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
