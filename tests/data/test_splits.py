"""Other layouts and splits of a data set, on a handful of clips whose split is known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mixste.data import Clip, DataError, PoseDataset
from mixste.data.splits import PIECE, by_takes, equal_shares, in_layout, thinned, validating
from mixste.skeleton import SKELETONS, human36m

RNG = np.random.default_rng(0)


def clip(subject, action="Walk", take="", camera="C1", frames=3) -> Clip:
    keypoints, poses = RNG.normal(size=(frames, 17, 2)), RNG.normal(size=(frames, 17, 3))
    return Clip(subject, action, camera, 50.0, (1000, 1000), keypoints, poses, take=take)


def dataset(train, test=(), validation=()) -> PoseDataset:
    return PoseDataset("toy", "toy", human36m, list(train), list(test), "none", validation=list(validation))


def names(clips) -> list[str]:
    return [clip.name for clip in clips]


# --- layouts


@pytest.mark.parametrize("layout", SKELETONS.values(), ids=SKELETONS)
def test_joints_of_one_name_are_one_joint(layout):
    """Keypoints and poses alike, in every split; only names that mean the same place in all layouts are compared."""
    data = dataset([clip("S1")], [clip("S9"), clip("S11")], [clip("S8")])
    other = in_layout(data, layout)
    assert other.skeleton is layout
    for split in ("train", "validation", "test"):
        assert names(getattr(other, split)) == names(getattr(data, split))
    for joint in ("LHip", "RKnee", "LShoulder", "RElbow", "LWrist", "RWrist"):
        here, there = human36m.joints.index(joint), layout.joints.index(joint)
        for before, after in zip(data.clips, other.clips, strict=True):
            np.testing.assert_array_equal(after.keypoints[:, there], before.keypoints[:, here])
            np.testing.assert_array_equal(after.poses[:, there], before.poses[:, here])
    for before, after in zip(data.clips, other.clips, strict=True):  # the roots are one place in all three layouts
        np.testing.assert_array_equal(after.poses[:, layout.root], before.poses[:, human36m.root])


def test_the_data_set_that_was_given_is_left_as_it_was():
    data = dataset([clip("S1")])
    before = data.fingerprint
    in_layout(data, SKELETONS["humaneva15"])
    by_takes(dataset([clip("S1", take="1"), clip("S1", take="2")]))
    assert (data.fingerprint, data.skeleton) == (before, human36m)


# --- splits


def test_the_last_take_of_each_subject_and_action_is_the_test():
    data = dataset(
        [
            clip("S1", "Walk", "1"),
            clip("S1", "Walk", "2"),
            clip("S1", "Sit", "1"),
            clip("S1", "Sit", "2", "C1"),
            clip("S1", "Sit", "2", "C2"),
        ],
        [clip("S9", "Walk", "2"), clip("S9", "Walk", "3")],
        [clip("S8", "Walk", "1"), clip("S8", "Walk", "2")],
    )
    split = by_takes(data)
    assert names(split.train) == ["S1/Walk/1/C1", "S1/Sit/1/C1", "S8/Walk/1/C1", "S9/Walk/2/C1"]
    assert names(split.test) == ["S1/Walk/2/C1", "S1/Sit/2/C1", "S1/Sit/2/C2", "S8/Walk/2/C1", "S9/Walk/3/C1"]
    assert split.validation == []


def test_unseen_takes_follow_a_layout_and_a_selection_and_leave_with_other_splits():
    plain = dataset([clip("S1", take="1"), clip("S5")], [clip("S9")], [clip("S8")])
    data = replace(plain, unseen_takes=[clip("S1", take="2")])
    assert names(data.clips) == [*names(plain.clips), "S1/Walk/2/C1"]
    assert data.fingerprint != plain.fingerprint == replace(plain, unseen_takes=[]).fingerprint
    other = in_layout(data, SKELETONS["humaneva15"])
    assert other.unseen_takes[0].poses.shape[1] == 15
    assert names(data.select(subjects=["S1"]).unseen_takes) == ["S1/Walk/2/C1"]
    assert data.select(subjects=["S5"]).unseen_takes == []
    assert validating(data).unseen_takes == []
    assert names(by_takes(data).test).count("S1/Walk/2/C1") == 1
    assert by_takes(data).unseen_takes == []


def test_validation_clips_become_the_test_and_the_test_subjects_are_gone():
    data = dataset([clip("S1"), clip("S5")], [clip("S9")], [clip("S8")])
    split = validating(data)
    assert (split.train, split.test, split.validation) == (data.train, data.validation, [])
    assert "S9" not in split.subjects


def test_without_a_validation_split_the_last_training_subject_validates():
    """Every clip of that subject, wherever it stands."""
    data = dataset([clip("S5", "Sit"), clip("S1"), clip("S5", "Walk")], [clip("S9")])
    split = validating(data)
    assert (names(split.train), names(split.test)) == (["S1/Walk/C1"], ["S5/Sit/C1", "S5/Walk/C1"])
    assert split.validation == []


# --- fewer frames


def frames_of(clips) -> dict[str, int]:
    """Frames of each subject, in its first camera."""
    totals = {}
    for one in clips:
        totals[one.subject] = totals.get(one.subject, 0) + len(one) * (one.camera == "C1")
    return totals


@pytest.mark.parametrize(
    ("frames", "shares"),
    [
        (90, {"thin": 30, "middle": 30, "rich": 30}),
        (200, {"thin": 40, "middle": 80, "rich": 80}),
        (301, {"thin": 40, "middle": 100, "rich": 161}),
        (1140, {"thin": 40, "middle": 100, "rich": 1000}),
    ],
)
def test_shares_are_equal_as_far_as_the_frames_go(frames, shares):
    clips = [clip("rich", take=str(take), frames=250) for take in range(4)]
    clips += [clip("thin", frames=40), clip("middle", take="1", frames=60), clip("middle", take="2", frames=40)]
    assert frames_of(equal_shares(clips, frames)) == shares
    with pytest.raises(DataError, match="expected at least 1,141 frames of rich, thin, middle, found 1,140"):
        equal_shares(clips, 1141)


def test_a_share_has_parts_of_several_takes_and_is_in_every_larger_one():
    """All cameras see the same frames, though one recorded a frame more."""
    clips = [clip("S1", take=str(take), camera=f"C{camera}", frames=499 + camera) for take in "ab" for camera in (1, 2)]
    numbered = []  # frame k of a take has k in every coordinate
    for one in clips:
        count = np.arange(len(one), dtype=float)[:, None, None]
        numbered.append(replace(one, poses=count + np.zeros((1, 17, 3)), valid=count[:, 0, 0] % 2 == 0))

    def places(frames, camera):
        parts = [one for one in equal_shares(numbered, frames) if one.camera == camera]
        assert max(map(len, parts)) <= PIECE
        for one in parts:
            np.testing.assert_array_equal(one.valid, one.poses[:, 0, 0] % 2 == 0)
        return {(one.take, int(frame)) for one in parts for frame in one.poses[:, 0, 0]}

    smaller, larger, every = (places(frames, "C1") for frames in (200, 400, 1000))
    assert (len(smaller), len(larger), len(every)) == (200, 400, 1000)
    assert smaller < larger < every
    assert {take for take, _ in larger} == {"a", "b"}
    assert places(400, "C2") == larger == places(400, "C1")


def test_every_nth_frame_is_kept_of_everything_in_a_clip():
    first = replace(clip("S1", frames=7), valid=np.array([1, 0, 0, 1, 1, 0, 0], dtype=bool))
    data = dataset([first], [clip("S9", frames=2)], [clip("S8", frames=4)])
    kept = thinned(replace(data, unseen_takes=[clip("S1", take="2")]), 3)
    assert [len(one) for one in kept.clips] == [3, 2, 1, 1]
    [one] = kept.train
    np.testing.assert_array_equal(one.poses, first.poses[[0, 3, 6]])
    np.testing.assert_array_equal(one.keypoints, first.keypoints[[0, 3, 6]])
    assert one.valid.tolist() == [True, True, False]
    assert (one.fps, one.name) == (50 / 3, first.name)
