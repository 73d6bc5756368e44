"""Trains the bundled weights, `open-base` and `open-small`, and measures the errors on their cards.

    python tools/open_weights.py data                   # from the recordings: runs/open-people.npz, 20 MB
    python tools/open_weights.py train open-base        # with that file, on a GPU; the same command resumes
    python tools/open_weights.py evaluate open-base     # what has been measured is not measured again
    python tools/open_weights.py publish open-base      # into mixste/weights, with the tables of the card

A training prints a line each half minute; `--minutes N` stops it after N minutes, to be resumed. It needs no other
file. `evaluate` measures what it finds the data for: test people need the file of `data`, other sources MIXSTE_DATA,
the real clip --demo, the folder of the unpacked wheel of pose2sim 0.6.0, and its videos the extra `video`.

Trained on all of open-people but the test subjects. With `--validate`, `train` also leaves out the validation subjects,
and `evaluate` measures them and nothing else: settings are chosen that way. With `--without cmu_14,cmu_131`, it also
leaves out these. Such weights are not bundled: with them, `tools/calibrate.py` measures errors on people who were left
out.
"""

import argparse
import functools
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from string import Template
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from footage import Footage
from jaxtyping import Float
from readme import between, mean

from mixste import MixSTE, checkpoints, metrics
from mixste.accel import accelerate
from mixste.camera import world_to_camera
from mixste.data import Clip, DataError, PoseDataset, load
from mixste.data.multiview import triangulate
from mixste.data.readers.detections import LAYOUTS, fill_gaps, follow, to_human36m
from mixste.data.sources import open_people, pose2sim
from mixste.data.sources.open_mocap import Take, as_dataset
from mixste.data.sources.people import PEOPLE, subjects
from mixste.data.splits import thinned
from mixste.data.virtual import DETECTORS, random_of
from mixste.evaluate import evaluate
from mixste.io.files import replacing
from mixste.io.guard import guarded, read_arrays
from mixste.io.install import PACKAGE, needs_checkout
from mixste.io.weights import CheckpointError, bundled, write_sums
from mixste.skeleton import human36m
from mixste.study import store
from mixste.study.pages import markdown
from mixste.train import Recipe, Step, Update, even_pieces, learning_rate, loss_of, optimizer_of
from mixste.wild import video
from mixste.wild.lift import lift_clip

# Sizes, and poses of training. In float16, open-base takes 19 MB.
WEIGHTS = {
    "open-base": ({"frames": 81, "dim": 256, "depth": 9}, 80_000_000),
    "open-small": ({"frames": 81, "dim": 128, "depth": 8}, 80_000_000),
}
WINDOWS = 128  # of a step
RECIPE = Recipe(
    optimizer="muon",
    learning_rate=1e-3,
    weight_decay=0.1,
    schedule="cosine",
    scaled_gradient=False,
    drop_path=0.0,
)
SAVE_SECONDS, LINE_SECONDS = 60.0, 30.0
KEYPOINTS = ("gt", *DETECTORS)
MISSING = 0.2
THREE = ("hdm_mm", "hdm_tr", "cmu_03")  # the test subjects of the first cards
CARD = Path(__file__).with_name("card.md")
KEYS = ["source", "keypoints", "fps", "missing"]


# --- data ------------------------------------------------------------------------------------------------------


def people_file() -> Path:
    return store.store() / "open-people.npz"


def write_people(path: Path) -> None:
    """All takes of open-people in one file; DataError if subjects are missing."""
    takes, _ = open_people._load(None, strict=True)
    arrays = [open_people.quantize(take.world) for take in takes]
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            labels=np.array([(take.subject, take.action, take.name) for take in takes]),
            frames=np.array([len(take.world) for take in takes]),
            roots=np.concatenate([roots for roots, _ in arrays]),
            joints=np.concatenate([joints for _, joints in arrays]),
        )


def read_people(path: Path) -> list[Take]:
    """The takes of `write_people`. DataError if there is no such file, or subjects are missing in it."""
    if not path.is_file():
        raise DataError(f"expected the motions in {path}, found no such file: run `{Path(__file__).name} data`")
    with guarded(path, "motions"):
        stored = read_arrays(path)
        world, ends = open_people.dequantize(stored["roots"], stored["joints"]), np.cumsum(stored["frames"])
        parts = np.split(world, ends[:-1])
        takes = [Take(*names, part) for names, part in zip(stored["labels"].tolist(), parts, strict=True)]
        lacking = PEOPLE.keys() - {take.subject for take in takes}
        if lacking:
            raise DataError(f"expected all subjects of open-people, found none of {', '.join(sorted(lacking))}")
    return takes


