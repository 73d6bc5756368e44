"""MixSTE in plain PyTorch, arranged for CPUs; also what autocast runs on CUDA where the kernels do not fit.

The same weights as `mixste.model`, the same numbers up to rounding. Stochastic depth draws the same numbers in the same
order as the model does.
"""

import copy
import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixste.model import Block, MixSTE

# Up to this size, the products of a head are so small that the overhead of library attention dominates.
SMALL_TOKENS, SMALL_WIDTH = 32, 16
TINY = 400  # tokens² · width of a head: up to this, calling a library for a product takes longer than the product
NARROW = 128  # width below which a product is left to PyTorch
MOST = 2.0**100  # of a softmax's sum: float32 still holds it and its inverse at full precision


def forward(model: MixSTE, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """Computes model(keypoints), without dropout (see `mixste.accel.covers`)."""
    x = model.embedding_norm(model.embed(keypoints) + model.joint_position)  # (batch, frames, joints, dim)
    for block, norm, temporal, first in ordered_blocks(model):
        if temporal and not model.separate_joints:
            x = x.flatten(2).unsqueeze(2)  # (batch, frames, 1, joints · dim)
        if temporal and first:
            x = x + model.frame_position[:, None]
        x = norm(block_forward(block, x, temporal).to(norm.weight.dtype))
        x = x.view(*keypoints.shape[:2], -1, model.embed.out_features)
    x = x if model.separate_joints else x.flatten(2)
    with torch.autocast("cuda", enabled=False):  # the last step keeps the weights' precision, as the model's does
        return model.head(model.head_norm(x.to(model.head.weight.dtype))).view(*keypoints.shape[:3], 3)


def low_precision(model: MixSTE) -> Callable[[Tensor], Tensor]:
    """`forward` of a copy of the model that has its blocks in bfloat16."""
    low = copy.deepcopy(model)
    for block in (*low.spatial_blocks, *low.temporal_blocks):
        block.bfloat16()
    return functools.partial(forward, low)


def ordered_blocks(model: MixSTE) -> list[tuple[Block, nn.LayerNorm, bool, bool]]:
    """The blocks in the order they run: block, the norm after it, temporal or spatial, first of its kind or not."""
    spatial = [(block, model.spatial_norm, False, loop == 0) for loop, block in enumerate(model.spatial_blocks)]
    temporal = [(block, model.temporal_norm, True, loop == 0) for loop, block in enumerate(model.temporal_blocks)]
    if not model.alternating:
        return spatial + temporal
    return [block for pair in zip(spatial, temporal, strict=True) for block in pair]


def block_forward(block: Block, x: Float[Tensor, "batch frames joints dim"], temporal: bool) -> Tensor:
    x = x.to(block.norm1.weight.dtype)

    def turned(y: Tensor) -> Tensor:
        return y.transpose(1, 2) if temporal else y  # sequences along the second-last axis, and back

    attn, mlp = block.attn, block.mlp
    if fuses(block, x):
        y = attend(turned(fused(attn.qkv, block.norm1(x))), attn.heads, attn.scale)
        x = fused(attn.proj, turned(y), added=x)
        return fused(mlp.fc2, fused(mlp.fc1, block.norm2(x), gelu=True), added=x)
    y = attend(turned(linear(attn.qkv, block.norm1(x))), attn.heads, attn.scale)
    x = x + turned(block.dropped(turned(linear(attn.proj, turned(y)))))
    y = linear(mlp.fc2, F.gelu(linear(mlp.fc1, block.norm2(x))))
    return x + turned(block.dropped(turned(y)))


def fuses(block: Block, x: Tensor) -> bool:
    """Whether `fused` computes the block's layers: without gradients and stochastic depth, by PyTorch's oneDNN."""
    plain = x.device.type == "cpu" and x.dtype == block.mlp.fc1.weight.dtype == torch.float32
    return plain and not (torch.is_grad_enabled() or block.training) and torch.backends.mkldnn.is_available()


def fused(layer: nn.Linear, x: Float[Tensor, "batch frames joints dim"], gelu: bool = False, added=None) -> Tensor:
    """layer(x), GELU of it, or added + layer(x), in one pass over the result."""
    operation = torch.ops.mkldnn._linear_pointwise
    if added is not None:
        return operation.binary(x.contiguous(), added, layer.weight, layer.bias, "add")
    return operation(x, layer.weight, layer.bias, "gelu" if gelu else "none", [], "none" if gelu else "")


def linear(layer: nn.Linear, x: Float[Tensor, "batch frames joints dim"]) -> Tensor:
    """layer(x). On the CPU a wide one is a 1×1 convolution, channels last: PyTorch computes convolutions by oneDNN but
    float32 products by MKL, which may take twice as long on AMD processors. Of a narrow one over few windows, PyTorch
    computes the convolution by a slower way of its own: without it, a step of `smoke` takes an eighth less time.
    """
    if x.device.type != "cpu" or x.dtype == torch.bfloat16 or layer.in_features < NARROW:
        return layer(x)
    return Convolution.apply(x, layer.weight, layer.bias)


class Convolution(torch.autograd.Function):
    """The convolution of `linear`. The bias's gradient is computed as a sum; oneDNN takes three times as long."""

    @staticmethod
    def forward(ctx, x: Float[Tensor, "batch frames joints dim"], weight: Tensor, bias: Tensor) -> Tensor:
        x, weight = x.contiguous().permute(0, 3, 1, 2), weight[:, :, None, None]
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias).permute(0, 2, 3, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Float[Tensor, "batch frames joints out"]):
        x, weight = ctx.saved_tensors
        d_x, d_weight, _ = torch.ops.aten.convolution_backward(
            grad.permute(0, 3, 1, 2), x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        return d_x.permute(0, 2, 3, 1), d_weight.flatten(1), grad.sum((0, 1, 2))


def attend(
    qkv: Float[Tensor, "batch sequences tokens three_dim"], heads: int, scale: float
) -> Float[Tensor, "batch sequences tokens dim"]:
    """Self-attention of queries, keys and values that lie side by side in one tensor."""
    batch, sequences, tokens, width = qkv.shape
    small = tokens <= SMALL_TOKENS and width <= 3 * heads * SMALL_WIDTH
    if small and qkv.device.type == "cpu" and qkv.dtype != torch.bfloat16:
        tiny = tokens * tokens * width <= 3 * heads * TINY
        return (TinyAttention if tiny else SmallAttention).apply(qkv, heads, scale)
    q, k, v = qkv.flatten(0, 1).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (batch · sequences, heads, tokens, dim / heads)
    return out.transpose(1, 2).reshape(batch, sequences, tokens, -1)


class SmallAttention(torch.autograd.Function):
    """Attention over few tokens with narrow heads, as batched products with `tokens` columns.

    A product with `tokens` columns runs up to three times faster than one with dim / heads columns; hence outputs and
    gradients are made channels first, (sequences · heads, dim / heads, tokens), and turned once at the end. Scores are
    held transposed, (…, keys, queries). exp2 is three times faster than exp on some CPUs; log₂ e goes into the scale.
    """

    @staticmethod
    def forward(ctx, qkv: Float[Tensor, "batch sequences tokens three_dim"], heads: int, scale: float) -> Tensor:
        tokens, dim = qkv.shape[2], qkv.shape[3] // 3
        q, k, v = _by_head(qkv, heads)
        scores = q.new_empty(len(q), tokens, tokens)

        def product():
            return scores.baddbmm_(k, q.transpose(1, 2), beta=0, alpha=scale * math.log2(math.e))

        total = product().exp2_().sum(1, keepdim=True)
        low, high = total.aminmax()
        if not (low > 1 / MOST and high < MOST):  # rare: exp2 as it is overflows or vanishes
            product().sub_(scores.amax(1, keepdim=True)).exp2_()
            total = scores.sum(1, keepdim=True)
        out = torch.bmm(v.transpose(1, 2), scores).div_(total)
        ctx.save_for_backward(q, k, v, scores, total, out)
        ctx.scale, ctx.layout = scale, (qkv.shape, qkv.stride())
        result = torch.empty_like(qkv[..., :dim])  # laid out as qkv: spatial and temporal turns cost no copies
        return result.copy_(out.view(*qkv.shape[:2], dim, tokens).transpose(2, 3))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Float[Tensor, "batch sequences tokens dim"]):
        q, k, v, scores, total, out = ctx.saved_tensors
        batch, sequences, tokens, dim = grad.shape
        d_out = grad.transpose(2, 3).clone(memory_format=torch.contiguous_format).view_as(out).div_(total)
        # With P = scores / total: dS = P ∘ (V · grad − Σ out ∘ grad), which is the softmax's own gradient.
        d_scores = torch.baddbmm(-(out * d_out).sum(1, keepdim=True), v, d_out).mul_(scores)
        d = d_out.new_empty(3, *out.shape)
        d[0].baddbmm_(k.transpose(1, 2), d_scores, beta=0, alpha=ctx.scale)
        d[1].baddbmm_(q.transpose(1, 2), d_scores.transpose(1, 2), beta=0, alpha=ctx.scale)
        d[2].baddbmm_(d_out, scores.transpose(1, 2), beta=0)
        d_qkv = grad.new_empty_strided(*ctx.layout)
        d_qkv.unflatten(-1, (3, dim)).copy_(d.view(3, batch, sequences, dim, tokens).permute(1, 2, 4, 0, 3))
        return d_qkv, None, None


