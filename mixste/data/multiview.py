"""Poses from several calibrated cameras: where the rays of sight meet."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mixste.camera import Camera, camera_to_world, project


def undistorted(points: Float[np.ndarray, "*shape 2"], camera: Camera) -> Float[np.ndarray, "*shape 2"]:
    """X / Z and Y / Z in camera axes of what is seen at these pixels; NaN stays NaN.

    Undoes `camera.project` step by step, which for the few per cent of an ordinary lens ends within 1e-6 pixels.
    """
    focal, center = np.array(camera.focal), np.array(camera.center)
    flat = (points - center) / focal
    for _ in range(20):
        seen = project(np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1), camera.intrinsics)
        flat = flat - (seen - points) / focal
    return flat


def triangulate(
    points: Float[np.ndarray, "cameras *shape 2"], cameras: Sequence[Camera]
) -> Float[np.ndarray, "*shape 3"]:
    """World positions, metres, of points seen by several cameras: nearest to all of their rays, by least squares.

    points: pixels, NaN where a camera does not see one. NaN where fewer than two cameras do.
    """
    rays = []
    for seen, camera in zip(points, cameras, strict=True):
        flat = undistorted(seen, camera)
        ray = camera_to_world(
            np.concatenate([flat, np.ones_like(flat[..., :1])], axis=-1), camera.orientation, np.zeros(3)
        )
        rays.append(ray / np.linalg.norm(ray, axis=-1, keepdims=True))
    rays = np.stack(rays)  # (cameras, *shape, 3)
    # What of a vector lies across each ray; a ray that is not there counts for nothing.
    across = np.eye(3) - rays[..., :, None] * rays[..., None, :]
    seen = np.isfinite(rays[..., 0])
    across = np.where(seen[..., None, None], across, 0.0)
    places = np.array([camera.translation for camera in cameras])
    enough = seen.sum(axis=0) >= 2
    total = np.where(enough[..., None, None], across.sum(axis=0), np.eye(3))
    met = np.linalg.solve(total, np.einsum("c...ij,cj->...i", across, places)[..., None])[..., 0]
    return np.where(enough[..., None], met, np.nan)
