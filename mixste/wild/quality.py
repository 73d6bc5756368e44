"""How far a clip's keypoints can be trusted: gaps, positions unlike those of training, swaps of left and right."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mixste.camera import normalize_screen
from mixste.skeleton import human36m


class Ranges(NamedTuple):
    """What keypoints were like in a training, in units of `normalize_screen` (the image is 2 wide).

    shortest, median, tallest: height of a person, from the highest to the lowest joint. reach: the joint farthest from
    the middle of the image, along either axis. slowest, fastest: frames/s.
    """

    shortest: float
    median: float
    tallest: float
    reach: float
    slowest: float
    fastest: float


# Of weights that come without ranges of their own: heights in clips of the synthetic source with Human3.6M's cameras,
# the farthest joint there and in open-people.
HEIGHTS, MEDIAN_HEIGHT = (0.27, 0.95), 0.64
USUAL = Ranges(HEIGHTS[0], MEDIAN_HEIGHT, HEIGHTS[1], reach=0.93, slowest=25, fastest=50)
RATE_MARGIN = 1.2  # a frame rate this many times beyond those of training is mentioned

# Left and right are suspected to swap where the joints of both legs, or of both arms, move by more than this part of
# the person's height, and would move by less than half as much if the sides were exchanged.
SWAP = 0.05
PART = 10_000  # frames at a time
_LIMBS = [[human36m.joints.index(f"R{joint}") for joint in part] for part in (("Knee", "Foot"), ("Elbow", "Wrist"))]


def on_screen(
    joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int], ranges: Ranges = USUAL
) -> tuple[Float[np.ndarray, "frames 17 2"], str]:
    """Joints in screen units as the network reads them, and a note if the image was extended or cropped for that."""
    corner, size, note = _view(joints, resolution, ranges)
    return normalize_screen(joints - corner, *size), note


def _view(joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int], ranges: Ranges):
    """The image that the network is shown: its upper left corner and its size, pixels, and a note if it is another."""
    tall = float(np.median(np.ptp(joints[..., 1], axis=1)))  # pixels
    height = 2 * tall / resolution[0]  # screen units
    if ranges.shortest <= height <= ranges.tallest or tall == 0:
        return np.zeros(2), resolution, ""
    side = 2 * tall / ranges.median
    # A wider view keeps the middle, the optical axis; a narrower one is centred on the person, who might be outside it.
    wider = height > ranges.tallest
    middle = np.array(resolution) / 2 if wider else np.median(joints, axis=(0, 1))
    note = (
        f"the person is {height / 2:.2f} image widths tall, {ranges.shortest / 2:.3g} to {ranges.tallest / 2:.3g} in "
        f"training: lifted as from an image {side:.0f} pixels wide{'' if wider else ', centred on the person'}"
    )
    return middle - side / 2, (side, side), note


def outside_training(
    keypoints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int], ranges: Ranges = USUAL
) -> Bool[np.ndarray, "frames"]:
    """Frames in which a joint is farther from the middle of the image than any in training."""
    corner, size, _ = _view(keypoints, resolution, ranges)
    extremes = np.stack([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)  # (frames, 2, 2)
    return (np.abs(normalize_screen(extremes - corner, *size)) > ranges.reach).any(axis=(1, 2))


def swaps(keypoints: Float[np.ndarray, "frames 17 2"]) -> Bool[np.ndarray, "frames"]:
    """Frames at which left and right seem to change places, from the frame before: of the legs, the arms or both."""
    height = float(np.median(np.ptp(keypoints[..., 1], axis=1)))
    suspected = np.zeros(len(keypoints), dtype=bool)
    for start in range(0, len(keypoints), PART):  # a long clip at once would take much memory
        part = keypoints[max(0, start - 1) : start + PART]
        for right in _LIMBS:
            both = [*right, *human36m.mirror[right]]
            limbs = part[:, both] - part[:, [human36m.root]]
            exchanged = np.roll(limbs, len(right), axis=1)
            step, swapped_step = (
                np.linalg.norm(after[1:] - limbs[:-1], axis=-1).mean(axis=-1) for after in (limbs, exchanged)
            )
            first = max(1, start)
            suspected[first : first + len(step)] |= (step > SWAP * height) & (swapped_step < step / 2)
    return suspected


def quality(
    keypoints: Float[np.ndarray, "frames 17 2"],
    filled: Bool[np.ndarray, "frames 17"],
    resolution: tuple[int, int],
    fps: float,
    ranges: Ranges = USUAL,
) -> dict:
    """How far a result can be trusted.

    Its keys: filled, the share of keypoints that were filled in; outside, the share of frames farther from the middle
    of the image than in training; swaps, the frames at which left and right seem to change places; words, all of this
    and a frame rate unlike those of training, as text.
    """
    outside = float(outside_training(keypoints, resolution, ranges).mean())
    suspected = np.flatnonzero(swaps(keypoints))
    words = [
        f"{_percent(filled.mean())} of the keypoints filled in",
        f"{_percent(outside)} of the frames farther from the middle of the image than in training",
    ]
    if len(suspected) == 0:
        words.append("no swap of left and right suspected")
    else:
        where = ", ".join(map(str, suspected[:5].tolist())) + (", …" if len(suspected) > 5 else "")
        words.append(f"left and right may swap at {len(suspected)} frames ({where})")
    if not ranges.slowest / RATE_MARGIN <= fps <= ranges.fastest * RATE_MARGIN:
        words.append(f"{fps:.4g} frames/s, {ranges.slowest:g} to {ranges.fastest:g} in training")
    return {
        "filled": float(filled.mean()),
        "outside": outside,
        "swaps": suspected.tolist(),
        "words": "; ".join(words),
    }


def _percent(share: float) -> str:
    return "none" if share == 0 else "all" if share == 1 else f"{max(0.1, 100 * share):.{1 if share < 0.1 else 0}f} %"
