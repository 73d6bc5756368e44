"""JSON: OpenPose, COCO results and annotations, MMPose, AlphaPose, Detectron2, MediaPipe, and similar structures.

Also the labels that YOLO writes, one .txt file a frame, which become the same structure.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mixste.data import readers
from mixste.data.readers import Raw, by_frame, values_per_point
from mixste.data.readers.arrays import from_arrays, size_in
from mixste.data.readers.detections import canonical_names
from mixste.data.readers.timing import in_order, in_seconds, rate, times_in
from mixste.io import DataError
from mixste.io.guard import guarded, read_bytes, read_json

# The keys that programs use for the same things, in the order in which they are tried.
FRAMES = ("instance_info", "frames")  # of a clip
PEOPLE = ("people", "bodies", "instances", "persons", "predictions", "instance_info")  # of a frame
POINTS = (  # of a person
    *("pose_keypoints_2d", "pose_keypoints", "keypoints", "joints"),
    *("pose_landmarks", "poseLandmarks", "landmarks", "landmark"),
)
SCORES = readers.SCORES  # beside the points
SCORE = (*readers.SCORE, "c", "v")  # of a point
NAMES = ("name", "part")  # of a point
NUMBER = ("image_id", "frame_id", "frame", "frame_number", "frame_index", "image_name", "image", "file_name")
TIME = ("timestamp", "time", "timestamp_ms", "time_ms", "seconds")
IDS = ("track_id", "idx", "person_id")
FPS = ("fps", "frame_rate", "framerate")  # of a clip
SIZES = (  # of its images
    *(("width", "height"), ("image_width", "image_height"), ("canvas_width", "canvas_height")),
    *(("resolution",), ("image_size",)),
)
FOCAL = ("focal_length", "focal")  # of the camera, pixels
ABOUT = ("info", "meta", "metadata", "meta_info", "video", "video_info")  # objects with the same keys
MAX_LABELS = 1 << 20  # bytes of a frame of YOLO's; a person takes 600
OF_ONE_IMAGE = ("keypoint_scores", "bbox", "box")  # keys of people, by which their list is one frame

KINDS = dict.fromkeys(("people", "bodies", *POINTS[:2]), "openpose")
KINDS |= dict.fromkeys(POINTS[4:], "mediapipe")


def read_file(path: Path, count: int | None) -> Raw:
    """The clip in a file. count: points per person, if known."""
    return _clip(read_json(path), count)


def read_lines(path: Path, count: int | None) -> Raw:
    """The clip in a file with one frame a line, or one person with the number of their frame.

    The first line may describe the clip instead, by frame rate and image size.
    """
    lines = read_json(path, lines=True)
    if len(lines) == 1:
        return _clip(lines[0], count)
    first = lines[0] if lines else None
    described = isinstance(first, dict) and is_frame(first) is None and _number(first) is None
    raw = _listed(lines[described:], count)
    for line in lines:
        if isinstance(line, dict):
            _add_metadata(raw, line)
    return raw


def read_folder(folder: Path, count: int | None) -> Raw:
    """The clip in a folder with one file per frame. Other files are ignored, which a note reports."""
    paths = frame_files(folder)
    contents: dict[Path, Any] = {}
    faults: dict[Path, DataError] = {}
    for path in paths:
        try:
            contents[path] = _frame_in(path)
        except DataError as error:
            faults[path] = error
    series = [group for group in _series(paths) if any(is_frame(contents.get(path)) for path in group)]
    if len(series) != 1:
        few = f"{len(series)} series: {', '.join(group[0].name for group in series[:3])}" if series else "none"
        raise DataError(f"expected one file per frame, of one clip, found {few}")
    for path in series[0]:
        if path in faults:
            raise faults[path]
        if is_frame(contents[path]) is False:
            raise DataError(f"expected one frame in each file, found a clip in {path.name}")
    raw = _read([(path.name, contents[path]) for path in series[0]], False, True, count)
    for path in series[0]:
        if isinstance(contents[path], dict):
            _add_metadata(raw, contents[path])
    others = [path.name for path in paths if path not in series[0]]
    if others:
        raw.notes.append(f"ignored files that are not frames: {', '.join(others[:3])}{', ...' * (len(others) > 3)}")
    return raw


def is_clip(folder: Path) -> bool:
    """Whether a folder holds one clip, with one file per frame.

    Decided by its largest series of files whose names differ by numbers alone; without one, by a single frame.
    """
    series = _series(frame_files(folder))
    several = bool(series) and len(series[0]) > 1
    frames = 0
    for path in series[0] if several else frame_files(folder):
        try:
            frame = is_frame(_frame_in(path))
        except DataError:  # perhaps a clip that cannot be read among others
            continue
        if frame is False or (frame and several):
            return frame
        frames += frame is True
    return frames == 1


def is_frame(content: Any) -> bool | None:
    """Whether JSON holds a single frame (True) or a clip (False); None if it may be either, or neither."""
    if isinstance(content, dict):
        if "annotations" in content or _frames(content) is not None or _holds_arrays(content):
            return False
        if any(key in content for key in (*PEOPLE, *POINTS)):
            return True
        return False if _frames_by_name(content) else None
    if not isinstance(content, list) or not content:
        return None
    if _is_body(content) and not isinstance(content[0], (int, float)):
        return True
    people = [one for one in content if isinstance(one, dict) and any(key in one for key in POINTS)]
    if people and all(_number(one) is None and any(key in one for key in OF_ONE_IMAGE) for one in people):
        return True
    return False if any(isinstance(one, (dict, list)) for one in content) else None


def frame_files(folder: Path) -> list[Path]:
    """The .json files of a folder, or its .txt files if there are none; sorted, without hidden ones."""
    for suffix in (".json", ".txt"):
        paths = [path for path in folder.iterdir() if path.suffix.lower() == suffix and not path.name.startswith(".")]
        paths = sorted(path for path in paths if path.is_file())
        if paths:
            return paths
    return []


def _frame_in(path: Path) -> Any:
    """The frame in a file of a folder: JSON, or the people whom YOLO labels in a .txt file."""
    if path.suffix.lower() != ".txt":
        content = read_json(path)
        alone = isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict)
        return content[0] if alone and "people" in content[0] else content  # ControlNet lists the frames of each file
    with guarded(path, "labels of YOLO"):
        return [_labelled(line.split()) for line in read_bytes(path, MAX_LABELS).decode().splitlines() if line.strip()]


def _labelled(cells: list[str]) -> dict:
    """A person in a line: class, box, x, y and perhaps score of COCO's 17 points, then perhaps confidence and id."""
    for values in (3, 2):
        points, more = cells[5 : 5 + 17 * values], cells[5 + 17 * values :]
        if len(points) == 17 * values and len(more) <= 2:
            numbers = np.array(cells, dtype=float)  # or ValueError
            tracked = len(more) == 2 or (len(more) == 1 and numbers[-1] >= 1)
            name = {"track_id": float(numbers[-1])} if tracked else {}
            return {"box": cells[1:5], "keypoints": numbers[5 : 5 + 17 * values].reshape(17, values).tolist(), **name}
    raise DataError(f"expected a class, a box and 17 points a line, found {len(cells)} values")


