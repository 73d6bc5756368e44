"""The peers of Tables 1–4 under their first address: they live in `mixste.networks`."""

from mixste.networks.poseformer import PoseFormer
from mixste.networks.videopose3d import VideoPose3D

__all__ = ["PoseFormer", "VideoPose3D"]
