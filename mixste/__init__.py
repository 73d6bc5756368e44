"""MixSTE (CVPR 2022) as a study that anyone can run again."""

from mixste.networks import MixSTE

__all__ = ["MixSTE"]
__version__ = "0.1.0"
