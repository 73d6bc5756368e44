"""Confidence intervals against textbook ones, a case worked by hand, and the coverage of simulated studies."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from mixste.study.uncertainty import difference_interval, equal_people, mean_interval


def ends(interval):
    return interval.low, interval.high


@pytest.fixture
def study():
    """Takes of 6 people by 3 seeds, and the person of each take."""
    rng = np.random.default_rng(0)
    people = np.repeat(list("abcdef"), [3, 1, 5, 2, 2, 4])
    return rng.normal(40, 10, 6).repeat([3, 1, 5, 2, 2, 4])[:, None] + rng.normal(0, 4, (17, 3)), people


def test_two_people_and_two_seeds_by_hand():
    """People differ by 6, seeds by 4, and what is left is ±1. Of the mean, 5, the variance is 9 + 4 - 1: of people's
    means 18 / 2, of seeds' means 8 / 2, and of the interaction, 4 with 1 degree of freedom, 4 / (2 · 2)."""
    interval = mean_interval(np.array([[1.0, 3.0], [5.0, 11.0]]), ["a", "b"])
    degrees = 12**2 / (9**2 + 4**2 + 1**2)
    assert interval.value == 5
    assert interval.degrees == pytest.approx(degrees)
    assert interval.over == "2 people, 2 seeds"
    half = stats.t.ppf(0.975, degrees) * 12**0.5
    assert ends(interval) == pytest.approx((5 - half, 5 + half))


def test_seeds_that_differ_less_than_by_the_interaction_add_nothing():
    """Seeds' means are 4 and 4, though each seed is 2 better on one person: the t interval of people's 3 and 5."""
    interval = mean_interval(np.array([[2.0, 4.0], [6.0, 4.0]]), ["a", "b"])
    assert (interval.value, interval.degrees) == (4, 1)
    assert ends(interval) == pytest.approx((4 - stats.t.ppf(0.975, 1), 4 + stats.t.ppf(0.975, 1)))


def test_people_who_are_alike_leave_the_seeds():
    """All people as the first of two: seeds alone vary, 1 and 3."""
    interval = mean_interval(np.array([[1.0, 3.0]] * 4), list("abcd"))
    assert (interval.value, interval.degrees) == (2, 1)
    assert ends(interval) == pytest.approx((2 - stats.t.ppf(0.975, 1), 2 + stats.t.ppf(0.975, 1)))


def test_one_seed_is_a_t_interval_over_people(study):
    values, people = study
    means = [values[people == person, 0].mean() for person in "abcdef"]
    expected = stats.ttest_1samp(means, 0).confidence_interval(0.9)
    interval = mean_interval(values[:, :1], people, equal_people(people), level=0.9)
    assert interval.value == pytest.approx(np.mean(means))
    assert ends(interval) == pytest.approx(tuple(expected))
    assert (interval.over, interval.degrees) == ("6 people, these networks", 5)


def test_paired_difference_is_the_paired_t_test(study):
    values, people = study
    a, b = ([values[people == person, seed].mean() for person in "abcdef"] for seed in (0, 1))
    expected = tuple(stats.ttest_rel(a, b).confidence_interval(0.95))
    for paired in (True, False):
        weights = equal_people(people)
        interval = difference_interval(values[:, :1], values[:, 1:2], people, weights, paired=paired)
        assert ends(interval) == pytest.approx(expected)
        assert interval.over == "6 people, these networks"


def test_these_people_leave_the_t_tests_over_seeds(study):
    values, people = study
    by_seed = values.mean(axis=0)
    interval = mean_interval(values, people, these_people=True)
    assert ends(interval) == pytest.approx(tuple(stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)))
    assert (interval.over, interval.degrees) == ("these people, 3 seeds", 2)
    others = np.random.default_rng(1).normal(45, 3, (17, 5))
    welch = stats.ttest_ind(by_seed, others.mean(axis=0), equal_var=False)
    interval = difference_interval(values, others, people, paired=False, these_people=True)
    assert interval.value == pytest.approx(by_seed.mean() - others.mean())
    assert ends(interval) == pytest.approx(tuple(welch.confidence_interval(0.95)))
    assert interval.over == "these people, 3 and 5 seeds"


def test_one_person_or_one_take(study):
    """With a single person takes take their place; a single take leaves the seeds, and a single number nothing."""
    values, people = study
    of_takes = mean_interval(values[:3], people[:3])
    assert of_takes.over == "3 takes of one person, 3 seeds"
    assert ends(of_takes) == ends(mean_interval(values[:3], ["a", "b", "c"]))
    assert mean_interval(values[:3, :1], people[:3]).over == "3 takes of one person, these networks"
    assert mean_interval(values[:1], people[:1]).over == "these people, 3 seeds"
    for alone in (
        mean_interval(values[:1, :1], people[:1]),
        mean_interval(values[:, :1], people, these_people=True),
        difference_interval(values[:1, :1], values[:1, 1:2], people[:1], paired=False),
    ):
        assert alone.over == ""
        assert np.isfinite(alone.value)
        assert np.isnan([alone.low, alone.high, alone.degrees]).all()


