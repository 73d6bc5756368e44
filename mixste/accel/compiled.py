"""Networks without kernels of their own, on CUDA in bfloat16: their blocks, compiled by PyTorch.

Each kind of block is compiled once for each shape of its input and serves all blocks of that kind: to compile a network
of 64 blocks as a whole would take minutes, of trainings that take five.
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

KINDS = (Block, ScaledBlock)  # exactly these: KTPFormer's two blocks with graph steps, of 16, stay as they are


def covers(model: nn.Module) -> bool:
    """Whether the network's blocks are compiled for this GPU, with the installed packages."""
    if type(model) not in (DSTformer, KTPFormer, MotionAGFormer) or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability() >= (8, 0)


@functools.cache
def compiled(kind: type[nn.Module]) -> Callable:
    """kind.forward, compiled; the first argument is the block."""
    return torch.compile(kind.forward, dynamic=False)


@contextlib.contextmanager
def blocks(model: nn.Module) -> Iterator[None]:
    """Within it, the model computes its blocks by `compiled`. It compiles at the first calls, forward and backward."""
    chosen = [module for module in model.modules() if type(module) in KINDS]
    for module in chosen:
        module.forward = functools.partial(compiled(type(module)), module)
    try:
        yield
    finally:
        for module in chosen:
            del module.forward
