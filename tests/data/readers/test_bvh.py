import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixste.data import DataError
from mixste.data.readers.bvh import CROWN, joints, read_bvh

# A root that moves and turns, a joint that turns, one with a position of its own, one without channels.
BVH = """HIERARCHY
ROOT base
{
  OFFSET 9 9 9
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT arm
  {
    OFFSET 0 100 0
    CHANNELS 3 Zrotation Xrotation Yrotation
    JOINT Head
    {
      OFFSET 7 7 7
      CHANNELS 4 Zposition Xposition Yposition Xrotation
      JOINT nail
      {
        OFFSET 0 0 10
        End Site
        {
          OFFSET 0 0 1
        }
      }
    }
  }
}
MOTION
Frames: 2
Frame Time: 0.0333333
0 0 0 0 0 0 0 0 0 0 0 50 0
10 20 30 0 0 0 0 0 0 1 2 3 0
"""

NAMES = ("base", "arm", "Head", "nail", CROWN)


def pose(*values) -> np.ndarray:
    text = BVH[: BVH.index("Frames")] + "Frames: 1\nFrame Time: 0.1\n" + " ".join(map(repr, values)) + "\n"
    return joints(read_bvh(text), NAMES)[0] * 100


def test_positions_replace_offsets_and_lengths_become_metres():
    motion = read_bvh(BVH)
    assert motion.fps == pytest.approx(30, abs=1e-4)
    places = joints(motion, NAMES)
    assert places.shape == (2, 5, 3)
    # the root's own offset and the Head's are not used: their position channels are
    np.testing.assert_allclose(places[0], [[0, 0, 0], [0, 1, 0], [0, 1.5, 0], [0, 1.5, 0.1], [0.18, 1.5, 0]])
    # in the order of the channels: z 1, x 2, y 3
    np.testing.assert_allclose(
        places[1], [[0.1, 0.2, 0.3], [0.1, 1.2, 0.3], [0.12, 1.23, 0.31], [0.12, 1.23, 0.41], [0.3, 1.23, 0.31]]
    )


def test_an_end_site_is_a_joint_without_channels():
    nail, tip = joints(read_bvh(BVH), ("nail", "nail end"))[1]
    np.testing.assert_allclose(tip - nail, [0, 0, 0.01], atol=1e-12)
    np.testing.assert_allclose(joints(read_bvh(BVH), ("arm",), per_metre=50)[0, 0], [0, 2, 0])


def test_turns_worked_by_hand():
    # Z 90 takes the arm's y to -x
    np.testing.assert_allclose(pose(0, 0, 0, 90, 0, 0, 0, 0, 0, 0, 0, 0, 0)[1], [-100, 0, 0], atol=1e-9)
    # Z then X then Y, each about axes that turned along, is Rz Rx Ry: Rx takes y to z, Rz leaves z.
    # The other way round (Ry Rx Rz) y would go to -x.
    np.testing.assert_allclose(pose(0, 0, 0, 90, 90, 0, 0, 0, 0, 0, 0, 0, 0)[1], [0, 0, 100], atol=1e-9)
    # what a joint's own turn moves is what hangs from it: X 90 takes the nail's z to -y and leaves the crown's x
    found = pose(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 50, 90)
    np.testing.assert_allclose(found[2:], [[0, 150, 0], [0, 140, 0], [18, 150, 0]], atol=1e-9)


