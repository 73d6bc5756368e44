"""MotionAGFormer (Mehraban et al., WACV 2024; github.com/TaatiTeam/MotionAGFormer): attention and graphs side by side.

    keypoints (batch, frames, joints, 2), + confidence
      → embed 3 → dim, + joint positions
      → depth × [ spatial attention, temporal attention  ‖  spatial graph, temporal graph
                  → mean of the two streams, weighted for each token ]
      → norm, dim → rep_dim, tanh, → 3
    poses (batch, frames, joints, 3)

There are no frame positions. Only the temporal batch norms, with a scale and shift for each frame, tell frames apart.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixste.model import AUTHORS_HEADS, MLP, Attention
from mixste.network import Network, Shapes
from mixste.networks.dstformer import fuse, head_output, over_frames, over_joints, start_with_the_mean, with_confidence
from mixste.skeleton import SKELETONS, Skeleton, human36m, layouts_of, of_joints

NEIGHBOURS = 2  # of a frame in the temporal graph; one of them is usually itself
# Bones (parent, child) of human36m that the authors' graph has in one direction only: the child receives.
ONE_WAY = {(0, 4), (8, 11), (8, 14)}


class MotionAGFormer(Network):
    """Attention and graph convolutions in parallel: 11.72 M parameters at 243 frames (the authors' size B).

    forward: (batch, frames, joints, 2) -> (batch, frames, joints, 3), as `mixste.networks.dstformer.DSTformer` but for
    exactly `frames` frames. The joint graph is that of the layout, or of the usual one with so many joints.
    """

    name = "motionagformer"
    authors_key = "rep_logit"
    authors_container = "model"
    authors_metres = False
    authors_options: ClassVar = {"heads": AUTHORS_HEADS}

    def __init__(self, frames=243, joints=17, dim=128, rep_dim=512, depth=16, heads=8, mlp_ratio=4.0):
        options = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__(**options)
        self.joints_embed = nn.Linear(3, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, joints, dim))
        self.layers = nn.ModuleList(Layer(frames, joints, dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.rep_logit = nn.ModuleDict({"fc": nn.Linear(dim, rep_dim)})
        self.head = nn.Linear(rep_dim, 3)
        for name in layouts_of(joints):  # which of them is known later
            self.register_buffer(name, joint_graph(SKELETONS[name]), persistent=False)

    def forward(self, keypoints: Float[Tensor, "batch frames joints axes"]) -> Float[Tensor, "batch frames joints 3"]:
        if keypoints.shape[1] != self.frames:
            raise ValueError(f"expected {self.frames} frames, found keypoints {tuple(keypoints.shape)}")
        x = self.joints_embed(with_confidence(keypoints, self.joints)) + self.pos_embed
        graph = self.get_buffer(self.layout or of_joints(self.joints).name)
        for layer in self.layers:
            x = layer(x, graph)
        return head_output(self.rep_logit["fc"](self.norm(x)).tanh(), self.head)

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """A quarter of MixSTE's width, twice its depth."""
        dim, depth = profile.dims[512], 2 * profile.depths[8]
        return {"dim": dim // 4, "rep_dim": dim, "depth": depth, "heads": profile.heads}

    @classmethod
    def authors_sizes(cls, shapes: Shapes) -> dict[str, object]:
        dim = shapes.size("joints_embed.weight", 0)
        return {
            "frames": shapes.size("layers.0.graph_temporal.mixer.batch_norm.weight", 0),
            "joints": shapes.size("pos_embed", 1),
            "dim": dim,
            "rep_dim": shapes.size("rep_logit.fc.weight", 0),
            "depth": shapes.count("layers"),
            "heads": AUTHORS_HEADS,
            "mlp_ratio": shapes.size("layers.0.att_spatial.mlp.fc1.weight", 0) / dim,
        }


class Layer(nn.Module):
    """The two streams, each a block over joints, then one over frames, and their fusion."""

    def __init__(self, frames: int, joints: int, dim: int, heads: int, mlp_ratio: float):
        super().__init__()
        attentions = [Attention(dim, heads) for _ in range(2)]
        for attention in attentions:
            attention.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.att_spatial, self.att_temporal = (ScaledBlock(dim, mixer, mlp_ratio) for mixer in attentions)
        self.graph_spatial = ScaledBlock(dim, GraphConvolution(dim, joints), mlp_ratio)
        self.graph_temporal = ScaledBlock(dim, GraphConvolution(dim, frames), mlp_ratio)
        self.fusion = nn.Linear(2 * dim, 2)
        start_with_the_mean(self.fusion)

    def forward(self, x: Float[Tensor, "batch frames joints dim"], graph: Float[Tensor, "joints joints"]) -> Tensor:
        attended = over_frames(self.att_temporal, over_joints(self.att_spatial, x))
        convolved = over_frames(self.graph_temporal, over_joints(self.graph_spatial, x, graph))
        return fuse(self.fusion, attended, convolved)


class ScaledBlock(nn.Module):
    """x + s₁ ⊙ mixer(norm(x)), then x + s₂ ⊙ MLP(norm(x)), with a learned scale s of each feature."""

    def __init__(self, dim: int, mixer: nn.Module, mlp_ratio: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.mixer, self.mlp = mixer, MLP(dim, int(dim * mlp_ratio))
        self.layer_scale_1, self.layer_scale_2 = (nn.Parameter(torch.full((dim,), 1e-5)) for _ in range(2))

    def forward(self, x: Float[Tensor, "*batch nodes dim"], *graph: Tensor) -> Float[Tensor, "*batch nodes dim"]:
        x = x + self.layer_scale_1 * self.mixer(self.norm1(x), *graph)
        return x + self.layer_scale_2 * self.mlp(self.norm2(x))


class GraphConvolution(nn.Module):
    """ReLU(x + norm(A V(x) + U(x))) with a graph A, and a batch norm whose channels are the nodes."""

    def __init__(self, dim: int, nodes: int):
        super().__init__()
        self.U, self.V, self.batch_norm = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.BatchNorm1d(nodes)
        for layer in (self.U, self.V):
            nn.init.normal_(layer.weight, std=(2 / dim) ** 0.5)

    def forward(self, x: Float[Tensor, "batch nodes dim"], graph: Tensor | None = None) -> Tensor:
        """graph: 1 where the row's node receives from the column's; if None, from the nodes that are most similar."""
        graph = similarity_graph(x) if graph is None else graph
        scale = graph.sum(dim=-1).rsqrt()  # the sums of rows on both sides, though no graph here is symmetric
        y = (scale[..., None] * graph * scale[..., None, :]) @ self.V(x) + self.U(x)
        return F.relu(x + self.batch_norm(y))


@torch.no_grad()
def similarity_graph(x: Float[Tensor, "*batch nodes dim"]) -> Float[Tensor, "*batch nodes nodes"]:
    """1 at the NEIGHBOURS largest inner products of each row, and at any that equal the last of them; 0 elsewhere."""
    with torch.autocast("cuda", enabled=False):  # many would be equal in bfloat16
        similarity = x @ x.mT
    least = similarity.topk(min(NEIGHBOURS, x.shape[-2]), dim=-1).values[..., -1:]
    return (similarity >= least).to(x.dtype)


def joint_graph(skeleton: Skeleton) -> Float[Tensor, "joints joints"]:
    """1 where the row's joint receives from the column's: from its parent, and from its children but ONE_WAY's."""
    graph = torch.zeros(len(skeleton.joints), len(skeleton.joints))
    for parent, child in skeleton.bones:
        graph[child, parent] = 1
        graph[parent, child] = skeleton is not human36m or (parent, child) not in ONE_WAY
    return graph
