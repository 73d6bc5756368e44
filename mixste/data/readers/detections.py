"""What a 2D detector saw in a clip: who is who, which point is which joint, and what it missed."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from mixste.io import DataError
from mixste.skeleton import human36m

SEEN = 0.05  # a point with a lower score counts as unseen


def _sides(*names: str) -> tuple[str, ...]:
    """Left and right of each."""
    return tuple(side + name for name in names for side in "LR")


_COCO = ("Nose", *_sides("Eye", "Ear", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"))
_ARMS = tuple(side + name for side in "RL" for name in ("Shoulder", "Elbow", "Wrist"))
_LEGS = tuple(side + name for side in "RL" for name in ("Hip", "Knee", "Ankle"))
_FACE = ("REye", "LEye", "REar", "LEar")
_FEET = tuple(side + name for side in "LR" for name in ("BigToe", "SmallToe", "Heel"))

# Which point of a detector is which; points that human36m has no use for are only counted.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "human36m": human36m.joints,
    "coco17": _COCO,
    "body18": ("Nose", "Neck", *_ARMS, *_LEGS, *_FACE),
    "body25": ("Nose", "Neck", *_ARMS, "MidHip", *_LEGS, *_FACE, *_FEET),
    "body25b": (*_COCO, "Neck", "HeadTop", *_FEET),
    "halpe26": (*_COCO, "HeadTop", "Neck", "MidHip", *_sides("BigToe", "SmallToe", "Heel")),
    "mediapipe33": (
        "Nose",
        *("LEyeInner", "LEye", "LEyeOuter", "REyeInner", "REye", "REyeOuter", "LEar", "REar", "LMouth", "RMouth"),
        *_sides("Shoulder", "Elbow", "Wrist", "Pinky", "Index", "Thumb", "Hip", "Knee", "Ankle", "Heel", "FootIndex"),
    ),
}
# The layout meant by a number of points alone.
BY_COUNT = {17: "coco17", 18: "body18", 25: "body25", 26: "halpe26", 33: "mediapipe33"}

# Each joint of human36m as weighted points of a detector, by the first row of which every point is seen. A row of one
# point is that point; the others are made up, since detectors have mostly no hip centre, thorax or head top, and none
# has the spine: it is put halfway from hip to thorax. Human3.6M's thorax is the base of the neck, a few centimetres
# above the middle of the shoulders; its "Neck" is at the nose. The head top lies half as far again from the shoulders
# as the middle of the head, for which ears, eyes or nose stand, whichever is seen.


def _beyond(*points: str) -> dict[str, float]:
    return {**dict.fromkeys(points, 1.5 / len(points)), "LShoulder": -0.25, "RShoulder": -0.25}


MADE_OF: dict[str, tuple[dict[str, float], ...]] = {
    "Hip": ({"MidHip": 1.0}, {"LHip": 0.5, "RHip": 0.5}),
    **{joint: ({joint: 1.0},) for joint in ("RHip", "RKnee", "LHip", "LKnee")},
    "RFoot": ({"RAnkle": 1.0},),
    "LFoot": ({"LAnkle": 1.0},),
    "Thorax": ({"Neck": 1.0}, {"LShoulder": 0.5, "RShoulder": 0.5}),
    "Neck": ({"Nose": 1.0}, {"LEar": 0.5, "REar": 0.5}, {"LEar": 1.0}, {"REar": 1.0}),
    "Head": (
        *({"HeadTop": 1.0}, _beyond("LEar", "REar"), _beyond("LEye", "REye")),
        *(_beyond("LEar"), _beyond("REar"), _beyond("Nose")),
    ),
    **{side + name: ({side + name: 1.0},) for side in "LR" for name in ("Shoulder", "Elbow", "Wrist")},
}


# Other names of points, as `_spelt` writes them. "Head" is the top of the head wherever detectors use the word.
_ALIASES = {
    **dict.fromkeys(("hip", "hips", "pelvis", "root", "hipcenter", "centerhip", "hipcentre"), "MidHip"),
    **dict.fromkeys(("upperneck", "neckbase"), "Neck"),
    **dict.fromkeys(("head", "topofhead", "tophead"), "HeadTop"),
}
_KNOWN = {point.lower(): point for names in LAYOUTS.values() if names is not human36m.joints for point in names}
_KNOWN |= {point.lower(): point for rows in MADE_OF.values() for row in rows for point in row}
# Human3.6M's joints have names that mean another place elsewhere; they are meant where all seventeen are there.
_HUMAN36M = {joint.lower(): joint for joint in human36m.joints} | {
    **dict.fromkeys(("hips", "pelvis", "root", "midhip"), "Hip"),
    **{f"{side.lower()}ankle": f"{side}Foot" for side in "LR"},
    **dict.fromkeys(("torso", "belly"), "Spine"),
    **dict.fromkeys(("chest", "upperchest"), "Thorax"),
    **dict.fromkeys(("neckbase", "nose", "necknose", "jaw"), "Neck"),
    **dict.fromkeys(("headtop", "site"), "Head"),
}


def known(names: Iterable) -> tuple[str, ...]:
    """Names of points as LAYOUTS and `MADE_OF` have them; those that mean nothing here stay as they are.

    "left_shoulder", "ShoulderLeft", "L Shoulder" and "LShoulder" are one. Raises DataError for a point named twice.
    """
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
    spelt = [_spelt(name) for name in names]
    joints = [_HUMAN36M.get(name, "") for name in spelt]
    if sorted(joints) == sorted(human36m.joints):
        return tuple(joints)
    points = [_KNOWN.get(name, "") for name in spelt]
    for place, point in enumerate(points):
        if point and point in points[:place]:
            raise DataError(f"expected every point once, found {names[points.index(point)]!r} and {names[place]!r}")
    for place, name in enumerate(spelt):
        alias = _ALIASES.get(name, "")
        # A file may have both a neck and an upper neck.
        points[place] = points[place] or (alias if alias not in points else "") or names[place]
    return tuple(points)


def _spelt(name: str) -> str:
    """A name without case and separators, its side as one letter in front: "lshoulder"."""
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    for place in (0, -1):
        if len(words) > 1 and words[place] in ("left", "right", "l", "r"):
            return words.pop(place)[0] + "".join(words)
    plain = "".join(words)
    for side in ("left", "right"):
        if plain.startswith(side):
            return side[0] + plain.removeprefix(side)
        if plain.endswith(side):
            return side[0] + plain.removesuffix(side)
    return plain


def to_human36m(
    points: Float[np.ndarray, "frames points axes"], names: tuple[str, ...]
) -> Float[np.ndarray, "frames 17 axes"]:
    """A detector's points, NaN where unseen, as the joints of human36m by `MADE_OF`, NaN where no row of it is seen."""
    if set(names) == set(human36m.joints):
        return points[:, [names.index(joint) for joint in human36m.joints]]
    joints = np.full((len(points), 17, points.shape[2]), np.nan)
    hip, spine, thorax = (human36m.joints.index(name) for name in ("Hip", "Spine", "Thorax"))
    for name, rows in MADE_OF.items():
        joint = joints[:, human36m.joints.index(name)]
        for row in rows:
            if set(row) <= set(names):
                made = sum(weight * points[:, names.index(point)] for point, weight in row.items())
                np.copyto(joint, made, where=np.isnan(joint))
    joints[:, spine] = (joints[:, hip] + joints[:, thorax]) / 2
    return joints


