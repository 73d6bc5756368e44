"""What the field's conventions are worth: the same lifted poses, scored as different papers score theirs.

`each_frame_once` and `every_window` make cases, one for each clip, of what `mixste.evaluate.lift_clips` returns. The
other conventions each take cases and return others: which count, what is compared, or which of several hypotheses.
`mpjpe` averages them, and `change_by_person` compares two conventions. The study scores with `each_frame_once`, the
root counted as it is predicted, in metres.

Other conventions are settings of this project: flip at test time (`mixste.evaluate.evaluate`), exact keypoints as input
(`mixste.study.run.Data`: "gt"), and the weights with the lowest error on the test people (`Run.test_curve`).

Below, P and P̂ are the true and the predicted place of a joint relative to the true root, and R = (X₀, Y₀, Z₀) is that
of the true root in camera axes, all in metres. What others do was read from their code or from their answers.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from mixste.data.clips import Clip
from mixste.evaluate import Predictions, counted
from mixste.metrics import joint_errors
from mixste.skeleton import Skeleton


@dataclass(frozen=True)
class Case:
    """What is compared of a clip. frames: numbers in the clip. poses, truth: predicted and true, metres, as P̂ and P."""

    clip: Clip
    frames: Int[np.ndarray, "frames"]
    poses: Float[np.ndarray, "frames joints 3"]
    truth: Float[np.ndarray, "frames joints 3"]

    @property
    def errors(self) -> Float[np.ndarray, "frames joints"]:
        """‖P̂ − P‖, millimetres."""
        return 1000 * joint_errors(self.poses, self.truth)


# --- which frames and clips count ----------------------------------------------------------------------------------


def each_frame_once(lifted: Predictions, clips: list[Clip], skeleton: Skeleton) -> list[Case]:
    """The valid frames of each clip, once: protocol "exact" of `mixste.evaluate.evaluate`."""
    return _cases(lifted, clips, skeleton, "exact")


def every_window(lifted: Predictions, clips: list[Clip], skeleton: Skeleton) -> list[Case]:
    """Every frame of every window: those that two windows share twice, and padding as if it were frames.

    MixSTE's code. The ends of clips then count more, and so do short clips.
    """
    return _cases(lifted, clips, skeleton, "authors")


def without_short(cases: list[Case], frames: int) -> list[Case]:
    """Clips with `frames` frames or more, the length of a window, as where code cuts clips into whole windows."""
    return [case for case in cases if len(case.clip) >= frames]


def without_clips(cases: list[Case], dropped: Collection[tuple[str, str, str]]) -> list[Case]:
    """All clips but those of these (subject, action, take).

    For errors in Human3.6M's recordings, VideoPose3D's code leaves out S11's Directions, and MotionBERT's and
    MotionAGFormer's leave out three takes of S9.
    """
    return [case for case in cases if (case.clip.subject, case.clip.action, case.clip.take) not in dropped]


# --- the root ------------------------------------------------------------------------------------------------------


def root_at_origin(cases: list[Case], skeleton: Skeleton) -> list[Case]:
    """P̂₀ = 0: the root counts, without an error. MotionBERT and MotionAGFormer."""
    return [replace(case, poses=_with(case.poses, np.s_[:, skeleton.root], 0.0)) for case in cases]


def without_root(cases: list[Case], skeleton: Skeleton) -> list[Case]:
    """Means over the other joints alone: 17/16 of those with a root at the origin."""
    others = [joint for joint in range(len(skeleton.joints)) if joint != skeleton.root]
    return [replace(case, poses=case.poses[:, others], truth=case.truth[:, others]) for case in cases]


# --- the target ----------------------------------------------------------------------------------------------------


def image_space(cases: list[Case], skeleton: Skeleton) -> list[Case]:
    """The 2.5D target: x and y from the image, all three times λ = Z₀ / f, the metres that a pixel spans at the root.

    A joint at R + P = (X, Y, Z) is seen at f (X/Z, Y/Z), so that λ f cancels:
        P ↦ (Z₀ X/Z − X₀, Z₀ Y/Z − Y₀, Z − Z₀), and P̂ likewise, at the true root.
    LCN (Ci et al., TPAMI 2020), and with its data MotionBERT and MotionAGFormer, train on image poses and multiply what
    they predict by λ, which comes from the true pose: the size and distance of a person need not be known. Their λ is
    in their data; that it is Z₀ / f is our reading.
    """

    def projected(points: np.ndarray, root: np.ndarray) -> np.ndarray:
        placed = points + root
        x_and_y = root[..., 2:] * placed[..., :2] / placed[..., 2:] - root[..., :2]
        return np.concatenate([x_and_y, points[..., 2:]], axis=-1)

    roots = [case.clip.poses[case.frames][:, [skeleton.root]] for case in cases]
    return [
        replace(case, poses=projected(case.poses, root), truth=projected(case.truth, root))
        for case, root in zip(cases, roots, strict=True)
    ]


def keypoints_for_x_and_y(cases: list[Case], skeleton: Skeleton) -> list[Case]:
    """After `image_space`: x and y of the prediction are those of the input, (x̂, ŷ) = λ (u − u₀), with keypoints u.

    MotionBERT's option gt_2d. With exact keypoints only errors of depth are left, and those of a lens's distortion.
    Raises ValueError for a clip without intrinsics.
    """

    def of_keypoints(case: Case) -> np.ndarray:
        if case.clip.intrinsics is None:
            raise ValueError(f"clip {case.clip.name}: expected the camera's intrinsics, found none")
        keypoints, depth = case.clip.keypoints[case.frames], case.clip.poses[case.frames][:, [skeleton.root], 2:]
        return depth * (keypoints - keypoints[:, [skeleton.root]]) / case.clip.intrinsics[:2]

    return [replace(case, poses=_with(case.poses, np.s_[..., :2], of_keypoints(case))) for case in cases]


# --- several hypotheses --------------------------------------------------------------------------------------------


def mean_hypothesis(hypotheses: list[list[Case]]) -> list[Case]:
    """The mean of several predictions of the same clips, which uses no truth."""
    return [replace(same[0], poses=np.mean([case.poses for case in same], axis=0)) for same in _by_clip(hypotheses)]


def best_pose(hypotheses: list[list[Case]]) -> list[Case]:
    """Of each frame, the hypothesis with the lowest MPJPE, which the truth tells: D3DP's "P-Best"."""
    return [_chosen(same, lambda errors: errors.mean(axis=-1, keepdims=True)) for same in _by_clip(hypotheses)]


