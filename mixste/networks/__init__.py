"""The networks of the study, one file each: `NETWORKS` holds the class of each name."""

from mixste.model import MixSTE
from mixste.network import NETWORKS
from mixste.networks.dstformer import DSTformer
from mixste.networks.ktpformer import KTPFormer
from mixste.networks.motionagformer import MotionAGFormer
from mixste.networks.poseformer import PoseFormer
from mixste.networks.references import ConstantPose, FrameRegression
from mixste.networks.videopose3d import VideoPose3D

__all__ = [
    "NETWORKS",
    "ConstantPose",
    "DSTformer",
    "FrameRegression",
    "KTPFormer",
    "MixSTE",
    "MotionAGFormer",
    "PoseFormer",
    "VideoPose3D",
]
