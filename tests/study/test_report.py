"""Tables: means, intervals and differences against what is worked out by hand; one schema for every CSV."""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mixste.study import costs, pages, plots, records, report, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.published import published
from mixste.study.run import Data, Run, spec
from mixste.study.tables import CONSTANT, REGRESSION, Row, Table, all_frames
from mixste.train import AUTHORS, Recipe

SMOKE = PROFILES["smoke"]
TABLE = Table("test", "test", "test", "made up", lambda profile: [], metrics=("MPJPE",))
AVERAGES = replace(TABLE, averages_only=True)


@dataclass(frozen=True)
class Fake:
    """A run whose clips are known."""

    id: str
    seed: int
    values: tuple[float, ...]
    start: None = None
    poses = 0

    @property
    def clips(self) -> pd.DataFrame:
        takes = [("walk", "1", "a"), ("walk", "1", "b"), ("walk", "2", "a"), ("sit", "1", "a"), ("sit", "2", "a")]
        frames = [100, 100, 200, 50, 150]
        rows = [
            {
                "subject": "S9",
                "action": action,
                "take": take,
                "camera": camera,
                "frames": n,
                "metric": "MPJPE",
                "value": v,
            }
            for (action, take, camera), n, v in zip(takes, frames, self.values, strict=True)
        ]
        return pd.DataFrame(rows).assign(protocol="exact", unit="mm")


FAILED: dict[str, str] = {}  # why, by id
MISSING: set[str] = set()


def find(wanted, profile):
    """`records.find` of fakes: none of what is missing."""

    def record(run):
        takes, none = records.by_take(run.clips), pd.DataFrame(columns=records.COLUMNS)
        unseen = records.by_take(run.unseen) if hasattr(run, "unseen") else none
        return SimpleNamespace(id=run.id, spec=run, takes=takes, unseen_takes=unseen, failed=FAILED.get(run.id, ""))

    return {run: record(run) for run in wanted if run.id not in MISSING}


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    monkeypatch.setattr(records, "find", find)


def test_values_intervals_and_differences():
    ours = Row("ours", (Fake("a", 0, (10, 20, 40, 60, 80)), Fake("b", 1, (14, 24, 44, 64, 84))), against="base")
    base = Row("base", (Fake("c", 0, (20, 30, 50, 70, 90)), Fake("d", 1, (20, 30, 50, 70, 90))))
    table = report.measure(TABLE, SMOKE, [base, ours])
    tidy.validate(table)
    own = table[(table["row"] == "ours") & (table["against"] == "")].set_index("column")
    # Views are averaged first: walk is (17 · 200 + 42 · 200) / 400; sit (62 · 50 + 82 · 150) / 200.
    assert own["value"].to_dict() == pytest.approx({"walk": 29.5, "sit": 77.0, "Avg.": 53.25})
    assert own["seed_spread"].tolist() == pytest.approx([np.std([0, 4], ddof=1)] * 3)
    # A column has two takes of one person, too few: what varies is the seeds' means, 27.5 and 31.5. The average is of
    # four takes, 17, 42, 62 and 82, with these weights, and the variance of its seeds' means is 8 / 2.
    assert own["over"].to_dict() == dict.fromkeys(("walk", "sit"), "these people, 2 seeds") | {
        "Avg.": "4 takes of one person, 2 seeds"
    }
    assert ends(own.loc["walk"]) == pytest.approx((29.5, 2 * stats.t.ppf(0.975, 1)))
    takes, weights = np.var([17, 42, 62, 82], ddof=1), np.array([1 / 4, 1 / 4, 1 / 8, 3 / 8])
    of_takes = takes * (weights**2).sum()
    degrees = (of_takes + 4) ** 2 / (of_takes**2 / 3 + 4**2 / 1)
    assert ends(own.loc["Avg."]) == pytest.approx((53.25, stats.t.ppf(0.975, degrees) * (of_takes + 4) ** 0.5))
    difference = table[table["against"] == "base"].set_index("column")
    assert difference["value"].to_dict() == pytest.approx({"walk": -8.0, "sit": -8.0, "Avg.": -8.0})
    # Takes differ alike; ours differ by 4 between seeds, the base's do not, and are not paired with ours.
    assert ends(difference.loc["Avg."]) == pytest.approx((-8, 2 * stats.t.ppf(0.975, 1)))
    assert set(difference["over"]) == {"these people, 2 seeds", "4 takes of one person, 2 seeds"}
    assert difference["seed_spread"].isna().all()
    assert set(own["runs"]) == {"a b"}


def ends(line) -> tuple[float, float]:
    """The middle of its interval, and half its width."""
    return (line["low"] + line["high"]) / 2, (line["high"] - line["low"]) / 2


@dataclass(frozen=True)
class Walks:
    """A run tested on one take of each person, 100 frames for each letter of the name."""

    id: str
    seed: int
    errors: tuple[tuple[str, float], ...]
    start: "Walks | None" = None
    poses = 0

    @property
    def clips(self) -> pd.DataFrame:
        about = {"action": "walk", "take": "1", "camera": "a", "metric": "MPJPE", "protocol": "exact", "unit": "mm"}
        return pd.DataFrame(
            [about | {"subject": name, "frames": 100 * len(name), "value": value} for name, value in self.errors]
        )


