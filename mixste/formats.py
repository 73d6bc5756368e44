"""The files of other people's 2D detectors, and what is concluded from all that they hold.

OpenPose folders; COCO-style JSON as MMPose, AlphaPose, Detectron2 and annotation files have it; MediaPipe landmarks;
arrays in .npz and .npy and tables in .csv (`mixste.readers`). Nothing in a file is run.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixste.data import DataError
from mixste.data.guard import guarded
from mixste.detections import BY_COUNT, LAYOUTS, MADE_OF, SEEN, Detections, to_human36m
from mixste.readers import Raw, arrays, structures, tables
from mixste.skeleton import human36m

MOST_PIXELS = 100_000  # of an image's side

READERS: dict[str, Callable[[Path, int | None], Raw]] = {
    "json": structures.read_file,
    "npz": arrays.read_file,
    "npy": arrays.read_npy,
    "csv": tables.read_file,
}
FORMATS = ("auto", "openpose", "coco", "mediapipe", "npz", "npy", "csv")
# What a coordinate may be counted in; see `_in_pixels`.
UNITS = {
    "pixels": "pixels",
    "shares": "shares of width and height, 0 to 1",
    "centred": "-1 to 1 over width and height",
    "screen": "-1 to 1 over the width",
}
USED = {point for rows in MADE_OF.values() for row in rows for point in row} | set(human36m.joints)
WHOLE_BODY = {133: 17, 136: 26}  # layouts that begin with one of the body alone


def read(
    path,
    format: str = "auto",
    layout: str | None = None,
    resolution: tuple[int, int] | None = None,
    units: str = "auto",
) -> Detections:
    """The detections in a file, or in a folder with one JSON file a frame.

    format: one of FORMATS, "auto" to tell by the content. layout: one of LAYOUTS; by default the file's own names of
    its points tell, or their number; names in the file count before the order of a layout. resolution: width and
    height of the image in pixels, for the many files that do not say. units: of the coordinates, "pixels", "shares" of
    width and height from 0 to 1, "centred" from −1 to 1 in both, "screen" as `mixste.camera.normalize_screen` has it;
    "auto" to tell by the numbers. What was guessed stands in the `notes`. Raises DataError, in one sentence, for
    whatever is missing or wrong.
    """
    path = Path(path)
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    if units not in ("auto", *UNITS):
        raise DataError(f"unknown units {units!r}: expected auto or one of {', '.join(UNITS)}")
    if not path.exists():
        raise DataError(f"{path}: expected keypoints, found no such file or folder")
    kind = "json" if path.is_dir() else path.suffix.lower().removeprefix(".")
    if kind not in READERS or format not in FORMATS:
        raise DataError(
            f"{path}: expected a folder of .json files, {', '.join(f'.{name}' for name in READERS)}, in one of the "
            f"formats {', '.join(FORMATS)}, found {repr(kind) if kind not in READERS else repr(format)}"
        )
    if format != "auto" and (format in READERS or kind != "json") and format != kind:
        raise DataError(
            f"{path}: expected a file that {format} is written to, found {path.suffix.lower() or 'a folder'}"
        )
    with guarded(path, f"keypoints as {kind if format == 'auto' else format} has them"):
        count = len(LAYOUTS[layout]) if layout else None
        raw = structures.read_folder(path, count) if path.is_dir() else READERS[kind](path, count)
        if format in ("openpose", "coco", "mediapipe"):
            raw.kind = format
        return _concluded(path.stem, raw, layout, resolution, units)


def _concluded(name: str, raw: Raw, layout: str | None, resolution: tuple[int, int] | None, units: str) -> Detections:
    """Detections from what a file holds: whose points they are, in pixels, and which are unseen."""
    if not any(map(len, raw.people)):
        raise DataError("expected people, found nobody in any frame")
    counts = [len(frame) for frame in raw.people]
    everyone = np.concatenate([frame for frame in raw.people if len(frame)])  # (all, points, 3)
    notes = list(raw.notes)
    np.copyto(everyone, 0.0, where=~(np.abs(everyone) < 1e9).all(axis=-1, keepdims=True))  # NaN and infinity too
    scores = everyone[..., 2]
    if np.mean((scores < 0) & (scores != -1)) > 0.05:
        raise DataError("expected x, y and score of every point, found negative scores, as of 3D points")
    if not (scores >= SEEN).any():
        scores[:] = 1.0
        notes.append("no point has a score: all are taken as seen")
    names = _names(everyone, raw, layout, notes)
    everyone = everyone[:, : len(names)]
    resolution = _size(raw, resolution, notes)
    unseen = (everyone[..., :2] == 0).all(axis=-1) | (everyone[..., :2] == -1).all(axis=-1)
    unseen &= not _about_hip(everyone, names)  # where the hip is the origin, zero is a place
    units = _units(everyone, names, raw, resolution, unseen, notes) if units == "auto" else units
    _in_pixels(everyone, units, resolution)
    unseen |= (np.abs(everyone[..., :2]) < 1e-6).all(axis=-1)
    marked = int((unseen & (everyone[..., 2] >= SEEN))[:, [name in USED for name in names]].sum())
    if marked:
        notes.append(f"{marked} points at (0, 0) or (-1, -1) are taken as unseen")
    off = (np.abs(everyone[..., :2] / resolution - 0.5) > 2.5).any(axis=-1) & ~unseen & (everyone[..., 2] >= SEEN)
    if off.any() and off.sum() < 0.5 * (everyone[..., 2] >= SEEN).sum():  # else the size is wrong
        notes.append(f"{off.sum()} points more than two images outside of the image are taken as unseen")
        unseen |= off
    everyone[unseen] = 0.0
    _check_inside(everyone, units, resolution)
    people = np.split(everyone, np.cumsum(counts)[:-1])
    return Detections(name, names, people, resolution, raw.fps, raw.ids, tuple(notes))


def _size(raw: Raw, given: tuple[int, int] | None, notes: list[str]) -> tuple[int, int]:
    """Width and height of the image: as given, or as the file says."""
    resolution = given or raw.resolution
    if resolution is None:
        raise DataError("expected to be told the width and height of the image, which the file does not say")
    if len(resolution) != 2 or not all(1 <= side <= MOST_PIXELS for side in resolution):
        raise DataError(f"expected an image 1 to {MOST_PIXELS:,} pixels wide and high, found {resolution}")
    if raw.resolution and tuple(resolution) != tuple(raw.resolution):
        width, height = raw.resolution
        notes.append(f"the file says that the image is {width}x{height}: taken as {resolution[0]}x{resolution[1]}")
    return tuple(resolution)


# --- which point is which --------------------------------------------------------------------------------------


def _names(
    everyone: Float[np.ndarray, "all points 3"], raw: Raw, layout: str | None, notes: list[str]
) -> tuple[str, ...]:
    """Of the points, or of the first of them where they are of a whole body: by the file, the layout, or the number."""
    count, own = everyone.shape[1], raw.names
    if own and len(own) != count:
        raise DataError(f"expected {len(own)} points, as many as the file has names for, found {count}")
    missing = lacking(own) if own else []
    if own and not missing:
        if layout and own != LAYOUTS[layout]:
            notes.append(f"the names of the points in the file are taken, not the order of layout {layout}")
        return own
    if own and layout is None:
        raise DataError(
            f"expected points that make every joint, found none for {', '.join(missing)} among {', '.join(own[:40])}"
        )
    count = count if layout and len(LAYOUTS[layout]) == count else WHOLE_BODY.get(count, count)
    if layout and len(LAYOUTS[layout]) != count:
        raise DataError(f"expected {len(LAYOUTS[layout])} points of layout {layout}, found {count}")
    if layout:
        known = {point for names in LAYOUTS.values() for point in names}
        for place, (name, point) in enumerate(zip(own or (), LAYOUTS[layout], strict=False)):
            if name in known and name != point:
                raise DataError(f"expected point {place} to be {point}, as in layout {layout}, found {name}")
        return LAYOUTS[layout]
    guess = BY_COUNT.get(count)
    if count == 17:
        guess = _of_17(everyone)
        if raw.kind in ("array", "table") and guess:
            notes.append(f"17 points are taken as {guess} by where they lie: --layout tells others")
        elif guess == "human36m":
            notes.append("17 points are taken as human36m by where they lie: --layout coco17 if they are COCO's")
        elif raw.kind not in ("array", "table"):  # which have 17 points of COCO
            guess = "coco17"
    elif count == 25 and _is_body25b(everyone):
        guess = "body25b"
        notes.append("25 points are taken as body25b by where points 15 and 16 lie: --layout body25 if they are eyes")
    elif count == 18 and _has_middle_hip(everyone):
        notes.append(
            "18 points are taken as the first of body25, since point 8 lies amid the hips: --layout tells others"
        )
        return LAYOUTS["body25"][:18]
    if guess is None:
        raise DataError(f"expected to be told the layout of {count} points, one of {', '.join(LAYOUTS)}")
    return LAYOUTS[guess]


def lacking(names: tuple[str, ...]) -> list[str]:
    """The joints of human36m that cannot be made of points with these names."""
    made = np.isfinite(to_human36m(np.zeros((1, len(names), 1)), names)[0, :, 0])
    return [joint for joint, there in zip(human36m.joints, made, strict=True) if not there]


def _shares(everyone: Float[np.ndarray, "all points 3"]) -> Float[np.ndarray, "all points 2"]:
    """Places in units of each person's size, NaN where unseen."""
    points = np.where(everyone[..., 2:] >= SEEN, everyone[..., :2], np.nan)
    points[(everyone[..., :2] == 0).all(axis=-1)] = np.nan
    size = np.linalg.norm(span(points), axis=-1)
    return points / np.where(size > 0, size, np.nan)[:, None, None]


