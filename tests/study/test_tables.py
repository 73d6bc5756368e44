"""The plan as data: every table's rows, with the paper's numbers, and no run twice."""

import pytest

from mixste.data.sources.open_mocap import TEST_PEOPLE, VALIDATION_PERSON
from mixste.study.profiles import PROFILES
from mixste.study.published import published
from mixste.study.tables import CONSTANT, PLAN, REGRESSION, distinct


def networks(table: str, profile) -> list:
    """The rows of a table without its two references."""
    return [row for row in PLAN[table](profile) if row.trained]


@pytest.mark.parametrize("name", PROFILES)
def test_distinct_runs(name):
    """Counted by hand for one seed: 5 in Table 1, 3 in 2, 2 in 3, 7 and two pretrainings in 4; 3 new ones in 5, four in
    6, ten in 7, and eleven in notebook 13. The full model is a row of 1, 5, 6 and 7, the start of a row of 4, and the
    base of 13, unless the profile takes a smaller one apart in 6 (two more), or departs from what 13 measures. Ten in
    notebook 17, of one seed, and one more where there is a longer length. In notebook 18 two, three and four people and
    three times five; three times the only one of open-styles. Two references each on the data of Tables 1, 2, 3 and 4
    and of notebooks 17 and 18."""
    profile = PROFILES[name]
    found, own = distinct(profile), 3 if name.startswith("open") and profile.gpu else 0
    people = 3 if name == "open-styles" else 6
    assert (
        len(found)
        == len(set(found))
        == len(profile.seeds) * (5 + 3 + 2 + 9 + 3 + 4 + 10 + 11 + own) + 9 + len(profile.long) + people + 12
    )
    assert set(profile.full()) <= set(found)
    for place, run in enumerate(found):
        assert run.start is None or run.start in found[:place]


@pytest.mark.parametrize("table", [table for table in PLAN if table.startswith("table")])
def test_rows_carry_the_papers_numbers(table):
    printed = published(int(table[-1]))
    rows = PLAN[table](PROFILES["smoke"])
    carried = sum(len(row.printed) for row in rows if row.printed is not None)
    ours = printed[printed["method"] == "Ours"]
    assert carried >= len(ours), "every printed number of MixSTE's stands beside a row"
    labels = [row.label for row in rows]
    assert len(set(labels)) == len(labels)
    for row in rows:
        assert row.against == "" or row.against in labels


@pytest.mark.parametrize("table", PLAN)
def test_every_table_ends_with_the_two_references_on_data_of_its_own(table):
    for profile in PROFILES.values():
        *rows, constant, regression = PLAN[table](profile)
        assert [constant.label, regression.label] == [CONSTANT, REGRESSION]
        assert [run.model for row in (constant, regression) for run in row.runs] == [
            "constant_pose",
            "frame_regression",
        ]
        assert all(row.trained for row in rows)
        assert {row.against for row in (constant, regression)} == {""}
        data = {run.data for row in rows for run in row.runs}
        assert {run.data for row in (constant, regression) for run in row.runs} <= data


def test_a_model_taught_fewer_poses_takes_as_many_steps_and_its_row_says_so():
    profile = PROFILES["open"]
    rows = [row for table in ("table1", "table2", "table4") for row in networks(table, profile)]
    steps = {run.poses // run.recipe.batch_frames for row in rows for run in row.runs}
    assert max(steps) - min(steps) <= 1
    for row in rows:
        short = {run.poses for run in row.runs} != {profile.poses}
        assert short == row.label.startswith("PoseFormer") == ("93,750 poses of training" in row.note)


def test_tables_5_and_6_take_one_model_apart():
    """The full one; in profile open a smaller one, which every row then says."""
    for profile, notes in (PROFILES["smoke"], {"table5": "", "table6": ""}), (PROFILES["open"], SMALLER):
        for table, last in ("table5", "+ our loss"), ("table6", "WMPJPE Loss + T-Loss"):
            rows = {row.label: row for row in networks(table, profile)}
            whole = rows[last].runs
            assert (whole == profile.full()) == (profile.name == "smoke")
            assert {run.frames for row in rows.values() for run in row.runs} == {whole[0].frames}
            assert {row.note for row in rows.values()} == {notes[table]}
    [main] = [row for row in PLAN["table1"](PROFILES["open"]) if row.label == "MixSTE, cpn, T=81"]
    assert main.runs == networks("table5", PROFILES["open"])[-1].runs


SMALLER = {
    "table5": "T = 81 instead of 243",
    "table6": "T = 81 instead of 243, d_m = 256 instead of 512",
}


def test_what_would_collapse_learns_more_slowly():
    """In profile open, by hand: 5e-4, less for tokens wider than 512 and, by the root, for windows longer than 81. A
    temporal token of 17 joints of 32 is 544 wide. The peers and notebook 17 keep 1e-3, but for Table 5's baseline."""
    open_, rates = PROFILES["open"], {}
    for table in ("table5", "table7"):
        for row in networks(table, open_):
            run, options = row.runs[0], dict(row.runs[0].options)
            width = 17 * 32 if not options.get("separate_joints", True) else options["dim"]
            rates[width, run.frames] = run.recipe.learning_rate
    slower = {(544, 81): 5e-4 * 512 / 544, (640, 27): 4e-4, (512, 128): 3.977476e-4, (512, 243): 2.886751e-4}
    slower[512, 300] = 2.598076e-4
    assert rates == pytest.approx(dict.fromkeys(rates, 5e-4) | slower)
    others = [*open_.peer("videopose3d", 243), *open_.peer("poseformer", 81)]
    others += [run for row in networks("limits", open_) for run in row.runs if "baseline" not in row.label]
    assert {run.recipe.learning_rate for run in others} == {1e-3}


@pytest.mark.parametrize("name", ["open", "open-cpu"])
def test_more_people_are_tested_on_the_sources_own_strangers(name):
    *rows, last = networks("more_people", PROFILES[name])
    for count, row in enumerate(rows, 2):
        assert len(set(row.runs[0].data.subjects) - set(TEST_PEOPLE)) == count
        assert VALIDATION_PERSON not in row.runs[0].data.subjects
    assert set(TEST_PEOPLE) | {VALIDATION_PERSON} < set(last.runs[0].data.subjects)
    assert [run.seed for run in last.runs] == [0, 1, 2]


def test_table_7_maps_every_size():
    for profile in PROFILES.values():
        for sizes, column in ((profile.frames, "frames"), (profile.dims, "dim"), (profile.depths, "depth")):
            assert set(published(7)[column]) <= set(sizes)
            assert list(sizes.values()) == sorted(set(sizes.values())), "stand-ins keep the paper's order"


def test_only_the_paper_profile_is_comparable():
    assert [name for name, profile in PROFILES.items() if profile.comparable] == ["paper"]
    assert PROFILES["paper"].full()[0].options == (("depth", 8), ("dim", 512), ("heads", 8))
    assert PROFILES["paper"].full()[0].frames == 243
