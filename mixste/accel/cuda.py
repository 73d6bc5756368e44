"""MixSTE on CUDA in bfloat16, by the kernels of `kernels`, `hopper` and `hopper_gelu` and the products of `cublaslt`.

Tokens keep one layout, (batch · frames · joints, dim), from the first block to the last. In training, half a
block is one autograd function: a branch, the residual and the norms that follow, so that no tensor is read twice. For
inference, weights are prepared once, with some norms and biases folded into them (`prepared`).
"""

import copy
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mixste.accel import cublaslt
from mixste.accel.cpu import ordered_blocks
from mixste.model import Block, MixSTE

try:
    from mixste.accel import kernels
except ImportError:  # Triton comes with PyTorch for CUDA only
    kernels = None

LOW = torch.bfloat16  # the precision of tokens, and of the weights that products take


def covers(model: MixSTE) -> bool:
    """Whether there are kernels for the model's sizes, on this GPU and with the installed packages."""
    block = model.spatial_blocks[0]
    width = model.embed.out_features // block.attn.heads
    sizes = model.separate_joints and model.joints <= 64 and width in (16, 32, 64, 128)
    sizes = sizes and block.mlp.fc1.out_features % 8 == 0
    installed = kernels is not None and cublaslt.loaded() is not None
    return installed and sizes and torch.cuda.get_device_capability() >= (8, 0)


def low_precision(model: MixSTE) -> dict[nn.Parameter, Tensor]:
    """Copies in bfloat16 of the blocks' parameters that matrix products read."""
    linears = (m for blocks in (model.spatial_blocks, model.temporal_blocks) for m in blocks.modules())
    return {p: p.detach().to(LOW, copy=True) for m in linears if isinstance(m, nn.Linear) for p in m.parameters()}


def forward(model: MixSTE, keypoints: Float[Tensor, "batch frames joints 2"], low: dict) -> Tensor:
    """model(keypoints), differentiable. low: the parameters' copies of `low_precision`, up to date."""
    layout = kernels.Layout(*keypoints.shape[:3], keypoints.device)
    steps = ordered_blocks(model)
    keeps = draw([(block, temporal) for block, _, temporal, _ in steps], layout)
    ahead = [(block.attn.proj.bias.detach(), keep[0]) for (block, *_), keep in zip(steps, keeps, strict=True)]
    x, normed = Beginning.apply(keypoints, layout, model, ahead[0], *beginning_parameters(model))
    for (block, inner, temporal, _), keep, following, next_ahead in zip(
        steps, keeps, [*steps[1:], None], [*ahead[1:], None], strict=True
    ):
        outer = following[0].norm1 if following else model.head_norm
        position = model.frame_position if following and following[2] and following[3] else None
        x, normed = AttentionHalf.apply(x, normed, keep[0], layout, block, low, temporal, *attention_parameters(block))
        x, normed = MLPHalf.apply(
            x, normed, keep[1], layout, block, low, inner, outer, next_ahead, position,
            *mlp_parameters(block, inner, outer),
        )  # fmt: skip
    return End.apply(normed, layout, *model.head.parameters()).view(*keypoints.shape[:3], 3)


def beginning_parameters(model: MixSTE) -> list[nn.Parameter]:
    norms = [*model.spatial_blocks[0].norm1.parameters(), *model.embedding_norm.parameters()]
    return [*model.embed.parameters(), model.joint_position, *norms]


def attention_parameters(block: Block) -> list[nn.Parameter]:
    return [*block.attn.qkv.parameters(), *block.attn.proj.parameters(), *block.norm2.parameters()]


def mlp_parameters(block: Block, inner: nn.LayerNorm | None, outer: nn.LayerNorm) -> list[nn.Parameter]:
    norms = [*(inner.parameters() if inner else ()), *outer.parameters()]
    return [*block.mlp.fc1.parameters(), *block.mlp.fc2.parameters(), *norms]


