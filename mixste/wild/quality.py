"""How far a clip's keypoints can be trusted: gaps, positions unlike those of training, swaps of left and right."""

import numpy as np
from jaxtyping import Bool, Float

from mixste.camera import normalize_screen
from mixste.skeleton import human36m

# Height of a person on the screen in training, from the highest to the lowest joint in units of `normalize_screen` (the
# image is 2 wide): the smallest, the largest and the median clip of the synthetic source with Human3.6M's cameras.
HEIGHTS, MEDIAN_HEIGHT = (0.27, 0.95), 0.64
# The joint farthest from the middle of the image, in the same units, in synthetic and in open-people.
REACH = 0.93
RATES = (20, 60)  # frames/s: training has 25 and 50

# Left and right are suspected to swap where the joints of both legs, or of both arms, move by more than this part of
# the person's height, and would move by less than half as much if the sides were exchanged.
SWAP = 0.05
PART = 10_000  # frames at a time
_LIMBS = [[human36m.joints.index(f"R{joint}") for joint in part] for part in (("Knee", "Foot"), ("Elbow", "Wrist"))]


def on_screen(
    joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]
) -> tuple[Float[np.ndarray, "frames 17 2"], str]:
    """Joints in screen units as the network reads them, and a note if the image was extended or cropped for that."""
    corner, size, note = _view(joints, resolution)
    return normalize_screen(joints - corner, *size), note


def _view(joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]):
    """The image that the network is shown: its upper left corner and its size, pixels, and a note if it is another."""
    tall = float(np.median(np.ptp(joints[..., 1], axis=1)))  # pixels
    height = 2 * tall / resolution[0]  # screen units
    if HEIGHTS[0] <= height <= HEIGHTS[1] or tall == 0:
        return np.zeros(2), resolution, ""
    side = 2 * tall / MEDIAN_HEIGHT
    # A wider view keeps the middle, the optical axis; a narrower one is centred on the person, who might be outside it.
    wider = height > HEIGHTS[1]
    middle = np.array(resolution) / 2 if wider else np.median(joints, axis=(0, 1))
    note = (
        f"the person is {height / 2:.2f} image widths tall, {HEIGHTS[0] / 2:g} to {HEIGHTS[1] / 2:g} in training: "
        f"lifted as from an image {side:.0f} pixels wide{'' if wider else ', centred on the person'}"
    )
    return middle - side / 2, (side, side), note


def outside_training(
    keypoints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]
) -> Bool[np.ndarray, "frames"]:
    """Frames in which a joint is farther from the middle of the image than any in training."""
    corner, size, _ = _view(keypoints, resolution)
    extremes = np.stack([keypoints.min(axis=1), keypoints.max(axis=1)], axis=1)  # (frames, 2, 2)
    return (np.abs(normalize_screen(extremes - corner, *size)) > REACH).any(axis=(1, 2))


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
) -> dict:
    """How far a result can be trusted.

    Its keys: filled, the share of keypoints that were filled in; outside, the share of frames farther from the middle
    of the image than in training; swaps, the frames at which left and right seem to change places; words, all of this
    and a frame rate unlike those of training, as text.
    """
    outside, suspected = float(outside_training(keypoints, resolution).mean()), np.flatnonzero(swaps(keypoints))
    words = [
        f"{_percent(filled.mean())} of the keypoints filled in",
        f"{_percent(outside)} of the frames farther from the middle of the image than in training",
    ]
    if len(suspected) == 0:
        words.append("no swap of left and right suspected")
    else:
        where = ", ".join(map(str, suspected[:5].tolist())) + (", …" if len(suspected) > 5 else "")
        words.append(f"left and right may swap at {len(suspected)} frames ({where})")
    if not RATES[0] <= fps <= RATES[1]:
        words.append(f"{fps:.4g} frames/s, 25 and 50 in training")
    return {
        "filled": float(filled.mean()),
        "outside": outside,
        "swaps": suspected.tolist(),
        "words": "; ".join(words),
    }


def _percent(share: float) -> str:
    return "none" if share == 0 else "all" if share == 1 else f"{max(0.1, 100 * share):.{1 if share < 0.1 else 0}f} %"
