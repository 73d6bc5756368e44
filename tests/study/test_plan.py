"""The plan as data: every table's rows, with the paper's numbers, and no run twice."""

import pytest

from mixste.study.plan import PLAN, PROFILES, distinct
from mixste.study.published import published


@pytest.mark.parametrize("name", PROFILES)
def test_distinct_runs(name):
    """Counted by hand for one seed: 5 in Table 1, 3 in 2, 2 in 3, 7 and two pretrainings in 4; 3 new ones in 5, four in
    6, ten in 7, and eleven in notebook 13. The full model is a row of 1, 5, 6 and 7, the start of a row of 4, and the
    base of 13."""
    profile = PROFILES[name]
    found = distinct(profile)
    assert len(found) == len(set(found)) == len(profile.seeds) * (5 + 3 + 2 + 9 + 3 + 4 + 10 + 11)
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


def test_table_7_maps_every_size():
    for profile in PROFILES.values():
        for sizes, column in ((profile.frames, "frames"), (profile.dims, "dim"), (profile.depths, "depth")):
            assert set(published(7)[column]) <= set(sizes)
            assert list(sizes.values()) == sorted(set(sizes.values())), "stand-ins keep the paper's order"


def test_only_the_paper_profile_is_comparable():
    assert [name for name, profile in PROFILES.items() if profile.comparable] == ["paper"]
    assert PROFILES["paper"].full()[0].options == (("depth", 8), ("dim", 512), ("heads", 8))
    assert PROFILES["paper"].full()[0].frames == 243
