"""How well `mixste lift --world` places unseen people: results/bench/world.csv, and the table of the model card.

`python tools/open_world.py NAME` lifts the test subjects of open-people with these bundled weights, by default
`open-small`, each take seen by one camera, places them, and compares with the truth of the virtual cameras. It takes a
quarter of an hour on one core; poses are kept in `runs/open-world/`, by the hash of the weights, so that a second call
only places them. `--validation` shows the same of subjects that the first `open-small` was not trained on, where the
constants of `mixste.wild.world` were chosen.
"""

import argparse
import sys

import numpy as np
import pandas as pd
from jaxtyping import Float
from readme import publish
from scipy.ndimage import gaussian_filter1d
from tqdm import tqdm

from mixste import MixSTE
from mixste.accel import accelerate
from mixste.camera import normalize_screen
from mixste.data import Clip, load
from mixste.data.sources.people import subjects
from mixste.data.virtual import DETECTORS, film
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.install import PACKAGE, needs_checkout
from mixste.io.weights import bundled, bundled_file, digest_of
from mixste.metrics import mpjpe
from mixste.predict import predict
from mixste.study import pages, store
from mixste.wild.outputs import World
from mixste.wild.world import ANKLE, FEET, place, root_path

RESULT = PACKAGE.parent / "results" / "bench" / "world.csv"
VALIDATION = ("cmu_07", "cmu_08", "cmu_12", "cmu_14", "cmu_16", "cmu_29", "cmu_32", "cmu_35", "cmu_49", "cmu_127")
SHORTEST, MOST = 50, 12  # frames of a clip, takes of a subject
WALK = 2.0  # metres: a shorter path says nothing about errors in percent
# What is measured: keypoints, poses, and the focal length in units of the true one.
CONDITIONS = [(keypoints, "lifted", 1.0) for keypoints in ("gt", *DETECTORS)]
CONDITIONS += [("cpn", "true", 1.0), ("gt", "true", 1.0), ("cpn", "lifted", 0.8), ("cpn", "lifted", 1.25)]