def span(points: Float[np.ndarray, "all points axes"]) -> Float[np.ndarray, "all axes"]:
    """From the least to the largest coordinate of each person's seen points; −inf where none is."""
    seen = np.isfinite(points)
    return np.where(seen, points, -np.inf).max(axis=1) - np.where(seen, points, np.inf).min(axis=1)


def _of_17(everyone: Float[np.ndarray, "all 17 3"]) -> str | None:
    """The layout of 17 points by the median person: COCO's first five are a face, Human3.6M's a hip and a leg."""
    points = _shares(everyone)
    first = np.linalg.norm(span(points[:, :5]), axis=-1)
    hip = np.linalg.norm(points[:, 0] - (points[:, 1] + points[:, 4]) / 2, axis=-1)
    spine = np.linalg.norm(points[:, 7] - (points[:, 0] + points[:, 8]) / 2, axis=-1)
    if not (np.isfinite(first) & np.isfinite(hip) & np.isfinite(spine)).any():
        return None
    first, hip, spine = (np.median(values[np.isfinite(values)]) for values in (first, hip, spine))
    if first > 0.3 and hip < 0.06 and spine < 0.12:
        return "human36m"
    return "coco17" if first < 0.35 else None


def _has_middle_hip(everyone: Float[np.ndarray, "all 18 3"]) -> bool:
    """Whether point 8 is between 9 and 12, as BODY_25's middle of the hips is; in BODY_18 they are a hip and knees."""
    points = _shares(everyone)
    apart = np.linalg.norm(points[:, 8] - (points[:, 9] + points[:, 12]) / 2, axis=-1)
    return bool(np.median(apart[np.isfinite(apart)]) < 0.03) if np.isfinite(apart).any() else False


