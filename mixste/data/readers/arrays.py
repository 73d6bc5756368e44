"""Arrays in .npz and .npy files: plain ones, MHFormer's, and VideoPose3D's for Detectron2 and custom videos."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixste.data.readers import SCORES, Raw, values_per_point
from mixste.data.readers.detections import LAYOUTS, MIN_SCORE, canonical_names, jumps
from mixste.io import DataError
from mixste.io.guard import array_names, read_arrays
from mixste.io.pickles import read_npz
from mixste.skeleton import human36m

POINTS = ("keypoints", "reconstruction")


def read_npy(path: Path, count: int | None) -> Raw:
    return from_arrays({"keypoints": read_arrays(path)[""]}, count)


def read_file(path: Path, count: int | None) -> Raw:
    """The clip in an .npz file, which the names of its arrays tell apart."""
    names = array_names(path)
    if "positions_2d" in names:
        return _custom_videos(read_npz(path, "positions_2d"), read_npz(path, "metadata") if "metadata" in names else {})
    if "boxes" in names and "keypoints" in names:
        return _detectron(read_npz(path, "keypoints"), read_npz(path, "metadata") if "metadata" in names else {})
    about = {name for name in (*POINTS, *SCORES, "joints", "resolution", "fps", "focal") if name in names}
    if not about & set(POINTS):
        if len(names) != 1:
            raise DataError(f"expected an array keypoints, found {', '.join(names[:10]) or 'none'}")
        about = {"keypoints"}
        arrays = {"keypoints": _array(path, names[0])}
        if arrays["keypoints"].ndim < 2:
            raise DataError(f"expected an array keypoints, found {names[0]}")
    else:
        arrays = {name: _array(path, name) for name in about}
    return from_arrays(arrays, count)


def _array(path: Path, name: str) -> np.ndarray:
    """An array of an .npz file, or of pickled objects, read without running them."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        objects = b"'|O" in file.read(128)
    return np.array(read_npz(path, name)) if objects else read_arrays(path, [name])[name]


def from_arrays(arrays: Mapping[str, Any], count: int | None) -> Raw:
    """The clip in `keypoints`, or MHFormer's `reconstruction`, with scores, `joints` (names), `resolution`, `fps` and
    `focal`, if any.

    Arrays are (frames, points, 2 or 3), the third value being the score, or 4 with a depth before it; also with an axis
    of people before or after the frames, of a single frame, or with one row of numbers per frame.
    """
    key = next(key for key in POINTS if key in arrays)
    points = _numbers(arrays, key)
    shape = points.shape
    notes: list[str] = []
    names = canonical_names(np.asarray(arrays["joints"]).reshape(-1).tolist()) if "joints" in arrays else None
    if key == "reconstruction" and names is None and points.shape[-2:-1] == (17,):
        names = human36m.joints
        notes.append("`reconstruction` is read as MHFormer writes it, with Human3.6M's joints; --layout sets others")
    count = len(names) if names else count
    if points.ndim == 2:
        one = points.shape[1] in (2, 3, 4) and (points.shape[0] != points.shape[1])
        width = points.shape[1] if one else values_per_point({points.shape[1]}, count)
        points = points[None] if one else points.reshape(len(points), -1, width) if width else points
    if points.ndim == 3:
        points = points[:, None]
    elif points.ndim == 4 and (key == "reconstruction" or points.shape[0] < points.shape[1]):
        points = points.swapaxes(0, 1)
    if points.ndim != 4 or points.shape[3] not in (2, 3, 4) or not points.size:
        raise DataError(f"expected keypoints (frames, points, 2 or 3), found {shape}")
    # (frames, people, points, values)
    frames, people, _, values = points.shape
    if len(shape) == 4 and min(frames, people) > 1:
        notes.append(f"the array {shape} is read as {people} people in {frames} frames")
    scored = np.ones((*points.shape[:3], 3))
    scored[..., :2] = points[..., :2]
    several = [name for name in arrays if getattr(arrays[name], "ndim", isinstance(arrays[name], list))]
    key = next((name for name in SCORES if name in several), "")
    if key:
        scores = np.maximum(_numbers(arrays, key), 0)  # some detectors score what is hidden below 0; they are no depths
        forms = (points.shape[:3], (people, frames, points.shape[2]))  # frames or people first
        form = next((one for one in forms if np.squeeze(scores).shape == tuple(side for side in one if side > 1)), None)
        if form is None:
            raise DataError(f"expected a score for every point, {scored.shape[:3]}, found an array {scores.shape}")
        scores = scores.reshape(form)
        scored[..., 2] = scores if form == forms[0] else scores.swapaxes(0, 1)
    elif values > 2:
        scored[..., 2] = points[..., values - 1]
    seen = (scored[..., 2:] >= MIN_SCORE) & ~np.isin(scored[..., :2], (0, -1)).all(axis=-1, keepdims=True)
    tracks = np.where(seen, scored[..., :2], np.nan).swapaxes(0, 1) if people > 1 else []
    mixed = any(len(jumps(track)) for track in tracks)
    if mixed:
        notes.append("people change places in the array: they are followed by their positions")
    return Raw(
        "array",
        list(scored),
        names,
        None if mixed else [[str(person) for person in range(people)]] * frames,
        size_in(arrays["resolution"]) if "resolution" in arrays else None,
        _number(arrays, "fps") or None,  # 0: unknown
        notes,
        _number(arrays, "focal"),
    )


