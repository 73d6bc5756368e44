"""What a 2D detector saw in a clip: who is who, which point is which joint, and what it missed."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from mixste.data import DataError
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


def to_human36m(
    points: Float[np.ndarray, "frames points axes"], names: tuple[str, ...]
) -> Float[np.ndarray, "frames 17 axes"]:
    """A detector's points, NaN where unseen, as the joints of human36m by `MADE_OF`, NaN where no row of it is seen."""
    if names == human36m.joints:
        return points
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
    people, where the detector followed them through the clip.
    """

    name: str
    names: tuple[str, ...]
    people: list[Float[np.ndarray, "_ points 3"]]
    resolution: tuple[int, int]
    fps: float | None = None
    ids: list[list[str]] | None = None


def follow(detections: Detections, person: int = 0) -> tuple[Float[np.ndarray, "frames points 2"], int]:
    """One person through the clip, NaN where unseen, and how many there are to choose from.

    person: 0 for the most prominent, the largest and longest seen together; 1 for the next. People are told apart by
    the detector's ids where it gave every one its own, else by where they were last seen. DataError if there are fewer.
    """
    ids = detections.ids or [[] for _ in detections.people]
    told = all(len(set(names)) == len(people) for names, people in zip(ids, detections.people, strict=True))
    tracks: dict[object, dict[int, np.ndarray]] = {}  # (points, 2) of each person by frame
    for frame, people in enumerate(detections.people):
        visible = [number for number, one in enumerate(people) if (one[:, 2] >= SEEN).any()]
        people = [np.where(people[number][:, 2:] >= SEEN, people[number][:, :2], np.nan) for number in visible]
        names = [ids[frame][number] for number in visible] if told else _matched(tracks, people)
        for name, one in zip(names, people, strict=True):
            tracks.setdefault(name, {})[frame] = one
    # Equal ones stay in the order of their first appearance.
    ranked = sorted(tracks.values(), key=lambda track: -sum(map(_size, track.values())))
    if not 0 <= person < len(ranked):
        raise DataError(f"{detections.name}: expected a person {person}, found {len(ranked)} people, counted from 0")
    points = np.full((len(detections.people), len(detections.names), 2), np.nan)
    for frame, one in ranked[person].items():
        points[frame] = one
    return points, len(ranked)


def _matched(tracks: dict, people: list[Float[np.ndarray, "points 2"]]) -> list[int]:
    """The track that each person continues, the nearest within half a body's size, or else a new one."""
    last = {name: track[max(track)] for name, track in tracks.items()}
    far = 0.5
    cost = np.full((len(last), len(people)), far)
    for row, one in enumerate(last.values()):
        for column, other in enumerate(people):
            apart = np.linalg.norm(one - other, axis=-1)
            if np.isfinite(apart).any():
                cost[row, column] = min(far, np.nanmean(apart) / max(_size(one), 1e-9))
    names = [max(tracks, default=-1) + 1 + column for column in range(len(people))]
    for row, column in zip(*linear_sum_assignment(cost), strict=True):
        if cost[row, column] < far:
            names[column] = list(last)[row]
    return names


def _size(points: Float[np.ndarray, "points 2"]) -> float:
    """Diagonal of the box around a person's seen points, pixels."""
    seen = points[np.isfinite(points[:, 0])]
    return float(np.linalg.norm(np.ptp(seen, axis=0))) if len(seen) else 0.0


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
