"""The rule by which a claim is judged, on cases worked by hand."""

import dataclasses
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixste.skeleton import human36m
from mixste.study import claims, records, tidy
from mixste.study.profiles import PROFILES
from mixste.study.published import published
from mixste.study.tables import CONSTANT, TABLES, Row, Table
from mixste.study.uncertainty import Interval

OPEN = PROFILES["open"]
CLAIM = claims.Claim("4.3", "better", -20.0, "mm", "toy", "ours", "theirs", "MPJPE")


def tail(t: float) -> float:
    """P(T > t) with one degree of freedom, by the arctangent."""
    return 0.5 - math.atan(t) / math.pi


QUANTILE = math.tan(0.475 * math.pi)  # 12.7: the 97.5 % quantile with one degree of freedom


def interval(value: float, error: float, degrees: float = 1.0, over: str = "8 people, 3 seeds") -> Interval:
    """With this standard error."""
    half = (QUANTILE if degrees == 1 else stats.t.ppf(0.975, degrees)) * error
    return Interval(value, value - half, value + half, over, degrees)


def evidence(*values: tuple[float, float], side=-1.0, unit="mm", degrees=1.0, **options) -> claims.Evidence:
    """Of differences with these values and standard errors, named 0, 1, … if there are several."""
    names = [""] if len(values) == 1 else map(str, range(len(values)))
    differences = {name: interval(*value, degrees) for name, value in zip(names, values, strict=True)}
    return claims.Evidence("4.3", "better", side, unit, differences, **options)


def test_the_two_tests_of_a_claim_by_hand():
    """Of -3.4 mm where a lower error is claimed: 3.4 standard errors from none, and 3 from the 0.4 mm that matter."""
    none, matters = evidence((-3.4, 1.0)).p_values()
    assert none == pytest.approx(tail(3.4))
    assert matters == pytest.approx(1 - tail(3.0))
    none, matters = evidence((-3.4, 1.0), side=1.0).p_values()  # if a higher one is claimed
    assert (none, matters) == pytest.approx((1 - tail(3.4), tail(3.8)))
    assert evidence((2.4, 0.5), side=1.0).p_values()[0] == pytest.approx(tail(4.8)), "in standard errors"


def test_a_claim_about_several_differences_is_as_good_as_its_worst():
    """None of them may be chance for it to hold; for it not to, one must be wrong, which of three is likelier."""
    three = evidence((-9.6, 1.0), (-2.4, 1.0), (-4.4, 1.0))
    assert three.p_values() == pytest.approx((tail(2.4), min(1, 3 * (1 - tail(2.0)))))
    assert three.least() == ("1", interval(-2.4, 1.0))
    wrong = evidence((-9.6, 1.0), (59.6, 1.0), (-4.4, 1.0))
    assert wrong.p_values() == pytest.approx((1 - tail(59.6), 3 * tail(60.0)))


def test_the_verdict_names_the_worst_of_several_differences():
    [line] = claims.judge([evidence((-9.6, 0.01), (59.6, 0.01), (-4.4, 0.01))])
    assert (line["note"], line["value"]) == ("does not hold: the opposite (1)", 59.6)
    [line] = claims.judge([evidence((-9.6, 0.01), (-4.4, 0.01), (-59.6, 0.01))])
    assert (line["note"], line["value"]) == ("holds (1)", -4.4)


def test_a_claim_that_does_not_hold_is_shown_by_the_difference_that_decides_it():
    """Not by a wider one, whose interval includes effects that matter."""
    wide, narrow = interval(0.0, 2.0, degrees=10.0), interval(-0.2, 0.04, degrees=10.0)
    [line] = claims.judge([claims.Evidence("4.3", "better", -1.0, "mm", {"wide": wide, "narrow": narrow})])
    assert line["note"] == "does not hold: less than 0.4 mm (narrow)"
    assert (line["value"], line["low"], line["high"]) == (narrow.value, narrow.low, narrow.high)


