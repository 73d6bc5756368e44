"""Lifted people in the world: the root's path, the vertical, the floor, and feet that stand still on it.

The camera is taken as still and without distortion, with its optical axis in the middle of the image. Lengths are in
the scale of the poses: a person smaller than these is placed too far away, and walks too far, by the same factor. Of
several people in one film the floor that they share shows their sizes, up to a factor that is the same for all.

The constants were chosen on subjects of open-people that are not in the test and that the first `open-small` was not
trained on; `tools/open_world.py` measures the result on test subjects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.linalg import solveh_banded
from scipy.ndimage import binary_closing, binary_opening, gaussian_filter1d
from scipy.spatial.transform import Rotation

from mixste.skeleton import human36m
from mixste.wild.outputs import World

LEGS = np.array([(1, 2, 3), (4, 5, 6)])  # hip, knee and foot, right and left
FEET = LEGS[:, 2]
IMAGE_UP = np.array([0.0, -1, 0])

SMOOTH = 0.03  # seconds: standard deviation of the filter on the poses, against the jitter of detectors
# The path: standard deviations that weigh its terms against each other.
REPROJECTION = 0.03  # metres in the plane of the person, of a joint
CORRELATED = 0.2  # seconds: errors of the network and of detectors last about that long
ACCELERATION = 10.0  # m/s², of the root
STANDING = 0.05  # m/s, of a foot in contact
GUESS = 0.1  # weight of a keypoint that was not detected
# Contact, from 0 to 1: a foot is slow, and not above the other one.
JITTER, SLOW = 1.2, (0.3, 0.8)  # half at JITTER times the slower foot's median speed, within SLOW, m/s
LEVEL, LOW = 0.02, 0.06  # metres above the other foot: full up to LEVEL, then falling by a factor e over LOW
SURE = 0.3  # contact above which a foot stands
BRIEF = 0.06  # seconds: shorter contacts, and shorter breaks between them, are ignored
# The vertical as a weighted sum of joints relative to the hip, left and right alike: a ridge regression over people who
# stand. A sum of joints turns with the pose.
UPWARD = {
    **{"RHip LHip": -0.1, "RKnee LKnee": -0.39, "RFoot LFoot": -0.47, "Spine": 0.08, "Thorax": 0.12},
    **{"Neck": 0.21, "Head": 0.24, "LShoulder RShoulder": 0.16, "LElbow RElbow": 0.1, "LWrist RWrist": -0.05},
}
STRAIGHT = 0.9  # least distance from hip to foot, in lengths of the leg, in which the person counts as standing
MOST_TILT = np.radians(45)  # between the vertical and that of the image
TILT = np.radians(3)  # standard deviation of the vertical that the body gives
UNEVEN = 0.05  # metres: standard deviation of the heights at which feet stand
SIZES = 0.1  # standard deviation of the size of people, in that of their lifted poses
SAME_SIZE = 0.02  # a smaller difference from 1 is not worth a note
STANDS = 0.2  # seconds of standing that determine the vertical
ANKLE = 0.08  # metres: height of a foot on the floor, which is the ankle
FADE = 0.1  # seconds from a contact over which the correction of a foot fades


@dataclass(frozen=True, eq=False)
class Person:
    """One person of a film, as `place_people` takes them.

    poses: metres, camera axes, relative to the hip. keypoints: pixels. filled: keypoints that were not detected. axis:
    where in the image the optical axis is for the network that made the poses, pixels: in the middle, or on a person
    around whom the image was cropped.
    """

    poses: Float[np.ndarray, "frames 17 3"]
    keypoints: Float[np.ndarray, "frames 17 2"]
    filled: Bool[np.ndarray, "frames 17"]
    axis: Float[np.ndarray, "2"]


def place(
    poses: Float[np.ndarray, "frames 17 3"],
    keypoints: Float[np.ndarray, "frames 17 2"],
    filled: Bool[np.ndarray, "frames 17"],
    fps: float,
    resolution: tuple[int, int],
    focal: float,
    axis: Float[np.ndarray, "2"],
) -> tuple[World, tuple[str, ...]]:
    """`place_people` of one person."""
    [result] = place_people([Person(poses, keypoints, filled, axis)], fps, resolution, focal)
    return result


def place_people(
    people: Sequence[Person], fps: float, resolution: tuple[int, int], focal: float
) -> list[tuple[World, tuple[str, ...]]]:
    """The people of one film in one world, each with a sentence for what could not be determined and is assumed.

    All have the same axes, with the origin below the first one's hip, and stand on one floor. If there are several
    people, each is scaled for that. Camera, floor and keypoints determine their sizes up to one factor for all, which
    is chosen so that the average size is a usual one. focal: pixels.
    """
    centre = np.array(resolution) / 2
    aims = [np.append((person.axis - centre) / focal, 1.0) for person in people]
    bodies = [
        steady(person.poses, fps) @ _shortest(np.array([0, 0, 1.0]), aim).as_matrix().T
        for person, aim in zip(people, aims, strict=True)
    ]
    rays = [(person.keypoints.astype(np.float64) - centre) / focal for person in people]
    weights = [np.where(person.filled, GUESS, 1.0) for person in people]

    up, standing = vertical(*bodies)
    body_up, stands = up, standing >= min(STANDS * fps, len(bodies[0]))
    paths = [root_path(*of_one, fps, weight) for *of_one, weight in zip(bodies, rays, weights, strict=True)]
    for last in (False, False, False, True):
        feet = [(body + path[:, None])[:, FEET] for body, path in zip(bodies, paths, strict=True)]
        sure = [contact(of_one, up, fps) for of_one in feet]
        contacts = [
            _lasting(flags > SURE, 2 * round(BRIEF * fps / 2) + 1) & ~person.filled[:, FEET]
            for flags, person in zip(sure, people, strict=True)
        ]
        up, ground, sizes = plane(feet, contacts, body_up, TILT if stands else 0)
        if not last:
            paths = [
                root_path(bodies[k], rays[k], fps, weights[k], paths[k], sure[k], (up, ground / sizes[k]), steps=2)
                for k in range(len(people))
            ]
    bodies = [size * (body + path[:, None]) for body, path, size in zip(bodies, paths, sizes, strict=True)]

    anybody = any(flags.any() for flags in contacts)
    if not anybody:
        ground = min(float((body @ up).min()) for body in bodies)
    ahead = np.array([0, 0, 1.0]) - up[2] * up
    ahead /= np.linalg.norm(ahead)
    rotation = np.stack([np.cross(ahead, up), ahead, up])
    position = -(rotation @ bodies[0][0, 0])
    position[2] = ANKLE - ground

    results = []
    for body, flags, person, size in zip(bodies, contacts, people, sizes, strict=True):
        notes = []
        if not stands:
            who = "the person" if len(people) == 1 else "everyone"
            notes.append(
                f"{who} stands upright in no part of the clip: the vertical could not be determined and is assumed to "
                "be that of the image, as with a level camera"
            )
        if not flags.any():
            floor = "that of the others" if anybody else "assumed below the lowest joint of the clip"
            notes.append(f"no foot stands still: the floor is {floor}")
        unseen = int(person.filled[:, FEET].any(axis=1).sum())
        if 2 * unseen > len(body):
            notes.append(
                f"a foot is not detected in {unseen} of {len(body)} frames: the floor and the contacts are unreliable"
            )
        if abs(size - 1) > SAME_SIZE:
            notes.append(f"in the world {size:.2f} times the size as lifted, to stand on the floor that all share")
        placed = planted(body @ rotation.T + position, flags, fps)
        results.append((World(placed, flags, float(focal), rotation, position, float(size)), tuple(notes)))
    return results


def steady(poses: Float[np.ndarray, "frames 17 3"], fps: float) -> Float[np.ndarray, "frames 17 3"]:
    """The poses without jitter, and with bones of constant length: the median, averaged over left and right."""
    poses = gaussian_filter1d(poses.astype(np.float64), SMOOTH * fps, axis=0, mode="nearest")
    bones = poses - poses[:, [max(0, parent) for parent in human36m.parents]]
    lengths = np.linalg.norm(bones, axis=-1)
    constant = np.median(lengths, axis=0)
    constant = (constant + constant[human36m.mirror]) / 2
    bones *= (constant / lengths.clip(1e-9))[..., None]
    return np.einsum("jk,fka->fja", human36m.chains, bones)


def root_path(
    poses: Float[np.ndarray, "frames 17 3"],
    rays: Float[np.ndarray, "frames 17 2"],
    fps: float,
    weights: Float[np.ndarray, "frames 17"],
    start: Float[np.ndarray, "frames 3"] | None = None,
    contacts: Float[np.ndarray, "frames 2"] | None = None,
    floor: tuple[Float[np.ndarray, "3"], float] | None = None,
    steps: int = 10,
) -> Float[np.ndarray, "frames 3"]:
    """The root's place in camera axes, metres, by least squares over the clip.

    rays: (pixels − centre) / focal. Errors of reprojection have a Cauchy loss, which discounts bad keypoints; the root
    accelerates little; a foot in contact (0 to 1) moves little and is at the height of the floor. floor: the vertical,
    and the height along it. Gauss-Newton from `start`, in `steps` steps: each solves one banded system, so that
    the time is proportional to the number of frames.
    """
    frames, path, second = len(poses), start, (1, -2, 1)
    for _ in range(steps):
        if path is None:  # with the measured rays in place of the reprojected ones, it is linear in the path
            origin, rays_now, loss = np.zeros((frames, 3)), rays, 1.0
            residual = rays * poses[..., 2:] - poses[..., :2]
        else:
            origin, placed = path, poses + path[:, None]
            depth = placed[..., 2:].clip(0.1)
            rays_now = placed[..., :2] / depth
            residual = (rays - rays_now) * depth  # metres
            loss = 1 / (1 + np.sum(residual**2, axis=-1) / (2 * REPROJECTION) ** 2)
        weight = weights * loss / (REPROJECTION**2 * max(1.0, CORRELATED * fps))
        slopes = np.zeros((*rays.shape, 3))  # of the projection, metres for metres
        slopes[..., 0, 0] = slopes[..., 1, 1] = 1
        slopes[..., 2] = -rays_now
        normal = np.einsum("fj,fjab,fjac->fbc", weight, slopes, slopes) + 1e-6 * np.eye(3)
        right = np.einsum("fj,fjab,fja->fb", weight, slopes, residual)
        if floor is not None:
            up, ground = floor
            below = ground - (poses[:, FEET] + origin[:, None]) @ up  # (frames, 2)
            weight = contacts / (1 + (below / UNEVEN) ** 2) / (UNEVEN**2 * max(1.0, CORRELATED * fps))
            normal += weight.sum(axis=1)[:, None, None] * np.outer(up, up)
            right += (weight * below).sum(axis=1)[:, None] * up
        right += np.einsum("fab,fb->fa", normal, origin)

        banded = np.zeros((9, frames, 3))  # [k, frame, axis]: k below the diagonal of the matrix
        for row in range(3):
            for column in range(row + 1):
                banded[row - column, :, column] += normal[:, row, column]
        for i in range(3):
            for j in range(i, 3):
                banded[3 * (j - i), i : max(0, frames - 2) + i] += second[i] * second[j] * fps**3 / ACCELERATION**2
        if contacts is not None:
            both = np.minimum(contacts[1:], contacts[:-1])[..., None] * fps / STANDING**2
            still, moved = both.sum(axis=1), (both * np.diff(poses[:, FEET], axis=0)).sum(axis=1)
            banded[0, :-1] += still
            banded[0, 1:] += still
            banded[3, :-1] -= still
            right[:-1] += moved
            right[1:] -= moved
        path = solveh_banded(banded.reshape(9, -1), right.reshape(-1), lower=True).reshape(-1, 3)
    return path


def vertical(*people: Float[np.ndarray, "frames 17 3"]) -> tuple[Float[np.ndarray, "3"], int]:
    """The direction up from the bodies, in the axes of the poses, and the number of frames with a standing person.

    A robust mean over these frames; the image's vertical if there are none.
    """
    up = np.concatenate([_upward(poses) for poses in people])
    if not len(up):
        return IMAGE_UP, 0
    mean = np.median(up, axis=0)
    for _ in range(10):
        mean /= np.linalg.norm(mean)
        mean = (up / (1 + np.sum((up - mean) ** 2, axis=-1, keepdims=True) / np.radians(10) ** 2)).sum(axis=0)
    return mean / np.linalg.norm(mean), len(up)


def _upward(poses: Float[np.ndarray, "frames 17 3"]) -> Float[np.ndarray, "standing 3"]:
    """The direction up from the body in each frame in which the person stands."""
    weights = np.zeros(17)
    for names, weight in UPWARD.items():
        joints = [human36m.joints.index(name) for name in names.split()]
        weights[joints] = weight / len(joints)
    up = np.einsum("j,fja->fa", weights, poses)
    up /= np.linalg.norm(up, axis=-1, keepdims=True).clip(1e-9)
    hip, knee, foot = (poses[:, LEGS[:, part]] for part in range(3))
    length = np.median(np.linalg.norm(knee - hip, axis=-1) + np.linalg.norm(foot - knee, axis=-1))
    straight = (np.linalg.norm(foot - hip, axis=-1) > STRAIGHT * length).any(axis=1)
    return up[straight & (up @ IMAGE_UP > np.cos(MOST_TILT))]


def contact(
    feet: Float[np.ndarray, "frames 2 3"], up: Float[np.ndarray, "3"], fps: float
) -> Float[np.ndarray, "frames 2"]:
    """The contact of each foot with the floor, 0 to 1."""
    if len(feet) == 1:
        return np.ones((1, 2))
    smooth, velocity = (
        gaussian_filter1d(values, 0.04 * fps, axis=0, mode="nearest") for values in (feet, np.gradient(feet, axis=0))
    )
    speed = np.linalg.norm(velocity, axis=-1) * fps
    slow = np.clip(JITTER * np.median(speed.min(axis=1)), *SLOW)
    height = smooth @ up
    above = (height - height.min(axis=1, keepdims=True) - LEVEL).clip(0)
    return np.exp(-above / LOW) / (1 + (speed / slow) ** 4)


def plane(
    feet: Sequence[Float[np.ndarray, "frames 2 3"]],
    contacts: Sequence[Bool[np.ndarray, "frames 2"]],
    up: Float[np.ndarray, "3"],
    tilt: float = TILT,
) -> tuple[Float[np.ndarray, "3"], float, Float[np.ndarray, "people"]]:
    """The vertical, turned such that all feet stand on one horizontal plane, its height, and the size of each person.

    feet, contacts: of each person. tilt: standard deviation of `up`, radians; 0 to keep it. Each stance counts once,
    with a Cauchy loss that discounts those on a step or a chair. Sizes are relative to the poses: a person at another
    size is at another distance, and a plane below the camera then at another height.
    """
    places, whose = [], []
    for person, (of_one, flags) in enumerate(zip(feet, contacts, strict=True)):
        spans = [(side, *span) for side in (0, 1) for span in _spans(flags[:, side])]
        places += [np.median(of_one[start:stop, side], axis=0) for side, start, stop in spans]
        whose += [person] * len(spans)
    if not places:
        return up, 0.0, np.ones(len(feet))
    places = np.array(places)
    across = np.linalg.svd(up[None])[2][1:]  # two directions of the floor
    # Unknown: the tilt along them, the height, and how much higher each person's plane is in the scale of the poses.
    of_whom = np.eye(len(feet))[whose]
    rows = np.column_stack([places @ across.T, np.full(len(places), -1), -of_whom])
    solution = np.array([0, 0, np.median(places @ up), *np.zeros(len(feet))])
    for _ in range(10):
        off = (places @ up + rows @ solution) / UNEVEN
        weight = 1 / (UNEVEN * np.sqrt(1 + off**2))
        spread = np.array([max(tilt, 1e-9)] * 2 + [np.inf] + [max(SIZES * abs(solution[2]), 1e-6)] * len(feet))
        system = np.concatenate([rows * weight[:, None], np.diag(1 / spread)])
        solution = np.linalg.lstsq(system, np.append(-places @ up * weight, np.zeros(len(spread))), rcond=None)[0]
    length = np.linalg.norm(up + solution[:2] @ across)
    heights = solution[2] + solution[3:]
    sizes = np.where(np.abs(heights) > 1e-6, solution[2] / np.where(heights == 0, 1, heights), 1)
    return (up + solution[:2] @ across) / length, float(solution[2] / length), sizes


def planted(
    poses: Float[np.ndarray, "frames 17 3"], contacts: Bool[np.ndarray, "frames 2"], fps: float
) -> Float[np.ndarray, "frames 17 3"]:
    """The poses with each foot in one place during a contact: the median of where it is.

    Between contacts the correction fades, so that nothing jumps. The knee follows, and thigh and shank keep their
    lengths: a place out of reach is met as far as the straight leg goes.
    """
    poses, frames = poses.copy(), np.arange(len(poses))
    for side, (hip, knee, foot) in enumerate(LEGS):
        shift = np.zeros((len(poses), 3))
        for start, stop in _spans(contacts[:, side]):
            shift[start:stop] = np.median(poses[start:stop, foot], axis=0) - poses[start:stop, foot]
        known = np.flatnonzero(contacts[:, side])
        if len(known):
            shift = np.stack([np.interp(frames, known, column[known]) for column in shift.T], axis=1)
            after = np.searchsorted(known, frames).clip(0, len(known) - 1)
            away = np.minimum(np.abs(frames - known[after]), np.abs(frames - known[(after - 1).clip(0)]))
            shift *= np.exp(-0.5 * (away / (FADE * fps)) ** 2)[:, None]
            poses[:, knee], poses[:, foot] = _reach(poses[:, hip], poses[:, knee], poses[:, foot], shift)
    return poses


def _reach(hip, knee, foot, shift):
    """Knee and foot, (frames, 3) each, of the leg that reaches for `foot + shift` from its hip."""
    thigh, shank = (np.linalg.norm(bone, axis=-1, keepdims=True) for bone in (knee - hip, foot - knee))
    goal = foot + shift - hip
    distance = np.linalg.norm(goal, axis=-1, keepdims=True)
    along = goal / distance.clip(1e-9)
    distance = distance.clip(np.abs(thigh - shank) + 1e-6, thigh + shank)
    # The leg turns as a whole by the smallest rotation that points it at the goal; the knee stays in the plane it was.
    bend = _shortest(foot - hip, goal).apply(knee - hip)
    bend -= np.sum(bend * along, axis=-1, keepdims=True) * along
    bend /= np.linalg.norm(bend, axis=-1, keepdims=True).clip(1e-9)
    cosine = ((thigh**2 + distance**2 - shank**2) / (2 * thigh * distance).clip(1e-9)).clip(-1, 1)
    return hip + thigh * (cosine * along + np.sqrt(1 - cosine**2) * bend), hip + distance * along


def _shortest(old, new) -> Rotation:
    """The smallest rotation that turns one direction, (…, 3), to another."""
    axis = np.cross(old, new)
    size = np.linalg.norm(axis, axis=-1, keepdims=True)
    return Rotation.from_rotvec(axis / size.clip(1e-12) * np.arctan2(size, np.sum(old * new, axis=-1, keepdims=True)))


def _lasting(flags: Bool[np.ndarray, "frames 2"], frames: int) -> Bool[np.ndarray, "frames 2"]:
    """The flags without breaks and runs of fewer than `frames` frames."""
    padded, brief = np.pad(flags, ((frames, frames), (0, 0)), mode="edge"), np.ones((frames, 1))
    return binary_opening(binary_closing(padded, brief), brief)[frames:-frames]


def _spans(flags: Bool[np.ndarray, "frames"]) -> list[list[int]]:
    """[start, stop] of each run of true values."""
    return np.flatnonzero(np.diff(flags, prepend=False, append=False)).reshape(-1, 2).tolist()
