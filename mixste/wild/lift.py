"""From a video, or the files of a detector, to 3D poses to take along: one clip, or a folder of them."""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn
from tqdm import tqdm

from mixste.accel import accelerate
from mixste.camera import normalize_screen
from mixste.data.readers.detections import Detections, fill_gaps, follow, to_human36m
from mixste.data.readers.formats import READERS, read
from mixste.data.readers.structures import is_clip
from mixste.io import DataError
from mixste.io.guard import guarded
from mixste.predict import predict
from mixste.skeleton import human36m, layouts_of
from mixste.wild.outputs import SHOWN, WRITERS, Lifted
from mixste.wild.video import SUFFIXES, detect, pyav
from mixste.wild.viewer import view

OUTPUTS = {**WRITERS, "html": lambda lifted, path: view(lifted.shown("html")).save(path)}

SHORT_GAP = 0.5  # seconds that a point may be unseen before a straight line is no good guess
FPS = 30.0  # of files that do not say
FPS_RANGE = (0.01, 10_000.0)
FARTHEST = 1000  # image widths or heights that a point may lie away; detectors guess, but not that far

# How tall people are on the screens that networks learn from, the least, the most and the median clip of the synthetic
# source under Human3.6M's cameras: from the highest to the lowest joint in units of `normalize_screen` (the image is 2
# wide).
USUAL, MEDIAN = (0.27, 0.95), 0.64


def lift_clip(
    detections: Detections, model: nn.Module, *, fps: float | None = None, person: int = 0, flip: bool = True
) -> Lifted:
    """Lift one person of a clip.

    Gaps of up to half a second are filled along straight lines, point by point, before the points become human36m's
    joints; longer ones after, which the notes say. fps: over what the file says. person: 0 for the most prominent.
    A person much larger or smaller on the screen than in training is lifted as if the image had been extended on all
    sides, or cropped around them. DataError if there is no such person, a joint is seen in no frame, or a point lies
    where no detector puts one.
    """
    check_layout(model)
    return _lifted(_keypoints(detections, fps, person), model, flip)


def check_layout(model: nn.Module) -> None:
    """Raise DataError unless the network was trained on human36m's joints, the only ones made from a detector's."""
    if model.layout is None and human36m.name in layouts_of(model.joints):
        raise DataError(
            f"expected a network trained on human36m's joints, found one of {model.joints} joints whose file does not "
            'say which: if it was, give --network-layout human36m, in Python model.layout = "human36m"'
        )
    if model.layout != human36m.name:
        raise DataError(
            f"expected a network trained on human36m's 17 joints, found one of {model.joints} joints "
            f"({model.layout or 'no layout known here'})"
        )


def _keypoints(detections: Detections, fps: float | None, person: int) -> dict:
    """What `Lifted` holds of one person of a clip, but for the poses."""
    notes = list(detections.notes)
    fps = detections.fps if fps is None else fps
    if fps is None:
        notes.append(f"frames a second are not in the file: taken as {FPS:g}")
        fps = FPS
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise DataError(
            f"{detections.name}: expected {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g} frames a second, found {fps:g}"
        )
    with np.errstate(all="ignore"):  # numbers that are too large are told below
        points, people = follow(detections, person)
    far = np.abs(points).max(axis=(1, 2), where=np.isfinite(points), initial=0) > FARTHEST * max(detections.resolution)
    if far.any():
        frame = int(far.argmax())
        raise DataError(
            f"{detections.name}: expected points in or near an image of {' × '.join(map(str, detections.resolution))} "
            f"pixels, found one at {np.nanmax(np.abs(points[frame])):g} in frame {frame}"
        )
    if people > 1:
        notes.append(f"lifted person {person} of {people}, counted from 0 by size and time in view")

    seen = np.isfinite(to_human36m(points, detections.names)[..., 0])  # (frames, 17)
    limit = round(SHORT_GAP * fps)
    joints = to_human36m(fill_gaps(points, limit), detections.names)
    notes += _doubts(joints, detections.resolution)
    never = [
        name for name, found in zip(human36m.joints, np.isfinite(joints).any(axis=(0, 2)), strict=True) if not found
    ]
    if never:
        raise DataError(f"{detections.name}: expected to see every joint in some frame, never found {', '.join(never)}")
    guessed = np.flatnonzero(np.isnan(joints).any(axis=(1, 2)))
    if len(guessed):
        notes.append(
            f"in {len(guessed)} of {len(joints)} frames, the first {guessed[0]}, the last {guessed[-1]}, a joint was "
            f"out of sight for more than {SHORT_GAP:g} s: do not trust them"
        )
    away = np.setdiff1d(np.flatnonzero(np.isnan(points).all(axis=(1, 2))), guessed)
    if len(away):
        notes.append(
            f"nothing of the person is seen in {len(away)} of {len(points)} frames, the first {away[0]}, the last "
            f"{away[-1]}: filled in"
        )
    return {
        "name": detections.name,
        "fps": fps,
        "resolution": detections.resolution,
        "keypoints": fill_gaps(joints),
        "filled": ~seen,
        "notes": tuple(notes),
    }


