"""Losses against loops over every number in double precision, hand-worked cases and their gradients."""

import math

import numpy as np
import pytest
import torch

from mixste.losses import (
    TABLE_6,
    motion_loss,
    mpjpe_loss,
    temporal_consistency,
    total_loss,
    velocity_loss,
    weighted_mpjpe,
)
from mixste.skeleton import human36m
from mixste.study.published import published

WEIGHTS = (1.0, 2.5, 4.0)
INTERVALS = (1, 3)
LOSSES = {
    "mpjpe": lambda pred, target: mpjpe_loss(pred, target),
    "wmpjpe": lambda pred, target: weighted_mpjpe(pred, target, WEIGHTS),
    "wmpjpe squared": lambda pred, target: weighted_mpjpe(pred, target, WEIGHTS, squared=True),
    "tc": lambda pred, target: temporal_consistency(pred, WEIGHTS),
    "mpjve": lambda pred, target: velocity_loss(pred, target),
    "motion": lambda pred, target: motion_loss(pred, target, INTERVALS),
}
TEMPORAL = ("tc", "mpjve", "motion")

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def poses(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, 3)))


@pytest.fixture
def pair():
    """Two batches of 2 windows, 5 frames, 3 joints."""
    return poses(2, 5, 3, seed=1), poses(2, 5, 3, seed=2)


def by_hand(name, pred, target):
    """The definitions, one number at a time."""
    pred, target = pred.tolist(), target.tolist()
    batch, frames, joints = len(pred), len(pred[0]), len(pred[0][0])
    everywhere = [(b, t, j) for b in range(batch) for t in range(frames) for j in range(joints)]
    steps = [(b, t, j) for b, t, j in everywhere if t + 1 < frames]

    def mean(numbers):
        return math.fsum(numbers) / len(numbers)

    def step(poses, b, t, j, interval=1):
        return [after - before for after, before in zip(poses[b][t + interval][j], poses[b][t][j], strict=True)]

    def cross(u, v):
        return u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]

    if name == "mpjpe":
        return mean([math.dist(pred[b][t][j], target[b][t][j]) for b, t, j in everywhere])
    if name == "wmpjpe":
        return mean([WEIGHTS[j] * math.dist(pred[b][t][j], target[b][t][j]) for b, t, j in everywhere])
    if name == "wmpjpe squared":
        return mean([WEIGHTS[j] * math.dist(pred[b][t][j], target[b][t][j]) ** 2 for b, t, j in everywhere])
    if name == "tc":
        return mean([WEIGHTS[j] * change**2 for b, t, j in steps for change in step(pred, b, t, j)])
    if name == "mpjve":
        return mean([math.dist(step(pred, b, t, j), step(target, b, t, j)) for b, t, j in steps])
    assert name == "motion"
    distances = []
    for interval in INTERVALS:
        differences = []
        for b, t, j in everywhere:
            if t + interval < frames:
                ours = cross(pred[b][t][j], pred[b][t + interval][j])
                theirs = cross(target[b][t][j], target[b][t + interval][j])
                differences += [abs(o - g) for o, g in zip(ours, theirs, strict=True)]
        distances.append(mean(differences))
    return mean(distances)


@pytest.mark.parametrize("name", LOSSES)
def test_definition(name, pair):
    assert LOSSES[name](*pair).item() == pytest.approx(by_hand(name, *pair), rel=1e-12)


def test_hand_worked():
    """One joint of weight 2 rests at the origin; its prediction goes from (3, 4, 0) to (3, 4, 12)."""
    target = torch.zeros(1, 2, 1, 3)
    pred = torch.tensor([[[[3.0, 4.0, 0.0]], [[3.0, 4.0, 12.0]]]])
    assert mpjpe_loss(pred, target).item() == (5 + 13) / 2
    assert weighted_mpjpe(pred, target, (2.0,)).item() == 5 + 13
    assert weighted_mpjpe(pred, target, (2.0,), squared=True).item() == 25 + 169
    assert temporal_consistency(pred, (2.0,)).item() == 2 * 12**2 / 3  # of three coordinates only z moves
    assert velocity_loss(pred, target).item() == 12
    # (3, 4, 0) × (3, 4, 12) = (48, −36, 0)
    assert motion_loss(pred, target, (1,)).item() == (48 + 36) / 3


@every_loss
def test_gradient(loss, pair):
    pred, target = pair
    assert torch.autograd.gradcheck(lambda pred: loss(pred, target), pred.requires_grad_())


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_is_finite_at_the_target(loss, dtype):
    target = poses(2, 5, 3).to(dtype)
    target[:, 1] = target[:, 0]  # a joint that rests as well
    pred = target.clone().requires_grad_()
    loss(pred, target).backward()
    assert torch.isfinite(pred.grad).all()


@every_loss
def test_bfloat16_is_computed_in_single_precision(loss, pair):
    pred, target = (x.bfloat16() for x in pair)
    found = loss(pred, target)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(pred.double(), target.double()).item(), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_window_of_one_frame(name):
    pred, target = poses(2, 1, 3, seed=1).requires_grad_(), poses(2, 1, 3, seed=2)
    loss = LOSSES[name](pred, target)
    loss.backward()
    if name in TEMPORAL:
        assert loss.item() == 0
        assert not pred.grad.any()
    else:
        assert loss.item() == pytest.approx(by_hand(name, pred.detach(), target), rel=1e-12)
        assert torch.isfinite(pred.grad).all()


