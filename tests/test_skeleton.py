"""Joint layouts: what the published files fix, and what any skeleton has to satisfy."""

from dataclasses import replace

import numpy as np
import pytest

from mixste.skeleton import SKELETONS, human36m, humaneva15, mpi_inf_3dhp

every_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)


def test_published_layouts():
    """Parents, sides and root as VideoPose3D's and MPI-INF-3DHP's files have them."""
    assert set(SKELETONS) == {"human36m", "humaneva15", "mpi_inf_3dhp"}
    assert human36m.left == (4, 5, 6, 11, 12, 13)
    assert human36m.right == (1, 2, 3, 14, 15, 16)
    names = [human36m.joints[human36m.parents[human36m.joints.index(name)]] for name in ("LShoulder", "RShoulder")]
    assert names == ["Thorax", "Thorax"]
    assert humaneva15.parents == (-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1)
    assert humaneva15.left == (2, 3, 4, 8, 9, 10)
    assert humaneva15.right == (5, 6, 7, 11, 12, 13)
    assert [human36m.root, humaneva15.root, mpi_inf_3dhp.root] == [0, 0, 14]
    # Table 3's PCK counts the first 14 joints: all but pelvis, spine and head.
    assert mpi_inf_3dhp.joints[14:] == ("Pelvis", "Spine", "Head")


@every_skeleton
def test_it_is_a_tree_with_one_root(skeleton):
    assert skeleton.parents.count(-1) == 1
    assert skeleton.parents[skeleton.root] == -1
    for joint in range(len(skeleton.joints)):
        steps = 0
        while joint != skeleton.root:
            joint, steps = skeleton.parents[joint], steps + 1
            assert steps < len(skeleton.joints)


@every_skeleton
def test_bones_and_order(skeleton):
    assert len(skeleton.bones) == len(skeleton.joints) - 1
    assert all(skeleton.parents[child] == parent for parent, child in skeleton.bones)
    assert sorted(skeleton.top_down) == list(range(len(skeleton.joints)))
    place = {joint: i for i, joint in enumerate(skeleton.top_down)}
    assert all(place[parent] < place[child] for parent, child in skeleton.bones)


@every_skeleton
def test_mirror_swaps_sides(skeleton):
    swapped = {"L": "R", "R": "L"}
    for joint, name in enumerate(skeleton.joints):
        sided = joint in skeleton.left + skeleton.right
        assert skeleton.joints[skeleton.mirror[joint]] == (swapped[name[0]] + name[1:] if sided else name)
    np.testing.assert_array_equal(skeleton.mirror[skeleton.mirror], np.arange(len(skeleton.joints)))


@every_skeleton
def test_mirror_keeps_bones_and_groups(skeleton):
    mirrored = {(skeleton.mirror[parent], skeleton.mirror[child]) for parent, child in skeleton.bones}
    assert mirrored == set(skeleton.bones)
    assert [skeleton.groups[joint] for joint in skeleton.mirror] == list(skeleton.groups)


@every_skeleton
def test_groups_follow_the_names(skeleton):
    ends = {"Knee": "middle limb", "Elbow": "middle limb", "Foot": "terminal limb", "Ankle": "terminal limb"}
    ends |= {"Wrist": "terminal limb", "Head": "head", "HeadTop": "head"}
    for name, group in zip(skeleton.joints, skeleton.groups, strict=True):
        part = name.removeprefix("L").removeprefix("R")
        assert group == ends.get(part, "head" if name == "Neck" else "torso"), name


def test_papers_weights():
    """Section 4.2: torso 1, head 1.5, middle limb 2.5, terminal limb 4."""
    weights = dict(zip(human36m.joints, human36m.weights("paper"), strict=True))
    expected = {"Hip": 1, "LShoulder": 1, "Head": 1.5, "RKnee": 2.5, "LElbow": 2.5, "LFoot": 4, "RWrist": 4}
    assert {name: weights[name] for name in expected} == expected


def test_authors_weights():
    """W as their code lists it."""
    expected = (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4)
    assert human36m.weights("authors") == expected
    assert humaneva15.weights("authors") == (1, 1, 2.5, 2.5, 1, 2.5, 2.5, 1, 1.5, 1.5, 4, 4, 1.5, 4, 4)
    # 3DHP has none of its own: the same joint weighs as in Human3.6M, whatever its index.
    same = {"Pelvis": "Hip", "RAnkle": "RFoot", "LAnkle": "LFoot", "HeadTop": "Head"}
    by_name = dict(zip(human36m.joints, expected, strict=True))
    for name, weight in zip(mpi_inf_3dhp.joints, mpi_inf_3dhp.weights("authors"), strict=True):
        if name not in ("Head", "Neck", "Spine"):  # the inner joints of the two layouts do not correspond
            assert weight == by_name[same.get(name, name)], name


def test_wrong_recipe():
    with pytest.raises(ValueError, match='"paper" or "authors"'):
        human36m.weights("mine")


@pytest.mark.parametrize(
    "change", [{"parents": (-1, 0)}, {"groups": ("torso",)}, {"authors_weights": (1.0,)}, {"left": (4, 5)}]
)
def test_parts_that_do_not_pair_up(change):
    with pytest.raises(ValueError, match="must pair up"):
        replace(human36m, **change)
