"""Acclaim motion capture: skeletons (.asf) and their motions (.amc), the format of HDM05 and CMU."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mixste.io import DataError

INCH = 0.0254  # metres
LARGEST = 1e9  # of any number in a file, so that no product of them overflows

# The bone at whose far end each joint of human36m sits. The head bone ends mid-head and the thorax lies 4 to 6 cm
# under the shoulders: close to Human3.6M's definitions, not the same.
HUMAN36M = (
    *("root", "rhipjoint", "rfemur", "rtibia", "lhipjoint", "lfemur", "ltibia"),
    *("upperback", "thorax", "upperneck", "head"),
    *("lclavicle", "lhumerus", "lradius", "rclavicle", "rhumerus", "rradius"),
)


class Line(NamedTuple):
    """The words of one line of a file, with the file name and line number."""

    file: str
    number: int
    words: list[str]

    def error(self, expected: str) -> DataError:
        text = repr(" ".join(self.words))
        if len(text) > 80:
            text = f"{text[:60]}…' ({len(self.words)} words)"
        return DataError(f"{self.file}, line {self.number}: expected {expected}, found {text}")

    def numbers(self, count: int, start: int = 1, stop: int | None = None) -> list[float]:
        """Words `start` to `stop` as numbers; the first word is the keyword."""
        try:
            values = list(map(float, self.words[start:stop]))
        except ValueError:
            values = []
        if len(values) != count or not all(map(LARGEST.__ge__, map(abs, values))):  # False for NaN
            raise self.error(f"{count} finite number{'s' * (count > 1)} of at most {LARGEST:,.0f}")
        return values


def lines(text: str, file: str) -> Iterator[Line]:
    """The lines that are not empty; "#" starts a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if words:
            yield Line(file, number, words)


@dataclass(frozen=True)
class Bone:
    """A bone, from its parent's far end to its own; the root is a bone without a parent.

    offset: from end to end in the rest pose, metres, world axes. axes: the frame of its rotations, relative to the
    world. order: of the rotations about the axes of that frame, the first applied first, such as "xyz". channels: its
    degrees of freedom in a motion, "rx" for a rotation about x, "tx" for a translation along x (of the root only).
    """

    parent: str
    offset: Float[np.ndarray, "3"]
    axes: Rotation
    order: str
    channels: tuple[str, ...]


@dataclass(frozen=True)
class Acclaim:
    """A skeleton: bones by name, parents before children, and the size of its units in metres and radians."""

    bones: dict[str, Bone]
    metres: float
    radians: float


@dataclass
class _Block:
    """The lines of a file on one bone, or on the units, by their keyword."""

    title: str
    lines: dict[str, Line] = field(default_factory=dict)

    def __getitem__(self, keyword: str) -> Line:
        if keyword not in self.lines:
            raise DataError(f"{self.title}: expected a line {keyword!r}, found none")
        return self.lines[keyword]


def read_asf(text: str, file: str = "asf") -> Acclaim:
    """The skeleton in the text of an .asf file.

    file: its name, for the DataError that names a missing or malformed line.
    """
    blocks = {":units": _Block(f"{file}, :units"), "root": _Block(f"{file}, :root")}
    parents = {"root": ""}
    section, block = "", _Block(file)
    for line in lines(text, file):
        keyword, *rest = line.words
        if keyword.startswith(":"):
            section, block = keyword, blocks.get("root" if keyword == ":root" else keyword, _Block(file))
        elif section == ":bonedata" and keyword == "begin":
            block = _Block(f"{file}, line {line.number}")
        elif section == ":bonedata" and keyword == "name":
            if len(rest) != 1 or rest[0] in blocks:
                raise line.error("the name of another bone")
            blocks[rest[0]] = block
        elif section == ":hierarchy" and keyword not in ("begin", "end"):
            for child in rest:
                if keyword not in parents or child in parents or child not in blocks:
                    raise line.error(f"a bone already placed and others of :bonedata to hang from it, not {child!r}")
                parents[child] = keyword
        else:
            block.lines[keyword] = line
    if len(parents) == 1:
        raise DataError(f"{file}: expected a :hierarchy of bones, found none")

    (length,), radians = blocks[":units"]["length"].numbers(1), _radians(blocks[":units"]["angle"])
    if length < 1 / LARGEST:
        raise blocks[":units"]["length"].error("a positive unit of length")
    metres = INCH / length

    bones = {}
    for bone, parent in parents.items():
        block = blocks[bone]
        axis, allowed = block["axis"], {"rx", "ry", "rz"}
        if parent:
            angles, order = axis.numbers(3, stop=4), axis.words[4:]
            offset = np.array(block["direction"].numbers(3)) * block["length"].numbers(1)
            channels, least = block.lines.get("dof"), 0
        else:
            angles, order = block["orientation"].numbers(3), axis.words[1:]
            offset, allowed = np.array(block["position"].numbers(3)), allowed | {"tx", "ty", "tz"}
            channels, least = block["order"], 6
        turns = "".join(order).lower()
        if sorted(turns) != ["x", "y", "z"]:
            raise axis.error("axes in some order such as XYZ at its end")
        names = tuple(word.lower() for word in channels.words[1:]) if channels else ()
        if not allowed.issuperset(names) or not least <= len(names) == len(set(names)):
            raise channels.error(f"{'all' if least else 'some'} of {' '.join(sorted(allowed))}, each once")
        # SciPy's lower-case letters are extrinsic rotations: "xyz" is Rz Ry Rx.
        axes = Rotation.from_euler(turns, [angles["xyz".index(axis)] * radians for axis in turns])
        bones[bone] = Bone(parent, offset * metres, axes, turns, names)
    return Acclaim(bones, metres, radians)


