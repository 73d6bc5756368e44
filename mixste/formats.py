"""The files of other people's 2D detectors.

OpenPose folders; COCO-style JSON as MMPose, AlphaPose, Detectron2 and annotation files have it; MediaPipe landmarks;
arrays in .npz and tables in .csv. Nothing in a file is run.
"""

import json
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from mixste.data import DataError
from mixste.detections import BY_COUNT, LAYOUTS, MADE_OF, Detections
from mixste.skeleton import human36m

MOST_PIXELS = 100_000  # of an image's side


def read(
    path, format: str = "auto", layout: str | None = None, resolution: tuple[int, int] | None = None
) -> Detections:
    """The detections in a file, or in a folder with one JSON file a frame.

    format: "openpose", "coco", "mediapipe", "npz", "csv", or "auto" to tell by the content. layout: one of LAYOUTS; by
    default the file's own names of its points tell, or their number. resolution: width and height of the image in
    pixels, for the many files that do not say. Coordinates below 3 throughout are shares of the width and height.
    Raises DataError, in one sentence, for whatever is missing or wrong.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: expected keypoints, found no such file or folder")
    if layout is not None and layout not in LAYOUTS:
        raise DataError(f"unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    suffix = path.suffix.lower()
    content = _frames_of(path) if path.is_dir() else _json(path) if suffix == ".json" else path
    if format == "auto":
        format = suffix[1:] if content is path else _format(content)
    elif (format in ("npz", "csv")) != (content is path) and format in READERS:
        raise DataError(f"{path}: expected a file that {format} is written to, found {suffix or 'a folder'}")
    if format not in READERS:
        raise DataError(
            f"{path}: expected a folder of .json files, .json, .npz or .csv, in one of the formats "
            f"{', '.join(READERS)}, found {format!r}"
        )
    try:
        found = READERS[format](content)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError, OSError) as error:
        raise DataError(
            f"{path}: expected keypoints as {format} writes them, found {type(error).__name__}: {error}"
        ) from None

    people, names = found["people"], found.get("names")  # (people, points, 3) of each frame
    counts = sorted({frame.shape[1] for frame in people if len(frame)})
    if len(counts) != 1:
        raise DataError(f"{path}: expected people with one number of points, found {counts or 'nobody'}")
    count = {133: 17, 136: 26}.get(counts[0], counts[0])  # whole-body layouts begin with one of the body alone
    everyone = np.concatenate([frame for frame in people if len(frame)])
    if layout is None and names is None:
        # Arrays of 17 joints come in both layouts; the other formats have only one.
        if count not in BY_COUNT or (count == 17 and format in ("npz", "csv")):
            raise DataError(f"{path}: expected to be told the layout of {count} points, one of {', '.join(LAYOUTS)}")
        names = LAYOUTS["body25b" if count == 25 and _is_body25b(everyone) else BY_COUNT[count]]
    elif layout is not None:
        names = LAYOUTS[layout]
    if len(names) != count:
        raise DataError(f"{path}: expected {len(names)} points for its layout, found {count}")
    everyone = np.where(np.isfinite(everyone).all(axis=-1, keepdims=True), everyone, 0.0)[:, :count]
    resolution = resolution or found.get("resolution")
    if resolution is None:
        raise DataError(f"{path}: expected to be told the width and height of the image, which the file does not say")
    if len(resolution) != 2 or not all(1 <= side <= MOST_PIXELS for side in resolution):
        raise DataError(f"{path}: expected an image 1 to {MOST_PIXELS:,} pixels wide and high, found {resolution}")
    if np.abs(everyone[everyone[..., 2] > 0, :2]).max(initial=0) < 3:
        everyone = everyone * [*resolution, 1]
    people = np.split(everyone, np.cumsum([len(frame) for frame in people])[:-1])
    return Detections(path.stem, names, people, tuple(resolution), found.get("fps"), found.get("ids"))


def _is_body25b(people: Float[np.ndarray, "people 25 3"]) -> bool:
    """Whether 25 points are OpenPose's experimental BODY_25B, whose points 15 and 16 are ankles.

    In BODY_25 they are eyes, so that their distance from the nose, for the size of the person, tells in any posture.
    """
    far = []
    for one in people[people[:, 0, 2] > 0]:
        size = np.linalg.norm(np.ptp(one[one[:, 2] > 0, :2], axis=0))
        far += [np.linalg.norm(point[:2] - one[0, :2]) > 0.3 * size for point in one[[15, 16]] if point[2] > 0]
    return bool(np.mean(far) > 0.5) if far else False


def is_frame(path: Path) -> bool:
    """Whether a JSON file holds a single frame, so that its folder is one clip."""
    content = _json(path)
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and ("people" in first or "keypoint_scores" in first)


# --- JSON ------------------------------------------------------------------------------------------------------


def _json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: expected JSON, found {error}") from None


def _frames_of(folder: Path) -> list[dict]:
    """The contents of a folder's JSON files, with their names."""
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise DataError(f"{folder}: expected one .json file a frame, found none")
    contents = [_json(path) for path in paths]
    return [
        {"image_id": path.name, **(content if isinstance(content, dict) else {"instances": content})}
        for path, content in zip(paths, contents, strict=True)
    ]


