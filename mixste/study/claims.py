"""The paper's claims, and the rule by which each is judged.

A claim says that one method is better, or worse, than another. Its effect is the difference, counted positive on the
side that the paper claims. Two one-sided tests are made of it, by the t distribution of its interval over people and
seeds (`mixste.study.uncertainty`):

- that there is no effect. If it is rejected, and the effect measured is at least the smallest that matters
  (`SMALLEST`), the claim *holds*.
- that the effect is at least the smallest that matters. If it is rejected, the claim *does not hold*.

If neither is rejected, the claim is *not tested*: its effect is too small for so many people and seeds. It is not
tested either where the trainings are missing or cannot show it; the verdict then gives the reason.

Each of the two kinds of test is corrected for the number of claims by Holm's method, at 2.5 %: the chance that any
verdict at all is wrong is at most 5 %, whatever the dependence between claims, which share trainings. Benjamini and
Hochberg's method would only limit the share of wrong verdicts, and each verdict is read and quoted by itself.

A claim with several differences, such as "on every action", holds if all of its tests for no effect are rejected, and
does not hold if one of the tests of the other kind is, after Bonferroni's correction for their number.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import stdtr, stdtrit

from mixste.study import methods, records, report, tidy
from mixste.study.profiles import PAPER_POSES, Profile
from mixste.study.records import Record
from mixste.study.tables import CONSTANT, TABLES, Row
from mixste.study.uncertainty import Interval

LEVEL = 0.025  # of each kind of test
HOLDS, FAILS = "holds", "does not hold"

# By unit, the smallest effect that matters, and why: what the paper itself presents as an improvement. None of them
# depends on our results.
SMALLEST = {
    "mm": (
        0.4,
        "the smallest difference of MPJPE that the paper presents as an improvement (Table 6): 1 % of 40.9",
    ),
    "%": (1.0, "0.4 of the paper's 40.9 mm"),
    "mm/frame": (0.5, "the smallest difference of MPJVE that the paper presents as an improvement (Table 1)"),
    "points": (0.2, "percentage points: the smallest difference of PCK that the paper presents (Table 3)"),
    "mm²": (2.0, "of VAR.: 0.4 mm in the standard deviation of the joints' errors, where that is 25 mm"),
}
# Trainings shorter than this share of the paper's say nothing about the order of its methods: with AdamW, MixSTE was
# worse than its peers after 0.8 % of it, and better after 6.4 % (an earlier version of profile `open`, 17_limits).
SHORTEST = 0.01


@dataclass(frozen=True)
class Claim:
    """One claim: that `row` differs from `against` in `metric`, by the number printed.

    where: in the paper. claim: in words, unique. printed: row − against, in `unit`; "%" is relative to the row compared
    with. table, row, against: keys, see `mixste.study.tables`.
    """

    where: str
    claim: str
    printed: float
    unit: str
    table: str
    row: str
    against: str
    metric: str

    def rows(self, profile: Profile) -> tuple[Row, Row]:
        """(row, row compared with)."""
        table = TABLES[self.table]
        return table.row(profile, self.row), table.row(profile, self.against)


@dataclass(frozen=True)
class Evidence:
    """What was measured on a claim.

    where, claim: see `Claim`. side: 1 or -1, the sign of the differences that the paper claims. unit: of the
    differences. differences: by name, those that the claim is about; "" is the name of a single one. reason: why
    nothing follows from them, or why there are none. failed: the seeds that are left where some failed, "2 of 3 seeds
    of MixSTE". about: other columns of a tidy table.
    """

    where: str
    claim: str
    side: float
    unit: str
    differences: dict[str, Interval] = field(default_factory=dict)
    reason: str = ""
    failed: str = ""
    about: dict[str, object] = field(default_factory=dict)

    @property
    def effects(self) -> Float[np.ndarray, "differences"]:
        """The differences, counted positive on the claimed side."""
        return self.side * np.array([one.value for one in self.differences.values()])

    def least(self) -> tuple[str, Interval]:
        """(name, interval) of the difference that supports the claim least: of the largest p value, then effect."""
        return list(self.differences.items())[np.lexsort((self.effects, -self._p(0.0)))[0]]

    def against(self) -> tuple[str, Interval]:
        """(name, interval) of the difference that is the strongest evidence that the effect is below the smallest."""
        return list(self.differences.items())[int(self._p(SMALLEST[self.unit][0]).argmax())]

    def p_values(self) -> tuple[float, float]:
        """Of the two tests, one-sided: (no effect, an effect of at least the smallest that matters)."""
        above = 1 - self._p(SMALLEST[self.unit][0])
        return float(self._p(0.0).max()), float(min(1, len(above) * above.min()))

    def _p(self, effect: float) -> Float[np.ndarray, "differences"]:
        """Of each difference, the p value of the test that its effect is at most `effect`."""
        halves = np.array([(one.high - one.low) / 2 for one in self.differences.values()])
        degrees = np.array([one.degrees for one in self.differences.values()])
        with np.errstate(divide="ignore", invalid="ignore"):  # without any spread, t is infinite, or 0 / 0
            t = (self.effects - effect) / (halves / stdtrit(degrees, 0.975))
        return np.where(np.isnan(t), 0.5, stdtr(degrees, -t))


def claims() -> list[Claim]:
    """Those that compare two rows of a table, in the paper's order."""
    table = pd.read_csv(Path(__file__).with_name("claims.csv"), dtype=str)
    return [Claim(**line | {"printed": float(line["printed"])}) for line in table.to_dict("records")]