def _series(paths: list[Path]) -> list[list[Path]]:
    """Groups of files whose names differ by numbers alone; the largest first."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\d+", "#", path.name), []).append(path)
    return sorted(groups.values(), key=len, reverse=True)


# --- from clips to people --------------------------------------------------------------------------------------


def _clip(content: Any, count: int | None) -> Raw:
    """The clip in the content of a file, whatever its structure."""
    frame = is_frame(content)
    if isinstance(content, dict) and not frame:
        if "annotations" in content:
            return _annotations(content, count)
        if _holds_arrays(content):
            return from_arrays(content, count)
        frames = _frames(content)
        if frames is None:  # AlphaPose's other two formats: frames by image name
            frames = _frames_by_name(content)
            if not frames:
                raise DataError(f"expected people or frames, found {', '.join(map(repr, [*content][:5])) or 'nothing'}")
            return _add_metadata(_read(frames, False, False, count), content)
        return _add_metadata(_listed(frames, count), content)
    if frame:
        raw = _read([(None, content)], False, True, count)
        return _add_metadata(raw, content) if isinstance(content, dict) else raw
    if not isinstance(content, list):
        raise DataError(f"expected people or frames, found {json.dumps(content)[:40]}")
    raw = _listed(content, count)
    for one in content:
        if isinstance(one, dict):
            _add_metadata(raw, one)
    return raw


def _frames(content: dict) -> list | None:
    """The list of frames of an object, or of people with their frame numbers; None for a single frame."""
    if "instance_info" in content and is_frame(content["instance_info"]):  # MMPose's format for one image
        return None
    for key in (*FRAMES, *PEOPLE):
        inside = content.get(key)
        if isinstance(inside, dict) and key in FRAMES:
            return [{"frame": name, "people": frame} for name, frame in _frames_by_name(inside)]
        if isinstance(inside, list) and (key in FRAMES or len({str(_number(one)) for one in inside}) > 1):
            return inside
    return None


def _add_metadata(raw: Raw, content: dict) -> Raw:
    """The clip with the object's metadata: names of the points, frame rate, focal length and image size."""
    names = (content.get("meta_info") or {}).get("keypoint_id2name")
    if isinstance(names, dict):
        places = {int(key): name for key, name in names.items() if key.isdecimal()}
        names = [places[place] for place in sorted(places)]
    raw.names = raw.names or (canonical_names(names) if names else None)
    for about in content, *(content[key] for key in ABOUT if isinstance(content.get(key), dict)):
        raw.fps = raw.fps or next(filter(None, (_quantity(about.get(key)) for key in FPS)), None)  # 0: unknown
        raw.focal = raw.focal or next(filter(None, (_quantity(about.get(key)) for key in FOCAL)), None)
        keys = next((keys for keys in SIZES if all(about.get(key) for key in keys)), None)
        if keys and not set(POINTS) & set(about):  # a person's is a bounding box
            size = size_in([about[key] for key in keys])
            if raw.resolution and size != raw.resolution:
                raise DataError(f"expected images of one size, found {sorted({size, raw.resolution})}")
            raw.resolution = size
    return raw


