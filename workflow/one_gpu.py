"""Runs a command on one GPU of this machine: `python one_gpu.py COMMAND …`.

A GPU has as many places as the environment variable MIXSTE_SHARING says: one by default, so that the command has it to
itself. A place is taken by locking a file that is named after it. The command inherits the lock, and the system frees
it when the command ends, however it ends. With every place taken, the command waits for one.
"""

import fcntl
import os
import subprocess
import sys
import tempfile
import time


def visible() -> list[str]:
    """The names (UUIDs) of the GPUs that this process may use: a number means another GPU under another scheduler."""
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return listed
    return [listed[int(name)] if name.isdecimal() else name for name in allowed.split(",") if name]


def take(names: list[str], places: int) -> str:
    """Lock a place on the GPU that has most of them free, for this process and what it turns into."""
    parent = os.getppid()
    start = os.path.join(tempfile.gettempdir(), f"mixste-{os.getuid()}-")
    locks = [(name, f"{start}{name}{f'-{place}' if place else ''}.lock") for place in range(places) for name in names]
    while True:
        for name, path in locks:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            os.set_inheritable(file, True)
            return name
        if os.getppid() != parent:
            sys.exit("one_gpu.py: what waited for this command has ended")
        time.sleep(1)


if __name__ == "__main__":
    try:
        gpus = visible()
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        sys.exit(f"one_gpu.py: nvidia-smi does not list the GPUs that CUDA_VISIBLE_DEVICES allows ({error})")
    if not gpus:
        sys.exit("one_gpu.py: expected at least one GPU, found none")
    os.environ["CUDA_VISIBLE_DEVICES"] = take(gpus, int(os.environ.get("MIXSTE_SHARING", 1)))
    os.execvp(sys.argv[1], sys.argv[1:])
