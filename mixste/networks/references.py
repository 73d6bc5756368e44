"""Two references that a network should beat: one pose for all frames, and a linear regression from single frames.

Neither is in the paper. Both are fitted in closed form to the training frames, plain and mirrored, and lift
each frame by itself, so that they are tested, recorded and tabulated like a network with T = 1.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixste.data.clips import Clip
from mixste.data.windows import ClipFrames
from mixste.network import Network
from mixste.skeleton import Skeleton, mirrored

LEVEL = 0.95  # of the constant pose's MPJPE: a network that is not below this has learned little more


def at_constant_level(error: float, constant: float) -> bool:
    """Whether a network's MPJPE is at the level of the constant pose's on the same clips. NaN counts as well."""
    return not error < LEVEL * constant


class Reference(Network):
    """A pose that is linear in the inputs that a frame's keypoints give: (…, joints, 2) -> (…, joints, 3)."""

    closed_form = True

    def __init__(self, frames: int = 1, joints: int = 17):
        super().__init__(frames=frames, joints=joints)
        if frames != 1:
            raise ValueError(f"frames must be 1, for a reference lifts each frame by itself, found {frames}")
        inputs = self.inputs(torch.empty(1, joints, 2)).shape[-1]
        self.weight = nn.Parameter(torch.zeros(inputs, 3 * joints), requires_grad=False)

    def forward(self, keypoints: Float[Tensor, "*batch joints 2"]) -> Float[Tensor, "*batch joints 3"]:
        return (self.inputs(keypoints) @ self.weight).unflatten(-1, (self.joints, 3))

    def fit(self, clips: list[Clip], skeleton: Skeleton) -> float:
        """Fit to the frames of these clips and to their mirror images; returns the MPJPE on them, in metres."""
        self.layout = skeleton.name
        frames = ClipFrames.of(clips, skeleton)
        keypoints, poses = (torch.cat([x, mirrored(x, skeleton)]) for x in (frames.keypoints, frames.poses))
        weight = self.solve(keypoints, poses)
        self.weight.copy_(weight)
        distances = 0.0
        for part, target in _parts(keypoints, poses):
            lifted = (self.inputs(part) @ weight.float()).unflatten(-1, (self.joints, 3))
            distances += float((lifted - target).norm(dim=-1).sum())
        return distances / (len(poses) * self.joints)

    def inputs(self, keypoints: Float[Tensor, "*batch joints 2"]) -> Float[Tensor, "*batch inputs"]:
        raise NotImplementedError

    def solve(
        self, keypoints: Float[Tensor, "frames joints 2"], poses: Float[Tensor, "frames joints 3"]
    ) -> Float[Tensor, "inputs joints*3"]:
        raise NotImplementedError


class ConstantPose(Reference):
    """The same pose for every frame: of each joint the geometric median, the point with the least mean distance to its
    places in training, so that no other pose has a lower MPJPE there."""

    name = "constant_pose"

    def inputs(self, keypoints):
        return torch.ones_like(keypoints[..., 0, :1])

    def solve(self, keypoints, poses):
        return torch.cat([geometric_median(joint) for joint in poses.unbind(1)])[None]


class FrameRegression(Reference):
    """Least squares from the coordinates of one frame's keypoints, and a constant, to those of its pose."""

    name = "frame_regression"

    def inputs(self, keypoints):
        return torch.cat([keypoints.flatten(-2), torch.ones_like(keypoints[..., 0, :1])], dim=-1)

    def solve(self, keypoints, poses):
        products = torch.zeros(len(self.weight), len(self.weight) + 3 * self.joints, dtype=torch.float64)
        for part, target in _parts(keypoints, poses):
            inputs = self.inputs(part.double())
            products += inputs.T @ torch.cat([inputs, target.flatten(1).double()], dim=-1)
        return torch.linalg.lstsq(products[:, : len(products)], products[:, len(products) :], driver="gelsd").solution


def _parts(keypoints: Tensor, poses: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames in parts, to bound the memory."""
    return zip(keypoints.split(2**16), poses.split(2**16), strict=True)


def geometric_median(points: Float[Tensor, "points axes"], within: float = 1e-6) -> Float[Tensor, "axes"]:
    """The point with the least mean distance to these, by Weiszfeld's iteration, until a step is within so much."""
    points = points.double()
    median, step = points.mean(dim=0), torch.inf
    while step > within:
        weights = 1 / (points - median).norm(dim=-1, keepdim=True).clamp(min=1e-9)
        moved = (weights * points).sum(dim=0) / weights.sum()
        step, median = float((moved - median).norm()), moved
    return median
