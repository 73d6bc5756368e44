"""A lifted person in the world: the root's path, the vertical, the floor, and feet that stand still on it.

The camera stands still. Scale is that of the poses, so that a person of another size is nearer or farther in truth.
The constants were chosen on training subjects of open-people that `open-small` was not trained on, lifted from
keypoints of simulated detectors; `tools/open_world.py` measures the result on test subjects.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import solveh_banded
from scipy.ndimage import binary_closing, binary_opening, gaussian_filter1d
from scipy.spatial.transform import Rotation

from mixste.skeleton import human36m
from mixste.wild.outputs import World

LEGS = ((1, 2, 3), (4, 5, 6))  # hip, knee and foot, right and left
FEET = [leg[2] for leg in LEGS]

# Standard deviations that weigh the terms of the path against each other.
REPROJECTED = 0.03  # metres in the plane of the person, of a joint
CORRELATED = 0.2  # seconds: errors of the network and of detectors last about that long
ACCELERATION = 10.0  # m/s² of the root
STANDING_SPEED = 0.05  # m/s of a foot in contact


def root_path(
    poses: Float[np.ndarray, "frames 17 3"],
    rays: Float[np.ndarray, "frames 17 2"],
    fps: float,
    weights: Float[np.ndarray, "frames 17"],
    contacts: Float[np.ndarray, "frames 2"] | None = None,
    start: Float[np.ndarray, "frames 3"] | None = None,
    steps: int = 10,
) -> Float[np.ndarray, "frames 3"]:
    """The root's place in camera axes, metres: least squares over the clip.

    rays: (pixels − centre) / focal. Reprojection errors have a Cauchy loss, which discounts bad keypoints; the path has
    small accelerations; the feet have small velocities where they are in contact. Each Gauss-Newton step solves one
    banded system, so that time is linear in the number of frames.
    """
    frames = len(poses)
    path, bent = start, np.array([1, -2, 1])
    for step in range(steps):
        if path is None:  # linear in the path with measured in place of reprojected rays
            seen, residual, robust = rays, rays * poses[..., 2:] - poses[..., :2], 1.0
        else:
            placed = poses + path[:, None]
            depth = np.maximum(placed[..., 2:], 0.1)
            seen = placed[..., :2] / depth
            residual = (rays - seen) * depth  # (frames, 17, 2) metres
            robust = 1 / (1 + np.sum(residual**2, axis=-1) / (2 * REPROJECTED) ** 2)
        weight = weights * robust / (REPROJECTED**2 * max(1.0, CORRELATED * fps))
        jacobian = np.zeros((*seen.shape, 3))
        jacobian[..., 0, 0] = jacobian[..., 1, 1] = 1
        jacobian[..., 2] = -seen
        normal = np.einsum("fj,fjab,fjac->fbc", weight, jacobian, jacobian)
        right = np.einsum("fj,fjab,fja->fb", weight, jacobian, residual)
        if path is not None:
            right += np.einsum("fab,fb->fa", normal, path)

        # Row k of `banded` has the entries k below the diagonal; a frame has three unknowns.
        banded = np.zeros((9, frames, 3))
        for row in range(3):
            for column in range(row + 1):
                banded[row - column, :, column] += normal[:, row, column]
        smooth = fps**3 / ACCELERATION**2
        for i in range(3):
            for j in range(i, 3):
                banded[3 * (j - i), i : frames - 2 + i] += smooth * bent[i] * bent[j]
        if contacts is not None:
            both = np.minimum(contacts[1:], contacts[:-1])[..., None] * fps / STANDING_SPEED**2
            moved = np.diff(poses[:, FEET], axis=0)  # (frames - 1, 2, 3)
            still, pulled = both.sum(axis=1), (both * moved).sum(axis=1)
            banded[0, :-1] += still
            banded[0, 1:] += still
            banded[3, :-1] -= still
            right[:-1] += pulled
            right[1:] -= pulled
        path = solveh_banded(banded.reshape(9, -1), right.reshape(-1), lower=True).reshape(-1, 3)
    return path


# The vertical as a weighted sum of joints relative to the hip (left and right alike), for a person who stands: the
# least-squares fit to the true vertical.
UPWARD = {
    **{"RHip LHip": -0.34, "RKnee LKnee": -0.279, "RFoot LFoot": -0.623, "Spine": -0.263, "Thorax": -0.202},
    **{"Neck": 0.304, "Head": 0.295, "LShoulder RShoulder": 0.114, "LElbow RElbow": 0.296, "LWrist RWrist": -0.15},
}
STRAIGHT = 0.9  # of the leg's length, from hip to foot, of a leg that stands
MOST_TILT = np.radians(45)  # between the vertical of a person who stands and that of the image
TILT_ERROR, FLOOR_ERROR = np.radians(3), 0.05  # of the vertical from the body; metres, of a foot on the floor
ANKLE = 0.08  # metres above the floor, of a standing person's "foot", which is the ankle
STEP = 0.08  # metres: a foot in contact that is nearer to its height on the floor is set onto it
SLOW, LOW = 0.3, 0.06  # m/s and metres above the lower foot, at which contact becomes doubtful
SHORTEST = 0.06  # seconds in contact


def vertical(poses: Float[np.ndarray, "frames 17 3"]) -> tuple[Float[np.ndarray, "3"], int]:
    """The direction that is up for the person, in the axes of the poses, and in how many frames they stand.

    In no frame, it is the image's vertical: nothing tells better.
    """
    image = np.array([0.0, -1, 0])
    weights = np.zeros(17)
    for names, weight in UPWARD.items():
        for name in names.split():
            weights[human36m.joints.index(name)] = weight / len(names.split())
    up = np.einsum("j,fja->fa", weights, poses)
    up /= np.linalg.norm(up, axis=-1, keepdims=True).clip(1e-9)
    standing = (_extension(poses) > STRAIGHT) & (up @ image > np.cos(MOST_TILT))
    if not standing.any():
        return image, 0
    up = up[standing]
    mean = np.median(up, axis=0)
    for _ in range(10):
        off = np.linalg.norm(up - mean / np.linalg.norm(mean), axis=-1)
        mean = (up / (1 + (off / np.radians(10)) ** 2)[:, None]).sum(axis=0)
    return mean / np.linalg.norm(mean), int(standing.sum())


def _extension(poses):
    """The distance from hip to foot of the straighter leg, as a fraction of the leg's median length: (frames,)."""
    hip, knee, foot = (poses[:, [leg[part] for leg in LEGS]] for part in range(3))
    length = np.median(np.linalg.norm(knee - hip, axis=-1) + np.linalg.norm(foot - knee, axis=-1))
    return (np.linalg.norm(foot - hip, axis=-1) / max(length, 1e-9)).max(axis=1)


