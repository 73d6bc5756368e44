"""The tables as data: every row with a key and the paper's numbers, and no run twice."""

from dataclasses import replace

import pytest

from mixste.data.sources.people import subjects
from mixste.study.profiles import PROFILES
from mixste.study.published import published
from mixste.study.tables import CONSTANT, REGRESSION, TABLES, distinct, named

# Tables by number, for `test_distinct_runs`.
COUNTED = ("1", "2", "3", "4", "5", "6", "7", "13", "17", "18")
SMOKE, OPEN = PROFILES["smoke"], PROFILES["open"]


def networks(key: str, profile) -> list:
    """The rows of a table without its two references."""
    return [row for row in TABLES[key].rows(profile) if row.trained]


@pytest.mark.parametrize("name", PROFILES)
def test_distinct_runs(name):
    """Counted by hand for one seed of all: 5 in Table 1, 3 in 2, 2 in 3, 7 and two pretrainings in 4; 3 new ones in 5,
    four in 6, ten in 7, and in notebook 13 eleven beside the authors' recipe, and fourteen beside another. The full
    model is a row of 1, 5, 6 and 7, the start of a row of 4, and the base of 13, unless the profile takes a smaller one
    apart in 6 (two more), and where a table has trainings of another length (one more in 4, two in 7, one in 13; in 4
    and 7 together two, if they have the same length). In notebook 17 seven of augmentation, four networks at each
    length but the one of Table 1, and the sweep; in notebook 18 each number of subjects and of frames, once for each
    order of subjects. Two references each on the data of Tables 1, 2, 3 and 4, of both parts of notebook 17 that
    validate, and of 18. A row more in one of these tables is counted here."""
    profile = PROFILES[name]
    networks = {network: replace(training, seeds=None) for network, training in profile.networks.items()}
    profile = replace(profile, seeds=(0,), table_seeds={}, networks=networks)
    runs = distinct(profile, [table.key for table in named(COUNTED)])
    own = {"open": 14 + 1 + 2 + 1 + 2, "open-styles": 14 + 1 + 2 + 1 + 2, "paper": 11}.get(name, 14 + 1 + 2)
    people = {"open": 8 * 3, "open-styles": 1, "paper": 6 * 3}.get(name, 3)
    seventeen = 7 + 4 * (len(profile.curves) - 1) + len(profile.sweep.networks) * len(profile.sweep.rates)
    assert len(runs) == len(set(runs)) == 5 + 3 + 2 + 9 + 3 + 4 + 10 + own + seventeen + people + 14
    assert set(profile.full()) <= set(runs)
    for place, run in enumerate(runs):
        assert run.start is None or run.start in runs[:place]


@pytest.mark.parametrize("key", TABLES)
@pytest.mark.parametrize("name", PROFILES)
def test_rows_are_told_apart_and_compared_with_one_another(name, key):
    table, rows = TABLES[key], TABLES[key].rows(PROFILES[name])
    for attribute in ("key", "label", "short"):
        assert len({getattr(row, attribute) for row in rows}) == len(rows) or (attribute, key) == ("short", "table1")
    for row in rows:
        assert table.row(PROFILES[name], row.key).runs == row.runs
        assert row.against != row.key
        assert row.against == "" or table.row(PROFILES[name], row.against)
    assert table.key == key
    with pytest.raises(KeyError, match=r"has the rows .*, found 'no such row'"):
        table.row(PROFILES[name], "no such row")


def test_a_key_means_the_same_in_every_profile():
    """Of the paper's own tables: labels differ from profile to profile, but not which rows there are."""
    for table in named("1234567"):
        keys = {tuple(row.key for row in table.rows(profile)) for profile in PROFILES.values()}
        assert len(keys) == 1, table.key


@pytest.mark.parametrize("number", range(1, 8))
def test_rows_carry_the_papers_numbers(number):
    [table] = named([str(number)])
    printed = published(number)
    carried = sum(len(row.printed) for row in table.rows(SMOKE) if row.printed is not None)
    assert carried >= len(printed[printed["method"] == "Ours"]), "every printed number of MixSTE's stands beside a row"