def test_without_any_spread_a_difference_is_certain_and_none_is_no_evidence():
    assert evidence((-1.0, 0.0)).p_values() == (0, 1)
    assert evidence((1.0, 0.0)).p_values() == (1, 0)
    assert evidence((0.0, 0.0)).p_values() == (0.5, 0)


def test_without_an_interval_the_difference_that_supports_a_claim_least_is_the_least_favourable():
    assert evidence((-5.0, np.nan), (3.0, np.nan), (-1.0, np.nan)).least()[0] == "1"


def test_holms_correction_by_hand():
    """The smallest of four counts four times, the next three times, and none less than one before it."""
    assert claims.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert claims.holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert claims.holm([0.03]).tolist() == [0.03]
    assert claims.holm([0.01, 0.01]).tolist() == [0.02, 0.02]


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (-3.4, 0.2, "holds"),  # 17 standard errors from none: p is 0.019
        (-3.4, 0.3, "not tested: too small an effect for 8 people, 3 seeds"),  # 11 of them: 0.028
        (-0.3, 0.01, "not tested: too small an effect for 8 people, 3 seeds"),  # clear of zero, 10 from what matters
        (-0.3, 0.001, "does not hold: less than 0.4 mm"),  # clear of both
        (0.0, 0.01, "does not hold: less than 0.4 mm"),  # 40 standard errors from what matters
        (3.4, 0.2, "does not hold: the opposite"),
        (3.4, 1.0, "not tested: too small an opposite effect for 8 people, 3 seeds"),
    ],
)
def test_the_rule_by_hand(value, error, expected):
    one = evidence((value, error))
    assert claims.verdict(one, *one.p_values()) == expected


def test_a_verdict_is_corrected_for_the_number_of_claims():
    """p is 0.019 of one claim: of two, twice that, but of two that are both clear, the larger counts once."""
    one, clear = evidence((-3.4, 0.2)), evidence((-300.0, 0.2))
    nothing = evidence((-3.4, 30.0))
    assert [line["note"] for line in claims.judge([one])] == ["holds"]
    small = "not tested: too small an effect for 8 people, 3 seeds"
    assert [line["note"] for line in claims.judge([one, nothing])] == [f"{small} and 2 claims", small]
    both = claims.judge([one, clear])
    assert [line["note"] for line in both] == ["holds", "holds"]
    assert [line["p"] for line in both] == pytest.approx([tail(17), 2 * tail(1500)])


def test_claims_that_are_not_tested_yet_count_so_that_they_take_no_verdict_back():
    one, later = evidence((-3.4, 0.2)), claims.Evidence("4.3", "later", -1.0, "mm", reason="not trained yet")
    first, second = claims.judge([one, later])
    assert first["note"] == "not tested: too small an effect for 8 people, 3 seeds and 2 claims"
    assert (second["note"], second["printed"]) == ("not tested: not trained yet", pytest.approx(np.nan, nan_ok=True))
    assert "value" not in second
    assert np.isnan(second["p"])


@pytest.mark.parametrize("effect", [0.0, 0.4])
def test_the_chance_of_any_wrong_verdict_stays_below_five_percent(effect):
    """Ten claims about the same peer: with no effect none holds, and with one that matters none does not hold."""
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        errors = draw.normal(-effect, size=(10, 8)) + 0.5 * draw.normal(size=8)  # claims by people; the peer's
        judged = [evidence((one.mean(), one.std(ddof=1) / 8**0.5), degrees=7.0) for one in errors]
        wrong += any(line["note"].startswith("does not" if effect else "holds") for line in claims.judge(judged))
    assert wrong <= 20 + 3 * 20**0.5, "of 400; the tests are one-sided, so at most 10 are expected"


def test_a_verdict_gives_its_reason_and_says_of_how_many_seeds_it_is():
    faulty = evidence((-3.4, 0.0), reason="seeds diverge")
    assert claims.verdict(faulty, 0.0, 1.0) == "not tested: seeds diverge"
    some = evidence((-3.4, 0.0), failed="2 of 3 seeds of MixSTE")
    assert claims.verdict(some, 0.0, 1.0) == "holds, from 2 of 3 seeds of MixSTE"
    other = evidence((3.4, 0.0), failed="2 of 3 seeds of MixSTE")
    assert claims.verdict(other, 1.0, 0.0) == "does not hold: the opposite, from 2 of 3 seeds of MixSTE"


