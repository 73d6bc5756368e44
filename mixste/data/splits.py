"""Other views of a dataset: other joints, other people to test on."""

from dataclasses import replace

from mixste.data.clips import PoseDataset
from mixste.data.virtual import relayout
from mixste.skeleton import Skeleton


def in_layout(dataset: PoseDataset, layout: Skeleton) -> PoseDataset:
    """The same clips with the joints of another layout, as far as human36m's seventeen can stand for them."""
    splits = {
        split: [
            replace(clip, keypoints=relayout(clip.keypoints, layout), poses=relayout(clip.poses, layout))
            for clip in getattr(dataset, split)
        ]
        for split in ("train", "validation", "test")
    }
    return replace(dataset, skeleton=layout, **splits)


def by_takes(dataset: PoseDataset) -> PoseDataset:
    """The same clips, split so that the last take of each person's action is the test and the others train."""
    last = {(clip.subject, clip.action): clip.take for clip in dataset.clips}
    tests = [clip.take == last[clip.subject, clip.action] for clip in dataset.clips]
    chosen = {True: [], False: []}
    for clip, test in zip(dataset.clips, tests, strict=True):
        chosen[test].append(clip)
    return replace(dataset, train=chosen[False], validation=[], test=chosen[True])


def validating(dataset: PoseDataset) -> PoseDataset:
    """The same training clips, with those for validation as the test; its own test people are seen by nobody."""
    train, test = dataset.train, dataset.validation
    if not test:
        last = train[-1].subject
        train, test = ([clip for clip in train if (clip.subject == last) is held] for held in (False, True))
    return replace(dataset, train=train, validation=[], test=test)
