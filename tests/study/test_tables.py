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
    """Counted by hand for one seed: 5 in Table 1, 3 in 2, 2 in 3, 7 and two pretrainings in 4; 3 new ones in 5, four in
    6, ten in 7, and in notebook 13 eleven beside the authors' recipe, and fourteen beside another. The full model is a
    row of 1, 5, 6 and 7, the start of a row of 4, and the base of 13, unless the profile takes a smaller one apart in 6
    (two more) or shorter ones in 13 (one more). Eleven in notebook 17, of one seed, and one more where there is a
    longer length. In notebook 18 each number of subjects and of frames, once for each order of subjects. Two references
    each on the data of Tables 1, 2, 3 and 4 and of notebooks 17 and 18. A row more in one of these tables is counted
    here."""
    profile = PROFILES[name]
    runs = distinct(profile, [table.key for table in named(COUNTED)])
    own = {"open": 14 + 3, "open-styles": 14 + 3, "paper": 11}.get(name, 14 + 1)
    people = {"open": 8 * 3, "open-styles": 1, "paper": 6 * 3}.get(name, 3)
    assert (
        len(runs)
        == len(set(runs))
        == len(profile.seeds) * (5 + 3 + 2 + 9 + 3 + 4 + 10 + own) + 10 + len(profile.long) + people + 12
    )
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


def test_the_long_trainings_of_limits_are_the_short_ones_for_longer():
    for profile in SMOKE, OPEN:
        rows = {row.key: row.runs[0] for row in TABLES["limits"].rows(profile) if row.trained}
        for times in profile.long:
            long = rows[f"all-{times}x"]
            assert long.poses == times * rows["all"].poses == times * profile.shorter().poses
            assert (long.recipe, long.options, long.data) == (rows["all"].recipe, rows["all"].options, rows["all"].data)
        assert rows["as-recorded"].data.split == "validation"


def test_rows_of_short_trainings_say_so():
    for key in ("paper_vs_code", "limits"):
        short = [row for row in networks(key, SMOKE) if row.runs[0].poses == SMOKE.short_poses]
        assert short
        assert {row.note for row in short} == {"18,000 poses of training"}
        assert not any("poses of training" in row.note for row in networks(key, OPEN))


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
        assert {run.poses for run in row.runs} == {profile.long[0] * profile.shorter().poses}
        for run, order in zip(row.runs, plan.orders, strict=True):
            assert set(run.data.subjects) == {*order[: int(count)], *plan.tested}
            assert run.data.train_frames == (0 if frames == "all" else int(frames))
    assert len({replace(run, data=profile.data, seed=0) for row in rows.values() for run in row.runs}) == 1


def test_up_to_eight_open_subjects_are_surely_different_people():
    """All sixteen are the subjects of training, so that the orders then differ in the seed alone."""
    pairs = ({"cmu_16", "cmu_17"}, {"cmu_29", "cmu_49"}, {"cmu_27", "cmu_135"}, {"cmu_10", "cmu_35"})
    pairs += ({"cmu_10", "cmu_17"}, {"cmu_07", "cmu_08"}, {"cmu_01", "cmu_16"})
    assert set(OPEN.people.orders[0]) == set(subjects("train"))
    for order in OPEN.people.orders:
        assert not [pair for pair in pairs if pair <= set(order[:8])]


def test_tables_are_named_by_number_or_key():
    assert [table.key for table in named(["5", "table2", "limits", "table5"])] == ["table5", "table2", "limits"]
    with pytest.raises(ValueError, match=r"table must be among 1 \(table1\), .* 18 \(more_people\).*, found 8, table9"):
        named(["8", "1", "table9"])