def _doubts(joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]) -> list[str]:
    """Notes on what networks have not seen in training, and what else may be behind it."""
    notes = []
    hip, thorax = (joints[:, human36m.joints.index(name)] for name in ("Hip", "Thorax"))
    trunk = hip - thorax
    upright = trunk[:, 1] / np.linalg.norm(trunk, axis=-1).clip(1e-9)
    upright = float(np.median(upright[np.isfinite(upright)])) if np.isfinite(upright).any() else 1.0
    if upright < -0.5:
        notes.append(
            "the person is upside down in most frames, unlike in training: is y counted upwards in the file, or the "
            "video turned?"
        )
    elif upright < 0.3:
        notes.append(
            "the person lies on their side in most frames, unlike in training: is y before x in the file, or the video "
            "turned?"
        )
    cut = ((joints <= 0) | (joints >= np.array(resolution) - 1)).any(axis=(1, 2)).sum()
    if cut:
        notes.append(
            f"in {cut} of {len(joints)} frames a joint is on the edge of the image or outside of it, where no detector "
            "can see it"
        )
    return notes


def _lifted(about: dict, model: nn.Module, flip: bool) -> Lifted:
    """The poses of what `_keypoints` gave."""
    screen, note = _framed(about["keypoints"], about["resolution"])
    with tqdm(desc=about["name"], total=len(screen), unit="frame", unit_scale=True, leave=False, disable=None) as bar:
        try:
            poses = predict(model, screen.astype(np.float32), flip, progress=bar.update)
        except ValueError as error:
            raise DataError(f"{about['name']}: {error}") from None
    poses -= poses[:, [human36m.root]]
    return Lifted(**about | {"poses": poses, "notes": (*about["notes"], *([note] if note else []))})


def _framed(
    joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]
) -> tuple[Float[np.ndarray, "frames 17 2"], str]:
    """Joints in screen units, and a note if they had to be seen through another frame than the image's."""
    tall = float(np.median(np.ptp(joints[..., 1], axis=1)))  # pixels
    share = 2 * tall / resolution[0]
    if USUAL[0] <= share <= USUAL[1] or tall == 0:
        return normalize_screen(joints, *resolution), ""
    side = 2 * tall / MEDIAN
    # A wider view keeps the middle, where the camera points to; a narrower one might then not hold the person.
    wider = share > USUAL[1]
    middle = np.array(resolution) / 2 if wider else np.median(joints, axis=(0, 1))
    return normalize_screen(joints - middle + side / 2, side, side), (
        f"the person is {share / 2:.2f} image widths tall, {USUAL[0] / 2:g} to {USUAL[1] / 2:g} in training: lifted as "
        f"if filmed {side:.0f} pixels wide{'' if wider else ' and centred'}"
    )


