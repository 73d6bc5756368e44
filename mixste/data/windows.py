"""Windows of T frames: which frames a network reads together, in training and at test time.

A window is a row of frame indices into its clip. Indices beyond the clip's ends are clipped to its first or last frame,
so that an index gather pads the edges.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixste.camera import normalize_screen
from mixste.data.clips import Clip
from mixste.io import DataError
from mixste.skeleton import Skeleton


def training_starts(length: int, frames: int, interval: int | None = None) -> Int[np.ndarray, "windows"]:
    """First frames of the training windows of a clip of `length` frames; negative ones lie in the edge padding.

    By default as in the authors' code (notebook 13, row 19): ceil(length / frames) consecutive windows, centred on the
    clip. With `interval` (Table 4's "interval = 1"): one window every `interval` frames, as many as fit inside the
    clip, or the single centred one if none fits.
    """
    _check(length, frames)
    if interval is not None and interval < 1:
        raise ValueError(f"interval must be at least 1, found {interval}")
    if interval is not None and length >= frames:
        return np.arange(0, length - frames + 1, interval)
    count = -(-length // frames)
    return np.arange(count) * frames - (count * frames - length) // 2


def sliding_starts(length: int, frames: int) -> Int[np.ndarray, "length"]:
    """First frames of the windows centred on every frame: what seq2frame methods read (Eq. 2's δ = (T − 1) / 2)."""
    _check(length, frames)
    return np.arange(length) - (frames - 1) // 2


def sliding_windows(length: int, frames: int) -> Int[np.ndarray, "length frames"]:
    """Frame indices of the windows of `sliding_starts`, edges replicated."""
    return _windows(sliding_starts(length, frames), length, frames)


def evaluation_windows(length: int, frames: int) -> Int[np.ndarray, "windows frames"]:
    """Frame indices of the test windows of a clip, as in the authors' code (notebook 13, row 20).

    Consecutive windows from the first frame on; the last one is shifted back to end at the last frame, so that the
    frames it shares with the one before occur twice. A clip shorter than one window is edge-padded at its end.
    """
    _check(length, frames)
    starts = np.arange(0, length, frames)
    starts[-1] = max(0, min(starts[-1], length - frames))
    return _windows(starts, length, frames)


def _windows(starts: Int[np.ndarray, "windows"], length: int, frames: int) -> Int[np.ndarray, "windows frames"]:
    return np.clip(starts[:, None] + np.arange(frames), 0, length - 1)


def _check(length: int, frames: int) -> None:
    if length < 1 or frames < 1:
        raise ValueError(f"expected a clip and a window of at least one frame, found {length} and {frames}")


@dataclass
class ClipFrames:
    """All frames of some clips on one device, so that a batch of windows is one index gather.

    keypoints: (all frames, joints, 2) screen-normalised. poses: (all frames, joints, 3) metres, root-relative.
    starts, lengths: first frame and number of frames of each clip. With `paths`, what a new projection of a pose needs:
    roots, (all frames, 3) metres in camera axes; intrinsics, (clips, 9) pixels; resolutions, (clips, 2) pixels.
    """

    keypoints: Float[Tensor, "all joints 2"]
    poses: Float[Tensor, "all joints 3"]
    starts: list[int]
    lengths: list[int]
    roots: Float[Tensor, "all 3"] | None = None
    intrinsics: Float[Tensor, "clips 9"] | None = None
    resolutions: Float[Tensor, "clips 2"] | None = None

    @classmethod
    def of(cls, clips: list[Clip], skeleton: Skeleton, device="cpu", paths: bool = False) -> "ClipFrames":
        """Raises DataError for `paths` of clips whose cameras are unknown."""

        def on_device(array):
            return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(device)

        keypoints = np.concatenate([normalize_screen(clip.keypoints, *clip.resolution) for clip in clips])
        poses = np.concatenate([clip.poses for clip in clips])
        roots = poses[:, skeleton.root]
        lengths = [len(clip) for clip in clips]
        starts = np.cumsum([0, *lengths[:-1]]).tolist()
        frames = cls(on_device(keypoints), on_device(poses - roots[:, None]), starts, lengths)
        if paths:
            unknown = next((clip.name for clip in clips if clip.intrinsics is None), None)
            if unknown is not None:
                raise DataError(
                    f"clip {unknown}: expected the camera's intrinsics, which resized bodies need, found none"
                )
            frames.roots = on_device(roots)
            frames.intrinsics = on_device([clip.intrinsics for clip in clips])
            frames.resolutions = on_device([clip.resolution for clip in clips])
        return frames
