"""Reads the keypoint files of 2D detectors, and infers the layout of their points, their units and the image size.

OpenPose folders; COCO-style JSON of MMPose, AlphaPose, Detectron2 and annotation files; MediaPipe landmarks; arrays in
.npz and .npy, tables in .csv (`mixste.data.readers`). Nothing in a file is executed.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from mixste.data.readers import Raw, arrays, by_frame, structures
from mixste.data.readers.arrays import size_in
from mixste.data.readers.detections import BY_COUNT, LAYOUTS, MADE_OF, MIN_SCORE, Detections, to_human36m
from mixste.io import DataError
from mixste.io.guard import guarded
from mixste.skeleton import human36m

MOST_PIXELS = 100_000  # of an image's side
HIGHEST_SCORE = 100  # of detectors that score in per cent
HUGE = 1e9  # larger coordinates are ignored
SMALLEST = 5  # pixels: people who are smaller were not detected in an image
SAMPLE = 20_000  # people at most from whom layout and units are inferred


def _read_table(path: Path, count: int | None) -> Raw:
    from mixste.data.readers import tables  # here, since it takes a quarter of a second to load

    return tables.read_file(path, count)


READERS: dict[str, Callable[[Path, int | None], Raw]] = {
    "json": structures.read_file,
    "jsonl": structures.read_lines,
    "npz": arrays.read_file,
    "npy": arrays.read_npy,
    "csv": _read_table,
}
FORMATS = ("auto", "openpose", "coco", "mediapipe", "npz", "npy", "csv")
# The units of coordinates, see `_in_pixels`.
UNITS = {
    "pixels": "pixels",
    "shares": "fractions of width and height, 0 to 1",
    "centred": "-1 to 1 over width and height",
    "screen": "-1 to 1 over the width",
}
USED = {point for rows in MADE_OF.values() for row in rows for point in row} | set(human36m.joints)
WHOLE_BODY = {133: 17, 136: 26}  # layouts that start with a body layout of so many points
FACE = {"Nose", "LEye", "REye", "LEar", "REar"}
# In a person's size: faces are smaller in every layout, and necks nearer to the middle of the shoulders.
LARGE_FACE, LONG_NECK = 0.35, 0.2


def read(
    path,
    format: str = "auto",
    layout: str | None = None,
    resolution: tuple[int, int] | None = None,
    units: str = "auto",
) -> Detections:
    """The detections in a file, or in a folder with one JSON file a frame.

    format: one of FORMATS; "auto" infers it from the content. layout: one of LAYOUTS; by default it is given by the
    names of the points in the file, which take precedence, or inferred from their number. resolution: width and height
    of the image in pixels, for the many files without it. units: of the coordinates: "pixels", "shares" of width and
    height from 0 to 1, "centred" from −1 to 1 in both, "screen" as `mixste.camera.normalize_screen` returns them;
    "auto" infers them from the numbers. Assumptions are in the `notes`. Raises DataError, in one sentence, for missing
    or malformed data.
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
            f"{path}: expected a folder of .json files or a .json, .jsonl, .npz, .npy or .csv file, in one of the "
            f"formats {', '.join(FORMATS)}, found {repr(kind) if kind not in READERS else repr(format)}"
        )
    if format != "auto" and (format in READERS or kind not in ("json", "jsonl")) and format != kind:
        raise DataError(
            f"{path}: expected {'a .json file or folder' if format not in READERS else f'a .{format} file'}, as format "
            f"{format} has, found {path.suffix.lower() or 'a folder'}"
        )
    with guarded(path, f"keypoints as {kind if format == 'auto' else format} has them"):
        count = len(LAYOUTS[layout]) if layout else None
        try:
            raw = structures.read_folder(path, count) if path.is_dir() else READERS[kind](path, count)
        except (AttributeError, LookupError, TypeError):  # their messages mean nothing to a user
            raise DataError("expected people and points, found another structure") from None
        if format in ("openpose", "coco", "mediapipe"):
            raw.kind = format
        return _interpreted(path.stem, raw, layout, resolution, units)