@dataclass(frozen=True, eq=False)
class Detections:
    """Everyone a detector saw in one clip.

    names: of the points, as in LAYOUTS. people: for each frame (people, points, 3), x and y in pixels and the
    detector's score, 0 where unseen. resolution: width, height in pixels. fps: None where unknown. ids: of those
    people, where the detector followed them through the clip; None for whom it did not. notes: sentences on what was
    guessed in reading.
    """

    name: str
    names: tuple[str, ...]
    people: list[Float[np.ndarray, "_ points 3"]]
    resolution: tuple[int, int]
    fps: float | None = None
    ids: list[list[str | None]] | None = None
    notes: tuple[str, ...] = ()


# A person out of sight is looked for where they were last seen for as many frames as they had been in view, within
# these bounds: a false detection is soon forgotten, which also keeps the work linear in the length of the clip.
REMEMBERED = (15, 60)
NEAR = 0.5  # of a body's size, within which the next detection is the same person
STEPS, AHEAD = 5, 10  # detections that tell how someone moves, and frames at most that they are thought to go on so


def follow(detections: Detections, person: int = 0) -> tuple[Float[np.ndarray, "frames points 2"], int]:
    """One person through the clip, NaN where unseen, and how many there are to choose from.

    person: 0 for the most prominent, by the median size times the number of frames in view; 1 for the next. People are
    told apart by the detector's ids where it gave each one of a frame its own, else by where they were last seen and
    how they moved.
    DataError if there are fewer.
    """
    frames = np.repeat(np.arange(len(detections.people)), [len(people) for people in detections.people])
    points = np.concatenate([np.zeros((0, len(detections.names), 3)), *detections.people])
    ids = [name for names in detections.ids for name in names] if detections.ids else [None] * len(points)
    points = np.where(points[..., 2:] >= SEEN, points[..., :2], np.nan)  # (all, points, 2)
    visible = np.flatnonzero(np.isfinite(points).all(axis=-1).any(axis=-1))
    frames, points, ids = frames[visible], points[visible], [ids[number] for number in visible]
    sizes = _sizes(points).clip(max=np.linalg.norm(detections.resolution))
    tracks = _tracks(frames, points, sizes, ids)
    # Equal ones stay in the order of their first appearance.
    ranked = sorted(tracks, key=lambda track: -len(track) * float(np.median(sizes[track])))
    if not 0 <= person < len(ranked):
        raise DataError(f"{detections.name}: expected a person {person}, found {len(ranked)} people, counted from 0")
    track = ranked[person]
    followed = np.full((len(detections.people), len(detections.names), 2), np.nan)
    followed[frames[track]] = points[track]
    return followed, len(ranked)


