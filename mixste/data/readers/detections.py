"""The detections in a clip: tracks people, converts a detector's points to joints, and fills gaps."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from mixste.io import DataError
from mixste.skeleton import human36m

MIN_SCORE = 0.05  # a point with a lower score counts as not detected


def _sides(*names: str) -> tuple[str, ...]:
    """The left and right one of each."""
    return tuple(side + name for name in names for side in "LR")


_COCO = ("Nose", *_sides("Eye", "Ear", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle"))
_ARMS = tuple(side + name for side in "RL" for name in ("Shoulder", "Elbow", "Wrist"))
_LEGS = tuple(side + name for side in "RL" for name in ("Hip", "Knee", "Ankle"))
_FACE = ("REye", "LEye", "REar", "LEar")
_FEET = tuple(side + name for side in "LR" for name in ("BigToe", "SmallToe", "Heel"))

# The points of each layout in order; names that no joint of human36m is made of only keep the place.
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
# The layout assumed for a number of points.
BY_COUNT = {17: "coco17", 18: "body18", 25: "body25", 26: "halpe26", 33: "mediapipe33"}

# Each joint of human36m as weighted points of a detector, by the first row whose points are all detected. A row of one
# point is that point; the others are estimates, since most detectors have no hip centre, thorax or head top, and none
# has the spine, which is put halfway from hip to thorax. Human3.6M's thorax is the base of the neck, a few centimetres
# above the middle of the shoulders; its "Neck" is at the nose. The head top is 1.5 times as far from the shoulders as
# the middle of the head, for which ears, eyes or nose stand, whichever is detected.


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


# Other names of points, in the spelling of `_normalized`. Detectors' "head" is the top of the head.
_ALIASES = {
    **dict.fromkeys(("hip", "hips", "pelvis", "root", "hipcenter", "centerhip", "hipcentre"), "MidHip"),
    **dict.fromkeys(("upperneck", "neckbase"), "Neck"),
    **dict.fromkeys(("head", "topofhead", "tophead"), "HeadTop"),
}
_POINTS = {point.lower(): point for names in LAYOUTS.values() if names is not human36m.joints for point in names}
_POINTS |= {point.lower(): point for rows in MADE_OF.values() for row in rows for point in row}
# Some of Human3.6M's names mean another place in other layouts; they apply only if all seventeen are present.
_HUMAN36M = {joint.lower(): joint for joint in human36m.joints} | {
    **dict.fromkeys(("hips", "pelvis", "root", "midhip"), "Hip"),
    **{f"{side.lower()}ankle": f"{side}Foot" for side in "LR"},
    **dict.fromkeys(("torso", "belly"), "Spine"),
    **dict.fromkeys(("chest", "upperchest"), "Thorax"),
    **dict.fromkeys(("neckbase", "nose", "necknose", "jaw"), "Neck"),
    **dict.fromkeys(("headtop", "site"), "Head"),
}


def canonical_names(names: Iterable) -> tuple[str, ...]:
    """Names of points in the spelling of LAYOUTS and `MADE_OF`; unknown names are kept.

    "left_shoulder", "ShoulderLeft" and "L Shoulder" become "LShoulder". Raises DataError for a point named twice.
    """
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names)
    spellings = [_normalized(name) for name in names]
    joints = [_HUMAN36M.get(name, "") for name in spellings]
    if sorted(joints) == sorted(human36m.joints):
        return tuple(joints)
    points = [_POINTS.get(name, "") for name in spellings]
    for place, point in enumerate(points):
        if point and point in points[:place]:
            raise DataError(f"expected every point once, found {names[points.index(point)]!r} and {names[place]!r}")
    for place, name in enumerate(spellings):
        alias = _ALIASES.get(name, "")
        # A file may have both a neck and an upper neck.
        points[place] = points[place] or (alias if alias not in points else "") or names[place]
    return tuple(points)


def _normalized(name: str) -> str:
    """A name in lower case without separators, with the side as its first letter: "lshoulder"."""
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
    """A detector's points, NaN if not detected, as the joints of human36m by `MADE_OF`, NaN if no row applies."""
    if set(names) == set(human36m.joints):
        return points[:, [names.index(joint) for joint in human36m.joints]]
    joints = np.full((len(points), 17, points.shape[2]), np.nan)
    hip, spine, thorax = (human36m.joints.index(name) for name in ("Hip", "Spine", "Thorax"))
    for name, rows in MADE_OF.items():
        joint = joints[:, human36m.joints.index(name)]
        for row in rows:
            if set(row) <= set(names):
                estimate = sum(weight * points[:, names.index(point)] for point, weight in row.items())
                np.copyto(joint, estimate, where=np.isnan(joint))
    joints[:, spine] = (joints[:, hip] + joints[:, thorax]) / 2
    return joints


