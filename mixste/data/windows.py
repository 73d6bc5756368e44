"""Windows of T frames: which frames a network sees together, in training and at test time.

A window is a row of frame indices into its clip; frames beyond the clip's ends repeat its first or last frame
(edge padding), which an index gather gives for free.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mixste.camera import normalize_screen
from mixste.data import Clip
from mixste.skeleton import Skeleton


def training_windows(length: int, frames: int, interval: int | None = None) -> Int[np.ndarray, "windows frames"]:
    """Training windows of a clip of `length` frames.

    By default the authors' (FACTS 19): ceil(length / frames) consecutive windows, centred on the clip, the
    overhang at both ends edge-padded. With `interval` (Table 4's "interval = 1"): one window each `interval`
    frames, as many as fit inside the clip, or the single centred one where none fits.
    """
    _check(length, frames)
    if interval is not None and length >= frames:
        starts = np.arange(0, length - frames + 1, interval)
    else:
        count = -(-length // frames)
        starts = np.arange(count) * frames - (count * frames - length) // 2
    return np.clip(starts[:, None] + np.arange(frames), 0, length - 1)


def evaluation_windows(length: int, frames: int) -> Int[np.ndarray, "windows frames"]:
    """Test windows of a clip, the authors' (FACTS 20).

    Consecutive windows from the first frame on; the last one is moved back to end at the last frame, so that
    frames it shares with the one before occur twice. A clip shorter than one window is edge-padded at its end.
    """
    _check(length, frames)
    starts = np.arange(0, length, frames)
    starts[-1] = max(0, min(starts[-1], length - frames))
    return np.clip(starts[:, None] + np.arange(frames), 0, length - 1)


def sliding_windows(length: int, frames: int) -> Int[np.ndarray, "length frames"]:
    """One window centred on every frame, edge-padded: what seq2frame methods read (Eq. 2's δ = (T − 1) / 2)."""
    _check(length, frames)
    return np.clip(np.arange(length)[:, None] + np.arange(frames) - (frames - 1) // 2, 0, length - 1)


def _check(length: int, frames: int) -> None:
    if length < 1 or frames < 1:
        raise ValueError(f"expected a clip and a window of at least one frame, found {length} and {frames}")


@dataclass
class Frames:
    """All frames of some clips on one device, so that a batch of windows is one index gather.

    keypoints: (all frames, joints, 2) screen-normalised. poses: (all frames, joints, 3) metres, root-relative.
    starts: first frame of each clip.
    """

    keypoints: Float[Tensor, "all joints 2"]
    poses: Float[Tensor, "all joints 3"]
    starts: list[int]

    @classmethod
    def of(cls, clips: list[Clip], skeleton: Skeleton, device="cpu") -> "Frames":
        keypoints = [normalize_screen(clip.keypoints, *clip.resolution) for clip in clips]
        poses = [clip.poses - clip.poses[:, [skeleton.root]] for clip in clips]
        starts = np.cumsum([0] + [len(clip) for clip in clips[:-1]])

        def on_device(arrays):
            return torch.from_numpy(np.concatenate(arrays).astype(np.float32)).to(device)

        return cls(on_device(keypoints), on_device(poses), starts.tolist())
