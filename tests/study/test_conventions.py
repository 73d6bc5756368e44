"""Each convention on poses of three joints, by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mixste.camera import project
from mixste.data import Clip
from mixste.data.windows import evaluation_windows
from mixste.evaluate import average, score
from mixste.skeleton import Skeleton, human36m
from mixste.study import conventions
from mixste.study.conventions import each_frame_once, every_window, mpjpe
from mixste.study.run import Data

CHAIN = Skeleton("chain", ("a", "b", "c"), (-1, 0, 1), (), (), ("torso",) * 3, (1.0,) * 3)
F, C = 1000.0, 500.0


def clip(frames: int, about=("S1", "Walking", "1"), skeleton=CHAIN, seed=0) -> Clip:
    rng = np.random.default_rng(seed)
    poses = rng.normal(0, 0.3, (frames, len(skeleton.joints), 3)) + np.array([0.2, -0.1, 4])
    intrinsics = np.array([F, F, C, C, 0, 0, 0, 0, 0])
    subject, action, take = about
    return Clip(subject, action, "C1", 50.0, (1000, 1000), project(poses, intrinsics), poses, take, None, intrinsics)


def off(clip: Clip, millimetres, window=None, skeleton=CHAIN):
    """What lifting gives, if each frame's joints are so many millimetres too far right: (frames or 1, joints or 1)."""
    indices = evaluation_windows(len(clip), window or len(clip)).ravel()
    shift = np.broadcast_to(np.asarray(millimetres, float) / 1000, (len(clip), len(skeleton.joints)))
    poses = clip.poses - clip.poses[:, [skeleton.root]] + shift[..., None] * np.array([1.0, 0, 0])
    return indices, poses[indices]


def cases(clips, errors, window=None, count=each_frame_once):
    lifted = [off(one, error, window) for one, error in zip(clips, errors, strict=True)]
    return count(lifted, clips, CHAIN)


def windows_of_4(clip: Clip):
    return evaluation_windows(len(clip), 4).ravel()


def test_frames_that_windows_share_and_padding():
    """Five frames in windows of four are read as 0 1 2 3, 1 2 3 4, and two frames as 0 1 1 1."""
    five, two = [[10], [20], [30], [40], [50]], [[100], [200]]
    clips = [clip(5), clip(2)]
    once, often = (cases(clips, [five, two], 4, count) for count in (each_frame_once, every_window))
    assert [list(case.frames) for case in once] == [[0, 1, 2, 3, 4], [0, 1]]
    assert [list(case.frames) for case in often] == [[0, 1, 2, 3, 1, 2, 3, 4], [0, 1, 1, 1]]
    assert mpjpe(once) == pytest.approx((150 + 300) / 7)
    assert mpjpe(often) == pytest.approx((100 + 140 + 700) / 12)


def test_frames_that_are_not_valid_count_in_neither():
    one = replace(clip(5), valid=np.array([True, False, True, False, False]))
    errors = [[[10], [20], [30], [40], [50]]]
    assert mpjpe(cases([one], errors, 4)) == pytest.approx(20)
    assert mpjpe(cases([one], errors, 4, every_window)) == pytest.approx((10 + 30 + 30) / 3)
    assert cases([replace(one, valid=np.zeros(5, bool))], errors, 4) == []


@pytest.mark.parametrize(("count", "protocol"), [(each_frame_once, "exact"), (every_window, "authors")])
def test_they_are_the_protocols_of_the_evaluation(count, protocol):
    """Whose average is over actions."""
    clips = [clip(7, ("S1", "Walking", "1"), human36m), clip(3, ("S2", "Eating", "1"), human36m, seed=1)]
    rng = np.random.default_rng(2)
    lifted = [(indices, rng.normal(size=(len(indices), 17, 3))) for indices in map(windows_of_4, clips)]
    expected = average(score(lifted, clips, protocol, human36m))["MPJPE"]
    assert mpjpe(count(lifted, clips, human36m), "action") == pytest.approx(expected)


