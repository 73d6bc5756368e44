"""MixSTE (CVPR 2022) as a study that anyone can run again."""

from mixste.checkpoints import from_pretrained
from mixste.model import MixSTE

# Set here, for the text of model.py is part of every run's name, and reading a file bears on none of them.
MixSTE.from_pretrained = staticmethod(from_pretrained)

__all__ = ["MixSTE"]
__version__ = "0.1.0"