def test_what_rows_are_known_by_is_what_they_hold():
    """By the paper's figures, in the only profile that has them: T in Tables 1 to 4, sizes in 7, loss terms in 6."""
    paper = PROFILES["paper"]
    for key in ("table1", "table2", "table3", "table4"):
        for row in networks(key, paper):
            network, frames, *_ = row.key.split("-")
            assert {(run.model, run.frames) for run in row.runs} == {(network, int(frames))}
    for row in networks("table7", paper):
        depth, dim, frames = map(int, row.key.split("-"))
        [run] = row.runs
        assert (dict(run.options)["depth"], dict(run.options)["dim"], run.frames) == (depth, dim, frames)
        assert row.printed[["depth", "dim", "frames"]].drop_duplicates().to_numpy().tolist() == [[depth, dim, frames]]
        against = row.against or "4-64-27"  # by one of the three sizes
        assert sum(a != b for a, b in zip(against.split("-"), row.key.split("-"), strict=True)) == bool(row.against)
    for row in networks("table6", paper):
        assert row.key.split("+") == [name for name, _ in row.runs[0].recipe.loss]


@pytest.mark.parametrize("key", TABLES)
def test_every_table_ends_with_the_two_references_on_data_of_its_own(key):
    for profile in PROFILES.values():
        *rows, constant, regression = TABLES[key].rows(profile)
        assert [constant.key, regression.key] == [constant.label, regression.label] == [CONSTANT, REGRESSION]
        assert [run.model for row in (constant, regression) for run in row.runs] == [
            "constant_pose",
            "frame_regression",
        ]
        assert all(row.trained for row in rows)
        assert {row.against for row in (constant, regression)} == {""}
        data = {run.data for row in rows for run in row.runs}
        assert {run.data for row in (constant, regression) for run in row.runs} <= data


def test_tables_5_and_6_take_one_model_apart():
    """The full one; in profile open a smaller one, which every row then says."""
    smaller = {"table5": "T = 81 instead of 243", "table6": "T = 81 instead of 243, d_m = 256 instead of 512"}
    for profile, notes in (SMOKE, {"table5": "", "table6": ""}), (OPEN, smaller):
        for key, full in ("table5", "full"), ("table6", "wmpjpe+tc+mpjve"):
            whole = TABLES[key].row(profile, full).runs
            rows = networks(key, profile)
            assert (whole == profile.full()) == (profile.name == "smoke")
            assert {run.frames for row in rows for run in row.runs} == {whole[0].frames}
            assert {row.note for row in rows} == {notes[key]}
    assert TABLES["table1"].row(OPEN, "mixste-81").runs == TABLES["table5"].row(OPEN, "full").runs


@pytest.mark.parametrize("name", PROFILES)
def test_a_curve_goes_through_the_trainings_of_tables_1_and_5(name):
    profile = PROFILES[name]
    rows = {row.key: row for row in networks("curves", profile)}
    for key, table in {"videopose3d-243": 1, "poseformer-81": 1, "mixste-81": 1, "baseline": 5}.items():
        whole = TABLES[f"table{table}"].row(profile, key).runs
        assert rows[f"{key}-1"].runs == whole[: profile.curves[1]]
        for share, seeds in profile.curves.items():
            row = rows[f"{key}-1/8" if share == 1 / 8 else f"{key}-1/3" if share == 1 / 3 else f"{key}-{share}"]
            assert len(row.runs) == min(seeds, len(whole))
            for run, other in zip(row.runs, whole, strict=False):
                assert run == replace(other, poses=round(share * other.poses))


@pytest.mark.parametrize("name", PROFILES)
def test_trainings_of_the_sweep_differ_in_the_rate_alone(name):
    profile = PROFILES[name]
    rows = networks("rates", profile)
    assert [row.key for row in rows] == [
        f"{n}-{rate:g}" for n in profile.sweep.networks for rate in profile.sweep.rates
    ]
    alike = set()
    for row in rows:
        assert [run.seed for run in row.runs] == list(profile.sweep.seeds)
        for run in row.runs:
            assert row.key.endswith(f"-{run.recipe.learning_rate:g}")
            assert (run.data.split, run.data.test_cameras, run.data.keypoints) == (
                "validation",
                1,
                profile.detectors[0],
            )
            alike.add(replace(run, seed=0, recipe=replace(run.recipe, learning_rate=1.0)))
    assert len(alike) == len(profile.sweep.networks)