def trained_on(validate: bool, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The subjects of training."""
    everyone = subjects("train") + (() if validate else subjects("validation"))
    return tuple(subject for subject in everyone if subject not in without)


def without(clip: Clip, share: float) -> Clip:
    """The clip with a share of its keypoints missing at random and filled in, as `mixste lift` does."""
    points = clip.keypoints.astype(np.float64)
    points[random_of("missing", clip.name).random(points.shape[:2]) < share] = np.nan
    return replace(clip, keypoints=fill_gaps(points).astype(np.float32))


# --- training --------------------------------------------------------------------------------------------------


def train(model: MixSTE, footage: Footage, poses: int, folder: Path, minutes: float = math.inf) -> bool:
    """Train in place, resuming from the folder. Returns False if the time was up before the end.

    The learning curve is in history.csv. The state is saved with the optimizer's momentum in bfloat16, so that it fits
    into 64 MB: a resumed training goes on a little differently. Raises FloatingPointError if the loss is not finite.
    """
    device, began = next(model.parameters()).device, time.monotonic()
    model.layout = human36m.name
    optimizer, loss_function = optimizer_of(model, RECIPE), loss_of(RECIPE, human36m, device)
    each = footage.size * model.frames
    steps = math.ceil(poses / each)
    first, history, state = 0, [], folder / "state.pt"
    if state.exists():
        first, history = _resume(state, model, optimizer, steps)
    network = accelerate(model.train())
    pieces = even_pieces(network, footage.size, model.frames)
    gradients, update = Step(network, loss_function, RECIPE.scaled_gradient, pieces), Update(optimizer)
    total, counted, saved, told = torch.zeros((), device=device), 0, began, began
    print(f"{folder.name}: {steps - first:,} of {steps:,} steps to go, {each:,} poses each", flush=True)
    for step in range(first, steps):
        loss = gradients(*footage[step])
        update(learning_rate(RECIPE, step, steps, 0))
        total, counted = total + loss, counted + 1
        now, last = time.monotonic(), step + 1 == steps
        if now - told > LINE_SECONDS or last:
            mean, now = float(total) / counted, time.monotonic()  # the GPU has caught up
            if not math.isfinite(mean):
                raise FloatingPointError(f"{folder.name}: the loss is {mean} at step {step + 1} of {steps}")
            speed = counted / (now - told)
            row = {"step": step + 1, "poses": (step + 1) * each, "loss": mean, "poses_per_second": round(speed * each)}
            history.append(row)
            left = (steps - step - 1) / speed / 60
            print(
                f"step {step + 1:,}, loss {mean:.4f}, {speed * each:,.0f} poses/s, {left:.1f} minutes left", flush=True
            )
            total, counted, told = torch.zeros_like(total), 0, now
        stopped = now - began > 60 * minutes and not last
        if now - saved > SAVE_SECONDS or stopped or last:
            _save(state, model, optimizer, step + 1, steps, history)
            saved = time.monotonic()
        if stopped:
            print(f"{folder.name}: stopped at step {step + 1:,} of {steps:,}; the same command resumes", flush=True)
            return False
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    return True


def _save(path: Path, model: MixSTE, optimizer, step: int, steps: int, history: list[dict]) -> None:
    momenta = [
        {name: value.bfloat16() if name == "momentum" else value for name, value in optimizer.state[parameter].items()}
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    state = {"step": step, "steps": steps, "history": history, "model": model.state_dict(), "momenta": momenta}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def _resume(path: Path, model: MixSTE, optimizer, steps: int) -> tuple[int, list[dict]]:
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    if state["steps"] != steps:
        raise DataError(f"{path}: expected a training of {steps:,} steps, found one of {state['steps']:,}: remove it")
    model.load_state_dict(state["model"])
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, momenta in zip(parameters, state["momenta"], strict=True):
        optimizer.state[parameter] = {name: value.float() for name, value in momenta.items()}
    return state["step"], state["history"]


# --- evaluation ------------------------------------------------------------------------------------------------


def conditions(validate: bool, demo: Path | None) -> list[tuple]:
    """Source, keypoints, frames a second, share of missing keypoints: what the card shows, in its order."""
    rows = [
        ("open-people", keypoints, fps, share) for share in (0, MISSING) for keypoints in KEYPOINTS for fps in (50, 25)
    ]
    if validate:
        return rows
    rows += [(source, keypoints, 50, 0) for source in ("open-styles", "synthetic") for keypoints in ("gt", "openpose")]
    return rows + [(part, keypoints, 60, 0) for part in PARTS for keypoints in REAL] * bool(demo)


def test_clips(source: str, keypoints: str, fps: int, share: float, validate: bool, cache: dict) -> list[Clip]:
    """The clips of a condition: of open-people all views; of the others every fourth clip of one camera."""
    if source != "open-people":
        clips = load(source, keypoints=keypoints).test
        return [clip for clip in clips if clip.camera == clips[0].camera][::4]
    if keypoints not in cache:
        tested = subjects("validation" if validate else "test")
        takes = [take for take in read_people(people_file()) if take.subject in tested]
        cache.clear()
        cache[keypoints] = as_dataset(source, "unseen people", takes, lambda take: "test", keypoints, "human36m")
    dataset: PoseDataset = thinned(cache[keypoints], 50 // fps)
    return [without(clip, share) for clip in dataset.test] if share else dataset.test


def by_subject(errors: pd.DataFrame) -> pd.DataFrame:
    """Errors of each subject, every frame counted once, from those of `evaluate` by clip."""
    return store.over_frames(errors, ["subject", "metric", "unit"]).round({"value": 2}).sort_index().reset_index()


def measure(model: MixSTE, file: Path, validate: bool, demo: Path | None) -> pd.DataFrame:
    """Errors under every condition for which there are data, by subject (of the real clip, by camera): tidy rows.

    Rows in the file are kept; it is written after each condition, in the order of `conditions`.
    """
    measured = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=KEYS)
    order = {key: place for place, key in enumerate(conditions(validate, demo or Path()))}
    wanted = set(conditions(validate, demo)) - set(measured[KEYS].itertuples(index=False, name=None))
    fast, cache = accelerate(model, bfloat16=True), {}  # on the CPU too
    for key in sorted(wanted, key=lambda key: (key[:2], order[key])):  # those of the same keypoints together
        source, keypoints, fps, share = key
        try:
            if source in PARTS:
                rows = on_real_clip(model, keypoints, demo, PARTS[source])
            else:
                rows = by_subject(evaluate(fast, test_clips(*key, validate, cache), "exact"))
        except (DataError, ImportError) as error:
            print(f"{source}, {keypoints}: not measured: {error}", flush=True)
            continue
        rows = rows.assign(**dict(zip(KEYS, key, strict=True)))
        measured = pd.concat([measured, rows], ignore_index=True) if len(measured) else rows
        places = measured[KEYS].apply(lambda row: order.get(tuple(row), len(order)), axis=1)
        measured = measured.loc[places.sort_values(kind="stable").index].reset_index(drop=True)
        print(f"{source}, {keypoints}, {fps} frames/s, {share:.0%} missing: {mean(rows)} mm", flush=True)
        with replacing(file) as temporary:
            measured.to_csv(temporary, index=False)
    if measured.empty:
        raise DataError("expected data to measure the weights on, found none")
    return measured


# --- the real clip ---------------------------------------------------------------------------------------------

mediapipe_keypoints = functools.cache(video.detect)

# Keypoints that are lifted; what MediaPipe itself says; the best constant pose.
RECORDED = "openpose, joints as recorded"  # see `as_recorded`
REAL = ("openpose", RECORDED, "mediapipe", "mediapipe's own poses", "mean pose")
PARTS = {"pose2sim": slice(None), "pose2sim, last 50 frames": slice(50, None)}


def real_views(demo: Path, joints_of: Callable = to_human36m, part: slice = slice(None)) -> Iterator[SimpleNamespace]:
    """The four cameras: the detections, the film, the points, the frames in which all joints are seen from two sides,
    and the poses there, relative to the hip, in camera axes. DataError without the demo."""
    cameras, views = pose2sim.calibration(demo), pose2sim.detections(demo)
    points = [follow(view)[0] for view in views]
    world = joints_of(triangulate(np.stack(points), cameras), views[0].names)
    sure = np.flatnonzero(~np.isnan(world).any(axis=(1, 2)))
    sure = sure[np.isin(sure, np.arange(len(world))[part])]
    for camera, view, seen, film in zip(cameras, views, points, pose2sim.videos(demo), strict=True):
        true = world_to_camera(world, camera.orientation, camera.translation)[sure]
        poses = true - true[:, :1]
        yield SimpleNamespace(camera=camera.name, view=view, film=film, points=seen, frames=sure, poses=poses)


def on_real_clip(model: MixSTE, keypoints: str, demo: Path, part: slice) -> pd.DataFrame:
    """Errors in each of four cameras, as in notebook 16; DataError without the demo, ImportError without `video`."""
    joints_of = as_recorded if keypoints == RECORDED else to_human36m
    rows = []
    for one in real_views(demo, joints_of, part):
        if keypoints == "openpose":
            poses = lift_clip(one.view, model, fps=pose2sim.FPS).poses[one.frames]
        elif keypoints == RECORDED:
            joints = joints_of(fill_gaps(one.points), one.view.names)
            people = [np.column_stack([points, np.ones(17)])[None] for points in joints]
            moved = replace(one.view, names=human36m.joints, people=people)
            poses = lift_clip(moved, model, fps=pose2sim.FPS).poses[one.frames]
        elif keypoints == "mediapipe":
            poses = lift_clip(mediapipe_keypoints(one.film), model).poses[one.frames]
        elif keypoints == "mean pose":
            poses = np.broadcast_to(one.poses.mean(axis=0), one.poses.shape)
        else:
            poses = mediapipe_poses(one.film)[one.frames]
        for metric, error in (("MPJPE", metrics.mpjpe), ("P-MPJPE", metrics.p_mpjpe)):
            value = round(1000 * float(error(poses, one.poses)), 2)
            rows.append(
                {"subject": one.camera, "metric": metric, "unit": "mm", "value": value, "frames": len(one.frames)}
            )
    return pd.DataFrame(rows)


def as_recorded(points: Float[np.ndarray, "frames points axes"], names: tuple[str, ...]) -> np.ndarray:
    """`detections.to_human36m` with the joints that no detector sees where the recordings of open-people have them.

    The numbers are medians over the 19 subjects of training. In Human3.6M, as in `to_human36m`, the hip is the middle
    of the hips; in the recordings it is 10 cm above.
    """
    hips, shoulders, ears = (
        (points[:, names.index(f"L{name}")] + points[:, names.index(f"R{name}")]) / 2
        for name in ("Hip", "Shoulder", "Ear")
    )
    joints, trunk = to_human36m(points, names), shoulders - hips
    for name, place in (
        ("Hip", hips + 0.20 * trunk),
        ("Spine", hips + 0.66 * trunk),
        ("Thorax", shoulders - 0.11 * trunk),
        ("Neck", shoulders + 0.58 * (ears - shoulders)),
        ("Head", ears),  # the recordings' is in the middle of the head
    ):
        joints[:, human36m.joints.index(name)] = place
    return joints


@functools.cache
def mediapipe_poses(film: Path) -> np.ndarray:
    """MediaPipe's own 3D landmarks as the joints of human36m, relative to the hip, (frames, 17, 3) metres.

    A frame in which nobody is detected has the pose before; DataError if there is none before.
    """
    poses = []
    with (
        video.native_code_silenced(),
        video.pyav().open(str(film)) as frames,
        video._mediapipe().Pose(model_complexity=1) as tracker,
    ):
        for frame in frames.decode(video=0):
            marks = tracker.process(video._upright(frame)).pose_world_landmarks
            if marks:
                poses.append(np.array([(mark.x, mark.y, mark.z) for mark in marks.landmark]))
            elif poses:
                poses.append(poses[-1])
            else:
                raise DataError(f"{film}: expected a person from the first frame on, found none")
    joints = to_human36m(np.stack(poses), LAYOUTS["mediapipe33"])
    return joints - joints[:, :1]


# --- the card --------------------------------------------------------------------------------------------------


def table(measured: pd.DataFrame) -> str:
    """The card's table in Markdown: errors in mm, averaged over frames; "–" where nothing was measured."""
    lines = []
    for key, rows in measured[~measured["source"].isin(PARTS)].groupby(KEYS, sort=False):
        source, keypoints, fps, share = key
        few = rows[rows["subject"].isin(THREE)] if source == "open-people" else rows
        everyone = rows if set(rows["subject"]) == set(subjects("test")) else rows[:0]
        line = {"source": source, "keypoints": keypoints, "frames a second": fps}
        line["missing"] = f"{share:.0%}" if share else "none"
        for of, some in (("", few), (", all eight", everyone)):
            line |= {metric + of: mean(some, metric) for metric in ("MPJPE", "P-MPJPE")}
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def real_table(measured: pd.DataFrame) -> str:
    """Errors on the real clip and on its last frames by camera in Markdown, MPJPE / P-MPJPE in mm."""
    tables = []
    for part in PARTS:
        lines = []
        for keypoints, rows in measured[measured["source"] == part].groupby("keypoints", sort=False):
            views = {camera: rows[rows["subject"] == camera] for camera in rows["subject"].unique()} | {"average": rows}
            cells = {name: f"{mean(view)} / {mean(view, 'P-MPJPE')}" for name, view in views.items()}
            lines.append({f"{part}: poses from": keypoints} | cells)
        tables += [markdown(pd.DataFrame(lines))] if lines else []
    return "\n\n".join(tables) or "Not measured."


def publish(name: str, weights: Path, errors: Path) -> Path:
    """Copy weights and errors into the package and write the card, from card.md beside this file.

    What other tools measured of the same weights is kept: `open_world.py`, `open_pairs.py` and `calibrate.py`.
    """
    target = PACKAGE / "weights" / f"{name}.safetensors"
    card, measured, model = target.with_suffix(".md"), pd.read_csv(errors), checkpoints.load_checkpoint(weights)
    history = pd.read_csv(weights.with_name("history.csv"))
    before = target.read_bytes() if target.exists() else b""
    checkpoints.save_checkpoint(model, target, torch.float16)
    write_sums(target.parent)
    same = card.exists() and target.read_bytes() == before
    old = card.read_text(encoding="utf-8") if same else ""
    text = Template(CARD.read_text(encoding="utf-8")).substitute(
        model.options, name=name, subjects=", ".join(trained_on(False)), poses=f"{history['poses'].iloc[-1]:,}"
    )
    for mark, content in (("errors", table(measured)), ("real", real_table(measured))):
        text = between(text, mark, content)
    for mark in ("world", "pairs", "bands"):
        if kept := re.search(f"<!-- {mark}: begin -->\n(.*)\n<!-- {mark}: end -->", old, re.DOTALL):
            text = between(text, mark, kept[1])
    measured.to_csv(target.with_suffix(".csv"), index=False)
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card


def main() -> None:
    needs_checkout("making the bundled weights")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("data", "train", "evaluate", "publish"))
    parser.add_argument("name", nargs="?", choices=tuple(WEIGHTS))
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--poses", type=int, help="of the whole training, instead of the usual number")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--without", type=lambda names: tuple(names.split(",")), default=())
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    try:
        if options.step == "data":
            write_people(people_file())
            print(people_file())
        elif options.name is None:
            parser.error(f"expected the name of the weights: {' or '.join(WEIGHTS)}")
        else:
            _run(parser, options)
    except (DataError, CheckpointError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """One step of a network."""
    sizes, poses = WEIGHTS[options.name]
    if unknown := set(options.without) - set(subjects("train")):
        parser.error(f"expected training subjects of open-people, found {', '.join(sorted(unknown))}")
    if options.without and options.step != "train":
        parser.error("--without is an option of train")
    folder = store.store() / "-".join([options.name, *["validate"] * options.validate, *options.without])
    folder.mkdir(parents=True, exist_ok=True)
    weights, errors = folder / "weights.safetensors", folder / "errors.csv"
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.step == "train":
        if not weights.exists():
            wanted = trained_on(options.validate, options.without)
            takes = [take for take in read_people(people_file()) if take.subject in wanted]
            torch.manual_seed(0)
            model = MixSTE(**sizes).to(device)
            footage = Footage(takes, model.frames, WINDOWS, seed=0, device=device)
            if train(model, footage, options.poses or poses, folder, options.minutes):
                errors.unlink(missing_ok=True)  # of other weights
                checkpoints.save_checkpoint(model, weights, torch.float16)
        if weights.exists():
            print(weights)
    elif options.step == "evaluate":
        # The bundled weights were trained on the validation subjects.
        file = weights if weights.exists() or options.validate else bundled().get(options.name, weights)
        measured = measure(checkpoints.load_checkpoint(file).to(device), errors, options.validate, options.demo)
        print(table(measured), real_table(measured), sep="\n\n")
    else:
        if options.validate:
            parser.error("weights that are not trained on the validation subjects are not bundled")
        for file, step in ((weights, "train"), (weights.with_name("history.csv"), "train"), (errors, "evaluate")):
            if not file.exists():
                parser.error(f"expected {file}, found no such file: run `{step} {options.name}` first")
        print(publish(options.name, weights, errors))


if __name__ == "__main__":
    main()
