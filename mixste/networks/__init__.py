"""The networks of the study, one file each: `NETWORKS` holds the class of each name."""

from mixste.model import MixSTE
from mixste.network import NETWORKS
from mixste.networks.poseformer import PoseFormer
from mixste.networks.references import ConstantPose, FrameRegression
from mixste.networks.videopose3d import VideoPose3D

__all__ = ["NETWORKS", "ConstantPose", "FrameRegression", "MixSTE", "PoseFormer", "VideoPose3D"]
