"""CSV tables: one row per frame, or per person and frame; columns by name or number, or as DeepLabCut writes them."""

import codecs
import csv
import itertools
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from mixste.data.readers import SCORE, Raw, by_frame
from mixste.data.readers.detections import canonical_names
from mixste.data.readers.timing import in_order, in_seconds, on_grid, rate, times_in
from mixste.io import DataError
from mixste.io.guard import check_table
from mixste.skeleton import human36m

_SCORES = "|".join(SCORE)
# Columns of a point: its name with x, y, z or the score after or before it.
PATTERNS = (
    rf"(?P<name>.+?)(?:[_. :/-]*(?P<axis>[xyz])|[_. :/-]*(?P<score>{_SCORES})|[_. :/-](?P<letter>c|v|p|s))",
    rf"(?P<axis>[xyz])[_. :/-]*(?P<name>\d+)|(?:(?P<score>{_SCORES})|(?P<letter>c|v|p|s))[_. :/-]*(?P<number>\d+)",
    rf"(?:(?P<axis>[xyz])|(?P<score>{_SCORES})|(?P<letter>c|v|p|s))[_. :/-](?P<name>.+)",
)
# Columns with the frame, the time and the person of a row.
COLUMNS = (
    r"(frame|image)[_ ]?(id|number|no|num|index|idx|name)?|file[_ ]?name",
    r"(time|timestamp|times|seconds|sec|t)[_ ]?[(\[]?(s|ms|us|ns)?[)\]]?",
    r"(person|track|individual)[_ ]?(id)?|id|idx",
)
AXES = {"x": 0, "y": 1, "likelihood": 2, "z": 3}  # what is in a column of a point; 2 is any score
FLAT = 10  # depths of MediaPipe, in units of the image's width, are smaller, and those of 3D poses larger
SAMPLE = 100  # lines from which the dialect of a table is inferred


