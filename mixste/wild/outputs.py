"""A lifted clip, and the files that it is written to: .npz, .csv, .json, .bvh, .gif and .mp4; more in `wild.motion`."""

import itertools
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image, ImageColor, ImageDraw
from scipy.spatial.transform import Rotation

from mixste.io import DataError
from mixste.io.files import readable, replacing
from mixste.io.guard import guarded, read_arrays
from mixste.skeleton import Skeleton, human36m
from mixste.wild.quality import USUAL, Ranges, quality
from mixste.wild.video import film, save_mp4

PART = 10_000  # frames written at a time
# Pages and pictures of more frames open slowly or not at all: they show the first so many.
MAX_FRAMES = {"html": 50_000, "gif": 5_000, "glb": 50_000, "c3d": 65_534}  # C3D counts frames in 16 bits
# Camera axes to those of `Lifted.upright`: y up, and z towards the camera.
UPRIGHT = np.array([1, -1, -1])


@dataclass(frozen=True, eq=False)
class World:
    """A person on the floor, from `mixste.wild.world.place`.

    Axes are z up with the floor at 0, x to the camera's right and y away from it; the origin is below the hip of the
    first frame. poses: metres. contacts: whether the right and the left foot stand still on the floor. focal: pixels.
    rotation, position: camera axes in the world (columns) and the camera's place, so that the poses in camera axes are
    (poses − position) @ rotation. size: of the person, as a factor of the size as lifted.
    """

    poses: Float[np.ndarray, "frames 17 3"]
    contacts: Bool[np.ndarray, "frames 2"]
    focal: float
    rotation: Float[np.ndarray, "3 3"]
    position: Float[np.ndarray, "3"]
    size: float = 1.0


