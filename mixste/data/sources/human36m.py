"""Human3.6M (Ionescu et al. 2014), from VideoPose3D's archives or the original .cdf files (docs/bring-your-data.md)."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from mixste.camera import project, world_to_camera
from mixste.data.cameras import cameras
from mixste.data.clips import Clip, PoseDataset
from mixste.data.readers.foreign import read_foreign
from mixste.data.sources.licensed import Keypoints, detectors, expect, folder_of, missing, nested
from mixste.skeleton import human36m

TRAIN, TEST = ("S1", "S5", "S6", "S7", "S8"), ("S9", "S11")
DROPPED = (4, 5, 9, 10, 11, 16, 20, 21, 22, 23, 24, 28, 29, 30, 31)  # of the 32 recorded joints
KEPT = [joint for joint in range(32) if joint not in DROPPED]
CORRUPTED = ("S11", "Directions")  # its video is damaged; the field leaves it out
RENAMED = {"TakingPhoto": "Photo", "WalkingDog": "WalkDog"}
LICENCE = "Human3.6M licence: academic use only, not to be passed on"
POSES, KEYPOINTS = "data_3d_h36m.npz", "data_2d_h36m"


def load(root=None, keypoints: str = "gt") -> PoseDataset:
    """Human3.6M at 50 Hz from four cameras: S1 S5 S6 S7 S8 for training, S9 S11 for testing, 15 actions.

    root: folder with data_3d_h36m.npz or S*/MyPoseFeatures/D3_Positions/*.cdf, and data_2d_h36m_<keypoints>.npz.
    keypoints: "gt" reads data_2d_h36m_gt.npz, or without that file projects the poses. Raises DataError for missing or
    malformed files.
    """
    folder = folder_of("human36m", root)
    world = positions(folder)
    projected = keypoints == "gt" and "gt" not in detectors(folder, KEYPOINTS)
    detections = None if projected else Keypoints(folder, KEYPOINTS, keypoints)
    train, test = (
        [
            clip
            for subject in subjects
            for name, poses in world.get(subject, {}).items()
            if (subject, name) != CORRUPTED
            for clip in _clips(subject, name, poses, detections)
        ]
        for subjects in (TRAIN, TEST)
    )
    return PoseDataset(
        name="human36m",
        title="Human3.6M",
        skeleton=human36m,
        train=train,
        test=test,
        licence=LICENCE,
        comparable=True,
        keypoints=keypoints,
    )


def positions(folder: Path) -> dict[str, dict[str, Float[np.ndarray, "frames 17 3"]]]:
    """{subject: {action and take: poses}}, metres in world axes."""
    path = folder / POSES
    if path.exists():
        return {
            subject: {
                name: expect(poses, (32, 3), f"{path}, {subject} {name}")[:, KEPT] for name, poses in actions.items()
            }
            for subject, actions in nested(path, "positions_3d").items()
            if subject in TRAIN + TEST
        }
    files = sorted(folder.glob("S*/MyPoseFeatures/D3_Positions/*.cdf"))
    if not files:
        raise missing(folder, f"{POSES} or S*/MyPoseFeatures/D3_Positions/*.cdf")
    recordings: dict[str, dict] = {}
    for path, [pose] in zip(files, read_foreign("cdf", files), strict=True):
        subject, (action, *take) = path.parts[-4], path.stem.split(" ")
        if subject in TRAIN + TEST:
            pose = expect(pose.reshape(-1, *pose.shape[-1:]), (96,), f"{path}, Pose") / 1000
            name = " ".join([RENAMED.get(action, action), *take])
            recordings.setdefault(subject, {})[name] = pose.reshape(-1, 32, 3)[:, KEPT]
    return recordings


def _clips(
    subject: str, name: str, poses: Float[np.ndarray, "frames 17 3"], detections: Keypoints | None
) -> list[Clip]:
    """One recording as seen by its four cameras, with the detector's keypoints or, without any, with projections."""
    action, _, take = name.partition(" ")
    views = cameras("human36m", subject)
    local = [world_to_camera(poses, camera.orientation, camera.translation) for camera in views]
    if detections is None:
        keypoints = [project(pose, camera.intrinsics) for pose, camera in zip(local, views, strict=True)]
    else:
        keypoints = detections.of(subject, name, cameras=4, joints=17, frames=len(poses))
    return [
        Clip(
            subject=subject,
            action=action,
            take=take,
            camera=camera.name,
            fps=50.0,
            resolution=camera.resolution,
            keypoints=points,
            poses=pose,
            intrinsics=camera.intrinsics,
        )
        for camera, points, pose in zip(views, keypoints, local, strict=True)
    ]
