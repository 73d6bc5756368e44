"""Networks that join all joints of a frame to one token, on CUDA in bfloat16: PoseFormer, and MixSTE without joint
separation.

Their blocks over joints are narrow, and each half of one is a kernel of `joined.kernels`. Their blocks over frames are
computed as in `cuda`.
"""

from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixste.accel import cublaslt, cuda
from mixste.accel.cpu import ordered_blocks
from mixste.model import Block, MixSTE
from mixste.networks import PoseFormer

__all__ = ["covers", "forward", "low_precision", "steps"]

try:
    from mixste.accel.joined import kernels
except ImportError:  # Triton comes with PyTorch for CUDA only
    kernels = None


def covers(model: nn.Module) -> bool:
    """Whether there are kernels for the network, on this GPU and with the installed packages; there are none for
    dropout."""
    if not (type(model) is PoseFormer or (type(model) is MixSTE and not model.separate_joints)):
        return False
    if model.training and getattr(model, "dropout", 0) > 0:
        return False
    if kernels is None or cublaslt.loaded() is None or torch.cuda.get_device_capability() < (8, 0):
        return False
    blocks = {temporal: block for block, _, temporal in steps(model)}
    width, hidden = blocks[True].mlp.fc1.in_features, blocks[True].mlp.fc1.out_features
    sizes = (
        width % 8 == 0 and hidden % 8 == 0 and cuda.kernels.uneven(model.frames, 1, width // blocks[True].attn.heads)
    )
    return sizes and kernels.covers(blocks[False], model.joints)


def steps(model: nn.Module) -> list[tuple[Block, nn.LayerNorm | None, bool]]:
    """The blocks in the order they run: block, the norm after it, whether it is over frames."""
    if isinstance(model, MixSTE):
        return [(block, norm, temporal) for block, norm, temporal, _ in ordered_blocks(model)]
    spatial = [(block, None, False) for block in model.Spatial_blocks]
    temporal = [(block, None, True) for block in model.blocks]
    return [*spatial[:-1], (spatial[-1][0], model.Spatial_norm, False),
            *temporal[:-1], (temporal[-1][0], model.Temporal_norm, True)]  # fmt: skip


def low_precision(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Copies in bfloat16 of the parameters that products of matrices read."""
    linears = (m for block, _, temporal in steps(model) if temporal for m in block.modules())
    return {p: p.detach().to(cuda.LOW, copy=True) for m in linears if isinstance(m, nn.Linear) for p in m.parameters()}


def forward(model: nn.Module, keypoints: Float[Tensor, "batch frames joints 2"], low: dict) -> Tensor:
    """model(keypoints), differentiable. low: the parameters' copies of `low_precision`, up to date."""
    batch, frames, joints, _ = keypoints.shape
    layout, whole = (cuda.kernels.Layout(batch, frames, count, keypoints.device) for count in (joints, 1))
    mixste, order = isinstance(model, MixSTE), steps(model)
    keeps = cuda.draw([(block, temporal) for block, _, temporal in order], layout, joined=True)
    if mixste:
        embed, joint_position, frame_position = model.embed, model.joint_position, model.frame_position
    else:
        embed, joint_position = model.Spatial_patch_to_embedding, model.Spatial_pos_embed[0]
        frame_position = model.Temporal_pos_embed[0]
    with torch.autocast("cuda", enabled=False):
        x = Embedding.apply(keypoints, layout, *embed.parameters(), joint_position)
        if mixste and not isinstance(model.embedding_norm, nn.Identity):
            x = model.embedding_norm(x.to(embed.weight.dtype)).to(x.dtype)
        for temporal, run in groupby(zip(order, keeps, strict=True), key=lambda step: step[0][2]):
            if not temporal:
                x = x.view(layout.rows, -1)
                for (block, after, _), keep in run:
                    x = SpatialBlock.apply(x, keep, layout, block, after, *spatial_parameters(block, after))
                continue
            x = x.view(batch, frames, -1)
            if frame_position is not None:
                x, frame_position = x + frame_position.to(x.dtype), None  # once
            x = over_frames(list(run), x.flatten(0, 1), whole, low)
        x = x.view(batch, frames, -1)
        if mixste:
            return model.head(model.head_norm(x.to(model.head.weight.dtype))).view(*keypoints.shape[:3], 3)
        weight, bias = model.weighted_mean.weight, model.weighted_mean.bias
        x = torch.bmm(weight[:, :, 0].to(x.dtype).expand(batch, 1, -1), x)  # (batch, 1, joints · joint_dim)
        return model.head(x.to(bias.dtype) + bias).unflatten(2, (joints, 3))


def over_frames(run: list, x: Float[Tensor, "rows width"], layout, low: dict) -> Float[Tensor, "rows width"]:
    """Consecutive blocks over frames with their norms. run: ((block, norm, _), keep) of each. The last has a norm."""
    ahead = [(block.attn.proj.bias.detach(), keep[0]) for (block, *_), keep in run]
    first = run[0][0][0]
    x, normed = Beginning.apply(x, layout, first.norm1, ahead[0], *first.norm1.parameters())
    for index, ((block, norm, _), keep) in enumerate(run):
        last = index == len(run) - 1
        inner, outer, following = (None, norm, None) if last else (norm, run[index + 1][0][0].norm1, ahead[index + 1])
        x, normed = cuda.AttentionHalf.apply(
            x, normed, keep[0], layout, block, low, True, *cuda.attention_parameters(block)
        )
        x, normed = cuda.MLPHalf.apply(
            x, normed, keep[1], layout, block, low, inner, outer, following, None,
            *cuda.mlp_parameters(block, inner, outer),
        )  # fmt: skip
    return normed


def spatial_parameters(block: Block, after: nn.LayerNorm | None) -> list[nn.Parameter]:
    attention = [*block.norm1.parameters(), *block.attn.parameters()]
    return [*attention, *block.norm2.parameters(), *block.mlp.parameters(), *(after.parameters() if after else ())]


# Parameters of the functions below are as in `cuda`; the last ones are for autograd alone, which expects gradients in
# their order.


class Embedding(torch.autograd.Function):
    """(batch, frames, joints, 2) -> (rows, dim): the first layer and the joints' positions."""

    @staticmethod
    def forward(ctx, keypoints, layout, weight, bias, position):
        ctx.save_for_backward(keypoints)
        ctx.layout = layout
        return cuda.kernels.embed(layout, keypoints, weight, bias, position, cuda.LOW)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_x):
        [keypoints] = ctx.saved_tensors
        joints, dim = ctx.layout.joints, d_x.shape[1]
        d_position = cuda.kernels.column_sums(d_x.view(-1, joints * dim)).view(joints, dim)
        d_weight = cuda.weight_gradient(d_x, cuda.narrow(keypoints.flatten(0, 2), d_x.dtype))[:, :2]
        return None, None, d_weight, d_position.sum(0), d_position


class SpatialBlock(torch.autograd.Function):
    """A block over joints, and the norm after it, if there is one."""

    @staticmethod
    def forward(ctx, x, keep, layout, block, after, *parameters):
        between = kernels.joint_attention(layout, x, block, keep[0])
        ctx.save_for_backward(x, between, *keep)
        ctx.layout, ctx.block, ctx.after = layout, block, after
        return kernels.joint_mlp(layout, between, block, keep[1], after)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, between, *keep = ctx.saved_tensors
        d_between, d_mlp = kernels.joint_mlp_backward(ctx.layout, between, ctx.block, d_out, keep[1], ctx.after)
        d_x, d_attention = kernels.joint_attention_backward(ctx.layout, x, ctx.block, d_between, keep[0])
        return d_x, None, None, None, None, *d_attention, *d_mlp


class Beginning(torch.autograd.Function):
    """Before the first of several blocks over frames: x plus the bias of its branch, and its norm of x."""

    @staticmethod
    def forward(ctx, x, layout, norm, ahead, *parameters):
        ctx.save_for_backward(x)
        ctx.layout, ctx.norm = layout, norm
        return cuda.kernels.norm(layout, x, norm, ahead=ahead)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_stream, d_normed):
        [x] = ctx.saved_tensors
        d_x, _, sums = cuda.kernels.norm_backward(ctx.layout, x, d_normed, d_stream, ctx.norm)
        return d_x, None, None, None, *sums[1:]