def _quantity(value: Any) -> float | None:
    """A number, also one as text, such as 29.97 or 30000/1001; None for anything else."""
    if isinstance(value, str) and (parts := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(?:/([1-9]\d{0,8}))?", value)):
        return float(parts[1]) / float(parts[2] or 1)
    return value if isinstance(value, (int, float)) else None


def _frames_by_name(content: dict) -> list[tuple[str, Any]]:
    """The frames of an object whose keys are names with numbers; empty if nobody is in them."""
    frames = [(name, value) for name, value in content.items() if re.search(r"\d", name)]
    frames = [(name, value) for name, value in frames if isinstance(value, list) or is_frame(value)]
    return frames if any(value for _, value in frames) else []


def _listed(frames: list, count: int | None) -> Raw:
    """The clip in a list of frames, or of people, with or without the number, name or time of their frame."""
    lists_empty_frames = not all(
        isinstance(one, dict) and _number(one) is not None and set(one) & set(POINTS) for one in frames
    )
    numbers = [_number(one) for one in frames]
    times = [next((one[key] for key in TIME if key in one), None) if isinstance(one, dict) else None for one in frames]
    seconds = None
    if len(set(map(str, times))) > 1 and all(isinstance(time, (int, float, str)) for time in times):
        seconds = times_in(times)
        if seconds is None or not np.isfinite(seconds).all():
            raise DataError(f"expected a time for every frame, found others, such as {str(times[0])[:40]!r}")
        seconds, _ = in_seconds(seconds)
    if any(number is not None for number in numbers):
        others = [one for number, one in zip(numbers, frames, strict=True) if number is None]
        if any(isinstance(one, (str, int, float)) or any(_people(one)) for one in others):
            raise DataError("expected a frame number for every person, found people without one")
        numbered = [(number, one) for number, one in zip(numbers, frames, strict=True) if number is not None]
        raw = _read(numbered, False, lists_empty_frames, count)
        raw.fps = raw.fps or (None if seconds is None or None in numbers else rate(numbers, seconds))
        return raw
    names = [None] * len(frames) if seconds is None else seconds.tolist()
    return _read(list(zip(names, frames, strict=True)), seconds is not None, lists_empty_frames, count)


def _number(frame: Any) -> Any:
    """The frame number or name in a frame or a person; None without one."""
    if not isinstance(frame, dict):
        return None
    return next((frame[key] for key in NUMBER if isinstance(frame.get(key), (str, int, float))), None)


def _holds_arrays(content: dict) -> bool:
    """Whether it has the structure of our own files: `keypoints` of one person, with `joints` or a frame rate."""
    metadata = isinstance(content.get("joints"), list) or (set(content) & set(FPS) and _number(content) is None)
    return isinstance(content.get("keypoints"), list) and bool(metadata) and "people" not in content


def _annotations(content: dict, count: int | None) -> Raw:
    """COCO annotations of the category person, or of the only one with keypoints."""
    categories = [one for one in content.get("categories", []) if one.get("keypoints")]
    categories = [one for one in categories if one.get("name") == "person"] or categories
    if len(categories) > 1:
        names = ", ".join(str(one.get("name")) for one in categories)
        raise DataError(f"expected keypoints of the category person, found those of {names}")
    images: dict[Any, tuple[Any, list]] = {}
    names = [image.get("file_name", image["id"]) for image in content["images"]]
    for image, name in zip(content["images"], names, strict=True):
        images[image["id"]] = (name if len(set(names)) == len(names) else image["id"], [])
    for one in content["annotations"]:
        if categories and one.get("category_id", categories[0].get("id")) != categories[0].get("id"):
            continue
        if one.get("image_id") not in images:
            raise DataError(f"expected the image of every annotation, found none with id {one.get('image_id')}")
        images[one["image_id"]][1].append(one)
    sizes = {(image["width"], image["height"]) for image in content["images"] if {"width", "height"} <= set(image)}
    if len(sizes) > 1:
        raise DataError(f"expected images of one size, found {sorted(sizes)}")
    raw = _read(list(images.values()), False, True, count)
    raw.resolution = sizes.pop() if sizes else None
    raw.names = canonical_names(categories[0]["keypoints"]) if categories else None
    return raw


def _read(frames: list[tuple[Any, Any]], timed: bool, lists_empty_frames: bool, count: int | None) -> Raw:
    """The clip of frames with their names, or None; see `in_order`."""
    kind = next((kind for kind in (_kind(frame) for _, frame in frames) if kind), "mediapipe")
    bodies = []
    for place, (name, frame) in enumerate(frames):
        try:
            bodies.append((name, [_body(*person) for person in _people(frame)]))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
            detail = str(fault) if isinstance(fault, DataError) else "another structure"
            where = place if name is None else name
            raise DataError(f"frame {where}: expected x, y and score of every point, found {detail}") from None
    if not any(people for _, people in bodies):
        objects = [one for _, frame in frames for one in (frame if isinstance(frame, list) else [frame])]
        people = [one.get(key) for one in objects if isinstance(one, dict) for key in PEOPLE if one.get(key)]
        objects = [one for some in people for one in (some if isinstance(some, list) else [some])] or objects
        keys = dict.fromkeys(key for one in objects if isinstance(one, dict) for key in one)
        if keys and not set(keys) & {*PEOPLE, *POINTS}:
            few = ", ".join(map(repr, [*keys][:8]))
            raise DataError(f"expected people or points in the frames, under names such as {POINTS[2]}, found {few}")
    people, fps, notes = in_order(bodies, lists_empty_frames, timed)
    arrays, names = _stacked([body for frame in people for body in frame], kind, count)
    ids = [[body.id for body in frame] for frame in people]
    has_ids = any(name is not None for frame in ids for name in frame)
    by_number = by_frame(arrays, map(len, people))
    return Raw(kind, by_number, names, ids if has_ids else None, fps=fps, notes=notes)


def _kind(value: Any) -> str | None:
    """The program whose keys these are; None if unknown."""
    if isinstance(value, list):
        return next((kind for kind in map(_kind, value) if kind), None)
    if not isinstance(value, dict):
        return None
    kind = next((KINDS[key] for key in value if key in KINDS), None)
    inside = next((value[key] for key in (*PEOPLE, "keypoints", "joints") if key in value), None)
    return kind or (inside and (_kind(inside) or "coco"))


def _people(value: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Points, scores and id of everyone in a frame with points."""
    if isinstance(value, dict):
        key = next((key for key in (*PEOPLE, *POINTS) if key in value), None)
        points = value.get(key)
        if key in PEOPLE or (isinstance(points, dict) and set(points) & set(POINTS)):
            yield from _people(points)
        elif points:
            bodies = [points] if isinstance(points, dict) or _is_body(points) else points
            scores = next((value[key] for key in SCORES if isinstance(value.get(key), list)), None)
            several = bool(scores) and isinstance(scores[0], list)
            name = next((value[key] for key in IDS if key in value), None)
            for place, body in enumerate(bodies):
                if isinstance(body, (str, int, float)):
                    raise DataError(f"the text or number {str(body)[:40]!r}")
                if body:
                    yield body, scores[place] if several else scores, name
    elif isinstance(value, list):
        if _is_body(value):
            yield value, None, None
        else:
            for inner in value:
                yield from _people(inner)
    elif value is not None:
        raise DataError(f"the text or number {str(value)[:40]!r}")


def _is_body(value: list) -> bool:
    """Whether a list holds the points of one person rather than of several."""
    first = next((point for point in value if point is not None), None)
    if isinstance(first, list):
        return 2 <= len(first) <= 5 and all(isinstance(number, (int, float, type(None))) for number in first)
    return isinstance(first, (int, float)) or (isinstance(first, dict) and bool({"x", "position"} & set(first)))


@dataclass(frozen=True)
class _Body:
    """One person: (points, values) or a row of numbers, and their scores and names if these are separate."""

    points: np.ndarray
    scores: np.ndarray | None
    names: tuple[str, ...] | None
    id: str | None


def _body(points: Any, scores: Any, name: Any) -> _Body:
    names = None
    if isinstance(points, dict) and isinstance(points.get("x"), list):  # Ultralytics: lists over all points
        if scores is None:
            scores = next((points[key] for key in (*SCORES, *SCORE) if isinstance(points.get(key), list)), None)
        points = [list(point) for point in zip(points["x"], points["y"], strict=True)]
    if isinstance(points, dict):
        points = [{"name": key, **(_as_point(value))} for key, value in points.items()]
    if any(isinstance(point, dict) for point in points):
        points = [point or {} for point in points]
        point_names = [next((point[key] for key in NAMES if key in point), None) for point in points]
        names = tuple(map(str, point_names)) if all(name is not None for name in point_names) else None
        if names and len(set(names)) < len(names):
            raise DataError(f"the point {next(name for name in names if names.count(name) > 1)} twice")
        points = [_values(point) for point in points]
    elif any(isinstance(point, list) for point in points):
        length = max(len(point) for point in points if point)
        points = [point or [None] * length for point in points]
    while isinstance(name, list) and name:
        name = name[0]
    name = int(name) if isinstance(name, float) and name.is_integer() else name
    return _Body(
        np.array(points, dtype=float),
        None if scores is None else np.array(scores, dtype=float).reshape(-1),
        names,
        None if name is None or name in (-1, "-1", "", []) else str(name),
    )


def _as_point(value: Any) -> dict:
    if isinstance(value, list) and any(isinstance(one, list) for one in value):
        raise DataError("a list of points in place of one")
    return value if isinstance(value, dict) else dict(zip(("x", "y", "score"), value or (), strict=False))


def _values(point: dict) -> tuple:
    """x, y and score of a point; None for a missing coordinate, 1 for a missing score."""
    place = point.get("position", point)
    score = next((point[key] for key in SCORE if key in point), 1.0)
    return place.get("x"), place.get("y"), score


def _stacked(
    bodies: list[_Body], kind: str, count: int | None
) -> tuple[Float[np.ndarray, "all points 3"], tuple[str, ...] | None]:
    """All people's points with scores in one array, and the names of the points, if any."""
    all_names = list(dict.fromkeys(name for body in bodies for name in body.names or ()))
    if all_names and not all(body.names for body in bodies):
        raise DataError("expected names for the points of all people or of none, found some with and some without")
    rows = {len(body.points) for body in bodies if body.points.ndim == 1 and body.scores is None}
    numbers = values_per_point(rows, count)
    if rows and not numbers:
        raise DataError(f"expected x, y and score of every point in a row, found {min(rows)} numbers")
    arrays = []
    for body in bodies:
        points = body.points
        if points.ndim == 1:
            width = numbers if body.scores is None else len(points) // max(len(body.scores), 1)
            points = points.reshape(-1, width) if width and len(points) % width == 0 else points
        if points.ndim != 2 or not 2 <= points.shape[1] <= 5:
            raise DataError(f"expected x, y and score of every point, found an array {points.shape}")
        if body.scores is not None and len(body.scores) != len(points):
            raise DataError(f"expected a score for each of {len(points)} points, found {len(body.scores)}")
        if body.names:
            rows = np.full((len(all_names), points.shape[1]), np.nan)
            rows[[all_names.index(name) for name in body.names]] = points
            points = rows
        arrays.append(points)
    shapes = sorted({len(points) for points in arrays})
    if len(shapes) > 1:
        raise DataError(f"expected the same number of points for all people, found {' and '.join(map(str, shapes))}")
    scored = all(points.shape[1] == 3 for points in arrays)
    if scored and kind == "mediapipe" and any(np.nanmin(points[:, 2], initial=0) < 0 for points in arrays):
        arrays = [points[:, :2] for points in arrays]  # depths
    people = np.ones((len(arrays), shapes[0] if shapes else 0, 3))
    for person, points, body in zip(people, arrays, bodies, strict=True):
        person[:, :2] = points[:, :2]
        if body.scores is not None:
            person[:, 2] = np.maximum(body.scores, 0)  # of detectors that score what is hidden below 0; no depths
        elif points.shape[1] > 2:
            person[:, 2] = points[:, 2 if points.shape[1] == 3 else 3]
    return people, canonical_names(all_names) if all_names else None