def walks(key: str, *errors: dict[str, float], start=None, **options) -> Row:
    return Row(key, tuple(Walks(f"{key}{n}", n, tuple(of.items()), start) for n, of in enumerate(errors)), **options)


def test_an_average_over_subjects_counts_each_of_them_once_in_groups_that_may_overlap():
    profile = replace(SMOKE, average="subjects", groups={"ab": ("a", "bb"), "b and c": ("bb", "cccc"), "none": ("z",)})
    row = walks("row", {"a": 10.0, "bb": 20.0, "cccc": 60.0})
    table = report.measure(TABLE, profile, [row]).set_index("column")
    assert table["value"].to_dict() == pytest.approx({"ab": 15, "b and c": 40, "Avg.": 30})
    assert list(table.index) == ["ab", "b and c", "Avg."]
    assert table["over"].to_dict() == {"ab": "", "b and c": "", "Avg.": "3 people, these networks"}
    expected = stats.ttest_1samp([10, 20, 60], 0).confidence_interval(0.95)
    assert table.loc["Avg.", ["low", "high"]].tolist() == pytest.approx(list(expected))
    assert report.measure(AVERAGES, profile, [row])["column"].tolist() == ["Avg."]
    other = replace(profile, groups={"none": ("z",)})  # as where others are tested: a column for each action
    assert report.measure(TABLE, other, [row])["column"].tolist() == ["walk", "Avg."]
    assert report.measure(AVERAGES, SMOKE, [row])["value"].tolist() == pytest.approx([(10 + 2 * 20 + 4 * 60) / 7])


@dataclass(frozen=True)
class WithUnseen(Walks):
    """With unseen takes half as hard as the test, of subjects A, BB and C or those of `trained`."""

    trained: tuple[str, ...] = ("A", "BB", "C")

    @property
    def unseen(self) -> pd.DataFrame:
        halves = tuple((name.upper(), value / 2) for name, value in self.errors)
        return Walks("", 0, tuple(one for one in halves if one[0] in self.trained)).clips


def test_takes_of_seen_subjects_have_a_column_that_is_not_in_the_average():
    def row(key: str, *errors: float, against="") -> Row:
        return Row(key, (WithUnseen(key, 0, tuple(zip(("a", "bb", "c"), errors, strict=True))),), against=against)

    profile = replace(SMOKE, average="subjects", groups={"few": ("a",)})
    rows = [row("base", 10, 20, 60), row("better", 8, 14, 56, against="base")]
    table = report.measure(TABLE, profile, rows).set_index(["against", "row", "column"])["value"]
    assert table["", "base"].to_dict() == pytest.approx({"few": 10, "unseen takes": 15, "Avg.": 30})
    assert table["base", "better"].to_dict() == pytest.approx({"few": -2, "unseen takes": -2, "Avg.": -4})
    # Next to a row that has none of its own, there is no difference in that column, but all others are there.
    plain = walks("plain", {"a": 10.0, "bb": 20.0, "c": 60.0})
    against = replace(rows[1], against="plain")
    table = report.measure(TABLE, profile, [plain, against])
    assert list(table.loc[table["against"] == "plain", "column"]) == ["few", "Avg."]
    assert list(report.measure(AVERAGES, profile, rows)["column"]) == ["Avg."] * 3


def test_where_each_seed_has_other_training_subjects_unseen_takes_are_those_of_all():
    """As in notebook 18. In that of the only common subject, BB, the seeds are 10 and 11 mm off."""
    runs = tuple(
        WithUnseen("orders", seed, (("a", 8.0), ("bb", 20.0 + 2 * seed), ("c", 32.0)), trained=trained)
        for seed, trained in enumerate((("A", "BB"), ("BB", "C")))
    )
    profile = replace(SMOKE, average="subjects", groups={"few": ("a",)})
    table = report.measure(TABLE, profile, [Row("orders", runs)]).set_index("column")["value"]
    assert table.to_dict() == pytest.approx({"few": 8, "unseen takes": 10.5, "Avg.": 61 / 3})
    apart = tuple(replace(run, trained=(name,)) for run, name in zip(runs, ("A", "C"), strict=True))
    assert list(report.measure(TABLE, profile, [Row("orders", apart)])["column"]) == ["few", "Avg."]