def holm(p: Sequence[float]) -> Float[np.ndarray, "tests"]:
    """Holm's adjusted p values: rejecting those up to a level keeps the chance of any wrong rejection at most at it."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return adjusted


def verdict(evidence: Evidence, none: float, matters: float, claims: int = 1) -> str:
    """The verdict, with its reason unless the claim holds.

    none, matters: p values of the two tests of `Evidence.p_values`, adjusted for the number of claims tested.
    """
    if evidence.reason:
        return f"{tidy.NOT_TESTED}: {evidence.reason}"
    from_seeds = f", from {evidence.failed}" if evidence.failed else ""
    if decision := _decision(evidence, none, matters):
        return decision + from_seeds
    alone = _decision(evidence, *evidence.p_values())  # the verdict if there were no other claims
    also = f" and {claims} claims" if alone else ""
    _, least = evidence.least()
    effect = "effect" if evidence.side * least.value > 0 else "opposite effect"
    return f"{tidy.NOT_TESTED}: too small an {effect} for {least.over}{also}{from_seeds}"


def _decision(evidence: Evidence, none: float, matters: float) -> str:
    """The verdict by these p values; empty if neither test is rejected."""
    smallest = SMALLEST[evidence.unit][0]
    if none <= LEVEL and evidence.effects.min() >= smallest:
        return HOLDS
    if matters > LEVEL:
        return ""
    _, against = evidence.against()
    opposite = max(evidence.side * against.low, evidence.side * against.high) < 0
    return f"{FAILS}: {'the opposite' if opposite else f'less than {smallest:g} {evidence.unit}'}"


def judge(evidence: Sequence[Evidence]) -> list[dict[str, object]]:
    """A verdict on each claim, corrected for the number of all.

    Each as a line of a tidy table: the difference that supports the claim least, or, if it does not hold, the one that
    decides this; with the verdict as note, which names the difference if there are several. The name has no column,
    since which one it is depends on last digits. Also where, claim and side (see `Evidence`), the smallest effect that
    matters, and p (Holm's, of the test for no effect; nan where it was not made). Claims that are not tested yet count
    with a p value of 1, so that testing them later can add verdicts on others, but never take one back.
    """
    pairs = np.array([(1.0, 1.0) if one.reason else one.p_values() for one in evidence])
    lines = []
    for number, (one, *p) in enumerate(zip(evidence, *map(holm, pairs.T), strict=True), 1):
        line = {"row": f"{number}. {one.claim}", "where": one.where, "claim": one.claim, "unit": one.unit}
        line |= {"side": one.side, "smallest": SMALLEST[one.unit][0], "printed": np.nan}
        note = verdict(one, *p, len(evidence))
        if one.differences:
            name, interval = one.against() if note.startswith(FAILS) else one.least()
            line |= asdict(interval)
            note += f" ({name})" if name else ""
        line |= {"p": np.nan if one.reason else p[0], "note": note}
        lines.append(line | one.about)
    return lines


def of_tables(claim: Claim, profile: Profile) -> Evidence:
    """The difference of the claim's two rows on the same takes, in its unit."""
    table = replace(TABLES[claim.table], metrics=(claim.metric,), averages_only=True)
    row, base = claim.rows(profile)
    rows = [replace(base, against=""), replace(row, against=base.key), table.row(profile, CONSTANT)]
    values = report.measure(table, profile, rows, partial=True)
    about = {"against": base.label, "metric": claim.metric, "printed": claim.printed}
    about |= {"protocol": values["protocol"].iloc[0]}
    reason, failed = untested((row, base), claim.table, profile)
    differences, values = {}, values.set_index(["row", "against"])
    if (row.label, base.label) in values.index:
        difference = values.loc[(row.label, base.label)]
        factor = 100 / values.loc[(base.label, ""), "value"] if claim.unit == "%" else 1.0
        ends = (factor * difference[["value", "low", "high"]]).astype(float)
        differences[""] = Interval(*ends, difference["over"], float(difference["degrees"]))
        about |= difference[["runs", "seeds"]].to_dict()
        faults = (report.SEEDS_DIVERGE, report.AT_LEVEL)
        reason = reason or next((fault for fault in faults if fault in difference["note"]), "")
        reason = reason or unsettled(row, base, claim.metric, difference["value"], profile)
    return Evidence(claim.where, claim.claim, np.sign(claim.printed), claim.unit, differences, reason, failed, about)


def untested(rows: Sequence[Row], table: str, profile: Profile) -> tuple[str, str]:
    """(why the trainings of these rows say nothing about a claim, the seeds that are left where some failed).

    Both are empty where all is well. table: the key of the rows' table. A claim is judged once, when all trainings that
    the profile plans have ended, and not again whenever a seed is added.
    """
    networks = {one.runs[0].frames: one.runs[0].model for one in rows}  # by T
    long, planned = profile.frames.get(profile.long_clips), profile.of_table(table).poses
    if len(networks) > 1 and len(set(networks.values())) == 1 and long is not None and max(networks) > long:
        return f"clips too short for T = {max(networks)}", ""
    if planned < SHORTEST * PAPER_POSES:
        return f"too short, {100 * planned / PAPER_POSES:.2g} % of the paper's training", ""
    kept = records.find([run for one in rows for run in one.runs], profile.name)
    ended = [[kept[run] for run in one.runs if run in kept] for one in rows]
    if not all(ended):
        return "not trained yet", ""
    for one, own in zip(rows, ended, strict=True):
        if len(own) < len(one.runs):
            return f"too few runs so far, {len(own)} of {len(one.runs)} seeds of {one.short}", ""
    sound = [sum(not record.failed for record in own) for own in ended]
    for one, seeds in zip(rows, sound, strict=True):
        if seeds < 2:
            few = f"too few runs, one seed of {one.short}"
            return few if seeds else f"all trainings of {one.short} failed", ""
    pairs = zip(rows, sound, strict=True)
    return "", ", ".join(f"{n} of {len(one.runs)} seeds of {one.short}" for one, n in pairs if n < len(one.runs))


def unsettled(row: Row, base: Row, metric: str, difference: float, profile: Profile) -> str:
    """The reason if the order of two networks is another after the longest trainings of table `curves`; else empty.

    difference: at the length of the profile. Empty too if one of the networks is not in that table, or has not been
    trained that long yet.
    """
    curves, longest = TABLES["curves"], max(profile.curves)
    of_length = {one.key: one for one in curves.rows(profile)}
    key_of = {one.runs[0]: key.removesuffix("-1") for key, one in of_length.items() if key.endswith("-1")}
    keys = [next((key_of[run] for run in one.runs if run in key_of), "") for one in (row, base)]
    if longest <= 1 or not all(keys):
        return ""
    ours, theirs = (of_length[f"{key}-{Fraction(longest).limit_denominator(100)}"] for key in keys)
    rows = [replace(theirs, against=""), replace(ours, against=theirs.key)]
    values = report.measure(replace(curves, metrics=(metric,), averages_only=True), profile, rows, partial=True)
    later = values.loc[values["against"] != "", "value"]
    if later.empty or np.sign(later.item()) == np.sign(difference):
        return ""
    return f"too short, the order changes at {longest:g} times the length"


def of_figures(profile: Profile) -> list[Evidence]:
    """The claims on Figures 3 and 4, and on the actions of Table 1, for which the paper prints no difference."""
    table = TABLES["table1"]
    rows = {name: table.row(profile, key) for name, key in methods.METHODS.items()}
    done = methods.sound(table, profile)

    def against(*peers: str, of: Callable[[list[Record]], pd.DataFrame]) -> dict[str, Interval]:
        """MixSTE minus each of the peers, or MixSTE's own if there are none, of values by take and seed."""
        values, frames = {name: of(done[name]) for name in ("MixSTE", *peers)}, done["MixSTE"][0].frames
        others = {f"against {name}": values[name] for name in peers} or {"": None}
        return {name: _interval(report.summary(values["MixSTE"], frames, profile, one)) for name, one in others.items()}

    def mean(value: Callable[[Record], pd.Series]) -> Callable[[list[Record]], pd.DataFrame]:
        return lambda own: methods.by_seed(own, value)

    def joints(*peers: str) -> dict[str, Interval]:
        """Of each category but the root, which is 0 in the targets: its error says nothing of a pose."""
        differences = {}
        for name, members in groups.items():
            if done["MixSTE"][0].layout.root in members:
                continue
            of_group = against(*peers, of=mean(lambda one, members=members: one.joints.iloc[:, members].mean(axis=1)))
            differences |= {f"{name} {peer}": interval for peer, interval in of_group.items()}
        return differences

    def limbs(record: Record) -> pd.Series:
        limb = np.array(["limb" in group for group in record.layout.groups])
        return record.joints.loc[:, limb].mean(axis=1) - record.joints.loc[:, ~limb].mean(axis=1)

    def actions(peer: str) -> dict[str, Interval]:
        of_actions = replace(profile, average="actions", groups={})
        pair = [replace(rows[peer], against=""), replace(rows["MixSTE"], against=rows[peer].key)]
        values = report.measure(replace(table, metrics=("MPJPE",)), of_actions, pair, partial=True)
        values = values[(values["against"] != "") & ~values["column"].isin(("Avg.", report.UNSEEN))]
        return {line["column"]: _interval(line) for line in values.to_dict("records")}

    groups = methods.categories(done["MixSTE"][0].layout) if done["MixSTE"] else {}
    both, one = ("PoseFormer", "VideoPose3D"), ("PoseFormer",)
    over_40, under_30 = mean(lambda record: 100 - record.shares(40)), mean(lambda record: record.shares(30))
    variance = partial(methods.variance_by_take, groups=list(groups.values()))
    claimed = (
        ("Figure 3", "poses over 40 mm: fewer than both peers", -1, "points", both, partial(against, of=over_40)),
        ("Figure 3", "poses under 30 mm: more than both peers", 1, "points", both, partial(against, of=under_30)),
        ("Figure 4", "best on every joint category", -1, "mm", both, joints),
        ("Figure 4", "VAR. below both peers'", -1, "mm²", both, partial(against, of=variance)),
        ("Figure 4", "limbs' error above the trunk's", 1, "mm", (), partial(against, of=mean(limbs))),
        ("4.3", "better than PoseFormer on every action", -1, "mm", one, actions),
    )
    faults = {}  # by the peers compared with
    for peers in {peers for *_, peers, _ in claimed}:
        names = ("MixSTE", *peers)
        reason, failed = untested([rows[name] for name in names], table.key, profile)
        if not reason and any(record.at_constant_level for name in names for record in done[name]):
            reason = report.AT_LEVEL
        faults[peers] = reason, failed
    evidence = []
    for where, claim, side, unit, peers, measured in claimed:
        names, (reason, failed) = ("MixSTE", *peers), faults[peers]
        differences = measured(*peers) if all(done[name] for name in names) else {}
        about = {"metric": "claim", "protocol": "exact", "runs": " ".join(one.id for n in names for one in done[n])}
        about |= {"seeds": min(len(done[name]) for name in names) if differences else 0}
        evidence.append(Evidence(where, claim, side, unit, differences, reason, failed, about))
    return evidence


def _interval(line: dict) -> Interval:
    """The interval in a line of a tidy table, or in what `report.summary` gives."""
    return Interval(*(line[name] for name in ("value", "low", "high", "over", "degrees")))