def matrix(axis: str, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "X": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "Y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "Z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


@given(st.lists(st.floats(-180, 180), min_size=13, max_size=13))
def test_any_pose_agrees_with_matrices_multiplied_out(values):
    base = matrix("Z", values[3]) @ matrix("X", values[4]) @ matrix("Y", values[5])
    arm = base @ matrix("Z", values[6]) @ matrix("X", values[7]) @ matrix("Y", values[8])
    expected = [np.array(values[:3])]
    expected.append(expected[0] + base @ [0, 100, 0])
    expected.append(expected[1] + arm @ [values[10], values[11], values[9]])
    head = arm @ matrix("X", values[12])
    expected += [expected[2] + head @ [0, 0, 10], expected[2] + head @ [18, 0, 0]]
    np.testing.assert_allclose(pose(*values), expected, atol=1e-8)


def test_without_position_channels_the_offset_holds():
    text = BVH.replace("CHANNELS 4 Zposition Xposition Yposition Xrotation", "CHANNELS 1 Xrotation")
    text = (
        text.replace(" 0 50 0\n", "\n")
        .replace(" 1 2 3 0\n", " 0\n")
        .replace("0 0 0 0 0 0 0 0 0 0 0\n", "0 0 0 0 0 0 0 0 0 0\n")
    )
    np.testing.assert_allclose(joints(read_bvh(text), NAMES)[0, 2], [0.07, 1.07, 0.07])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10 20 30", "10 20", r"my\.bvh, line 29: expected 13 finite numbers of at most .*, found '10 20 0 0"),
        ("10 20 30", "10 20 30 40", r"line 29: expected 13 finite numbers"),
        ("10 20 30", "10 nan 30", r"line 29: expected 13 finite numbers"),
        ("10 20 30", "10 x 30", r"line 29: expected 13 finite numbers"),
        ("Frames: 2", "Frames: 3", r"line 26: expected the number of frames that follow, 2, found 'Frames: 3'"),
        ("Frames: 2", "Frames:", r"line 26: expected 1 finite number"),
        ("Frames: 2\n", "", r"line 26: expected a line such as 'Frames: 90'"),
        ("Frame Time: 0.0333333", "Frame Time: 0", r"line 27: expected a time of 0.001 to 1 second"),
        ("Frame Time: 0.0333333\n", "", r"line 27: expected a line such as 'Frame Time"),
        (BVH[BVH.index("MOTION") :], "", r"my\.bvh: expected a HIERARCHY and then MOTION, found the end"),
        (BVH[BVH.index("Frames") :], "", r"line 25: expected a line such as 'Frames: 90' .*, found 'end of file'"),
        ("JOINT arm", "JOINT base", r"line 6: expected .* another joint by a name of its own, found 'JOINT base'"),
        ("JOINT arm", "ROOT arm", r"line 6: expected the one root"),
        ("OFFSET 0 100 0", "OFFSET 0 100", r"line 8: expected 3 finite numbers"),
        ("CHANNELS 3 Z", "CHANNELS 2 Z", r"line 9: expected a number of channels and their names"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Zscale", r"line 9: expected a number of channels and their names"),
        ("CHANNELS 3 Zrotation", "CHANNELS 3 Xrotation", r"line 9: expected a number of channels and their names"),
        ("OFFSET 0 100 0", "OFSET 0 100 0", r"line 8: expected the next line of a hierarchy"),
        ("  }\n}\nMOTION", "  }\nMOTION", r"line 24: expected the next line of a hierarchy of joints, found 'MOTION'"),
    ],
)
def test_faults(old, new, message):
    assert old in BVH
    with pytest.raises(DataError, match=message):
        read_bvh(BVH.replace(old, new, 1), "my.bvh")


def test_a_skeleton_without_the_joints_asked_for():
    with pytest.raises(DataError, match="none called 'Hips'"):
        joints(read_bvh(BVH))


@given(st.data())
def test_any_damage_to_a_line_is_reported_or_harmless(data):
    rows = BVH.splitlines()
    row = data.draw(st.integers(0, len(rows) - 1))
    words = rows[row].split()
    word = data.draw(st.integers(0, len(words) - 1))
    words[word] = data.draw(st.sampled_from(["", "nan", "-1", "1e999", "{", "}", "JOINT", "arm", "Xrotation"]))
    copies = data.draw(st.integers(0, 2))
    damaged = "\n".join([*rows[:row], *[" ".join(words)] * copies, *rows[row + 1 :]])
    try:
        places = joints(read_bvh(damaged, "my.bvh"), NAMES)
    except DataError:
        return
    assert np.isfinite(places).all()
    assert places.shape[1:] == (5, 3)


def test_a_skeleton_of_any_depth():
    """Ten thousand joints in a row are no recursion: the last stands where their offsets add up to."""
    depth = 10_000
    names = ["base", *(f"j{number}" for number in range(1, depth))]
    open_ = [f"{'JOINT' if number else 'ROOT'} {name}\n{{\nOFFSET 0 1 0\n" for number, name in enumerate(names)]
    text = "HIERARCHY\n" + "".join(open_).replace("1 0\n", "1 0\nCHANNELS 1 Zrotation\n", 1) + "}\n" * depth
    motion = read_bvh(text + "MOTION\nFrames: 1\nFrame Time: 0.1\n90\n")
    np.testing.assert_allclose(joints(motion, (names[-1],)) * 100, [[[1 - depth, 1, 0]]], atol=1e-6)
