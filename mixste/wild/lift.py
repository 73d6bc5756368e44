"""Lifts videos and the keypoint files of detectors, one clip or a folder of clips, and writes the 3D poses."""

import errno
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import nn
from tqdm import tqdm

from mixste.accel import accelerate
from mixste.data.readers.detections import Detections, fill_gaps, follow, jumps, side, to_human36m
from mixste.data.readers.formats import READERS, read
from mixste.data.readers.structures import is_clip
from mixste.io import DataError
from mixste.io.guard import guarded
from mixste.io.weights import bundled
from mixste.predict import predict
from mixste.skeleton import human36m, layouts_of
from mixste.wild.calibration import Calibration, both_ways
from mixste.wild.motion import c3d, write_c3d, write_glb, write_trc
from mixste.wild.outputs import MAX_FRAMES, WRITERS, Lifted
from mixste.wild.quality import on_screen
from mixste.wild.video import SUFFIXES, detect, pyav
from mixste.wild.viewer import view, view_people
from mixste.wild.world import Person, place_people

OUTPUTS = {
    **WRITERS,
    "glb": write_glb,
    "trc": write_trc,
    "c3d": write_c3d,
    "html": lambda lifted, path: view(lifted.cut("html")).save(path),
}

SHORT_GAP = 0.5  # seconds: the longest gap of a point for which a straight line is a fair guess
FPS = 30.0  # if a file has no frame rate
FPS_RANGE = (0.01, 10_000.0)
FARTHEST = 1000  # image sizes from the origin; no detector puts a point farther away
FOCAL = 1.15  # longer sides of the image, if the focal length is unknown: 47° across, as phones and many cameras see
OTHERS = "--person picks another, --person all lifts each"
LEFT_OUT = "people in view for less than a tenth of the clip are left out"
FOCAL_RANGE = (0.2, 50.0)  # longer sides of the image: 136° to 1° across


def lift_clip(
    detections: Detections,
    model: nn.Module,
    *,
    fps: float | None = None,
    person: int = 0,
    flip: bool = True,
    bands: bool = False,
) -> Lifted:
    """Lift one person of a clip.

    Gaps of up to half a second are filled by linear interpolation of each point, before the points become human36m's
    joints; longer ones by interpolation of the joints, which a note reports. fps: overrides the file's. person: 0 for
    the most prominent. A person much larger or smaller on the screen than in training is lifted as if the image had
    been extended on all sides, or cropped around them. bands: with a radius around each joint that holds the true one
    in 90 % of cases, see `mixste.wild.calibration`; flip is then on. Raises DataError for a network of another joint
    layout or without calibrated errors for the bands, for a person that does not exist, a joint that is detected in no
    frame, or a point impossibly far outside the image.
    """
    check_layout(model)
    calibration = _calibration(model, bands)
    return _lifted(_keypoints(detections, fps, person), model, flip, calibration, bands)


def _calibration(model: nn.Module, bands: bool) -> Calibration:
    """That of the weights. Raises DataError if bands are asked for and it has none."""
    calibration = Calibration.of(model)
    if bands and calibration.bands is None:
        having = [name for name, file in bundled().items() if Calibration.beside(file).bands]
        raise DataError(
            f"expected weights with calibrated errors for the bands, found none beside {model.file or 'the network'}"
            f"{calibration.note and ': ' + calibration.note}; bundled weights with bands: {', '.join(having) or 'none'}"
        )
    return calibration


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