def test_more_takes_or_views_of_the_same_people_are_no_evidence(study):
    values, people = study
    frames = np.random.default_rng(2).uniform(50, 500, len(people))
    once = mean_interval(values, people, frames)
    views = mean_interval(np.tile(values, (4, 1)), np.tile(people, 4), np.tile(frames, 4))
    assert [views.value, *ends(views)] == pytest.approx([once.value, *ends(once)])
    of_people = mean_interval(np.tile(values, (4, 1)), [*people, *people + "2", *people + "3", *people + "4"])
    assert of_people.high - of_people.low < 0.6 * (once.high - once.low)


def test_units_and_order_do_not_matter(study):
    values, people = study
    frames = np.random.default_rng(2).uniform(50, 500, len(people))
    one = mean_interval(values, people, frames)
    assert one.value == pytest.approx(np.average(values.mean(axis=1), weights=frames))
    order = np.random.default_rng(3).permutation(len(people))
    other = mean_interval(2 - 10 * values[order][:, [2, 0, 1]], people[order], 7 * frames[order])
    expected = [2 - 10 * x for x in (one.value, one.high, one.low)]
    assert [other.value, *ends(other)] == pytest.approx(expected)
    assert other.degrees == pytest.approx(one.degrees)
    alike = mean_interval(np.full_like(values, 7.3), people)
    assert [alike.value, *ends(alike)] == pytest.approx([7.3] * 3)


def test_people_count_the_same_whatever_their_frames():
    weights = equal_people(["a", "b", "a"], np.array([1.0, 50.0, 3.0]))
    assert weights.tolist() == [0.25, 1, 0.75]
    assert mean_interval(np.array([[4.0], [10.0], [8.0]]), ["a", "b", "a"], weights).value == (7 + 10) / 2
    assert equal_people([3, 3]).tolist() == [0.5, 0.5]


def test_separate_trainings_give_more_degrees_of_freedom(study):
    """Three seeds per side have 2 degrees of freedom if paired, and up to 4 if not."""
    people = study[1]
    ours, theirs = (np.tile(seeds, (len(people), 1)) for seeds in ([40.0, 41.0, 42.0], [45.0, 46.0, 44.0]))
    paired, separate = (difference_interval(ours, theirs, people, paired=paired) for paired in (True, False))
    assert (paired.value, paired.degrees) == pytest.approx((-4, 2))
    assert (separate.value, separate.degrees) == pytest.approx((-4, 4))


def test_a_reference_without_seeds_is_compared_with_all_seeds(study):
    """It adds nothing but its own values: the same as if each seed had its difference to it."""
    values, people = study
    reference = np.random.default_rng(1).normal(60, 10, (17, 1))
    interval = difference_interval(values, reference, people, paired=False)
    expected = mean_interval(values - reference, people)
    assert [interval.value, *ends(interval)] == pytest.approx([expected.value, *ends(expected)])
    assert interval.over == "6 people, 3 and 1 seeds"


# --- coverage --------------------------------------------------------------------------------------------------

STUDIES = 2000


@dataclass
class Simulation:
    """Standard deviations in mm; the true mean is 40. skewed: people are log-normal, and seeds differ more on those
    who are difficult. method: how much more difficult a person is for one side. sizes: of the logarithm of how much of
    a person is recorded."""

    people: int = 8
    seeds: int = 3
    person: float = 10.0
    seed: float = 0.8
    interaction: float = 2.0
    take: float = 10.0
    skewed: bool = False
    method: float = 0.0
    sizes: float = 0.4

    def draw(self, rng, sides: int = 1):
        """Values of (takes, seeds) of as many networks on the same people, which are equal in the mean; people; frames.

        What a person, a take and a frame count are is common to all sides.
        """
        takes = rng.integers(2, 15, self.people)
        people = np.repeat(np.arange(self.people), takes)
        frames = np.exp(rng.normal(0, self.sizes, self.people))[people] * rng.uniform(0.3, 1.7, len(people))
        log = np.log1p((self.person / 40) ** 2)
        person = rng.normal(0, self.person, self.people)
        if self.skewed:
            person = 40 * np.exp(rng.normal(-log / 2, log**0.5, self.people)) - 40
        scale = (1 + person / 40)[:, None] if self.skewed else 1
        common = (40 + person)[people] + rng.normal(0, self.take, len(people))
        values = []
        for _ in range(sides):
            own = rng.normal(0, self.method, (self.people, 1))
            own = (own + rng.normal(0, self.interaction, (self.people, self.seeds))) * scale
            noise = rng.normal(0, self.take / 4, (len(people), self.seeds))
            values.append(common[:, None] + own[people] + noise + rng.normal(0, self.seed, self.seeds))
        return *values, people, frames


