"""Augmentation of poses on the device of the run: other bodies, other cameras, and their keypoints.

Poses are metres in camera axes (x right, y down, z forward), with the root's path.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mixste.data.bodies import body_factors
from mixste.skeleton import Skeleton


def _uniform(like: Tensor, generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    values = torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype)
    return low + (high - low) * values.to(like.device)


def _factors(like: Tensor, generator: torch.Generator, bounds: tuple[float, float], *shape: int) -> Tensor:
    """Log-uniform: halving is as likely as doubling."""
    return _uniform(like, generator, math.log(bounds[0]), math.log(bounds[1]), *shape).exp()


def resize_bodies(
    poses: Float[Tensor, "batch frames joints 3"],
    skeleton: Skeleton,
    generator: torch.Generator,
    bone: tuple[float, float] = (0.85, 1.18),
    body: tuple[float, float] = (0.9, 1.1),
) -> Float[Tensor, "batch frames joints 3"]:
    """The same motions on other bodies, one body per window.

    Every bone is scaled by a random factor within `bone`, the same for left and right, and the whole body by one within
    `body`. Directions are kept, and the pose is rebuilt from the root outwards. The root's path is scaled about its
    mean by the factor of the body.
    """
    batch, _, joints, _ = poses.shape
    pair = _constant(np.minimum(skeleton.mirror, np.arange(joints)), poses.device)
    size = _factors(poses, generator, body, batch, 1, 1)
    return _resized(poses, skeleton, size * _factors(poses, generator, bone, batch, 1, joints)[..., pair], size)


def measured_bodies(
    poses: Float[Tensor, "batch frames joints 3"],
    skeleton: Skeleton,
    generator: torch.Generator,
    placement: float = 0.03,
) -> Float[Tensor, "batch frames joints 3"]:
    """`resize_bodies` with factors that vary and correlate as between adults, see `bodies.body_factors`.

    The root's path is scaled about its mean by the factor of the legs.
    """
    scale, size = body_factors(len(poses), skeleton, generator, placement, poses.dtype)
    return _resized(poses, skeleton, scale[:, None].to(poses.device), size[:, None, None].to(poses.device))


def _resized(
    poses: Float[Tensor, "batch frames joints 3"],
    skeleton: Skeleton,
    scale: Float[Tensor, "batch 1 joints"],
    size: Float[Tensor, "batch 1 1"],
) -> Float[Tensor, "batch frames joints 3"]:
    """Poses whose bones are `scale` as long, by the joint that each ends in, and whose root travels `size` as far."""
    parents = [joint if parent < 0 else parent for joint, parent in enumerate(skeleton.parents)]
    parents = _constant(parents, poses.device)
    chains = _constant(skeleton.chains, poses.device, poses.dtype)
    root = poses[:, :, [skeleton.root]]
    centre = root.mean(dim=1, keepdim=True)
    bones = scale[..., None] * (poses - poses[:, :, parents])  # the root's own is 0
    return centre + size[..., None] * (root - centre) + chains @ bones


def _constant(values, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A few numbers on a device, without stopping a GPU as a tensor made there would."""
    return torch.as_tensor(values, dtype=dtype).to(device, non_blocking=True)


def _rotations(vectors: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 3 3"]:
    """Rotation matrices of rotation vectors, by Rodrigues' formula."""
    angle = vectors.norm(dim=-1)[:, None, None]
    x, y, z = (vectors / angle.squeeze(-1).clamp_min(1e-12)).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return (
        torch.eye(3, device=vectors.device, dtype=vectors.dtype)
        + angle.sin() * cross
        + (1 - angle.cos()) * cross @ cross
    )


def turn_cameras(
    poses: Float[Tensor, "batch frames joints 3"],
    generator: torch.Generator,
    yaw: float = math.pi,
    tilt: float = 0.1,
    distance: tuple[float, float] = (0.85, 1.25),
    down: float = 0.22,
    nearest: float = 1.5,
) -> Float[Tensor, "batch frames joints 3"]:
    """The same motions seen by another camera, one per window.

    Body and path turn about the vertical through the middle of the path by up to ±`yaw` radians, the middle moves along
    its ray to `distance` times its depth, and the camera rotates about its own centre by up to `tilt` radians about
    each axis. The vertical is that of a camera that looks down by `down` radians, the average of Human3.6M's. Finally
    the camera retreats until every joint is at least `nearest` metres in front of it.
    """
    batch = len(poses)
    vertical = _constant([0.0, math.cos(down), math.sin(down)], poses.device, poses.dtype)
    turn = _rotations(_uniform(poses, generator, -yaw, yaw, batch, 1) * vertical)
    view = _rotations(_uniform(poses, generator, -tilt, tilt, batch, 3))
    centre = poses.mean(dim=(1, 2), keepdim=True)
    away = centre * _factors(poses, generator, distance, batch, 1, 1, 1)
    poses = torch.einsum("bij,bfkj->bfki", turn, poses - centre) + away
    poses = torch.einsum("bij,bfkj->bfki", view, poses)
    retreat = (nearest - poses[..., 2].amin(dim=(1, 2))).clamp_min(0)
    return torch.cat([poses[..., :2], poses[..., 2:] + retreat[:, None, None, None]], dim=-1)


def project_screen(
    poses: Float[Tensor, "batch frames joints 3"],
    intrinsics: Float[Tensor, "batch 9"],
    resolution: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch frames joints 2"]:
    """Screen-normalised keypoints: `camera.normalize_screen(camera.project(…))` on tensors, one camera per window.

    intrinsics: (fx, fy, cx, cy, k1, k2, k3, p1, p2) in pixels. resolution: width, height in pixels.
    """
    focal, center, radial, tangential = intrinsics[:, None, None].split([2, 2, 3, 2], dim=-1)
    flat = (poses[..., :2] / poses[..., 2:]).clamp(-1, 1)
    r2 = flat.square().sum(dim=-1, keepdim=True)
    powers = torch.cat([r2, r2**2, r2**3], dim=-1)
    scale = 1 + (radial * powers).sum(dim=-1, keepdim=True) + (tangential * flat).sum(dim=-1, keepdim=True)
    pixels = focal * (flat * scale + tangential * r2) + center
    width, height = resolution[:, None, None].split(1, dim=-1)
    return 2 * pixels / width - torch.cat([torch.ones_like(width), height / width], dim=-1)