@dataclass(frozen=True, eq=False)
class Lifted:
    """The result of lifting one person of a clip.

    keypoints: the network's input, pixels. poses: metres in camera axes (x right, y down, z forward), relative to the
    hip. filled: which keypoints were not detected but interpolated. notes: assumptions and warnings, a sentence each.
    world: the person on the floor, if asked for. film: the video that it comes from, shown behind the keypoints.
    bands: metres around each joint, if asked for, see `mixste.wild.calibration`; in the size of `world`, if there is
    one. ranges: keypoints in the training of the network.
    """

    name: str
    fps: float
    resolution: tuple[int, int]
    keypoints: Float[np.ndarray, "frames 17 2"]
    poses: Float[np.ndarray, "frames 17 3"]
    filled: Bool[np.ndarray, "frames 17"]
    notes: tuple[str, ...] = ()
    world: World | None = None
    film: Path | None = None
    bands: Float[np.ndarray, "frames 17"] | None = None
    ranges: Ranges = USUAL

    def __post_init__(self):  # both may contain a file name
        object.__setattr__(self, "name", readable(self.name))
        object.__setattr__(self, "notes", tuple(map(readable, self.notes)))

    @classmethod
    def read(cls, path) -> "Lifted":
        """The clip in a file written by `write_npz`; DataError for any other."""
        path = Path(path)
        expected = "the .npz of a lifted clip"
        with guarded(path, expected):
            names = ("fps", "resolution", "keypoints", "poses", "filled", "notes", "bands", "ranges", *WORLD)
            arrays = read_arrays(path, names, expected)
            per_frame = {"poses": (17, 3), "keypoints": (17, 2), "filled": (17,)}
            per_frame |= {"bands": (17,)} if "bands" in arrays else {}
            for name, last in per_frame.items():
                shape = (len(arrays["poses"]), *last)
                if arrays[name].shape != shape or not np.isfinite(arrays[name]).all() or not len(arrays[name]):
                    raise DataError(f"expected finite {name} {shape} of a lifted clip, found {arrays[name].shape}")
            fps, (width, height) = float(arrays["fps"]), arrays["resolution"].tolist()
            if not 0 < fps < np.inf or not 0 < width < np.inf or not 0 < height < np.inf:
                raise DataError(
                    f"expected a lifted clip with a positive frame rate and image size, found {fps:g} and "
                    f"{width} × {height}"
                )
            return cls(
                name=path.stem,
                fps=fps,
                resolution=(width, height),
                keypoints=arrays["keypoints"],
                poses=arrays["poses"],
                filled=arrays["filled"].astype(bool),
                notes=tuple(map(str, arrays["notes"].tolist())),
                world=_world(arrays) if "world" in arrays else None,
                bands=arrays.get("bands"),
                ranges=Ranges(*arrays["ranges"].tolist()) if "ranges" in arrays else USUAL,
            )

    def cut(self, kind: str) -> "Lifted":
        """The first frames, as many as an output of that kind shows (MAX_FRAMES)."""
        first = slice(MAX_FRAMES.get(kind))
        world = self.world and replace(self.world, poses=self.world.poses[first], contacts=self.world.contacts[first])
        return replace(
            self,
            keypoints=self.keypoints[first],
            poses=self.poses[first],
            filled=self.filled[first],
            world=world,
            bands=None if self.bands is None else self.bands[first],
        )

    @cached_property
    def quality(self) -> dict:
        """How far the result can be trusted, see `mixste.wild.quality.quality`."""
        return quality(self.keypoints, self.filled, self.resolution, self.fps, self.ranges)

    def upright(self, part: slice = slice(None)) -> Float[np.ndarray, "frames 17 3"]:
        """Poses with y up and the floor at y = 0, x to the camera's right and z towards it, metres.

        Those of `world`; without it, as the camera is held: the hip stays above the origin, at the height that puts the
        lowest joint of the clip on the floor.
        """
        if self.world is not None:
            return self.world.poses[part][..., [0, 2, 1]].astype(np.float64) * [1, 1, -1]
        return self.poses[part].astype(np.float64) * UPRIGHT + [0, float(self.poses[..., 1].max()), 0]

    def shown(self) -> Float[np.ndarray, "frames 17 3"]:
        """Poses as pictures and pages show them, metres, y down: `poses`, or those of `world` around the middle of
        the path."""
        if self.world is None:
            return self.poses
        poses = self.upright() * UPRIGHT
        return poses - (poses.min(axis=(0, 1)) + poses.max(axis=(0, 1))) / 2


WORLD = {  # the fields of `World` by their names in files
    "world": "poses",
    "contacts": "contacts",
    "focal": "focal",
    "camera_rotation": "rotation",
    "camera_position": "position",
    "size": "size",
}


def _arrays(world: World | None) -> dict[str, np.ndarray]:
    """The fields of a world as arrays, none without one."""
    return {name: np.array(getattr(world, field)) for name, field in WORLD.items()} if world else {}


def _world(arrays: dict[str, np.ndarray]) -> World:
    """The world in a file's arrays."""
    frames = len(arrays["poses"])
    shapes = {"world": (frames, 17, 3), "contacts": (frames, 2), "focal": (), "camera_rotation": (3, 3)}
    arrays = {"size": np.array(1.0)} | arrays  # older files have none
    for name, shape in {**shapes, "camera_position": (3,), "size": ()}.items():
        if name not in arrays or arrays[name].shape != shape or not np.isfinite(arrays[name]).all():
            size = arrays[name].shape if name in arrays else "none"
            raise DataError(f"expected finite {name} {shape} of a clip in the world, found {size}")
    fields = {field: arrays[name] for name, field in WORLD.items()}
    numbers = {name: float(fields[name]) for name in ("focal", "size")}
    return World(**fields | numbers | {"contacts": fields["contacts"].astype(bool)})


