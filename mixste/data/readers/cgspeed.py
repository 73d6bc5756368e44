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
# Names of joints in the files for 3ds Max, by the names in those for MotionBuilder.
MAX = {"Spine1": "Chest2", "Neck": "lowerneck"}
for side in ("Left", "Right"):
    MAX |= {f"{side}UpLeg": f"{side}Hip", f"{side}Leg": f"{side}Knee", f"{side}Foot": f"{side}Ankle"}
    MAX |= {f"{side}Shoulder": f"{side}Collar", f"{side}Arm": f"{side}Shoulder"}
    MAX |= {f"{side}ForeArm": f"{side}Elbow", f"{side}Hand": f"{side}Wrist"}

PER_METRE = 0.45 / INCH  # lengths are in the unit of CMU's skeletons
WITHOUT_THORAX = ("Neck", "LeftShoulder", "RightShoulder")  # whose parent the thorax was


def joints(motion: bvh.Motion) -> Float[np.ndarray, "frames 17 3"]:
    """The joints of human36m, metres, in the file's axes (Y up). A T-pose in front of the motion is its first frame.

    The conversion left out the thorax, so that neck and shoulders are attached to its lower end. Here the thorax has
    the offset of the bone below it (Spine1). In the five recordings that are also published as AMC, hips, legs and
    spine then agree to 0.01 mm, and all joints above them differ by one vector in the thorax's axes, 2 to 4 mm long.
    Raises DataError for another skeleton.
    """
    names = MAX if MAX["Spine1"] in motion.joints else {}
    skeleton = dict(motion.joints)
    spine = skeleton.get(names.get("Spine1", "Spine1"))
    for name in (names.get(name, name) for name in WITHOUT_THORAX):
        if spine and name in skeleton and not skeleton[name].offset.any():
            skeleton[name] = replace(skeleton[name], offset=spine.offset)
    return bvh.joints(replace(motion, joints=skeleton), tuple(names.get(name, name) for name in HUMAN36M), PER_METRE)
