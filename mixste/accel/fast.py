"""The network of `mixste.model` again, written for speed: the same weights, the same numbers up to rounding.

One place chooses: `forward` takes the fast path where there is one and calls the model itself everywhere else.
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

from mixste.accel import cublaslt as products
from mixste.model import Block, MixSTE

try:
    from mixste.accel import kernels
except ImportError:  # Triton comes with PyTorch for CUDA only
    kernels = None

# Up to here a head's products are so small that library attention spends its time on overhead.
SMALL_TOKENS, SMALL_WIDTH = 32, 16
MOST = 2.0**100  # a softmax's sum: its inverse too still fits single precision, and leaves weights their digits
MOST_FRAMES = 8192  # of a batch at once in training: 27 GiB of an H100 at the paper's size


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
        x = norm(plain_block(block, x, temporal).to(norm.weight.dtype))
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
    x = x.to(block.norm1.weight.dtype)

    def turned(y: Tensor) -> Tensor:
        return y.transpose(1, 2) if temporal else y  # sequences along the second-last axis, and back

    attn, mlp = block.attn, block.mlp
    y = attend(turned(linear(attn.qkv, block.norm1(x))), attn.heads, attn.scale)
    x = x + turned(block.dropped(turned(linear(attn.proj, turned(y)))))
    y = linear(mlp.fc2, F.gelu(linear(mlp.fc1, block.norm2(x))))
    return x + turned(block.dropped(turned(y)))


def linear(layer: nn.Linear, x: Float[Tensor, "batch frames joints dim"]) -> Tensor:
    """layer(x). On the CPU as a 1×1 convolution, channels last: PyTorch leaves convolutions to oneDNN but products in
    float32 to MKL, which on AMD's processors takes twice as long.
    """
    if x.device.type != "cpu" or x.dtype == torch.bfloat16:
        return layer(x)
    return Convolution.apply(x, layer.weight, layer.bias)


class Convolution(torch.autograd.Function):
    """What `linear` says; a sum is the bias's gradient, which oneDNN takes three times as long for."""

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
        return SmallAttention.apply(qkv, heads, scale)
    q, k, v = qkv.flatten(0, 1).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v, scale=scale)  # (batch · sequences, heads, tokens, dim / heads)
    return out.transpose(1, 2).reshape(batch, sequences, tokens, -1)


