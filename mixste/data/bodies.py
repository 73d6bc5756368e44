"""Body lengths of a person, and random body proportions with the spreads and correlations of adults.

Source of the spreads: summary statistics of ANSUR II, the 2012 anthropometric survey of the U.S. Army (Gordon et al.,
2014; public working databases), 4,082 men and 1,986 women. They are pooled here as half men and half women: the mean of
the two covariances of log-lengths, plus a quarter of the outer product of the difference of the means. Relative to
stature a segment varies by 3 to 5 % (one standard deviation), hips by 7 %; the rest of the spread below is that of
stature.

The survey measured landmarks on the skin, not joint centres (the trochanter instead of the hip joint, the iliac crests
instead of the distance between the hips), so its lengths are not those of a skeleton's bones and are left out. What is
used is by how many percent lengths differ between people, and which of them differ together.
"""

import functools
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mixste.skeleton import Skeleton, human36m

BONES = {
    "thigh": ("Hip", "Knee"),
    "shank": ("Knee", "Foot"),
    "upper arm": ("Shoulder", "Elbow"),
    "forearm": ("Elbow", "Wrist"),
}
UPRIGHT = ("Hip", "Spine", "Thorax", "Neck", "Head")


def lengths(poses: Float[np.ndarray, "frames 17 3"]) -> dict[str, float]:
    """Lengths of a person's body, millimetres, from poses in metres with the joints of human36m.

    They are medians over frames; the length of a limb is the mean of left and right. "ankle to head" is the length
    along the bones from the ankle to the joint Head.
    """

    def length(a: str, b: str) -> float:
        bone = poses[:, human36m.joints.index(a)] - poses[:, human36m.joints.index(b)]
        return float(np.median(np.linalg.norm(bone, axis=-1))) * 1e3

    limbs = {name: float(np.mean([length(side + a, side + b) for side in "LR"])) for name, (a, b) in BONES.items()}
    trunk = sum(length(a, b) for a, b in pairwise(UPRIGHT))
    return {"ankle to head": limbs["thigh"] + limbs["shank"] + trunk, **limbs}


# Standard deviation of a length's natural logarithm, and its correlations with those above. Measured as, in order:
# bicristal breadth; trochanter to knee; knee to ankle; cervicale to trochanter (vertical); top of the head to cervicale
# (vertical); biacromial breadth; acromion to radiale; radiale to stylion.
SEGMENTS = {
    "hips": (0.0733, ()),
    "thigh": (0.0765, (0.202,)),
    "shank": (0.0645, (0.270, 0.591)),
    "trunk": (0.0775, (0.347, 0.389, 0.406)),
    "neck and head": (0.0541, (0.167, 0.280, 0.259, 0.348)),
    "shoulders": (0.0807, (0.267, 0.582, 0.484, 0.750, 0.297)),
    "upper arm": (0.0655, (0.341, 0.721, 0.765, 0.649, 0.324, 0.688)),
    "forearm": (0.0798, (0.205, 0.728, 0.719, 0.619, 0.280, 0.739, 0.809)),
}
# The segment whose bone ends at a joint on the left or right.
LIMBS = {
    "Hip": "hips",
    "Knee": "thigh",
    "Foot": "shank",
    "Ankle": "shank",
    "Shoulder": "shoulders",
    "Elbow": "upper arm",
    "Wrist": "forearm",
}


def covariance() -> Float[np.ndarray, "segments segments"]:
    """The covariance of the logarithms of the lengths in `SEGMENTS`."""
    spreads = np.array([spread for spread, _ in SEGMENTS.values()])
    correlations = np.eye(len(SEGMENTS))
    for row, (_, known) in enumerate(SEGMENTS.values()):
        correlations[row, :row] = correlations[:row, row] = known
    return spreads[:, None] * correlations * spreads


@functools.cache
def segments(skeleton: Skeleton) -> tuple[str, ...]:
    """The segment of the bone that ends in each joint; the root, where no bone ends, counts as trunk.

    Limbs go by the names of their joints. The other bones are trunk from the root to the joint that the shoulders hang
    from, and neck and head beyond it.
    """
    sides = skeleton.left + skeleton.right
    trunk, joint = {skeleton.root}, next(joint for joint in sides if skeleton.joints[joint].endswith("Shoulder"))
    while (joint := skeleton.parents[joint]) >= 0:
        trunk.add(joint)
    return tuple(
        LIMBS[name[1:]] if joint in sides else "trunk" if joint in trunk else "neck and head"
        for joint, name in enumerate(skeleton.joints)
    )


def body_factors(
    batch: int,
    skeleton: Skeleton,
    generator: torch.Generator,
    placement: float = 0.03,
    dtype: torch.dtype = torch.float32,
) -> tuple[Float[Tensor, "batch joints"], Float[Tensor, "batch"]]:
    """Random factors of a body: one for the bone that ends in each joint, and one for the legs as a whole.

    A draw is an adult relative to the median adult, log-normal with median 1. It multiplies the lengths that a person
    has, rather than replacing them: the survey has no lengths between joints, and where a joint lies differs between
    data sets, while percentages carry over. Left and right share a factor. The factor of the legs, by which steps grow,
    is the geometric mean of thigh and shank. On the generator's device.

    placement: standard deviation of a further part of each logarithm, independent from bone to bone. Calibration puts a
    joint higher or lower along a limb from one recording to the next, so that neighbouring bones of its skeletons vary
    in ratio more than people do. By default 0.03, at which the bone lengths of ten subjects of HDM05 (bd, bk, dg) and
    CMU (01, 02, 14, 16, 17, 29, 127) are most likely, each given the other nine. 0: as measured.
    """
    device, names = generator.device, list(SEGMENTS)
    segment = torch.tensor([names.index(name) for name in segments(skeleton)]).to(device, non_blocking=True)
    pair = torch.from_numpy(np.minimum(skeleton.mirror, np.arange(len(segment)))).to(device, non_blocking=True)
    factor = torch.from_numpy(np.linalg.cholesky(covariance())).to(device, dtype, non_blocking=True)
    people = torch.randn(batch, len(names), generator=generator, device=device, dtype=dtype) @ factor.T
    joints = placement * torch.randn(batch, len(segment), generator=generator, device=device, dtype=dtype)
    legs = people[:, [names.index("thigh"), names.index("shank")]].mean(dim=1)
    return (people[:, segment] + joints[:, pair]).exp(), legs.exp()
