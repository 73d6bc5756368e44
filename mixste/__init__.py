"""A reproducible study of MixSTE (CVPR 2022)."""

from mixste.networks import MixSTE

__all__ = ["MixSTE"]
__version__ = "0.1.0"