def _radians(line: Line) -> float:
    """The unit of angle, in radians, at the end of a line such as "angle deg" or ":DEGREES"."""
    unit = line.words[-1].lower().lstrip(":")[:3]
    if unit not in ("deg", "rad"):
        raise line.error("degrees or radians")
    return math.radians(1) if unit == "deg" else 1.0


def read_amc(text: str, skeleton: Acclaim, file: str = "amc") -> dict[str, Float[np.ndarray, "frames _channels"]]:
    """The motion in the text of an .amc file: the channels of each bone that moves, metres and radians.

    file: its name. Raises DataError, with the file's name and line, for a bone that is not in the skeleton, a wrong
    number of values, NaN, a frame out of order, or an incomplete one, as at the end of a truncated file.
    """
    widths = {bone: len(it.channels) for bone, it in skeleton.bones.items() if it.channels}
    values: dict[str, list[float]] = {bone: [] for bone in widths}  # frame after frame
    radians, frames, number, line = skeleton.radians, 0, 0, Line(file, 1, [])

    def finish_frame():
        for bone, width in widths.items():
            if len(values[bone]) < frames * width:
                raise line.error(f"bone {bone!r} before the end of frame {number}")

    for line in lines(text, file):
        first = line.words[0]
        if first in values and len(values[first]) < frames * widths[first]:
            values[first] += line.numbers(widths[first])
        elif first.lower() in (":degrees", ":radians"):
            radians = _radians(line)
        elif len(line.words) == 1 and first.isdecimal() and len(first) < 10:
            finish_frame()
            if frames and int(first) != number + 1:
                raise line.error(f"frame {number + 1}")
            number, frames = int(first), frames + 1
        elif not first.startswith(":"):
            raise line.error("a frame number, or a moving bone of the skeleton that is new to the frame")
    finish_frame()
    if not frames:
        raise DataError(f"{file}: expected at least one frame, found none")

    motion = {}
    for bone in widths:
        shifts = np.array([channel[0] == "t" for channel in skeleton.bones[bone].channels])
        motion[bone] = np.array(values[bone]).reshape(frames, -1) * np.where(shifts, skeleton.metres, radians)
    return motion


def joints(
    skeleton: Acclaim, motion: dict[str, Float[np.ndarray, "frames _channels"]], names: tuple[str, ...] = HUMAN36M
) -> Float[np.ndarray, "frames joints 3"]:
    """Forward kinematics: positions of the far ends of the named bones, metres, in the file's axes (Y up).

    A bone rotates by A M A⁻¹ in its parent's frame, with A its axes and M the product of its channels' rotations.
    Raises DataError for a bone that is not in the skeleton.
    """
    missing = [name for name in names if name not in skeleton.bones]
    if missing:
        raise DataError(f"expected a skeleton with the bones of HDM05 and CMU, found none called {missing[0]!r}")
    frames = len(motion["root"])

    def channel(name: str, kind: str, axes: str) -> Float[np.ndarray, "frames 3"]:
        values = dict(zip(skeleton.bones[name].channels, motion[name].T, strict=True))
        return np.stack([values.get(kind + axis, np.zeros(frames)) for axis in axes], axis=1)

    needed = with_parents(names, {name: bone.parent for name, bone in skeleton.bones.items()})
    turns, places = {"": Rotation.identity()}, {}
    for name in needed:
        bone = skeleton.bones[name]
        turns[name] = turns[bone.parent]
        if bone.channels:
            turn = Rotation.from_euler(bone.order, channel(name, "r", bone.order))
            turns[name] = turns[name] * bone.axes * turn * bone.axes.inv()
        if bone.parent:
            places[name] = places[bone.parent] + turns[name].apply(bone.offset)
        else:  # the root's offset is a position in the world, which its own rotation does not change
            places[name] = bone.offset + channel(name, "t", "xyz")
    return np.stack([places[name] for name in names], axis=1)


def with_parents(names: Iterable[str], parents: dict[str, str]) -> list[str]:
    """The named bones and their ancestors, in the order of `parents`, which is "" for the root."""
    needed: set[str] = set()
    for name in names:
        while name and name not in needed:
            needed.add(name)
            name = parents[name]
    return [name for name in parents if name in needed]
