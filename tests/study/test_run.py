"""What a run reads: the clips that `Data` chooses."""

from dataclasses import replace

import numpy as np
from test_trainer import DATA

import mixste.data
from mixste.data.splits import validating
from mixste.skeleton import SKELETONS
from mixste.study import run as run_module


def test_other_layouts_take_their_joints_by_name():
    dataset = DATA.load()
    stand_in = replace(DATA, skeleton="humaneva15").load()
    assert stand_in.skeleton is SKELETONS["humaneva15"]
    for name in ("LKnee", "RWrist", "LShoulder"):
        here, there = (one.skeleton.joints.index(name) for one in (dataset, stand_in))
        np.testing.assert_array_equal(stand_in.test[0].poses[:, there], dataset.test[0].poses[:, here])
        np.testing.assert_array_equal(stand_in.test[0].keypoints[:, there], dataset.test[0].keypoints[:, here])


def test_validating_never_touches_the_test_people():
    wanted = replace(DATA, subjects=("S1", "S5", "S8", "S9"))
    dataset = wanted.load()
    last = validating(dataset)  # the source sets nobody apart
    assert ({clip.subject for clip in last.train}, {clip.subject for clip in last.test}) == ({"S1", "S5"}, {"S8"})
    loaded = replace(wanted, split="validation").load()
    assert ({clip.subject for clip in loaded.train}, {clip.subject for clip in loaded.test}) == ({"S1", "S5"}, {"S8"})
    apart = validating(replace(dataset, validation=dataset.train[:2], train=dataset.train[2:]))
    assert (apart.train, apart.test) == (dataset.train[2:], dataset.train[:2])


def test_unseen_takes_are_seen_by_the_cameras_of_the_test():
    own = replace(DATA, test_cameras=0).load()
    keeping = run_module.select(replace(own, train=own.train[8:], unseen_takes=own.train[:8]), DATA)
    assert {clip.camera for clip in own.train[:8]} > {clip.camera for clip in keeping.unseen_takes}
    assert {clip.camera for clip in keeping.unseen_takes} == {clip.camera for clip in keeping.test}


def test_the_study_reads_open_people_whole_or_not_at_all(monkeypatch):
    asked = {}
    monkeypatch.setattr(mixste.data, "load", lambda name, **options: asked.update({name: options}) or DATA.load())
    for source in ("open-people", "open-styles"):
        run_module._source.__wrapped__(source, "gt", None)
    assert asked == {"open-people": {"keypoints": "gt", "strict": True}, "open-styles": {"keypoints": "gt"}}


def test_fewer_frames_are_of_training_alone():
    whole, fewer = DATA.load(), replace(DATA, train_frames=100).load()
    for camera in {clip.camera for clip in whole.train}:
        assert sum(len(clip) for clip in fewer.train if clip.camera == camera) == 100
    assert fewer.test == whole.test
    assert replace(DATA, train_frames=100).fingerprint != DATA.fingerprint
