"""Cameras: world and camera axes, projection with lens distortion, screen normalisation.

Camera axes are x right, y down, z forward, as in OpenCV. Lengths are metres, image positions pixels.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Camera:
    """A calibrated camera.

    orientation: unit quaternion (w, x, y, z) that rotates camera axes into world axes. translation: the camera's
    place in the world, metres. focal, center: pixels. radial: k1, k2, k3. tangential: p1, p2.
    resolution: width, height in pixels.
    """

    name: str
    orientation: tuple[float, float, float, float]
    translation: tuple[float, float, float]
    focal: tuple[float, float]
    center: tuple[float, float]
    resolution: tuple[int, int]
    radial: tuple[float, float, float] = (0.0, 0.0, 0.0)
    tangential: tuple[float, float] = (0.0, 0.0)

    @property
    def intrinsics(self) -> Float[np.ndarray, "9"]:
        """(fx, fy, cx, cy, k1, k2, k3, p1, p2) in pixels, as `project` takes them."""
        return np.array([*self.focal, *self.center, *self.radial, *self.tangential])


def _rotation(orientation) -> Rotation:
    quaternion = np.asarray(orientation, dtype=np.float64)
    if quaternion.shape != (4,) or not np.isclose(np.linalg.norm(quaternion), 1.0, atol=1e-3):
        raise ValueError(f"orientation must be a unit quaternion (w, x, y, z), found {orientation}")
    return Rotation.from_quat(quaternion, scalar_first=True)


def _floating(points, axes: int) -> np.ndarray:
    points = np.asarray(points)
    if points.shape[-1:] != (axes,):
        raise ValueError(f"points must end in {axes} coordinates, found shape {points.shape}")
    return points if np.issubdtype(points.dtype, np.floating) else points.astype(np.float64)


def world_to_camera(points: Float[np.ndarray, "*shape 3"], orientation, translation) -> Float[np.ndarray, "*shape 3"]:
    """R⁻¹ (points − translation), with R the camera-to-world rotation `orientation` (w, x, y, z)."""
    points = _floating(points, 3)
    moved = (points - np.asarray(translation)).reshape(-1, 3)
    return _rotation(orientation).apply(moved, inverse=True).reshape(points.shape).astype(points.dtype)


def camera_to_world(points: Float[np.ndarray, "*shape 3"], orientation, translation) -> Float[np.ndarray, "*shape 3"]:
    """R points + translation: undoes `world_to_camera`."""
    points = _floating(points, 3)
    turned = _rotation(orientation).apply(points.reshape(-1, 3)).reshape(points.shape)
    return (turned + np.asarray(translation)).astype(points.dtype)


def project(points: Float[np.ndarray, "*shape 3"], intrinsics) -> Float[np.ndarray, "*shape 2"]:
    """Image positions of points in camera axes, with VideoPose3D's reading of the distortion coefficients.

    intrinsics: nine numbers (fx, fy, cx, cy, k1, k2, k3, p1, p2). The result is in the unit of f and c: pixels
    for pixel intrinsics, screen units for f' = 2f/w and c' = `normalize_screen`(c).
    With x = clip(X/Z, −1, 1) and r² = |x|²: f · (x (1 + k·[r², r⁴, r⁶] + p·x) + p r²) + c.
    """
    intrinsics = np.asarray(intrinsics, dtype=np.float64)
    if intrinsics.shape != (9,):
        raise ValueError(f"intrinsics must hold 9 numbers (f, f, c, c, k, k, k, p, p), found {intrinsics.shape}")
    focal, center, radial, tangential = np.split(intrinsics, [2, 4, 7])
    points = _floating(points, 3)
    # The clip keeps joints beside or behind the camera from flying off to where the polynomial has no meaning.
    flat = np.clip(points[..., :2] / points[..., 2:], -1, 1)
    r2 = np.sum(flat**2, axis=-1, keepdims=True)
    scale = 1 + np.concatenate([r2, r2**2, r2**3], axis=-1) @ radial + flat @ tangential
    distorted = flat * scale[..., None] + tangential * r2
    return (focal * distorted + center).astype(points.dtype)


def normalize_screen(
    points: Float[np.ndarray, "*shape 2"], width: float | int, height: float | int
) -> Float[np.ndarray, "*shape 2"]:
    """Pixels to screen units: the width spans [−1, 1] and the height keeps its proportion to it."""
    points = _floating(points, 2)
    return (points / width * 2 - np.array([1, height / width])).astype(points.dtype)
