"""The scales of the study: what stands for the paper's sizes, and the recipe."""

from dataclasses import replace

import pytest

from mixste.study import costs
from mixste.study.profiles import PROFILES, Training, profile_of
from mixste.study.published import published
from mixste.study.tables import TABLES
from mixste.train import AUTHORS


def test_a_network_is_trained_by_its_own_settings():
    """The entry of a network and T before that of the network, each before the profile; by the row of Table 5 where
    joints are not separated."""
    networks = {
        "mixste": Training(poses=10, seeds=(0, 1)),
        "mixste-243": Training(poses=20, learning_rate=0.5),
        "baseline": Training(poses=30),
        "videopose3d": Training(batch_frames=4),
    }
    profile = replace(PROFILES["smoke"], poses=99, seeds=(7,), networks=networks)
    narrow = {"separate_joints": False}

    def settings(runs):
        return [(run.poses, run.recipe.learning_rate, run.recipe.batch_frames, run.seed) for run in runs]

    assert settings(profile.mixste(81)) == [(10, 8e-3, 45, 0), (10, 8e-3, 45, 1)]
    assert settings(profile.mixste(243)) == settings(profile.full()) == [(20, 0.5, 45, 7)]
    assert settings(profile.mixste(243, options=narrow | {"alternating": False})) == [(30, 8e-3, 45, 7)]
    assert settings(profile.mixste(243, options=narrow)) == [(99, 8e-3, 45, 7)]
    assert settings(profile.peer("videopose3d", 243)) == [(99, 8e-3, 4, 7)]
    assert settings(profile.peer("poseformer", 81)) == [(99, 8e-3, 45, 7)]
    own = profile.recipe(learning_rate=0.25)
    assert settings(profile.mixste(243, recipe=own)) == [(20, 0.25, 45, 7)], "a rate that the row chooses"
    shorter = replace(profile, lengths={"table6": 0.5}, table_seeds={"table6": (3,)}).of_table("table6")
    assert settings(shorter.mixste(81)) == [(5, 8e-3, 45, 3)]
    assert settings(shorter.full()) == [(10, 0.5, 45, 3)]


@pytest.mark.skipif(not (costs.RESULTS / "bench" / "study.csv").exists(), reason="no speed of trainings on record")
def test_networks_are_compared_at_equal_gpu_time():
    """By the speeds on record, within a tenth. Where they were measured again, the poses stay: they are part of ids."""
    profile = PROFILES["open"]
    rows = [row for key in ("table1", "table2", "table5") for row in TABLES[key].rows(profile) if row.trained]
    runs = {row.label: row.runs[0] for row in rows}
    runs |= {name: profile.peer(name, 243)[0] for name in ("dstformer", "motionagformer", "ktpformer")}
    seconds = {name: round(costs.alone(run)) for name, run in runs.items()}
    assert max(seconds.values()) <= 1.1 * min(seconds.values()), seconds


def test_one_recipe_for_all_networks():
    """Augmentation and optimizer, but for peers, which have a window around every frame; rates are a network's own."""
    own = {"loss": (), "random_starts": False, "learning_rate": 1.0, "batch_frames": 1, "scaled_gradient": False}
    for profile in (PROFILES[name] for name in ("open", "smoke", "paper")):
        keys = ("table1", "table2", "table5", "curves", "rates", "leaders", "leaders_rates")
        runs = [run for key in keys for row in TABLES[key].rows(profile) if row.trained for run in row.runs]
        assert {replace(run.recipe, **own) for run in runs} == {replace(profile.recipe(), **own)}
        assert {run.recipe.random_starts for run in runs if run.network_class.mode == "seq2seq"} == {
            profile.recipe().random_starts
        }
    assert {run.recipe.optimizer for run in runs} == {"adamw"}
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
    core = [run for key in ("table1", "table7") for row in TABLES[key].rows(profile_of("open")) for run in row.runs]
    assert {run.poses for run in core} == {0, 300}
    monkeypatch.setenv("MIXSTE_POSES", "-3")
    with pytest.raises(ValueError, match="MIXSTE_POSES must be a positive number, found '-3'"):
        profile_of("smoke")