def _keypoints(detections: Detections, fps: float | None, person: int, others: str = OTHERS) -> dict:
    """The fields of `Lifted`, except the poses, for one person of a clip; others: a note on the others, if any."""
    notes = list(detections.notes)
    fps = detections.fps if fps is None else fps
    if fps is None:
        notes.append(f"no frame rate in the file: assumed {FPS:g} frames/s; --fps sets another")
        fps = FPS
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise DataError(
            f"{detections.name}: expected {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g} frames/s, found {fps:g}; --fps sets "
            "another"
        )
    with np.errstate(all="ignore"):  # numbers too large are reported below
        points, people = follow(detections, person)
    far = np.abs(points).max(axis=(1, 2), where=np.isfinite(points), initial=0) > FARTHEST * max(detections.resolution)
    if far.any():
        frame = int(far.argmax())
        raise DataError(
            f"{detections.name}: expected points in or near an image of {' × '.join(map(str, detections.resolution))} "
            f"pixels, found one at {np.nanmax(np.abs(points[frame])):g} in frame {frame}"
        )
    if people > 1:
        where = side(points, detections.resolution[0])
        numbered = f"person {person} of {people}, {where} of the image, numbered from 0 by size and time in view"
        notes.append("; ".join(filter(None, (f"lifted {numbered}", others))))

    at = jumps(points)
    if len(at):
        notes.append(
            f"in {len(at)} of {len(points)} frames, the first {at[0]}, the last {at[-1]}, the person is half their "
            "size or more from where they were in the frame before: are the frames in order, of one clip and of one "
            "person?"
        )
    detected = np.isfinite(to_human36m(points, detections.names)[..., 0])  # (frames, 17)
    limit = round(SHORT_GAP * fps)
    joints = to_human36m(fill_gaps(points, limit), detections.names)
    notes += _unlike_training(joints, detections.resolution)
    in_some_frame = np.isfinite(joints).any(axis=(0, 2))
    missing = [name for name, detected_once in zip(human36m.joints, in_some_frame, strict=True) if not detected_once]
    if missing:
        raise DataError(
            f"{detections.name}: expected every joint to be detected in some frame, never found {', '.join(missing)}"
        )
    long_gaps = np.flatnonzero(np.isnan(joints).any(axis=(1, 2)))
    if len(long_gaps):
        notes.append(
            f"in {len(long_gaps)} of {len(joints)} frames, the first {long_gaps[0]}, the last {long_gaps[-1]}, a joint "
            f"is missing for more than {SHORT_GAP:g} s: their poses are unreliable"
        )
    empty = np.setdiff1d(np.flatnonzero(np.isnan(points).all(axis=(1, 2))), long_gaps)
    if len(empty):
        notes.append(
            f"the person is not detected in {len(empty)} of {len(points)} frames, the first {empty[0]}, the last "
            f"{empty[-1]}: filled in"
        )
    return {
        "name": detections.name,
        "fps": fps,
        "resolution": detections.resolution,
        "keypoints": fill_gaps(joints),
        "filled": ~detected,
        "notes": tuple(notes),
    }


def in_view(detections: Detections) -> list[int]:
    """The people who are in view for at least a tenth of the frames, by prominence; the most prominent one always."""
    follow(detections)  # raises DataError if there is nobody
    shares = [len(frames) / len(detections.people) for frames, _ in detections.tracks]
    return [person for person, share in enumerate(shares) if share >= 0.1 or person == 0]


def _unlike_training(joints: Float[np.ndarray, "frames 17 2"], resolution: tuple[int, int]) -> list[str]:
    """Notes on input unlike the training data, and on mistakes in the file that may cause it."""
    notes = []
    hip, thorax = (joints[:, human36m.joints.index(name)] for name in ("Hip", "Thorax"))
    trunk = hip - thorax
    upright = trunk[:, 1] / np.linalg.norm(trunk, axis=-1).clip(1e-9)
    upright = float(np.median(upright[np.isfinite(upright)])) if np.isfinite(upright).any() else 1.0
    if upright < -0.5:
        notes.append(
            "the person is upside down in most frames, unlike in training: is the layout wrong, does y point up in the "
            "file, or is the video rotated?"
        )
    elif upright < 0.3:
        notes.append(
            "the person lies on their side in most frames, unlike in training: is the layout wrong, does y come before "
            "x in the file, or is the video rotated?"
        )
    cut = ((joints <= 0) | (joints >= np.array(resolution) - 1)).any(axis=(1, 2)).sum()
    if cut:
        notes.append(
            f"in {cut} of {len(joints)} frames a joint is on the edge of the image or outside it, where no detector "
            "sees anything"
        )
    return notes


def _lifted(about: dict, model: nn.Module, flip: bool, calibration: Calibration, bands: bool) -> Lifted:
    """The result with the poses, from the fields that `_keypoints` gave."""
    screen, note = on_screen(about["keypoints"], about["resolution"], calibration.ranges)
    with tqdm(desc=about["name"], total=len(screen), unit="frame", unit_scale=True, leave=False, disable=None) as bar:
        try:
            if bands:
                poses, disagreement = both_ways(model, screen, lambda frames: bar.update(frames / 2))
                about |= {"bands": calibration.bands.radii(disagreement)}
            else:
                poses = predict(model, screen.astype(np.float32), flip, progress=bar.update)
        except ValueError as error:
            raise DataError(f"{about['name']}: {error}") from None
    poses -= poses[:, [human36m.root]]
    unit = "" if model.metres else "poses are in screen units, not in metres, as the authors of these weights have it"
    valid = calibration.bands.validity() if bands else ""
    about |= {"poses": poses, "ranges": calibration.ranges}
    return Lifted(**about | {"notes": (*about["notes"], *filter(None, (note, unit, calibration.note, valid)))})


