"""Calibrates bundled weights: the bands of their errors, and the ranges of their training, kept beside their file.

`python tools/calibrate.py open-small` lifts people of open-people that the weights were not trained on, writes
mixste/weights/open-small.json, and measures the bands on the test subjects: results/bench/bands.csv and a table of the
model card. It takes some minutes on one core; what is lifted is kept in `runs/calibrate/`. The options:

    --people cmu_07,cmu_08   whom to calibrate on; by default the validation subjects
    --weights FILE           if the bundled weights were trained on these people: lift them with this file, the same
                             network trained without them, whose errors then stand for those of the bundled weights
    --validated FILE         trained on fewer people than the bundled weights, that network errs more. So lift the
                             validation subjects with this file, the network trained without them alone, and scale the
                             errors of the other on the rest by the ratio of the two's errors on the validation subjects
    --demo FOLDER            also measure the bands on the real clip, in that folder: see `tools/open_weights.py`
    --ranges                 instead of the bands, measure the ranges of the keypoints that `tools/footage.py` trains on
"""

import argparse
import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_weights
import pandas as pd
from footage import RATES, Footage
from readme import publish
from tqdm import tqdm

from mixste.accel import accelerate
from mixste.camera import normalize_screen
from mixste.checkpoints import load_checkpoint
from mixste.data import Clip, load
from mixste.data.sources import pose2sim
from mixste.data.sources.people import PEOPLE, subjects
from mixste.data.virtual import DETECTORS, random_of, simulate_detector
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import PACKAGE, needs_checkout
from mixste.io.weights import CheckpointError, bundled, bundled_file, digest_of
from mixste.network import Network
from mixste.study import pages, store
from mixste.wild.calibration import Bands, Calibration, both_ways, calibrate
from mixste.wild.lift import lift_clip
from mixste.wild.quality import Ranges

RESULT = PACKAGE.parent / "results" / "bench" / "bands.csv"
CALIBRATED = ("cpn", "openpose")
TAKES, FRAMES = 32, 81  # of a person: up to so many takes, and so many frames from the middle of each
WINDOWS = 4096  # of training, to measure the ranges of
JOINTS = np.arange(1, 17)  # the hip has no error


