"""The files of other people's 2D detectors, one module a kind of file; `formats.read` chooses among them."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

# Points that a person has in the layouts known, whole bodies included; tells triples from pairs where a file does not.
COUNTS = (17, 18, 25, 26, 33, 133, 136)

# What programs call the score of a point, and a list of scores beside the points.
SCORE = (
    *("visibility", "score", "confidence", "conf", "likelihood", "inFrameLikelihood", "visible", "vis", "presence"),
    *("probability", "prob"),
)
SCORES = ("keypoint_scores", "keypoints_scores", "scores", "confidences", *SCORE)


@dataclass
class Raw:
    """What a file holds, before anything is concluded from the numbers themselves.

    people: for each frame (people, points, 3): x and y in the file's unit, and the score, 1 where the file has none.
    names: the file's own, of its points. ids: of the people, None for whom the file has none. kind: "openpose", "coco",
    "mediapipe", "array" or "table". notes: sentences on what was guessed so far.
    """

    kind: str
    people: list[Float[np.ndarray, "_ points 3"]]
    names: tuple[str, ...] | None = None
    ids: list[list[str | None]] | None = None
    resolution: tuple[int, int] | None = None
    fps: float | None = None
    notes: list[str] = field(default_factory=list)


def by_frame(people: Float[np.ndarray, "all points 3"], counts: Iterable[int]) -> list[np.ndarray]:
    """Everyone, of whom there are so many in each frame, frame by frame."""
    ends = list(itertools.accumulate(counts))
    return [people[start:end] for start, end in itertools.pairwise([0, *ends])]


def points_a_row(lengths: set[int], count: int | None) -> int:
    """How many numbers a point has in rows of so many numbers, 2 or 3; 0 if neither fits. count: points expected."""
    counts = COUNTS if count is None else (count,)
    for numbers in (3, 2):
        if all(length % numbers == 0 and length // numbers in counts for length in lengths):
            return numbers
    return next((numbers for numbers in (3, 2) if all(length % numbers == 0 for length in lengths)), 0)
