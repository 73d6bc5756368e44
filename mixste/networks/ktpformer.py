"""KTPFormer (Peng et al., CVPR 2024; github.com/JihuaPeng/KTPFormer): MixSTE after two blocks that know the topology.

keypoints (batch, frames, joints, 2)
  → kinematics block: graph step 2 → dim over the joints of each frame, + joint positions, attention over them
  → trajectory block: two graph steps over the frames of each joint, + frame positions, attention over them
  → depth × [ spatial block, temporal block ], each followed by a norm: one for all spatial blocks, the kinematics
              block among them, and one for all temporal blocks
  → head: norm, dim → 3
poses (batch, frames, joints, 3)
"""

from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mixste.model import AUTHORS_HEADS, BLOCK_EPS, Block
from mixste.network import Network, Shapes
from mixste.networks.dstformer import head_output, over_frames, over_joints
from mixste.skeleton import SKELETONS, layouts_of, of_joints


class KTPFormer(Network):
    """Graph steps over joints and frames, then MixSTE's blocks: 35.21 M parameters at 243 frames.

    forward: (batch, frames, joints, 2) -> (batch, frames, joints, 3). The joint graph is that of the layout, or of the
    usual one with so many joints. drop_path is the rate of the last loop; it rises linearly from 0 in the first two
    blocks. Raises ValueError for another number of frames or joints.
    """

    name = "ktpformer"
    recipe_options = ("drop_path",)
    authors_key = "kpattention"
    authors_options: ClassVar = {"heads": AUTHORS_HEADS}

    def __init__(self, frames=243, joints=17, dim=512, depth=7, heads=8, mlp_ratio=2.0, drop_path=0.0):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)

        def blocks():
            rates = [drop_path * (loop + 1) / depth for loop in range(depth)]
            return nn.ModuleList(Block(dim, heads, mlp_ratio, drop_path=rate) for rate in rates)

        self.kpattention = GraphBlock([2, dim], joints, heads, mlp_ratio)
        self.tpattention = GraphBlock([dim, dim, dim], frames, heads, mlp_ratio)
        self.STEblocks, self.Spatial_norm = blocks(), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.TTEblocks, self.Temporal_norm = blocks(), nn.LayerNorm(dim, eps=BLOCK_EPS)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3))
        self.register_buffer("chain", topology(torch.arange(-1, frames - 1)), persistent=False)
        for name in layouts_of(joints):  # which of them is known later
            self.register_buffer(name, topology(torch.tensor(SKELETONS[name].parents)), persistent=False)

    def forward(self, keypoints: Float[Tensor, "batch frames joints 2"]) -> Float[Tensor, "batch frames joints 3"]:
        if keypoints.shape[1:] != (self.frames, self.joints, 2):
            expected = f"(batch, {self.frames}, {self.joints}, 2)"
            raise ValueError(f"keypoints must be {expected}, found {tuple(keypoints.shape)}")
        graph = self.get_buffer(self.layout or of_joints(self.joints).name)
        x = self.Spatial_norm(over_joints(self.kpattention, keypoints, graph))
        x = self.Temporal_norm(over_frames(self.tpattention, x, self.chain))
        for spatial, temporal in zip(self.STEblocks, self.TTEblocks, strict=True):
            x = self.Spatial_norm(over_joints(spatial, x))
            x = self.Temporal_norm(over_frames(temporal, x))
        return head_output(x, self.head)

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """As wide as MixSTE, and 7 loops to its 8."""
        return {"dim": profile.dims[512], "depth": max(1, round(profile.depths[8] * 7 / 8)), "heads": profile.heads}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        dim = shapes.size("Spatial_norm.weight", 0)
        return {
            "frames": shapes.size("tpattention.attn.Temporal_pos_embed", 1),
            "joints": shapes.size("kpattention.attn.Spatial_pos_embed", 1),
            "dim": dim,
            "depth": shapes.count("STEblocks"),
            "heads": AUTHORS_HEADS,
            "mlp_ratio": shapes.size("kpattention.mlp.fc1.weight", 0) / dim,
        }

    def authors_state(self) -> dict[str, Tensor]:
        state = self.state_dict()
        for ours, theirs in AUTHORS_PARTS.items():
            state = {key.replace(ours, theirs): value for key, value in state.items()}
        return state


# The authors' names of the parts that are not named as theirs.
AUTHORS_PARTS = {
    "pattention.norm1": "pattention.attn.norm1",
    "kpattention.position": "kpattention.attn.Spatial_pos_embed",
    "tpattention.position": "tpattention.attn.Temporal_pos_embed",
    "kpattention.steps.0": "kpattention.attn.kpa",
    "tpattention.steps.0": "tpattention.attn.tpa.gconv1",
    "tpattention.steps.1": "tpattention.attn.tpa.gconv2",
}


class GraphBlock(Block):
    """A transformer block after graph steps, from one of the widths to the next, and learned positions of the tokens.

    The input is added to the output of the steps if it is as wide. The norm before the attention has PyTorch's eps.
    """

    def __init__(self, widths: list[int], tokens: int, heads: int, mlp_ratio: float):
        super().__init__(dim := widths[-1], heads, mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.steps = nn.ModuleList(GraphStep(*pair, tokens) for pair in pairwise(widths))
        self.position = nn.Parameter(torch.zeros(1, tokens, dim))

    def forward(self, x: Float[Tensor, "*batch tokens inputs"], graph: Float[Tensor, "tokens tokens"]) -> Tensor:
        y = x
        for step in self.steps:
            y = step(y, graph)
        return super().forward((x + y if x.shape == y.shape else y) + self.position)


class GraphStep(nn.Module):
    """A graph convolution that multiplies a token's own features by W[0] and those it receives by W[1]; norm; ReLU.

    adj2 is the learned part of the graph; M scales the features of the token that sends them.
    """

    def __init__(self, inputs: int, dim: int, tokens: int):
        super().__init__()
        self.gconv = nn.ParameterDict({"M": torch.ones(tokens, dim), "adj2": torch.full((tokens, tokens), 1e-6)})
        self.gconv["W"] = nn.init.xavier_uniform_(torch.empty(2, inputs, dim), gain=1.414)
        self.gconv["bias"] = torch.empty(dim).uniform_(-(dim**-0.5), dim**-0.5)
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, x: Float[Tensor, "*batch tokens inputs"], graph: Float[Tensor, "tokens tokens"]) -> Tensor:
        W, M, graph = self.gconv["W"], self.gconv["M"], graph + self.gconv["adj2"]
        graph = (graph + graph.T) / 2
        loops = graph.diagonal()  # of each token to itself
        x = loops[:, None] * M * (x @ W[0]) + (graph - loops.diag()) @ (M * (x @ W[1])) + self.gconv["bias"]
        return F.relu(self.bn(x.flatten(0, -2)).reshape(x.shape))


def topology(parents: Int[Tensor, "tokens"]) -> Float[Tensor, "tokens tokens"]:
    """1 on the diagonal; off it, the tokens that a row's bones lead to share 1 equally. parents: -1 for none."""
    edges = (parents[:, None] == torch.arange(len(parents))).float()
    edges = edges + edges.T
    return edges / edges.sum(dim=1, keepdim=True).clamp(min=1) + torch.eye(len(parents))