def best_joints(hypotheses: list[list[Case]]) -> list[Case]:
    """Of each joint in each frame, the hypothesis that is nearest to the truth: D3DP's "J-Best"."""
    return [_chosen(same, lambda errors: errors) for same in _by_clip(hypotheses)]


# --- the average ---------------------------------------------------------------------------------------------------


def mpjpe(cases: list[Case], over: str | None = None) -> float:
    """The mean error in millimetres: of all frames (None), or the mean over each "action", "subject" or "take" of the
    mean over its frames.

    Over frames, long recordings count more. Over actions: VideoPose3D, MixSTE, MotionBERT and most others. Over
    subjects: profile `open`, since results are for other people.
    """
    return mean_error(by_clip(cases), over)


def by_clip(cases: list[Case]) -> pd.DataFrame:
    """One row for each case: subject, action, take, how many frames count, and their mean error in millimetres."""
    rows = [
        (case.clip.subject, case.clip.action, case.clip.take, len(case.frames), float(case.errors.mean()))
        for case in cases
    ]
    return pd.DataFrame(rows, columns=["subject", "action", "take", "frames", "error"])


def mean_error(clips: pd.DataFrame, over: str | None = None) -> float:
    """`mpjpe`, millimetres, from a table of `by_clip`."""
    sums = clips.assign(group=clips[over] if over else "", error=clips["error"] * clips["frames"])
    sums = sums.groupby("group")[["error", "frames"]].sum()
    return float((sums["error"] / sums["frames"]).mean())


def change_by_person(
    clips: pd.DataFrame, others: pd.DataFrame, over: str | None = None, others_over: str | None = None
) -> pd.Series:
    """What each person contributes to the difference of two means, one by each of two conventions, in millimetres.

    These are the jackknife's pseudo-values, P d − (P − 1) d₍ₚ₎, with the difference d of P people and d₍ₚ₎ without
    person p, shifted so that their mean is d. Where both means are over people, they are the differences of each
    person's own means. Their spread gives an interval of d whatever the means are over.
    """
    people = list(dict.fromkeys(others["subject"]))

    def difference(kept: list[str]) -> float:
        parts = ((table[table["subject"].isin(kept)], by) for table, by in ((clips, over), (others, others_over)))
        mean, other = (mean_error(*part) for part in parts)
        return mean - other

    whole = difference(people)
    if len(people) == 1:
        return pd.Series(whole, people)
    without = [difference([other for other in people if other != person]) for person in people]
    values = len(people) * whole - (len(people) - 1) * pd.Series(without, people)
    return values - values.mean() + whole


def _cases(lifted: Predictions, clips: list[Clip], skeleton: Skeleton, protocol: str) -> list[Case]:
    """A case for each clip with a valid frame. protocol: see `mixste.evaluate.evaluate`."""
    cases = []
    for clip, (indices, poses) in zip(clips, lifted, strict=True):
        kept = counted(indices, protocol)
        kept = kept if clip.valid is None else kept[clip.valid[indices[kept]]]
        frames = indices[kept]
        if len(frames):
            truth = (clip.poses - clip.poses[:, [skeleton.root]])[frames]
            cases.append(Case(clip, frames, poses[kept], truth))
    return cases


def _with(poses: np.ndarray, part, values) -> np.ndarray:
    changed = poses.copy()
    changed[part] = values
    return changed


def _by_clip(hypotheses: list[list[Case]]) -> list[tuple[Case, ...]]:
    return list(zip(*hypotheses, strict=True))


def _chosen(same: tuple[Case, ...], score) -> Case:
    """Of each frame, or of each joint, the pose of the case with the lowest score of its errors."""
    poses, scores = (np.stack(values) for values in zip(*((c.poses, score(c.errors)) for c in same), strict=True))
    best = scores.argmin(axis=0)[None, ..., None]  # (1, frames, joints or 1, 1)
    return replace(same[0], poses=np.take_along_axis(poses, best, axis=0)[0])
