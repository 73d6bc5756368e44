"""Triangulation: 3D points from several calibrated cameras."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mixste.camera import Camera, camera_to_world, project


def undistorted(points: Float[np.ndarray, "*shape 2"], camera: Camera) -> Float[np.ndarray, "*shape 2"]:
    """X / Z and Y / Z in camera axes of points at these pixels; NaN stays NaN.

    Inverts `camera.project` by fixed-point iteration, which converges to 1e-6 pixels for the few per cent of distortion
    of an ordinary lens.
    """
    focal, center = np.array(camera.focal), np.array(camera.center)
    flat = (points - center) / focal
    for _ in range(20):
        pixels = project(np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1), camera.intrinsics)
        flat = flat - (pixels - points) / focal
    return flat


def triangulate(
    points: Float[np.ndarray, "cameras *shape 2"], cameras: Sequence[Camera]
) -> Float[np.ndarray, "*shape 3"]:
    """World positions, metres, of points seen by several cameras: the least-squares intersection of their rays.

    points: pixels, NaN where a camera does not see a point. Returns NaN for a point that fewer than two cameras see.
    """
    rays = []
    for pixels, camera in zip(points, cameras, strict=True):
        flat = undistorted(pixels, camera)
        ray = camera_to_world(
            np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1), camera.orientation, np.zeros(3)
        )
        rays.append(ray / np.linalg.norm(ray, axis=-1, keepdims=True))
    rays = np.stack(rays)  # (cameras, *shape, 3)
    # The projector onto the plane across each ray; a missing ray has no weight.
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    visible = np.isfinite(rays[..., 0])
    across = np.where(visible[..., None, None], across, 0.0)
    centers = np.array([camera.translation for camera in cameras])
    enough = visible.sum(axis=0) >= 2
    total = np.where(enough[..., None, None], across.sum(axis=0), np.eye(3))
    nearest = np.linalg.solve(total, np.einsum("c...ij,cj->...i", across, centers)[..., None])[..., 0]
    return np.where(enough[..., None], nearest, np.nan)