def test_motion_intervals_beyond_the_window_do_not_count(pair):
    assert motion_loss(*pair, (1, 3, 5, 24)) == motion_loss(*pair, (1, 3))
    assert motion_loss(*pair, (5, 6)) == 0
    assert motion_loss(*pair) == 0  # the published intervals start at 8


@every_loss
def test_batch_and_joint_order_do_not_matter(loss, pair):
    pred, target = pair
    assert loss(pred.flip(0), target.flip(0)).item() == pytest.approx(loss(pred, target).item())
    assert loss(pred[0], target[0]).item() == pytest.approx(loss(pred[:1], target[:1]).item())  # no batch axis


@pytest.mark.parametrize("name", ["mpjpe", "wmpjpe", "wmpjpe squared", "tc", "mpjve"])
def test_turning_both_poses_changes_nothing(name, pair):
    turn = torch.linalg.qr(poses(3, seed=3))[0]
    pred, target = pair
    assert LOSSES[name](pred @ turn, target @ turn).item() == pytest.approx(LOSSES[name](pred, target).item())


def test_weights_follow_their_joints(pair):
    order = torch.tensor([2, 0, 1])
    weights = torch.tensor(WEIGHTS)
    pred, target = pair
    moved = weighted_mpjpe(pred[:, :, order], target[:, :, order], weights[order])
    assert moved.item() == pytest.approx(weighted_mpjpe(pred, target, weights).item())
    assert moved.item() != pytest.approx(weighted_mpjpe(pred[:, :, order], target[:, :, order], weights).item())


def test_a_constant_offset_has_no_velocity(pair):
    pred, _ = pair
    assert velocity_loss(pred + torch.tensor([1.0, -2.0, 3.0]), pred).item() == pytest.approx(0, abs=1e-12)
    assert temporal_consistency(pred + 1.0, WEIGHTS).item() == pytest.approx(temporal_consistency(pred, WEIGHTS).item())


def test_units(pair):
    """Metres to decimetres: distances grow 10 times, squares and cross products 100 times."""
    for name, factor in [("mpjpe", 10), ("wmpjpe", 10), ("mpjve", 10), ("wmpjpe squared", 100), ("tc", 100)]:
        assert LOSSES[name](*(10 * x for x in pair)).item() == pytest.approx(factor * LOSSES[name](*pair).item())


def test_table_6_has_the_printed_rows():
    assert list(TABLE_6) == list(dict.fromkeys(published(6)["detail"]))


def test_total_of_the_authors_recipe():
    pred, target = poses(2, 30, 17, seed=1), poses(2, 30, 17, seed=2)
    weights = human36m.weights("authors")
    ours = total_loss(pred, target, TABLE_6["WMPJPE Loss + T-Loss"], weights)
    parts = (
        weighted_mpjpe(pred, target, weights)
        + 0.5 * temporal_consistency(pred, weights)
        + 2.0 * velocity_loss(pred, target)
    )
    assert ours.item() == pytest.approx(parts.item())
    squared = total_loss(pred, target, {"wmpjpe": 3.0, "motion": 0.1}, weights, squared=True)
    parts = 3 * weighted_mpjpe(pred, target, weights, squared=True) + 0.1 * motion_loss(pred, target)
    assert squared.item() == pytest.approx(parts.item())
    plain = total_loss(pred, target, TABLE_6["MPJPE Loss"], weights)
    assert plain.item() == pytest.approx(mpjpe_loss(pred, target).item())


@pytest.mark.parametrize("terms", [{}, {"wmpjpe": 1.0, "tcloss": 0.5}])
def test_unknown_terms(pair, terms):
    with pytest.raises(ValueError, match="loss terms"):
        total_loss(*pair, terms, WEIGHTS)


# Where type hints are checked while tests run, wrong shapes are caught by those, with a TypeError.
REFUSED = (ValueError, TypeError)


@pytest.mark.parametrize("name", ["mpjpe", "wmpjpe", "mpjve", "motion"])
def test_shapes_do_not_broadcast(name, pair):
    pred, target = pair
    with pytest.raises(REFUSED):
        LOSSES[name](pred, target[:, :1])


def test_weights_for_other_joints(pair):
    with pytest.raises(REFUSED):
        weighted_mpjpe(*pair, (1.0,))
    with pytest.raises(REFUSED):
        temporal_consistency(pair[0], torch.ones(17))


def test_compiles_whole():
    weights, target = torch.tensor(WEIGHTS), poses(2, 20, 3, seed=2).float()

    def loss(pred):
        return total_loss(pred, target, {"wmpjpe": 1.0, "tc": 0.5, "mpjve": 2.0, "motion": 1.0, "mpjpe": 1.0}, weights)

    eager, compiled = (poses(2, 20, 3, seed=1).float().requires_grad_() for _ in range(2))
    expected, found = loss(eager), torch.compile(loss, backend="aot_eager", fullgraph=True)(compiled)
    torch.testing.assert_close(found, expected)
    expected.backward()
    found.backward()
    torch.testing.assert_close(compiled.grad, eager.grad)