def test_seeds_are_paired_only_where_a_network_is_the_same_or_has_the_same_start():
    """Each seed of the one is 5 mm better than its namesake of the other."""
    one = {"a": 40.0, "b": 50.0, "c": 90.0}, {"a": 50.0, "b": 60.0, "c": 100.0}
    other = [{name: value + 5 for name, value in of.items()} for of in one]
    base, start = walks("base", *other), Walks("start", 0, (("a", 1.0),))
    separate = walks("separate", *one, against="base")
    again = replace(base, key="again", label="again", against="base")
    clip_errors = {"again": pd.concat([records.by_take(run.clips).assign(seed=run.seed) for run in separate.runs])}
    tuned, tuned_base = (
        walks("tuned", *one, start=start, against="tuned base"),
        walks("tuned base", *other, start=start),
    )
    table = report.measure(AVERAGES, SMOKE, [base, separate, again, tuned_base, tuned], clip_errors)
    table = table[table["against"] != ""].set_index("row")
    assert table["value"].to_dict() == pytest.approx({"separate": -5, "again": -5, "tuned": -5})
    widths = {row: ends(line)[1] for row, line in table.iterrows()}
    assert widths["again"] == widths["tuned"] == pytest.approx(0, abs=1e-9)
    # Of each side, the seeds' means differ by 10 mm: 50 / 2 each, with one degree of freedom each.
    assert widths["separate"] == pytest.approx(stats.t.ppf(0.975, 2) * 50**0.5)
    assert set(table["over"]) == {"3 people, 2 seeds"}
    assert table["seed_spread"].to_dict() == pytest.approx(
        {"separate": np.nan, "again": 0, "tuned": 0}, nan_ok=True, abs=1e-9
    )


TRUTH, BETTER, STUDIES = 40.0, 3.0, 300  # mm: the mean over people and trainings, how much the first row is better


def made_up(run: Run, values: np.ndarray, people: list[str], frames: np.ndarray) -> records.Record:
    """The record of a run with one value for each take."""
    takes = [[person, "walk", str(number)] for number, person in enumerate(people)]
    about = {"protocol": "exact", "metric": "MPJPE", "unit": "mm", "frames": frames.tolist()}
    return records.Record(
        {
            "format": records.FORMAT,
            "id": f"{run.frames}-{run.seed}",
            "spec": json.loads(spec(run)),
            "environment": {},
            "layout": "human36m",
            "failed": "",
            "takes": takes,
            "errors": [about | {"value": values.round(3).tolist()}],
        }
    )


def test_a_row_says_what_one_of_its_trainings_takes(monkeypatch, tmp_path):
    """From the speed on record; as recorded where there is none, unless the GPU was shared; nothing on a CPU."""
    bench = tmp_path / "bench"
    bench.mkdir()
    columns = "network,frames,joints,options,poses_per_step,optimizer,processes,poses_per_second"
    lines = ("mixste,27,17,depth=1 dim=16 heads=2,54,adamw,1,50", "mixste,27,17,depth=1 dim=16 heads=2,54,adamw,4,90")
    (bench / "study.csv").write_text("\n".join([columns, *lines]))
    monkeypatch.setattr(costs, "RESULTS", tmp_path)
    options = (("depth", 1), ("dim", 16), ("heads", 2))
    run = Run(SMOKE.data, 27, 1000, 0, "mixste", options, replace(AUTHORS, batch_frames=60))
    other = replace(run, frames=9)
    rows = [Row("ours", (run,), against="other"), Row("other", (other,)), Row("one", (Run(SMOKE.data, 1, 0, 0),))]
    kept = {one: made_up(one, np.array([1.0, 2.0]), ["a", "b"], np.array([10, 10])) for row in rows for one in row.runs}
    monkeypatch.setattr(records, "find", lambda wanted, name: kept)

    def seconds(**environment):
        kept[other].content["environment"] = {"training_seconds": 30.0} | environment
        table = report.measure(AVERAGES, SMOKE, rows).drop_duplicates("row").set_index("row")
        assert table["poses"].to_dict() == {"ours": 1000, "other": 1000, "one": 0}
        assert table["steps"].to_dict() == {"ours": 19, "other": 19, "one": 0}  # of 54 poses
        assert table["macs"].isna().to_dict() == {"ours": False, "other": False, "one": True}
        assert table["gpu_seconds"]["ours"] == 1000 / 50
        return table["gpu_seconds"]["other"]

    gpu = {"device": "NVIDIA H200"}
    assert seconds(**gpu) == seconds(**gpu, sharing=1) == 30
    assert seconds(**gpu, sharing=1, resumed_at=0.25) == 40
    assert np.isnan([seconds(**gpu, sharing=2), seconds(device="AMD EPYC"), seconds()]).all()
    table = report.measure(AVERAGES, SMOKE, rows)
    assert tidy.effort(table)["GPU seconds"].to_dict() == {"ours": "20", "other": ""}
    assert "One training takes:" in pages.effort(table)
    assert pages.effort(table[table["row"] == "ours"])[-1].startswith("One training takes 1,000 poses, 19 steps, 0.")
    assert pages.effort(table[table["row"] == "one"]) == []


