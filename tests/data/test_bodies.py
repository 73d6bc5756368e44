"""Bodies as measured: draws against the survey's summary statistics and a person worked by hand."""

import math

import numpy as np
import pytest
import torch

from mixste.data.augment import measured_bodies
from mixste.data.bodies import SEGMENTS, body_factors, covariance, segments
from mixste.skeleton import SKELETONS, human36m

MANY = 100_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def logs(placement: float) -> dict[str, np.ndarray]:
    """Logarithms of the factors of many people by joint."""
    bones, _ = body_factors(MANY, human36m, generator(), placement, torch.float64)
    return dict(zip(human36m.joints, bones.log().numpy().T, strict=True))


def pooled(men, women, difference):
    """A covariance of half men and half women. difference: of the means, of each of the two measures."""
    return (men + women) / 2 + difference[0] * difference[1] / 4


# From the survey's summary statistics: covariances of men and women, and by how much the means of men are higher.
THIGH, SHANK, UPPER_ARM, FOREARM, SHOULDERS = 0.0753, 0.0382, 0.0746, 0.1047, 0.1293
HIPS, TRUNK, HEAD = 0.0091, 0.1135, 0.0258
PUBLISHED = {
    ("LKnee", "LKnee"): pooled(0.004822, 0.004035, (THIGH, THIGH)),
    ("LFoot", "LFoot"): pooled(0.003433, 0.004153, (SHANK, SHANK)),
    ("Spine", "Thorax"): pooled(0.002694, 0.002869, (TRUNK, TRUNK)),
    ("LKnee", "LFoot"): pooled(0.002390, 0.001997, (THIGH, SHANK)),
    ("LElbow", "LWrist"): pooled(0.002157, 0.002399, (UPPER_ARM, FOREARM)),
    ("LShoulder", "Thorax"): pooled(0.000953, 0.001090, (SHOULDERS, TRUNK)),
    ("LHip", "LHip"): pooled(0.004059, 0.006643, (HIPS, HIPS)),
    ("Head", "LKnee"): pooled(0.000650, 0.000696, (HEAD, THIGH)),
    ("Head", "Neck"): pooled(0.002900, 0.002625, (HEAD, HEAD)),
    ("LWrist", "LHip"): pooled(0.001099, 0.000826, (FOREARM, HIPS)),
}


def test_the_table_is_the_survey_s():
    names = segments(human36m)
    place = {joint: list(SEGMENTS).index(name) for joint, name in zip(human36m.joints, names, strict=True)}
    for (a, b), expected in PUBLISHED.items():
        assert covariance()[place[a], place[b]] == pytest.approx(expected, abs=8e-6)  # correlations of 3 digits
    assert np.linalg.eigvalsh(covariance()).min() > 0


def test_draws_have_the_survey_s_spreads_and_correlations():
    drawn = logs(placement=0.0)
    for (a, b), expected in PUBLISHED.items():
        assert np.mean(drawn[a] * drawn[b]) == pytest.approx(expected, abs=1.5e-4)
    for one in drawn.values():
        assert np.mean(one) == pytest.approx(0, abs=1e-3)  # the median person is left as they are


def test_placement_adds_to_each_bone_on_its_own():
    before, after = logs(placement=0.0), logs(placement=0.05)
    added = np.stack([after[joint] - before[joint] for joint in ("LHip", "LKnee", "LFoot", "Spine", "Thorax", "Head")])
    np.testing.assert_allclose(np.cov(added), 0.05**2 * np.eye(6), atol=5e-5)
    np.testing.assert_array_equal(after["LKnee"], after["RKnee"])


@pytest.mark.parametrize("name", SKELETONS)
def test_left_and_right_are_alike(name):
    skeleton = SKELETONS[name]
    bones, _ = body_factors(50, skeleton, generator())
    assert bones.shape == (50, len(skeleton.joints))
    torch.testing.assert_close(bones, bones[:, torch.from_numpy(skeleton.mirror)], rtol=0, atol=0)
    bones, legs = body_factors(50, skeleton, generator(), placement=0.0)
    by_joint = dict(zip(skeleton.joints, bones.T, strict=True))
    assert len({tuple(one.tolist()) for one in by_joint.values()}) == len(SEGMENTS)  # bones of one segment alike
    ankle = by_joint.get("LAnkle", by_joint.get("LFoot"))
    torch.testing.assert_close(legs, (by_joint["LKnee"] * ankle).sqrt())