@pytest.mark.parametrize("name", PROFILES)
def test_every_claim_is_of_two_rows_and_of_numbers_that_the_paper_prints(name):
    """The difference of the two printed averages, or in % of the one compared with, nearly."""
    every = claims.claims()
    assert len(every) == 30
    for claim in every:
        row, against = claim.rows(PROFILES[name])
        assert row.key != against.key
        ours, theirs = (
            one.printed.query(f"metric == '{claim.metric}' and column == 'Avg.'")["value"].item()
            for one in (row, against)
        )
        difference = 100 * (ours - theirs) / theirs if claim.unit == "%" else ours - theirs
        assert difference == pytest.approx(claim.printed, abs=0.25), claim  # the abstract's 10.9 % are 10.68


@dataclass(frozen=True)
class Fake:
    """A run of one take of each person with these errors."""

    id: str
    seed: int
    errors: tuple[float, ...]
    frames: int = 81
    model: str = "mixste"
    start: None = None
    poses = 0

    @property
    def clips(self) -> pd.DataFrame:
        about = {
            "action": "walk",
            "take": "1",
            "camera": "a",
            "frames": 100,
            "metric": "MPJPE",
            "protocol": "exact",
            "unit": "mm",
        }
        return pd.DataFrame(
            [about | {"subject": f"S{person}", "value": value} for person, value in enumerate(self.errors)]
        )


def measured(monkeypatch, ours, theirs, claim=CLAIM, profile=OPEN) -> claims.Evidence:
    """The claim, that the first of two rows is better, of these runs; the constant pose errs by 100 mm."""

    def find(wanted, profile):
        """`records.find` of fakes, but for those that are missing."""
        why = {run: "the loss is nan" if run.id.startswith("failed") else "" for run in wanted}
        takes, none = {run: records.by_take(run.clips) for run in wanted}, pd.DataFrame(columns=records.COLUMNS)
        return {
            run: SimpleNamespace(id=run.id, spec=run, takes=takes[run], unseen_takes=none, failed=why[run])
            for run in wanted
            if not run.id.startswith("missing")
        }

    monkeypatch.setattr(records, "find", find)
    constant = (Fake("constant", 0, (100.0,) * len(ours[0].errors)),)
    rows = [Row("ours", ours, "Ours"), Row("theirs", theirs, "Theirs"), Row(CONSTANT, constant)]
    monkeypatch.setitem(TABLES, "toy", Table("toy", "99", "99_toy", "made up", lambda profile: rows))
    return claims.of_tables(claim, profile)


OURS = Fake("a", 0, (29.0, 49.0, 89.0)), Fake("b", 1, (31.0, 51.0, 91.0))
THEIRS = Fake("c", 0, (40.0, 60.0, 100.0)), Fake("d", 1, (40.0, 60.0, 100.0))


def test_a_claim_is_measured_by_the_difference_on_the_same_people_in_its_unit(monkeypatch):
    """It is -10 mm on each of three people, but for the seeds: ours are 1 mm below and above, theirs agree."""
    result = measured(monkeypatch, OURS, THEIRS)
    [difference] = result.differences.values()
    expected = interval(-10.0, 1.0, over="3 people, 2 seeds")
    assert dataclasses.astuple(difference) == pytest.approx(dataclasses.astuple(expected))
    assert (result.reason, result.failed, result.side, result.unit) == ("", "", -1, "mm")
    assert result.about["runs"] == "a b"
    [line] = claims.judge([result])
    assert line["note"] == "not tested: too small an effect for 3 people, 2 seeds", "10 standard errors: p is 0.032"
    assert (line["row"], line["against"], line["printed"]) == ("1. better", "Theirs", -20.0)
    assert line["value"] == pytest.approx(-10.0)
    relative = measured(monkeypatch, OURS, THEIRS, dataclasses.replace(CLAIM, unit="%"))
    assert relative.differences[""].value == pytest.approx(-15.0), "of 66.7 mm"
    alike = (OURS[0], dataclasses.replace(OURS[0], id="b", seed=1))
    assert [line["note"] for line in claims.judge([measured(monkeypatch, alike, THEIRS)])] == ["holds"]
    [other] = claims.judge([measured(monkeypatch, THEIRS, alike)])
    assert other["note"] == "does not hold: the opposite"


