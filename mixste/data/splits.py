"""The same clips in another joint layout, or split otherwise."""

from dataclasses import replace

from mixste.data.clips import SPLITS, PoseDataset
from mixste.data.virtual import relayout
from mixste.skeleton import Skeleton


def in_layout(dataset: PoseDataset, layout: Skeleton) -> PoseDataset:
    """The same clips with the joints of another layout, taken from human36m's seventeen (`virtual.relayout`)."""
    splits = {
        split: [
            replace(clip, keypoints=relayout(clip.keypoints, layout), poses=relayout(clip.poses, layout))
            for clip in getattr(dataset, split)
        ]
        for split in SPLITS
    }
    return replace(dataset, skeleton=layout, **splits)


def by_takes(dataset: PoseDataset) -> PoseDataset:
    """The same clips, split by takes: the last take of each action of each subject is the test, the others train."""
    last = {(clip.subject, clip.action): clip.take for clip in dataset.clips}
    train = [clip for clip in dataset.clips if clip.take != last[clip.subject, clip.action]]
    test = [clip for clip in dataset.clips if clip.take == last[clip.subject, clip.action]]
    return replace(dataset, train=train, validation=[], test=test, unseen_takes=[])


def validating(dataset: PoseDataset) -> PoseDataset:
    """The validation clips as the test, and no others: the test subjects are left out.

    A data set without a validation split is validated on its last training subject.
    """
    train, validation = dataset.train, dataset.validation
    if not validation:
        subject = train[-1].subject
        validation = [clip for clip in train if clip.subject == subject]
        train = [clip for clip in train if clip.subject != subject]
    return replace(dataset, train=train, validation=[], test=validation, unseen_takes=[])
