"""The scales of the study: what stands for the paper's sizes, and how fast MixSTE may learn."""

import pytest

from mixste.study.profiles import PROFILES, profile_of
from mixste.study.published import published
from mixste.study.tables import TABLES


def test_a_model_taught_fewer_poses_takes_as_many_steps_and_its_row_says_so():
    profile = PROFILES["open"]
    rows = [row for key in ("table1", "table2", "table4") for row in TABLES[key].rows(profile) if row.trained]
    steps = {run.poses // run.recipe.batch_frames for row in rows for run in row.runs}
    assert max(steps) - min(steps) <= 1
    for row in rows:
        fewer = {run.poses for run in row.runs} != {profile.poses}
        assert fewer == (row.runs[0].model == "poseformer") == ("93,750 poses of training" in row.note)


def test_what_would_collapse_learns_more_slowly():
    """In profile open, by hand: 5e-4, less for tokens wider than 512 and, by the root, for windows longer than 81. A
    temporal token of 17 joints of 32 is 544 wide. The peers and `limits` keep 1e-3, but for Table 5's baseline."""
    open_, rates = PROFILES["open"], {}
    for key in ("table5", "table7"):
        for row in TABLES[key].rows(open_):
            if row.trained:
                run, options = row.runs[0], dict(row.runs[0].options)
                width = 17 * 32 if not options.get("separate_joints", True) else options["dim"]
                rates[width, run.frames] = run.recipe.learning_rate
    slower = {(544, 81): 5e-4 * 512 / 544, (640, 27): 4e-4, (512, 128): 3.977476e-4, (512, 243): 2.886751e-4}
    slower[512, 300] = 2.598076e-4
    assert rates == pytest.approx(dict.fromkeys(rates, 5e-4) | slower)
    others = [*open_.peer("videopose3d", 243), *open_.peer("poseformer", 81)]
    limits = {row.key: row for row in TABLES["limits"].rows(open_) if row.trained}
    del limits["baseline-8x"]
    others += [run for row in limits.values() for run in row.runs]
    assert {run.recipe.learning_rate for run in others} == {1e-3}


def test_every_size_of_table_7_has_a_stand_in():
    for profile in PROFILES.values():
        for sizes, column in ((profile.frames, "frames"), (profile.dims, "dim"), (profile.depths, "depth")):
            assert set(published(7)[column]) <= set(sizes)
            assert list(sizes.values()) == sorted(sizes.values()), "stand-ins keep the paper's order"
            own = sorted(set(published(7)[column]))
            assert len({sizes[size] for size in own}) == len(own), "rows of the table differ"


def test_only_the_paper_profile_is_comparable():
    assert [name for name, profile in PROFILES.items() if profile.comparable] == ["paper"]
    assert PROFILES["paper"].full()[0].options == (("depth", 8), ("dim", 512), ("heads", 8))
    assert PROFILES["paper"].full()[0].frames == 243


def test_a_profile_is_found_by_its_name_and_cut_short_by_the_environment(monkeypatch):
    monkeypatch.delenv("MIXSTE_POSES", raising=False)
    assert profile_of("open") == PROFILES["open"]
    with pytest.raises(ValueError, match=r"profile must be one of smoke, .*, found 'huge'"):
        profile_of("huge")
    monkeypatch.setenv("MIXSTE_POSES", "300")
    assert profile_of("smoke").poses == 300
    assert profile_of("smoke").title.endswith("CUT SHORT to 300 poses of training")
    monkeypatch.setenv("MIXSTE_POSES", "-3")
    with pytest.raises(ValueError, match="MIXSTE_POSES must be a positive number, found '-3'"):
        profile_of("smoke")