def draw(blocks: list[tuple[Block, bool]], layout, joined: bool = False) -> list[tuple[Tensor | None, Tensor | None]]:
    """Stochastic depth: the factors of each block's two branches, by token; None for a branch that is never dropped.

    blocks: those in the order they run, each with whether it is temporal. joined: in temporal ones, a frame is a token.
    """
    keeps = []
    for block, temporal in blocks:
        if block.drop_path == 0.0 or not block.training:
            keeps.append((None, None))
            continue
        joints = 1 if joined and temporal else layout.joints
        sequences = (2, layout.batch, 1, joints) if temporal else (2, layout.batch, layout.frames, 1)
        keep = torch.empty(sequences, device=block.norm1.weight.device).bernoulli_(1 - block.drop_path)
        keep = keep.div_(1 - block.drop_path).expand(2, layout.batch, layout.frames, joints)
        keeps.append(tuple(keep.flatten(1).unbind()))
    return keeps


def weight_gradient(d_out: Float[Tensor, "rows out"], x: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
    if d_out.dtype == torch.bfloat16:
        return torch.mm(d_out.t(), x, out_dtype=torch.float32)
    return d_out.t() @ x


def narrow(x: Float[Tensor, "rows few"], dtype: torch.dtype) -> Float[Tensor, "rows 8"]:
    """A few columns as the matrix units take them."""
    return F.pad(x, (0, 8 - x.shape[1])).to(dtype)


# Parameters and results of the functions below:
#   x, stream      the residual stream, (rows, dim) in bfloat16; rows are tokens, as `layout` says
#   normed, after  a norm of it, the input of the next branch, of the same shape and type
#   keep           (rows,) float32, factor of the branch by stochastic depth, or None for 1, see `draw`
#   ahead          bias (dim,) and keep of the next branch, added to the stream in advance
#   low            the copies of `low_precision`
#   parameters     only for autograd, which expects gradients in their order


class Beginning(torch.autograd.Function):
    """The embedding, its norm if the model has one, and the first block's norm of it."""

    @staticmethod
    def forward(ctx, keypoints, layout, model, ahead, *parameters):
        outer = model.spatial_blocks[0].norm1
        inner = None if isinstance(model.embedding_norm, nn.Identity) else model.embedding_norm
        x = kernels.embed(layout, keypoints, model.embed.weight, model.embed.bias, model.joint_position, LOW)
        stream, normed = kernels.norm(layout, x, outer, inner=inner, ahead=ahead)
        ctx.save_for_backward(keypoints, x)
        ctx.layout, ctx.inner, ctx.outer = layout, inner, outer
        return stream, normed

    @staticmethod
    @once_differentiable
    def backward(ctx, d_stream, d_normed):
        keypoints, x = ctx.saved_tensors
        d_x, _, sums = kernels.norm_backward(ctx.layout, x, d_normed, d_stream, ctx.outer, inner=ctx.inner)
        d_position = d_x.view(-1, ctx.layout.joints, d_x.shape[1]).sum(0, dtype=torch.float32)
        d_weight = weight_gradient(d_x, narrow(keypoints.flatten(0, 2), d_x.dtype))[:, :2]
        return *[None] * 4, d_weight, d_position.sum(0), d_position, *sums[1:]


class AttentionHalf(torch.autograd.Function):
    """x + keep · attention(normed), in place of x, which brings the branch's bias along; and norm2 of it."""

    @staticmethod
    def forward(ctx, x, normed, keep, layout, block, low, temporal, *parameters):
        attn = block.attn
        qkv = cublaslt.product(normed, low[attn.qkv.weight].t())
        out, log_sum = kernels.attention(layout, qkv, attn.qkv.bias, attn.heads, attn.scale, temporal, keep)
        cublaslt.add(x, out, low[attn.proj.weight].t(), in_place=True)
        _, after = kernels.norm(layout, x, block.norm2)
        ctx.mark_dirty(x)
        ctx.save_for_backward(normed, qkv, out, log_sum, x, keep)
        ctx.layout, ctx.block, ctx.low, ctx.temporal = layout, block, low, temporal
        return x, after

    @staticmethod
    @once_differentiable
    def backward(ctx, d_x, d_after):
        normed, qkv, out, log_sum, x, keep = ctx.saved_tensors
        attn, layout = ctx.block.attn, ctx.layout
        d_x, _, sums = kernels.norm_backward(layout, x, d_after, d_x, ctx.block.norm2, keep=keep)
        d_proj = weight_gradient(d_x, out)
        d_out = cublaslt.product(d_x, ctx.low[attn.proj.weight])
        d_qkv, d_qkv_bias = kernels.attention_backward(
            layout, qkv, attn.qkv.bias, attn.heads, attn.scale, ctx.temporal, keep, out, log_sum, d_out
        )
        d_qkv_weight = weight_gradient(d_qkv, normed)
        d_normed = cublaslt.product(d_qkv, ctx.low[attn.qkv.weight])
        return d_x, d_normed, *[None] * 5, d_qkv_weight, d_qkv_bias, d_proj, *sums


class MLPHalf(torch.autograd.Function):
    """The stream, inner norm of x + keep · MLP(normed), plus position, and the outer norm of it.

    keep is 0 or one over the chance that it is not: the former is seen to after GELU, the latter in the products.
    """

    @staticmethod
    def forward(ctx, x, normed, keep, layout, block, low, inner, outer, ahead, position, *parameters):
        mlp = block.mlp
        hidden = torch.empty(layout.rows, mlp.fc1.out_features, dtype=x.dtype, device=x.device)
        active = cublaslt.gelu(normed, low[mlp.fc1.weight].t(), low[mlp.fc1.bias], hidden)
        if keep is not None:
            kernels.drop(active, hidden, keep)
        factor = 1.0 if keep is None else 1 / (1 - block.drop_path)
        x = cublaslt.add(x, active, low[mlp.fc2.weight].t(), factor)
        stream, after = kernels.norm(layout, x, outer, mlp.fc2.bias, keep, inner, position, ahead)
        ctx.save_for_backward(normed, hidden, active, x, keep, position)
        ctx.layout, ctx.mlp, ctx.low, ctx.inner, ctx.outer, ctx.factor = layout, mlp, low, inner, outer, factor
        return stream, after

    @staticmethod
    @once_differentiable
    def backward(ctx, d_stream, d_after):
        normed, hidden, active, x, keep, position = ctx.saved_tensors
        mlp = ctx.mlp
        d_stream = torch.zeros_like(d_after) if d_stream is None else d_stream  # of the last, whose norm alone is read
        d_x, d_position, sums = kernels.norm_backward(
            ctx.layout, x, d_after, d_stream, ctx.outer, mlp.fc2.bias, keep, ctx.inner, position
        )
        d_fc2 = weight_gradient(d_x, active).mul_(ctx.factor)
        d_hidden, d_fc1_bias = cublaslt.gelu_backward(d_x, ctx.low[mlp.fc2.weight], hidden, ctx.factor)
        d_fc1 = weight_gradient(d_hidden, normed)
        d_normed = cublaslt.product(d_hidden, ctx.low[mlp.fc1.weight])
        norms = (*sums[3:], sums[1], sums[2])
        return d_x, d_normed, *[None] * 7, d_position, d_fc1, d_fc1_bias, d_fc2, sums[0], *norms


class End(torch.autograd.Function):
    """The last linear layer, in float32."""

    @staticmethod
    def forward(ctx, normed, layout, weight, bias):
        ctx.save_for_backward(normed, weight)
        ctx.layout = layout
        return kernels.head(layout, normed, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        normed, weight = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_normed = kernels.head_backward(ctx.layout, d_out, weight, normed.dtype)
        return d_normed, None, weight_gradient(narrow(d_out, normed.dtype), normed)[:3], d_out.sum(0)


def prepared(model: MixSTE, float8: bool) -> list[dict]:
    """The weights of each block as `infer` takes them, in the order in which blocks run; matrices as (in, out).

    norm1, norm2: before the branches; inner: after the block. ready: the options with which `kernels.norm` computes
    norm1. qkv in bfloat16, its bias in float32: over joints with norm1 in them (`folded`), or with float8 as
    `eight_bits` has them, with scales. proj, fc1, fc2 and their biases in bfloat16; fc1_folded: with norm2 in them.
    position: of frames, where the block that follows is the first over frames.
    """
    steps = ordered_blocks(model)
    low = low_precision(model)
    blocks = []
    for (block, inner, temporal, _), following in zip(steps, [*steps[1:], None], strict=True):
        attn, mlp = block.attn, block.mlp
        part = {"temporal": temporal, "heads": attn.heads, "scale": attn.scale, "norm1": block.norm1, "inner": inner}
        part |= {"norm2": block.norm2, "position": None, "qkv": low[attn.qkv.weight].t(), "qkv_bias": attn.qkv.bias}
        part["ready"] = {}  # how norm1 is to leave its result
        for name, layer in (("proj", attn.proj), ("fc1", mlp.fc1), ("fc2", mlp.fc2)):
            part |= {name: low[layer.weight].t(), f"{name}_bias": low[layer.bias]}
        weight, bias = folded(mlp.fc1, block.norm2)
        part["fc1_folded"] = (weight, bias.to(weight.dtype))
        if following and following[2] and following[3]:
            part["position"] = model.frame_position
        if float8:
            part |= eight_bits(attn.qkv, block.norm1)
        elif not temporal:
            part["qkv"], part["qkv_bias"] = folded(attn.qkv, block.norm1)
            part["ready"] = {"folded": True}
        blocks.append(part)
    return blocks


def refresh(blocks: list[dict], anew: list[dict]) -> None:
    """Copy newly prepared weights into the tensors that recorded graphs read."""
    for old, new in zip(_tensors(blocks), _tensors(anew), strict=True):
        if old is not new:  # the model's own parameters are the same in both
            old.copy_(new)


def _tensors(blocks: list[dict]) -> Iterator[Tensor]:
    for value in (value for part in blocks for value in part.values()):
        if isinstance(value, nn.Module):
            yield from value.parameters()
        elif isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple):
            yield from value


def folded(layer: nn.Linear, norm: nn.LayerNorm) -> tuple[Float[Tensor, "in out"], Float[Tensor, " out"]]:
    """A linear layer with the norm before it folded in, except for the factor 1 / deviation: its rows add up to 0, so
    that the mean of the input has no effect."""
    weight = layer.weight * norm.weight
    weight = weight - weight.mean(dim=1, keepdim=True)
    return weight.to(LOW).t(), layer.bias + layer.weight @ norm.bias


def eight_bits(layer: nn.Linear, norm: nn.LayerNorm) -> dict:
    """A linear layer after a norm, in float8: the norm is scaled so that its output cannot exceed the format."""
    weight = layer.weight
    most = torch.finfo(torch.float8_e4m3fn).max
    bound = norm.weight.abs().max() * len(norm.weight) ** 0.5 + norm.bias.abs().max()
    scaled = copy.deepcopy(norm)
    scaled.weight.data *= most / bound
    scaled.bias.data *= most / bound
    unit = weight.abs().max() / most
    eight, scales = (weight / unit).to(torch.float8_e4m3fn).t(), ((bound / most).float(), unit.float())
    return {"norm1": scaled, "qkv": eight, "scales": scales, "ready": {"dtype": eight.dtype}}


def infer(model: MixSTE, blocks: list[dict], keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """model(keypoints) without gradients, from `prepared` weights. Products are added to the residual in place."""
    layout = kernels.Layout(*keypoints.shape[:3], keypoints.device)
    x = kernels.embed(layout, keypoints, model.embed.weight, model.embed.bias, model.joint_position, LOW)
    if not isinstance(model.embedding_norm, nn.Identity):
        _, x = kernels.norm(layout, x, model.embedding_norm)
    _, normed = kernels.norm(layout, x, blocks[0]["norm1"], **blocks[0]["ready"])
    for block, following in zip(blocks, [*blocks[1:], {"norm1": model.head_norm, "ready": {}}], strict=True):
        inverse = None
        if "folded" in block["ready"]:
            qkv, inverse = cublaslt.product(x, block["qkv"]), normed
        elif "scales" in block:
            qkv = torch._scaled_mm(normed, block["qkv"], *block["scales"], out_dtype=x.dtype, use_fast_accum=True)
        else:
            qkv = cublaslt.product(normed, block["qkv"])
        out, _ = kernels.attention(
            layout, qkv, block["qkv_bias"], block["heads"], block["scale"], block["temporal"], inverse=inverse
        )
        cublaslt.add(x, out, block["proj"], bias=block["proj_bias"], in_place=True)
        fold = cublaslt.on_hopper(x, block["fc1"])
        _, ready = kernels.norm(layout, x, block["norm2"], folded=fold)
        if fold:
            active = cublaslt.gelu(x, *block["fc1_folded"], inverse=ready)
        else:
            active = cublaslt.gelu(ready, block["fc1"], block["fc1_bias"])
        cublaslt.add(x, active, block["fc2"], bias=block["fc2_bias"], in_place=True)
        x, normed = kernels.norm(
            layout, x, following["norm1"], inner=block["inner"], position=block["position"], **following["ready"]
        )
    return kernels.head(layout, normed, model.head.weight, model.head.bias).view(*keypoints.shape[:3], 3)
