"""Shared by the sources of the licensed benchmarks: where their files are, and the shapes of their arrays.

These files may not be redistributed; docs/bring-your-data.md says how to get each of them.
"""

import os
from pathlib import Path

import numpy as np

from mixste.io import DataError
from mixste.io.pickles import read_npz

LARGEST = 1e9  # millimetres or pixels; far larger values would overflow in a projection


def folder_of(name: str, root=None) -> Path:
    """The folder of a data set: `root`, or MIXSTE_DATA, or its subfolder `name`; by default data/<name>."""
    base = root or os.environ.get("MIXSTE_DATA")
    folder = Path(base) if base else Path("data") / name
    return folder / name if (folder / name).is_dir() else folder


def missing(folder: Path, files: str) -> DataError:
    """The error for missing files: which were expected where, and how to get them."""
    state = "found none of them" if folder.is_dir() else "found no such folder"
    return DataError(f"expected {files} in {folder}, {state}; docs/bring-your-data.md says how to get them")


def detectors(folder: Path, stem: str) -> list[str]:
    """The <detector> of every <stem>_<detector>.npz in the folder."""
    return sorted(path.stem.removeprefix(f"{stem}_") for path in folder.glob(f"{stem}_*.npz"))


class Keypoints:
    """A data_2d_*_<detector>.npz file: pixels of every clip in every camera."""

    def __init__(self, folder: Path, stem: str, detector: str):
        self.path = folder / f"{stem}_{detector}.npz"
        if detector not in detectors(folder, stem):
            available = ", ".join(detectors(folder, stem)) or "none"
            raise DataError(f"expected {self.path.name} in {folder}, found keypoints of these detectors: {available}")
        self.clips = nested(self.path, "positions_2d")

    def of(self, subject: str, name: str, cameras: int, joints: int, frames: int) -> list[np.ndarray]:
        """(frames, joints, 2) of each camera, cut to the poses: published keypoints are a few frames longer."""
        where = f"{self.path}, {subject} {name}"
        views = self.clips.get(subject, {}).get(name)
        if not isinstance(views, (list, tuple, np.ndarray)) or len(views) != cameras:
            raise DataError(f"{where}: expected keypoints of {cameras} cameras, found {kind(views)}")
        return [cut(expect(view, (joints, 2), where), frames, where) for view in views]


def nested(path: Path, key: str) -> dict[str, dict]:
    """{subject: {action: …}} of an .npz file."""
    clips = read_npz(path, key)
    if not isinstance(clips, dict) or not all(isinstance(actions, dict) for actions in clips.values()):
        raise DataError(f"{path}: expected {key} to be a dictionary of subjects of actions, found {kind(clips)}")
    wrong = [name for names in (clips, *clips.values()) for name in names if not isinstance(name, str)]
    if wrong and key == "positions_3d":  # keypoints without poses are not used
        raise DataError(f"{path}: expected the subjects and actions of {key} to have names, found {wrong[0]!r}")
    return clips


def expect(value, trailing: tuple[int, ...], where: str) -> np.ndarray:
    """The value as a float32 array of shape (frames, *trailing); DataError for any other."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.shape[1:] != trailing:
        shape = ", ".join(["frames", *map(str, trailing)])
        raise DataError(f"{where}: expected numbers ({shape}), found {kind(value)}")
    with np.errstate(invalid="ignore"):
        large = np.isfinite(value) & (np.abs(value) > LARGEST)
    if large.any():
        raise DataError(f"{where}: expected numbers of at most {LARGEST:,.0f}, found {value[large][0]:g}")
    return value.astype(np.float32)


def cut(values: np.ndarray, frames: int, where: str) -> np.ndarray:
    """The first `frames` values, those of the frames with poses."""
    if len(values) < frames:
        raise DataError(f"{where}: expected all {frames} frames, as many as there are poses, found {len(values)}")
    return values[:frames]


def kind(value) -> str:
    """The type and shape of a value, in a few words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")
