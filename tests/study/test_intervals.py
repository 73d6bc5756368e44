"""The bootstrap, against cases small enough to enumerate and samples whose truth is known."""

import numpy as np
import pytest

from mixste.study.intervals import bootstrap_interval


def test_bootstrap_of_two_clips_is_exact():
    """Two clips drawn twice: both the first, one each, or both the second, with chances ¼, ½ and ¼."""
    values = np.array([0.0, 1.0])
    assert bootstrap_interval(values, seed=0) == (0.5, 0.0, 1.0)
    assert bootstrap_interval(values, seed=0, level=0.4) == (0.5, 0.5, 0.5)
    # Three times as many frames in the first: one each makes ¼.
    weights = np.array([3.0, 1.0])
    assert bootstrap_interval(values, weights, seed=0) == (0.25, 0.0, 1.0)
    assert bootstrap_interval(values, weights, seed=0, level=0.4) == (0.25, 0.25, 0.25)


def test_bootstrap_draws_seeds_too():
    """Of two seeds that differ by 2 in every clip, one alone has chance ¼; of clips alike, nothing else varies."""
    values = np.array([[1.0, 3.0]]).repeat(5, axis=0)
    assert bootstrap_interval(values, seed=0) == (2.0, 1.0, 3.0)
    assert bootstrap_interval(values, seed=0, level=0.4) == (2.0, 2.0, 2.0)
    one = np.random.default_rng(0).normal(size=20)
    assert bootstrap_interval(one[:, None], seed=0) == bootstrap_interval(one, seed=0)
    assert bootstrap_interval(np.stack([one, one], axis=1), seed=0) == pytest.approx(bootstrap_interval(one, seed=0))


def test_bootstrap_covers_the_truth():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(40, 10, size=50), seed=seed, level=0.9) for seed in range(300)]
    covered = np.mean([low <= 40 <= high for _, low, high in intervals])
    assert 0.84 < covered < 0.94  # a percentile interval of 50 clips falls a little short of 0.9
    assert np.mean([high - low for _, low, high in intervals]) == pytest.approx(2 * 1.645 * 10 / 50**0.5, rel=0.05)


def test_bootstrap_is_seeded_and_follows_its_values():
    values = np.random.default_rng(0).normal(size=20)
    first = bootstrap_interval(values, seed=1)
    assert first == bootstrap_interval(values, seed=1)
    assert first[1:] != bootstrap_interval(values, seed=2)[1:]
    assert bootstrap_interval(2 * values + 5, seed=1) == pytest.approx([2 * end + 5 for end in first])
    assert bootstrap_interval(np.full(9, 7.0), seed=1) == pytest.approx((7, 7, 7))


def test_differences_on_the_same_clips_are_narrower():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(40, 20, size=60)
    ours, theirs = difficulty + rng.normal(-1, 1, size=60), difficulty + rng.normal(0, 1, size=60)
    mean, low, high = bootstrap_interval(ours - theirs, seed=0)
    assert mean == pytest.approx(ours.mean() - theirs.mean())
    assert low < mean < high < 0  # better by about 1, which the intervals of the two alone could not tell
    assert bootstrap_interval(ours, seed=0)[2] > bootstrap_interval(theirs, seed=0)[1]


@pytest.mark.parametrize(
    ("values", "weights"),
    [
        (np.array([1.0]), None),
        (np.array([1.0, np.nan]), None),
        (np.ones(3), np.ones(2)),
        (np.ones(2), np.array([1.0, 0.0])),
        (np.ones((2, 0)), None),
        (np.ones((2, 2, 2)), None),
        (np.ones((1, 3)), None),
    ],
)
def test_bootstrap_refuses(values, weights):
    with pytest.raises((ValueError, TypeError)):  # TypeError where type hints are checked
        bootstrap_interval(values, weights, seed=0)