def _interpreted(name: str, raw: Raw, layout: str | None, resolution: tuple[int, int] | None, units: str) -> Detections:
    """Detections from the content of a file: named points, in pixels, 0 where not detected."""
    counts = [len(frame) for frame in raw.people]
    if not any(counts):
        raise DataError("expected people, found nobody in any frame")
    everyone = np.concatenate([frame for frame in raw.people if len(frame)])  # (all, points, 3)
    raw.people = []
    places, scores, notes = everyone[..., :2], everyone[..., 2], list(raw.notes)
    if np.mean((scores < 0) & (scores != -1)) > 0.05:
        raise DataError("expected x, y and score of every point, found negative scores, as if points were 3D")
    if np.median(scores) > HIGHEST_SCORE:
        raise DataError(
            f"expected x, y and score of every point, found scores of up to {scores.max():.4g}, as if points were 3D"
        )
    if not (scores >= MIN_SCORE).any():
        scores[:] = 1.0
        notes.append(f"no point has a score of {MIN_SCORE:g} or more: all are taken as detected")
    everyone[~((everyone > -HUGE) & (everyone < HUGE)).all(axis=-1)] = 0.0  # also NaN and infinity
    if not ((places != 0) & (places != -1)).any():
        raise DataError("expected people, found no point in any frame: all are 0, -1, missing or beyond any range")

    _check_side_by_side(everyone, np.array(counts), notes)
    names = _names(_some(everyone), raw, layout, notes)
    if names == LAYOUTS["mediapipe33"]:
        raw.kind = "mediapipe"
    useful = [place for place, point in enumerate(names) if point in USED]
    if len(useful) < everyone.shape[1]:  # hands, faces and the like are no evidence
        names, everyone = tuple(names[place] for place in useful), everyone[:, useful]
        places, scores = everyone[..., :2], everyone[..., 2]
    size = np.array(_size(raw, resolution, notes))
    undetected = (places == 0).all(axis=-1) | (places == -1).all(axis=-1)
    if units == "auto":
        units = _units(_some(everyone), names, raw, size, notes)
    _in_pixels(places, units, size)
    undetected |= ((places > -1e-6) & (places < 1e-6)).all(axis=-1)
    visible = scores >= MIN_SCORE
    placeholders = int((undetected & visible).sum())
    if placeholders:
        notes.append(f"{placeholders} points at (0, 0) or (-1, -1) are taken as not detected")
    visible &= ~undetected
    far = ((places < -2 * size) | (places > 3 * size)).any(axis=-1) & visible
    if far.any() and far.sum() < 0.5 * visible.sum():  # more of them mean a wrong size
        notes.append(f"{far.sum()} points more than two image sizes outside the image are taken as not detected")
        visible &= ~far
    everyone[~visible & (scores >= MIN_SCORE)] = 0.0
    _check_inside(_some(everyone), units, size, notes)
    width, height = size.tolist()
    return Detections(
        name, names, by_frame(everyone, counts), (width, height), raw.fps, raw.ids, tuple(notes), raw.focal
    )


