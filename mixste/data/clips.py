"""What every source gives: a PoseDataset of Clips."""

import hashlib
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from mixste.io import DataError
from mixste.skeleton import Skeleton

SPLITS = ("train", "validation", "test", "unseen_takes")  # the lists of clips of a PoseDataset
TALLEST = 20.0  # metres, of the box around a person: far from any body, and from one in millimetres


@dataclass(frozen=True, eq=False)
class Clip:
    """One person in one take seen by one camera.

    subject, action, take, camera: names; averages are taken over actions, and takes are the recordings of one action.
    fps: frames per second. resolution: width, height in pixels. keypoints: pixels, never NaN. poses: metres in camera
    axes, with the root's path, never NaN. valid: which frames count in an evaluation (None: all). intrinsics: the nine
    numbers of the camera that `mixste.camera.project` takes, pixels; None if unknown. `project(poses, intrinsics)`
    gives the ground-truth keypoints.
    """

    subject: str
    action: str
    camera: str
    fps: float
    resolution: tuple[int, int]
    keypoints: Float[np.ndarray, "frames joints 2"]
    poses: Float[np.ndarray, "frames joints 3"]
    take: str = ""
    valid: Bool[np.ndarray, "frames"] | None = None
    intrinsics: Float[np.ndarray, "9"] | None = None

    @property
    def name(self) -> str:
        """Unique within a data set: subject/action/take/camera."""
        return "/".join(part for part in (self.subject, self.action, self.take, self.camera) if part)

    def __len__(self) -> int:
        return len(self.keypoints)

    def part(self, frames: slice) -> "Clip":
        """The clip of some frames, copied; with a step, the frame rate is lower accordingly."""
        arrays = {name: getattr(self, name) for name in ("keypoints", "poses", "valid")}
        parts = {name: None if array is None else array[frames].copy() for name, array in arrays.items()}
        return replace(self, fps=self.fps / (frames.step or 1), **parts)

    def check(self, skeleton: Skeleton) -> None:
        """Raise DataError unless shapes fit the skeleton and each other and numbers are finite and in metres."""
        joints = len(skeleton.joints)
        for what, array, last in (("keypoints", self.keypoints, 2), ("poses", self.poses, 3)):
            if array.ndim != 3 or array.shape[1:] != (joints, last):
                raise DataError(
                    f"clip {self.name}: {what} must be (frames, {joints}, {last}), found {tuple(array.shape)}"
                )
            if not np.isfinite(array).all():
                frame = int(np.argwhere(~np.isfinite(array))[0, 0])
                raise DataError(f"clip {self.name}: {what} must be finite, found NaN or infinity in frame {frame}")
        if len(self) == 0:
            raise DataError(f"clip {self.name}: expected at least one frame, found none")
        if len(self.keypoints) != len(self.poses):
            raise DataError(
                f"clip {self.name}: keypoints and poses must cover the same frames, "
                f"found {len(self.keypoints)} and {len(self.poses)}"
            )
        tall = float(np.median(np.linalg.norm(np.ptp(self.poses, axis=1), axis=-1)))
        if tall > TALLEST:
            raise DataError(
                f"clip {self.name}: poses must be in metres, found a person of {tall:.0f}, as in millimetres"
            )
        if self.valid is not None and self.valid.shape != (len(self),):
            raise DataError(f"clip {self.name}: valid must be ({len(self)},), found {tuple(self.valid.shape)}")


@dataclass(frozen=True, eq=False)
class PoseDataset:
    """Clips of one source, split for training and testing.

    title: its label in tables and figures. licence: of the data, in a few words. comparable: whether its errors are
    comparable with the paper's. validation: clips for choosing settings, neither trained nor tested on; empty where the
    field has no such split. unseen_takes: takes of the training subjects that are not trained on, to separate the cost
    of an unseen motion from that of an unseen person; empty where none are held out.
    """

    name: str
    title: str
    skeleton: Skeleton
    train: list[Clip]
    test: list[Clip]
    licence: str
    comparable: bool = False
    keypoints: str = "gt"
    validation: list[Clip] = field(default_factory=list)
    unseen_takes: list[Clip] = field(default_factory=list)

    def __post_init__(self):
        if not self.train and not self.test:
            raise DataError(f"data set {self.name}: expected at least one clip, found none")
        for clip in self.clips:
            clip.check(self.skeleton)

    @property
    def clips(self) -> list[Clip]:
        return [clip for split in SPLITS for clip in getattr(self, split)]

    @property
    def actions(self) -> list[str]:
        """Canonical actions in the order of their first appearance."""
        return list(dict.fromkeys(clip.action for clip in self.clips))

    @property
    def subjects(self) -> list[str]:
        return list(dict.fromkeys(clip.subject for clip in self.clips))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every number and name in it: data sets with the same fingerprint train the same model."""
        digest = hashlib.sha256(f"{self.skeleton.name} {self.keypoints}".encode())
        for split in SPLITS:
            for clip in getattr(self, split):
                digest.update(f"{split} {clip.name} {clip.fps} {clip.resolution}".encode())
                for array in (clip.keypoints, clip.poses, clip.valid, clip.intrinsics):
                    if array is not None:
                        digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def select(self, subjects=None, actions=None) -> "PoseDataset":
        """The data set restricted to the named subjects and actions (None: all)."""

        def keep(clips):
            return [
                clip
                for clip in clips
                if (subjects is None or clip.subject in subjects) and (actions is None or clip.action in actions)
            ]

        return replace(self, **{split: keep(getattr(self, split)) for split in SPLITS})
