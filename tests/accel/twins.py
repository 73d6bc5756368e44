"""Twins of what `mixste.accel` computes by `kernels`, `videopose3d.kernels` and `cublaslt`, in plain PyTorch, on any
device and in any precision.

Each function is its definition; gradients are autograd's. On a GPU the kernels are compared with them in double
precision, and on the CPU they stand in for the kernels, so that what calls those is tested without a GPU.
"""

import copy
import itertools
from types import SimpleNamespace

import torch
import torch.nn.functional as F

from mixste import MixSTE
from mixste.accel import cuda, joined
from mixste.model import Block

APPROXIMATE = "tanh"  # of GELU, as the kernels compute it


class Layout:
    def __init__(self, batch, frames, joints, device):
        self.batch, self.frames, self.joints = batch, frames, joints
        self.rows = batch * frames * joints


# --- kernels -----------------------------------------------------------------------------------------------------


def embed(layout, keypoints, weight, bias, position, dtype):
    keypoints = keypoints.as_subclass(torch.Tensor).to(weight.dtype)
    return (F.linear(keypoints, weight, bias) + position).flatten(0, 2).to(dtype)


def head(layout, normed, weight, bias):
    return F.linear(normed.to(weight.dtype), weight, bias)


def head_backward(layout, d_out, weight, dtype):
    return (d_out @ weight).to(dtype)


def _norm(x, norm):
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _branch(x, bias, keep):
    return x if bias is None else x + (bias if keep is None else keep[:, None] * bias)


def _placed(layout, x, position):
    return (
        x
        if position is None
        else (x.unflatten(0, (-1, layout.frames, layout.joints)) + position[:, None]).flatten(0, 2)
    )


def norm(layout, x, outer, bias=None, keep=None, inner=None, position=None, ahead=None, dtype=None, folded=False):
    wide = x.to(torch.promote_types(x.dtype, outer.weight.dtype))
    stream = _branch(wide, bias, keep)
    stream = stream if inner is None else _placed(layout, _norm(stream, inner), position)
    deviation = (stream.var(1, correction=0) + outer.eps).sqrt()
    normed = 1 / deviation if folded else _norm(stream, outer).to(dtype or x.dtype)
    if ahead is not None:
        stream = _branch(stream, *ahead)
    return None if inner is None and ahead is None else stream.to(x.dtype), normed


def norm_backward(layout, x, d_normed, d_stream, outer, bias=None, keep=None, inner=None, position=None):
    wide = torch.promote_types(x.dtype, outer.weight.dtype)
    bias = torch.zeros(x.shape[1], dtype=wide, device=x.device) if bias is None else bias.detach()
    with torch.enable_grad():
        x_, bias = x.detach().to(wide).requires_grad_(), bias.clone().requires_grad_()
        stream = _branch(x_, bias, keep)
        inputs = [x_, bias, *outer.parameters(), *(() if inner is None else inner.parameters())]
        if inner is not None:
            stream = _norm(stream, inner)
            if position is not None:
                position = position.detach().clone().requires_grad_()
                stream, inputs = _placed(layout, stream, position), [*inputs, position]
        outputs = (_norm(stream, outer), stream)
    d_x, *sums = torch.autograd.grad(outputs, inputs, (d_normed.to(wide), d_stream.to(wide)))
    d_placed = sums.pop() if position is not None else None
    return d_x.to(x.dtype), d_placed, torch.stack(sums)


def column_sums(x):
    return x.sum(0, dtype=torch.promote_types(x.dtype, torch.float32))


def drop(active, before, keep):
    active[keep == 0], before[keep == 0] = 0, -100


def _attention(layout, qkv, bias, heads, scale, temporal, keep, inverse):
    qkv = (qkv if inverse is None else qkv * inverse[:, None]) + bias
    # (batch, sequences, heads, tokens, three, dim / heads)
    qkv = qkv.view(layout.batch, layout.frames, layout.joints, 3, heads, -1)
    qkv = qkv.permute(0, 2, 4, 1, 3, 5) if temporal else qkv.permute(0, 1, 4, 2, 3, 5)
    q, k, v = qkv.unbind(-2)
    out = (q @ k.transpose(-1, -2) * scale).softmax(-1) @ v
    out = out.permute(0, 3, 1, 2, 4) if temporal else out.permute(0, 1, 3, 2, 4)
    out = out.reshape(layout.rows, -1)
    return out if keep is None else keep[:, None] * out


