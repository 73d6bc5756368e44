"""Joint layouts: names, bones, mirror pairs and the joint groups of the paper's weighted loss."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Section 4.2: "different joint groups (torso, head, middle limb, and terminal limb)" weigh 1.0, 1.5, 2.5 and 4.0.
GROUP_WEIGHTS = {"torso": 1.0, "head": 1.5, "middle limb": 2.5, "terminal limb": 4.0}


@dataclass(frozen=True)
class Skeleton:
    """One joint layout.

    joints: names in array order. parents: index of each joint's parent, -1 at the root.
    left, right: matching joints, pair by pair. groups: the paper's joint group of each joint.
    authors_weights: W of the authors' code, joint by joint, which follows other groups than the paper's
    text (the feet weigh 2.5, the shoulders and the head top 1.5, the neck 1).
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    groups: tuple[str, ...]
    authors_weights: tuple[float, ...]

    def __post_init__(self):
        lengths = {len(self.joints), len(self.parents), len(self.groups), len(self.authors_weights)}
        if len(lengths) != 1 or len(self.left) != len(self.right):
            raise ValueError(f"skeleton {self.name}: joints, parents, groups and weights must pair up")

    @property
    def root(self) -> int:
        """Index of the root joint, the origin of root-relative poses."""
        return self.parents.index(-1)

    @cached_property
    def mirror(self) -> np.ndarray:
        """Permutation that swaps left and right: `x[..., skeleton.mirror, :]`."""
        order = np.arange(len(self.joints))
        order[list(self.left + self.right)] = self.right + self.left
        return order

    @property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """(parent, child) of every bone."""
        return tuple((parent, child) for child, parent in enumerate(self.parents) if parent >= 0)

    @cached_property
    def top_down(self) -> tuple[int, ...]:
        """Joint indices ordered so that every parent comes before its children."""
        order = [self.root]
        for joint in order:
            order += [child for child, parent in enumerate(self.parents) if parent == joint]
        return tuple(order)

    @cached_property
    def chains(self) -> np.ndarray:
        """(joints, joints), 1 where the bone that ends in the column's joint leads from the root to the row's."""
        chains = np.eye(len(self.joints))
        for joint in self.top_down[1:]:
            chains[joint] += chains[self.parents[joint]]
        return chains

    def weights(self, recipe: str) -> tuple[float, ...]:
        """W of Eq. 10 for recipe "paper" (by group) or "authors" (their code's list)."""
        if recipe == "paper":
            return tuple(GROUP_WEIGHTS[group] for group in self.groups)
        if recipe == "authors":
            return self.authors_weights
        raise ValueError(f'recipe must be "paper" or "authors", found {recipe!r}')


_T, _H, _M, _E = "torso", "head", "middle limb", "terminal limb"

# The 17 of Human3.6M's 32 joints that the field keeps. Both shoulders hang from the thorax.
human36m = Skeleton(
    name="human36m",
    joints=(
        *("Hip", "RHip", "RKnee", "RFoot", "LHip", "LKnee", "LFoot", "Spine", "Thorax", "Neck", "Head"),
        *("LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist"),
    ),
    parents=(-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    left=(4, 5, 6, 11, 12, 13),
    right=(1, 2, 3, 14, 15, 16),
    groups=(_T, _T, _M, _E, _T, _M, _E, _T, _T, _H, _H, _T, _M, _E, _T, _M, _E),
    authors_weights=(1.0, 1.0, 2.5, 2.5, 1.0, 2.5, 2.5, 1.0, 1.0, 1.0, 1.5, 1.5, 4.0, 4.0, 1.5, 4.0, 4.0),
)

# VideoPose3D's 15-joint HumanEva layout.
humaneva15 = Skeleton(
    name="humaneva15",
    joints=(
        *("Pelvis", "Thorax", "LShoulder", "LElbow", "LWrist", "RShoulder", "RElbow", "RWrist"),
        *("LHip", "LKnee", "LAnkle", "RHip", "RKnee", "RAnkle", "Head"),
    ),
    parents=(-1, 0, 1, 2, 3, 1, 5, 6, 0, 8, 9, 0, 11, 12, 1),
    left=(2, 3, 4, 8, 9, 10),
    right=(5, 6, 7, 11, 12, 13),
    groups=(_T, _T, _T, _M, _E, _T, _M, _E, _T, _M, _E, _T, _M, _E, _H),
    authors_weights=(1.0, 1.0, 2.5, 2.5, 1.0, 2.5, 2.5, 1.0, 1.5, 1.5, 4.0, 4.0, 1.5, 4.0, 4.0),
)

# The 17 joints of the `annot3` / `univ_annot3` evaluation; the root is the pelvis, joint 14.
mpi_inf_3dhp = Skeleton(
    name="mpi_inf_3dhp",
    joints=(
        *("HeadTop", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist"),
        *("RHip", "RKnee", "RAnkle", "LHip", "LKnee", "LAnkle", "Pelvis", "Spine", "Head"),
    ),
    parents=(16, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, -1, 14, 1),
    left=(5, 6, 7, 11, 12, 13),
    right=(2, 3, 4, 8, 9, 10),
    groups=(_H, _H, _T, _M, _E, _T, _M, _E, _T, _M, _E, _T, _M, _E, _T, _T, _H),
    # The authors published no code for this data set: their Human3.6M values, joint by joint.
    authors_weights=(1.5, 1.0, 1.5, 4.0, 4.0, 1.5, 4.0, 4.0, 1.0, 2.5, 2.5, 1.0, 2.5, 2.5, 1.0, 1.0, 1.5),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (human36m, humaneva15, mpi_inf_3dhp)}


def layouts_of(joints: int) -> list[str]:
    """The names of the layouts with so many joints, the usual one first."""
    return [skeleton.name for skeleton in SKELETONS.values() if len(skeleton.joints) == joints]


def of_joints(joints: int) -> Skeleton:
    """The layout meant by a joint count alone: human36m for 17, humaneva15 for 15; ValueError for any other."""
    for name in layouts_of(joints):
        return SKELETONS[name]
    raise ValueError(f"expected 17 joints (human36m) or 15 (humaneva15), found {joints}")


def mirrored(points: Float[Tensor, "*batch joints axes"], skeleton: Skeleton) -> Float[Tensor, "*batch joints axes"]:
    """The mirror image: x reversed, left and right joints swapped. Keypoints must be screen-normalised."""
    index = torch.as_tensor(skeleton.mirror).to(points.device, non_blocking=True)  # a GPU need not stop for it
    points = points[..., index, :]
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)
