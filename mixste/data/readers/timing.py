"""Puts frames in order, by the numbers in their names or by their times, and finds the frame rate."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from mixste.io import DataError


def in_order(
    entries: Iterable[tuple[object, list]], lists_empty_frames: bool, timed: bool = False
) -> tuple[list[list], float | None, list[str]]:
    """People by frame, the frame rate if the names are times, and notes; from pairs (name of the frame, its people).

    A name is a number, a text that contains it, or seconds (always if `timed`); None for all: in the given order.
    Missing numbers are frames without people, also those before the first, unless the file also lists frames without
    people (`lists_empty_frames`) or starts late. Raises DataError for the frames of several clips, or names without a
    number that differs.
    """
    by_name: dict[object, list] = {}
    for place, (name, people) in enumerate(entries):
        by_name.setdefault(place if name is None else name, []).extend(people)
    if not by_name:
        return [], None, []
    fps, notes, names = None, [], list(by_name)
    if timed or any(isinstance(name, float) and not name.is_integer() for name in names):
        if not all(isinstance(name, (int, float)) and math.isfinite(name) for name in names):
            raise DataError("expected a number for every frame, found text, NaN or infinity among them")
        numbers, fps, uneven = on_grid([float(name) for name in names])
        notes += [uneven] if uneven else []
        if not timed:
            notes.append(
                f"frames are numbered from {min(names):g} to {max(names):g} with fractions: read as seconds, "
                f"{fps:g} frames/s"
            )
    else:
        numbers = numbers_in(names)
    by_number = dict(zip(numbers, by_name.values(), strict=True))
    first, last = min(by_number), max(by_number)
    if last - first >= 20 * len(by_number) + 100:
        raise DataError(f"expected the frames of one clip, found {len(by_number)} numbered from {first} to {last}")
    if first >= 2 and not lists_empty_frames and first <= len(by_number):
        notes.append(f"the file starts at frame {first}: frames 0 to {first - 1} are taken as frames without people")
        first = 0
    elif first >= 2:
        notes.append(f"frame 0 here is number {first} in the file")
    return [by_number.get(number, []) for number in range(first, last + 1)], fps, notes


def numbers_in(names: Sequence[object]) -> list[int]:
    """The number of each frame, from names such as 12, "12.jpg" or "clip_000012_cam2.json": the number that varies.

    Of several that differ in every frame, such as a time and a count, the one with the smallest range, then the last.
    """
    rows = [_split(name) for name in names]
    texts = {text for text, _ in rows}
    if len(texts) > 1:
        few = ", ".join(sorted(map(repr, texts))[:3])
        raise DataError(f"expected the frames of one clip, found those of {len(texts)}: {few}")
    columns = list(zip(*(numbers for _, numbers in rows), strict=True))
    distinct = [column for column in columns if len(set(column)) == len(column)]
    if len(names) == 1:
        return [columns[-1][0] if columns else 0]
    if not distinct:
        raise DataError(
            f"expected frame names with a number each that no other has, found {names[0]!r} and {names[-1]!r}"
        )
    return list(min(reversed(distinct), key=lambda column: max(column) - min(column)))


def _split(name: object) -> tuple[str, tuple[int, ...]]:
    """A name without its numbers, and the numbers: ("clip_#", (12,)) for "clip_000012.json"."""
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    stem = re.sub(r"\.[a-z]\w*$", "", str(name), flags=re.IGNORECASE)
    digits = re.findall(r"\d+", stem)
    if any(len(number) > 18 for number in digits):
        raise DataError(f"expected frame names with a number each, found {str(name)[:40]!r}")
    return re.sub(r"\d+", "#", stem), tuple(map(int, digits))


def on_grid(times: Sequence[float]) -> tuple[list[int], float, str]:
    """The index of each time, in seconds, on a grid of equal steps from the first; steps per second; a note, or "".

    Times that are equally spaced up to rounding are the grid. For others, the step is the tenth percentile of theirs,
    so that longer steps leave indices empty and hardly two times share an index. DataError for a single time.
    """
    elapsed = np.asarray(times, dtype=float)
    elapsed = elapsed - elapsed.min(initial=np.inf)
    distinct = np.unique(elapsed)
    steps = np.diff(distinct)
    if len(steps) == 0 or not np.isfinite(elapsed).all():
        raise DataError(f"expected different times of two frames or more, found {len(steps) + 1}")
    step, note = distinct[-1] / len(steps), ""
    if np.abs(distinct - step * np.arange(len(distinct))).max() > 0.35 * step:
        shortest = np.quantile(steps, 0.1, method="lower")
        step = distinct[-1] / np.rint(steps / shortest).sum()  # the mean, free of the rounding of single steps
        note = (
            f"the time between frames varies from {steps.min():.3g} to {steps.max():.3g} s: placed by their times at "
            f"{1 / step:.3g} frames/s, with the missing frames filled in"
        )
    places = np.rint(elapsed / step)
    if places.max() > 20 * len(places) + 100:
        raise DataError(
            f"expected the times of one clip, found steps of {steps.min():.3g} s and of {steps.max():.3g} s"
        )
    return places.astype(int).tolist(), float(1 / step), note


def in_seconds(times: Float[np.ndarray, "rows"]) -> tuple[Float[np.ndarray, "rows"], str]:
    """Times in seconds, and their unit: the largest in which frames are less than two seconds apart."""
    step = np.median(np.diff(np.unique(times))) if np.ptp(times) > 0 else 0.0
    for power, unit in ((0, "seconds"), (3, "milliseconds"), (6, "microseconds")):
        if step < 2 * 10.0**power:
            return times / 10.0**power, unit
    return times / 1e9, "nanoseconds"


def times_in(values: Sequence[object]) -> Float[np.ndarray, "rows"] | None:
    """Numbers unchanged; texts such as 0:00:01.25 and 2026-11-30T12:00:01.25Z as seconds; None for anything else."""
    import pandas as pd  # here, since it takes a quarter of a second to load, and most files have no times

    column = pd.Series(list(values))
    numbers = pd.to_numeric(column, errors="coerce")
    if pd.api.types.is_numeric_dtype(column) or not numbers.isna().any():
        return numbers.to_numpy(float)
    texts = column.astype(str)
    spans = pd.to_timedelta(texts, errors="coerce")
    if spans.isna().any():
        spans = pd.to_datetime(texts, errors="coerce", format="ISO8601", utc=True)
        spans -= spans.min()
    return None if spans.isna().any() else spans.dt.total_seconds().to_numpy()


def rate(names: Sequence[object], seconds: Float[np.ndarray, "rows"]) -> float | None:
    """The frame rate of frames with a name and a time each; None for a single frame."""
    first, last = int(np.argmin(seconds)), int(np.argmax(seconds))
    if seconds[first] == seconds[last]:
        return None
    numbers = numbers_in([names[first], names[last]])
    return float(abs(numbers[1] - numbers[0]) / (seconds[last] - seconds[first]))
