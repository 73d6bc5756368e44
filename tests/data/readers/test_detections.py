"""Who is who, and what was missed: small cases worked by hand."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixste.data import DataError
from mixste.data.readers.detections import BY_COUNT, LAYOUTS, MADE_OF, Detections, fill_gaps, follow, to_human36m
from mixste.skeleton import human36m

NAMES = ("Nose", "LHip", "RHip")  # three points are enough to tell people apart


def person(x, size=100.0, score=1.0):
    return [(x, 0.0, score), (x - size / 2, size, score), (x + size / 2, size, score)]


def seen(frames, ids=None) -> Detections:
    people = [np.array(frame, dtype=float).reshape(-1, 3, 3) for frame in frames]
    return Detections("clip", NAMES, people, (1000, 1000), ids=ids)


# --- layouts ---------------------------------------------------------------------------------------------------


def test_layouts_have_the_points_their_numbers_say():
    assert {name: len(LAYOUTS[name]) for name in LAYOUTS} == {
        "human36m": 17, "coco17": 17, "body18": 18, "body25": 25, "body25b": 25, "halpe26": 26, "mediapipe33": 33
    }  # fmt: skip
    assert all(len(LAYOUTS[name]) == count for count, name in BY_COUNT.items())
    assert all(len(set(names)) == len(names) for names in LAYOUTS.values())


def test_every_joint_is_a_weighted_mean_and_the_two_sides_are_made_alike():
    def mirrored(name):
        return {"L": "R", "R": "L"}.get(name[0], name[0]) + name[1:] if name[0] in "LR" else name

    for name, rows in MADE_OF.items():
        assert name in human36m.joints
        for row in rows:
            assert sum(row.values()) == pytest.approx(1)
        other = [{mirrored(point): weight for point, weight in row.items()} for row in rows]
        assert all(row in MADE_OF[mirrored(name)] for row in other)
    assert set(human36m.joints) - set(MADE_OF) == {"Spine"}


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "human36m"])
def test_every_layout_gives_every_joint_wherever_the_person_is(layout):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(4, len(LAYOUTS[layout]), 2))
    joints = to_human36m(points, LAYOUTS[layout])
    assert np.isfinite(joints).all()
    np.testing.assert_allclose(to_human36m(points * 3 + [5, -7], LAYOUTS[layout]), joints * 3 + [5, -7])


def test_the_next_best_stands_in_for_what_is_unseen():
    names = LAYOUTS["coco17"]
    points = np.random.default_rng(1).normal(size=(3, 17, 2))
    points[1, names.index("REar")] = np.nan
    points[2, [names.index(name) for name in ("LEar", "REar", "LEye")]] = np.nan
    head = to_human36m(points, names)[:, 10]
    shoulders = (points[:, names.index("LShoulder")] + points[:, names.index("RShoulder")]) / 2

    def beyond(frame, place):
        return shoulders[frame] + 1.5 * (place - shoulders[frame])

    ears = points[0, [names.index("LEar"), names.index("REar")]].mean(axis=0)
    np.testing.assert_allclose(head[0], beyond(0, ears))
    eyes = points[1, [names.index("LEye"), names.index("REye")]].mean(axis=0)
    np.testing.assert_allclose(head[1], beyond(1, eyes))
    np.testing.assert_allclose(head[2], beyond(2, points[2, names.index("Nose")]))


def test_human36m_stays_as_it_is():
    points = np.random.default_rng(2).normal(size=(3, 17, 2))
    np.testing.assert_array_equal(to_human36m(points, human36m.joints), points)


# --- people ----------------------------------------------------------------------------------------------------


def test_people_are_followed_by_where_they_were():
    # Two cross the image in opposite directions; the detector lists them in changing order.
    left = [person(100 + 20 * frame) for frame in range(10)]
    right = [person(900 - 20 * frame, size=80) for frame in range(10)]
    frames = [[a, b] if frame % 2 else [b, a] for frame, (a, b) in enumerate(zip(left, right, strict=True))]
    points, people = follow(seen(frames))
    assert people == 2
    np.testing.assert_allclose(points[:, 0, 0], 100 + 20.0 * np.arange(10))
    points, _ = follow(seen(frames), person=1)
    np.testing.assert_allclose(points[:, 0, 0], 900 - 20.0 * np.arange(10))


def test_the_person_of_interest_is_large_and_long_in_view():
    frames = [[person(100, size=50)] for _ in range(10)]
    frames[4].append(person(700, size=300))  # larger, for one frame
    points, people = follow(seen(frames))
    assert people == 2
    np.testing.assert_allclose(points[:, 0, 0], 100)
    frames = [[person(100, size=50), person(700, size=300)]] * 3 + [[person(100, size=50)]] * 3
    points, _ = follow(seen(frames))
    np.testing.assert_allclose(points[:, 0, 0], [700, 700, 700, np.nan, np.nan, np.nan])


@pytest.mark.parametrize("lost", [(), (9, 10, 11)])
def test_people_who_pass_through_each_other_stay_who_they_are(lost):
    frames = [[] if k in lost else [person(500 - 50 * k), person(50 * k - 500)][:: 1 - 2 * (k % 2)] for k in range(21)]
    places, people = follow(seen(frames))
    assert people == 2
    expected = [np.nan if k in lost else 500 - 50 * k for k in range(21)]
    np.testing.assert_array_equal(places[:, 0, 0], expected)


def test_who_comes_back_where_they_left_is_the_same():
    points, people = follow(seen([[person(100)], [], [], [person(110)], [person(800)]]))
    assert people == 2
    np.testing.assert_allclose(points[:, 0, 0], [100, np.nan, np.nan, 110, np.nan])


def test_the_detectors_own_ids_win():
    # They change places in one frame: only the ids know.
    frames = [[person(100), person(900)], [person(900), person(100)]]
    points, _ = follow(seen(frames, ids=[["a", "b"], ["a", "b"]]))
    np.testing.assert_allclose(points[:, 0, 0], [100, 900])
    frames.append([person(100)])
    points, people = follow(seen(frames, ids=[["a", "a"], ["a", "a"], ["a"]]))  # told apart by nothing: by place
    assert people == 2
    np.testing.assert_allclose(points[:, 0, 0], [100, 100, 100])


def test_ids_that_some_lack_or_share_do_not_mix_people():
    frames = [[person(100), person(500), person(900)]] * 2 + [[person(900), person(100), person(500)]] * 2
    ids = [["a", None, "b"], ["a", None, "b"], ["b", "a", None], ["b", "b", "a"]]  # at last two are b, and 500 is a
    points, people = follow(seen(frames, ids=ids))
    assert people == 5
    np.testing.assert_allclose(points[:, 0, 0], [100, 100, 100, 500])
    points, _ = follow(seen(frames, ids=ids), person=1)
    np.testing.assert_allclose(points[:, 0, 0], [500, 500, 500, np.nan])


def test_who_comes_back_after_long_is_somebody_else():
    frames = [[person(100)]] * 20 + [[]] * 19 + [[person(100)]] * 5
    assert follow(seen(frames))[1] == 1  # as long as they were in view
    assert follow(seen([*frames[:20], *[[]] * 21, *frames[-5:]]))[1] == 2


def test_one_large_mistake_does_not_outrank_a_person():
    frames = [[person(100, size=200)] for _ in range(10)]
    frames[3].append(person(700, size=400))
    frames[4] = [person(100, size=50_000)]  # in an image of 1000 pixels
    points, people = follow(seen(frames))
    assert people == 3
    np.testing.assert_allclose(np.delete(points[:, 0, 0], 4), 100)


@pytest.mark.slow
def test_people_are_followed_in_time_linear_in_the_frames():
    """Three false people flicker at random places in each frame; each is one more to tell apart."""
    rng = np.random.default_rng(0)

    def seconds(frames):
        others = rng.uniform(0, 2000, (frames, 3, 1, 2)) + np.array(person(0))[:, :2]
        walk = [[person(1000 + 0.01 * k), *np.insert(three, 2, 1, axis=2)] for k, three in enumerate(others)]
        started = time.perf_counter()
        points, _ = follow(seen(walk))
        np.testing.assert_allclose(points[:, 0, 0], 1000 + 0.01 * np.arange(frames))
        return time.perf_counter() - started

    assert seconds(10_000) < max(10, 20 * seconds(1000))


def test_people_without_a_point_are_nobody():
    ghost = person(500, score=0.0)
    points, people = follow(seen([[person(100)], [ghost, person(110), person(800)], [person(300), person(120)]]))
    assert people == 3
    np.testing.assert_allclose(points[:, 0, 0], [100, 110, 120])


def test_points_with_a_low_score_are_unseen():
    one = person(100)
    one[1] = (*one[1][:2], 0.01)
    points, _ = follow(seen([[one]]))
    assert np.isfinite(points[0]).all(axis=-1).tolist() == [True, False, True]


def test_asking_for_more_people_than_there_are():
    with pytest.raises(DataError, match="expected person 1, found 1 in the clip"):
        follow(seen([[person(5)]]), person=1)
    with pytest.raises(DataError, match="expected a person, found nobody with a detected point in any frame"):
        follow(seen([[], [person(5, score=0.0)]]))


# --- gaps ------------------------------------------------------------------------------------------------------


def test_short_gaps_are_straight_lines_and_long_ones_stay():
    x = [np.nan, 2.0, np.nan, np.nan, 8.0, np.nan, np.nan, np.nan, 0.0, np.nan, np.nan]
    points = np.stack([x, np.multiply(x, -1)], axis=-1)[:, None]
    filled = fill_gaps(points, limit=2)
    np.testing.assert_allclose(filled[:, 0, 0], [2, 2, 4, 6, 8, np.nan, np.nan, np.nan, 0, 0, 0])
    np.testing.assert_allclose(filled[:, 0, 1], np.negative(filled[:, 0, 0]))
    np.testing.assert_allclose(fill_gaps(points)[5:8, 0, 0], [6, 4, 2])
    assert np.isnan(points[0]).all()  # the input is untouched


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 6))
def test_gaps_are_filled_by_their_length_alone(missing, limit):
    points = np.arange(len(missing), dtype=float)[:, None, None] * np.array([1.0, 2.0])
    points[np.array(missing)] = np.nan
    filled = fill_gaps(points, limit)[:, 0, 0]
    if all(missing):
        assert np.isnan(filled).all()
        return
    runs = "".join("x" if gone else "." for gone in missing)
    for frame, gone in enumerate(missing):
        length = len(runs[: frame + 1].split(".")[-1]) + len(runs[frame + 1 :].split(".")[0]) if gone else 0
        assert np.isfinite(filled[frame]) == (length <= limit)
