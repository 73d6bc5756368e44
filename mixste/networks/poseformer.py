"""PoseFormer, a peer of Tables 1, 2 and 4 and of Figure 3, as its authors define it.

It is seq2frame: from `frames` frames (the receptive field, T) it lifts the central one. Keypoints are
screen-normalised, poses metres in camera axes, root-relative. Modules are named as in the published checkpoints.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixste.model import AUTHORS_HEADS, BLOCK_EPS, Block, transformer_sizes
from mixste.network import Network, Shapes


class PoseFormer(Network):
    """Spatial transformer, then temporal transformer (Zheng et al., ICCV 2021): 9.60 M parameters at 81 frames.

    Attention over the joints of each frame, joint_dim wide; then over frames, all joints of a frame being one token of
    width joints · joint_dim; then a learned mean over frames. drop_path rises linearly from 0 over each `depth`.
    forward: (batch, frames, joints, 2) -> (batch, 1, joints, 3), the central frame. Raises ValueError for any other
    number of frames or joints.
    """

    name = "poseformer"
    mode = "seq2frame"
    authors_key = "Spatial_blocks"
    authors_options: ClassVar = {"heads": AUTHORS_HEADS}

    def __init__(
        self,
        frames: int = 81,
        joints: int = 17,
        joint_dim: int = 32,
        depth: int = 4,
        heads: int = 8,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.1,
    ):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)
        width = joints * joint_dim

        def blocks(dim):
            rates = [drop_path * layer / max(1, depth - 1) for layer in range(depth)]
            return nn.ModuleList(Block(dim, heads, mlp_ratio, drop_path=rate) for rate in rates)

        self.Spatial_patch_to_embedding = nn.Linear(2, joint_dim)
        self.Spatial_pos_embed = nn.Parameter(torch.zeros(1, joints, joint_dim))
        self.Spatial_blocks, self.Spatial_norm = blocks(joint_dim), nn.LayerNorm(joint_dim, eps=BLOCK_EPS)
        self.Temporal_pos_embed = nn.Parameter(torch.zeros(1, frames, width))
        self.blocks, self.Temporal_norm = blocks(width), nn.LayerNorm(width, eps=BLOCK_EPS)
        self.weighted_mean = nn.Conv1d(frames, 1, 1)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3 * joints))

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch 1 joints 3"]:
        expected = (self.frames, self.joints, 2)
        if keypoints.shape[1:] != expected:
            raise ValueError(
                f"keypoints must be (batch, {', '.join(map(str, expected))}), found {tuple(keypoints.shape)}"
            )
        x = self.Spatial_patch_to_embedding(keypoints) + self.Spatial_pos_embed
        for block in self.Spatial_blocks:
            x = block(x)
        x = self.Spatial_norm(x).flatten(2) + self.Temporal_pos_embed  # (batch, frames, joints · joint_dim)
        for block in self.blocks:
            x = block(x)
        return self.head(self.weighted_mean(self.Temporal_norm(x))).unflatten(2, (self.joints, 3))

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """Its 4 blocks of each kind are half of MixSTE's d_l."""
        depth = max(1, profile.depths[8] // 2)
        return {"joint_dim": profile.joint_dim, "depth": depth, "heads": profile.heads}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        return transformer_sizes(shapes, "Spatial_blocks", "joint_dim")
