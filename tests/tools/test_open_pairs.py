"""Two people whose errors are known."""

from dataclasses import replace

import numpy as np
import open_pairs
import pandas as pd
import pytest

from mixste.data.sources.synthetic import perform
from mixste.io.weights import bundled_file
from mixste.wild.outputs import Lifted, World


@pytest.fixture(scope="module")
def pair():
    """Two walkers, and their true places as if they had been lifted."""
    worlds = [
        open_pairs.beside(perform(name, "Walking", "1")[:80].astype(float), (x, 0))
        for name, x in (("S1", -1), ("S8", 1))
    ]
    rotation, position = open_pairs.camera(np.random.default_rng(0))
    contacts, filled = np.ones((80, 2), dtype=bool), np.zeros((80, 17), dtype=bool)
    people = [
        Lifted("a", 50.0, (1, 1), world[..., :2], world, filled, world=World(world, contacts, 1.0, rotation, position))
        for world in worlds
    ]
    return people, worlds, rotation[2]


def test_true_places_have_no_errors(pair):
    assert list(open_pairs.errors_of(*pair).values()) == pytest.approx([0, 0, 0, 0], abs=1e-5)


def test_known_errors_are_measured(pair):
    people, worlds, up = pair
    moved = replace(people[1].world, poses=people[1].world.poses + np.array([0.3, 0, 0.05]))
    values = open_pairs.errors_of([people[0], replace(people[1], world=moved)], worlds, up)
    assert values["heights of the floor apart, mm"] == pytest.approx(50, abs=1e-6)
    assert values["distance off, m"] == pytest.approx(0.3, abs=0.1)  # mostly to the side
    larger = replace(people[1].world, poses=people[1].world.poses * 1.1)
    values = open_pairs.errors_of([people[0], replace(people[1], world=larger)], worlds, up)
    assert values["ratio of sizes off, %"] == pytest.approx(100 * np.log(1.1))
    assert values["tilt, degrees"] == pytest.approx(0, abs=1e-5)


def test_who_leaves_the_image_is_not_seen(pair):
    _, worlds, _ = pair
    rotation, position = open_pairs.camera(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    assert len(open_pairs.seen(worlds[0], rotation, position, rng).people) == 80
    assert open_pairs.seen(worlds[0] + [5, 0, 0], rotation, position, rng) is None
    assert open_pairs.seen(worlds[0] - [0, 10, 0], rotation, position, rng) is None


@pytest.mark.parametrize("name", pd.read_csv(open_pairs.RESULT)["weights"].unique())
def test_the_card_shows_what_was_measured(name):
    table = open_pairs.markdown(pd.read_csv(open_pairs.RESULT).query("weights == @name"))
    assert table in bundled_file(name).with_suffix(".md").read_text(encoding="utf-8")