@pytest.mark.slow
def test_intervals_cover_the_truth_in_95_of_100_studies(monkeypatch):
    """Of two networks, three trainings each on 8 people: of the average over subjects, and of the difference.

    People differ by 10 mm, and by 2 mm in how much they favour a network; trainings by 1 mm, and by 2 mm on a person;
    the takes of a person by 10 mm. How many takes and frames there are of a person varies tenfold. With equal seeds the
    two networks have nothing else in common.
    """
    profile = replace(PROFILES["open"], average="subjects", groups={})
    runs = [[Run(profile.data, frames, 1, seed) for seed in range(3)] for frames in (9, 27)]
    rows = [Row("base", tuple(runs[1])), Row("ours", tuple(runs[0]), against="base")]
    rng = np.random.default_rng(24)
    kept: dict[Run, records.Record] = {}
    monkeypatch.setattr(records, "find", lambda wanted, name: kept)
    covered = []
    for _ in range(STUDIES):
        counts = rng.integers(1, 11, 8)
        of_take = np.repeat(np.arange(8), counts)
        frames = rng.integers(50, 500, len(of_take))
        common = rng.normal(0, 10, 8)[of_take] + rng.normal(0, 10, len(of_take))
        for seeds, mean in zip(runs, (TRUTH - BETTER, TRUTH), strict=True):
            favour = rng.normal(0, 2, 8)
            for run in seeds:
                of_person = favour + rng.normal(0, 2, 8)
                values = mean + common + of_person[of_take] + rng.normal(0, 1) + rng.normal(0, 2, len(of_take))
                kept[run] = made_up(run, values, [f"P{person}" for person in of_take], frames)
        table = report.measure(AVERAGES, profile, rows).set_index(["row", "against"])
        lines = table.loc[[("base", ""), ("ours", ""), ("ours", "base")]]
        assert set(lines["over"]) == {"8 people, 3 seeds"}
        truth = np.array([TRUTH, TRUTH - BETTER, -BETTER])
        covered.append((lines["low"] <= truth) & (truth <= lines["high"]))
    percent = 100 * np.mean(covered, axis=0)
    assert ((percent >= 92) & (percent <= 97)).all(), percent


def test_on_licensed_data_an_interval_is_over_seeds_on_these_people():
    licensed = replace(PROFILES["paper"], seeds=(0, 1))
    row = walks("row", {"a": 10.0, "b": 20.0, "c": 60.0}, {"a": 11.0, "b": 21.0, "c": 61.0})
    [line] = report.measure(replace(AVERAGES, protocol="exact"), licensed, [row]).to_dict("records")
    assert line["over"] == "these people, 2 seeds"
    assert ends(line) == pytest.approx((30.5, 0.5 * stats.t.ppf(0.975, 1)))
    alone = replace(row, runs=row.runs[:1])
    [line] = report.measure(replace(AVERAGES, protocol="exact"), licensed, [alone]).to_dict("records")
    assert (line["value"], line["over"]) == (pytest.approx(30), "")
    assert np.isnan(line["low"])


def test_runs_that_were_tested_on_different_takes_are_told(monkeypatch):
    """As where a record was made with other data than a run in the store."""

    def find_elsewhere(wanted, profile):
        kept = find(wanted, profile)
        for run, record in kept.items():
            if run.id == "b":
                record.takes["take"] = record.takes["take"].replace("2", "3")
        return kept

    monkeypatch.setattr(records, "find", find_elsewhere)
    one, other = Fake("a", 0, (10, 20, 40, 60, 80)), Fake("b", 1, (14, 24, 44, 64, 84))
    with pytest.raises(store.RunError, match="on the same takes, found others in both: some of them were made with"):
        report.measure(TABLE, SMOKE, [Row("both", (one, other))])
    with pytest.raises(store.RunError, match="expected second and first to be tested on the same takes"):
        report.measure(TABLE, SMOKE, [Row("first", (one,)), Row("second", (replace(other, seed=0),), against="first")])


def test_a_row_says_that_one_of_its_seeds_ended_elsewhere():
    near = Fake("a", 0, (20, 30, 50, 70, 90)), Fake("b", 1, (26, 36, 56, 76, 96))
    far = Fake("c", 2, (120, 130, 150, 170, 190))
    alike, apart = Row("alike", near, against="apart"), Row("apart", (*near, far), note="small")
    most = Row("most", (near[0], replace(far, seed=1), replace(far, id="d")))
    table = report.measure(AVERAGES, SMOKE, [alike, apart, most]).set_index(["row", "against"])
    # (20 · 100 + 30 · 100 + 50 · 200 + 70 · 50 + 90 · 150) / 600
    told = "seeds diverge, at 53.3, 59.3, 153.3 mm over all frames"
    assert table["note"].to_dict() == {
        ("alike", ""): "",
        ("alike", "apart"): f"apart: {told}",
        ("apart", ""): f"small; {told}",
        ("most", ""): "seeds diverge, at 53.3, 153.3, 153.3 mm over all frames",
    }


def test_networks_at_the_level_of_the_constant_pose_are_told():
    """Its own average is 80; not below 95 % of that, by seed, here and in what is compared with such a row."""
    constant = Row(CONSTANT, (Fake("k", 0, (80,) * 5),))
    flat = Row("flat", (Fake("a", 0, (76,) * 5),))
    some = Row("some", (Fake("b", 0, (75,) * 5), Fake("c", 1, (300,) * 5)))
    below = Row("below", (Fake("d", 0, (75.9,) * 5),), against="flat")
    worst = Row(REGRESSION, (Fake("e", 0, (90,) * 5),))
    table = report.measure(AVERAGES, SMOKE, [flat, some, below, constant, worst])
    told = "at the level of a constant pose (80.0 mm)"
    notes = table.set_index(["row", "against"])["note"]
    assert notes["flat", ""] == told
    assert notes["some", ""] == f"seeds diverge, at 75.0, 300.0 mm over all frames; 1 of 2 seeds {told}"
    assert notes["below", ""] == ""
    assert notes["below", "flat"] == f"flat: {told}"
    assert set(notes[[CONSTANT, REGRESSION]]) == {""}
    assert plots.names(table) == {
        "flat": "flat\nat the level of a constant pose",
        "some": "some\n1 of 2 seeds at the level of a constant pose",
        "below": "below",
    }
    shown = tidy.with_intervals(table)
    assert shown.loc[("flat", "MPJPE"), "note"] == told
    plots.plt.close(plots.averages(table, ["MPJPE"]))


