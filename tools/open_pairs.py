"""How a shared floor changes the places of two people in one film: results/bench/pairs.csv, a table of the model card.

`python tools/open_pairs.py NAME` films two test subjects of open-people at a time with a virtual camera, lifts their
keypoints of a simulated CPN with these bundled weights, by default `open-small`, and places them alone and together.
It reads the motions that `python tools/open_weights.py data` writes. `--validation` prints the same of the subjects of
`open_world.VALIDATION`, where `world.SIZES` was chosen.
"""

import sys

import numpy as np
import pandas as pd
from jaxtyping import Float
from open_weights import people_file, read_people
from open_world import VALIDATION, arguments, tilt_of
from readme import publish
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from mixste import MixSTE
from mixste.accel import accelerate
from mixste.data.readers.detections import Detections
from mixste.data.sources.people import subjects
from mixste.data.virtual import random_of, simulate_detector
from mixste.io import DataError
from mixste.io.install import PACKAGE, needs_checkout
from mixste.skeleton import human36m
from mixste.study import pages
from mixste.wild.lift import in_one_world, in_world, lift_clip
from mixste.wild.outputs import Lifted
from mixste.wild.world import FEET

RESULT = PACKAGE.parent / "results" / "bench" / "pairs.csv"
PAIRS, FRAMES, FPS = 24, 150, 50.0
FOCAL, SIZE, MARGIN = 1500.0, (1920, 1080), 5  # pixels
HEAD = human36m.joints.index("Head")
COLUMNS = ("distance off, m", "heights of the floor apart, mm", "ratio of sizes off, %", "tilt, degrees")


def camera(rng: np.random.Generator) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Rotation (columns: camera axes in the world) and place of a camera that looks down a little, along y."""
    level = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    tilt = Rotation.from_euler("xz", [-rng.uniform(0, 15), rng.normal(0, 2)], degrees=True)
    return level @ tilt.as_matrix(), np.array([0, -rng.uniform(5, 7), rng.uniform(1.2, 2.6)])


def beside(world: Float[np.ndarray, "frames 17 3"], place: tuple[float, float]) -> Float[np.ndarray, "frames 17 3"]:
    """The motion with the middle of its path at a place on the floor, metres."""
    path = world[:, 0, :2]
    return world - [*((path.min(axis=0) + path.max(axis=0)) / 2 - place), 0]


def seen(world, rotation, position, rng: np.random.Generator) -> Detections | None:
    """What the detector reports; None if the person leaves the image."""
    poses = (world - position) @ rotation
    exact = FOCAL * poses[..., :2] / poses[..., 2:] + np.array(SIZE) / 2
    if (poses[..., 2] < 1).any() or (exact < MARGIN).any() or (exact > np.array(SIZE) - MARGIN).any():
        return None
    keypoints = simulate_detector(exact, poses, rng, "cpn")
    people = np.concatenate([keypoints, np.ones((*keypoints.shape[:2], 1))], axis=-1)
    return Detections("pair", human36m.joints, list(people[:, None]), SIZE, FPS)


def errors_of(people: list[Lifted], worlds, up: Float[np.ndarray, "3"]) -> dict[str, float]:
    """How far off two people are in camera axes. up: the true vertical there."""
    bodies = [(one.world.poses - one.world.position) @ one.world.rotation for one in people]
    way = bodies[0][:, 0] - bodies[1][:, 0]
    distance = np.linalg.norm(way - np.outer(way @ up, up), axis=-1)
    true = np.linalg.norm((worlds[0] - worlds[1])[:, 0, :2], axis=-1)
    floors = [np.percentile((body[:, FEET] @ up).min(axis=1), 20) for body in bodies]  # of the lower foot
    on_floor = [np.percentile(world[:, FEET, 2].min(axis=1), 20) for world in worlds]
    tall = [
        np.median(np.linalg.norm(body[:, FEET].mean(axis=1) - body[:, HEAD], axis=-1)) for body in (*bodies, *worlds)
    ]
    values = (
        float(np.abs(distance - true).mean()),
        1000 * abs((floors[0] - floors[1]) - (on_floor[0] - on_floor[1])),
        100 * abs(np.log(tall[0] / tall[1] / (tall[2] / tall[3]))),
        np.mean([tilt_of(one.world, up) for one in people]),
    )
    return dict(zip(COLUMNS, values, strict=True))


def measure(people: tuple[str, ...], weights: str) -> pd.DataFrame:
    """Two rows for each pair of people: each placed alone, and both together."""
    takes = [take for take in read_people(people_file()) if take.subject in people and len(take.world) >= FRAMES]
    model, rows = accelerate(MixSTE.from_pretrained(weights)), []
    rng = random_of("pairs", *people)
    with tqdm(total=PAIRS, disable=None) as bar:
        while len(rows) < 2 * PAIRS:
            names = rng.choice(people, 2, replace=False)  # people weigh the same, however many takes they have
            choices = [[take for take in takes if take.subject == name] for name in names]
            if not all(choices):
                continue
            motions = [of_one[rng.integers(len(of_one))].world[:FRAMES].astype(np.float64) for of_one in choices]
            worlds = [beside(motions[0], (-1, 0)), beside(motions[1], (1, rng.uniform(0, 2.5)))]
            rotation, position = camera(rng)
            views = [seen(world, rotation, position, rng) for world in worlds]
            if not all(views):
                continue
            lifted = [lift_clip(view, model) for view in views]
            placed = {"alone": [in_world(one, FOCAL) for one in lifted], "together": in_one_world(lifted, FOCAL)}
            for how, two in placed.items():
                about = {"weights": weights, "first": names[0], "second": names[1], "placed": how}
                rows.append({**about, **errors_of(two, worlds, rotation[2])})
            bar.update()
    return pd.DataFrame(rows).round(3)


def markdown(measurements: pd.DataFrame) -> str:
    """The table of the card: medians over pairs."""
    lines = []
    for how, rows in measurements.groupby("placed"):
        distance, floor, ratio, tilt = rows[[*COLUMNS]].median()
        lines.append([how, len(rows), f"{distance:.2f}", f"{floor:.0f}", f"{ratio:.1f}", f"{tilt:.1f}"])
    return pages.markdown(pd.DataFrame(lines, columns=["placed", "pairs", *COLUMNS]))


def main() -> None:
    options = arguments(__doc__)
    if options.validation:
        print(markdown(measure(VALIDATION, options.name)))
        return
    needs_checkout("measuring two people")
    measurements = measure(subjects("test"), options.name)
    publish(measurements, RESULT, "pairs", markdown(measurements))
    print(markdown(measurements))


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