def attention(layout, qkv, bias, heads, scale, temporal, keep=None, inverse=None):
    wide = qkv.to(torch.promote_types(qkv.dtype, bias.dtype))
    return _attention(layout, wide, bias, heads, scale, temporal, keep, inverse).to(qkv.dtype), None


def attention_backward(layout, qkv, bias, heads, scale, temporal, keep, out, log_sum, d_out):
    with torch.enable_grad():
        wide = qkv.detach().to(torch.promote_types(qkv.dtype, bias.dtype)).requires_grad_()
        bias = bias.detach().clone().requires_grad_()
        out = _attention(layout, wide, bias, heads, scale, temporal, keep, None)
    d_qkv, d_bias = torch.autograd.grad(out, (wide, bias), d_out.to(out.dtype))
    return d_qkv.to(qkv.dtype), d_bias


# --- videopose3d.kernels -----------------------------------------------------------------------------------------


def statistics(x, norm):
    wide = x.to(torch.promote_types(x.dtype, norm.weight.dtype))
    F.batch_norm(wide, norm.running_mean, norm.running_var, training=True, momentum=norm.momentum)
    variance, mean = torch.var_mean(wide, 0, correction=0)
    return torch.stack([mean, (variance + norm.eps).rsqrt()])


def _activated(x, norm, keep, factor):
    x = F.batch_norm(x, None, None, norm.weight.to(x.dtype), norm.bias.to(x.dtype), training=True, eps=norm.eps).relu()
    return x if keep is None else x * keep * factor


def activate(x, statistics, norm, keep, factor, skipped=None):
    out = _activated(x.to(statistics.dtype), norm, keep, factor)
    if skipped is not None:
        out = out + skipped.unflatten(0, (len(x), -1))[:, len(skipped) // len(x) // 2]
    return out.to(x.dtype)


def activate_backward(x, statistics, norm, keep, factor, d_out):
    norm = copy.deepcopy(norm)
    with torch.enable_grad():
        leaf = x.detach().to(statistics.dtype).requires_grad_()
        out = _activated(leaf, norm, keep, factor)
    d_x, *sums = torch.autograd.grad(out, (leaf, norm.bias, norm.weight), d_out.to(out.dtype))
    return d_x.to(x.dtype), torch.stack(sums)


# --- joined.kernels ----------------------------------------------------------------------------------------------


def _half(x, branch, keep, after=None):
    x = x + (branch if keep is None else keep[:, None] * branch)
    return x if after is None else _norm(x, after)


def joint_attention(layout, x, block, keep=None):
    wide = x.to(torch.promote_types(x.dtype, block.norm1.weight.dtype))
    branch = block.attn(block.norm1(wide).unflatten(0, (-1, layout.joints))).flatten(0, 1)
    return _half(wide, branch, keep).to(x.dtype)


def joint_mlp(layout, x, block, keep=None, after=None):
    wide = x.to(torch.promote_types(x.dtype, block.norm2.weight.dtype))
    branch = block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(wide)), approximate=APPROXIMATE))
    return _half(wide, branch, keep, after).to(x.dtype)


def _half_backward(half, x, parameters, d_out):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = half(leaf)
    d_x, *gradients = torch.autograd.grad(out, (leaf, *parameters), d_out.to(out.dtype))
    return d_x, gradients


def joint_attention_backward(layout, x, block, d_out, keep=None):
    parameters = (*block.norm1.parameters(), *block.attn.parameters())
    return _half_backward(lambda x: joint_attention(layout, x, block, keep), x, parameters, d_out)


def joint_mlp_backward(layout, x, block, d_out, keep=None, after=None):
    parameters = (*block.norm2.parameters(), *block.mlp.parameters(), *(after.parameters() if after else ()))
    return _half_backward(lambda x: joint_mlp(layout, x, block, keep, after), x, parameters, d_out)


# --- cublaslt ----------------------------------------------------------------------------------------------------

FOLDS = False  # whether the products with GELU take an inverse, as those of `hopper_gelu` do


def loaded():
    return True


def on_hopper(a, b):
    return FOLDS


def product(a, b):
    return a @ b


def add(x, a, b, factor=1.0, bias=None, in_place=False):
    total = x + factor * (a @ b)
    total = total if bias is None else total + bias
    return x.copy_(total) if in_place else total


def gelu(a, b, bias, before=None, inverse=None):
    x = a @ b
    x = (x if inverse is None else x * inverse[:, None].to(x.dtype)) + bias
    if before is not None:
        before.copy_(x)
    return F.gelu(x, approximate=APPROXIMATE)