def clips_of(keypoints: str, people: tuple[str, ...]) -> list[Clip]:
    """Up to MOST takes of each subject, spread over all, each seen by one camera, the next for the next take."""
    clips = [clip for clip in load("open-people", keypoints=keypoints).clips if clip.subject in people]
    takes = list(dict.fromkeys((clip.subject, clip.action, clip.take) for clip in clips))
    cameras = list(dict.fromkeys(clip.camera for clip in clips))
    camera = {take: cameras[number % len(cameras)] for number, take in enumerate(takes)}
    clips = [it for it in clips if len(it) >= SHORTEST and it.camera == camera[it.subject, it.action, it.take]]
    of_subjects = [[clip for clip in clips if clip.subject == subject] for subject in people]
    return [clip for several in of_subjects for clip in several[:: max(1, -(-len(several) // MOST))]]


def poses_of(clips: list[Clip], weights: str, name: str) -> list[Float[np.ndarray, "frames 17 3"]]:
    """The poses of the clips by bundled weights, kept in the store under this name."""
    path = store.store() / "open-world" / f"{name}-{digest_of(bundled_file(weights))[:12]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = accelerate(MixSTE.from_pretrained(weights))
        poses = {}
        for clip in tqdm(clips, name, unit="clip", disable=None):
            screen = normalize_screen(clip.keypoints, *clip.resolution).astype(np.float32)
            poses[clip.name] = predict(model, screen)
        with replacing(path) as temporary:
            np.savez(temporary, **poses)
    with np.load(path) as stored:
        return [stored[clip.name] for clip in clips]


def vertical_of(clip: Clip) -> Float[np.ndarray, "3"]:
    """The true vertical in the axes of the camera: a rod of a metre, filmed by the cameras of this subject."""
    rod = np.zeros((1, 17, 3))
    rod[0, 1:, 2] = 1
    views = film(rod, subject=clip.subject, action="", fps=1)
    [[low, high, *_]] = next(view.poses for view in views if view.camera == clip.camera).astype(np.float64)
    return (high - low) / np.linalg.norm(high - low)


def tilt_of(world: World, up: Float[np.ndarray, "3"]) -> float:
    """Degrees between the vertical of a placed person and the true one, in the axes of the camera."""
    return float(np.degrees(np.arccos(np.clip(world.rotation[2] @ up, -1, 1))))


def errors_of(clip: Clip, poses: Float[np.ndarray, "frames 17 3"], focal: float) -> dict:
    """The errors of one clip. poses: relative to the hip, as lifted, or true; focal: in units of the true one."""
    true, up = clip.poses.astype(np.float64), vertical_of(clip)
    pixels = clip.keypoints.astype(np.float64)
    length, centre = focal * np.sqrt(np.prod(clip.intrinsics[:2])), np.array(clip.resolution) / 2
    pixels += centre - clip.intrinsics[2:4]  # a user does not know the centre either, but it is not what is measured
    filled = np.zeros(pixels.shape[:2], dtype=bool)
    world, _ = place(poses, pixels, filled, clip.fps, clip.resolution, length, centre)
    placed = (world.poses - world.position) @ world.rotation  # camera axes
    raw = root_path(poses.astype(np.float64), (pixels - centre) / length, clip.fps, np.ones(filled.shape))
    raw = poses + raw[:, None]

    path = gaussian_filter1d(true[:, 0], 0.2 * clip.fps, axis=0, mode="nearest")  # without the sway of each step
    walked = float(np.linalg.norm(np.diff(path - np.outer(path @ up, up), axis=0), axis=-1).sum())
    feet = true[:, FEET]
    speed = np.linalg.norm(np.gradient(gaussian_filter1d(feet, 1.5, axis=0, mode="nearest"), axis=0), axis=-1)
    height = feet @ up
    stands = (speed * clip.fps < 0.15) & (height < np.percentile(height, 5) + 0.06)
    both = stands[1:] & stands[:-1]

    def skating(body) -> float:  # centimetres a second, horizontally, of feet that stand in truth
        steps = np.diff(body[:, FEET], axis=0)
        steps -= (steps @ up)[..., None] * up
        return 100 * clip.fps * float(np.linalg.norm(steps, axis=-1)[both].mean()) if both.any() else np.nan

    def path_error(turn: bool) -> float:  # percent of the distance walked
        off = _moved_onto(placed[:, 0], true[:, 0], turn) - true[:, 0]
        return 100 * float(np.linalg.norm(off, axis=-1).mean()) / walked if walked >= WALK else np.nan

    standing = world.poses[:, FEET, 2][stands]
    return {
        "subject": clip.subject,
        "walked, m": walked,
        "path error, %": path_error(turn=True),
        "path error unturned, %": path_error(turn=False),
        "tilt, degrees": tilt_of(world, up),
        "skating as lifted, cm/s": skating(raw),
        "skating, cm/s": skating(placed),
        "feet off the floor, mm": 1000 * float(np.abs(standing - ANKLE).mean()) if stands.any() else np.nan,
        "MPJPE as lifted, mm": 1000 * mpjpe(poses - poses[:, :1], true - true[:, :1]),
        "MPJPE, mm": 1000 * mpjpe(placed - placed[:, :1], true - true[:, :1]),
        "frames": len(clip),
    }


def _moved_onto(path, target, turn: bool):
    """The path after the translation, and with `turn` also the rotation, that brings it nearest to the target."""
    centred, goal = path - path.mean(axis=0), target - target.mean(axis=0)
    if turn:
        u, _, vt = np.linalg.svd(centred.T @ goal)
        centred = centred @ (u * [1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return centred + target.mean(axis=0)


def table(people: tuple[str, ...], weights: str, split: str) -> pd.DataFrame:
    """The rows of every condition, see `rows_of`."""
    rows = []
    for keypoints, kind, focal in CONDITIONS:
        clips = clips_of(keypoints, people)
        true = [clip.poses - clip.poses[:, :1] for clip in clips]
        bodies = poses_of(clips, weights, f"{split}-{keypoints}") if kind == "lifted" else true
        pairs = tqdm(zip(clips, bodies, strict=True), f"{keypoints}, {kind}", len(clips), disable=None)
        errors = pd.DataFrame([errors_of(clip, body, focal) for clip, body in pairs])
        rows += rows_of(errors, {"weights": weights, "keypoints": keypoints, "poses": kind, "focal length": focal})
    return pd.DataFrame(rows)


def rows_of(errors: pd.DataFrame, about: dict) -> list[dict]:
    """One row for each subject and one for all: medians over clips, MPJPE averaged over frames."""
    rows = []
    for subject in (*errors["subject"].unique(), "all"):
        some = errors if subject == "all" else errors[errors["subject"] == subject]
        values = some.drop(columns=["subject", "frames"]).median()
        for name in ("MPJPE as lifted, mm", "MPJPE, mm"):
            values[name] = np.average(some[name], weights=some["frames"])
        walks = int((some["walked, m"] >= WALK).sum())
        rows.append({**about, "subject": subject, "clips": len(some), "walks": walks, **values.round(2)})
    return rows


def markdown(measurements: pd.DataFrame) -> str:
    """The card's table in Markdown, of all subjects together."""
    heads = ("keypoints", "poses", "focal length", "path error, %", "tilt, °", "skating before, cm/s", "skating, cm/s")
    lines = []
    for _, row in measurements[measurements["subject"] == "all"].iterrows():
        focal = "true" if row["focal length"] == 1 else f"{row['focal length']:g} times the true one"
        names = ("path error, %", "tilt, degrees", "skating as lifted, cm/s", "skating, cm/s", "MPJPE as lifted, mm")
        numbers = [f"{row[name]:.1f}" for name in (*names, "MPJPE, mm")]
        lines.append([row["keypoints"], row["poses"], focal, *numbers])
    return pages.markdown(pd.DataFrame(lines, columns=[*heads, "MPJPE before, mm", "MPJPE, mm"]))


def arguments(description: str) -> argparse.Namespace:
    """The command line of this measurement and of `open_pairs`: name, of bundled weights, and validation."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="open-small", choices=tuple(bundled()))
    parser.add_argument("--validation", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure and write; with --validation, measure and print."""
    options = arguments(__doc__)
    if options.validation:
        print(table(VALIDATION, options.name, "validation").query("subject == 'all'").T.to_string())
        return
    needs_checkout("measuring the world")
    measurements = table(subjects("test"), options.name, "test")
    publish(measurements, RESULT, "world", markdown(measurements))
    print(measurements.query("subject == 'all'").T.to_string())


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