@dataclass(frozen=True, eq=False)
class Detections:
    """Everyone detected in one clip.

    names: of the points, as in LAYOUTS. people: for each frame (people, points, 3): x and y in pixels and the score, 0
    if not detected. resolution: width, height in pixels. fps: None if unknown. ids: of those people, if the detector
    tracked them; None for a person that it did not track. notes: assumptions made in reading, a sentence each. focal:
    the camera's focal length in pixels, if the file has it.
    """

    name: str
    names: tuple[str, ...]
    people: list[Float[np.ndarray, "_ points 3"]]
    resolution: tuple[int, int]
    fps: float | None = None
    ids: list[list[str | None]] | None = None
    notes: tuple[str, ...] = ()
    focal: float | None = None

    @cached_property
    def tracks(self) -> list[tuple[Int[np.ndarray, "seen"], Float[np.ndarray, "seen points 2"]]]:
        """Each person, the most prominent first: the frames with a detected point, and the points, NaN if not detected.

        Prominent is who is large and long in view: by the median size times the number of frames. People are tracked
        by the detector's ids where they are unique in a frame, otherwise by their last position and velocity.
        """
        frames = np.repeat(np.arange(len(self.people)), [len(people) for people in self.people])
        points = np.concatenate([np.zeros((0, len(self.names), 3)), *self.people])
        ids = [name for names in self.ids for name in names] if self.ids else [None] * len(points)
        points = np.where(points[..., 2:] >= MIN_SCORE, points[..., :2], np.nan)  # (all, points, 2)
        visible = np.flatnonzero(np.isfinite(points).all(axis=-1).any(axis=-1))
        frames, points, ids = frames[visible], points[visible], [ids[number] for number in visible]
        sizes = _sizes(points).clip(max=np.linalg.norm(self.resolution))
        tracks = _tracks(frames, points, sizes, ids)
        # Equal ones stay in the order of their first appearance.
        ranked = sorted(tracks, key=lambda track: -len(track) * float(np.median(sizes[track])))
        return [(frames[track], points[track]) for track in ranked]


# A track without a detection is kept for as many frames as it is long, within these bounds: a false detection is soon
# dropped, which also keeps the work linear in the length of the clip.
KEPT_FRAMES = (15, 60)
PART = 10_000  # frames at a time
NEAR = 0.5  # body sizes: the next detection within this distance is the same person
STEPS, AHEAD = 5, 10  # detections that give the velocity of a track, and frames at most for which it is extrapolated


def follow(detections: Detections, person: int = 0) -> tuple[Float[np.ndarray, "frames points 2"], int]:
    """The points of one person throughout the clip, NaN if not detected, and the number of people in it.

    person: 0 for the most prominent, 1 for the next, and so on, see `Detections.tracks`. Raises DataError if there are
    fewer people.
    """
    people = detections.tracks
    if not people:
        raise DataError(f"{detections.name}: expected a person, found nobody with a detected point in any frame")
    if not 0 <= person < len(people):
        raise DataError(
            f"{detections.name}: expected person {person}, found {len(people)} in the clip, numbered from 0"
        )
    frames, points = people[person]
    tracked = np.full((len(detections.people), len(detections.names), 2), np.nan)
    tracked[frames] = points
    return tracked, len(people)


def jumps(points: Float[np.ndarray, "frames points 2"]) -> Int[np.ndarray, "jumps"]:
    """The frames at which a person is farther than NEAR from where they were in the frame before; NaN: not detected."""
    found = []
    for start in range(0, len(points), PART):  # a long clip at once would take much memory
        part = points[start : start + PART + 1]
        apart = _mean(np.linalg.norm(part[1:] - part[:-1], axis=-1))
        sizes = _sizes(part)
        usual = np.median(sizes[np.isfinite(sizes)]) if np.isfinite(sizes).any() else 0  # that of a single point is 0
        at = np.flatnonzero(apart > NEAR * np.maximum(sizes[1:], sizes[:-1]).clip(min=usual))
        found.append(start + 1 + at)
    return np.concatenate([np.zeros(0, int), *found])


