"""Checks a copy of a licensed data set for completeness: what it has, what is missing, and where to get it."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mixste.data import load
from mixste.data.clips import SPLITS, PoseDataset
from mixste.data.sources import human36m, humaneva, mpi_inf_3dhp
from mixste.data.sources.licensed import detectors, folder_of, missing
from mixste.io import DataError


@dataclass(frozen=True)
class Published:
    """The contents of a complete copy.

    files: patterns of the files that are read, a tuple for alternatives. keypoints: prefix of the keypoint files.
    projected: whether ground-truth keypoints can be projected, without a file. clips: {split: {subject: number}}, 0 for
    an unknown number. frames: {split: number} over all cameras, those that count in an evaluation.
    """

    title: str
    where: str
    licence: str
    files: tuple[tuple[str, ...], ...]
    keypoints: str
    projected: bool
    clips: dict[str, dict[str, int]]
    frames: dict[str, int]


PUBLISHED = {
    "human36m": Published(
        title="Human3.6M",
        where="http://vision.imar.ro/human3.6m, after registration",
        licence=human36m.LICENCE,
        files=((human36m.POSES, "S*/MyPoseFeatures/D3_Positions/*.cdf"),),
        keypoints=human36m.KEYPOINTS,
        projected=True,
        # 15 actions, two takes, four cameras, less S11's Directions, whose video is corrupted
        clips={"train": dict.fromkeys(human36m.TRAIN, 120), "test": {"S9": 120, "S11": 116}},
        frames={"train": 1_559_752, "test": 543_344},
    ),
    "humaneva": Published(
        title="HumanEva-I",
        where="http://humaneva.is.tue.mpg.de, after registration",
        licence=humaneva.LICENCE,
        files=((humaneva.POSES,),),
        keypoints=humaneva.KEYPOINTS,
        projected=False,
        clips={split: dict.fromkeys(humaneva.SUBJECTS, 0) for split in ("train", "test")},
        frames={},
    ),
    "mpi_inf_3dhp": Published(
        title="MPI-INF-3DHP",
        where="https://vcai.mpi-inf.mpg.de/3dhp-dataset, after agreeing to its terms",
        licence=mpi_inf_3dhp.LICENCE,
        files=(
            (mpi_inf_3dhp.TRAIN, "S*/Seq*/annot.mat"),
            (mpi_inf_3dhp.TEST, "TS*/annot_data.mat", "*/TS*/annot_data.mat"),
        ),
        keypoints="",
        projected=True,
        clips={
            "train": {f"S{number}": 16 for number in range(1, 9)},  # two sequences, eight cameras
            "test": {f"TS{number}": 1 for number in range(1, 7)},
        },
        frames={"train": 8 * sum(frames for frames, _ in mpi_inf_3dhp.SEQUENCES.values()), "test": 2_929},
    ),
}


@dataclass(frozen=True)
class Report:
    """The result of `check`.

    files: how many match each pattern. table: split, subject, clips, frames. problems: a sentence each; none if the
    copy is complete.
    """

    name: str
    folder: Path
    files: dict[str, int]
    detectors: list[str]
    table: pd.DataFrame
    problems: list[str]

    def __str__(self) -> str:
        published = PUBLISHED[self.name]
        lines = [
            published.title,
            f"  folder    {self.folder}",
            f"  licence   {published.licence}",
            f"  from      {published.where}",
        ]
        lines += [f"  {count or 'no':>8}  {pattern}" for pattern, count in self.files.items()]
        if self.detectors:
            lines.append(f"  keypoints {', '.join(self.detectors)}")
        if len(self.table):
            lines += ["", self.table.to_string(index=False), ""]
        # Nobody published how many clips or frames a complete copy of HumanEva gives.
        complete = "complete" if published.frames else "all subjects are here; their clips and frames are not checked"
        lines += [f"  ! {problem}" for problem in self.problems] or [f"  {complete}"]
        return "\n".join(lines)


def lacking(name: str, root=None, keypoints: str = "gt") -> list[str]:
    """The missing files of a licensed data set that `mixste.data.load` needs, alternatives joined by "or"."""
    published, folder = PUBLISHED[name], folder_of(name, root)
    needed = list(published.files)
    if not (published.projected and keypoints == "gt"):
        needed.append((f"{published.keypoints}_{keypoints}.npz",))
    return [" or ".join(files) for files in needed if not any(any(folder.glob(file)) for file in files)]


def check(name: str, root=None, keypoints: str = "gt") -> Report:
    """Find a licensed data set as `mixste.data.load` does, read it, and compare it with a complete copy.

    Missing or unreadable files are problems in the report. Raises DataError for a name that is not in PUBLISHED.
    """
    if name not in PUBLISHED:
        raise DataError(f"expected one of {', '.join(PUBLISHED)}, found {name!r}")
    published, folder = PUBLISHED[name], folder_of(name, root)
    patterns = [pattern for alternatives in published.files for pattern in alternatives]
    patterns += [f"{published.keypoints}_*.npz"] if published.keypoints else []
    files = {pattern: len(list(folder.glob(pattern))) for pattern in patterns}
    table, problems = pd.DataFrame(columns=["split", "subject", "clips", "frames"]), []
    try:
        if absent := lacking(name, root, keypoints):
            raise missing(folder, " and ".join(absent))
        table = counts(load(name, root, keypoints))
        problems = differences(table, published)
    except DataError as error:
        problems = [str(error)]
    available = detectors(folder, published.keypoints) if published.keypoints else []
    return Report(name, folder, files, available, table, problems)


def counts(dataset: PoseDataset) -> pd.DataFrame:
    """Clips and valid frames of each subject: columns split, subject, clips, frames."""
    rows = [
        {"split": split, "subject": clip.subject, "frames": len(clip) if clip.valid is None else int(clip.valid.sum())}
        for split in SPLITS
        for clip in getattr(dataset, split)
    ]
    groups = pd.DataFrame(rows).groupby(["split", "subject"], sort=False)["frames"]
    return groups.agg(clips="size", frames="sum").reset_index()


def differences(table: pd.DataFrame, published: Published) -> list[str]:
    """How the `counts` of a copy differ from those of a complete one: one sentence each, beginning with the split."""
    problems = []
    clips = table.set_index(["split", "subject"])["clips"].to_dict()
    for split, subjects in published.clips.items():
        for subject, number in subjects.items():
            count = clips.get((split, subject), 0)
            if count == 0 or (number and count != number):
                problems.append(f"{split} subject {subject}: expected {number or 'some'} clips, found {count}")
    for split, number in published.frames.items():
        count = int(table.loc[table["split"] == split, "frames"].sum())
        if count != number:
            problems.append(f"{split}: expected {number:,} frames over all cameras, found {count:,}")
    return problems
