"""The blocks of networks without kernels of their own, compiled by PyTorch: on CUDA, in bfloat16.

Each kind of block is compiled once for each shape of its input, for all blocks of that kind. Compiling a network of 64
blocks as a whole would take minutes, where a training takes five.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import nn

from mixste.model import Block
from mixste.networks import DSTformer, KTPFormer, MotionAGFormer
from mixste.networks.motionagformer import ScaledBlock

KINDS = (Block, ScaledBlock)  # not subclasses: of KTPFormer's 16 blocks, the two with graph steps are not compiled


def covers(model: nn.Module) -> bool:
    """Whether `blocks` is for this network, and the GPU and the installed packages can compile."""
    if type(model) not in (DSTformer, KTPFormer, MotionAGFormer) or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability() >= (8, 0)


@functools.cache
def compiled(kind: type[nn.Module]) -> Callable:
    """The compiled `kind.forward`, whose first argument is the block."""
    return torch.compile(kind.forward, dynamic=False)


@contextlib.contextmanager
def blocks(model: nn.Module) -> Iterator[None]:
    """A context in which the model computes its blocks by `compiled`; the first forward and backward calls compile."""
    chosen = [module for module in model.modules() if type(module) in KINDS]
    for module in chosen:
        module.forward = functools.partial(compiled(type(module)), module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward
