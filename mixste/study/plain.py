"""The network and its training as in the authors' code: plain, eager, in single precision, without fused kernels.

It is the reference for the package's speed and accuracy.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixste.data.clips import PoseDataset
from mixste.model import BLOCK_EPS, MixSTE
from mixste.train import Batches, Recipe, learning_rate, loss_of, optimizer_of


class PlainMixSTE(nn.Module):
    """MixSTE as the paper describes it: attention by einsum, tokens rearranged for each block.

    Parameters have the names that they have in `mixste.model.MixSTE`. forward: (batch, frames, joints, 2) ->
    (batch, frames, joints, 3), as there.
    """

    def __init__(self, frames: int, joints: int, dim: int, depth: int, heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()

        def blocks():
            rates = [drop_path * loop / max(1, depth - 1) for loop in range(depth)]
            return nn.ModuleList(PlainBlock(dim, heads, mlp_ratio, rate) for rate in rates)

        self.embed = nn.Linear(2, dim)
        self.joint_position = nn.Parameter(torch.zeros(joints, dim))
        self.frame_position = nn.Parameter(torch.zeros(frames, dim))
        self.spatial_blocks, self.spatial_norm = blocks(), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.temporal_blocks, self.temporal_norm = blocks(), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.head_norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 3)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch frames joints 3"]:
        batch, frames, joints, _ = keypoints.shape
        x = self.embed(keypoints.reshape(batch * frames, joints, 2)) + self.joint_position
        for loop, (spatial, temporal) in enumerate(zip(self.spatial_blocks, self.temporal_blocks, strict=True)):
            x = self.spatial_norm(spatial(x))
            x = x.reshape(batch, frames, joints, -1).transpose(1, 2).reshape(batch * joints, frames, -1)
            if loop == 0:
                x = x + self.frame_position
            x = self.temporal_norm(temporal(x))
            x = x.reshape(batch, joints, frames, -1).transpose(1, 2).reshape(batch * frames, joints, -1)
        return self.head(self.head_norm(x)).reshape(batch, frames, joints, 3)


class PlainBlock(nn.Module):
    """x + attention(norm(x)) (Eq. 7), then x + MLP(norm(x)), over the tokens of each sequence."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=BLOCK_EPS), PlainAttention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=BLOCK_EPS), PlainMLP(dim, int(dim * mlp_ratio))
        self.drop_path = drop_path

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.dropped(self.attn(self.norm1(x)))
        return x + self.dropped(self.mlp(self.norm2(x)))

    def dropped(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Stochastic depth: the branch of a whole sequence is left out with chance `drop_path`."""
        if self.drop_path == 0.0 or not self.training:
            return x
        keep = 1.0 - self.drop_path
        return x.div(keep) * (keep + torch.rand(len(x), 1, 1, dtype=x.dtype, device=x.device)).floor()


class PlainAttention(nn.Module):
    """Multi-head self-attention (Eqs. 3–5, 8)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (torch.einsum("bhqd,bhkd->bhqk", q, k) * self.scale).softmax(-1)
        return self.proj(torch.einsum("bhqk,bhkd->bqhd", weights, v).reshape(x.shape))


class PlainMLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.fc2(F.gelu(self.fc1(x)))


def plain_copy(model: MixSTE) -> PlainMixSTE:
    """The plain network with a copy of the model's weights, on its device. ValueError for a variant of MixSTE."""
    options = dict(model.options)
    sizes = ("frames", "joints", "dim", "depth", "heads", "mlp_ratio", "drop_path")
    plain = PlainMixSTE(**{name: options.pop(name) for name in sizes}).to(next(model.parameters()))
    usual = {name: MixSTE(1, 1, 1, 1, 1).options[name] for name in options}
    if options != usual:
        raise ValueError(f"expected a network of the authors' kind, {usual}, found {options}")
    plain.load_state_dict(model.state_dict())
    return plain.train(model.training)


def train_plainly(
    model: MixSTE, dataset: PoseDataset, recipe: Recipe, poses: int, seed: int, plain: PlainMixSTE | None = None
) -> None:
    """Train in place as `mixste.train.train` does, with the same batches and rates, but written out plainly: in float32
    throughout, nothing accelerated or recorded, only the optimizer fused.

    plain: the model's `plain_copy`, to be trained instead of it; the model then takes its weights.
    """
    network = plain or model
    device = next(network.parameters()).device
    batches = Batches(model, dataset.train, dataset.skeleton, recipe, seed, device)
    optimizer, loss_function = optimizer_of(network, recipe), loss_of(recipe, dataset.skeleton, device)
    steps = math.ceil(poses / (batches.size * batches.poses_per_window))
    torch.manual_seed(seed)  # of stochastic depth
    network.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, steps, epoch=step * batches.size // len(batches))
        keypoints, target = batches[step]
        loss = loss_function(network(keypoints), target)
        optimizer.zero_grad()
        loss.backward(loss.detach() if recipe.scaled_gradient else None)
        optimizer.step()
    if plain:
        model.load_state_dict(plain.state_dict())