def test_rows_whose_runs_failed(tmp_path, monkeypatch, capsys):
    """In part: the mean is over the others. All: no value and no difference; the table can be shown and saved."""
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    reasons = {"b": "the loss is nan at step 8 of 100", "c": "the loss is inf at step 1 of 100"}
    monkeypatch.setattr(sys.modules[__name__], "FAILED", reasons)
    part = Row("part", (Fake("a", 0, (10,) * 5), Fake("b", 1, (0,) * 5)), against="lost")
    lost = Row("lost", (Fake("c", 0, (0,) * 5),), note="small", printed=published(5))
    table = report.measure(TABLE, SMOKE, [lost, part, Row("sound", (Fake("d", 0, (12,) * 5),), against="part")])
    tidy.save(table, "table")
    own = tidy.read("smoke", "table", tmp_path).query("column == 'Avg.'").set_index(["row", "against"])
    assert own["value"].to_dict() == pytest.approx(
        {("part", ""): 10, ("sound", ""): 12, ("sound", "part"): 2} | {("lost", ""): np.nan}, nan_ok=True
    )
    assert own["seeds"].to_dict() == {("lost", ""): 0, ("part", ""): 1, ("sound", ""): 1, ("sound", "part"): 1}
    assert own["note"]["part", ""] == f"1 of 2 seeds, run b failed: {reasons['b']}"
    assert own["note"]["lost", ""] == f"small; 0 of 1 seeds, run c failed: {reasons['c']}"
    assert own["runs"].to_dict() == {("lost", ""): "c", ("part", ""): "a", ("sound", ""): "d", ("sound", "part"): "d"}
    assert own["note"]["sound", "part"] == f"part: {own['note']['part', '']}", "of both sides of a difference"
    assert tidy.with_intervals(table).loc[("lost", "MPJPE"), "value"] == "failed: 0 of 1"
    assert list(tidy.beside(table).columns) == ["walk", "sit", "Avg."]
    assert tidy.beside(table).loc[("lost", "smoke")].tolist() == ["", "", "failed: 0 of 1"]
    assert tidy.beside(table).loc[("part", "smoke, 1 of 2 seeds")].tolist() == ["10.0", "10.0", "10.0"]
    assert plots.names(table) == {"lost": "lost\nfailed: 0 of 1", "part": "part\n1 of 2 seeds failed", "sound": "sound"}
    for figure in (
        plots.averages(table, ["MPJPE"]),
        plots.by_column(table, "MPJPE"),
        plots.differences(table, "MPJPE", ""),
    ):
        plots.plt.close(figure)
    with pytest.raises(ValueError, match="finite"):
        tidy.validate(table.assign(note=""))


def test_rows_without_runs_say_so(monkeypatch):
    """Where a partial table is asked for. A difference is between the means over the seeds that each row has."""
    base = Row("base", (Fake("a", 0, (20, 30, 50, 70, 90)), Fake("b", 1, (30, 40, 60, 80, 100))), note="small")
    none = Row("none", (Fake("c", 0, (0,) * 5),), against="base")
    one = Row("one", (Fake("gone", 0, (0,) * 5), Fake("d", 1, (31, 41, 61, 81, 101))), against="base", note="small")
    last = Row("last", (Fake("e", 0, (1, 1, 1, 1, 1)),), against="none")
    monkeypatch.setattr(sys.modules[__name__], "MISSING", {"c", "gone"})
    with pytest.raises(store.RunError, match="not all runs of none, one are in"):
        report.measure(AVERAGES, SMOKE, [base, none, one, last])
    table = report.measure(AVERAGES, SMOKE, [base, none, one, last], partial=True)
    tidy.validate(table)
    lines = table.set_index(["row", "against"])
    assert lines["value"].to_dict() == pytest.approx(
        {("base", ""): 66.25, ("none", ""): np.nan, ("one", ""): 72.25, ("one", "base"): 6.0, ("last", ""): 1.0},
        nan_ok=True,
    )
    assert lines["runs"].to_dict()["one", "base"] == "d"
    assert lines["runs"].to_dict()["none", ""] == ""
    assert lines["note"].droplevel("against").to_dict() == {
        "base": "small",
        "none": "not trained here: 1 of 1 seeds",
        "one": "small; not trained here: 1 of 2 seeds",
        "last": "",
    }
    assert tidy.with_intervals(table).loc[("none", "MPJPE"), "value"] == "not trained here"
    assert tidy.beside(table).loc[("none", "smoke"), "Avg."] == "not trained here"
    assert plots.names(table)["none"] == "none\nnot trained here"