def _is_body25b(people: Float[np.ndarray, "people 25 3"]) -> bool:
    """Whether 25 points are OpenPose's experimental BODY_25B, whose points 15 and 16 are ankles.

    In BODY_25 they are eyes, so that their distance from the nose, for the size of the person, tells in any posture.
    """
    points = _shares(people)
    far = np.linalg.norm(points[:, [15, 16]] - points[:, :1], axis=-1)
    return bool(np.mean(far[np.isfinite(far)] > 0.3) > 0.5) if np.isfinite(far).any() else False


# --- what the coordinates are ----------------------------------------------------------------------------------


def _about_hip(everyone: Float[np.ndarray, "all points 3"], names: tuple[str, ...]) -> bool:
    """Whether people lie around the origin with their hip there, nine in ten of them: poses without a place."""
    middle = [name for name in ("Hip", "MidHip") if name in names] or ["LHip", "RHip"]
    points = np.where(everyone[..., 2:] >= SEEN, everyone[..., :2], np.nan)
    with np.errstate(invalid="ignore"):
        around = (np.nan_to_num(points).min(axis=1) < 0).all(axis=-1) & (np.nan_to_num(points).max(axis=1) > 0).all(
            axis=-1
        )
    hip = np.linalg.norm(points[:, [names.index(name) for name in middle]].mean(axis=1), axis=-1)
    near = 0.05 if names == LAYOUTS["mediapipe33"] else 0.01  # MediaPipe's origin is the hip but for its own errors
    there = np.isfinite(hip)
    return bool(there.any()) and bool(
        np.mean((around & (hip <= near * np.linalg.norm(span(points), axis=-1)))[there]) >= 0.9
    )