def gelu_backward(d, b, before, factor=1.0):
    with torch.enable_grad():
        x = before.detach().clone().requires_grad_()
        active = F.gelu(x, approximate=APPROXIMATE)
    [out] = torch.autograd.grad(active, x, factor * (d @ b))
    return out, out.sum(0, dtype=torch.promote_types(out.dtype, torch.float32))


# --- what tests share --------------------------------------------------------------------------------------------

VARIANTS = {
    "the paper's": {},
    "spatial blocks first": {"alternating": False},
    "joints together": {"separate_joints": False},
    "joints together, spatial first": {"alternating": False, "separate_joints": False},
    "scale by width": {"attention_scale": "model"},
    "embedding norm": {"embedding_norm": True},
    "embedding norm, scale by width": {"embedding_norm": True, "attention_scale": "model"},
    "stochastic depth": {"drop_path": 0.5},
    "stochastic depth, embedding norm": {"drop_path": 0.5, "embedding_norm": True},
    "stochastic depth, joints together": {"drop_path": 0.5, "separate_joints": False},
}
SEPARATE = {name: options for name, options in VARIANTS.items() if options.get("separate_joints", True)}


class OnGPU(torch.Tensor):
    """A tensor on the CPU that says it were on a GPU."""

    is_cuda = True


def record(compute, *inputs):
    """`graphs.record` where there is no GPU: replaying computes once more and overwrites the result."""
    inputs = [x.clone() for x in inputs]
    for _ in range(2):
        compute(*inputs)
    result = compute(*inputs)
    return SimpleNamespace(replay=lambda: result.copy_(compute(*inputs))), inputs, result


def network(matrices: float = 0.2, kind=MixSTE, **options):
    """Random norms, biases and positions: zero position embeddings and unit norms would hide mistakes.

    matrices: how much is added to those, of normal deviates; large ones sharpen attention, and with it rounding.
    """
    torch.manual_seed(0)
    dim = {"dim" if kind is MixSTE else "joint_dim": 16}
    model = kind(**{"frames": 6, "joints": 5, "depth": 2, "heads": 4} | dim | options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            size = 0.2 if parameter.ndim == 1 or "pos" in name else matrices
            parameter.add_(torch.randn_like(parameter), alpha=size)
    return model


def error(ours, exact) -> float:
    """The norm of the difference in units of that of what is exact."""
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def squared_error(pred, target):
    return (pred - target).square().mean()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.detach().cpu().double() for name, parameter in model.named_parameters()}


def branches(model, batch: int):
    """Which branches stochastic depth keeps, of a batch: as `cuda.draw` gives it, and a `Block.dropped` of the same."""
    by_token, in_order = [], []
    for block, _, temporal in joined.steps(model):
        if not block.drop_path:
            by_token.append((None, None))
            in_order += [None, None]
            continue
        joints = 1 if temporal and not getattr(model, "separate_joints", False) else model.joints
        size = (2, batch, 1, joints) if temporal else (2, batch, model.frames, 1)
        chance = torch.full(size, 1 - block.drop_path, device=block.norm1.weight.device)
        keep = torch.bernoulli(chance) / chance
        by_token.append(tuple(keep.expand(2, batch, model.frames, joints).flatten(1).unbind()))
        in_order += keep.unbind()
    each = itertools.cycle(in_order)

    def dropped(block, x):
        keep = next(each)
        return x if keep is None else x * keep.to(x.dtype).view(*x.shape[:-2], 1, 1)

    return (lambda *_, **__: by_token), dropped


def errors(monkeypatch, model, step, batch: int) -> dict[str, float]:
    """Of the loss and of each parameter's gradient, against the model itself, which keeps the same branches.

    step(keypoints, target) returns the loss and leaves the gradients.
    """
    exact, parameter = copy.deepcopy(model), next(model.parameters())
    keypoints = torch.randn(batch, model.frames, model.joints, 2).to(parameter)
    lifted = 1 if model.mode == "seq2frame" else model.frames
    target = torch.randn(batch, lifted, model.joints, 3).to(parameter)
    draw, dropped = branches(model, batch)
    monkeypatch.setattr(cuda, "draw", draw)
    monkeypatch.setattr(Block, "dropped", dropped)
    loss = step(keypoints, target).detach().clone()
    expected = squared_error(exact(keypoints), target)
    expected.backward()
    ours, theirs = gradients(model), gradients(exact)
    return {"loss": error(loss, expected.detach())} | {name: error(ours[name], theirs[name]) for name in theirs}
