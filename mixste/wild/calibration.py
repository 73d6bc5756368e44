"""The file NAME.json beside weights: the ranges of the keypoints that they were trained on, and bands of their errors.

A band is a ball around a lifted joint, relative to the hip, that holds the true joint in 90 % of frames, joints and
people like those of the calibration. Its radius is

    quantile · √(spread² + (WEIGHT · disagreement)²)

where spread is the joint's root-mean-square error in the calibration, and disagreement how far the lifting of a frame
and that of its mirror image are apart, root-mean-square over the joints. The quantile is that of the errors in units of
the root (split conformal prediction), each person weighing the same. People are exchangeable, the frames of one person
are not independent, and a quantile of a few people at 90 % covers less than 90 % of the next one. So its level is the
lowest of 90 % and more at which each person, by the bands of the others, is covered in 90 % on average. Coverage is
measured on other people: `tools/calibrate.py` writes the file and the table of the model card.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.guard import guarded, read_json
from mixste.io.weights import digest_of
from mixste.predict import predict
from mixste.skeleton import human36m, mirrored
from mixste.wild.quality import USUAL, Ranges

COVERAGE = 0.9
LEVELS = (*np.arange(0.9, 0.99, 0.005).round(3), 0.99)  # of the quantile
WEIGHT = 3.0  # of the disagreement; chosen on the people of the calibration of open-small, by leaving one out


@dataclass(frozen=True)
class Bands:
    """The bands of a network's errors.

    people, keypoints: whom they were calibrated on, and by which detectors. spread: of each joint, metres. quantile: of
    each joint, in units of the root.
    """

    people: tuple[str, ...]
    keypoints: tuple[str, ...]
    spread: tuple[float, ...]
    quantile: tuple[float, ...]

    def radii(self, disagreement: Float[np.ndarray, "frames"]) -> Float[np.ndarray, "frames 17"]:
        """The radius around each joint, metres; 0 for the hip."""
        return np.array(self.quantile) * _scale(np.array(self.spread), disagreement)

    def validity(self) -> str:
        """What the bands mean, and what they are not valid for, in a sentence."""
        videos = "" if "mediapipe" in self.keypoints else "those of MediaPipe, as of videos, "
        return (
            f"bands: in {100 * COVERAGE:.0f} % of cases the true joint, relative to the hip, is within that radius, "
            f"for adults and keypoints like those of the calibration, from a simulated {' or '.join(self.keypoints)}; "
            f"not for {videos}those that are filled in or swapped, nor for the path"
        )


@dataclass(frozen=True)
class Calibration:
    """The calibration of weights: their ranges, and `bands`, None where errors were not calibrated.

    note: a sentence on a file that was ignored.
    """

    ranges: Ranges = USUAL
    bands: Bands | None = None
    note: str = ""

    @classmethod
    def of(cls, model: nn.Module) -> "Calibration":
        """The calibration in the file beside the network's weights, see `beside`; the default for new weights."""
        weights = getattr(model, "file", None)
        return cls.beside(weights) if weights else cls()

    @classmethod
    def beside(cls, weights: Path) -> "Calibration":
        """The calibration in the file beside weights; the default if there is none.

        A file that does not name these weights is ignored, which the note says. Raises DataError for one that names
        them and holds something else.
        """
        path = weights.with_suffix(".json")
        if not path.is_file():
            return cls()
        try:
            content = read_json(path)
        except DataError:
            content = None
        if not isinstance(content, dict) or content.get("weights") != digest_of(weights):
            return cls(note=f"{path.name} beside the weights is ignored: it is not their calibration")
        with guarded(path, "the calibration of weights"):
            ranges, bands = content.get("ranges"), content.get("bands")
            try:
                ranges = Ranges(**{name: float(value) for name, value in ranges.items()}) if ranges else USUAL
                return cls(ranges, _bands(bands) if bands else None)
            except (AttributeError, TypeError, ValueError) as error:
                raise DataError(f"expected ranges and bands, found {error}") from None

    def write(self, weights: Path) -> Path:
        """Write the file beside the weights, and return its path."""
        path = weights.with_suffix(".json")
        content = {"weights": digest_of(weights), "ranges": self.ranges._asdict()}
        content |= {"bands": asdict(self.bands)} if self.bands else {}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return path


