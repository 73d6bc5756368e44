"""The network of `mixste.model` again, written for speed: the same weights, the same numbers up to rounding.

One place chooses: `forward` takes the fast path where there is one and calls the model itself everywhere else.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixste.model import Block, MixSTE

# Up to here a head's products are so small that library attention spends its time on overhead.
SMALL_TOKENS, SMALL_WIDTH = 32, 16
SAFE_SCORE = 100.0  # 2 to this power, summed and squared, still fits single precision


def covers(model: nn.Module) -> bool:
    """Whether there is a fast path: MixSTE in all its variants, but for dropout while training."""
    return type(model) is MixSTE and not (model.training and model.dropout > 0)


def forward(model: nn.Module, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """model(keypoints), faster. Stochastic depth draws the same numbers in the same order as the model would."""
    if not covers(model) or keypoints.shape[1:] != (model.frames, model.joints, 2):
        return model(keypoints)  # which says what is wrong with the shape
    return plain_forward(model, keypoints)


def plain_forward(model: MixSTE, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """Plain PyTorch, for CPUs and what the kernels are checked against."""
    x = model.embedding_norm(model.embed(keypoints) + model.joint_position)  # (batch, frames, joints, dim)
    for block, norm, temporal, first in sequence(model):
        if temporal and not model.separate_joints:
            x = x.flatten(2).unsqueeze(2)  # (batch, frames, 1, joints · dim)
        if temporal and first:
            x = x + model.frame_position[:, None]
        x = norm(plain_block(block, x, temporal))
        x = x.view(*keypoints.shape[:2], -1, model.embed.out_features)
    x = x if model.separate_joints else x.flatten(2)
    return model.head(model.head_norm(x)).view(*keypoints.shape[:3], 3)


def sequence(model: MixSTE) -> list[tuple[Block, nn.LayerNorm, bool, bool]]:
    """The blocks in the order they run: block, the norm after it, temporal or spatial, first of its kind or not."""
    spatial = [(block, model.spatial_norm, False, loop == 0) for loop, block in enumerate(model.spatial_blocks)]
    temporal = [(block, model.temporal_norm, True, loop == 0) for loop, block in enumerate(model.temporal_blocks)]
    if not model.alternating:
        return spatial + temporal
    return [block for pair in zip(spatial, temporal, strict=True) for block in pair]


def plain_block(block: Block, x: Float[Tensor, "batch frames joints dim"], temporal: bool) -> Tensor:
    def turned(y: Tensor) -> Tensor:
        return y.transpose(1, 2) if temporal else y  # sequences along the second-last axis, and back

    attn = block.attn
    y = attn.proj(attend(attn.qkv(turned(block.norm1(x))), attn.heads, attn.scale))
    x = x + turned(block.dropped(y))
    y = block.mlp(block.norm2(x))
    return x + turned(block.dropped(turned(y)))


def attend(
    qkv: Float[Tensor, "*batch tokens three_dim"], heads: int, scale: float
) -> Float[Tensor, "*batch tokens dim"]:
    """Self-attention of queries, keys and values that lie side by side in one tensor: (*batch, tokens, dim)."""
    batch, (tokens, width) = qkv.shape[:-2], qkv.shape[-2:]
    qkv = qkv.reshape(-1, tokens, width)
    if qkv.device.type == "cpu" and tokens <= SMALL_TOKENS and width <= 3 * heads * SMALL_WIDTH:
        return SmallAttention.apply(qkv, heads, scale).view(*batch, tokens, -1)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (batch, heads, tokens, dim / heads)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).reshape(*batch, tokens, -1)


class SmallAttention(torch.autograd.Function):
    """Attention over few tokens with narrow heads, as batched products whose results are wide, not tall.

    A product with `tokens` columns runs up to three times faster than one with dim / heads columns; hence outputs and
    gradients are made channels first, (sequences · heads, dim / heads, tokens), and turned once at the end. Scores are
    held transposed, (…, keys, queries). exp2 is three times faster than exp on some CPUs; log₂ e goes into the scale.
    """

    @staticmethod
    def forward(ctx, qkv: Float[Tensor, "batch tokens three_dim"], heads: int, scale: float) -> Tensor:
        batch, tokens, _ = qkv.shape
        q, k, v = _by_head(qkv, heads)
        q *= scale * math.log2(math.e)
        scores = torch.bmm(k, q.transpose(1, 2))
        low, high = scores.aminmax()
        if not max(-low, high) < SAFE_SCORE:  # rare: exp2 as it is would overflow or vanish
            scores -= scores.amax(1, keepdim=True)
        scores = scores.exp2_()
        total = scores.sum(1, keepdim=True)
        out = torch.bmm(v.transpose(1, 2), scores).div_(total)
        ctx.save_for_backward(q, k, v, scores, total, out)
        ctx.scale = scale
        return out.view(batch, -1, tokens).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Float[Tensor, "batch tokens dim"]):
        q, k, v, scores, total, out = ctx.saved_tensors
        batch, tokens, dim = grad.shape
        grad = grad.transpose(1, 2).contiguous().view_as(out).div_(total)
        # With P = scores / total: dS = P ∘ (V · grad − Σ out ∘ grad), which is the softmax's own gradient.
        d_scores = torch.baddbmm(-(out * grad).sum(1, keepdim=True), v, grad).mul_(scores)
        d = grad.new_empty(3, *out.shape)
        torch.bmm(k.transpose(1, 2), d_scores, out=d[0])
        torch.bmm(q.transpose(1, 2), d_scores.transpose(1, 2), out=d[1])
        torch.bmm(grad, scores.transpose(1, 2), out=d[2])
        d[0] *= ctx.scale
        d[1] *= math.log(2)  # q carries log₂ e
        return d.view(3, batch, dim, tokens).permute(1, 3, 0, 2).reshape(batch, tokens, 3 * dim), None, None


def _by_head(qkv: Float[Tensor, "batch tokens three_dim"], heads: int) -> Float[Tensor, "3 sequences tokens width"]:
    """One copy into (3, batch · heads, tokens, width), moved 16 bytes at a time where the width allows it."""
    batch, tokens, width = qkv.shape
    wide = torch.complex128 if width // (3 * heads) * qkv.itemsize % 16 == 0 else qkv.dtype
    parts = qkv.view(wide).view(batch, tokens, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    return parts.view(qkv.dtype).view(3, batch * heads, tokens, -1)