def coverage(intervals, truth=40.0) -> float:
    """Percent."""
    return 100 * np.mean([interval.low <= truth <= interval.high for interval in intervals])


def width(intervals) -> float:
    return np.median([interval.high - interval.low for interval in intervals])


TYPICAL = Simulation()
SKEWED = Simulation(person=15, seed=1.5, interaction=3, take=12, skewed=True)


@pytest.mark.parametrize(
    "simulation",
    [
        TYPICAL,
        SKEWED,
        Simulation(person=8, seed=0.3, interaction=1, take=6, skewed=True),
        Simulation(person=1, seed=1.5, interaction=0.5, take=2),
    ],
    ids=["typical", "skewed", "small", "seeds-differ-most"],
)
def test_coverage_of_three_seeds_and_eight_people(simulation):
    rng = np.random.default_rng(24)
    by_person, by_frames = [], []
    for _ in range(STUDIES):
        values, people, frames = simulation.draw(rng)
        by_person.append(mean_interval(values, people, equal_people(people, frames)))
        by_frames.append(mean_interval(values, people, frames))
    assert 92 <= coverage(by_person) <= 97
    assert 92 <= coverage(by_frames) <= 97


def test_very_uneven_people_make_the_interval_too_wide_rather_than_too_narrow():
    """Weighted by frames, where one person may have a hundred times the frames of another."""
    rng = np.random.default_rng(24)
    simulation = Simulation(sizes=1.2)
    assert 95 <= coverage(mean_interval(*simulation.draw(rng)) for _ in range(STUDIES)) <= 99


def test_coverage_of_differences():
    """People differ by 15 mm, and by 4 mm in how much they favour one method: the difference is known far better."""
    rng = np.random.default_rng(24)
    paired, separate, alone = [], [], []
    simulation = replace(SKEWED, method=3.0)
    for _ in range(STUDIES):
        ours, theirs, people, frames = simulation.draw(rng, sides=2)
        weights = equal_people(people, frames)
        paired.append(difference_interval(ours, theirs, people, weights, paired=True))
        separate.append(difference_interval(ours, theirs, people, weights, paired=False))
        alone.append(mean_interval(ours, people, weights))
    assert 92 <= coverage(paired, 0.0) <= 97
    assert 92 <= coverage(separate, 0.0) <= 97
    assert max(width(paired), width(separate)) < width(alone) / 1.7


@pytest.mark.parametrize(("people", "seeds"), [(5, 1), (5, 3), (8, 5), (20, 3)])
def test_coverage_of_other_sizes(people, seeds):
    """With one seed the interval is about that one network: the truth includes the effect of its seed."""
    rng = np.random.default_rng(24)
    simulation = Simulation(people=people, seeds=seeds, seed=0.8 if seeds > 1 else 0.0)
    intervals = []
    for _ in range(STUDIES):
        values, labels, frames = simulation.draw(rng)
        intervals.append(mean_interval(values, labels, equal_people(labels, frames)))
    assert 92 <= coverage(intervals) <= 97


def test_coverage_over_the_trainings_on_these_people():
    """The truth is then the mean over all possible seeds on the same takes, which differs from study to study."""
    rng = np.random.default_rng(24)
    covered = 0
    for _ in range(STUDIES):
        people, take, frames = np.arange(20) // 4, rng.normal(40, 15, 20), rng.uniform(50, 500, 20)
        values = take[:, None] + rng.normal(0, 1, 3) + rng.normal(0, 3, (20, 3))
        interval = mean_interval(values, people, frames, these_people=True)
        covered += interval.low <= np.average(take, weights=frames) <= interval.high
    assert 92 <= 100 * covered / STUDIES <= 97


@pytest.mark.parametrize(
    ("values", "people", "weights", "message"),
    [
        (np.ones((2, 1)), ["a"], None, "found values of shape (2, 1), 1 people"),
        (np.ones((0, 1)), [], None, "found values of shape (0, 1)"),
        (np.ones((2, 0)), ["a", "b"], None, "found values of shape (2, 0)"),
        (np.array([[1.0], [np.nan]]), ["a", "b"], None, "expected finite values"),
        (np.ones((2, 1)), ["a", "b"], np.array([1.0, 0.0]), "expected finite, positive weights"),
        (np.ones((2, 1)), ["a", "b"], np.ones(3), "weights of shape (3,)"),
    ],
)
def test_refusals(values, people, weights, message):
    with pytest.raises((ValueError, TypeError)) as error:  # TypeError where type hints are checked
        mean_interval(values, people, weights)
    assert message in str(error.value) or not isinstance(error.value, ValueError)


def test_paired_seeds_must_match():
    with pytest.raises(ValueError, match="paired values must have one shape"):
        difference_interval(np.ones((2, 3)), np.ones((2, 2)), ["a", "b"], paired=True)