def _tracks(
    frames: Int[np.ndarray, "all"],
    points: Float[np.ndarray, "all points 2"],
    sizes: Float[np.ndarray, "all"],
    ids: Sequence[str | None],
) -> list[list[int]]:
    """Whose detections are whose: the rows of each person, in the order of their first appearance."""
    tracks: list[list[int]] = []
    named: dict[str, list[int]] = {}
    lost: list[list[int]] = []  # those without ids that may still come back
    when = frames.tolist()
    starts, ends = np.flatnonzero(np.diff(frames, prepend=-1)), np.flatnonzero(np.diff(frames, append=-1)) + 1
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    crowds = [[name for name in ids[start:stop] if name is not None] for start, stop in spans if stop - start > 1]
    if sum(len(set(names)) < len(names) for names in crowds) > 0.5 * len(crowds):
        ids = [None] * len(ids)  # one name for everybody, as of a program that did not follow people
    for start, stop in spans:
        names = ids[start:stop]
        nameless = []
        for row, name in enumerate(names, start):
            if name is None or names.count(name) > 1:
                nameless.append(row)
            elif name in named:
                named[name].append(row)
            else:
                tracks.append(named.setdefault(name, [row]))
        if not nameless:
            continue
        least, most = REMEMBERED
        lost = [track for track in lost if when[start] - when[track[-1]] <= min(max(least, len(track)), most)]
        for row, track in zip(nameless, _continued(lost, frames, points, sizes, nameless), strict=True):
            if track is None:
                tracks.append([row])
                lost.append(tracks[-1])
            else:
                track.append(row)
    return sorted(tracks, key=lambda track: track[0])


def _continued(
    tracks: list[list[int]],
    frames: Int[np.ndarray, "all"],
    points: Float[np.ndarray, "all points 2"],
    sizes: Float[np.ndarray, "all"],
    rows: list[int],
) -> list[list[int] | None]:
    """The track that each row, all of one frame, continues, the nearest one within NEAR; None where there is none.

    Those who move are expected where they would be by now, or people who pass each other would be swapped.
    """
    last = [track[-1] for track in tracks]
    before = [track[max(-STEPS, -len(track))] for track in tracks]
    steps = (
        _mean((points[last] - points[before]).swapaxes(1, 2)) / np.maximum(frames[last] - frames[before], 1)[:, None]
    )
    ahead = steps * np.minimum(frames[rows[0]] - frames[last], AHEAD)[:, None]
    apart = np.linalg.norm((points[last] + ahead[:, None])[:, None] - points[rows], axis=-1)  # (tracks, rows, points)
    common = np.isfinite(apart)
    mean = _mean(apart)
    cost = np.where(common.any(axis=-1), mean / np.maximum(sizes[last], 1e-9)[:, None], np.inf).clip(max=NEAR)
    continued: list[list[int] | None] = [None] * len(rows)
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if cost[row, column] < NEAR:
            continued[column] = tracks[row]
    return continued


def _mean(values: Float[np.ndarray, "*shape points"]) -> Float[np.ndarray, "*shape"]:
    """Over the points that are there; 0 of none."""
    there = np.isfinite(values)
    return np.where(there, values, 0).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)


def _sizes(points: Float[np.ndarray, "all points 2"]) -> Float[np.ndarray, "all"]:
    """Diagonal of the box around each person's seen points, pixels."""
    seen = np.isfinite(points)
    highest, lowest = np.where(seen, points, -np.inf).max(axis=1), np.where(seen, points, np.inf).min(axis=1)
    return np.linalg.norm(highest - lowest, axis=-1)


def fill_gaps(
    points: Float[np.ndarray, "frames points 2"], limit: int | None = None
) -> Float[np.ndarray, "frames points 2"]:
    """Points unseen (NaN) for at most `limit` frames, on the straight line between where they were seen.

    At the clip's ends they stay where they were seen first or last. Longer gaps stay; limit None: none does.
    """
    filled = points.copy()
    frames = np.arange(len(points))
    for joint in filled.swapaxes(0, 1):  # (frames, 2)
        seen = np.isfinite(joint[:, 0])
        if not seen.any():
            continue
        # Each frame's gap is counted by how many frames were seen before it.
        gap = np.cumsum(seen)
        short = ~seen & (
            np.bincount(gap[~seen], minlength=gap[-1] + 1)[gap] <= (len(points) if limit is None else limit)
        )
        for axis in range(2):
            joint[short, axis] = np.interp(frames[short], frames[seen], joint[seen, axis])
    return filled