@dataclass(frozen=True)
class Trained(Fake):
    recipe: Recipe = AUTHORS
    poses = 9


def test_single_trainings(monkeypatch):
    """Each with its own average; a failed one without a value, one without a record left out, references too."""
    monkeypatch.setattr(sys.modules[__name__], "MISSING", {"gone"})
    monkeypatch.setattr(sys.modules[__name__], "FAILED", {"lost": "the loss is nan"})
    monkeypatch.setattr(report, "_effort", lambda run, record: dict.fromkeys(tidy.EFFORT, 0))
    fast = replace(AUTHORS, learning_rate=0.5)
    several = Row("several", (Trained("a", 0, (10,) * 5), Trained("b", 1, (30,) * 5), Trained("gone", 2, (0,) * 5)))
    flat = Row(
        "flat", (Trained("c", 4, (90,) * 5, recipe=fast), Trained("lost", 5, (0,) * 5)), "at last", against="several"
    )
    rows = [several, flat, Row(CONSTANT, (Fake("k", 0, (80,) * 5),))]
    table = report.trainings(replace(TABLE, rows=lambda profile: rows), SMOKE)
    assert (table["column"] == "Avg.").all()
    assert (table["against"] == "").all()
    assert table[["row", "seed"]].to_numpy().tolist() == [
        ["several", 0],
        ["several", 1],
        ["at last", 4],
        ["at last", 5],
    ]
    assert table["value"].tolist() == pytest.approx([10, 30, 90, np.nan], nan_ok=True)
    assert table["learning_rate"].tolist() == [AUTHORS.learning_rate, AUTHORS.learning_rate, 0.5, AUTHORS.learning_rate]
    assert [tidy.FAILED in note for note in table["note"]] == [False, False, False, True]
    assert [report.AT_LEVEL in note for note in table["note"]] == [False, False, True, False]


def test_averages_only_and_one_group():
    row = Row("ours", (Fake("a", 0, (10, 10, 10, 90, 90)),))
    actions = report.measure(AVERAGES, SMOKE, [row])
    assert actions["value"].tolist() == [50.0], "actions count alike"
    together = report.measure(replace(AVERAGES, column=all_frames), SMOKE, [row])
    assert together["value"].tolist() == pytest.approx([(400 * 10 + 200 * 90) / 600]), "frames count alike"


def good() -> pd.DataFrame:
    return tidy.table([{"row": "a", "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 1.0}], SMOKE, "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="unit"), "columns must be"),
        (lambda t: t.iloc[:0], "at least one value"),
        (lambda t: t.assign(value=np.nan), "must be finite"),
        (lambda t: t.assign(unit="inch"), "units must be among"),
        (lambda t: pd.concat([t, t]), "found twice"),
        (lambda t: t.assign(source=""), "source must be"),
        (lambda t: t.assign(low=2.0, high=3.0), "must hold its value"),
    ],
)
def test_the_schema_refuses(change, message):
    tidy.validate(good())
    with pytest.raises(ValueError, match=message):
        tidy.validate(change(good()))


def test_save_and_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    tidy.save(good(), "table")
    assert capsys.readouterr().out == "results/smoke/table.csv: 1 values\n"
    pd.testing.assert_frame_equal(tidy.read("smoke", "table"), good())
    with pytest.raises(ValueError, match="finite"):
        tidy.save(good().assign(value=np.inf), "other")
    assert [path.name for path in (tmp_path / "results" / "smoke").iterdir()] == ["table.csv"]


def test_a_table_from_before_intervals_said_what_they_are_over_is_read(tmp_path, monkeypatch):
    lines = good().assign(low=0.5, high=2.0, seeds=3)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    with pytest.raises(ValueError, match="an interval must say what it is over"):
        tidy.save(lines, "table")
    (tmp_path / "results" / "smoke").mkdir(parents=True)
    lines.drop(columns="over").to_csv(tmp_path / "results" / "smoke" / "old.csv", index=False)
    old = tidy.read("smoke", "old", tmp_path)
    pd.testing.assert_frame_equal(old, lines)
    assert tidy.with_intervals(old).columns.name == "95 % intervals: takes and seeds, by bootstrap"


def test_a_caption_says_once_what_the_intervals_of_a_table_are_over():
    def caption(*lines):
        names = "row", "low", "over", "seeds", "against"
        return tidy.over(pd.DataFrame([dict(zip(names, (*one, "")[:5], strict=True)) for one in lines]))

    two, three = (1.0, "8 people, 2 seeds", 2), (1.0, "8 people, 3 seeds", 3)
    reference = (CONSTANT, 1.0, "8 people, these networks", 1)
    difference = ("b", 1.0, "8 people, 3 and 2 seeds", 3, "a")
    assert caption(("a", *two), ("b", *three), ("c", *three), reference, difference) == (
        "95 % intervals: 8 people, 3 seeds; 8 people, 2 seeds"
    )
    assert caption(difference) == "95 % intervals: 8 people, 3 and 2 seeds"
    assert caption(reference) == "95 % intervals: 8 people, these networks"
    assert caption(("a", np.nan, "", 1)) == "no intervals: one training, these people"
    assert caption(("counted", np.nan, "", 0)) == ""


