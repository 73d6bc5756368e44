"""Time and memory of a piece of work, and rows of the tables that hold them."""

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch


def seconds(variants: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median seconds of each variant. Variants alternate, so that other load affects all of them alike."""
    times = {name: [] for name in variants}
    for run in variants.values():
        for _ in range(3 if device.type == "cuda" else 1):
            run()
    for _ in range(repeats):
        for name, run in variants.items():
            _wait(device)
            start = time.perf_counter()
            run()
            _wait(device)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def products(form: str = "") -> Iterator[None]:
    """Products and convolutions of float32 in TF32, if that is the form, and otherwise in float32 proper.

    By default PyTorch has convolutions in TF32 and products in float32.
    """
    settings = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = form == "TF32"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def peak_gib(run: Callable[[], object], device: torch.device) -> float:
    """Peak memory of a run, including the weights and other live tensors."""
    if device.type != "cuda":
        return np.nan
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {torch.get_num_threads()} cores"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def rows(device, what: str, batch: int, frames: int, times: dict[str, float], peaks: dict[str, float]) -> list[dict]:
    """One row a variant; ratio is the speed over the first one's."""
    first = next(iter(times.values()))
    return [
        {
            "hardware": hardware(device),
            "what": what,
            "variant": name,
            "batch": batch,
            "frames_per_second": round(frames / taken, 1),
            "ratio": round(first / taken, 3),
            "peak_gib": round(peaks.get(name, np.nan), 2),
            "torch": torch.__version__,
        }
        for name, taken in times.items()
    ]
