"""Metrics against independent solvers, hand-worked cases and the properties that define them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mixste import metrics
from mixste.metrics import (
    aligned,
    auc,
    error_variance,
    joint_errors,
    mpjpe,
    mpjve,
    n_mpjpe,
    p_mpjpe,
    pck,
)

METRICS = [mpjpe, p_mpjpe, n_mpjpe, mpjve, pck, auc]

seeds = st.integers(0, 2**32 - 1)


def poses(*shape, seed=0, scale=300.0):
    """Root-relative poses in millimetres, of no particular shape."""
    return np.random.default_rng(seed).normal(size=(*shape, 3)) * scale


@pytest.fixture
def pair():
    target = poses(7, 17, seed=1)
    return target + poses(7, 17, seed=2, scale=40), target


# --- distances


def test_joint_errors_are_distances(pair):
    pred, target = pair
    expected = [[math.dist(p, t) for p, t in zip(*frame, strict=True)] for frame in zip(pred, target, strict=True)]
    np.testing.assert_allclose(joint_errors(pred, target), expected, rtol=1e-12)
    assert mpjpe(pred, target) == pytest.approx(np.mean(expected), rel=1e-12)


def test_hand_worked():
    """Two joints over two frames: one exact, one off by (3, 4, 0), then by (0, 0, 7)."""
    target = poses(2, 2)
    pred = target.copy()
    pred[:, 1] += [[3, 4, 0], [0, 0, 7]]
    np.testing.assert_allclose(joint_errors(pred, target), [[0, 5], [0, 7]], atol=1e-10)
    assert mpjpe(pred, target) == pytest.approx((5 + 7) / 4)
    assert mpjve(pred, target) == pytest.approx(math.hypot(3, 4, 7) / 2)
    assert pck(pred, target, threshold=6.0) == 75
    assert pck(pred, target, threshold=6.0, joints=[1]) == 50


@pytest.mark.parametrize("metric", METRICS)
def test_a_perfect_prediction(metric):
    target = poses(5, 17)
    best = {pck: 100.0, auc: 100 * 30 / 31}.get(metric, 0.0)
    assert metric(target, target) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_and_tensors_in_any_precision(metric, pair):
    single = [x.astype(np.float32) for x in pair]
    expected = metric(*(x.astype(np.float64) for x in single))
    assert isinstance(expected, float)
    assert metric(*single) == pytest.approx(expected, rel=1e-12)
    assert metric(*(torch.from_numpy(x).requires_grad_() for x in single)) == pytest.approx(expected, rel=1e-12)
    half = [torch.from_numpy(x).bfloat16() for x in single]
    assert metric(*half) == pytest.approx(metric(*(x.double() for x in half)), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_leading_axes_are_averaged(metric, pair):
    pred, target = pair
    both = metric(np.stack([pred, target]), np.stack([target, target]))
    assert both == pytest.approx((metric(pred, target) + metric(target, target)) / 2)


@pytest.mark.parametrize("metric", [mpjpe, p_mpjpe, n_mpjpe, mpjve])
def test_the_unit_is_the_inputs(metric, pair):
    pred, target = pair
    assert metric(pred / 1000, target / 1000) == pytest.approx(metric(pred, target) / 1000)


# --- alignment


def align_one(pred, target):
    """Procrustes of one frame by other means: SciPy's rotation, then least squares for scale and offset."""
    turn, _ = Rotation.align_vectors(target - target.mean(0), pred - pred.mean(0))
    turned = turn.apply(pred)
    unknowns = np.concatenate([turned.reshape(-1, 1), np.tile(np.eye(3), (len(pred), 1))], axis=1)
    (scale, *offset), *_ = np.linalg.lstsq(unknowns, target.reshape(-1), rcond=None)
    return scale * turned + offset


def test_alignment_agrees_with_other_solvers(pair):
    # The last two predictions are so far off that the best orthogonal map is a reflection in some frames.
    for pred, target in [pair, (poses(50, 5, seed=3), poses(50, 5, seed=4)), (pair[1] * [1, 1, -1], pair[1])]:
        expected = [align_one(p, t) for p, t in zip(pred, target, strict=True)]
        np.testing.assert_allclose(aligned(pred, target), expected, atol=1e-8)
        assert p_mpjpe(pred, target) == pytest.approx(np.linalg.norm(expected - target, axis=-1).mean())