def write_npz(lifted: Lifted, path) -> None:
    """Every field as an array, for `Lifted.read` and NumPy."""
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            poses=lifted.poses.astype(np.float32),
            keypoints=lifted.keypoints.astype(np.float32),
            filled=lifted.filled,
            fps=lifted.fps,
            resolution=np.array(lifted.resolution),
            joints=np.array(human36m.joints),
            notes=np.array(lifted.notes, dtype=np.str_),
            quality=np.array(lifted.quality["words"]),
            swaps=np.array(lifted.quality["swaps"], dtype=np.int64),
            ranges=np.array(lifted.ranges),
            **({} if lifted.bands is None else {"bands": lifted.bands.astype(np.float32)}),
            **_arrays(lifted.world),
        )


def write_csv(lifted: Lifted, path) -> None:
    """One row per frame: frame, seconds, then x, y and z of every joint in metres.

    In the world if the clip is placed there; then also 1 for each foot that stands still. With bands, these follow.
    """
    poses = lifted.world.poses if lifted.world else lifted.poses
    names = ["frame", "seconds", *(f"{joint}_{axis}" for joint in human36m.joints for axis in "xyz")]
    formats = ["%d", *["%.5f"] * (len(names) - 1)]
    if lifted.world:
        names, formats = [*names, "RFoot_contact", "LFoot_contact"], [*formats, "%d", "%d"]
    if lifted.bands is not None:
        names = [*names, *(f"{joint}_band" for joint in human36m.joints)]
        formats = [*formats, *["%.5f"] * len(human36m.joints)]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(",".join(names) + "\n")
        for part in parts(lifted):
            frames = np.arange(part.start, part.stop)
            columns = [frames, frames / lifted.fps, poses[part].reshape(len(frames), -1)]
            columns += [lifted.world.contacts[part]] if lifted.world else []
            columns += [] if lifted.bands is None else [lifted.bands[part]]
            np.savetxt(file, np.column_stack(columns), fmt=formats, delimiter=",")


def write_json(lifted: Lifted, path) -> None:
    """All fields for programs without NumPy: poses in metres, keypoints in pixels, names and parents of the joints."""
    about = {
        "name": lifted.name,
        "fps": lifted.fps,
        "resolution": lifted.resolution,
        "joints": human36m.joints,
        "parents": human36m.parents,
    }

    def text(content) -> str:
        return json.dumps(content, separators=(",", ":"))

    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text(about)[:-1])
        large = [("poses", lifted.poses, 5), ("keypoints", lifted.keypoints, 2)]
        large += [("world", lifted.world.poses, 5)] if lifted.world else []
        large += [] if lifted.bands is None else [("bands", lifted.bands, 5)]
        for name, values, digits in large:
            file.write(f',"{name}":[')
            for part in parts(lifted):
                rounded = np.round(values[part].astype(np.float64), digits).tolist()
                file.write("," * (part.start > 0) + text(rounded)[1:-1])
            file.write("]")
        for name in WORLD if lifted.world else ():
            if name != "world":
                file.write(f',"{name}":{text(_arrays(lifted.world)[name].tolist())}')
        file.write(f',"filled":{text(lifted.filled.tolist())},"notes":{text(lifted.notes)}')
        file.write(f',"quality":{text(lifted.quality)}}}')


def parts(lifted: Lifted) -> Iterator[slice]:
    """The frames of a clip in parts: a million of them as text would fill the memory."""
    frames = len(lifted.poses)
    return (slice(start, min(start + PART, frames)) for start in range(0, frames, PART))


# --- BVH -------------------------------------------------------------------------------------------------------

# The rest pose is a T, facing +z: the direction of each joint from its parent.
_DOWN, _UP, _LEFT, _RIGHT = (0, -1, 0), (0, 1, 0), (1, 0, 0), (-1, 0, 0)
AT_REST = np.array(
    [(0, 0, 0), _RIGHT, _DOWN, _DOWN, _LEFT, _DOWN, _DOWN, _UP, _UP, _UP, _UP, *[_LEFT] * 3, *[_RIGHT] * 3], dtype=float
)
TIPS = {3: (0, 0, 0.15), 6: (0, 0, 0.15), 10: (0, 0.05, 0), 13: (0.1, 0, 0), 16: (-0.1, 0, 0)}  # end sites, metres


