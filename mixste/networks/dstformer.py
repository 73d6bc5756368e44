"""DSTformer, the network of MotionBERT (Zhu et al., ICCV 2023; github.com/Walter0807/MotionBERT).

    keypoints (batch, frames, joints, 2), + confidence
      → embed 3 → dim, + joint positions, + frame positions
      → depth × [ spatial block, temporal block  ‖  temporal block, spatial block
                  → mean of the two streams, weighted for each token ]
      → norm, dim → rep_dim, tanh, → 3
    poses (batch, frames, joints, 3)

Here it is trained from scratch. Its authors first train it to restore corrupted sequences from several data sets.
"""

import re
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixste.model import AUTHORS_HEADS, BLOCK_EPS, Block
from mixste.network import Network, Shapes


class DSTformer(Network):
    """Two streams of spatial and temporal attention in opposite orders: 42.47 M parameters at 243 frames.

    forward: (batch, n, joints, 2) -> (batch, n, joints, 3), for any n up to `frames`. The network reads a third
    channel, the confidence of each keypoint. It is 1 unless keypoints have it, (…, 3): this project's do not, and 1 is
    what the authors feed it with ground-truth keypoints. Raises ValueError for more frames or other joints.

    The authors' weights do not give metres: in their targets, x and y are those of the image, in screen units, and z
    has the same scale. To measure errors, the authors multiply both by a factor for each frame, from the true pose.
    """

    name = "dstformer"
    authors_key = "blocks_st"
    authors_metres = False
    authors_options: ClassVar = {"heads": AUTHORS_HEADS}

    def __init__(self, frames=243, joints=17, dim=512, rep_dim=512, depth=5, heads=8, mlp_ratio=2.0):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)

        def stream():
            """For each layer, a block over joints (s) and a block over frames (t)."""
            layers = ({axis: Block(dim, heads, mlp_ratio) for axis in "st"} for _ in range(depth))
            return nn.ModuleList(map(nn.ModuleDict, layers))

        self.joints_embed = nn.Linear(3, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, joints, dim))
        self.temp_embed = nn.Parameter(torch.zeros(1, frames, 1, dim))
        self.blocks_st, self.blocks_ts = stream(), stream()
        self.ts_attn = nn.ModuleList(nn.Linear(2 * dim, 2) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.pre_logits = nn.ModuleDict({"fc": nn.Linear(dim, rep_dim)})
        self.head = nn.Linear(rep_dim, 3)

        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        for position in (self.pos_embed, self.temp_embed):
            nn.init.trunc_normal_(position, std=0.02)
        for fusion in self.ts_attn:
            start_with_the_mean(fusion)

    def forward(self, keypoints: Float[Tensor, "batch frames joints axes"]) -> Float[Tensor, "batch frames joints 3"]:
        frames = keypoints.shape[1]
        if not 1 <= frames <= self.frames:
            raise ValueError(f"expected 1 to {self.frames} frames, found keypoints {tuple(keypoints.shape)}")
        x = self.joints_embed(with_confidence(keypoints, self.joints)) + self.pos_embed + self.temp_embed[:, :frames]
        for st, ts, fusion in zip(self.blocks_st, self.blocks_ts, self.ts_attn, strict=True):
            first = over_frames(st["t"], over_joints(st["s"], x))
            second = over_joints(ts["s"], over_frames(ts["t"], x))
            x = fuse(fusion, first, second)
        return head_output(self.pre_logits["fc"](self.norm(x)).tanh(), self.head)

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """As wide as MixSTE, and 5 layers to its 8."""
        dim, depth = profile.dims[512], max(1, round(profile.depths[8] * 5 / 8))
        return {"dim": dim, "rep_dim": dim, "depth": depth, "heads": profile.heads}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        dim = shapes.size("joints_embed.weight", 0)
        return {
            "frames": shapes.size("temp_embed", 1),
            "joints": shapes.size("pos_embed", 1),
            "dim": dim,
            "rep_dim": shapes.size("pre_logits.fc.weight", 0),
            "depth": shapes.count("ts_attn"),
            "heads": AUTHORS_HEADS,
            "mlp_ratio": shapes.size("blocks_st.0.mlp_s.fc1.weight", 0) / dim,
        }

    def authors_state(self) -> dict[str, Tensor]:
        """The authors' blocks have both axes in one: what is s.norm1 here is norm1_s there."""
        return {re.sub(r"\.([st])\.(\w+)", r".\2_\1", key): value for key, value in self.state_dict().items()}


def with_confidence(
    keypoints: Float[Tensor, "batch frames joints axes"], joints: int
) -> Float[Tensor, "batch frames joints 3"]:
    """Keypoints with a third channel, 1 if they have none. Raises ValueError for other joints, and for other axes."""
    if keypoints.ndim != 4 or keypoints.shape[2:] not in ((joints, 2), (joints, 3)):
        raise ValueError(f"keypoints must be (batch, frames, {joints}, 2), found {tuple(keypoints.shape)}")
    return F.pad(keypoints, (0, 3 - keypoints.shape[-1]), value=1.0)


def over_joints(block: nn.Module, x: Float[Tensor, "batch frames joints inputs"], *graph: Tensor) -> Tensor:
    """A block applied to the joints of each frame, as (batch · frames, joints, inputs).

    PyTorch's fused attention takes no more than one axis of batches.
    """
    return block(x.flatten(0, 1), *graph).unflatten(0, x.shape[:2])


def over_frames(block: nn.Module, x: Float[Tensor, "batch frames joints inputs"], *graph: Tensor) -> Tensor:
    """A block applied to the frames of each joint, (batch · joints, frames, inputs)."""
    return over_joints(block, x.transpose(1, 2), *graph).transpose(1, 2)


def fuse(fusion: nn.Linear, first: Float[Tensor, "*batch dim"], second: Float[Tensor, "*batch dim"]) -> Tensor:
    """The weighted mean of two streams; each token has its own pair of weights, the same for all features."""
    weights = fusion(torch.cat([first, second], dim=-1)).softmax(dim=-1)
    return weights[..., :1] * first + weights[..., 1:] * second


def start_with_the_mean(fusion: nn.Linear) -> None:
    """Initialise a fusion so that both streams count the same, whatever the token."""
    nn.init.zeros_(fusion.weight)
    nn.init.constant_(fusion.bias, 0.5)


def head_output(x: Float[Tensor, "*batch dim"], head: nn.Module) -> Float[Tensor, "*batch 3"]:
    """head(x) in the precision of the head's weights, as in MixSTE: bfloat16 would round a metre to 4 mm."""
    with torch.autocast("cuda", enabled=False):
        return head(x.to(next(head.parameters()).dtype))
