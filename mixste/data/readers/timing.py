"""When each frame was: by the numbers in its name, or its time."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from mixste.io import DataError


def in_order(
    entries: Iterable[tuple[object, list]], listed: bool, timed: bool = False
) -> tuple[list[list], float | None, list[str]]:
    """People by frame, frames a second where the names are times, and notes; from (name of the frame, its people).

    A name is a number, a text with the number in it, or seconds (always if `timed`); all None: in the order given.
    Numbers left out are frames with nobody in them, also those before the first, unless the file lists the frames
    without people too (`listed`) or begins late. Raises DataError for names of several clips, or none that tells frames
    apart.
    """
    by_name: dict[object, list] = {}
    for place, (name, people) in enumerate(entries):
        by_name.setdefault(place if name is None else name, []).extend(people)
    if not by_name:
        return [], None, []
    fps, notes, names = None, [], list(by_name)
    if timed or any(isinstance(name, float) and not name.is_integer() for name in names):
        if not all(isinstance(name, (int, float)) and math.isfinite(name) for name in names):
            raise DataError("expected the number of every frame, found other names, NaN or infinity among them")
        numbers, fps, uneven = on_grid([float(name) for name in names])
        notes += [uneven] if uneven else []
        if not timed:
            notes.append(
                f"frames are numbered from {min(names):g} to {max(names):g} with fractions: taken as seconds, "
                f"{fps:g} frames a second"
            )
    else:
        numbers = numbers_in(names)
    by_number = dict(zip(numbers, by_name.values(), strict=True))
    first, last = min(by_number), max(by_number)
    if last - first >= 20 * len(by_number) + 100:
        raise DataError(f"expected the frames of one clip, found {len(by_number)} numbered from {first} to {last}")
    if first >= 2 and not listed and first <= len(by_number):
        notes.append(f"the file begins with frame {first}: frames 0 to {first - 1} are taken as frames without people")
        first = 0
    elif first >= 2:
        notes.append(f"frame 0 here is number {first} in the file")
    return [by_number.get(number, []) for number in range(first, last + 1)], fps, notes


def numbers_in(names: Sequence[object]) -> list[int]:
    """The number of each frame, from names such as 12, "12.jpg" or "clip_000012_cam2.json": the number that varies.

    Of several that tell every frame apart, as a time and a count do, the one that counts most closely, then the last.
    """
    rows = [_split(name) for name in names]
    texts = {text for text, _ in rows}
    if len(texts) > 1:
        few = ", ".join(sorted(map(repr, texts))[:3])
        raise DataError(f"expected the frames of one clip, found those of {len(texts)}: {few}")
    columns = list(zip(*(numbers for _, numbers in rows), strict=True))
    telling = [column for column in columns if len(set(column)) == len(column)]
    if len(names) == 1:
        return [columns[-1][0] if columns else 0]
    if not telling:
        raise DataError(f"expected frames with a number each, found names such as {names[0]!r} and {names[-1]!r}")
    return list(min(reversed(telling), key=lambda column: max(column) - min(column)))


def _split(name: object) -> tuple[str, tuple[int, ...]]:
    """A name without its numbers, and they: ("clip_#", (12,)) of "clip_000012.json"."""
    if isinstance(name, float) and name.is_integer():
        name = int(name)
    stem = re.sub(r"\.[a-z]\w*$", "", str(name), flags=re.IGNORECASE)
    digits = re.findall(r"\d+", stem)
    if any(len(number) > 18 for number in digits):
        raise DataError(f"expected frames with a number each, found names such as {str(name)[:40]!r}")
    return re.sub(r"\d+", "#", stem), tuple(map(int, digits))


def on_grid(times: Sequence[float]) -> tuple[list[int], float, str]:
    """The place of each time, in seconds, on a grid of equal steps from the first on; steps a second; a note, or "".

    Times that are equally spaced but for rounding are the grid. Of others, a step is as short as theirs are but for the
    shortest tenth, so that longer ones leave places empty and hardly two share a place. DataError for one time alone.
    """
    when = np.asarray(times, dtype=float)
    when = when - when.min(initial=np.inf)
    distinct = np.unique(when)
    steps = np.diff(distinct)
    if len(steps) == 0 or not np.isfinite(when).all():
        raise DataError(f"expected the times of two frames or more, found {len(steps) + 1}")
    step, note = distinct[-1] / len(steps), ""
    if np.abs(distinct - step * np.arange(len(distinct))).max() > 0.35 * step:
        shortest = np.quantile(steps, 0.1, method="lower")
        step = distinct[-1] / np.rint(steps / shortest).sum()  # without what rounding did to single steps
        note = (
            f"frames follow each other by {steps.min():.3g} to {steps.max():.3g} s: put where their times are at "
            f"{1 / step:.3g} frames a second, the others filled"
        )
    places = np.rint(when / step)
    if places.max() > 20 * len(places) + 100:
        raise DataError(
            f"expected times of one clip, found some {steps.min():.3g} s and some {steps.max():.3g} s apart"
        )
    return places.astype(int).tolist(), float(1 / step), note


def in_seconds(times: Float[np.ndarray, "rows"]) -> tuple[Float[np.ndarray, "rows"], str]:
    """Times as seconds, and the unit they are in: the largest in which they are less than two seconds apart."""
    step = np.median(np.diff(np.unique(times))) if np.ptp(times) > 0 else 0.0
    for power, unit in ((0, "seconds"), (3, "milliseconds"), (6, "microseconds")):
        if step < 2 * 10.0**power:
            return times / 10.0**power, unit
    return times / 1e9, "nanoseconds"


def times_in(values: Sequence[object]) -> Float[np.ndarray, "rows"] | None:
    """Numbers as they are; texts such as 0:00:01.25 and 2026-11-30T12:00:01.25Z as seconds; None for anything else."""
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
    """Frames a second of frames with a name and a time each; None of one frame."""
    first, last = int(np.argmin(seconds)), int(np.argmax(seconds))
    if seconds[first] == seconds[last]:
        return None
    counted = numbers_in([names[first], names[last]])
    return float(abs(counted[1] - counted[0]) / (seconds[last] - seconds[first]))