def write_bvh(lifted: Lifted, path) -> None:
    """A skeleton with joint rotations, for Blender and other animation programs; metres, y up, floor at y = 0.

    Every bone has the direction of the pose's bone and a constant length: the median over the clip, averaged over left
    and right. For that, a joint with several children (hip, thorax) gets an extra joint of zero length for each of
    them. The hip moves as in `Lifted.upright`.
    """
    offsets = rest_offsets(lifted)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        before = None  # the angles of the frame before a part
        for part in parts(lifted):
            upright = lifted.upright(part)
            joints = hierarchy(offsets, upright)
            if before is None:
                text, order = _header(joints)
                text += ["MOTION", f"Frames: {len(lifted.poses)}", f"Frame Time: {1 / lifted.fps:.8f}"]
                file.write("\n".join(text) + "\n")
            angles = np.concatenate([_angles(joints, name) for name in order], axis=1)
            whole = angles if before is None else np.concatenate([before, angles])
            angles = np.unwrap(whole, period=360, axis=0)[-len(angles) :]
            before = angles[-1:]
            rows = np.concatenate([upright[:, human36m.root], angles], axis=1)
            file.writelines(f"{_numbers(row)}\n" for row in rows.tolist())


def rest_offsets(lifted: Lifted) -> Float[np.ndarray, "17 3"]:
    """Each joint from its parent in the rest pose, metres; bones have one length for left and right."""
    lengths = np.concatenate([np.linalg.norm(_bones(lifted.upright(part)), axis=-1) for part in parts(lifted)])
    lengths = np.median(lengths, axis=0)
    return AT_REST * ((lengths + lengths[human36m.mirror]) / 2)[:, None]


def _bones(upright: Float[np.ndarray, "frames 17 3"]) -> Float[np.ndarray, "frames 17 3"]:
    """Each joint relative to its parent."""
    return upright - upright[:, [max(0, parent) for parent in human36m.parents]]


def hierarchy(
    offsets: Float[np.ndarray, "17 3"], upright: Float[np.ndarray, "frames 17 3"]
) -> dict[str, tuple[str, Float[np.ndarray, "3"], Rotation]]:
    """The joints of an animated skeleton by name, parents first: their parent there, offset and world rotation."""
    bones = _bones(upright)
    names, parents = human36m.joints, human36m.parents
    joints = {"": ("", np.zeros(3), Rotation.identity(len(bones)))}
    hangs_from = {human36m.root: ""}
    for joint in human36m.top_down:
        name, above = names[joint], hangs_from[joint]
        below = [child for child, parent in enumerate(parents) if parent == joint]
        turn = joints[above][2]
        if len(below) == 1:
            turn = _swing(turn, AT_REST[below[0]], bones[:, below[0]])
        elif below:
            turn = _turn(offsets[below], bones[:, below])
        joints[name] = (above, offsets[joint], turn)
        for child in below:
            hangs_from[child] = name
            if len(below) > 1:
                hangs_from[child] = f"{name}To{names[child]}"
                joints[hangs_from[child]] = (name, np.zeros(3), _swing(turn, AT_REST[child], bones[:, child]))
    return joints


def _header(joints: dict[str, tuple[str, Float[np.ndarray, "3"], Rotation]]) -> tuple[list[str], list[str]]:
    """The lines of the file before the motion, and the names of its joints in order."""
    text, order = ["HIERARCHY"], []

    def write(name: str, depth: int) -> None:
        parent, offset, _ = joints[name]
        order.append(name)
        channels = "3" if parent else "6 Xposition Yposition Zposition"
        pad = "\t" * depth
        text.extend([f"{pad}{'JOINT' if parent else 'ROOT'} {name}", f"{pad}{{", f"{pad}\tOFFSET {_numbers(offset)}"])
        text.append(f"{pad}\tCHANNELS {channels} Zrotation Xrotation Yrotation")
        below = [child for child, (above, *_) in joints.items() if child and above == name]
        for child in below:
            write(child, depth + 1)
        if not below:
            tip = _numbers(TIPS[human36m.joints.index(name)])
            text.extend([f"{pad}\tEnd Site", f"{pad}\t{{", f"{pad}\t\tOFFSET {tip}", f"{pad}\t}}"])
        text.append(f"{pad}}}")

    write(human36m.joints[human36m.root], 0)
    return text, order