def test_the_ledger_says_where_each_run_was_made(tmp_path, monkeypatch, capsys):
    """Of runs that tables name, in the order of the tables; lines of runs that have no record any more stay."""
    monkeypatch.setattr(store, "ROOT", tmp_path)
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    ids = ["b" * 12, "a" * 12]
    recipe = replace(AUTHORS, learning_rate=0.0025, optimizer="muon", loss=(("mpjpe", 1.0), ("tc", 0.5)))
    made = {"device": "a CPU", "torch": "2", "numpy": "2", "python": "3", "mixste": "0", "training_seconds": 1.26}
    for seed, run in enumerate(ids):
        options = {"dim": 8, "depth": 2}
        settings = Run(Data("synthetic"), 3, 9, seed, options=options, recipe=recipe)
        content = {"format": records.FORMAT, "id": run, "spec": json.loads(spec(settings)), "failed": "the loss is nan"}
        content |= {"environment": made | {"testing_seconds": 0.5}, "curve": {}}
        records.write(records.Record(content), records.folder("smoke"))
    tidy.save(good().assign(runs=" ".join(ids)), "02_one")
    tidy.save(good().assign(runs=ids[1]), "03_two")
    tidy.save(good().assign(runs=ids[1]), "03_two_more")
    tidy.save(good().assign(runs="", note=f"1 of 2 seeds, run {ids[0]} failed: the loss is nan"), "04_none")
    tables = {path: tidy.read("smoke", path.stem) for path in tidy.files("smoke")}
    for _ in range(2):
        lines = pages.ledger("smoke", tmp_path, tables).set_index("run")
        assert lines["notebooks"].to_dict() == {ids[0]: "02 04", ids[1]: "02 03"}
        assert set(lines["failed"]) == {"the loss is nan"}
        assert lines["seed"].astype(int).to_dict() == {ids[0]: 0, ids[1]: 1}
        assert set(lines["device"]) == {"a CPU"}
        assert set(lines["options"]) == {"depth=2 dim=8"}
        assert set(lines["learning_rate"].astype(float)) == {0.0025}
        assert set(lines["recipe"]) == {"loss=mpjpe+0.5*tc optimizer=muon"}
        assert lines["training_seconds"].astype(float).round(1).tolist() == [1.3, 1.3]
        shutil.rmtree(records.folder("smoke"), ignore_errors=True)


