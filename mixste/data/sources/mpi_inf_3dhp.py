"""MPI-INF-3DHP (Mehta et al. 2017), from the field's two archives or the original annotations."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mixste.data.clips import Clip, PoseDataset
from mixste.data.readers.foreign import CAMERAS, read_foreign
from mixste.data.sources.licensed import cut, expect, folder_of, kind, missing, nested
from mixste.io import DataError
from mixste.io.pickles import read_npz
from mixste.skeleton import mpi_inf_3dhp

JOINTS = (7, 5, 14, 15, 16, 9, 10, 11, 23, 24, 25, 18, 19, 20, 4, 3, 6)  # of the 28 in annot.mat
SQUARE, WIDE = (2048, 2048), (1920, 1080)
OUTDOORS = ("TS5", "TS6")  # the wide ones
# Frames and frame rate of the training sequences, as listed by the data set; annotations may be longer.
SEQUENCES = {
    **{"S1 Seq1": (6416, 25), "S1 Seq2": (12430, 50), "S2 Seq1": (6502, 25), "S2 Seq2": (6081, 25)},
    **{"S3 Seq1": (12488, 50), "S3 Seq2": (12283, 50), "S4 Seq1": (6171, 25), "S4 Seq2": (6675, 25)},
    **{"S5 Seq1": (12820, 50), "S5 Seq2": (12312, 50), "S6 Seq1": (6188, 25), "S6 Seq2": (6145, 25)},
    **{"S7 Seq1": (6239, 25), "S7 Seq2": (6320, 25), "S8 Seq1": (6468, 25), "S8 Seq2": (6054, 25)},
}
LICENCE = "MPI-INF-3DHP licence: non-commercial research only, not to be passed on"
TRAIN, TEST = "data_train_3dhp.npz", "data_test_3dhp.npz"


def load(root=None, keypoints: str = "gt") -> PoseDataset:
    """S1–S8 from eight cameras for training, TS1–TS6 for testing; universal poses (`univ_annot3`), 17 joints.

    root: folder with data_train_3dhp.npz and data_test_3dhp.npz, or with S*/Seq*/annot.mat and TS*/annot_data.mat.
    keypoints: "gt", the annotated ones; there are no others. All clips have the action "all", so that averages weight
    all frames equally, as the published evaluation does. Raises DataError for missing or malformed files.
    """
    if keypoints != "gt":
        raise DataError(f'MPI-INF-3DHP comes with annotated keypoints only: expected "gt", found {keypoints!r}')
    folder = folder_of("mpi_inf_3dhp", root)
    train = _archived_train if (folder / TRAIN).exists() else _original_train
    test = _archived_test if (folder / TEST).exists() else _original_test
    return PoseDataset(
        name="mpi_inf_3dhp",
        title="MPI-INF-3DHP",
        skeleton=mpi_inf_3dhp,
        train=list(train(folder)),
        test=list(test(folder)),
        licence=LICENCE,
        comparable=True,
        keypoints=keypoints,
    )


def _archived_train(folder: Path) -> Iterator[Clip]:
    path = folder / TRAIN
    sequences = read_npz(path, "data")
    if not isinstance(sequences, dict):
        raise DataError(f"{path}: expected data to be a dictionary of sequences, found {kind(sequences)}")
    for name, sequence in sequences.items():
        subject, _, take = str(name).partition(" ")
        match sequence:
            case [dict(views), (int() | float() | np.number()) as fps] if 1 <= fps <= 1000:
                pass
            case _:
                raise DataError(f"{path}, {name}: expected [cameras, frames per second], found {kind(sequence)}")
        for camera, view in views.items():
            where = f"{path}, {name} camera {camera}"
            yield _clip(view, where, subject=subject, take=take, camera=str(camera), fps=float(fps))


def _archived_test(folder: Path) -> Iterator[Clip]:
    path = folder / TEST
    for subject, view in nested(path, "data").items():
        yield _clip(view, f"{path}, {subject}", subject=str(subject))


def _clip(view: dict, where: str, subject: str, take: str = "", camera: str = "", fps: float = 25.0) -> Clip:
    """view: {data_2d: pixels, data_3d: millimetres, valid: which frames count (without it: all)}.

    The test files do not hold their frame rate, on which no error depends.
    """
    if not isinstance(view, dict) or not {"data_2d", "data_3d"} <= view.keys():
        raise DataError(f"{where}: expected a dictionary with data_2d and data_3d, found {kind(view)}")
    poses = expect(view["data_3d"], (17, 3), f"{where}, data_3d") / 1000
    keypoints = cut(expect(view["data_2d"], (17, 2), f"{where}, data_2d"), len(poses), where)
    valid = None
    if "valid" in view:
        valid = view["valid"].reshape(-1) if isinstance(view["valid"], np.ndarray) else view["valid"]
        valid = cut(expect(valid, (), f"{where}, valid") != 0, len(poses), where)
        for array in (poses, keypoints):  # frames that do not count may hold any number
            array[~valid] = np.nan_to_num(array[~valid], posinf=0, neginf=0)
    return Clip(
        subject=subject,
        action="all",
        take=take,
        camera=camera,
        fps=fps,
        resolution=WIDE if subject in OUTDOORS else SQUARE,
        keypoints=keypoints,
        poses=poses,
        valid=valid,
    )


def _original_train(folder: Path) -> Iterator[Clip]:
    files = sorted(folder.glob("S[1-8]/Seq[12]/annot.mat"))
    if not files:
        raise missing(folder, f"{TRAIN} or S*/Seq*/annot.mat")
    for path, arrays in zip(files, read_foreign("annot", files), strict=True):
        subject, take = path.parts[-3:-1]
        frames, fps = SEQUENCES[f"{subject} {take}"]
        for camera, keypoints, poses in zip(CAMERAS, arrays[::2], arrays[1::2], strict=True):
            where = f"{path}, camera {camera}"
            view = {
                "data_2d": expect(keypoints, (56,), where).reshape(-1, 28, 2)[:frames, JOINTS],
                "data_3d": expect(poses, (84,), where).reshape(-1, 28, 3)[:frames, JOINTS],
            }
            yield _clip(view, where, subject=subject, take=take, camera=str(camera), fps=float(fps))


def _original_test(folder: Path) -> Iterator[Clip]:
    files = sorted([*folder.glob("TS[1-6]/annot_data.mat"), *folder.glob("*/TS[1-6]/annot_data.mat")])
    if not files:
        raise missing(folder, f"{TEST} or TS*/annot_data.mat")
    for path, (keypoints, poses, valid) in zip(files, read_foreign("annot_data", files), strict=True):
        # (frames, people, joints, axes), always one person
        view = {
            "data_2d": expect(keypoints, (1, 17, 2), f"{path}, annot2")[:, 0],
            "data_3d": expect(poses, (1, 17, 3), f"{path}, univ_annot3")[:, 0],
            "valid": valid,
        }
        yield _clip(view, str(path), subject=path.parts[-2])
