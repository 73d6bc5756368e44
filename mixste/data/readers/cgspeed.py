"""CMU's recordings converted to BVH by B. Hahne (cgspeed): the joints that `asf_amc` reads from the originals."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from mixste.data.readers import bvh
from mixste.data.readers.asf_amc import INCH

HUMAN36M = (
    *("Hips", "RightUpLeg", "RightLeg", "RightFoot", "LeftUpLeg", "LeftLeg", "LeftFoot"),
    *("Spine1", "Neck", "Head", "Head" + bvh.END),
    *("LeftArm", "LeftForeArm", "LeftHand", "RightArm", "RightForeArm", "RightHand"),
)
# The conversion for 3ds Max has other names than the one for MotionBuilder: its own by the latter's.
_SIDE = {"UpLeg": "Hip", "Leg": "Knee", "Foot": "Ankle", "Shoulder": "Collar", "Arm": "Shoulder", "ForeArm": "Elbow"}
MAX = {side + name: side + other for side in ("Left", "Right") for name, other in {**_SIDE, "Hand": "Wrist"}.items()}
MAX |= {"Spine1": "Chest2", "Neck": "lowerneck"}

PER_METRE = 0.45 / INCH  # lengths are in the unit of CMU's skeletons
WITHOUT_THORAX = ("Neck", "LeftShoulder", "RightShoulder")  # whose parent the thorax was


def joints(motion: bvh.Motion) -> Float[np.ndarray, "frames 17 3"]:
    """The joints of human36m, metres, in the file's axes (Y up). A T-pose in front of the motion is its first frame.

    The conversion left out the thorax, so that neck and shoulders hang from its lower end. It gets the offset of the
    bone below it (Spine1). In the five recordings that are also published as AMC, hips, legs and spine then agree to
    0.01 mm, and all joints above them differ by one vector in the thorax's axes, 2 to 4 mm long. Raises DataError for
    another skeleton.
    """
    own = MAX if MAX["Spine1"] in motion.joints else {}
    skeleton = dict(motion.joints)
    spine = skeleton.get(own.get("Spine1", "Spine1"))
    for name in (own.get(name, name) for name in WITHOUT_THORAX):
        if spine and name in skeleton and not skeleton[name].offset.any():
            skeleton[name] = replace(skeleton[name], offset=spine.offset)
    return bvh.joints(replace(motion, joints=skeleton), tuple(own.get(name, name) for name in HUMAN36M), PER_METRE)