def test_averages_over_frames_actions_people_and_takes():
    about = [("S1", "Walking", "1"), ("S1", "Eating", "1"), ("S2", "Walking", "1"), ("S2", "Walking", "2")]
    clips = [clip(frames, one) for frames, one in zip((4, 2, 1, 1), about, strict=True)]
    scored = cases(clips, [10, 20, 30, 70])
    assert mpjpe(scored) == pytest.approx((40 + 40 + 30 + 70) / 8)
    assert mpjpe(scored, "action") == pytest.approx(((40 + 30 + 70) / 6 + 20) / 2)
    assert mpjpe(scored, "subject") == pytest.approx((80 / 6 + 50) / 2)
    assert mpjpe(scored, "take") == pytest.approx((110 / 7 + 70) / 2)


def test_the_root_as_predicted_at_the_origin_and_left_out():
    scored = cases([clip(2)], [[[30, 10, 20], [60, 10, 20]]])
    assert mpjpe(scored) == pytest.approx((60 + 90) / 6)
    assert mpjpe(conventions.root_at_origin(scored, CHAIN)) == pytest.approx(60 / 6)
    assert mpjpe(conventions.without_root(scored, CHAIN)) == pytest.approx(60 / 4)
    assert mpjpe(scored) == pytest.approx((60 + 90) / 6)  # unchanged


def test_clips_that_are_dropped():
    clips = [clip(5, ("S11", "Directions", "1")), clip(3, ("S11", "Directions", "2")), clip(4, ("S9", "Waiting", "1"))]
    scored = cases(clips, [10, 20, 30])
    assert mpjpe(conventions.without_short(scored, 4)) == pytest.approx((50 + 120) / 9)
    assert mpjpe(conventions.without_clips(scored, {("S11", "Directions", "1")})) == pytest.approx((60 + 120) / 7)


def test_a_joint_in_the_image_by_hand():
    """The root at (0.5, 0, 4); a joint 0.4 m right of it and 1 m nearer: at 0.9/3 of the focal length, times 4."""
    one = clip(1)
    one = replace(one, poses=np.array([[[0.5, 0, 4], [0.9, 0, 3], [0.5, -0.6, 5]]]))
    [case] = conventions.image_space(cases([one], [0]), CHAIN)
    expected = [[0, 0, 0], [4 * 0.3 - 0.5, 0, -1], [4 * 0.1 - 0.5, -0.6 * 4 / 5, 1]]
    np.testing.assert_allclose(case.truth[0], expected, atol=1e-12)
    np.testing.assert_allclose(case.poses[0], expected, atol=1e-12)
    # Of a prediction whose second joint is 30 mm too far right: 30 mm at 3 m look like 40 mm at 4 m.
    [case] = conventions.image_space(cases([one], [[0, 30, 0]]), CHAIN)
    np.testing.assert_allclose(case.errors, [[0, 40, 0]], atol=1e-9)


def test_the_truth_in_the_image_has_the_pixels_of_the_keypoints_and_the_depths_of_the_pose():
    one = clip(6)
    [case] = conventions.image_space(cases([one], [0]), CHAIN)
    pixels = one.keypoints - one.keypoints[:, :1]
    np.testing.assert_allclose(case.truth[..., :2], one.poses[:, :1, 2:] / F * pixels, atol=1e-12)
    np.testing.assert_allclose(case.truth[..., 2], one.poses[..., 2] - one.poses[:, :1, 2], atol=1e-12)


def test_the_two_truths_differ_by_some_19_mm():
    """With Human3.6M's cameras."""
    clips = Data("synthetic", subjects=("S1", "S9"), actions=("Walking", "Sitting")).load().test
    still = [(np.arange(len(one)), one.poses - one.poses[:, :1]) for one in clips]
    metres = each_frame_once(still, clips, human36m)
    image = conventions.image_space(metres, human36m)
    assert 15 < mpjpe([replace(a, poses=b.truth) for a, b in zip(metres, image, strict=True)]) < 23


