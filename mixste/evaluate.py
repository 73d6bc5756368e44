"""Errors of a network on clips, by the authors' protocol or counting each frame once."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import nn

from mixste import metrics
from mixste.data.clips import Clip
from mixste.data.windows import ClipFrames
from mixste.predict import first_of_each, predict_clips
from mixste.skeleton import Skeleton, mpi_inf_3dhp

UNITS = {"MPJPE": "mm", "P-MPJPE": "mm", "N-MPJPE": "mm", "MPJVE": "mm/frame", "PCK": "%", "AUC": "%"}

Predictions = list[tuple[Int[np.ndarray, "lifted"], Float[np.ndarray, "lifted joints 3"]]]


def evaluate(
    model: nn.Module,
    clips: list[Clip],
    protocol: str = "authors",
    flip: bool = True,
    skeleton: Skeleton | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> pd.DataFrame:
    """Errors of every clip: one row for each clip and metric. `by_action` and `average` summarise them.

    Columns: subject, action, take, camera, frames (how many count), metric, value, unit. Metrics: MPJPE, P-MPJPE and
    N-MPJPE in mm, MPJVE in mm/frame; on the mpi_inf_3dhp skeleton also PCK and AUC in %. A clip with one frame has no
    MPJVE. protocol: "authors" counts every frame of every window, so that frames that the last two windows share count
    twice, and padding counts (notebook 13, row 20); velocities are also taken between the last frame of a window and
    the first of the next (row 23). "exact" counts each frame once. In both, the root joint counts, with its target at
    0 and its prediction as it is (row 22), and frames that a clip marks as invalid do not count. flip: average with the
    mirror image. skeleton: the clips' layout, by default the one that the network was trained on. Raises ValueError for
    an unknown protocol or layout, and DataError for a clip that does not fit the skeleton.
    """
    skeleton = skeleton or model.skeleton
    return score(lift_clips(model, clips, skeleton, flip, progress), clips, protocol, skeleton)


def lift_clips(model, clips: list[Clip], skeleton: Skeleton, flip=True, progress=lambda frames: None) -> Predictions:
    """Root-relative poses of clips in metres, as `predict_clips` gives them. DataError if one cannot be lifted."""
    for clip in clips:
        clip.check(skeleton)
    frames = ClipFrames.of(clips, skeleton, next(model.parameters()).device)
    spans = list(zip(frames.starts, frames.lengths, strict=True))
    return [
        (i, pose.cpu().numpy()) for i, pose in predict_clips(model, frames.keypoints, spans, skeleton, flip, progress)
    ]


def counted(indices: Int[np.ndarray, "lifted"], protocol: str) -> Int[np.ndarray, "counted"]:
    """Indices of the lifted frames that the protocol counts, in order. Raises ValueError for an unknown protocol."""
    if protocol == "authors":
        return np.arange(len(indices))
    if protocol == "exact":
        return first_of_each(indices)
    raise ValueError(f'protocol must be "authors" or "exact", found {protocol!r}')


def score(lifted: Predictions, clips: list[Clip], protocol: str, skeleton: Skeleton) -> pd.DataFrame:
    """The table of `evaluate` from the poses of `lift_clips`, in metres."""
    rows = []
    for clip, (indices, poses) in zip(clips, lifted, strict=True):
        rows_counted = counted(indices, protocol)
        indices, pred = indices[rows_counted], poses[rows_counted] * 1000
        target = (clip.poses - clip.poses[:, [skeleton.root]])[indices] * 1000
        valid = np.ones(len(indices), bool) if clip.valid is None else clip.valid[indices]
        if not valid.any():
            continue
        values = errors_of(pred, target, valid, skeleton)
        about = {"subject": clip.subject, "action": clip.action, "take": clip.take, "camera": clip.camera}
        rows += [about | {"frames": int(valid.sum()), "metric": m, "value": v, "unit": UNITS[m]} for m, v in values]
    return pd.DataFrame(rows)


def errors_of(
    pred: Float[np.ndarray, "frames joints 3"],
    target: Float[np.ndarray, "frames joints 3"],
    valid: Bool[np.ndarray, "frames"],
    skeleton: Skeleton,
) -> list[tuple[str, float]]:
    """(metric, value) of one clip, see `UNITS`; the poses are in millimetres."""
    kept, true = pred[valid], target[valid]
    values = [
        ("MPJPE", metrics.mpjpe(kept, true)),
        ("P-MPJPE", metrics.p_mpjpe(kept, true)),
        ("N-MPJPE", metrics.n_mpjpe(kept, true)),
    ]
    moving = valid[1:] & valid[:-1]
    if moving.any():
        values.append(("MPJVE", metrics.mpjpe(np.diff(pred, axis=0)[moving], np.diff(target, axis=0)[moving])))
    if skeleton is mpi_inf_3dhp:
        # Head top, neck, shoulders, elbows, wrists, hips, knees, ankles.
        values += [(name, metric(kept, true, joints=range(14))) for name, metric in METRICS_3DHP.items()]
    return values


METRICS_3DHP = {"PCK": metrics.pck, "AUC": metrics.auc}


def joint_errors(lifted: Predictions, clips: list[Clip], skeleton: Skeleton) -> Float[np.ndarray, "frames joints"]:
    """The error of every joint in every valid frame in millimetres, each frame once; clips are concatenated."""
    errors = []
    for clip, (indices, poses) in zip(clips, lifted, strict=True):
        valid = slice(None) if clip.valid is None else clip.valid
        target = clip.poses - clip.poses[:, [skeleton.root]]
        errors.append(metrics.joint_errors(poses[first_of_each(indices)], target)[valid] * 1000)
    return np.concatenate(errors)


def by_action(table: pd.DataFrame) -> pd.DataFrame:
    """Frame-weighted mean of each action (notebook 13, row 24). Columns: action, metric, value, unit, frames, clips."""

    def mean(group):
        value = np.average(group["value"], weights=group["frames"])
        return pd.Series({"value": value, "frames": group["frames"].sum(), "clips": len(group)})

    return (
        table.groupby(["action", "metric", "unit"], sort=False)[["value", "frames"]]
        .apply(mean)
        .reset_index()
        .astype({"frames": int, "clips": int})
    )


def average(table: pd.DataFrame) -> dict[str, float]:
    """The overall value of each metric in the field: the mean over the actions' means (notebook 13, row 24)."""
    return by_action(table).groupby("metric", sort=False)["value"].mean().to_dict()