def _angles(joints: dict, name: str) -> Float[np.ndarray, "frames 3"]:
    """A joint's rotation relative to its parent, as Euler angles about Z, X and Y, degrees."""
    parent, _, turn = joints[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # gimbal lock: any of the equivalent triples will do
        return (joints[parent][2].inv() * turn).as_euler("ZXY", degrees=True)


def _turn(rest: Float[np.ndarray, "vectors 3"], now: Float[np.ndarray, "frames vectors 3"]) -> Rotation:
    """The rotation of each frame that best maps the vectors at rest to the current ones (Kabsch)."""
    u, _, vt = np.linalg.svd(np.einsum("va,fvb->fab", rest, now))
    u[..., 2] *= np.linalg.det(u @ vt)[:, None]  # never a reflection
    return Rotation.from_matrix((u @ vt).swapaxes(1, 2))


def _swing(before: Rotation, rest: Float[np.ndarray, "3"], now: Float[np.ndarray, "frames 3"]) -> Rotation:
    """`before`, followed by the smallest rotation that turns the direction at rest to `now`."""
    old = before.apply(np.tile(rest, (len(now), 1)))
    axis, dot = np.cross(old, now), np.sum(old * now, axis=-1)
    size = np.linalg.norm(axis, axis=-1)
    # For parallel vectors any perpendicular axis will do; a bone of zero length does not turn.
    across = np.cross(old, np.eye(3)[np.argmin(np.abs(old), axis=-1)])
    axis = np.where(size[:, None] > 1e-12, axis, across)
    angle = np.arctan2(size, dot)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis, axis=-1, keepdims=True) * angle[:, None]) * before


def _numbers(values) -> str:
    return " ".join(f"{value:.5f}" for value in values)


# --- animations ------------------------------------------------------------------------------------------------

SIDES = ("#444444", "#d1495b", "#1f6fb4")  # middle, left, right, as in the viewer
GROUND, GRID = "#f4f4f4", "#d4d4d4"  # the image plane, the lines of the floor
SMOOTH = 3  # antialiasing: pictures are drawn this much larger and scaled down


