"""The scales of the study: what stands for the paper's sizes, and the recipe."""

from dataclasses import replace

import pytest

from mixste.study.profiles import PROFILES, profile_of
from mixste.study.published import published
from mixste.study.tables import TABLES
from mixste.train import AUTHORS


def test_a_model_taught_fewer_poses_takes_as_many_steps_and_its_row_says_so():
    profile = PROFILES["open"]
    rows = [row for key in ("table1", "table2", "table4") for row in TABLES[key].rows(profile) if row.trained]
    steps = {run.poses // run.recipe.batch_frames for row in rows for run in row.runs}
    assert max(steps) - min(steps) <= 1
    for row in rows:
        fewer = {run.poses for run in row.runs} != {profile.poses}
        assert fewer == (row.runs[0].model == "poseformer") == ("93,750 poses of training" in row.note)


def test_one_recipe_for_all_networks():
    """Of a profile, but for the loss and the windows of peers, and where notebook 13 goes back to AdamW."""
    for profile in (PROFILES[name] for name in ("open", "smoke", "paper")):
        runs = [run for key in TABLES for row in TABLES[key].rows(profile) if row.trained for run in row.runs]
        ours = profile.recipe()
        rates = {run.recipe.learning_rate for run in runs if run.recipe.optimizer == ours.optimizer}
        assert rates == {ours.learning_rate}
    assert {run.recipe.optimizer for run in runs} == {"adamw", "adam"}
    assert PROFILES["paper"].recipe() == AUTHORS


def test_departures_from_the_authors_recipe_are_named():
    assert PROFILES["paper"].departures == "The recipe is the authors'."
    assert "optimizer muon (theirs: adamw), learning_rate 0.001 (theirs: 4e-05)" in str(PROFILES["open"])
    assert replace(PROFILES["open"], recipe_changes={"mirror": True}).departures == "The recipe is the authors'."


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