class TinyAttention(torch.autograd.Function):
    """Attention over so few tokens with so narrow heads that elementwise operations are fastest.

    All heads of all sequences lie side by side: (dim / heads, tokens, batch · sequences · heads). Scores are held
    transposed, (keys, queries, batch · sequences · heads).
    """

    @staticmethod
    def forward(ctx, qkv: Float[Tensor, "batch sequences tokens three_dim"], heads: int, scale: float) -> Tensor:
        parts = qkv.unflatten(-1, (3, heads, -1)).permute(3, 5, 2, 0, 1, 4).flatten(3).contiguous()
        q, k, v = parts
        weights = _dot(q[:, None], k[:, :, None]).mul_(scale * math.log2(math.e))
        weights.sub_(weights.amax(0)).exp2_()
        weights.div_(weights.sum(0))
        out = torch.stack([(weights * column[:, None]).sum(0) for column in v])
        ctx.save_for_backward(parts, weights, out)
        ctx.scale, ctx.heads, ctx.layout = scale, heads, (qkv.shape, qkv.stride())
        result = torch.empty_like(qkv[..., : qkv.shape[3] // 3])
        result.unflatten(-1, (heads, -1)).copy_(out.unflatten(2, (*qkv.shape[:2], heads)).permute(2, 3, 1, 4, 0))
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Float[Tensor, "batch sequences tokens dim"]):
        parts, weights, out = ctx.saved_tensors
        q, k, v = parts
        d_out = grad.unflatten(-1, (ctx.heads, -1)).permute(4, 2, 0, 1, 3).flatten(2).contiguous()
        d_scores = _dot(d_out[:, None], v[:, :, None]).sub_((out * d_out).sum(0)).mul_(weights)
        d = torch.empty_like(parts)
        for column in range(len(q)):
            torch.sum(d_scores * k[column][:, None], 0, out=d[0, column])
            torch.sum(d_scores * q[column], 1, out=d[1, column])
            torch.sum(weights * d_out[column], 1, out=d[2, column])
        d[:2].mul_(ctx.scale)
        d_qkv = grad.new_empty_strided(*ctx.layout)
        d = d.unflatten(3, (*grad.shape[:2], ctx.heads)).permute(3, 4, 2, 0, 5, 1)
        d_qkv.unflatten(-1, (3, ctx.heads, -1)).copy_(d)
        return d_qkv, None, None


def _dot(a: Float[Tensor, "width ..."], b: Float[Tensor, "width ..."]) -> Tensor:
    """The sum of a · b over the first axis; the others are broadcast."""
    total = a[0] * b[0]
    for one, other in zip(a[1:], b[1:], strict=True):
        total.addcmul_(one, other)
    return total


def _by_head(qkv: Float[Tensor, "batch sequences tokens three_dim"], heads: int) -> Tensor:
    """One copy into (3, batch · sequences · heads, tokens, dim / heads), 16 bytes at a time where they allow it."""
    tokens, width = qkv.shape[-2], qkv.shape[-1] // (3 * heads)
    wide = torch.complex128 if width * qkv.itemsize % 16 == 0 else qkv.dtype
    parts = qkv.view(wide).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5).contiguous()
    return parts.view(qkv.dtype).view(3, -1, tokens, width)