def in_world(lifted: Lifted, focal: float | None = None) -> Lifted:
    """`in_one_world` of one person."""
    [result] = in_one_world([lifted], focal)
    return result


def in_one_world(people: Sequence[Lifted], focal: float | None = None) -> list[Lifted]:
    """The people of one clip with `world`: on the floor that they share, see `mixste.wild.world.place_people`.

    focal: the camera's focal length in pixels; None for a usual one, which a note says. Raises DataError for a length
    that no camera has.
    """
    first = people[0]
    longer = max(first.resolution)
    notes = ["in the world, z is up and 0 on the floor, x to the camera's right, y away from it, metres"]
    if focal is None:
        focal = FOCAL * longer
        notes.append(
            f"no focal length in the file: assumed {focal:.0f} pixels, {np.degrees(2 * np.arctan(0.5 / FOCAL)):.0f}° "
            "across the longer side; --focal-length sets another"
        )
    if not FOCAL_RANGE[0] <= focal / longer <= FOCAL_RANGE[1]:
        raise DataError(
            f"{first.name}: expected a focal length of {FOCAL_RANGE[0] * longer:.0f} to {FOCAL_RANGE[1] * longer:.0f} "
            f"pixels, {FOCAL_RANGE[0]:g} to {FOCAL_RANGE[1]:g} times the longer side of the image, found {focal:g}"
        )
    views = []
    for one in people:
        screen, _ = on_screen(one.keypoints, one.resolution, one.ranges)
        scale = np.ptp(one.keypoints) / max(np.ptp(screen), 1e-9)
        axis = one.keypoints[0, 0] - scale * screen[0, 0]  # the middle of what the network saw
        views.append(Person(one.poses, one.keypoints, one.filled, axis))
    placed = place_people(views, first.fps, first.resolution, focal)
    return [
        replace(
            one,
            world=world,
            bands=None if one.bands is None else one.bands * world.size,
            notes=(*one.notes, *notes, *more),
        )
        for one, (world, more) in zip(people, placed, strict=True)
    ]