@pytest.mark.parametrize("name", PROFILES)
def test_of_more_people_either_the_subjects_or_the_frames_vary(name):
    """The orders are of the same subjects; those of fewer subjects are among those of more, and none is tested on."""
    profile, rows = PROFILES[name], {row.key: row for row in networks("more_people", PROFILES[name])}
    plan = profile.people
    assert len({frozenset(order) for order in plan.orders}) == 1
    assert not set(plan.orders[0]) & set(plan.tested)
    for key, row in rows.items():
        count, frames = key.split("-")
        assert [run.seed for run in row.runs] == list(range(len(plan.orders)))
        assert len({run.poses for run in row.runs}) == 1
        for run, order in zip(row.runs, plan.orders, strict=True):
            assert set(run.data.subjects) == {*order[: int(count)], *plan.tested}
            assert run.data.train_frames == (0 if frames == "all" else int(frames))
    assert len({replace(run, data=profile.data, seed=0) for row in rows.values() for run in row.runs}) == 1


@pytest.mark.parametrize("name", PROFILES)
def test_six_networks_differ_in_the_network_alone(name):
    """At equal poses in the number of poses too. Those of Tables 1 and 2 are not trained again."""
    profile = PROFILES[name]
    rows = networks("leaders", profile)
    budgets = ("time", "poses") if name.startswith("open") else ("poses",)
    assert len(rows) == 6 * len(profile.leaders) * len(budgets)
    for start in range(0, len(rows), 6):
        mixste, *others = rows[start : start + 6]
        kind = mixste.key.removeprefix("mixste-243-")
        assert [row.against for row in others] == [mixste.key] * 5
        lengths = {row.runs[0].poses for row in (mixste, *others)}
        assert (len(lengths) == 1) == kind.endswith("poses")
        for row in rows[start : start + 6]:
            assert row.key.endswith(kind)
            model, frames, *_ = row.key.split("-")
            assert {(run.model, run.frames) for run in row.runs} == {(model, profile.frames[int(frames)])}
            assert [run.seed for run in row.runs] == [run.seed for run in mixste.runs]
            assert {run.data for run in row.runs} == {mixste.runs[0].data}
            if row.runs[0].network_class.mode == "seq2seq":
                assert {run.recipe for run in row.runs} == {mixste.runs[0].recipe}
    if name == "open":
        for kind, table in {"detected": "table1", "exact": "table2"}.items():
            for row in TABLES[table].rows(profile):
                if row.key in ("mixste-243", "poseformer-81", "videopose3d-243"):
                    same = TABLES["leaders"].row(profile, f"{row.key}-{kind}-time")
                    assert same.runs == row.runs[:3]


def test_in_smoke_table_8_trains_three_networks_and_their_rates():
    tables = ("leaders", "leaders_rates")
    others = set(distinct(SMOKE, [key for key in TABLES if key not in tables]))
    new = [run for run in distinct(SMOKE, tables) if run not in others]
    assert {run.model for run in new} == {"dstformer", "motionagformer", "ktpformer"}
    assert sum(run.poses for run in new) <= 1.5 * SMOKE.poses


def test_up_to_eight_open_subjects_are_surely_different_people():
    """All sixteen are the subjects of training, so that the orders then differ in the seed alone."""
    pairs = ({"cmu_16", "cmu_17"}, {"cmu_29", "cmu_49"}, {"cmu_27", "cmu_135"}, {"cmu_10", "cmu_35"})
    pairs += ({"cmu_10", "cmu_17"}, {"cmu_07", "cmu_08"}, {"cmu_01", "cmu_16"})
    assert set(OPEN.people.orders[0]) == set(subjects("train"))
    for order in OPEN.people.orders:
        assert not [pair for pair in pairs if pair <= set(order[:8])]


def test_tables_are_named_by_number_or_key():
    assert [table.key for table in named(["5", "table2", "limits", "table5"])] == ["table5", "table2", "limits"]
    assert [table.key for table in named(["17"])] == ["limits", "curves", "rates"]
    assert [table.key for table in named(["8"])] == ["leaders", "leaders_rates"]
    with pytest.raises(ValueError, match=r"table must be among 1 \(table1\), .* 18 \(more_people\).*, found 9, table9"):
        named(["9", "1", "table9"])
