"""Readers of motion capture and of 2D detections, one module per kind of file.

`formats.read` chooses among those of detections.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

# Points per person in the known layouts, whole bodies included; tells (x, y, score) from (x, y) if a file does not.
COUNTS = (17, 18, 25, 26, 33, 133, 136)

# Names that programs use for the score of a point, and for a list of scores next to the points.
SCORE = (
    *("visibility", "score", "confidence", "conf", "likelihood", "inFrameLikelihood", "visible", "vis", "presence"),
    *("probability", "prob"),
)
SCORES = ("keypoint_scores", "keypoints_scores", "scores", "confidences", *SCORE)


@dataclass
class Raw:
    """The content of a file, before anything is inferred from the numbers themselves.

    people: for each frame (people, points, 3): x and y in the file's unit, and the score, 1 if the file has none.
    names: of the points, if the file has them. ids: of the people, None for those without. kind: "openpose", "coco",
    "mediapipe", "array" or "table". notes: assumptions made so far, a sentence each.
    """

    kind: str
    people: list[Float[np.ndarray, "_ points 3"]]
    names: tuple[str, ...] | None = None
    ids: list[list[str | None]] | None = None
    resolution: tuple[int, int] | None = None
    fps: float | None = None
    notes: list[str] = field(default_factory=list)
    focal: float | None = None


def by_frame(people: Float[np.ndarray, "all points 3"], counts: Iterable[int]) -> list[np.ndarray]:
    """All people, frame by frame; counts: the number of people in each frame."""
    ends = list(itertools.accumulate(counts))
    return [people[start:end] for start, end in itertools.pairwise([0, *ends])]


def values_per_point(lengths: set[int], count: int | None) -> int:
    """Values per point in rows of these lengths; 0 if none fits. count: points per person, if known.

    2, 3, or 4 where a depth precedes the score, as in MediaPipe's.
    """
    counts = COUNTS if count is None else (count,)
    for numbers in (3, 2, 4):
        if all(length % numbers == 0 and length // numbers in counts for length in lengths):
            return numbers
    return next((numbers for numbers in (3, 2) if all(length % numbers == 0 for length in lengths)), 0)