def _format(content) -> str:
    first = content[0] if isinstance(content, list) and content else content
    if isinstance(first, dict):
        if "people" in first:
            return "openpose"
        if {"image_id", "instances", "instance_info", "annotations", "keypoint_scores"} & set(first):
            return "coco"
    return "mediapipe"


def _in_order(frames: Iterable[tuple[object, list]]) -> list[list]:
    """People by frame, from (name of the frame, its people); numbers left out are frames with nobody in them."""
    found: dict[object, list] = {}
    for name, people in frames:
        found.setdefault(name, []).extend(people)
    by_number = {_number(name): people for name, people in found.items()}
    if len(by_number) < len(found) or None in by_number:
        raise DataError(f"expected frames with a number each, found names such as {next(iter(found))!r}")
    first, last = min(by_number, default=0), max(by_number, default=0)
    if last - first >= 20 * len(found) + 100:
        raise DataError(f"expected the frames of one clip, found {len(found)} numbered from {first} to {last}")
    return [by_number.get(number, []) for number in range(first, last + 1)]


def _number(name) -> int | None:
    """The last number in the name of a frame: 12 for 12, "12.jpg", "clip_000012_keypoints.json"."""
    numbers = re.findall(r"\d+", re.sub(r"\.[a-z]\w*$", "", str(name)))
    return int(numbers[-1]) if numbers else None


def _openpose(content) -> dict:
    frames = content if isinstance(content, list) else [content]
    frames = _in_order((frame.get("image_id", number), frame["people"]) for number, frame in enumerate(frames))
    return {
        "people": [_stack(_triples(person["pose_keypoints_2d"]) for person in frame) for frame in frames],
        "ids": _ids(frames, "person_id"),
    }


def _coco(content) -> dict:
    found = {}
    if isinstance(content, dict) and "annotations" in content:
        sizes = {(image["width"], image["height"]) for image in content["images"]}
        if len(sizes) != 1:
            raise DataError(f"expected images of one size, found {sorted(sizes)}")
        found = {"resolution": sizes.pop(), "names": _known(content["categories"][0]["keypoints"])}
        images = {image["id"]: (image.get("file_name", image["id"]), []) for image in content["images"]}
        for person in content["annotations"]:
            images[person["image_id"]][1].append(person)
        frames = _in_order(images.values())
    else:
        if isinstance(content, dict):
            named = content.get("meta_info", {}).get("keypoint_id2name")
            found["names"] = _known(named[key] for key in sorted(named, key=int)) if named else None
            content = content["instance_info"]
        if content and "keypoint_scores" in content[0]:  # the people of a single image
            content = [{"frame_id": 0, "instances": content}]
        frames = _in_order((one.get("image_id", one.get("frame_id")), one.get("instances", [one])) for one in content)
    people = [_stack(_triples(one["keypoints"], one.get("keypoint_scores")) for one in frame) for frame in frames]
    return {**found, "people": people, "ids": _ids(frames, "track_id") or _ids(frames, "idx")}


def _mediapipe(content) -> dict:
    """Landmarks frame by frame, as lists or under the names that MediaPipe's interfaces have for them."""

    def people(value) -> list:
        """Every list of landmarks inside: nobody's, one person's, or several people's."""
        if isinstance(value, dict):
            keys = ("pose_landmarks", "poseLandmarks", "landmarks", "landmark", "keypoints")
            return next((people(value[key]) for key in keys if key in value), [])
        if not value:
            return []
        if isinstance(value, str):
            raise ValueError(f"the text {value[:20]!r}")
        if isinstance(value[0], dict) and "x" in value[0]:
            return [[(point["x"], point["y"], point.get("visibility", point.get("score", 1.0))) for point in value]]
        if isinstance(value[0], list) and isinstance(
            value[0][0], int | float
        ):  # x, y, then z and visibility or neither
            return [[(*point[:2], point[3] if len(point) > 3 else 1.0) for point in value]]
        return [person for inner in value for person in people(inner)]

    frames = content["frames"] if isinstance(content, dict) else content
    return {"people": [_stack(np.array(one, dtype=float) for one in people(frame)) for frame in frames]}


