"""BVH motion capture; by default the joints of the Bandai-Namco Research Motiondataset."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mixste.data.readers.asf_amc import Line, lines, with_parents
from mixste.io import DataError

# The joint of the file for each joint of human36m. The head top, CROWN, has none.
CROWN = "crown"
HUMAN36M = (
    *("Hips", "UpperLeg_R", "LowerLeg_R", "Foot_R", "UpperLeg_L", "LowerLeg_L", "Foot_L"),
    *("Chest", "Neck", "Head", CROWN),
    *("UpperArm_L", "LowerArm_L", "Hand_L", "UpperArm_R", "LowerArm_R", "Hand_R"),
)
HEAD = np.array([18.0, 0, 0])  # from the head joint to the crown along the head's own bone axis, centimetres

END = " end"  # the end site of joint "Head" is the joint "Head end", without channels

CHANNELS = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}


@dataclass(frozen=True)
class Joint:
    """parent: its name, "" for the root. offset: position in the parent's frame at rest, in the file's unit of length.

    channels: names of its degrees of freedom in a motion. column: that of the first one in the motion's values.
    """

    parent: str
    offset: Float[np.ndarray, "3"]
    channels: tuple[str, ...] = ()
    column: int = 0


@dataclass(frozen=True)
class Motion:
    """joints: by name, parents before children. values: lengths in the file's unit, degrees. fps: frames a second."""

    joints: dict[str, Joint]
    values: Float[np.ndarray, "frames channels"]
    fps: float


def read_bvh(text: str, file: str = "bvh") -> Motion:
    """The skeleton and motion in the text of a .bvh file.

    file: its name. Raises DataError, with the file's name and line, for what is missing or malformed, a wrong number
    of values or frames, and NaN.
    """
    rows = lines(text, file)
    joints = _hierarchy(rows, file)
    end = Line(file, text.count("\n"), ["end", "of", "file"])
    counts, times = next(rows, end), next(rows, end)
    if counts.words[:1] != ["Frames:"]:
        raise counts.error("a line such as 'Frames: 90' under MOTION")
    if times.words[:2] != ["Frame", "Time:"]:
        raise times.error("a line such as 'Frame Time: 0.0333333' under 'Frames:'")
    (frames,), (seconds,) = counts.numbers(1), times.numbers(1, start=2)
    if not 1e-3 <= seconds <= 1:
        raise times.error("a time of 0.001 to 1 second")
    width = sum(len(joint.channels) for joint in joints.values())
    values = [row.numbers(width, start=0) for row in rows]
    if not values or len(values) != frames:
        raise counts.error(f"the number of frames that follow, {len(values)}")
    return Motion(joints, np.array(values), 1 / seconds)


def _hierarchy(rows: Iterator[Line], file: str) -> dict[str, Joint]:
    """The joints up to the line MOTION."""
    joints: dict[str, Joint] = {}
    stack, opening, width = [""], "", 0  # names of the joints whose braces are open
    for line in rows:
        keyword, *rest = line.words
        if keyword in ("ROOT", "JOINT"):
            opening = " ".join(rest)
            if not opening or opening in joints or (keyword == "ROOT") != (not joints):
                raise line.error("the one root, or another joint by a name of its own")
        elif line.words == ["End", "Site"]:
            opening = stack[-1] + END
        elif keyword == "{":
            stack.append(opening)
        elif keyword == "}" and len(stack) > 1:
            stack.pop()
        elif keyword == "OFFSET" and len(stack) > 1 and stack[-1] not in joints and (stack[-2] in joints or not joints):
            joints[stack[-1]] = Joint(stack[-2], np.array(line.numbers(3)))
        elif keyword == "CHANNELS" and stack[-1] in joints and not joints[stack[-1]].channels:
            channels = tuple(rest[1:])
            unique = len(set(channels)) == len(channels)
            if rest[:1] != [str(len(channels))] or not unique or not CHANNELS.issuperset(channels):
                raise line.error("a number of channels and their names, such as 1 Zrotation")
            joints[stack[-1]] = replace(joints[stack[-1]], channels=channels, column=width)
            width += len(channels)
        elif keyword == "MOTION" and joints and len(stack) == 1:
            return joints
        elif keyword != "HIERARCHY":
            raise line.error("the next line of a hierarchy of joints")
    raise DataError(f"{file}: expected a HIERARCHY and then MOTION, found the end of the file")


def joints(
    motion: Motion, names: tuple[str, ...] = HUMAN36M, per_metre: float = 100.0
) -> Float[np.ndarray, "frames joints 3"]:
    """Forward kinematics: positions of the named joints, metres, in the file's axes (Y up).

    per_metre: how many of the file's units of length make a metre. Position channels replace the offset; rotations
    apply in the order of their channels. Raises DataError for a joint that is not in the skeleton.
    """
    missing = [name for name in names if name not in motion.joints and name != CROWN]
    if missing:
        raise DataError(f"expected a skeleton with the joints of the data set, found none called {missing[0]!r}")

    parents = {name: joint.parent for name, joint in motion.joints.items()}
    turns, places = {"": Rotation.identity()}, {"": 0.0}
    for name in with_parents([name for name in names if name != CROWN], parents):
        joint = motion.joints[name]
        turning, local = {}, np.tile(joint.offset, (len(motion.values), 1))
        for column, channel in enumerate(joint.channels, joint.column):
            if channel.endswith("rotation"):
                turning[column] = channel[0]
            else:
                local[:, "XYZ".index(channel[0])] = motion.values[:, column]
        turns[name], places[name] = turns[joint.parent], places[joint.parent] + turns[joint.parent].apply(local)
        if turning:  # SciPy's capital letters are intrinsic rotations
            turns[name] *= Rotation.from_euler("".join(turning.values()), motion.values[:, list(turning)], degrees=True)
    if CROWN in names:
        places[CROWN] = places["Head"] + turns["Head"].apply(HEAD)
    return np.stack([places[name] for name in names], axis=1) / per_metre