def _some(everyone: Float[np.ndarray, "all points 3"]) -> Float[np.ndarray, "people points 3"]:
    """People spread over the whole clip, at most SAMPLE or so."""
    return everyone[:: -(-len(everyone) // SAMPLE)]


def _size(raw: Raw, override: tuple[int, int] | None, notes: list[str]) -> tuple[int, int]:
    """Width and height of the image: the given ones, or the file's."""
    resolution = raw.resolution if override is None else size_in(override)
    if resolution is None:
        raise DataError("expected the width and height of the image, found none in the file: give --size WIDTHxHEIGHT")
    if not all(1 <= side <= MOST_PIXELS for side in resolution):
        raise DataError(f"expected an image 1 to {MOST_PIXELS:,} pixels wide and high, found {resolution}")
    if raw.resolution and tuple(resolution) != tuple(raw.resolution):
        width, height = raw.resolution
        notes.append(f"the image size in the file is {width}x{height}: overridden by {resolution[0]}x{resolution[1]}")
    return tuple(resolution)


def _check_side_by_side(
    everyone: Float[np.ndarray, "all points 3"], counts: Int[np.ndarray, "frames"], notes: list[str]
) -> None:
    """DataError if the people of a frame overlap like the frames of a clip, which they then are.

    A note if they do so in several frames.
    """
    frames = np.repeat(np.arange(len(counts)), counts)
    first = np.flatnonzero(frames[1:] == frames[:-1])[:SAMPLE]  # of two people next to each other in the file
    points, others = (
        np.where(people[..., 2:] >= MIN_SCORE, people[..., :2], np.nan)
        for people in (everyone[first], everyone[first + 1])
    )
    apart = _median((others - points) / np.linalg.norm(_extent(others), axis=-1)[:, None, None].clip(1e-9))
    if apart < 0.15 and max(counts) >= 10 and len(counts) <= 3:
        raise DataError(
            f"expected the people of one frame, found {max(counts)} in one place, as in the frames of a clip: put each "
            "frame in a list of its own, or give each its number"
        )
    if apart < 0.05 and len(first) >= 5:
        notes.append(
            f"in {np.sum(counts > 1)} of {len(counts)} frames people are in one place: are frame numbers or times in "
            "the file rounded, or people detected twice?"
        )


# --- which point is which --------------------------------------------------------------------------------------


def _names(
    people: Float[np.ndarray, "people points 3"], raw: Raw, layout: str | None, notes: list[str]
) -> tuple[str, ...]:
    """Names of the points, or of a whole body's first ones: by the file, the layout, or their number."""
    count, names = people.shape[1], raw.names
    if names and len(names) != count:
        raise DataError(f"expected {len(names)} points, as many as there are names in the file, found {count}")
    missing = _missing(names) if names else []
    if names and not missing:
        if layout and names != LAYOUTS[layout]:
            notes.append(f"points are identified by their names in the file, not by layout {layout}")
        return names
    if names and layout is None:
        if len(missing) > len(human36m.joints) / 2:  # other words, rather than other points
            raise DataError(
                f"expected names of points such as Nose, LShoulder and RKnee, found {', '.join(names[:10])}: give "
                "--layout if the points are in the order of one"
            )
        raise DataError(
            f"expected points for every joint, found none for {', '.join(missing)} among {', '.join(names[:40])}"
        )
    if layout is None:
        return _inferred(people, raw, notes)
    if len(LAYOUTS[layout]) not in (count, WHOLE_BODY.get(count)):
        raise DataError(f"expected {len(LAYOUTS[layout])} points of layout {layout}, found {count}")
    for place, (name, point) in enumerate(zip(names or (), LAYOUTS[layout], strict=False)):
        if name in USED and name != point:
            raise DataError(f"expected point {place} to be {point}, as in layout {layout}, found {name}")
    return LAYOUTS[layout]


def _missing(names: tuple[str, ...]) -> list[str]:
    """The joints of human36m for which there are no points among these names."""
    joints = to_human36m(np.zeros((1, len(names), 1)), names)[0, :, 0]
    return [name for name, joint in zip(human36m.joints, joints, strict=True) if np.isnan(joint)]


def _inferred(people: Float[np.ndarray, "people points 3"], raw: Raw, notes: list[str]) -> tuple[str, ...]:
    """Names of points inferred from their number, and from their positions if two layouts have that number."""
    count = WHOLE_BODY.get(people.shape[1], people.shape[1])
    layout, evidence = BY_COUNT.get(count), "their number"
    points = _in_sizes(people)
    unnamed = raw.kind in ("array", "table")
    if count == 17:
        evidence = "their positions"
        # COCO's first five points are a face, Human3.6M's a hip and a leg, whose spine lies between hip and thorax.
        first = _median(_extent(points[:, :5]))
        hip = _median(points[:, 0] - (points[:, 1] + points[:, 4]) / 2)
        spine = _median(points[:, 7] - (points[:, 0] + points[:, 8]) / 2)
        if first > 0.3 and hip < 0.06 and spine < 0.12:
            layout = "human36m"
        elif unnamed and not first < LARGE_FACE:
            layout = None
    # In BODY_25 points 15 and 16 are eyes, in the experimental BODY_25B ankles.
    elif count == 25 and _median(points[:, [15, 16]] - points[:, :1]) > 0.3:
        layout, evidence = "body25b", "points 15 and 16"
    # In BODY_18, point 8 is a hip and 9 and 12 are the knees; in BODY_25, 8 is midway between the hips 9 and 12.
    elif count == 18 and _median(points[:, 8] - (points[:, 9] + points[:, 12]) / 2) < 0.03:
        notes.append("18 points: the first of body25, inferred from point 8; --layout sets another")
        return LAYOUTS["body25"][:18]
    unlike = layout is not None and _unlike(points, LAYOUTS[layout])
    if layout is None or unlike:
        raise DataError(
            f"expected points of a known layout, found {count} without names"
            f"{f', in other places than those of {layout}' if unlike else ''}: give --layout, one of "
            f"{', '.join(LAYOUTS)}"
        )
    if unnamed or layout in ("body25b", "human36m"):
        notes.append(f"{people.shape[1]} points: layout {layout} inferred from {evidence}; --layout sets another")
    return LAYOUTS[layout]


def _unlike(points: Float[np.ndarray, "people points 2"], names: tuple[str, ...]) -> bool:
    """Whether points have other names: most people would have too large a face, or a neck outside the shoulders."""
    points = points[:, : len(names)]
    points = points[np.isfinite(points).all(axis=-1).mean(axis=1) > 0.75]  # a face may be all that is seen of a person
    face = [place for place, name in enumerate(names) if name in FACE]
    if not face:  # human36m, whose neck is at the nose
        return False
    large = _median(_extent(points[:, face])) > LARGE_FACE
    if "Neck" not in names:
        return large
    neck, left, right = (points[:, names.index(name)] for name in ("Neck", "LShoulder", "RShoulder"))
    return large or _median(neck - (left + right) / 2) > LONG_NECK


def _in_sizes(people: Float[np.ndarray, "people points 3"]) -> Float[np.ndarray, "people points 2"]:
    """Positions in units of each person's size, NaN if not detected."""
    points = np.where(people[..., 2:] >= MIN_SCORE, people[..., :2], np.nan)
    points[(people[..., :2] == 0).all(axis=-1)] = np.nan
    sizes = np.linalg.norm(_extent(points), axis=-1)
    return points / np.where(sizes > 0, sizes, np.nan)[:, None, None]


def _extent(points: Float[np.ndarray, "people points 2"]) -> Float[np.ndarray, "people 2"]:
    """Width and height of the box around each person's points; NaN without points."""
    visible = np.isfinite(points)
    extent = np.where(visible, points, -np.inf).max(axis=1) - np.where(visible, points, np.inf).min(axis=1)
    return np.where(np.isfinite(extent), extent, np.nan)


def _median(vectors: Float[np.ndarray, "*many 2"]) -> float:
    """The median length of the finite vectors; NaN without any, for which every comparison is false."""
    lengths = np.linalg.norm(vectors, axis=-1)
    lengths = lengths[np.isfinite(lengths)]
    return float(np.median(lengths)) if len(lengths) else np.nan


# --- units of the coordinates ----------------------------------------------------------------------------------


def _units(
    people: Float[np.ndarray, "people points 3"],
    names: tuple[str, ...],
    raw: Raw,
    size: Int[np.ndarray, "2"],
    notes: list[str],
) -> str:
    """The unit of the coordinates, inferred from all points but the farthest 5 %; DataError if it is none of UNITS."""
    of_mediapipe = raw.kind == "mediapipe"
    if _around_hip(people, names, 0.05 if of_mediapipe else 0.01):
        raise DataError(
            "expected image coordinates, found people centred on the origin, as in root-relative poses or MediaPipe's "
            "world landmarks"
        )
    detected = (people[..., 2] >= MIN_SCORE) & (people[..., :2] != 0).any(axis=-1)
    points = people[detected]
    points, scores = points[(points[:, :2] != -1).any(axis=-1), :2], points[:, 2]
    if not len(points) or np.quantile(np.abs(points), 0.95) >= 3:
        sizes = np.linalg.norm(_extent(np.where(detected[..., None], people[..., :2], np.nan)), axis=-1)
        tall = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else np.inf
        if tall < SMALLEST:
            raise DataError(
                f"expected pixels, found people {tall:.2g} pixels tall, as if in metres: give --units if they are not"
            )
        return "pixels"
    wide, high = np.quantile(np.abs(points), 0.95, axis=0)
    least = np.quantile(points, 0.05, axis=0).min()
    unit = None
    # MediaPipe extrapolates beyond the image, OpenPose does not.
    if np.mean(points < 0) < 0.002 if raw.kind == "openpose" else least >= (-0.3 if of_mediapipe else -0.1):
        unit = "shares"
    elif wide <= 1.1 and high <= 1.1 * size[1] / size[0] and raw.kind != "openpose":
        unit = "screen"
    elif wide <= 1.1 and high <= 1.1:
        unit = "centred"
    if unit is None or np.median(scores) > 2:
        raise DataError(
            f"expected pixels or fractions of an image, found coordinates from {points.min():.3g} to "
            f"{points.max():.3g}, as if in metres: give --units if they are not"
        )
    if not (of_mediapipe and unit == "shares"):
        notes.append(
            f"coordinates from {least:.2g} to {max(wide, high):.2g} are read as {UNITS[unit]}; --units sets another"
        )
    return unit


def _around_hip(people: Float[np.ndarray, "people points 3"], names: tuple[str, ...], near: float) -> bool:
    """Whether 90 % of the people have their hip at the origin, within `near` of their size: root-relative poses."""
    middle = [name for name in ("Hip", "MidHip") if name in names] or ["LHip", "RHip"]
    points = np.where(people[..., 2:] >= MIN_SCORE, people[..., :2], np.nan)
    hips = np.linalg.norm(points[:, [names.index(name) for name in middle]].mean(axis=1), axis=-1)
    # Points on all sides of it, unlike a hip at (0, 0) that stands for not detected.
    amid = ((points > 0).any(axis=1) & (points < 0).any(axis=1)).all(axis=-1)
    visible = np.isfinite(hips)
    relative = amid & (hips <= near * np.linalg.norm(_extent(points), axis=-1))
    return bool(visible.any() and relative[visible].mean() >= 0.9)


def _in_pixels(places: Float[np.ndarray, "people points 2"], units: str, size: Int[np.ndarray, "2"]) -> None:
    """Turn the coordinates into pixels, in place."""
    if units == "shares":
        places *= size
    elif units == "centred":
        places += 1
        places *= size / 2
    elif units == "screen":
        places += size / size[0]
        places *= size[0] / 2


def _check_inside(
    people: Float[np.ndarray, "people points 3"], units: str, size: Int[np.ndarray, "2"], notes: list[str]
) -> None:
    """DataError if many of the detected points lie outside the image, beyond which only MediaPipe extrapolates.

    A note if all lie in the upper left quarter, as with a size given too large.
    """
    places = people[people[..., 2] >= MIN_SCORE][:, :2]
    outside = (np.abs(places / size - 0.5) > 0.52).any(axis=-1)
    if len(places) and outside.mean() > (0.7 if units == "shares" else 0.4):
        (left, top), (right, bottom) = places.min(axis=0), places.max(axis=0)
        raise DataError(
            f"expected people inside an image of {size[0]} x {size[1]} pixels, found points from ({left:.0f}, "
            f"{top:.0f}) to ({right:.0f}, {bottom:.0f}), coordinates read as {UNITS[units]}: is the size right?"
        )
    if len(places) and (np.quantile(places, 0.99, axis=0) < size / 2).all():
        notes.append(f"everyone is in the upper left quarter of the image: is its size {size[0]} x {size[1]} pixels?")