def named(name: str, seeds: int = 2) -> tuple[Fake, ...]:
    return tuple(Fake(f"{name}-{seed}", seed, (40.0, 60.0, 100.0)) for seed in range(seeds))


@pytest.mark.parametrize(
    ("theirs", "reason"),
    [
        (named("missing"), "not trained yet"),
        ((*named("c", 1), *named("missing")[1:]), "too few runs so far, 1 of 2 seeds of Theirs"),
        (named("c", 1), "too few runs, one seed of Theirs"),
        (named("failed"), "all trainings of Theirs failed"),
        ((*named("c", 1), *named("failed")[1:]), "too few runs, one seed of Theirs"),
        ((*named("c", 2), Fake("d", 2, (90.0, 90.0, 150.0))), "seeds diverge"),
        (tuple(Fake(f"c{seed}", seed, (99.0, 99.0, 99.0)) for seed in range(2)), "at the level of a constant pose"),
    ],
)
def test_nothing_is_said_of_a_claim_where_trainings_are_missing_or_went_wrong(monkeypatch, theirs, reason):
    result = measured(monkeypatch, OURS, theirs)
    assert result.reason == reason
    [line] = claims.judge([result])
    assert line["note"] == f"not tested: {reason}"
    tidy.validate(tidy.table([line], OPEN, "14"))


def test_what_no_training_of_the_profile_can_show_is_said_before_what_is_missing(monkeypatch):
    missing = named("missing")
    short = measured(monkeypatch, OURS, missing, profile=PROFILES["smoke"])
    assert short.reason == "too short, 0.014 % of the paper's training"
    longer = tuple(dataclasses.replace(run, frames=243) for run in missing)
    assert measured(monkeypatch, longer, OURS).reason == "clips too short for T = 243"
    other = tuple(dataclasses.replace(run, model="videopose3d") for run in longer)
    assert measured(monkeypatch, OURS, other).reason == "not trained yet", "the claim is not about T"
    assert measured(monkeypatch, longer, OURS, profile=PROFILES["open-styles"]).reason == "not trained yet"


@pytest.mark.parametrize(
    ("longer", "reason"),
    [
        (45.0, ""),  # ours is still the better one
        (5.0, "too short, the order changes at 3 times the length"),
        (None, ""),  # not trained yet
    ],
)
def test_a_claim_is_not_tested_if_longer_training_changes_the_order(monkeypatch, longer, reason):
    """Ours is better by 10 mm at the profile's length, and at three times that ends at 20, 40 and 80 mm."""
    theirs = Fake("missing" if longer is None else "later", 0, (longer or 0.0, longer or 0.0, longer or 0.0))
    lengths = [Row("ours-1", OURS[:1]), Row("theirs-1", THEIRS[:1]), Row("other-1", named("other"))]
    lengths += [Row("ours-3", (Fake("e", 0, (20.0, 40.0, 60.0)),)), Row("theirs-3", (theirs,))]
    table = dataclasses.replace(TABLES["curves"], rows=lambda profile: lengths)
    monkeypatch.setitem(TABLES, "curves", table)
    assert measured(monkeypatch, OURS, THEIRS).reason == reason
    assert measured(monkeypatch, OURS, THEIRS, profile=dataclasses.replace(OPEN, curves={1: 3})).reason == ""
    assert measured(monkeypatch, OURS, named("c")).reason == "", "a network that is not in the table"


