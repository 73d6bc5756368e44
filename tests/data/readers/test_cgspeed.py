import numpy as np
import pytest
from test_open_mocap import amc, asf, bvh_text

from mixste.data import DataError
from mixste.data.readers import asf_amc
from mixste.data.readers.bvh import read_bvh
from mixste.data.readers.cgspeed import joints
from mixste.skeleton import human36m

# The person of test_open_mocap, as the conversion writes it: joint, parent, inches from it. The thorax, 4 inches long,
# is missing above Spine1.
TREE = [
    ("Hips", "", (0, 0, 0)),
    ("LowerBack", "Hips", (0, 0, 0)),
    ("Spine", "LowerBack", (0, 4, 0)),
    ("Spine1", "Spine", (0, 4, 0)),
    ("Neck", "Spine1", (0, 0, 0)),
    ("Neck1", "Neck", (0, 3, 0)),
    ("Head", "Neck1", (0, 3, 0)),
]
for side, x in (("Left", 1), ("Right", -1)):
    TREE += [
        (f"{side[0]}HipJoint", "Hips", (0, 0, 0)),
        (f"{side}UpLeg", f"{side[0]}HipJoint", (4 * x, 0, 0)),
        (f"{side}Leg", f"{side}UpLeg", (0, -17, 0)),
        (f"{side}Foot", f"{side}Leg", (0, -16, 0)),
        (f"{side}Shoulder", "Spine1", (0, 0, 0)),
        (f"{side}Arm", f"{side}Shoulder", (6 * x, 2, 0)),
        (f"{side}ForeArm", f"{side}Arm", (11 * x, 0, 0)),
        (f"{side}Hand", f"{side}ForeArm", (10 * x, 0, 0)),
    ]
MAX_NAMES = {
    **{"Spine": "Chest", "Spine1": "Chest2", "Neck": "lowerneck", "Neck1": "Neck"},
    **{"LeftUpLeg": "LeftHip", "LeftLeg": "LeftKnee", "LeftFoot": "LeftAnkle"},
    **{"RightUpLeg": "RightHip", "RightLeg": "RightKnee", "RightFoot": "RightAnkle"},
    **{"LeftShoulder": "LeftCollar", "LeftArm": "LeftShoulder", "LeftForeArm": "LeftElbow", "LeftHand": "LeftWrist"},
    **{"RightShoulder": "RightCollar", "RightArm": "RightShoulder"},
    **{"RightForeArm": "RightElbow", "RightHand": "RightWrist"},
}


def cgspeed(frames: int, names: dict[str, str] | None = None, t_pose: bool = True, swing: float = 40.0) -> str:
    """The motion of `test_open_mocap.amc`: walks along z and swings the left leg."""
    order = []

    def joint(name: str, offset: tuple[float, float, float]) -> str:
        order.append(name)
        inner = "".join(joint(child, at) for child, parent, at in TREE if parent == name)
        tip = 3 if name == "Head" else 0
        inner = inner or f"End Site\n{{\nOFFSET 0 {0.45 * tip} 0\n}}\n"
        channels = "3 Zrotation Yrotation Xrotation"
        if name == "Hips":
            channels = "6 Xposition Yposition Zposition Zrotation Yrotation Xrotation"
        x, y, z = (0.45 * value for value in offset)
        kind = "ROOT" if name == "Hips" else "JOINT"
        return f"{kind} {(names or {}).get(name, name)}\n{{\nOFFSET {x} {y} {z}\nCHANNELS {channels}\n{inner}}}\n"

    hierarchy = joint("Hips", (0, 0, 0))
    rows = [[0.0] * (3 + 3 * len(order))] if t_pose else []
    for frame in range(frames):
        turns = [[0, 0, swing * np.sin(frame / 20) if name == "LeftUpLeg" else 0] for name in order]
        rows.append([0, 0.45 * 33, 0.45 * 0.3 * frame, *np.ravel(turns)])
    motion = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in rows)
    return f"HIERARCHY\n{hierarchy}MOTION\nFrames: {len(rows)}\nFrame Time: .0083333\n{motion}\n"


@pytest.mark.parametrize("names", [None, MAX_NAMES], ids=["MotionBuilder", "3ds Max"])
def test_it_gives_the_joints_of_the_original(names):
    skeleton = asf_amc.read_asf(asf())
    original = asf_amc.joints(skeleton, asf_amc.read_amc(amc(30), skeleton))
    world = joints(read_bvh(cgspeed(30, names, t_pose=False)))
    np.testing.assert_allclose(world, original, atol=1e-6)
    height = dict(zip(human36m.joints, world[0, :, 1] / 0.0254, strict=True))
    assert height["Thorax"] == pytest.approx(33 + 12)
    assert height["LWrist"] == pytest.approx(33 + 14)
    assert height["Head"] == pytest.approx(33 + 21)


def test_a_thorax_that_is_there_stays_as_it_is():
    text = cgspeed(1, t_pose=False)
    neck = "JOINT Neck\n{\nOFFSET 0.0 "
    assert neck + "0.0 0.0" in text
    text = text.replace(neck + "0.0 0.0", neck + f"{0.45 * 5} 0.0")
    height = dict(zip(human36m.joints, joints(read_bvh(text))[0, :, 1] / 0.0254, strict=True))
    assert height["Thorax"] == pytest.approx(33 + 8 + 5)
    assert height["LShoulder"] == pytest.approx(33 + 8 + 4 + 2)


def test_another_skeleton():
    with pytest.raises(DataError, match="none called 'RightUpLeg'"):
        joints(read_bvh(bvh_text(2)))
