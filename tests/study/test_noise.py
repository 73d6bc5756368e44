"""Each kind of noise does what its name says, by hand on clips of a few frames."""

import numpy as np
import pytest

from mixste.data.clips import Clip
from mixste.skeleton import human36m
from mixste.study import noise


def clip(frames=2000, seed=0, fps=50.0) -> Clip:
    rng = np.random.default_rng(seed)
    keypoints = rng.uniform(300, 700, (frames, 17, 2)).astype(np.float32)
    return Clip("S1", "Walking", "C1", fps, (1000, 1000), keypoints, np.zeros((frames, 17, 3)), "1", None, None)


def moved(kind: str, level: float, one: Clip) -> np.ndarray:
    return noise.worse(one, kind, level, human36m).keypoints - one.keypoints


@pytest.mark.parametrize("kind", noise.KINDS)
def test_level_0_changes_nothing_and_the_same_clip_gets_the_same_noise(kind):
    one, level = clip(), noise.KINDS[kind][1][-1]
    assert noise.worse(one, kind, 0, human36m) is one
    again = noise.worse(one, kind, level, human36m)
    np.testing.assert_array_equal(again.keypoints, noise.worse(one, kind, level, human36m).keypoints)
    assert 0 <= again.keypoints.min() <= again.keypoints.max() <= 1000
    assert (again.keypoints != one.keypoints).any()


def test_both_kinds_of_independent_noise_have_the_same_median():
    one = clip()
    normal, heavy = moved("Gaussian", 10, one), moved("heavy tails", 10, one)
    assert normal.std() == pytest.approx(10, rel=0.02)
    assert np.median(abs(normal)) == pytest.approx(6.745, rel=0.02)
    assert np.median(abs(heavy)) == pytest.approx(6.745, rel=0.02)
    assert abs(heavy).max() > 2 * abs(normal).max()


@pytest.mark.parametrize("kind", ["to the centre", "swapped"])
def test_shares_are_those_asked_for(kind):
    share = np.mean([(moved(kind, 0.2, clip(seed=seed)) != 0).any(-1)[:, 1:].mean() for seed in range(4)])
    middle = 1 if kind == "to the centre" else 12 / 16  # joints of the trunk are their own mirror image
    assert share == pytest.approx(0.2 * middle, abs=0.04)


@pytest.mark.parametrize(("fps", "frames"), [(50.0, 25), (5.0, 2), (1.0, 1)])
def test_a_stretch_lasts_half_a_second(fps, frames):
    """At a share so low that stretches are apart; those at either end are cut."""
    turned = (moved("swapped", 0.02, clip(20_000, fps=fps))[:, 1] != 0).any(-1).astype(int)
    edges = np.flatnonzero(np.diff(turned))
    edges = edges[turned[0] : len(edges) - turned[-1]]
    lengths = edges[1::2] - edges[::2]
    assert np.median(lengths) == lengths.min() == frames


def test_a_lost_joint_stays_where_it_was_seen_last():
    keypoints = np.arange(10.0).reshape(5, 1, 2)
    lost = np.array([[True], [False], [True], [True], [False]])
    assert noise.last_seen(keypoints, lost)[:, 0, 0].tolist() == [0, 2, 2, 2, 8]


def test_frozen_joints_stay_at_their_first_position():
    change = noise.worse(clip(), "frozen", 4, human36m).keypoints
    assert ((change == change[:1]).all((0, 2))).sum() == 4