def _ids(frames: list[list[dict]], key: str) -> list[list[str]] | None:
    """The detector's names of its people, if it followed them; -1 is OpenPose's word for not."""
    ids = [[str(person.get(key, -1)) for person in frame] for frame in frames]
    return None if any(name in ("-1", "[-1]") for names in ids for name in names) else ids


# --- arrays and tables -----------------------------------------------------------------------------------------


def _npz(path: Path) -> dict:
    """`keypoints` (frames, points, 2 or 3), and `scores`, `resolution`, `fps`, `joints` (the points' names) if any."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError):
        raise DataError("expected an .npz file of plain arrays, found another") from None
    if "keypoints" not in arrays:
        raise DataError(f"expected an array keypoints, found {', '.join(arrays) or 'none'}")
    points = arrays["keypoints"].astype(float)
    if points.ndim != 3 or points.shape[2] not in (2, 3):
        raise DataError(f"expected keypoints (frames, points, 2 or 3), found {points.shape}")
    if points.shape[2] == 2:
        scores = arrays.get("scores", np.ones(points.shape[:2]))
        points = np.concatenate([points, scores[..., None]], axis=-1)
    return {
        "people": list(points[:, None]),
        "ids": [["0"]] * len(points),
        "names": _known(arrays["joints"]) if "joints" in arrays else None,
        "resolution": tuple(map(int, arrays["resolution"])) if "resolution" in arrays else None,
        "fps": float(arrays["fps"]) if "fps" in arrays else None,
    }


def _csv(path: Path) -> dict:
    """One row a frame; columns such as Nose_x, Nose_y and Nose_score, or x1, y1 and v1; `frame` numbers the rows."""
    table = pd.read_csv(path)
    values = "x|y|score|confidence|conf|c|likelihood|visibility|v"
    columns: dict[str, dict[int, str]] = {}
    for column in table.columns:
        match = re.fullmatch(rf"(?P<name>.+?)[_. ]?(?P<value>{values})", column, re.IGNORECASE)
        match = match or re.fullmatch(rf"(?P<value>{values})_?(?P<name>\d+)", column, re.IGNORECASE)
        if match:
            columns.setdefault(match["name"], {})["xy".find(match["value"].lower())] = column  # -1: the score
    columns = {name: found for name, found in columns.items() if {0, 1} <= set(found)}
    if not columns:
        raise DataError("expected columns such as Nose_x, Nose_y and Nose_score, found none")
    points = np.ones((len(table), len(columns), 3))
    for point, found in enumerate(columns.values()):
        for value, column in found.items():
            points[:, point, value] = table[column]
    numbers = table["frame"] if "frame" in table else range(len(table))
    frames = _in_order((int(number), [one]) for number, one in zip(numbers, points, strict=True))
    numbered = all(name.isdigit() for name in columns)
    return {
        "people": [_stack(frame) for frame in frames],
        "ids": [["0"] * len(frame) for frame in frames],
        "names": None if numbered else _known(columns),
    }


READERS = {"openpose": _openpose, "coco": _coco, "mediapipe": _mediapipe, "npz": _npz, "csv": _csv}


def _known(names: Iterable) -> tuple[str, ...]:
    """Names of points as `MADE_OF` has them: "left_shoulder", "L Shoulder" and "LShoulder" are one."""
    names = tuple(map(str, names))
    if names == human36m.joints:
        return names
    spelt = {point.lower(): point for rows in MADE_OF.values() for row in rows for point in row}
    spelt |= {"hip": "MidHip", "pelvis": "MidHip", "root": "MidHip", "upperneck": "Neck", "head": "HeadTop"}

    def known(name: str) -> str:
        plain = re.sub("[^a-z]", "", name.lower())
        return spelt.get(re.sub("^(left|right)", lambda side: side[0][0], plain), name)

    return tuple(map(known, names))


def _triples(points, scores=None) -> Float[np.ndarray, "points 3"]:
    """x, y and score of every point, given in one row, or as pairs beside their scores."""
    points = np.array(points, dtype=float).reshape(-1, 3 if scores is None else 2)
    return points if scores is None else np.concatenate([points, np.array(scores, dtype=float)[:, None]], axis=1)


def _stack(people: Iterable) -> Float[np.ndarray, "people points 3"]:
    people = list(people)
    return np.stack(people) if people else np.zeros((0, 0, 3))