def contact(
    feet: Float[np.ndarray, "frames 2 3"], up: Float[np.ndarray, "3"], fps: float
) -> Float[np.ndarray, "frames 2"]:
    """How sure it is, 0 to 1, that each foot stands: it is slow, and not above the other foot."""
    smooth = gaussian_filter1d(feet, 0.04 * fps, axis=0, mode="nearest")
    speed = np.linalg.norm(np.gradient(smooth, axis=0), axis=-1) * fps
    height = smooth @ up
    above = (height - height.min(axis=1, keepdims=True) - 0.02).clip(0)
    return np.exp(-above / LOW) / (1 + (speed / SLOW) ** 4)


def floor(
    feet: Float[np.ndarray, "frames 2 3"], contacts: Bool[np.ndarray, "frames 2"], up: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "3"], float]:
    """The vertical, corrected such that the feet stand on one plane, and the height of the feet on it.

    Each stance counts once, with a Cauchy loss that discounts a step or a chair.
    """
    places = [np.median(feet[start:stop, side], axis=0) for side in (0, 1) for start, stop in _spans(contacts[:, side])]
    if not places:
        return up, float((feet @ up).min())
    places = np.array(places)
    across = np.linalg.svd(up[None])[2][1:]  # two directions of the floor
    rows = np.column_stack([places @ across.T, -np.ones(len(places))])
    prior = np.diag([1 / TILT_ERROR, 1 / TILT_ERROR, 0])
    solution = np.array([0, 0, np.median(places @ up)])
    for _ in range(10):
        off = (places @ up + rows @ solution) / FLOOR_ERROR
        weight = 1 / (FLOOR_ERROR * np.sqrt(1 + off**2))
        solution = np.linalg.lstsq(
            np.concatenate([rows * weight[:, None], prior]), np.append(-places @ up * weight, [0, 0, 0]), rcond=None
        )[0]
    up = up + solution[:2] @ across
    return up / np.linalg.norm(up), float(solution[2] / np.linalg.norm(up))


