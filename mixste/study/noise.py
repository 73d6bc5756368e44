"""Errors added to the keypoints of a clip, of six kinds and several levels: what notebooks 15 and 19 measure.

Pixels refer to an image 1000 pixels wide.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float

from mixste.data.clips import Clip
from mixste.data.virtual import random_of
from mixste.skeleton import Skeleton

Keypoints = Float[np.ndarray, "frames joints 2"]


def gaussian(clip: Clip, size: float, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """Each coordinate of each keypoint gets independent noise in each frame. size: standard deviation, pixels."""
    return clip.keypoints + size * clip.resolution[0] / 1000 * rng.standard_normal(clip.keypoints.shape)


def heavy_tails(clip: Clip, size: float, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """The same with Student's t, 2 degrees of freedom. size: of the Gaussian with the same median error."""
    same_median = 0.6745 / 0.8165  # medians of |normal| and of |t| with 2 degrees of freedom
    return clip.keypoints + size * same_median * clip.resolution[0] / 1000 * rng.standard_t(2, clip.keypoints.shape)


def held(clip: Clip, share: float, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """A joint is lost for half a second and stays at its last position. share: of keypoints."""
    return last_seen(clip.keypoints, stretches(clip, clip.keypoints.shape[:2], share, rng))


def to_the_centre(clip: Clip, share: float, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """A joint is lost for half a second and reported at the centre of the image. share: of keypoints."""
    lost = stretches(clip, clip.keypoints.shape[:2], share, rng)
    return np.where(lost[..., None], np.array(clip.resolution) / 2, clip.keypoints)


def swapped(clip: Clip, share: float, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """Left and right of the whole body are swapped for half a second. share: of frames."""
    turned = stretches(clip, (len(clip), 1, 1), share, rng)
    return np.where(turned, clip.keypoints[:, skeleton.mirror], clip.keypoints)


def frozen(clip: Clip, joints: int, skeleton: Skeleton, rng: np.random.Generator) -> Keypoints:
    """So many joints, different ones in each clip, stay at their first position."""
    lost = np.isin(np.arange(clip.keypoints.shape[1]), rng.permutation(clip.keypoints.shape[1])[:joints])
    return np.where(lost[:, None], clip.keypoints[:1], clip.keypoints)


SHARES = (0.03, 0.1, 0.2, 0.4)
KINDS: dict[str, tuple[Callable, tuple[float, ...], str]] = {  # function, levels, how a level is written
    "Gaussian": (gaussian, (2, 5, 10, 20), "{:g} px"),
    "heavy tails": (heavy_tails, (2, 5, 10, 20), "{:g} px"),
    "held": (held, SHARES, "{:.0%} of keypoints"),
    "to the centre": (to_the_centre, SHARES, "{:.0%} of keypoints"),
    "swapped": (swapped, SHARES, "{:.0%} of frames"),
    "frozen": (frozen, (1, 2, 4, 8), "{:g} joint(s)"),
}


def worse(clip: Clip, kind: str, level: float, skeleton: Skeleton) -> Clip:
    """The clip with its keypoints made worse; itself at level 0.

    The random numbers depend on the kind, the level and the clip, so that every network reads the same keypoints. A
    keypoint never leaves the image, outside of which no detector points.
    """
    if level == 0:
        return clip
    function, _, _ = KINDS[kind]
    keypoints = function(clip, level, skeleton, random_of("input noise", kind, level, clip.name))
    return replace(clip, keypoints=np.clip(keypoints, 0, clip.resolution).astype(np.float32))


def named(kind: str, level: float) -> str:
    """As "Gaussian, 5 px"; level 0 is "as detected"."""
    return f"{kind}, {KINDS[kind][2].format(level)}" if level else "as detected"


def stretches(clip: Clip, shape: tuple[int, ...], share: float, rng: np.random.Generator) -> Bool[np.ndarray, "..."]:
    """A mask over (frames, …), true in stretches of half a second that cover about `share` of it and may overlap."""
    length = max(1, round(clip.fps / 2))
    # A frame is free of them when none begins in it or in the length − 1 frames before.
    starts = rng.random((shape[0] + length - 1, *shape[1:])) < 1 - (1 - share) ** (1 / length)
    return np.lib.stride_tricks.sliding_window_view(starts, length, axis=0).any(axis=-1)


def last_seen(keypoints: Keypoints, lost: Bool[np.ndarray, "frames joints"]) -> Keypoints:
    """Keypoints with each lost one where it was in the last frame that has it; the first frame counts as seen."""
    frames = np.where(lost, 0, np.arange(len(lost))[:, None])
    return np.take_along_axis(keypoints, np.maximum.accumulate(frames)[..., None], axis=0)
