"""Confidence intervals over people and seeds.

The error of person p under the network of seed s is modelled as a mean and three independent random effects:

    error(p, s) = mean + person(p) + seed(s) + interaction(p, s)

A person's error is the weighted mean over that person's takes, since takes and views of one person are not independent
evidence about people. All networks are tested on the same people, so people and seeds are crossed, and the variance of
the overall mean is estimated by a two-way analysis of variance: the variance of the people's means, plus that of the
seeds' means, minus the interaction, which both contain. The interval is Student's t with Satterthwaite's degrees of
freedom: close to the number of people − 1 where people differ most, as they usually do, and close to the number of
seeds − 1 where seeds do. Seeds whose means differ by no more than the interaction explains add no variance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import stdtrit


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; nan if nothing was repeated.

    over: what was sampled, and so what the interval generalises to:

    - "8 people, 3 seeds": other trainings, tested on other people.
    - "8 people, these networks": the same networks, tested on other people. How much trainings differ is unknown.
    - "12 takes of one person, 3 seeds": other trainings, tested on other takes of this person.
    - "these people, 3 seeds": other trainings, tested on the same takes.
    - "": nothing.

    Of a difference between sides with several seeds: "3 and 5 seeds", or "3 and 1 seeds" if one side has a single one.

    degrees: degrees of freedom, nan if there is no interval.
    """

    value: float
    low: float
    high: float
    over: str
    degrees: float


def equal_people(people: Sequence, weights: Float[np.ndarray, "takes"] | None = None) -> Float[np.ndarray, "takes"]:
    """Weights of takes by which every person counts the same, and each person's takes by `weights`, by default 1.

    The weighted mean then estimates the error on a new person. With frames as weights it does so only if how much of a
    person was recorded is independent of that person's error.
    """
    _, person = np.unique(np.asarray(people), return_inverse=True)
    weights = np.ones(len(person)) if weights is None else np.asarray(weights, dtype=np.float64)
    return weights / np.bincount(person, weights)[person]


def mean_interval(
    values: Float[np.ndarray, "takes seeds"],
    people: Sequence,
    weights: Float[np.ndarray, "takes"] | None = None,
    *,
    these_people: bool = False,
    level: float = 0.95,
) -> Interval:
    """The weighted mean over takes, averaged over seeds, with its confidence interval.

    values: one number per take and seed; average the views of a take first. people: the person of each take. weights:
    positive, by default 1; frames, or see `equal_people`. these_people: the people are the whole population, as in a
    benchmark, and the interval is over seeds alone. With a single person, that person's takes play the part of people.
    Raises ValueError if shapes do not match or are empty, if a value is not finite, or if a weight is not positive.
    """
    return _interval([values], people, weights, these_people, level)


def difference_interval(
    values: Float[np.ndarray, "takes seeds"],
    others: Float[np.ndarray, "takes others"],
    people: Sequence,
    weights: Float[np.ndarray, "takes"] | None = None,
    *,
    paired: bool,
    these_people: bool = False,
    level: float = 0.95,
) -> Interval:
    """The mean of `values` minus the mean of `others` on the same takes, with its interval; see `mean_interval`.

    People are always paired: a person who is difficult for both sides adds no variance. paired: seeds are paired too,
    column by column, as when one network is tested in two ways or two trainings start from the same network. Separate
    trainings are not paired, even if their seeds have the same numbers: the variances of the two sides add up, with
    more degrees of freedom. Unpaired sides may have different numbers of seeds. A side with one seed adds no variance
    between seeds: right for a reference that involves no randomness; for a network, the interval is then about that
    one training.
    """
    if paired:
        if np.shape(values) != np.shape(others):
            raise ValueError(f"paired values must have one shape, found {np.shape(values)} and {np.shape(others)}")
        return _interval([np.subtract(values, others)], people, weights, these_people, level)
    return _interval([values, others], people, weights, these_people, level)


def _interval(sides: list[np.ndarray], people, weights, these_people: bool, level: float) -> Interval:
    """Of the mean of the first side, minus that of the second if there is one."""
    sides, people, weights = _checked(sides, people, weights)
    _, person = np.unique(people, return_inverse=True)
    clusters = "people"
    if person.max() == 0:
        person, clusters = np.arange(len(people)), "takes of one person"
    count = int(person.max()) + 1
    share = np.bincount(person, weights) / weights.sum()  # of each person in the mean
    of_take = np.zeros((count, len(people)))  # share of each take in its person's mean
    of_take[person, np.arange(len(people))] = weights / np.bincount(person, weights)[person]

    means = [of_take @ side for side in sides]  # (people, seeds)
    by_seed = [share @ side for side in means]
    value = float(by_seed[0].mean() - sum(side.mean() for side in by_seed[1:]))

    # The variance of `value`, and Satterthwaite's sum: the square of each estimate over its degrees of freedom.
    variance, squares, least = 0.0, 0.0, []
    spread, tested, trained = 0.0, "these people", "these networks"
    if count > 1 and not these_people:
        spread = (share**2).sum()  # 1 / count if all count the same
        by_person = means[0].mean(axis=1) - sum(side.mean(axis=1) for side in means[1:])
        variance = spread * by_person.var(ddof=1)
        squares = variance**2 / (count - 1)
        tested = f"{count} {clusters}"
        least.append(count - 1)
    for side, own in zip(means, by_seed, strict=True):
        if len(own) > 1:
            of_seeds, shared = own.var(ddof=1) / len(own), spread and spread * _interaction(side)
            if of_seeds > shared:
                variance += of_seeds - shared
                squares += (of_seeds**2 + shared**2 / max(count - 1, 1)) / (len(own) - 1)
            least.append(len(own) - 1)
    if not least:
        return Interval(value, np.nan, np.nan, "", np.nan)
    if any(len(own) > 1 for own in by_seed):
        trained = f"{' and '.join(dict.fromkeys(str(len(own)) for own in by_seed))} seeds"
    degrees = float(max(min(least), variance**2 / squares if squares else 0))
    half = float(stdtrit(degrees, (1 + level) / 2) * np.sqrt(variance))
    return Interval(value, value - half, value + half, f"{tested}, {trained}", degrees)


def _interaction(means: Float[np.ndarray, "people seeds"]) -> float:
    """What the interaction adds to the variance of one person's mean over seeds."""
    people, seeds = means.shape
    rest = means - means.mean(axis=1, keepdims=True) - means.mean(axis=0) + means.mean()
    return float((rest**2).sum() / ((people - 1) * (seeds - 1) * seeds))


def _checked(sides: list, people, weights) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    sides, people = [np.asarray(side, dtype=np.float64) for side in sides], np.asarray(people)
    weights = np.ones(len(people)) if weights is None else np.asarray(weights, dtype=np.float64)
    takes = (len(people),)
    if any(side.ndim != 2 or side.shape[:1] != takes or not side.size for side in sides) or weights.shape != takes:
        found = " and ".join(str(side.shape) for side in sides)
        raise ValueError(
            "expected values of shape (takes, seeds), and a person and a weight for each take, found values of shape "
            f"{found}, {len(people)} people and weights of shape {weights.shape}"
        )
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("expected finite values, found nan or infinity")
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError(f"expected finite, positive weights, found {weights.min()} to {weights.max()}")
    return sides, people, weights
