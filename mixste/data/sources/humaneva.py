"""HumanEva-I (Sigal et al. 2010) with 15 joints, from VideoPose3D's archives (docs/bring-your-data.md)."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from mixste.camera import world_to_camera
from mixste.data.cameras import cameras
from mixste.data.clips import Clip, PoseDataset
from mixste.data.sources.licensed import Keypoints, expect, folder_of, missing, nested
from mixste.skeleton import humaneva15

SUBJECTS = ("S1", "S2", "S3")
ACTIONS = {"Walking": "Walk", "Jog": "Jog"}  # those of Table 4
LICENCE = "HumanEva licence: research use only, not to be passed on"
POSES, KEYPOINTS = "data_3d_humaneva15.npz", "data_2d_humaneva15"


def load(root=None, keypoints: str = "gt") -> PoseDataset:
    """Walk and Jog of S1–S3 at 60 Hz from three cameras; the official validation part is the test set.

    root: folder with data_3d_humaneva15.npz and data_2d_humaneva15_<keypoints>.npz. Recordings come in chunks; a chunk
    is cut further at frames where a pose or a keypoint is NaN. Raises DataError for missing or malformed files.
    """
    folder = folder_of("humaneva", root)
    path = folder / POSES
    if not path.exists():
        raise missing(folder, f"{POSES} and {KEYPOINTS}_<detector>.npz")
    world, detections = nested(path, "positions_3d"), Keypoints(folder, KEYPOINTS, keypoints)
    train, test = (
        [
            clip
            for subject in SUBJECTS
            for name, poses in world.get(f"{split}/{subject}", {}).items()
            if name.split(" ")[0] in ACTIONS
            for clip in _clips(
                split, subject, name, expect(poses, (15, 3), f"{path}, {split}/{subject} {name}"), detections
            )
        ]
        for split in ("Train", "Validate")
    )
    return PoseDataset(
        name="humaneva",
        title="HumanEva-I",
        skeleton=humaneva15,
        train=train,
        test=test,
        licence=LICENCE,
        comparable=True,
        keypoints=keypoints,
    )


def _clips(
    split: str, subject: str, name: str, poses: Float[np.ndarray, "frames 15 3"], detections: Keypoints
) -> Iterator[Clip]:
    """One chunk as seen by its three cameras, in parts without lost frames."""
    action, _, take = name.partition(" ")
    views = detections.of(f"{split}/{subject}", name, cameras=3, joints=15, frames=len(poses))
    for camera, view in zip(cameras("humaneva", subject), views, strict=True):
        local = world_to_camera(poses, camera.orientation, camera.translation)
        for part, frames in enumerate(_finite_runs(local, view)):
            yield Clip(
                subject=subject,
                action=ACTIONS[action],
                take=f"{split} {take}" + (f" part {part}" if part else ""),
                camera=camera.name,
                fps=60.0,
                resolution=camera.resolution,
                keypoints=view[frames],
                poses=local[frames],
            )


def _finite_runs(*arrays: np.ndarray) -> list[slice]:
    """The longest stretches of frames in which every number of every array is finite."""
    finite = np.logical_and.reduce([np.isfinite(array).all(axis=(1, 2)) for array in arrays])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite, [False]])))
    return [slice(start, stop) for start, stop in edges.reshape(-1, 2)]