def _bands(content: dict) -> Bands:
    bands = Bands(**{name: tuple(values) for name, values in content.items()})
    for name in ("spread", "quantile"):
        values = np.array(getattr(bands, name), dtype=float)
        if values.shape != (17,) or not np.isfinite(values).all() or (values < 0).any():
            raise DataError(f"expected 17 numbers of at least 0 for {name}, found {getattr(bands, name)}")
    return bands


def both_ways(
    model: nn.Module, screen: Float[np.ndarray, "frames 17 2"], progress: Callable[[float], None] = lambda frames: None
) -> tuple[Float[np.ndarray, "frames 17 3"], Float[np.ndarray, "frames"]]:
    """The poses of `predict` with `flip`, relative to the hip, and how far its two liftings are apart, metres."""
    points = torch.from_numpy(screen.astype(np.float32))
    one, other = (predict(model, way, flip=False, progress=progress) for way in (points, mirrored(points, human36m)))
    both = torch.stack([one, mirrored(other, human36m)]).numpy()
    both -= both[:, :, [human36m.root]]
    return both.mean(axis=0), np.sqrt(np.square(both[0] - both[1]).sum(axis=-1).mean(axis=-1))


def _scale(
    spread: Float[np.ndarray, "17"], disagreement: Float[np.ndarray, "frames"]
) -> Float[np.ndarray, "frames 17"]:
    scale = np.hypot(spread, WEIGHT * disagreement[:, None])
    scale[:, human36m.root] = 0
    return scale


def calibrate(
    errors: Sequence[Float[np.ndarray, "frames 17"]],
    disagreements: Sequence[Float[np.ndarray, "frames"]],
    people: Sequence[str],
    keypoints: tuple[str, ...],
) -> Bands:
    """The bands from the errors of clips, metres; people: of whom each clip is. Each person weighs the same."""
    clips: dict[str, list[tuple]] = {}
    for person, *clip in sorted(zip(people, errors, disagreements, strict=True), key=lambda row: row[0]):
        clips.setdefault(person, []).append(clip)
    of_person = {person: tuple(map(np.concatenate, zip(*own, strict=True))) for person, own in clips.items()}
    spread, quantiles = _quantiles(list(of_person.values()))
    level = _level(list(of_person.values())) if len(of_person) > 1 else 0
    return Bands(
        tuple(of_person), keypoints, tuple(spread.round(5).tolist()), tuple(quantiles[level].round(4).tolist())
    )


def _quantiles(people: list[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """The spread (17,) and the quantiles at LEVELS (levels, 17), from each person's errors and disagreements."""
    every = np.concatenate([errors for errors, _ in people]).astype(np.float64)
    weights = np.concatenate([np.full(len(errors), 1 / (len(errors) * len(people))) for errors, _ in people])
    spread = np.sqrt(weights @ every**2)
    scale = _scale(spread, np.concatenate([disagreement for _, disagreement in people]))
    ratios = np.divide(every, scale, out=np.zeros_like(every), where=scale > 0)
    return spread, np.quantile(ratios, LEVELS, axis=0, weights=weights, method="inverted_cdf")


def _level(people: list[tuple]) -> int:
    """The place in LEVELS of the lowest level at which people are covered by the bands of the others; else the last."""
    joints = np.arange(17) != human36m.root  # its error is 0
    covered = np.zeros(len(LEVELS))
    for place, (errors, disagreement) in enumerate(people):
        spread, quantiles = _quantiles(people[:place] + people[place + 1 :])
        radii = quantiles[:, None] * _scale(spread, disagreement)  # (levels, frames, 17)
        covered += (errors <= radii)[..., joints].mean(axis=(1, 2)) / len(people)
    return int(np.argmax(covered >= COVERAGE)) if covered[-1] >= COVERAGE else len(LEVELS) - 1