def clips_of(people: tuple[str, ...]) -> list[Clip]:
    """Up to TAKES takes of each person, spread over all, cameras in turn; with fewer takes, each by several cameras."""
    takes: dict[str, dict[tuple, dict[str, Clip]]] = {person: {} for person in people}
    for clip in load("open-people").clips:
        if clip.subject in takes and len(clip) >= FRAMES:
            takes[clip.subject].setdefault((clip.action, clip.take), {})[clip.camera] = clip
    clips = []
    for of_person in takes.values():
        views = [cameras[sorted(cameras)[number % 4]] for number, cameras in enumerate(of_person.values())]
        if len(views) < TAKES:
            views = [cameras[name] for cameras in of_person.values() for name in sorted(cameras)]
        some = min(TAKES, len(views))
        clips += [views[number * len(views) // some] for number in range(some)]
    return clips


def middle(clip: Clip, keypoints: str) -> Clip:
    """The frames in the middle of a clip, with the keypoints of a detector as `virtual.film` simulates it."""
    if keypoints != "gt":
        rng = random_of(0, "detector", keypoints, "human36m", clip.subject, clip.action, clip.take, clip.camera)
        clip.keypoints[:] = simulate_detector(clip.keypoints, clip.poses, rng, keypoints)
    start = (len(clip) - FRAMES) // 2
    return clip.part(slice(start, start + FRAMES))


def lifted(model: Network, clips: list[Clip], keypoints: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Errors of the joints, metres, and disagreement of each clip, kept in the store by weights and clips."""
    names = hashlib.sha256(" ".join(clip.name for clip in clips).encode()).hexdigest()
    path = store.store() / "calibrate" / f"{digest_of(model.file)[:12]}-{names[:12]}-{keypoints}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fast, arrays = accelerate(model), {}
        for clip in tqdm(clips, keypoints, unit="clip", disable=None):
            part = middle(clip.part(slice(None)), keypoints)
            poses, disagreement = both_ways(fast, normalize_screen(part.keypoints, *part.resolution))
            errors = np.linalg.norm(poses - (part.poses - part.poses[:, :1]), axis=-1)
            arrays[clip.name] = np.column_stack([errors, disagreement])
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    with np.load(path) as stored:
        return [(stored[clip.name][:, :-1], stored[clip.name][:, -1]) for clip in clips]


def scaled(
    fewer: list[tuple], validated: list[tuple], clips: list[Clip]
) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Errors and disagreement of clips by the network that was trained on more people; the ratio of the errors.

    fewer: of all clips, by the network trained on fewer people. validated: of those of the validation subjects, by the
    other. For the rest, the former times the ratio of the two's root-mean-square values on the validation subjects.
    """

    def sizes(pairs: list[tuple]) -> np.ndarray:
        return np.sqrt(np.mean([[np.square(part).mean() for part in pair] for pair in pairs], axis=0))

    known = [clip.subject in subjects("validation") for clip in clips]
    ratios = sizes(validated) / sizes([pair for pair, is_known in zip(fewer, known, strict=True) if is_known])
    closer = iter(validated)
    return [
        next(closer) if is_known else (pair[0] * ratios[0], pair[1] * ratios[1])
        for pair, is_known in zip(fewer, known, strict=True)
    ], float(ratios[0])


def coverage(pairs: list[tuple[np.ndarray, np.ndarray]], subjects: list[str], keypoints: str) -> pd.DataFrame:
    """Coverage of the bands and their mean radius by subject, and of all subjects, each weighing the same.

    pairs: of clips, the errors and the radii (frames, 17), metres. subjects: of whom each clip is.
    """
    rows = []
    for subject, (errors, radii) in zip(subjects, pairs, strict=True):
        inside = 100 * (errors <= radii)[:, JOINTS].mean()
        rows.append({"subject": subject, "coverage, %": inside, "radius, mm": 1000 * radii[:, JOINTS].mean()})
    table = pd.DataFrame(rows).groupby("subject", sort=False).mean()
    table.loc["all"] = table.mean()
    return table.round(2).reset_index().assign(keypoints=keypoints)


def on_real_clip(model: Network, demo: Path) -> list[pd.DataFrame]:
    """Coverage of each detector on the real clip, whose cameras stand for subjects."""
    tables, views = [], list(open_weights.real_views(demo))
    for kind in ("openpose", "mediapipe"):
        pairs = []
        for one in views:
            clip = one.view if kind == "openpose" else open_weights.mediapipe_keypoints(one.film)
            lifting = lift_clip(clip, model, fps=pose2sim.FPS, bands=True)
            errors = np.linalg.norm(lifting.poses[one.frames] - one.poses, axis=-1)
            pairs.append((errors, lifting.bands[one.frames]))
        tables.append(coverage(pairs, [one.camera for one in views], f"{kind}, real clip"))
    return tables


def ranges(windows: np.ndarray, rates: tuple[float, float]) -> Ranges:
    """The ranges of screen-normalised keypoints (windows, frames, 17, 2), without the outermost hundredth."""
    heights = np.median(np.ptp(windows[..., 1], axis=2), axis=1)
    limits = [*np.quantile(heights, [0.005, 0.5, 0.995]), np.quantile(np.abs(windows).max(axis=(1, 2, 3)), 0.99)]
    return Ranges(*(round(float(limit), 3) for limit in limits), *rates)


def ranges_of_training(frames: int) -> Ranges:
    """The ranges of the windows of so many frames that bundled weights are trained on, see `tools/footage.py`."""
    people = open_weights.trained_on(validate=False)
    takes = [take for take in open_weights.read_people(open_weights.people_file()) if take.subject in people]
    footage = Footage(takes, frames, WINDOWS // 16, seed=0)
    return ranges(np.concatenate([footage[step][0].numpy() for step in range(16)]), RATES)


def markdown(measurements: pd.DataFrame, bands: Bands) -> str:
    """The part of the card in Markdown."""
    lines = []
    for keypoints, rows in measurements.groupby("keypoints", sort=False):
        each, everyone = (rows[(rows["subject"] == "all") == whole] for whole in (False, True))
        low, high = each["coverage, %"].min(), each["coverage, %"].max()
        [total], [radius] = everyone["coverage, %"], everyone["radius, mm"]
        among = "yes" if keypoints in bands.keypoints else "no"
        line = {"keypoints": keypoints, "calibrated on": among, "coverage, %": f"{total:.1f}"}
        lines.append(line | {"of the people, %": f"{low:.0f} to {high:.0f}", "mean radius, mm": f"{radius:.0f}"})
    about = f"Calibrated on {len(bands.people)} people ({', '.join(bands.people)})."
    ratios = measurements.dropna(subset="scaled by").groupby("keypoints", sort=False)["scaled by"].first()
    if len(ratios):
        factors = " and ".join(f"{ratio:.2f} ({kind})" for kind, ratio in ratios.items())
        about += (
            " The errors on those who are not validation subjects come from a network trained on fewer people. They are"
            f" multiplied by {factors}: on the validation subjects, the ratio of the errors of a network trained on all"
            " other people to its own."
        )
    return f"{about}\n\n{pages.markdown(pd.DataFrame(lines))}"


def main() -> None:
    needs_checkout("calibrating weights")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(bundled()))
    parser.add_argument("--people", default=",".join(subjects("validation")))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--validated", type=Path)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--ranges", action="store_true")
    options = parser.parse_args()
    file, people = bundled_file(options.name), tuple(options.people.split(","))
    if unknown := [name for name in people if name not in PEOPLE or name in subjects("test")]:
        parser.error(f"expected subjects of open-people that are not test subjects, found {', '.join(unknown)}")
    model = Network.from_pretrained(options.name)
    calibration, tested = Calibration.of(model), subjects("test")
    if options.ranges:
        print(replace(calibration, ranges=ranges_of_training(model.frames)).write(file))
        return
    stand_in = load_checkpoint(options.weights) if options.weights else model
    clips = clips_of((*people, *tested))
    of_people, of_tested = ([clip for clip in clips if clip.subject in some] for some in (people, tested))

    measured, ratios = {kind: lifted(stand_in, of_people, kind) for kind in CALIBRATED}, {}
    if options.validated:
        if not set(subjects("validation")) < set(people):
            parser.error(f"--validated: expected --people with {', '.join(subjects('validation'))} and others")
        closer = load_checkpoint(options.validated)
        of_validation = [clip for clip in of_people if clip.subject in subjects("validation")]
        for kind in CALIBRATED:
            known = lifted(closer, of_validation, kind)
            measured[kind], ratios[kind] = scaled(measured[kind], known, of_people)
    errors, disagreements = zip(*(pair for pairs in measured.values() for pair in pairs), strict=True)
    names = [clip.subject for clip in of_people] * len(CALIBRATED)
    bands = calibrate(errors, disagreements, names, CALIBRATED)
    print(replace(calibration, bands=bands).write(file))

    tables, names = [], [clip.subject for clip in of_tested]
    for kind in dict.fromkeys((*CALIBRATED, "gt", *DETECTORS)):
        pairs = [(errors, bands.radii(disagreement)) for errors, disagreement in lifted(model, of_tested, kind)]
        tables.append(coverage(pairs, names, kind))
    if options.demo:
        tables += on_real_clip(model, options.demo)
    table = pd.concat(tables).assign(weights=options.name)
    table["scaled by"] = table["keypoints"].map(ratios).astype(float).round(2)
    publish(table, RESULT, "bands", markdown(table, bands))
    print(table.query("subject == 'all'").to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except (DataError, CheckpointError) as error:
        sys.exit(str(error))
