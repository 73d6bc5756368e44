import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixste.data import DataError
from mixste.data.readers.asf_amc import INCH, joints, read_amc, read_asf

# Two bones in a row. One unit of length is one metre: 0.0254 m / 0.0254.
ASF = """# a comment
:version 1.10
:units
  length 0.0254
  angle deg
:documentation
   length 7 is no unit here
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name upper
     direction 0 1 0
     length 2
     axis 0 0 0 XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
     id 2
     name lower
     direction 0 1 0  # along the upper one
     length 1
     axis 0 0 90 XYZ
    dof rx
  end
  begin
     id 3
     name tip
     direction 1 0 0
     length 0.5
     axis 0 0 0 XYZ
  end
:hierarchy
  begin
    root upper
    upper lower
    lower tip
  end
"""

AMC = """#!OML:ASF somewhere
:FULLY-SPECIFIED
:DEGREES
1
root 0 0 0 0 0 0
upper 0 0 0
lower 0
2
root 1 2 3 0 0 0
upper 0 0 90
lower 0
"""

NAMES = ("root", "upper", "lower", "tip")


def pose(root="0 0 0 0 0 0", upper="0 0 0", lower="0", asf=ASF, header=":DEGREES"):
    skeleton = read_asf(asf)
    motion = read_amc(f"{header}\n1\nroot {root}\nupper {upper}\nlower {lower}\n", skeleton)
    return joints(skeleton, motion, NAMES)[0]


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ({}, [[0, 0, 0], [0, 2, 0], [0, 3, 0], [0.5, 3, 0]]),
        ({"root": "1 2 3 0 0 0"}, [[1, 2, 3], [1, 4, 3], [1, 5, 3], [1.5, 5, 3]]),
        ({"upper": "0 0 90"}, [[0, 0, 0], [-2, 0, 0], [-3, 0, 0], [-3, 0.5, 0]]),  # y goes to -x, x to y
        ({"root": "1 0 0 0 0 90"}, [[1, 0, 0], [-1, 0, 0], [-2, 0, 0], [-2, 0.5, 0]]),
        # XYZ is Rz Ry Rx: x first takes y to z, then y takes z to x. The other way round y would end at z.
        ({"upper": "90 90 0"}, [[0, 0, 0], [2, 0, 0], [3, 0, 0], [3, 0, -0.5]]),
        # The lower bone's own x axis is the world's y, along which it lies: only what hangs from it turns.
        ({"lower": "90"}, [[0, 0, 0], [0, 2, 0], [0, 3, 0], [0, 3, -0.5]]),
    ],
)
def test_poses_worked_by_hand(angles, expected):
    np.testing.assert_allclose(pose(**angles), expected, atol=1e-12)


def test_turns_follow_the_order_of_the_axis_and_values_that_of_the_dof():
    other = ASF.replace("axis 0 0 0 XYZ\n    dof rx ry rz", "axis 0 0 0 ZYX\n    dof rz rx ry")
    # values z = 0, x = 90, y = 90; ZYX is Rx Ry Rz: y turns first and leaves the bone, x takes it from y to z
    np.testing.assert_allclose(pose(upper="0 90 90", asf=other)[1], [0, 0, 2], atol=1e-12)


def test_a_root_with_axes_and_a_place_of_its_own():
    turned = ASF.replace("orientation 0 0 0", "orientation 0 0 90").replace("position 0 0 0", "position 0 0 5")
    # its x axis is the world's y: turning about it leaves a bone along y and takes what points along x to -z
    expected = [[0, 0, 5], [0, 2, 5], [0, 3, 5], [0, 3, 4.5]]
    np.testing.assert_allclose(pose(root="0 0 0 90 0 0", asf=turned), expected, atol=1e-12)


def test_lengths_are_inches_over_the_unit_of_the_file():
    for unit in (0.45, 1.0):
        scaled = pose(root="1 0 0 0 0 0", asf=ASF.replace("length 0.0254", f"length {unit}"))
        np.testing.assert_allclose(scaled, np.array([[1, 0, 0], [1, 2, 0], [1, 3, 0], [1.5, 3, 0]]) / unit * INCH)


