"""The same clips in another joint layout, split otherwise, or fewer frames of them."""

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import numpy as np

from mixste.data.clips import SPLITS, Clip, PoseDataset
from mixste.data.virtual import relayout
from mixste.io import DataError
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


PIECE = 243  # frames: the paper's longest window


def equal_shares(clips: list[Clip], frames: int) -> list[Clip]:
    """Pieces of the clips with `frames` frames in all, as equally many of each subject as there are.

    A frame counts once, however many cameras see it. A subject with fewer frames than its share gives all of them, and
    the others share the rest. The takes of a subject are cut into pieces of at most `PIECE` frames, which are taken in
    an order that is random but always the same, so that a small share has parts of several takes, and a larger one
    contains a smaller one. DataError if the clips have fewer frames in all.
    """
    takes: dict[str, dict[tuple[str, str], list[Clip]]] = defaultdict(lambda: defaultdict(list))
    for clip in clips:
        takes[clip.subject][clip.action, clip.take].append(clip)
    available = {
        subject: sum(min(map(len, views)) for views in of_subject.values()) for subject, of_subject in takes.items()
    }
    if frames > sum(available.values()):
        raise DataError(f"expected at least {frames:,} frames of {', '.join(takes)}, found {sum(available.values()):,}")
    chosen, left = [], frames
    for place, subject in enumerate(sorted(available, key=available.get)):
        share = min(available[subject], left // (len(available) - place))
        chosen += _pieces(list(takes[subject].values()), share)
        left -= share
    return chosen


def _pieces(takes: list[list[Clip]], frames: int) -> list[Clip]:
    """The first `frames` frames of the pieces of a subject's takes, in random order, seen by all cameras of a take."""
    pieces = []
    for views in takes:
        length = min(map(len, views))
        edges = np.linspace(0, length, -(-length // PIECE) + 1).astype(int).tolist()
        pieces += [(views, start, stop) for start, stop in pairwise(edges)]
    chosen = []
    for index in np.random.default_rng(0).permutation(len(pieces)):
        views, start, stop = pieces[index]
        part = slice(start, min(stop, start + frames))
        frames -= part.stop - part.start
        if part.stop > part.start:
            chosen += [view.part(part) for view in views]
    return chosen


def thinned(dataset: PoseDataset, stride: int) -> PoseDataset:
    """Every `stride`-th frame of each clip, from the first on; the frame rate is divided by `stride`."""
    if stride == 1:
        return dataset
    return replace(
        dataset,
        **{split: [clip.part(slice(None, None, stride)) for clip in getattr(dataset, split)] for split in SPLITS},
    )