def test_keypoints_in_the_place_of_x_and_y_leave_errors_of_depth():
    one = clip(3)
    indices, poses = off(one, [[0, 50, 80]])
    poses[..., 2] += np.array([0, 0.01, 0.02])
    seen = conventions.image_space(each_frame_once([(indices, poses)], [one], CHAIN), CHAIN)
    [case] = conventions.keypoints_for_x_and_y(seen, CHAIN)
    np.testing.assert_allclose(case.errors, [[0, 10, 20]] * 3, atol=1e-9)
    shifted = replace(one, keypoints=one.keypoints + np.array([[0, 0], [8, 0], [0, 0]]))  # 8 pixels at Z₀: 8 Z₀ / f
    [case] = conventions.keypoints_for_x_and_y([replace(seen[0], clip=shifted)], CHAIN)
    np.testing.assert_allclose(case.errors[:, 1], np.hypot(8 * one.poses[:, 0, 2] / F * 1000, 10), atol=1e-9)
    with pytest.raises(ValueError, match="S1/Walking/1/C1: expected the camera's intrinsics, found none"):
        conventions.keypoints_for_x_and_y([replace(seen[0], clip=replace(one, intrinsics=None))], CHAIN)


def test_the_best_of_several_hypotheses_for_a_pose_and_for_each_joint():
    one = [clip(2)]
    first, second = [[0, 30, 60], [10, 10, 10]], [[40, 20, 15], [-40, 0, 80]]
    hypotheses = [cases(one, [first]), cases(one, [second])]
    assert [mpjpe(hypothesis) for hypothesis in hypotheses] == pytest.approx([120 / 6, 195 / 6])
    assert mpjpe(conventions.best_pose(hypotheses)) == pytest.approx((75 + 30) / 6)
    assert mpjpe(conventions.best_joints(hypotheses)) == pytest.approx((0 + 20 + 15 + 10 + 0 + 10) / 6)
    assert mpjpe(conventions.mean_hypothesis(hypotheses)) == pytest.approx((20 + 25 + 37.5 + 15 + 5 + 45) / 6)


def table(*rows):
    return pd.DataFrame(rows, columns=["subject", "action", "take", "frames", "error"])


def test_of_means_over_people_each_contributes_the_difference_of_its_own():
    ours = table(("a", "x", "1", 1, 10.0), ("a", "y", "1", 3, 30.0), ("b", "x", "1", 2, 50.0), ("c", "x", "1", 5, 40.0))
    theirs = ours.assign(error=[12.0, 30.0, 44.0, 40.0])
    change = conventions.change_by_person(theirs, ours, "subject", "subject")
    assert change.to_dict() == pytest.approx({"a": 0.5, "b": -6.0, "c": 0.0})
    assert conventions.change_by_person(theirs[:2], ours[:2]).to_dict() == pytest.approx({"a": 0.5})


def test_of_other_means_it_is_the_jackknife():
    """Over frames (10 + 3 · 40) / 4 = 32.5, over people 25. Of one person both means are the same, so that each
    pseudo-value is 2 · 7.5 − 0, shifted to a mean of 7.5."""
    two = table(("a", "x", "1", 1, 10.0), ("b", "x", "1", 3, 40.0))
    assert conventions.change_by_person(two, two, None, "subject").to_dict() == pytest.approx({"a": 7.5, "b": 7.5})
    three = table(*two.itertuples(index=False), ("c", "x", "1", 4, 0.0))
    change = conventions.change_by_person(three, three, None, "subject")  # 130/8 − 50/3; without c 7.5
    whole, without = 130 / 8 - 50 / 3, [120 / 7 - 20, 10 / 5 - 5, 7.5]
    values = np.array([3 * whole - 2 * other for other in without])
    np.testing.assert_allclose(change, values - values.mean() + whole)