def test_trunk_and_head_meet_where_the_shoulders_hang():
    def of(name, *joints):
        by_joint = dict(zip(SKELETONS[name].joints, segments(SKELETONS[name]), strict=True))
        return [by_joint[joint] for joint in joints]

    trunk, head = "trunk", "neck and head"
    assert of("human36m", "Spine", "Thorax", "Neck", "Head") == [trunk, trunk, head, head]
    assert of("humaneva15", "Thorax", "Head") == [trunk, head]
    assert of("mpi_inf_3dhp", "Spine", "Neck", "Head", "HeadTop") == [trunk, trunk, head, head]
    assert of("human36m", "LHip", "RShoulder", "RFoot") == ["hips", "shoulders", "shank"]


def test_draws_follow_the_generator():
    first, again, other = (body_factors(4, human36m, generator(seed))[0] for seed in (3, 3, 4))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 0.01
    assert first.std(dim=0).min() > 0.005  # no two of a batch share a body


# A person of the survey's mean lengths in metres, y down: men and women half each, from landmark to landmark.
LENGTHS = {
    **{"LHip": (0.13, 0, 0), "LKnee": (0, 0.393, 0), "LFoot": (0, 0.410, 0)},
    **{"Spine": (0, -0.290, 0), "Thorax": (0, -0.291, 0), "Neck": (0, -0.1, 0), "Head": (0, -0.135, 0)},
    **{"LShoulder": (0.19, 0, 0), "LElbow": (0.322, 0, 0), "LWrist": (0.254, 0, 0)},
}
ANKLE = 0.070 / 0.410  # the height of the ankle, what is left of a stature of 1.69 m, to the length of the shank


def standing() -> torch.Tensor:
    """(joints, 3), with both arms stretched out to the sides."""
    pose = torch.zeros(17, 3, dtype=torch.float64)
    for joint in human36m.top_down[1:]:
        name = human36m.joints[joint]
        x, y, z = LENGTHS[name if name in LENGTHS else f"L{name[1:]}"]
        pose[joint] = pose[human36m.parents[joint]] + torch.tensor([-x if name[0] == "R" else x, y, z])
    return pose


def test_a_person_by_hand():
    """Every bone keeps its direction and grows by its segment's factor, and steps by that of the legs."""
    pose = standing()
    walk = torch.stack([pose, pose + torch.tensor([0.0, 0.0, 0.6])])[None]  # a step of 0.6 m
    drawn, [legs] = body_factors(1, human36m, generator(5), 0.0, torch.float64)
    by_segment = dict(zip(segments(human36m), drawn[0].tolist(), strict=True))
    [grown] = measured_bodies(walk, human36m, generator(5), placement=0.0)
    at = {name: grown[0, joint] - grown[0, 0] for joint, name in enumerate(human36m.joints)}
    reach = 0.19 * by_segment["shoulders"] + 0.322 * by_segment["upper arm"] + 0.254 * by_segment["forearm"]
    thorax = -0.581 * by_segment["trunk"]
    foot = 0.393 * by_segment["thigh"] + 0.410 * by_segment["shank"]
    torch.testing.assert_close(at["LWrist"], torch.tensor([reach, thorax, 0.0]).double())
    torch.testing.assert_close(at["RWrist"], torch.tensor([-reach, thorax, 0.0]).double())
    torch.testing.assert_close(at["RFoot"], torch.tensor([-0.13 * by_segment["hips"], foot, 0.0]).double())
    assert at["Head"][1].item() == pytest.approx(thorax - 0.235 * by_segment["neck and head"])
    middle = grown[:, 0].mean(dim=0)
    torch.testing.assert_close(middle, walk[0, :, 0].mean(dim=0))
    torch.testing.assert_close(grown[1] - grown[0], torch.tensor([0, 0, 0.6 * legs.item()]).expand(17, 3).double())


def test_statures_spread_as_measured():
    """Stature is not in the table; it follows from the segments and their correlations.

    Published: log-statures of 0.5624 ± 0.0390 (men) and 0.4869 ± 0.0394 (women); so 0.0544 for half of each.
    """
    people = measured_bodies(standing().expand(20_000, 1, 17, 3), human36m, generator(), placement=0.0)
    knee, ankle, top = people[:, 0, [2, 3, 10], 1].unbind(-1)
    height = ankle - top + ANKLE * (ankle - knee)
    expected = math.sqrt((0.0390**2 + 0.0394**2) / 2 + ((0.5624 - 0.4869) / 2) ** 2)
    assert height.log().mean().exp().item() == pytest.approx(1.69, abs=0.01)
    assert height.log().std().item() == pytest.approx(expected, rel=0.04)