@given(seeds, st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_turned_scaled_and_moved_poses_align_exactly(seed, scale):
    rng = np.random.default_rng(seed)
    target = poses(4, 17, seed=seed)
    turns = Rotation.random(4, rng).as_matrix()
    moved = scale * target @ turns + rng.normal(size=(4, 1, 3)) * 1000
    assert p_mpjpe(moved, target) == pytest.approx(0, abs=1e-6)
    noisy = target + rng.normal(size=target.shape) * 40
    noisy_and_moved = scale * noisy @ turns + rng.normal(size=(4, 1, 3)) * 1000
    assert p_mpjpe(noisy_and_moved, target) == pytest.approx(p_mpjpe(noisy, target), rel=1e-6)


def test_a_mirrored_pose_is_not_right(pair):
    _, target = pair
    assert p_mpjpe(target * [-1, 1, 1], target) > 50


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_alignment_and_scaling_never_add_squared_error(seed):
    pred, target = poses(3, 6, seed=seed), poses(3, 6, seed=seed + 1)

    def squares(pred):
        return np.sum((pred - target) ** 2, axis=(1, 2))

    scale = np.array(
        [np.linalg.lstsq(p.reshape(-1, 1), t.reshape(-1))[0][0] for p, t in zip(pred, target, strict=True)]
    )
    scaled = scale[:, None, None] * pred
    assert (squares(scaled) <= squares(pred) + 1e-6).all()
    assert (squares(aligned(pred, target)) <= squares(pred) + 1e-6).all()
    assert n_mpjpe(pred, target) == pytest.approx(np.linalg.norm(scaled - target, axis=-1).mean())


def test_scaling_is_about_the_origin_and_needs_no_scale_of_the_prediction(pair):
    pred, target = pair
    factors = np.array([0.1, 1, 2, 5, 0.7, 30, -1]).reshape(-1, 1, 1)
    assert n_mpjpe(factors * pred, target) == pytest.approx(n_mpjpe(pred, target))
    assert n_mpjpe(target + 100.0, target) > 1


line = np.linspace(-1, 1, 17)[:, None] * [[1.0, 2.0, 3.0]]
plane = poses(17, seed=5) * [1, 1, 0]


def test_a_point_lands_on_the_centroid():
    target = poses(1, 17)
    centroid = np.broadcast_to(target.mean(axis=1, keepdims=True), target.shape)
    for point in (0.0, 0.1, 1e6):
        np.testing.assert_allclose(aligned(np.full_like(target, point), target), centroid, atol=1e-6)
    assert n_mpjpe(0 * target, target) == pytest.approx(np.linalg.norm(target, axis=-1).mean())


@pytest.mark.parametrize("flat", [line, plane], ids=["line", "plane"])
def test_flat_poses_align(flat):
    turned = 3 * Rotation.from_euler("xyz", [1, 2, 3]).apply(flat) + 7
    assert p_mpjpe(turned[None], flat[None]) == pytest.approx(0, abs=1e-9 * np.abs(turned).max())
    assert p_mpjpe(flat[None] * [1, -1, 1], flat[None]) == pytest.approx(0, abs=1e-6)  # a mirrored plane is turned over
    onto_a_point = aligned(flat[None], np.zeros((1, 17, 3)))
    np.testing.assert_allclose(onto_a_point, 0, atol=1e-9)
    assert np.isfinite(aligned(poses(1, 17), flat[None])).all()


def test_alignment_in_chunks_changes_nothing(pair, monkeypatch):
    whole = aligned(*pair)
    monkeypatch.setattr(metrics, "CHUNK", 3)
    np.testing.assert_array_equal(aligned(*pair), whole)


# --- velocity, PCK, AUC


def test_velocity_ignores_constant_offsets_and_sees_jitter(pair):
    _, target = pair
    assert mpjve(target + 10.0, target) == pytest.approx(0, abs=1e-9)
    jitter = target.copy()
    jitter[::2, :, 0] += 1
    assert mpjve(jitter, target) == pytest.approx(1)


def test_velocity_of_one_frame():
    with pytest.raises(ValueError, match="at least 2 frames"):
        mpjve(poses(1, 17), poses(1, 17))


def shifted(distances):
    """One frame whose joints are off by the given distances."""
    target = np.zeros((1, len(distances), 3))
    return target + np.array(distances, dtype=float)[:, None] * [0, 1, 0], target


def test_pck_is_strictly_below_its_threshold():
    assert pck(*shifted([149.999, 150, 150.001, 0])) == 50
    assert pck(*(x / 1000 for x in shifted([0.1, 149, 151, 500])), threshold=0.15) == 50


def test_auc_by_hand():
    # 72 mm is within 75, 80, …, 150: 16 of the 31 thresholds; 75 mm no longer within 75; 0 mm within 5, …, 150.
    assert auc(*shifted([72])) == pytest.approx(100 * 16 / 31)
    assert auc(*shifted([75])) == pytest.approx(100 * 15 / 31)
    assert auc(*shifted([0, 72, 200])) == pytest.approx(100 * (30 + 16 + 0) / 31 / 3)
    assert auc(*shifted([0, 72, 200]), joints=[1]) == pytest.approx(100 * 16 / 31)
    assert auc(*(x / 1000 for x in shifted([72])), threshold=0.15) == pytest.approx(100 * 16 / 31)


def test_auc_is_the_mean_pck(pair):
    assert auc(*pair) == pytest.approx(np.mean([pck(*pair, threshold=float(limit)) for limit in range(0, 151, 5)]))


def test_error_variance():
    assert error_variance(np.array([10.0, 20.0, 30.0])) == pytest.approx((100 + 0 + 100) / 3 / 10)


# --- bad input


@pytest.mark.parametrize("metric", METRICS)
def test_bad_input(metric):
    good = poses(4, 17)
    bad = good.copy()
    bad[2, 3, 1] = np.nan
    with pytest.raises(ValueError, match=r"pred must be finite.*2 3 1"):
        metric(bad, good)
    with pytest.raises(ValueError, match="target must be finite"):
        metric(good, np.where(np.isnan(bad), np.inf, bad))
    for pred, target in [(good, good[:1]), (good[0], good[0]), (good[..., :2], good[..., :2]), (good[:0], good[:0])]:
        with pytest.raises(ValueError, match="frames, joints, 3"):
            metric(pred, target)
