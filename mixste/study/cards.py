"""The GPUs of this machine, and how several trainings share one."""

import functools
import os
import subprocess

SHARING = "MIXSTE_SHARING"  # environment variable: the number of trainings that share each GPU


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