def test_the_page_says_what_is_missing(tmp_path, monkeypatch, capsys):
    """A row without runs, on the page of one's own; runs without records, on the published one."""
    monkeypatch.setattr(records, "find", lambda wanted, profile: {})
    monkeypatch.setattr(store, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("MIXSTE_OUT", str(tmp_path))
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    none = {"value": np.nan, "note": "not trained here: 2 of 2 seeds"}
    lines = [{"row": row, "column": "Avg.", "metric": "MPJPE", "unit": "mm"} for row in ("there", "missing", "counted")]
    values = [lines[0] | {"value": 12.34, "runs": "a" * 12, "seeds": 1}, lines[1] | none, lines[2] | {"value": 99.9}]
    tidy.save(tidy.table(values, SMOKE, "test"), "99_test")
    page = pages.page(tmp_path)
    assert "| there | 12.3 | 1 |" in page
    assert "\nNot trained yet: missing.\n" in page
    assert "counted" not in page, "of no run"
    monkeypatch.setattr(store, "ROOT", tmp_path)
    assert "Records are missing for 1 of them" in pages.page(tmp_path)
    assert "records" not in pages.page(tmp_path / "elsewhere")
    (records.folder("smoke") / f"{'a' * 12}.json").parent.mkdir(parents=True)
    (records.folder("smoke") / f"{'a' * 12}.json").write_text("")
    assert "`mixste reproduce --profile smoke --records`" in pages.page(tmp_path)


def test_averages_have_a_column_a_metric_and_notes_once():
    about = {"column": "Avg.", "over": "8 people, 2 seeds", "runs": "a", "seeds": 2, "poses": 9}
    position = {"metric": "MPJPE", "unit": "mm", "value": 50.04, "low": 40.0, "high": 60.0, "printed": 42.4} | about
    velocity = {"metric": "MPJVE", "unit": "mm/frame", "value": 2.345, "low": 2.0, "high": 3.0, "printed": 2.3} | about
    late = f"{tidy.NOT_TRAINED}: 1 of 3 seeds; T = 81"
    lines = [
        one | {"row": row, "note": note} for row, note in (("a", "T = 81"), ("b", late)) for one in (position, velocity)
    ]
    lines += [lines[-2] | {"against": "a", "value": -1.0, "low": -2.0, "high": 0.5}]
    absent = {"row": "c", "value": np.nan, "low": np.nan, "high": np.nan, "over": "", "seeds": 0, "runs": ""}
    lines += [position | absent | {"note": f"{tidy.NOT_TRAINED}: 3 of 3 seeds"}]
    over, values, differences, shown, notes = pages.averages(tidy.table(lines, SMOKE, "1"), costs=False)
    assert over == "*95 % intervals: 8 people, 2 seeds*"
    assert values.splitlines() == [
        "| row | MPJPE, mm | paper | MPJVE, mm/frame | paper | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 50.0 [40.0, 60.0] | 42.4 | 2.35 [2.00, 3.00] | 2.3 | 2 |",
        "| b | 50.0 [40.0, 60.0] | 42.4 | 2.35 [2.00, 3.00] | 2.3 | 2 of 3 |",
    ]
    assert differences == "Differences, *95 % intervals: 8 people, 2 seeds*:"
    assert shown.splitlines()[0] == "| row | to | MPJPE, mm |"
    assert shown.splitlines()[2] == "| b | a | -1.0 [-2.0, +0.5] |"
    assert notes == "*a; b*: T = 81."


def test_verdicts_are_counted():
    short = ["not tested: too short (Hip)", "not tested: too short (against VideoPose3D)", "not tested: too short"]
    notes = ["holds", *short, "holds"]
    rows = [f"{place}. a claim" for place in range(1, 6)]
    assert pages.verdicts(pd.DataFrame({"row": rows, "note": notes})).splitlines()[2:] == [
        "| holds | 2 | 1, 5 |",
        "| not tested: too short | 3 | 2–4 |",
    ]


def test_the_page_of_ones_own_tells_a_study_cut_short_and_rows_that_are_published(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "find", lambda wanted, profile: {})
    monkeypatch.setattr(store, "ROOT", tmp_path / "repository")
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "store"))
    settings = Run(Data("synthetic"), 3, SMOKE.poses - 1, 0)
    content = {"format": records.FORMAT, "id": "a" * 12, "spec": json.loads(spec(settings)), "failed": "nan"}
    records.write(records.Record(content | {"environment": {}, "curve": {}}), records.folder("smoke"))
    rows = [{"row": row, "column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 1.0} for row in ("there", "late")]
    tables = [tidy.table(values, SMOKE, "test").assign(runs="a" * 12) for values in (rows, rows[:1])]
    for table, out in zip(tables, (store.ROOT, tmp_path / "own"), strict=True):
        monkeypatch.setenv("MIXSTE_OUT", str(out))
        tidy.save(table, "99_test")
    page = pages.page(tmp_path / "own")
    assert f"{SMOKE.title}, CUT SHORT to at most {SMOKE.poses - 1} poses of training\n" in page
    assert "Rows of the published table that are missing here: late." in page
    page = pages.page(store.ROOT)
    assert "CUT SHORT" not in page
    assert "missing here" not in page


def test_how_many_trainings_there_are_so_far(monkeypatch):
    """References are none; all of them, and none, need no word."""
    runs = [Run(Data("synthetic"), 3, 9, seed) for seed in range(3)]
    reference = Run(Data("synthetic"), 1, 0, 0, "constant_pose")
    for made, said in (0, ""), (2, "2 of 3 trainings so far"), (3, ""):
        monkeypatch.setattr(records, "find", lambda wanted, profile, made=made: dict.fromkeys(list(wanted)[:made]))
        assert pages.so_far([reference, *runs], "smoke") == said


@pytest.mark.parametrize("profile", [name for name in PROFILES if (store.ROOT / "results" / name).exists()])
def test_every_run_that_a_committed_table_names_has_its_line(profile):
    ledger = pd.read_csv(store.ROOT / "results" / profile / "runs.csv", keep_default_na=False, dtype=str)
    tables = [tidy.read(profile, path.stem) for path in tidy.files(profile)]
    assert set(ledger["run"]) == {run for table in tables for run in tidy.run_ids(table)}
    # Of runs on a GPU alone, that did not fail, from a checkout; of a recipe other than the authors', in newer lines.
    optional = ["failed", "recipe", "driver", "sharing", "peak_gib", "steps", "resumed_at", "commit"]
    assert (ledger.drop(columns=optional, errors="ignore") != "").all(axis=None)


COMMITTED = sorted((store.ROOT / "results").glob("*/[0-9]*.csv"))


@pytest.mark.parametrize(
    "path", [p for p in COMMITTED if p.parent.name in PROFILES], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_table_keeps_to_the_schema(path):
    table = tidy.read(path.parent.name, path.stem)
    tidy.validate(table)
    assert table["profile"].unique().tolist() == [path.parent.name]
    assert table["comparable"].unique().tolist() == [path.parent.name == "paper"]


def test_a_value_without_an_interval_stands_alone():
    about = {"column": "Avg.", "metric": "MPJPE", "unit": "mm", "value": 80.31}
    lines = [about | {"row": "one training"}, about | {"row": "three", "low": 70.0, "high": 90.04}]
    lines += [about | {"row": "three", "against": "one training", "value": -0.04, "low": -1.0, "high": 2.0}]
    shown = tidy.with_intervals(tidy.table(lines, SMOKE, "13"))
    assert list(shown["value"]) == ["80.3", "80.3 [70.0, 90.0]"]
    assert list(shown["difference"]) == ["", "-0.0 [-1.0, +2.0]"]