def test_radians_in_either_file():
    right = str(math.pi / 2)
    expected = pose(upper="90 90 0", lower="30")
    np.testing.assert_allclose(pose(upper=f"{right} {right} 0", lower=str(math.pi / 6), header=":RADIANS"), expected)
    in_radians = ASF.replace("angle deg", "angle rad").replace("axis 0 0 90", f"axis 0 0 {right}")
    # without a word in the motion, the skeleton's unit holds
    np.testing.assert_allclose(
        pose(upper=f"{right} {right} 0", lower=str(math.pi / 6), asf=in_radians, header=""), expected
    )


def test_frames_keep_their_order_and_may_start_anywhere():
    skeleton = read_asf(ASF)
    path = joints(skeleton, read_amc(AMC, skeleton), NAMES)
    assert path.shape == (2, 4, 3)
    np.testing.assert_allclose(path[1], [[1, 2, 3], [-1, 2, 3], [-2, 2, 3], [-2, 2.5, 3]], atol=1e-12)
    later = AMC.replace("\n2\n", "\n8\n").replace("\n1\n", "\n7\n").replace("\n", "\r\n")
    np.testing.assert_array_equal(joints(skeleton, read_amc(later, skeleton), NAMES), path)


def matrix(axis: str, degrees: float) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "x": np.array([[1, 0, 0], [0, c, -s], [0, s, c]]),
        "y": np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]),
        "z": np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]),
    }[axis]


@given(st.lists(st.floats(-180, 180), min_size=10, max_size=10))
def test_any_pose_agrees_with_matrices_multiplied_out(values):
    root, upper, lower = values[:6], values[6:9], values[9]
    turned = matrix("z", root[5]) @ matrix("y", root[4]) @ matrix("x", root[3])
    expected = [np.array(root[:3])]
    turned = turned @ matrix("z", upper[2]) @ matrix("y", upper[1]) @ matrix("x", upper[0])
    expected.append(expected[-1] + turned @ [0, 2, 0])
    turned = turned @ matrix("z", 90) @ matrix("x", lower) @ matrix("z", -90)
    expected += [expected[-1] + turned @ [0, 1, 0], expected[-1] + turned @ [0, 1, 0] + turned @ [0.5, 0, 0]]
    found = pose(" ".join(map(repr, root)), " ".join(map(repr, upper)), repr(lower))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(np.diff(found, axis=0), axis=1), [2, 1, 0.5], atol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  length 0.0254\n", "", r"my\.asf, :units: expected a line 'length', found none"),
        ("length 0.0254", "length 0", r"my\.asf, line 4: expected a positive unit of length, found 'length 0'"),
        ("angle deg", "angle grad", r"line 5: expected degrees or radians, found 'angle grad'"),
        ("order TX TY TZ RX RY RZ", "order TX TY", r"line 9: expected all of rx ry rz tx ty tz"),
        ("axis XYZ", "axis XYY", r"line 10: expected axes in some order"),
        ("name lower", "name upper", r"line 27: expected the name of another bone, found 'name upper'"),
        ("length 2", "length two", r"line 18: expected 1 finite number of at most .*, found 'length two'"),
        ("direction 0 1 0\n", "direction 0 1\n", r"line 17: expected 3 finite numbers"),
        ("direction 0 1 0\n", "direction 0 nan 0\n", r"line 17: expected 3 finite numbers"),
        ("     axis 0 0 90 XYZ\n", "", r"line 25: expected a line 'axis', found none"),
        ("dof rx\n", "dof rx l\n", r"line 31: expected some of rx ry rz, each once, found 'dof rx l'"),
        ("upper lower", "upper nose", r"line 43: .*not 'nose', found 'upper nose'"),
        ("lower tip", "lower upper", r"line 44: .*not 'upper', found 'lower upper'"),
        (ASF[ASF.index(":hierarchy") :], "", r"my\.asf: expected a :hierarchy of bones, found none"),
    ],
)
def test_faults_of_a_skeleton(old, new, message):
    assert old in ASF
    with pytest.raises(DataError, match=message):
        read_asf(ASF.replace(old, new, 1), "my.asf")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n2\n", "\n3\n", r"my\.amc, line 8: expected frame 2, found '3'"),
        ("upper 0 0 90", "upper 0 0", r"line 10: expected 3 finite numbers of at most .*, found 'upper 0 0'"),
        ("upper 0 0 90", "upper 0 0 90 1", r"line 10: expected 3 finite numbers"),
        ("upper 0 0 90", "upper 0 nan 90", r"line 10: expected 3 finite numbers"),
        ("upper 0 0 90", "upper 0 up 90", r"line 10: expected 3 finite numbers"),
        ("upper 0 0 90", "arm 0 0 90", r"line 10: expected a frame number, or a moving bone .*, found 'arm 0 0 90'"),
        ("upper 0 0 90", "tip 0", r"line 10: expected a frame number, or a moving bone"),  # it has no dof
        ("upper 0 0 90", "root 0 0 0 0 0 0", r"line 10: expected .*new to the frame"),
        ("lower 0\n2", "2", r"line 7: expected bone 'lower' before the end of frame 1, found '2'"),
        ("upper 0 0 90\nlower 0\n", "", r"line 9: expected bone 'upper' before the end of frame 2"),
        ("1\nroot", "root", r"line 4: expected a frame number"),
        (AMC[AMC.index("1\n") :], "", r"my\.amc: expected at least one frame, found none"),
    ],
)
def test_faults_of_a_motion(old, new, message):
    assert old in AMC
    with pytest.raises(DataError, match=message):
        read_amc(AMC.replace(old, new, 1), read_asf(ASF), "my.amc")