def place(
    poses: Float[np.ndarray, "frames 17 3"],
    keypoints: Float[np.ndarray, "frames 17 2"],
    filled: Bool[np.ndarray, "frames 17"],
    fps: float,
    resolution: tuple[float, float],
    focal: float,
) -> tuple[World, tuple[str, ...]]:
    """The person in the world, and notes on what could not be determined.

    poses: metres, camera axes, relative to the hip. keypoints, focal: pixels. filled: keypoints that count little.
    """
    notes = []
    poses = poses.astype(np.float64)
    rays = (keypoints.astype(np.float64) - np.array(resolution) / 2) / focal
    weights = np.where(filled, 0.1, 1.0)
    path = root_path(poses, rays, fps, weights)
    up, standing = vertical(poses)
    for _ in range(3):
        sure = contact((poses + path[:, None])[:, FEET], up, fps)
        path = root_path(poses, rays, fps, weights, sure, path, steps=2)
    feet = (poses + path[:, None])[:, FEET]
    width = max(1, round(SHORTEST * fps)) | 1
    contacts = contact(feet, up, fps) > 0.3
    contacts = binary_opening(binary_closing(contacts, np.ones((width, 1))), np.ones((width, 1)))
    up, height = floor(feet, contacts, up)

    ahead = np.array([0.0, 0, 1]) - up[2] * up
    ahead /= np.linalg.norm(ahead)
    rotation = np.stack([np.cross(ahead, up), ahead, up])  # camera axes in the world
    position = -rotation @ path[0] * [1, 1, 0] + [0, 0, ANKLE - height]
    placed = (poses + path[:, None]) @ rotation.T + position
    placed = planted(placed, contacts)
    return World(placed, contacts, float(focal), rotation, position), tuple(notes)


def planted(
    poses: Float[np.ndarray, "frames 17 3"], contacts: Bool[np.ndarray, "frames 2"]
) -> Float[np.ndarray, "frames 17 3"]:
    """The poses (world axes) with each foot in one place, `ANKLE` above the floor, during each contact.

    Between contacts, a foot is moved by the interpolated corrections at both ends, so that nothing jumps. Knees follow,
    and thighs and shanks keep their lengths: a place out of reach is met as far as the straight leg goes.
    """
    poses = poses.copy()
    for side, (hip, knee, foot) in enumerate(LEGS):
        spans = _spans(contacts[:, side])
        if not spans:
            continue
        shift = np.full((len(poses), 3), np.nan)
        for start, stop in spans:
            place = np.median(poses[start:stop, foot], axis=0)
            if abs(place[2] - ANKLE) < STEP:
                place[2] = ANKLE
            shift[start:stop] = place - poses[start:stop, foot]
        known = np.flatnonzero(contacts[:, side])
        frames = np.arange(len(poses))
        shift = np.stack([np.interp(frames, known, axis[known]) for axis in shift.T], axis=1)
        poses[:, knee], poses[:, foot] = _reach(*poses[:, (hip, knee, foot)].swapaxes(0, 1), shift)
    return poses


def _reach(hip, knee, foot, shift):
    """Knee and foot, (frames, 3) each, of the leg that reaches for `foot + shift` from its hip."""
    thigh, shank = (np.linalg.norm(bone, axis=-1, keepdims=True) for bone in (knee - hip, foot - knee))
    before, after = foot - hip, foot + shift - hip
    distance = np.linalg.norm(after, axis=-1, keepdims=True)
    along = after / distance
    distance = distance.clip(np.abs(thigh - shank) + 1e-6, thigh + shank)
    # The leg turns by the smallest rotation that points it at its goal; then the knee bends in the plane it was in.
    bend = Rotation.from_rotvec(_between(before, after)).apply(knee - hip)
    bend -= np.sum(bend * along, axis=-1, keepdims=True) * along
    bend /= np.linalg.norm(bend, axis=-1, keepdims=True).clip(1e-9)
    cosine = (thigh**2 + distance**2 - shank**2) / (2 * thigh * distance)
    cosine = cosine.clip(-1, 1)
    return hip + thigh * (cosine * along + np.sqrt(1 - cosine**2) * bend), hip + distance * along


def _between(old, new):
    """The rotation vectors, (frames, 3), of the smallest rotations that turn one direction to another."""
    axis = np.cross(old, new)
    size = np.linalg.norm(axis, axis=-1, keepdims=True)
    return axis / size.clip(1e-12) * np.arctan2(size, np.sum(old * new, axis=-1, keepdims=True))


def _spans(flags: Bool[np.ndarray, "frames"]) -> list[tuple[int, int]]:
    """(start, stop) of each run of true values."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return [tuple(pair) for pair in edges.reshape(-1, 2).tolist()]