def test_a_claim_says_of_how_many_seeds_it_is_where_some_failed(monkeypatch):
    result = measured(monkeypatch, (*OURS, Fake("failed-c", 2, (0.0, 0.0, 0.0))), THEIRS)
    assert (result.reason, result.failed) == ("", "2 of 3 seeds of Ours")
    assert result.differences[""].value == pytest.approx(-10.0), "the failed one is left out"


def test_claims_are_of_tables_of_the_paper():
    assert {claim.table for claim in claims.claims()} <= {f"table{number}" for number in published()["table"]}


def recorded(run, level: float, wrist: float, actions=("walk", "jog")) -> records.Record:
    """Of four people, five millimetres apart, with two takes of ten frames each: the same error at all joints but the
    wrists, a tenth of a millimetre higher with each seed."""
    takes = [[f"S{person}", action, "1"] for person in range(4) for action in actions]
    levels = [level + 5 * person + 0.1 * run.seed for person in range(4) for _ in actions]
    of_joints = [[one + wrist * (name[1:] == "Wrist") for name in human36m.joints] for one in levels]
    means = [float(np.mean(joints)) for joints in of_joints]
    errors = {"protocol": "exact", "metric": "MPJPE", "unit": "mm", "frames": [10] * len(takes), "value": means}
    content = {
        "id": f"{run.model}-{run.seed}",
        "failed": "",
        "environment": {},
        "layout": "human36m",
        "takes": takes,
        "errors": [errors],
    }
    content |= {"joints": of_joints, "histogram": [[int(mean), [10]] for mean in means]}
    record = records.Record(content)
    record.__dict__["spec"] = run
    return record


def test_the_claims_on_figures_by_hand(monkeypatch):
    """MixSTE is better than PoseFormer by 10 mm and VideoPose3D by 15, but worse at the wrists, by 10 and by 5."""
    levels = {"videopose3d": (45.0, 0.0), "poseformer": (40.0, 0.0), "mixste": (30.0, 20.0)}
    monkeypatch.setattr(
        records, "find", lambda wanted, name: {run: recorded(run, *levels[run.model]) for run in wanted}
    )
    over, under, joints, variance, limbs, actions = claims.of_figures(OPEN)
    assert {one.reason for one in (over, under, joints, variance, limbs, actions)} == {""}
    values = {name: one.value for name, one in joints.differences.items()}
    assert len(values) == 20, "eleven categories without the root, and two peers"
    # Means over seeds: of three, 0.1 mm; of five, 0.2.
    assert values["Wrist against PoseFormer"] == pytest.approx(9.9)
    assert values["Hip against PoseFormer"] == pytest.approx(-10.1)
    assert values["Hip against VideoPose3D"] == pytest.approx(-15.1)
    assert joints.least()[0] == "Wrist against PoseFormer"
    assert {one.over for one in joints.differences.values()} == {"4 people, 3 and 5 seeds"}
    # MixSTE errs by 30 + 20 * 2 / 17 = 32.4 mm, then 37.4, 42.4 and 47.4; PoseFormer by 40 to 55.
    assert over.differences["against PoseFormer"].value == pytest.approx(-50.0)
    assert set(under.differences) == {"against PoseFormer", "against VideoPose3D"}
    assert limbs.differences[""].value == pytest.approx(20.0 * 2 / 8), "two of eight joints of the limbs are wrists"
    assert variance.differences["against PoseFormer"].value == pytest.approx(20.0**2 * 10 / 11**2 / 10)
    assert set(actions.differences) == {"walk", "jog"}
    assert actions.differences["jog"].value == pytest.approx(-10.1 + 40 / 17)
    notes = [line["note"] for line in claims.judge([joints, limbs, actions])]
    assert notes[0] == "does not hold: the opposite (Wrist against PoseFormer)"
    assert notes[1] == "holds"
    assert notes[2].startswith("holds (")
    monkeypatch.setattr(records, "find", lambda wanted, name: {})
    assert {one.reason for one in claims.of_figures(OPEN)} == {"not trained yet"}