def test_a_skeleton_without_the_bones_asked_for():
    skeleton = read_asf(ASF)
    with pytest.raises(DataError, match="none called 'rhipjoint'"):
        joints(skeleton, read_amc(AMC, skeleton))


@given(st.data())
def test_any_damage_to_a_line_is_reported_or_harmless(data):
    texts = [ASF, AMC]
    file = data.draw(st.integers(0, 1))
    rows = texts[file].splitlines()
    row = data.draw(st.integers(0, len(rows) - 1))
    words = rows[row].split()
    word = data.draw(st.integers(0, len(words) - 1))
    words[word] = data.draw(st.sampled_from(["", "nan", "-1", "1e999", ":root", "begin", "upper", "root", "rx"]))
    copies = data.draw(st.integers(0, 2))
    texts[file] = "\n".join([*rows[:row], *[" ".join(words)] * copies, *rows[row + 1 :]])
    try:
        skeleton = read_asf(texts[0])
        places = joints(skeleton, read_amc(texts[1], skeleton), NAMES)
    except DataError:
        return
    assert np.isfinite(places).all()
    assert places.shape[1:] == (4, 3)


def test_a_skeleton_of_any_depth():
    """Five thousand bones in a row are no recursion: each is as long as `lower`."""
    names = [f"b{number}" for number in range(5_000)]
    bones = "".join(f"begin\nname {name}\ndirection 0 1 0\nlength 2\naxis 0 0 0 XYZ\nend\n" for name in names)
    tree = "".join(f"{parent} {child}\n" for parent, child in zip(["root", *names], names, strict=False))
    deep = read_asf(ASF[: ASF.index(":bonedata")] + f":bonedata\n{bones}:hierarchy\nbegin\n{tree}end\n")
    motion = {"root": np.zeros((1, 6))}
    first, last = joints(deep, motion, (names[0], names[-1]))[0]
    length = deep.bones["b0"].offset
    np.testing.assert_allclose(last - first, length * (len(names) - 1))
    assert np.linalg.norm(length) > 0


def test_a_frame_number_of_thousands_of_digits():
    with pytest.raises(DataError, match=r"line \d+: expected a frame number"):
        read_amc(f"{'1' * 5_000}\n", read_asf(ASF))