def side(points: Float[np.ndarray, "*many 2"], width: float) -> str:
    """On which third of the image most points are, in words. NaN are not counted."""
    middle = np.nanmedian(points[..., 0]) / width
    return "on the left" if middle < 1 / 3 else "in the middle" if middle < 2 / 3 else "on the right"


def _tracks(
    frames: Int[np.ndarray, "all"],
    points: Float[np.ndarray, "all points 2"],
    sizes: Float[np.ndarray, "all"],
    ids: Sequence[str | None],
) -> list[list[int]]:
    """The rows of each person, in the order of their first appearance."""
    tracks: list[list[int]] = []
    by_id: dict[str, list[int]] = {}
    open_tracks: list[list[int]] = []  # those without ids that may continue
    when = frames.tolist()
    starts, ends = np.flatnonzero(np.diff(frames, prepend=-1)), np.flatnonzero(np.diff(frames, append=-1)) + 1
    spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
    crowds = [[name for name in ids[start:stop] if name is not None] for start, stop in spans if stop - start > 1]
    if sum(len(set(names)) < len(names) for names in crowds) > 0.5 * len(crowds):
        ids = [None] * len(ids)  # one id for everybody, as of a program without tracking
    for start, stop in spans:
        names = ids[start:stop]
        nameless = []
        for row, name in enumerate(names, start):
            if name is None or names.count(name) > 1:
                nameless.append(row)
            elif name in by_id:
                by_id[name].append(row)
            else:
                tracks.append(by_id.setdefault(name, [row]))
        if not nameless:
            continue
        least, most = KEPT_FRAMES
        open_tracks = [
            track for track in open_tracks if when[start] - when[track[-1]] <= min(max(least, len(track)), most)
        ]
        for row, track in zip(nameless, _continued(open_tracks, frames, points, sizes, nameless), strict=True):
            if track is None:
                tracks.append([row])
                open_tracks.append(tracks[-1])
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
    """The track that each row continues, the nearest within NEAR; None for a new track. All rows are of one frame.

    Tracks are extrapolated by their velocity; otherwise people who pass each other would be swapped.
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
    nearest: list[list[int] | None] = [None] * len(rows)
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if cost[row, column] < NEAR:
            nearest[column] = tracks[row]
    return nearest


def _mean(values: Float[np.ndarray, "*shape points"]) -> Float[np.ndarray, "*shape"]:
    """The mean over finite points; 0 without any."""
    finite = np.isfinite(values)
    return np.where(finite, values, 0).sum(axis=-1) / np.maximum(finite.sum(axis=-1), 1)


def _sizes(points: Float[np.ndarray, "all points 2"]) -> Float[np.ndarray, "all"]:
    """Diagonal of the box around each person's detected points, pixels."""
    finite = np.isfinite(points)
    highest, lowest = np.where(finite, points, -np.inf).max(axis=1), np.where(finite, points, np.inf).min(axis=1)
    return np.linalg.norm(highest - lowest, axis=-1)


def fill_gaps(
    points: Float[np.ndarray, "frames points 2"], limit: int | None = None
) -> Float[np.ndarray, "frames points 2"]:
    """Fill gaps (NaN) of at most `limit` frames by linear interpolation, all gaps if limit is None.

    At the ends of the clip, points stay at their first or last detection.
    """
    filled = points.copy()
    frames = np.arange(len(points))
    for joint in filled.swapaxes(0, 1):  # (frames, 2)
        detected = np.isfinite(joint[:, 0])
        if not detected.any():
            continue
        gap = np.cumsum(detected)  # the number of detections before a frame is the index of its gap
        lengths = np.bincount(gap[~detected], minlength=gap[-1] + 1)
        short = ~detected & (lengths[gap] <= (len(points) if limit is None else limit))
        for axis in range(2):
            joint[short, axis] = np.interp(frames[short], frames[detected], joint[detected, axis])
    return filled
