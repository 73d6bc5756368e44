"""The paper's method and its two peers on the same test takes: what Figures 3, 4 and 6 compare."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mixste.metrics import error_variance
from mixste.skeleton import Skeleton
from mixste.study import records, tidy, trainer
from mixste.study.profiles import Profile
from mixste.study.records import Record
from mixste.study.report import AT_LEVEL, absent_note, trains
from mixste.study.run import Run
from mixste.study.store import NotHere
from mixste.study.tables import Table

# The methods of Figures 3, 4 and 6, each with the T it was published with: rows of Table 1, by key.
METHODS = {"VideoPose3D": "videopose3d-243", "PoseFormer": "poseformer-81", "MixSTE": "mixste-243"}


def runs(table: Table, profile: Profile) -> dict[str, tuple[Run, ...]]:
    """The runs of `METHODS`, one a seed, from one detector's keypoints. table: Table 1."""
    return {name: table.row(profile, key).runs for name, key in METHODS.items()}


class Sound(list[Record]):
    """The records of a method's runs, without failed ones, which `note` mentions; it is empty if there are none."""

    def __init__(self, seeds: tuple[Run, ...], kept: dict[Run, Record]):
        own = [kept[run] for run in seeds if run in kept]
        super().__init__(record for record in own if not record.failed)
        self.note = absent_note(len(seeds), own)


def sound(table: Table, profile: Profile) -> dict[str, Sound]:
    """By method, the records of its runs, without failed ones."""
    wanted = runs(table, profile)
    kept = records.find([run for seeds in wanted.values() for run in seeds], profile.name)
    return {name: Sound(seeds, kept) for name, seeds in wanted.items()}


def compared(table: Table, profile: Profile, train: bool | None = None, partial: bool = False) -> dict[str, Sound]:
    """`sound`, after training missing runs. NotHere if a method has no record, or, if partial, where none has one.

    train: whether to train, see `mixste.study.report.ready`. partial: leave out methods without a record.
    """
    if trains(profile, train):
        trainer.make_all([run for seeds in runs(table, profile).values() for run in seeds], title="methods compared")
    kept = sound(table, profile)
    missing = [name for name in kept if not kept[name]]
    if missing and not (partial and len(missing) < len(kept)):
        raise NotHere(
            f"no training of {', '.join(missing)} of profile {profile.name} is in the store or among the published "
            "records, or all of them failed: `mixste reproduce` trains them"
        )
    return {name: own for name, own in kept.items() if own}


def by_seed(seeds: list[Record], value: Callable[[Record], pd.Series]) -> pd.DataFrame:
    """(takes, seeds), from a function that gives a value for each take of a record."""
    return pd.DataFrame({record.spec.seed: value(record) for record in seeds})


def categories(skeleton: Skeleton) -> dict[str, list[int]]:
    """The joint categories of Figure 4: a left and a right joint form one, each joint of the midline its own."""
    of_name: dict[str, list[int]] = {}
    for joint, name in enumerate(skeleton.joints):
        sided = joint in skeleton.left + skeleton.right
        name = name[1:] if sided else f"{name} (root)" if joint == skeleton.root else name
        of_name.setdefault(name, []).append(joint)
    return of_name


def variance_by_take(seeds: list[Record], groups: list[list[int]]) -> pd.DataFrame:
    """(takes, seeds), values whose mean over poses is VAR. of the mean errors of these groups of joints.

    It is linear in the errors of the takes: the first-order approximation at the means (the delta method), so that its
    interval is that of VAR.
    """
    errors = [by_seed(seeds, lambda record, group=group: record.joints.iloc[:, group].mean(axis=1)) for group in groups]
    means = np.array([np.average(of_group.mean(axis=1), weights=seeds[0].frames) for of_group in errors])
    slopes = (means - means.mean()) / len(means) * 2 / 10  # of VAR. by each mean
    changes = [slope * (of_group - mean) for slope, of_group, mean in zip(slopes, errors, means, strict=True)]
    return error_variance(means) + sum(changes)


def named(name: str, methods: dict[str, Sound]) -> str:
    """A method as figures name it.

    A second line says where some of its seeds failed or are not trained, or a network is at the level of a constant
    pose.
    """
    flags = [tidy.absent(methods[name].note), _at_level(methods[name])]
    return "\n".join(filter(None, [name, ", ".join(filter(None, flags))]))


def _at_level(seeds: list[Record]) -> str:
    return AT_LEVEL if any(record.at_constant_level for record in seeds) else ""


def about(name: str, methods: dict[str, Sound], against: str = "") -> dict[str, str]:
    """The columns of a tidy table that say whose value it is; against: the method that it is the difference to."""
    notes = {method: [methods[method].note, _at_level(methods[method])] for method in (name, against) if method}
    faults = [fault if method == name else f"{method}: {fault}" for method in notes for fault in notes[method] if fault]
    ids = " ".join(record.id for record in methods[name])
    return {"row": name, "against": against, "runs": ids, "protocol": "exact", "note": "; ".join(faults)}