def _units(
    everyone: Float[np.ndarray, "all points 3"],
    names: tuple[str, ...],
    raw: Raw,
    resolution: tuple[int, int],
    unseen: np.ndarray,
    notes: list[str],
) -> str:
    """The unit of the coordinates by all that is seen, but for the farthest twentieth; DataError for what is none."""
    if _about_hip(everyone, names):
        raise DataError(
            "expected coordinates in the image, found people around the origin, as in poses relative to the hip or "
            "MediaPipe's world landmarks: give the keypoints in the image"
        )
    seen = everyone[(everyone[..., 2] >= SEEN) & ~unseen]
    if not len(seen) or np.quantile(np.abs(seen[:, :2]), 0.95) >= 3:
        return "pixels"
    width, height = resolution
    wide, high = np.quantile(np.abs(seen[:, :2]), 0.95, axis=0)
    least = np.quantile(seen[:, :2], 0.05, axis=0).min()
    of_mediapipe = raw.kind == "mediapipe" or names == LAYOUTS["mediapipe33"]
    unit = None
    if least >= (-0.3 if of_mediapipe else -0.1):
        unit = "shares"
    elif wide <= 1.1 and high <= 1.1 * height / width and raw.kind != "openpose":  # which writes no such thing
        unit = "screen"
    elif wide <= 1.1 and high <= 1.1:
        unit = "centred"
    if unit is None or np.median(seen[:, 2]) > 2:
        raise DataError(
            f"expected pixels, or shares of an image, found coordinates from {seen[:, :2].min():.3g} to "
            f"{seen[:, :2].max():.3g}, as of metres: --units tells what they are"
        )
    if not (of_mediapipe and unit == "shares"):
        notes.append(
            f"coordinates from {least:.2g} to {max(wide, high):.2g} are taken as {UNITS[unit]}: --units tells others"
        )
    return unit


def _in_pixels(everyone: Float[np.ndarray, "all points 3"], units: str, resolution: tuple[int, int]) -> None:
    """Turn the coordinates into pixels, in place."""
    width, height = resolution
    if units == "shares":
        everyone[..., :2] *= resolution
    elif units == "centred":
        everyone[..., :2] = (everyone[..., :2] + 1) / 2 * resolution
    elif units == "screen":
        everyone[..., :2] = (everyone[..., :2] + [1, height / width]) * width / 2


def _check_inside(everyone: Float[np.ndarray, "all points 3"], units: str, resolution: tuple[int, int]) -> None:
    """DataError if much of what is seen lies outside of the image: MediaPipe alone goes on where the image ends."""
    places = everyone[everyone[..., 2] >= SEEN][:, :2]
    outside = (np.abs(places / resolution - 0.5) > 0.52).any(axis=-1)
    if len(places) and outside.mean() > (0.7 if units == "shares" else 0.4):
        (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
        raise DataError(
            f"expected people in an image {resolution[0]} pixels wide and {resolution[1]} high, found them from "
            f"({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), coordinates being read as {UNITS[units]}: is the "
            "size right?"
        )
