"""Errors frame by frame, for the figures: the paper's three methods on the same test frames."""

import numpy as np
from jaxtyping import Float, Int

from mixste.study import store, trainer
from mixste.study.intervals import bootstrap_interval
from mixste.study.profiles import Profile
from mixste.study.report import AT_LEVEL
from mixste.study.run import Run
from mixste.study.store import Finished


def methods(profile: Profile) -> dict[str, tuple[Run, ...]]:
    """The methods of Figures 3, 4 and 6, one run a seed: runs of Table 1, from one detector's keypoints.

    Each keeps the T it was published with.
    """
    return {
        "VideoPose3D": profile.peer("videopose3d", 243),
        "PoseFormer": profile.peer("poseformer", 81),
        "MixSTE": profile.full(),
    }


def compared(profile: Profile) -> dict[str, list[Finished]]:
    """The finished runs of `methods`. Those that are not in the store are trained; those that failed are left out.

    RunError if of a method none is left.
    """
    wanted = methods(profile)
    trainer.make_all([run for seeds in wanted.values() for run in seeds], title="methods compared")
    sound = {name: [run for run in seeds if not store.failure(run)] for name, seeds in wanted.items()}
    return {name: [trainer.make(run) for run in sound[name] or wanted[name]] for name in wanted}


def joint_errors(finished: list[Finished]) -> Float[np.ndarray, "seeds frames joints"]:
    """Millimetres, each valid test frame once, clips in a row."""
    return np.stack([run.joint_errors for run in finished])


def take_of_frames(finished: list[Finished]) -> Int[np.ndarray, "frames"]:
    """The number of the take that each frame of `joint_errors` shows; the views of one take share it."""
    clips = finished[0].clips.query("protocol == 'exact' and metric == 'MPJPE'")
    takes = clips.groupby(["subject", "action", "take"], sort=False).ngroup()
    return np.repeat(takes.to_numpy(), clips["frames"])


def average(values: Float[np.ndarray, "seeds frames"], takes: Int[np.ndarray, "frames"]) -> dict[str, float]:
    """Mean over frames and seeds as a tidy table holds it: value, low, high (95 %, over takes and seeds), seeds,
    seed_spread."""
    frames = np.bincount(takes)
    means = np.stack([np.bincount(takes, own) / frames for own in values], axis=1)
    value, low, high = bootstrap_interval(means, frames, seed=0)
    spread = values.mean(axis=1).std(ddof=1) if len(values) > 1 else np.nan
    return {"value": value, "low": low, "high": high, "seeds": len(values), "seed_spread": float(spread)}


def named(name: str, methods: dict[str, list[Finished]]) -> str:
    """A method as figures name it, with what must be seen of it."""
    return f"{name}\n{AT_LEVEL}" if _at_level(methods[name]) else name


def _at_level(finished: list[Finished]) -> bool:
    return any(run.at_constant_level for run in finished)


def about(name: str, methods: dict[str, list[Finished]], against: str = "") -> dict[str, str]:
    """The columns of a tidy table that say whose value it is; against: the method that it is the difference to."""
    flat = [own for own in (name, against) if own and _at_level(methods[own])]
    note = "; ".join(AT_LEVEL if own == name else f"{own}: {AT_LEVEL}" for own in flat)
    ids = " ".join(run.id for run in methods[name])
    return {"row": name, "against": against, "runs": ids, "protocol": "exact", "note": note}
