"""Evaluation metrics of the field.

Poses are NumPy arrays or tensors (..., frames, joints, 3), root-relative in the protocols. Results are in the unit of
the poses, and computed in double precision. Different shapes, and numbers that are not finite, raise ValueError.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

Poses = np.ndarray | Tensor  # (..., frames, joints, 3)

CHUNK = 65536  # frames aligned at a time, to bound the memory for their decompositions


def mpjpe(pred: Poses, target: Poses) -> float:
    """Mean per-joint position error, Protocol 1: the mean distance between predicted and true joints."""
    return float(joint_errors(pred, target).mean())


def p_mpjpe(pred: Poses, target: Poses) -> float:
    """Protocol 2: `mpjpe` after each frame's best rotation, scale and translation."""
    return float(joint_errors(aligned(pred, target), target).mean())


def n_mpjpe(pred: Poses, target: Poses) -> float:
    """`mpjpe` after each frame's least-squares scale ⟨pred, target⟩ / ⟨pred, pred⟩ about the origin."""
    pred, target = _pair(pred, target)
    product = np.sum(pred * target, axis=(-2, -1), keepdims=True)
    return mpjpe(_ratio(product, np.sum(pred**2, axis=(-2, -1), keepdims=True)) * pred, target)


def mpjve(pred: Poses, target: Poses) -> float:
    """Mean per-joint velocity error: `mpjpe` of the differences between consecutive frames, in length per frame."""
    pred, target = _pair(pred, target)
    if pred.shape[-3] < 2:
        raise ValueError("a velocity needs at least 2 frames, found 1")
    return mpjpe(np.diff(pred, axis=-3), np.diff(target, axis=-3))


def pck(pred: Poses, target: Poses, threshold: float = 150.0, joints: Sequence[int] | None = None) -> float:
    """Percentage of correct keypoints: joints nearer to the truth than `threshold`, in the poses' unit.

    joints: indices of those that count, all by default; MPI-INF-3DHP counts 0–13 at 150 mm (Table 3).
    """
    return _percent_below(_some(joint_errors(pred, target), joints), threshold)


def auc(pred: Poses, target: Poses, threshold: float = 150.0, joints: Sequence[int] | None = None) -> float:
    """Area under the PCK curve: its mean over 31 thresholds from 0 to `threshold`, 0, 5, …, 150 mm by default.

    No distance is less than 0, so a perfect prediction scores 30/31, 96.8 %.
    """
    errors = _some(joint_errors(pred, target), joints)
    return float(np.mean([_percent_below(errors, limit) for limit in np.linspace(0, threshold, 31)]))


def joint_errors(pred: Poses, target: Poses) -> Float[np.ndarray, "*batch frames joints"]:
    """Distance of every predicted joint from the true one."""
    pred, target = _pair(pred, target)
    return np.linalg.norm(pred - target, axis=-1)


def aligned(pred: Poses, target: Poses) -> Float[np.ndarray, "*batch frames joints 3"]:
    """Each frame of `pred` turned, scaled and moved onto `target` with the least squared error (Procrustes).

    Reflections are excluded. If all joints lie on a line, many rotations are optimal and give the same result. A
    prediction whose joints coincide lands on the target's centroid.
    """
    pred, target = _pair(pred, target)
    shape = pred.shape
    pred, target = pred.reshape(-1, *shape[-2:]), target.reshape(-1, *shape[-2:])
    starts = range(0, len(pred), CHUNK)
    return np.concatenate([_procrustes(pred[i : i + CHUNK], target[i : i + CHUNK]) for i in starts]).reshape(shape)


def error_variance(errors: Float[np.ndarray, "joints"]) -> float:
    """VAR. of Figure 4: the (population) variance among the mean errors of joints, divided by 10.

    This is the definition in the figure's caption; Section 4.1 of the paper speaks of the variance between actions.
    """
    return float(np.var(_finite("errors", errors)) / 10.0)


def _procrustes(
    pred: Float[np.ndarray, "frames joints 3"], target: Float[np.ndarray, "frames joints 3"]
) -> Float[np.ndarray, "frames joints 3"]:
    """`aligned` for frames in a row, after Kabsch and Umeyama."""
    pred = pred - pred.mean(axis=1, keepdims=True)
    center = target.mean(axis=1, keepdims=True)
    u, scales, vt = np.linalg.svd(pred.swapaxes(1, 2) @ (target - center))
    # U Vᵀ is the best orthogonal map. If it is a reflection, the best rotation flips the axis of the smallest singular
    # value.
    mirrored = np.linalg.det(u @ vt) < 0
    u[mirrored, :, 2] *= -1
    scales[mirrored, 2] *= -1
    scale = _ratio(scales.sum(axis=1), np.sum(pred**2, axis=(1, 2)))
    return scale[:, None, None] * (pred @ (u @ vt)) + center


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient; 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _some(errors: np.ndarray, joints: Sequence[int] | None) -> np.ndarray:
    return errors if joints is None else errors[..., list(joints)]


def _percent_below(errors: np.ndarray, threshold: float) -> float:
    return 100.0 * float(np.mean(errors < threshold))


def _finite(name: str, numbers) -> np.ndarray:
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu().double().numpy()
    numbers = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, found NaN or infinity at {np.argwhere(~np.isfinite(numbers))[0]}")
    return numbers


def _pair(pred: Poses, target: Poses) -> tuple[np.ndarray, np.ndarray]:
    pred, target = _finite("pred", pred), _finite("target", target)
    if pred.shape != target.shape or pred.ndim < 3 or pred.shape[-1] != 3 or pred.size == 0:
        raise ValueError(
            f"pred and target must both be (..., frames, joints, 3) and not empty, found {pred.shape}, {target.shape}"
        )
    return pred, target