def read_file(path: Path, count: int | None) -> Raw:
    """The clip in a table. count is not used: the columns of a table have names."""
    check_table(path)
    with open(path, "rb") as file:  # spreadsheets write "Unicode text" in UTF-16
        encoding = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    with open(path, encoding=encoding, errors="replace", newline="") as file:
        head = list(itertools.islice(file, SAMPLE))
    if not head:
        raise DataError("expected a table, found an empty file")
    separator = max(",;\t", key=head[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(head, delimiter=separator, skipinitialspace=True)]
    commas = separator != "," and any(
        re.fullmatch(r"-?\d*,\d+(e[+-]?\d+)?", cell, re.I) for row in rows for cell in row
    )
    if {f"{joint}_z" for joint in human36m.joints} <= set(rows[0]):
        raise DataError(
            "expected keypoints, found the 3D poses of `mixste lift`, whose .npz and .json have the keypoints"
        )
    headings, columns, skip = _deeplabcut(rows) or _by_heading(rows[0])
    if all(row[len(headings) :] == [""] for row in rows[skip:]):
        headings = [*headings, ""]  # every row ends with a separator
    if headings[0] == "" and all(row[:1] and row[0].isdigit() for row in rows[skip:]):
        headings = ["frame", *headings[1:]]  # the index of a data frame
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            table = pd.read_csv(
                path,
                sep=separator,
                decimal="," if commas else ".",
                header=None,
                names=range(len(headings)),
                index_col=False,
                skiprows=skip,
                skipinitialspace=True,
                encoding=encoding,
                encoding_errors="replace",
            )
        except (pd.errors.ParserError, pd.errors.ParserWarning):
            raise DataError(f"expected rows of {len(headings)} cells, as in the header, found longer ones") from None
    frame, time, who = (
        next((place for place, heading in enumerate(headings) if re.fullmatch(pattern, heading, re.IGNORECASE)), None)
        for pattern in COLUMNS
    )
    if frame is not None or time is not None:
        table = table.dropna(how="all", ignore_index=True)  # as spreadsheets leave them below the last row
    fps, notes = None, []
    if len(table) > 1 and table[len(headings) - 1].isna().to_numpy().nonzero()[0].tolist() == [len(table) - 1]:
        notes.append("the last row lacks its last cell, unlike the others: is the file complete?")
    people = list(dict.fromkeys(person for person, _, _ in columns.values()))
    names = list(dict.fromkeys(name for _, name, _ in columns.values()))
    names, numbered = _in_order_of_number(names)
    points = np.ones((len(table), len(people), len(names), 3))
    points[..., :2] = np.nan
    depths = [
        pd.to_numeric(table[place], errors="coerce") for place, (*_, axis) in columns.items() if axis == AXES["z"]
    ]
    if np.mean([depth.abs() > FLAT for depth in depths] or 0) > 0.5:
        notes.append("the z columns are not read: if x, y and z are 3D poses, not keypoints in an image, this is wrong")
    for place, (person, name, axis) in columns.items():
        if axis == AXES["z"]:
            continue
        points[:, people.index(person), names.index(name), axis] = _numbers(table[place], headings[place])

    numbers: list = list(range(len(table)))
    if frame is not None:
        if table[frame].isna().any():
            raise DataError(f"expected a frame number in every row, found none in row {_row(table[frame].isna())}")
        numbers = table[frame].tolist()
    if time is not None and len(table) > 1:
        seconds, unit = in_seconds(_times(table[time], headings[time]))
        if unit != "seconds":
            notes.append(f"column {headings[time]} is read as {unit}")
        if frame is None:
            numbers, fps, uneven = on_grid(seconds)
            notes += [uneven] if uneven else []
        else:
            fps = rate(numbers, seconds)
    count = len(people)
    entries = ((name, list(range(row * count, (row + 1) * count))) for row, name in enumerate(numbers))
    frames, by_name, more = in_order(entries, lists_empty_frames=False)
    ids = people * len(table)
    if who is not None and table[who].nunique() == len(table):
        who = None  # row numbers
    if who is not None and count == 1:
        ids = [None if pd.isna(one) or one in (-1, "-1") else str(one) for one in table[who].tolist()]
    ids = [[ids[row] for row in rows] for rows in frames]
    has_ids = count > 1 or who is not None or max(map(len, frames), default=0) < 2
    flat = points.reshape(-1, len(names), 3)[[row for rows in frames for row in rows]]
    return Raw(
        "table",
        by_frame(flat, map(len, frames)),
        None if numbered else canonical_names(names),
        ids if has_ids else None,
        fps=by_name or fps,
        notes=notes + more,
    )


def _by_heading(cells: list[str]) -> tuple[list[str], dict[int, tuple[str, str, int]], int]:
    """Headings; for each column of a point its person, point and value, see AXES; lines to skip.

    Uses the pattern of headings by which most points have x and y.
    """
    best: dict[int, tuple[str, str, int]] = {}
    twice = ""  # a heading of the same point as one before
    for pattern in PATTERNS:
        places: dict[tuple[str, int], int] = {}
        again = ""
        for place, cell in enumerate(cells):
            match = re.fullmatch(rf"(?:{pattern}) *([\[(] *(px|pixels?) *[\])])?", cell, re.IGNORECASE)
            if match:
                axis = AXES[match["axis"].lower()] if match["axis"] else AXES["likelihood"]
                first = places.setdefault((match["name"] or match.groupdict().get("number"), axis), place)
                again = again or cell * (first != place and axis in (AXES["x"], AXES["y"]))
        whole = {place: ("0", *key) for key, place in places.items() if {(key[0], 0), (key[0], 1)} <= set(places)}
        if len(whole) > len(best):
            best, twice = whole, again
    if not best:
        few = ", ".join(cells[:5])
        raise DataError(
            f"expected columns such as Nose_x, Nose_y and Nose_score in the first line, found {few or 'none'}"
        )
    if twice:
        raise DataError(f"expected every column once, found {twice} twice: give each person a row of their own")
    return cells, best, 1


def _deeplabcut(rows: list[list[str]]) -> tuple[list[str], dict[int, tuple[str, str, int]], int] | None:
    """The same from DeepLabCut's three or four header lines: scorer, optionally individuals, bodyparts, coords."""
    lines = {row[0].lower(): row for row in rows[:4] if row}
    if not {"bodyparts", "coords"} <= set(lines):
        return None
    parts, coords = lines["bodyparts"], lines["coords"]
    people = lines.get("individuals", ["0"] * len(parts))
    if not len(parts) == len(coords) == len(people):
        raise DataError(f"expected headings of one length, found {len(parts)} bodyparts and {len(coords)} coords")
    columns = {
        place: (people[place], parts[place], AXES[coords[place]])
        for place in range(1, len(parts))
        if coords[place] in AXES
    }
    headings = [f"{part} {coord}" for part, coord in zip(parts, coords, strict=True)]
    headings[min(columns, default=1) - 1] = "frame"  # labels have folder and clip in columns of their own before it
    return headings, columns, 1 + next(place for place, row in enumerate(rows) if row and row[0].lower() == "coords")


def _in_order_of_number(names: list[str]) -> tuple[list[str], bool]:
    """Points sorted by number, and whether their names differ by a number alone."""
    rows = [re.fullmatch(r"(\D*)(\d{1,6})(\D*)", name) for name in names]
    if not all(rows) or len({(row[1], row[3]) for row in rows}) > 1:
        return names, False
    numbers = sorted((int(row[2]), name) for row, name in zip(rows, names, strict=True))
    if numbers[-1][0] - numbers[0][0] != len(numbers) - 1 or numbers[0][0] > 1:
        raise DataError(
            f"expected points numbered from 0 or 1 without a gap, found {len(numbers)} from {numbers[0][0]} to "
            f"{numbers[-1][0]}"
        )
    return [name for _, name in numbers], True


def _numbers(column: pd.Series, heading: str) -> Float[np.ndarray, "rows"]:
    numbers = pd.to_numeric(column, errors="coerce")
    wrong = numbers.isna() & column.notna()
    if wrong.any():
        raise DataError(
            f"expected a number in column {heading}, found {str(column[wrong.idxmax()])[:40]!r} in row {_row(wrong)}"
        )
    return numbers.to_numpy(float)


def _times(column: pd.Series, heading: str) -> Float[np.ndarray, "rows"]:
    """Times in any unit, from numbers or from texts that `times_in` reads."""
    times = times_in(column)
    times = _numbers(column, heading) if times is None else times
    if not np.isfinite(times).all():
        raise DataError(f"expected a time in every row, found none in row {_row(~np.isfinite(times))}")
    return times


def _row(wrong) -> int:
    """The number of the first row that is True, counted from 1."""
    return int(np.argmax(np.asarray(wrong))) + 1