def _number(arrays: Mapping[str, Any], name: str) -> float | None:
    """The only number of an array; None if there is no such array."""
    return float(_numbers(arrays, name).reshape(-1)[0]) if name in arrays and np.size(arrays[name]) == 1 else None


def _numbers(arrays: Mapping[str, Any], name: str) -> np.ndarray:
    try:
        return np.asarray(arrays[name]).astype(
            float, casting="same_kind" if np.iscomplexobj(arrays[name]) else "unsafe"
        )
    except (TypeError, ValueError):
        raise DataError(f"expected numbers in {name}, found another type") from None


def size_in(value: Any) -> tuple[int, int]:
    """Width and height; DataError for anything else."""
    try:
        sides = np.asarray(value, dtype=float).reshape(-1)
    except (TypeError, ValueError):
        sides = np.zeros(0)
    if len(sides) != 2 or not np.isfinite(sides).all():
        raise DataError(f"expected width and height as resolution, found {value}")
    return int(sides[0]), int(sides[1])


# --- VideoPose3D -----------------------------------------------------------------------------------------------


def _detectron(keypoints: Any, metadata: Any) -> Raw:
    """The output of infer_video_d2: for each frame and class an array (people, 4, 17) of x, y, logit and score."""
    people = []
    for frame, classes in enumerate(keypoints):
        points = np.asarray(classes[1] if classes is not None and len(classes) > 1 else [], dtype=float)
        points = points if points.size else np.zeros((0, 4, 17))
        if points.ndim != 3 or points.shape[1:] != (4, 17):
            raise DataError(f"frame {frame}: expected (people, 4, 17) as of Detectron2, found {points.shape}")
        people.append(points[:, [0, 1, 3]].swapaxes(1, 2))
    return Raw("array", people, LAYOUTS["coco17"], resolution=_size(metadata))


def _custom_videos(positions: Any, metadata: Any) -> Raw:
    """`data_2d_custom_*.npz`: {video: {"custom": [(frames, 17, 2)]}}, with the size of each video in its metadata."""
    clips = [
        (video, f"{video}/{action}", camera)
        for video, actions in positions.items()
        for action, cameras in actions.items()
        for camera in (cameras if isinstance(cameras, (list, tuple)) else [cameras])
    ]
    if len(clips) != 1:
        few = ", ".join(name for _, name, _ in clips[:3])
        raise DataError(f"expected one clip in the file, found {len(clips)}: {few}{', ...' * (len(clips) > 3)}")
    [(video, _, points)] = clips
    layout = {"coco": "coco17", "h36m": "human36m"}.get(metadata.get("layout_name"))
    raw = from_arrays({"keypoints": points}, 17)
    raw.names = LAYOUTS.get(layout)
    raw.resolution = _size(metadata.get("video_metadata", {}).get(video, {}))
    return raw


def _size(metadata: Mapping) -> tuple[int, int] | None:
    return (int(metadata["w"]), int(metadata["h"])) if {"w", "h"} <= set(metadata) else None