def clips_in(source) -> list[Path]:
    """The clips in a file or folder: the path itself, or a folder's videos, keypoint files and folders of frames."""
    source = Path(source)
    suffixes = (*(f".{kind}" for kind in READERS), *SUFFIXES)
    if source.is_file() and source.suffix.lower() not in suffixes:
        raise DataError(
            f"{source}: expected a video ({', '.join(SUFFIXES)}), keypoints in .json, .jsonl, .npz, .npy or .csv, or a "
            f"folder, found {source.suffix or 'a file without an ending'}"
        )
    if not source.is_dir() or is_clip(source):
        return [source]
    paths = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    clips = [path for path in paths if path.suffix.lower() in suffixes or (path.is_dir() and is_clip(path))]
    if not clips:
        raise DataError(
            f"{source}: expected videos, keypoints in .json, .jsonl, .npz, .npy or .csv, or folders of frames, found "
            "none"
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
    person: int | None = 0,
    flip: bool = True,
    world: bool = False,
    focal: float | None = None,
    bands: bool = False,
    outputs: Sequence[str] = ("npz", "csv", "json", "bvh", "html"),
) -> Iterator[Lifted | DataError]:
    """Lift every clip of a file or folder, or of several, and write each, as soon as it is lifted, as out/NAME.npz
    and so on.

    format, layout, resolution, units: see `formats.read`; fps, person, flip, bands: see `lift_clip`. person None:
    everyone in view for at least a tenth of a clip, as NAME_person0.npz, NAME_person1.npz and so on, and all together
    in NAME.html. world: also place the people in the world, see `in_one_world`; focal: overrides the file's. outputs:
    any of OUTPUTS. A clip that cannot be read yields its DataError instead of a result, and the others are lifted. The
    network is accelerated: poses are those of `lift_clip` up to rounding. Raises DataError at once if the network has
    another joint layout, there are no clips, an output is unknown, or a result would overwrite its input or another
    result; ImportError for .mp4 without the extra `video`, for .c3d without `c3d`.
    """
    check_layout(model)
    if world and not model.metres:
        raise DataError("expected a network whose poses are in metres for the world, found one of screen units")
    calibration = _calibration(model, bands)
    unknown = [kind for kind in outputs if kind not in OUTPUTS]
    if unknown:
        raise DataError(f"unknown output {unknown[0]!r}: expected some of {', '.join(OUTPUTS)}")
    for kind, needed in (("mp4", pyav), ("c3d", c3d)):
        if kind in outputs:
            needed()  # fail before anything is written
    sources = [source] if isinstance(source, str | Path) else source
    clips = list(dict.fromkeys(clip for one in sources for clip in clips_in(one)))
    stems = [clip.stem for clip in clips]
    names = [clip.stem if stems.count(clip.stem) == 1 else clip.name for clip in clips]
    names = names if len(set(names)) == len(names) else [clip.name for clip in clips]
    if twice := next((name for place, name in enumerate(names) if name in names[:place]), None):
        raise DataError(f"expected clips of different names, found two of {twice}: give each its own folder with --out")
    inputs = {clip.resolve() for clip in clips}
    for path in Path(out).glob("*"):
        # The stem of a result is a clip's name, with --person all also followed by a number.
        stems = {path.stem, *re.findall(r"(.*)_person\d+", path.stem)} if person is None else {path.stem}
        if path.resolve() in inputs and path.suffix[1:].lower() in outputs and not stems.isdisjoint(names):
            raise DataError(f"expected another folder for the results: {path.name} in {out} would overwrite its input")

    model = accelerate(model)
    given = {"--format": format != "auto", "--layout": layout, "--size": resolution, "--units": units != "auto"}
    unused = [option for option, value in given.items() if value]  # by a video

    def write(lifted: Lifted, stem: str) -> Lifted:
        """Write all outputs of one person. Returns the result with notes on those that are cut short."""
        frames = len(lifted.poses)
        cut = [kind for kind in outputs if frames > MAX_FRAMES.get(kind, np.inf)]
        notes = [f"{stem}.{kind} shows the first {MAX_FRAMES[kind]:,} of {frames:,} frames" for kind in cut]
        lifted = replace(lifted, notes=(*lifted.notes, *notes))
        for kind in outputs:
            OUTPUTS[kind](lifted, Path(out) / f"{stem}.{kind}")
        return lifted

    def run() -> Iterator[Lifted | DataError]:
        for clip, name in zip(tqdm(clips, "lifting", unit="clip", disable=None), names, strict=True):
            try:
                video = clip.suffix.lower() in SUFFIXES
                with guarded(clip, "a clip of a person"):
                    detections = detect(clip, person != 0) if video else read(clip, format, layout, resolution, units)
                if video and unused:
                    note = f"a video has no use for {', '.join(unused)}"
                    detections = replace(detections, notes=(*detections.notes, note))
                with guarded(detections.name, "a clip of a person"):
                    numbers = in_view(detections) if person is None else [person]
                    length = detections.focal if focal is None else focal
                    others = OTHERS if person is not None else LEFT_OUT * (len(numbers) < len(detections.tracks))
            except DataError as error:
                yield error
                continue
            except ImportError as error:  # keypoint files are lifted without the extra
                yield DataError(f"{clip}: {error}")
                continue
            people = []
            for number in numbers:
                try:
                    with guarded(detections.name, "a clip of a person"):
                        keypoints = _keypoints(detections, fps, number, others)
                        if number == numbers[-1]:
                            del detections  # large for a long clip
                        if person is None:
                            keypoints["name"] += f"_person{number}"
                        lifted = _lifted(keypoints, model, flip, calibration, bands)
                    stem = name if person is not None else f"{name}_person{number}"
                    people.append((stem, replace(lifted, film=clip if video else None)))
                except DataError as error:
                    yield error
            if world and people:
                try:
                    with guarded(people[0][1].name, "a clip of a person"):
                        placed = in_one_world([lifted for _, lifted in people], length)
                except DataError as error:
                    yield error
                    continue
                people = [(stem, lifted) for (stem, _), lifted in zip(people, placed, strict=True)]
            together = []
            for stem, lifted in people:
                try:
                    lifted = write(lifted, stem)
                except DataError as error:
                    yield error
                    continue
                except OSError as error:
                    if error.errno not in (errno.EISDIR, errno.ENAMETOOLONG):  # due to this clip; others would recur
                        raise
                    yield DataError(f"{clip}: {error}")
                    continue
                together.append(lifted)
                yield lifted
            if person is None and "html" in outputs and together:
                view_people([lifted.cut("html") for lifted in together]).save(Path(out) / f"{name}.html")

    return run()