class SmallAttention(torch.autograd.Function):
    """Attention over few tokens with narrow heads, as batched products whose results are wide, not tall.

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


def _by_head(qkv: Float[Tensor, "batch sequences tokens three_dim"], heads: int) -> Tensor:
    """One copy into (3, batch · sequences · heads, tokens, dim / heads), 16 bytes at a time where they allow it."""
    tokens, width = qkv.shape[-2], qkv.shape[-1] // (3 * heads)
    wide = torch.complex128 if width * qkv.itemsize % 16 == 0 else qkv.dtype
    parts = qkv.view(wide).unflatten(-1, (3, heads, -1)).permute(3, 0, 1, 4, 2, 5).contiguous()
    return parts.view(qkv.dtype).view(3, -1, tokens, width)


# On CUDA: bfloat16 tokens in one layout, (batch · frames · joints, dim), from the first block to the last. Half a block
# is one autograd function: a branch, the residual and whatever norms come next, so that no tensor is read twice.


def cuda_covers(model: MixSTE) -> bool:
    block = model.spatial_blocks[0]
    width = model.embed.out_features // block.attn.heads
    sizes = model.separate_joints and model.joints <= 64 and width in (16, 32, 64, 128)
    sizes = sizes and block.mlp.fc1.out_features % 8 == 0
    there = kernels is not None and products.cublaslt() is not None
    return there and sizes and torch.cuda.get_device_capability() >= (8, 0)


def low_precision(model: MixSTE) -> dict[nn.Parameter, Tensor]:
    """A bfloat16 copy of what the matrix products of the blocks take."""
    linears = (m for blocks in (model.spatial_blocks, model.temporal_blocks) for m in blocks.modules())
    return {p: p.detach().bfloat16() for m in linears if isinstance(m, nn.Linear) for p in m.parameters()}


def cuda_forward(model: MixSTE, keypoints: Float[Tensor, "batch frames joints 2"], low: dict) -> Tensor:
    layout = kernels.Layout(*keypoints.shape[:3], keypoints.device)
    steps = sequence(model)
    keeps = draw(model, layout)
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


def mlp_parameters(block: Block, inner: nn.LayerNorm, outer: nn.LayerNorm) -> list[nn.Parameter]:
    return [*block.mlp.fc1.parameters(), *block.mlp.fc2.parameters(), *inner.parameters(), *outer.parameters()]


def draw(model: MixSTE, layout) -> list[tuple[Tensor | None, Tensor | None]]:
    """For each block, what stochastic depth multiplies either branch with, by token; None where it drops nothing."""
    if not model.training:
        return [(None, None)] * (2 * len(model.spatial_blocks))
    keeps = []
    for block, _, temporal, _ in sequence(model):
        if block.drop_path == 0.0:
            keeps.append((None, None))
            continue
        sequences = (2, layout.batch, 1, layout.joints) if temporal else (2, layout.batch, layout.frames, 1)
        keep = torch.empty(sequences, device=model.embed.weight.device).bernoulli_(1 - block.drop_path)
        keep = keep.div_(1 - block.drop_path).expand(2, layout.batch, layout.frames, layout.joints)
        keeps.append(tuple(keep.flatten(1).unbind()))
    return keeps


def weight_gradient(d_out: Float[Tensor, "rows out"], x: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
    if d_out.dtype == torch.bfloat16:
        return torch.mm(d_out.t(), x, out_dtype=torch.float32)
    return d_out.t() @ x


def narrow(x: Float[Tensor, "rows few"], dtype: torch.dtype) -> Float[Tensor, "rows 8"]:
    """A few columns as the matrix units take them."""
    return F.pad(x, (0, 8 - x.shape[1])).to(dtype)


class Beginning(torch.autograd.Function):
    """The embedding, its norm if the model has one, and the first block's norm of it."""

    @staticmethod
    def forward(ctx, keypoints, layout, model, ahead, *parameters):
        outer = model.spatial_blocks[0].norm1
        inner = None if isinstance(model.embedding_norm, nn.Identity) else model.embedding_norm
        x = kernels.embed(layout, keypoints, model.embed.weight, model.embed.bias, model.joint_position, torch.bfloat16)
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
        qkv = products.product(normed, low[attn.qkv.weight].t())
        out, log_sum = kernels.attention(layout, qkv, attn.qkv.bias, attn.heads, attn.scale, temporal, keep)
        products.add(x, out, low[attn.proj.weight].t(), in_place=True)
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
        d_out = products.product(d_x, ctx.low[attn.proj.weight])
        d_qkv, d_qkv_bias = kernels.attention_backward(
            layout, qkv, attn.qkv.bias, attn.heads, attn.scale, ctx.temporal, keep, out, log_sum, d_out
        )
        d_qkv_weight = weight_gradient(d_qkv, normed)
        d_normed = products.product(d_qkv, ctx.low[attn.qkv.weight])
        return d_x, d_normed, *[None] * 5, d_qkv_weight, d_qkv_bias, d_proj, *sums


class MLPHalf(torch.autograd.Function):
    """The stream, inner norm of x + keep · MLP(normed), plus position, and the outer norm of it.

    keep is 0 or one over the chance that it is not: the former is seen to after GELU, the latter in the products.
    """

    @staticmethod
    def forward(ctx, x, normed, keep, layout, block, low, inner, outer, ahead, position, *parameters):
        mlp = block.mlp
        hidden = torch.empty(layout.rows, mlp.fc1.out_features, dtype=x.dtype, device=x.device)
        active = products.gelu(normed, low[mlp.fc1.weight].t(), low[mlp.fc1.bias], hidden)
        if keep is not None:
            kernels.drop(active, hidden, keep)
        factor = 1.0 if keep is None else 1 / (1 - block.drop_path)
        x = products.add(x, active, low[mlp.fc2.weight].t(), factor)
        stream, after = kernels.norm(layout, x, outer, mlp.fc2.bias, keep, inner, position, ahead)
        ctx.save_for_backward(normed, hidden, active, x, keep, position)
        ctx.layout, ctx.mlp, ctx.low, ctx.inner, ctx.outer, ctx.factor = layout, mlp, low, inner, outer, factor
        return stream, after

    @staticmethod
    @once_differentiable
    def backward(ctx, d_stream, d_after):
        normed, hidden, active, x, keep, position = ctx.saved_tensors
        mlp = ctx.mlp
        d_x, d_position, sums = kernels.norm_backward(
            ctx.layout, x, d_after, d_stream, ctx.outer, mlp.fc2.bias, keep, ctx.inner, position
        )
        d_fc2 = weight_gradient(d_x, active).mul_(ctx.factor)
        d_hidden, d_fc1_bias = products.gelu_backward(d_x, ctx.low[mlp.fc2.weight], hidden, ctx.factor)
        d_fc1 = weight_gradient(d_hidden, normed)
        d_normed = products.product(d_hidden, ctx.low[mlp.fc1.weight])
        norms = (sums[3], sums[4], sums[1], sums[2])
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


