"""MixSTE, the network of the paper. Where text and code differ (notebook 13, rows 11–18), it follows the authors' code.

    keypoints (batch, frames, joints, 2)
      → embed 2 → dim, + joint positions
      → depth × [ spatial block over the joints of each frame, shared spatial norm,
                  (first loop only: + frame positions),
                  temporal block over the frames of each joint, shared temporal norm ]
      → head: norm, dim → 3
    poses (batch, frames, joints, 3)

The symbols of the paper: dim is d_m, depth is d_l, frames is T, joints is N.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixste.network import Network, Shapes

BLOCK_EPS = 1e-6  # of every LayerNorm but the head's, which keeps PyTorch's 1e-5
AUTHORS_HEADS = 8  # of the published MixSTE and PoseFormer; cannot be inferred from the shapes of the weights


class Attention(nn.Module):
    """Multi-head self-attention over the second-last axis (Eqs. 3–5, 8)."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, scale: str = "head"):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, found dim={dim} and heads={heads}")
        self.heads = heads
        # Eq. 3 divides by √d_m; the authors' code by √(d_m / heads), as attention usually does.
        self.scale = {"head": (dim // heads) ** -0.5, "model": dim**-0.5}[scale]
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Float[Tensor, "*batch tokens dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (*batch, heads, tokens, dim / heads)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (*batch, tokens, 3, heads, dim / heads)
        return qkv.transpose(-4, -2).unbind(-3)

    def forward(self, x: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        q, k, v = self.split(x)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        x = x.transpose(-3, -2).flatten(-2)  # (*batch, tokens, dim)
        return F.dropout(self.proj(x), self.dropout, self.training)

    def weights(self, x: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch heads tokens tokens"]:
        """The attention weights: row i holds the weights of all tokens in output i (Figure 5)."""
        q, k, _ = self.split(x)
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1)


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        x = F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training)
        return F.dropout(self.fc2(x), self.dropout, self.training)


class Block(nn.Module):
    """A pre-norm transformer block: x + attention(norm(x)) (Eq. 7), then x + MLP(norm(x)), which has no equation."""

    def __init__(
        self, dim: int, heads: int, mlp_ratio: float = 2.0, dropout: float = 0.0, drop_path: float = 0.0, scale="head"
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.attn = Attention(dim, heads, dropout, scale)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio), dropout)
        self.drop_path = drop_path

    def forward(self, x: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        x = x + self.dropped(self.attn(self.norm1(x)))
        return x + self.dropped(self.mlp(self.norm2(x)))

    def dropped(self, x: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        """Stochastic depth: in training, drop the branch of a whole sequence with probability `drop_path`."""
        if not self.training or self.drop_path == 0.0:
            return x
        keep = 1.0 - self.drop_path
        return x * x.new_empty((*x.shape[:-2], 1, 1)).bernoulli_(keep).div_(keep)


class MixSTE(Network):
    """Lifts a window of 2D keypoints to 3D poses.

    forward: (batch, frames, joints, 2) screen-normalised -> (batch, frames, joints, 3) metres, camera axes,
    root-relative. Raises ValueError for any other shape: the position embeddings fix frames and joints.

    drop_path is the rate of the last loop; it rises linearly from 0 at the first. The keyword options are the variants
    of the study:

    alternating: False runs all spatial blocks before all temporal ones, S_d…S_1 then T_d…T_1 (Table 5's baseline),
        instead of T_d S_d … T_1 S_1.
    separate_joints: False makes one temporal token of each frame, all joints' features concatenated, so that the
        temporal width is joints · dim (Section 3.1.1 on PoseFormer), instead of one sequence per joint (Eq. 1).
    attention_scale: "head" for 1/√(dim / heads), "model" for Eq. 3's 1/√dim.
    embedding_norm: True normalises embedding + joint position, as Eq. 6 writes.
    """

    name = "mixste"
    recipe_options = ("dropout", "drop_path", "attention_scale", "embedding_norm")
    authors_key = "STEblocks"
    authors_options: ClassVar = {
        "alternating": True,
        "separate_joints": True,
        "attention_scale": "head",
        "embedding_norm": False,
        "heads": AUTHORS_HEADS,
    }

    def __init__(
        self,
        frames: int = 243,
        joints: int = 17,
        dim: int = 512,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 2.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        *,
        alternating: bool = True,
        separate_joints: bool = True,
        attention_scale: str = "head",
        embedding_norm: bool = False,
    ):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)
        for name, value in (("frames", frames), ("joints", joints), ("dim", dim), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        self.alternating, self.separate_joints = alternating, separate_joints
        self.dropout = dropout
        width = dim if separate_joints else joints * dim  # of a temporal token

        def blocks(dim):
            rates = [drop_path * loop / max(1, depth - 1) for loop in range(depth)]
            return nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, rate, attention_scale) for rate in rates)

        self.embed = nn.Linear(2, dim)
        self.joint_position = nn.Parameter(torch.zeros(joints, dim))
        self.frame_position = nn.Parameter(torch.zeros(frames, width))
        self.embedding_norm = nn.LayerNorm(dim, eps=BLOCK_EPS) if embedding_norm else nn.Identity()
        self.spatial_blocks, self.spatial_norm = blocks(dim), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.temporal_blocks, self.temporal_norm = blocks(width), nn.LayerNorm(width, eps=BLOCK_EPS)
        self.head_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, width // dim * 3)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch frames joints 3"]:
        expected = (self.frames, self.joints, 2)
        if keypoints.shape[1:] != expected:
            raise ValueError(
                f"keypoints must be (batch, {', '.join(map(str, expected))}), found {tuple(keypoints.shape)}"
            )

        x = self.embedding_norm(self.embed(keypoints) + self.joint_position)
        x = F.dropout(x, self.dropout, self.training)
        if self.alternating:
            for loop in range(len(self.spatial_blocks)):
                x = self.temporal(self.spatial(x, loop), loop)
        else:
            for loop in range(len(self.spatial_blocks)):
                x = self.spatial(x, loop)
            for loop in range(len(self.temporal_blocks)):
                x = self.temporal(x, loop)
        x = x if self.separate_joints else x.flatten(2)
        # bfloat16 would round a metre to 4 mm, so the last layer is computed in the precision of the weights.
        with torch.autocast("cuda", enabled=False):
            return self.head(self.head_norm(x.to(self.head.weight.dtype))).view(*keypoints.shape[:3], 3)

    def spatial(self, x: Float[Tensor, "batch frames joints dim"], loop: int) -> Tensor:
        """One spatial block: attention over the joints of each frame. All loops share one norm."""
        return self.spatial_norm(self.spatial_blocks[loop](x))

    def temporal(self, x: Float[Tensor, "batch frames joints dim"], loop: int) -> Tensor:
        """One temporal block: attention over the frames of each joint. All loops share one norm."""
        shape = x.shape
        # (batch, joints, frames, dim), or (batch, frames, joints · dim) without joint separation
        x = x.transpose(1, 2) if self.separate_joints else x.flatten(2)
        if loop == 0:
            x = F.dropout(x + self.frame_position, self.dropout, self.training)
        x = self.temporal_norm(self.temporal_blocks[loop](x))
        return x.transpose(1, 2) if self.separate_joints else x.view(shape)

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """The profile's sizes in place of d_m = 512 and d_l = 8."""
        return {"dim": profile.dims[512], "depth": profile.depths[8], "heads": profile.heads}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        return transformer_sizes(shapes, "STEblocks", "dim")

    def authors_state(self) -> dict[str, Tensor]:
        renamed = {}
        for key, value in self.state_dict().items():
            part, dot, rest = key.partition(".")
            renamed[AUTHORS_PARTS[part] + dot + rest] = value[None] if part.endswith("_position") else value
        return renamed


# The authors' names of the parts.
AUTHORS_PARTS = {
    "embed": "Spatial_patch_to_embedding",
    "joint_position": "Spatial_pos_embed",  # (1, joints, dim) there, (joints, dim) here
    "frame_position": "Temporal_pos_embed",  # likewise
    "spatial_blocks": "STEblocks",
    "temporal_blocks": "TTEblocks",
    "spatial_norm": "Spatial_norm",
    "temporal_norm": "Temporal_norm",
    "head_norm": "head.0",
    "head": "head.1",
}


def transformer_sizes(shapes: Shapes, blocks: str, dim: str) -> dict[str, object]:
    """The sizes in a checkpoint of MixSTE or PoseFormer, whose authors share most names.

    blocks: the key of the spatial blocks. dim: the name of the option that is the width of a joint's token.
    """
    width = shapes.size("Spatial_patch_to_embedding.weight", 0)
    return {
        "frames": shapes.size("Temporal_pos_embed", 1),
        "joints": shapes.size("Spatial_pos_embed", 1),
        "depth": shapes.count(blocks),
        "heads": AUTHORS_HEADS,
        "mlp_ratio": shapes.size(f"{blocks}.0.mlp.fc1.weight", 0) / width,
        dim: width,
    }


@torch.no_grad()
def attention_maps(model: Network, keypoints: Float[Tensor, "batch frames joints 2"]) -> dict[str, list[Tensor]]:
    """Attention of every block for one batch: {"spatial": [...], "temporal": [...]}, one tensor a loop.

    Spatial: (batch, frames, heads, joints, joints). Temporal: (batch, joints, heads, frames, frames), or
    (batch, heads, frames, frames) without joint separation. Rows are outputs and sum to one. Raises ValueError for
    another network.
    """
    if not isinstance(model, MixSTE):
        raise ValueError(f"attention is MixSTE's: expected such a network, found {type(model).__name__}")
    maps = {"spatial": [], "temporal": []}
    hooks = [
        block.attn.register_forward_pre_hook(lambda attn, args, kind=kind: maps[kind].append(attn.weights(*args)))
        for kind, blocks in (("spatial", model.spatial_blocks), ("temporal", model.temporal_blocks))
        for block in blocks
    ]
    try:
        model(keypoints)
    finally:
        for hook in hooks:
            hook.remove()
    return maps
