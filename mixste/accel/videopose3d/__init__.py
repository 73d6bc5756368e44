"""VideoPose3D's training on CUDA in bfloat16: products of matrices, with the kernels of `kernels` between them.

In training, the stride of each convolution is its width. With channels last, (batch · frames, channels), it is then
one product: rows that hold `width` frames side by side, times the weight as (out, width · in).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixste.accel.cuda import weight_gradient
from mixste.networks.videopose3d import VideoPose3D

try:
    from mixste.accel.videopose3d import kernels
except ImportError:  # Triton comes with PyTorch for CUDA only
    kernels = None

__all__ = ["covers", "forward"]

LOW = torch.bfloat16  # the precision of activations, and of the weights that products take


def covers(model: nn.Module, keypoints: Tensor) -> bool:
    """Whether `forward` can train the model on these keypoints: windows of its receptive field, on this GPU."""
    if type(model) is not VideoPose3D or kernels is None or keypoints.requires_grad:
        return False
    windows = len(keypoints) > 1 and keypoints.shape[1:] == (model.frames, model.joints, 2)
    norms = all(norm.training and norm.momentum is not None for norm in (model.expand_bn, *model.layers_bn))
    channels = model.shrink.in_channels
    return windows and norms and channels % 8 == 0 and torch.cuda.get_device_capability() >= (8, 0)


def forward(model: VideoPose3D, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """model(keypoints) in training, differentiable: (batch, 1, joints, 3) in the precision of the parameters."""
    convs, norms = (model.expand_conv, *model.layers_conv), (model.expand_bn, *model.layers_bn)
    torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)
    keeps = draw(model, keypoints)
    parameters = [p for conv, norm in zip(convs, norms, strict=True) for p in (conv.weight, norm.weight, norm.bias)]
    x = Layers.apply(keypoints, norms, keeps, 1 / (1 - model.dropout), *parameters)
    last = model.shrink  # in full precision: bfloat16 cannot resolve millimetres at 1 m
    poses = F.linear(x.to(last.weight.dtype), last.weight.squeeze(2), last.bias)
    return poses.view(-1, 1, model.joints, 3)


def draw(model: VideoPose3D, keypoints: Float[Tensor, "batch frames joints 2"]) -> list[Tensor | None]:
    """Dropout: for each layer (rows, channels) of 0 and 1, or None for a network without."""
    rows, frames = [], keypoints.shape[0] * keypoints.shape[1]
    for conv in (model.expand_conv, *model.layers_conv):
        frames //= conv.kernel_size[0]
        rows.append(frames)
    if not model.dropout:
        return [None] * len(rows)
    size = (sum(rows), model.shrink.in_channels)
    return list(torch.empty(size, dtype=torch.uint8, device=keypoints.device).bernoulli_(1 - model.dropout).split(rows))


def parts(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows more_columns"]:
    """x as the sum of two in low precision, side by side: one alone would move a keypoint by 2 pixels of 1000."""
    high = x.to(LOW)
    return padded(torch.cat([high, (x - high).to(LOW)], 1))


def padded(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows more_columns"]:
    """With columns of zeros up to a multiple of 8, as the matrix units take them."""
    return F.pad(x, (0, -x.shape[1] % 8))


class Layers(torch.autograd.Function):
    """All layers but the last: (batch, frames, joints, 2) -> (batch, channels).

    parameters: for each layer its convolution's weight (out, in, width), its norm's weight and bias.
    """

    @staticmethod
    def forward(ctx, keypoints, norms, keeps, factor, *parameters):
        saved, skipped = [], None
        for layer, (norm, keep) in enumerate(zip(norms, keeps, strict=True)):
            weight = parameters[3 * layer].transpose(1, 2)  # (out, width, in)
            weight = weight.to(LOW, memory_format=torch.contiguous_format).flatten(1)
            if layer == 0:
                x, weight = parts(keypoints.reshape(-1, weight.shape[1])), padded(torch.cat([weight, weight], 1))
            x = x.view(-1, weight.shape[1])
            before = x @ weight.t()
            statistics = kernels.statistics(before, norm)
            saved += (x, weight, before, statistics, keep)
            ends = layer % 2 == 0  # a block of two layers; the first layer is by itself
            x = kernels.activate(before, statistics, norm, keep, factor, skipped if ends else None)
            skipped = x if ends else skipped
        ctx.save_for_backward(*saved)
        ctx.norms, ctx.factor, ctx.shapes = norms, factor, [weight.shape for weight in parameters[::3]]
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, d):
        saved, gradients, d, d_skipped = ctx.saved_tensors, [], d.contiguous(), None
        for layer in reversed(range(len(ctx.norms))):
            x, weight, before, statistics, keep = saved[5 * layer : 5 * layer + 5]
            _, inputs, width = ctx.shapes[layer]
            d_before, (d_bias, d_scale) = kernels.activate_backward(
                before, statistics, ctx.norms[layer], keep, ctx.factor, d
            )
            d_weight = weight_gradient(d_before, x)
            if layer == 0:
                columns = width * inputs
                d_weight = d_weight[:, :columns] + d_weight[:, columns : 2 * columns]
            else:
                d_skipped = d if layer % 2 == 0 else d_skipped
                d = (d_before @ weight).view(-1, width, inputs)
                if layer % 2 == 1:
                    d[:, width // 2] += d_skipped
                d = d.flatten(0, 1)
            gradients = [d_weight.unflatten(1, (width, inputs)).transpose(1, 2), d_scale, d_bias, *gradients]
        return None, None, None, None, *gradients