class Step:
    """Gradients of a loss on one batch: step(keypoints, target) leaves them in the parameters' .grad, returns the loss.

    On CUDA, MixSTE's blocks run in bfloat16 by `cuda_forward`, other networks under autocast; forward, loss and
    backward are recorded once and replayed since, one launch instead of thousands: batches must keep their shape, and
    the loss is a tensor that the next call overwrites. MixSTE takes a batch of more than MOST_FRAMES in even pieces and
    averages. Under torchrun each process takes its part of the batch, which all must be given whole, and ends with the
    gradients of the whole; raises ValueError if it cannot be dealt evenly.
    """

    def __init__(self, model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], scaled_gradient: bool = False):
        self.model, self.loss, self.scaled_gradient = model, loss, scaled_gradient
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        cuda = next(model.parameters()).is_cuda and covers(model) and cuda_covers(model)
        self.low = low_precision(model) if cuda else None
        self.recording = None
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        self.processes = torch.distributed.get_world_size() if distributed else 1
        self.process = torch.distributed.get_rank() if distributed else 0
        if self.process:
            torch.manual_seed(torch.initial_seed() + self.process)  # each drops other branches

    def __call__(self, keypoints: Float[Tensor, "batch frames joints 2"], target: Tensor) -> Float[Tensor, ""]:
        if len(keypoints) % self.processes:
            raise ValueError(
                f"expected a batch that {self.processes} processes can share, found {len(keypoints)} windows"
            )
        batch = [x.chunk(self.processes)[self.process] for x in (keypoints, target)]
        pieces = self.pieces(*batch[0].shape[:2])
        self.shares = self.processes * pieces
        total = None
        for piece in zip(*(x.chunk(pieces) for x in batch), strict=True):
            loss = self.one_piece(*piece)
            if self.shares > 1:
                gradients = [p.grad for p in self.parameters if p.grad is not None]
                flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
                total = flat if total is None else total.add_(flat)
        if self.shares > 1:
            self.average(total, loss, gradients)
        return loss

    def pieces(self, windows: int, frames: int) -> int:
        """The fewest even pieces of at most MOST_FRAMES; one of a network whose batch norms tie its windows."""
        if not isinstance(self.model, MixSTE):
            return 1
        even = (n for n in range(1, windows) if windows % n == 0)
        return next((n for n in even if windows // n * frames <= MOST_FRAMES), windows)

    def one_piece(self, *batch: Tensor) -> Tensor:
        if not batch[0].is_cuda:
            return self.compute(*batch)
        if self.recording is None:
            buffers = [buffer.clone() for buffer in self.model.buffers()]
            self.recording = recorded(self.compute, *batch)
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)
        graph, inputs, loss = self.recording
        for given, x in zip(inputs, batch, strict=True):
            given.copy_(x)
        graph.replay()
        return loss

    def compute(self, keypoints: Tensor, target: Tensor) -> Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        if not keypoints.is_cuda:
            poses = forward(self.model, keypoints)
        elif self.low is not None:
            with torch.no_grad():
                torch._foreach_copy_(list(self.low.values()), list(self.low))
            poses = cuda_forward(self.model, keypoints, self.low)
        else:
            with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
                poses = forward(self.model, keypoints)
        loss = self.loss(poses, target)
        loss.backward(loss.detach() if self.scaled_gradient and self.shares == 1 else None)
        return loss.detach()

    def average(self, total: Tensor, loss: Tensor, gradients: list[Tensor]) -> None:
        """Write the mean over all shares of the batch into loss and gradients; total is this process's sum, flat."""
        if self.processes > 1:
            torch.distributed.all_reduce(total)
        total /= self.shares
        loss.copy_(total[0])
        if self.scaled_gradient:
            total[1:] *= total[0]
        parts = total[1:].split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


class Lifter:
    """lifter(keypoints) is model(keypoints) without gradients, from a copy of the weights made for speed.

    On CUDA in bfloat16, recorded once for each size of batch. float8: queries, keys and values from 8-bit products.
    On the CPU in float32 or, with bfloat16=True, in bfloat16, twice as fast where the processor multiplies it.
    Later changes of the model's weights do not reach it.
    """

    def __init__(self, model: nn.Module, float8: bool = False, bfloat16: bool = False):
        self.model, self.graphs = copy.deepcopy(model).eval(), {}
        cuda = next(model.parameters()).is_cuda
        self.blocks = prepared(self.model, float8) if cuda and covers(self.model) and cuda_covers(self.model) else None
        self.bfloat16 = bfloat16
        if bfloat16 and not cuda:
            for blocks in (self.model.spatial_blocks, self.model.temporal_blocks):
                blocks.bfloat16()

    @torch.no_grad()
    def __call__(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
        if not keypoints.is_cuda:
            return self.compute(keypoints)
        if keypoints.shape not in self.graphs:
            self.graphs[keypoints.shape] = recorded(self.compute, keypoints)
        graph, (given,), poses = self.graphs[keypoints.shape]
        given.copy_(keypoints)
        graph.replay()
        return poses.clone()

    def compute(self, keypoints: Tensor) -> Tensor:
        if self.blocks is not None and keypoints.shape[1:] == (self.model.frames, self.model.joints, 2):
            return cuda_lift(self.model, self.blocks, keypoints)
        with torch.autocast("cuda", torch.bfloat16, enabled=keypoints.is_cuda, cache_enabled=False):
            return forward(self.model, keypoints).float()


class Frozen(nn.Module):
    """A way to compute a network, as `Lifter`, where a network is asked for."""

    def __init__(self, model: nn.Module, network: Callable):
        super().__init__()
        self.model, self.network = model, network
        self.train(model.training)  # as it is, not as a new module would be

    def __getattr__(self, name: str):
        """Its frames, joints, windows, layout: the network's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
        return self.network(keypoints)


def recorded(compute: Callable, *inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
    """compute(*inputs) as a graph to replay, its inputs to write into, and its result to read."""
    inputs = [x.clone() for x in inputs]
    random, stream = torch.cuda.get_rng_state(), beside(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # libraries and kernels set themselves up
            compute(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.set_rng_state(random)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute(*inputs)
    return graph, inputs, result


@functools.cache
def beside(device: int) -> torch.cuda.Stream:
    """A stream to try things on: one for all, since cuBLAS keeps 32 MiB for each stream that it has ever seen."""
    return torch.cuda.Stream(device)


def prepared(model: MixSTE, float8: bool) -> list[dict]:
    """The weights of each block as `cuda_lift` takes them, after the first norm's."""
    steps = sequence(model)
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


def folded(layer: nn.Linear, norm: nn.LayerNorm) -> tuple[Float[Tensor, "in out"], Float[Tensor, " out"]]:
    """A linear layer that does the norm before it as well, but for 1 / deviation: its rows add up to 0, so that the
    mean of what it is given counts nothing."""
    weight = layer.weight * norm.weight
    weight = weight - weight.mean(dim=1, keepdim=True)
    return weight.to(torch.bfloat16).t(), layer.bias + layer.weight @ norm.bias


def eight_bits(layer: nn.Linear, norm: nn.LayerNorm) -> dict:
    """A linear layer after a norm in float8: the norm scaled so that nothing it can give exceeds the format."""
    weight = layer.weight
    most = torch.finfo(torch.float8_e4m3fn).max
    bound = norm.weight.abs().max() * len(norm.weight) ** 0.5 + norm.bias.abs().max()
    scaled = copy.deepcopy(norm)
    scaled.weight.data *= most / bound
    scaled.bias.data *= most / bound
    unit = weight.abs().max() / most
    eight, scales = (weight / unit).to(torch.float8_e4m3fn).t(), ((bound / most).float(), unit.float())
    return {"norm1": scaled, "qkv": eight, "scales": scales, "ready": {"dtype": eight.dtype}}


def cuda_lift(model: MixSTE, blocks: list[dict], keypoints: Float[Tensor, "batch frames joints 2"]) -> Tensor:
    """cuda_forward for inference. Products are added to the residual in place."""
    layout = kernels.Layout(*keypoints.shape[:3], keypoints.device)
    x = kernels.embed(layout, keypoints, model.embed.weight, model.embed.bias, model.joint_position, torch.bfloat16)
    if not isinstance(model.embedding_norm, nn.Identity):
        _, x = kernels.norm(layout, x, model.embedding_norm)
    _, normed = kernels.norm(layout, x, blocks[0]["norm1"], **blocks[0]["ready"])
    for block, following in zip(blocks, [*blocks[1:], {"norm1": model.head_norm, "ready": {}}], strict=True):
        inverse = None
        if "folded" in block["ready"]:
            qkv, inverse = products.product(x, block["qkv"]), normed
        elif "scales" in block:
            qkv = torch._scaled_mm(normed, block["qkv"], *block["scales"], out_dtype=x.dtype, use_fast_accum=True)
        else:
            qkv = products.product(normed, block["qkv"])
        out, _ = kernels.attention(
            layout, qkv, block["qkv_bias"], block["heads"], block["scale"], block["temporal"], inverse=inverse
        )
        products.add(x, out, block["proj"], bias=block["proj_bias"], in_place=True)
        fold = products.on_hopper(x, block["fc1"])
        _, ready = kernels.norm(layout, x, block["norm2"], folded=fold)
        if fold:
            active = products.gelu(x, *block["fc1_folded"], inverse=ready)
        else:
            active = products.gelu(ready, block["fc1"], block["fc1_bias"])
        products.add(x, active, block["fc2"], bias=block["fc2_bias"], in_place=True)
        x, normed = kernels.norm(
            layout, x, following["norm1"], inner=block["inner"], position=block["position"], **following["ready"]
        )
    return kernels.head(layout, normed, model.head.weight, model.head.bias).view(*keypoints.shape[:3], 3)