def clips_in(source) -> list[Path]:
    """The clips of a file or folder: itself, or a folder's videos, .json, .npz, .npy, .csv and folders of frames."""
    source = Path(source)
    if not source.is_dir() or is_clip(source):
        return [source]
    known = (*(f".{kind}" for kind in READERS), *SUFFIXES)
    paths = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    clips = [path for path in paths if path.suffix.lower() in known or (path.is_dir() and is_clip(path))]
    if not clips:
        raise DataError(
            f"{source}: expected videos, keypoints in .json, .npz, .npy or .csv, or folders of frames, found none"
        )
    return clips


def lift(
    source,
    out,
    model: nn.Module,
    *,
    format: str = "auto",
    layout: str | None = None,
    resolution: tuple[int, int] | None = None,
    units: str = "auto",
    fps: float | None = None,
    person: int = 0,
    flip: bool = True,
    outputs: Sequence[str] = ("npz", "csv", "json", "bvh", "html"),
) -> Iterator[Lifted | DataError]:
    """Lift every clip of a file or folder and write each, as soon as it is lifted, as out/NAME.npz and so on.

    format, layout, resolution, units: see `formats.read`; fps, person, flip: see `lift_clip`. outputs: any of npz,
    csv, json, bvh, gif, mp4 and html. A clip that cannot be read gives its DataError in place of what was lifted, and
    the others go on. The network is accelerated: poses are those of `lift_clip` up to rounding. Raises DataError at
    once where nothing can be lifted, an output is unknown, or would replace what is lifted; ImportError for .mp4
    without the extra `video`.
    """
    check_layout(model)
    unknown = [kind for kind in outputs if kind not in OUTPUTS]
    if unknown:
        raise DataError(f"unknown output {unknown[0]!r}: expected some of {', '.join(OUTPUTS)}")
    if "mp4" in outputs:
        pyav()  # or its absence would show when others are written already
    clips = clips_in(source)
    stems = [clip.stem for clip in clips]
    names = [clip.stem if stems.count(clip.stem) == 1 else clip.name for clip in clips]
    names = names if len(set(names)) == len(names) else [clip.name for clip in clips]
    read_from = {clip.resolve() for clip in clips}
    for name in names:
        for kind in outputs:
            if (Path(out) / f"{name}.{kind}").resolve() in read_from:
                raise DataError(
                    f"expected another folder for the results: {name}.{kind} in {out} is what they come from"
                )

    model = accelerate(model)

    def run() -> Iterator[Lifted | DataError]:
        for clip, name in zip(tqdm(clips, "lifting", unit="clip", disable=None), names, strict=True):
            try:
                video = clip.suffix.lower() in SUFFIXES
                with guarded(clip, "a clip of a person"):
                    seen = detect(clip) if video else read(clip, format, layout, resolution, units)
                with guarded(seen.name, "a clip of a person"):
                    keypoints = _keypoints(seen, fps, person)
                    del seen  # of a long clip it is large
                    lifted = _lifted(keypoints, model, flip)
            except DataError as error:
                yield error
                continue
            except ImportError as error:  # the keypoints beside a video are lifted without the extra
                yield DataError(f"{clip}: {error}")
                continue
            cut = [kind for kind in outputs if len(lifted.poses) > SHOWN.get(kind, np.inf)]
            notes = [f"{name}.{kind} shows the first {SHOWN[kind]:,} frames of {len(lifted.poses):,}" for kind in cut]
            lifted = replace(lifted, notes=(*lifted.notes, *notes))
            try:
                for kind in outputs:
                    OUTPUTS[kind](lifted, Path(out) / f"{name}.{kind}")
            except OSError as error:
                if error.errno not in (errno.EISDIR, errno.ENAMETOOLONG):  # of this clip; others fail for all
                    raise
                yield DataError(f"{clip}: {error}")
                continue
            yield lifted

    return run()