def pictures(
    keypoints: Float[np.ndarray, "frames joints 2"] | None,
    resolution: tuple[float, float] | None,
    bodies: Sequence[Float[np.ndarray, "frames joints 3"]],
    height: int = 240,
    names: Sequence[str] = (),
    skeleton: Skeleton = human36m,
    film: Iterable[Image.Image] | None = None,
) -> Iterator[Image.Image]:
    """Each frame as a row of square panels: the keypoints in the image plane, then each body seen obliquely.

    keypoints, resolution: pixels; None for poses alone. bodies: poses in metres, camera axes, relative to the root, all
    drawn in one scale, above a floor at the lowest joint of each. names: the title of each panel. film: pictures to
    show behind the keypoints, whose panel then has their shape.
    """
    size = height * SMOOTH
    reach = max(1e-6, *(float(np.linalg.norm(body, axis=-1).max()) for body in bodies))
    turn = Rotation.from_euler("yx", [0.5, 0.15]).as_matrix()[:2]  # right and down on the picture
    panels, ground, floors = [], None, []
    left = 0  # of the first body's panel
    if keypoints is not None:
        left = size if film is None else SMOOTH * round(height * resolution[0] / resolution[1])
        scale = 0.96 * size / max(resolution) if film is None else size / resolution[1]
        corner = (np.array([left, size]) - np.array(resolution) * scale) / 2
        ground = [*corner, *(corner + np.array(resolution) * scale)]
        panels.append(keypoints * scale + corner)
    for column, body in enumerate(bodies):
        centre = size / 2 + np.array([left + column * size, 0])
        panels.append(body @ turn.T * 0.47 * size / reach + centre)
        lines = _floor(reach) + np.array([0, body[..., 1].max(), 0])  # y is down there
        floors += [[tuple(end) for end in line] for line in (lines @ turn.T * 0.47 * size / reach + centre).tolist()]
    sides = np.zeros(len(skeleton.joints), dtype=int)
    sides[list(skeleton.left)], sides[list(skeleton.right)] = 1, 2

    for points, behind in zip(
        zip(*panels, strict=True), itertools.repeat(None) if film is None else film, strict=False
    ):
        picture = Image.new("RGB", (left + len(bodies) * size, size), "white")
        pen = ImageDraw.Draw(picture)
        for line in floors:
            pen.line(line, fill=GRID, width=SMOOTH)
        if behind is not None:
            picture.paste(behind.resize((left, size)))
        elif ground:
            pen.rectangle(ground, fill=GROUND)
        for body in points:
            for parent, child in skeleton.bones:
                ends = [tuple(body[parent].tolist()), tuple(body[child].tolist())]
                pen.line(ends, fill=SIDES[sides[child]], width=3 * SMOOTH)
            for joint, side in zip(body.tolist(), sides, strict=True):
                pen.circle(joint, 2 * SMOOTH, fill=SIDES[side])
        for column, name in enumerate(names):
            pen.text((column * size + size / 30, size / 60), name, fill=SIDES[0], font_size=size / 16)
        yield picture.reduce(SMOOTH)


def _floor(reach: float) -> Float[np.ndarray, "lines ends 3"]:
    """Lines 0.4 m apart for bodies that reach so far from the origin, at y = 0, as in the viewer."""
    most = 2 + max(0, math.ceil((reach - 1.2) / 0.4))
    across = range(-most, most + 1)
    return 0.4 * np.array(
        [line for k in across for line in ([(k, 0, -most), (k, 0, most)], [(-most, 0, k), (most, 0, k)])]
    )


def save_gif(moving: Iterable[Image.Image], fps: float, path) -> None:
    """Write the output of `pictures` as a looping .gif, whose palette blends each side's colour into the background."""
    inks, grounds = map(ImageColor.getrgb, SIDES), [ImageColor.getrgb(ground) for ground in ("white", GROUND)]
    colours = [np.linspace(ink, ground, 6).round() for ink in inks for ground in grounds]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate(colours).astype(int).ravel().tolist())
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in moving)
    # Durations are whole hundredths of a second: each frame ends at the one nearest to its time.
    ends = np.rint(np.arange(len(others) + 2) * 100 / fps).astype(int)
    durations = (10 * np.diff(ends)).tolist()
    with replacing(path) as temporary:
        first.save(temporary, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def write_gif(lifted: Lifted, path, height: int = 240) -> None:
    """Keypoints and pose side by side, for pages and slides: at most 25 frames/s, and the first of a long clip."""
    lifted = lifted.cut("gif")
    every = max(1, round(lifted.fps / 25))
    moving = pictures(lifted.keypoints[::every], lifted.resolution, [lifted.shown()[::every]], height)
    save_gif(moving, lifted.fps / every, path)


def write_mp4(lifted: Lifted, path, height: int = 480) -> None:
    """The same as a video (H.264), larger, with every frame and its film; ImportError without the extra `video`."""
    behind = lifted.film and film(lifted.film, lifted.fps, len(lifted.poses))
    moving = pictures(lifted.keypoints, lifted.resolution, [lifted.shown()], height, film=behind)
    save_mp4(moving, lifted.fps, path)


WRITERS = {
    "npz": write_npz,
    "csv": write_csv,
    "json": write_json,
    "bvh": write_bvh,
    "gif": write_gif,
    "mp4": write_mp4,
}
