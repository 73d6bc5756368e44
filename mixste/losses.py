"""Training losses: Section 3.3 of the paper, as its authors' code computes them, and the rows of Table 6.

Poses are metres. Each loss is a scalar in single precision at least, whatever the poses' own precision, and its
gradient is finite where prediction and target agree. A window of one frame has no motion: its temporal terms are 0.
"""

import functools
import importlib.util
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mixste.skeleton import Skeleton

Poses = Float[Tensor, "*batch frames joints 3"]
Weights = Float[Tensor, "joints"] | Sequence[float]  # W, one weight a joint: `Skeleton.weights(recipe)`
Scalar = Float[Tensor, ""]
# (pred, target, weights, squared, skeleton): weights and squared of the recipe, skeleton the joint layout of the data
Term = Callable[[Poses, Poses, Weights, bool, Skeleton | None], Scalar]

LOSSES: dict[str, Term] = {}  # the terms of Eq. 9 by name


def loss_term(name: str) -> Callable[[Callable[..., Scalar]], Callable[..., Scalar]]:
    """Register a function of some of `Term`'s arguments in `LOSSES`; its parameters' names say which."""

    def enter(function):
        names = ("pred", "target", "weights", "squared", "skeleton")
        taken = [name in inspect.signature(function).parameters for name in names]

        @functools.wraps(function)
        def term(pred, target, weights, squared, skeleton=None):
            return function(*itertools.compress((pred, target, weights, squared, skeleton), taken))

        LOSSES[name] = term
        return function

    return enter


@loss_term("mpjpe")
def mpjpe_loss(pred: Poses, target: Poses) -> Scalar:
    """Mean per-joint position error: the distance of each joint from its target, averaged."""
    pred, target = _pair(pred, target)
    return _mean(_norm(pred - target))


@loss_term("wmpjpe")
def weighted_mpjpe(pred: Poses, target: Poses, weights: Weights, squared: bool = False) -> Scalar:
    """WMPJPE: the distance of each joint from its target times the joint's weight, averaged.

    squared: take the squared distance, as Eq. 10 prints it; the authors' code takes the distance itself.
    """
    pred, target = _pair(pred, target)
    error = pred - target
    distance = error.square().sum(-1) if squared else _norm(error)
    return _mean(_like(weights, pred) * distance)


@loss_term("tc")
def temporal_consistency(pred: Poses, weights: Weights) -> Scalar:
    """TCLoss of Hossain and Little (ECCV 2018) as the authors' code has it: W · (pred[t + 1] − pred[t])², averaged
    over coordinates too. It does not use the target: it penalises motion.
    """
    pred = _precise(pred)
    return _mean(_like(weights, pred)[:, None] * _velocity(pred).square())


@loss_term("mpjve")
def velocity_loss(pred: Poses, target: Poses) -> Scalar:
    """MPJVE as a loss: the length of the difference between predicted and true velocity, averaged."""
    pred, target = _pair(pred, target)
    return _mean(_norm(_velocity(pred - target)))


@loss_term("motion")
def motion_loss(pred: Poses, target: Poses, intervals: Sequence[int] = (8, 12, 16, 24)) -> Scalar:
    """Motion loss of Wang et al. (ECCV 2020): L1 distance of pairwise motion encodings pose[t] × pose[t + τ].

    The cross product of a joint's places in frames t and t + τ, averaged over coordinates, joints and frames and then
    over the intervals τ that fit into the window; 0 where none does.
    """
    pred, target = _pair(pred, target)

    def encode(poses: Tensor, interval: int) -> Tensor:
        return torch.linalg.cross(poses[..., :-interval, :, :], poses[..., interval:, :, :])

    distances = [_mean((encode(pred, interval) - encode(target, interval)).abs()) for interval in intervals]
    # An interval that is too long has no pair of frames and contributes 0.
    return sum(distances) / max(1, sum(interval < pred.shape[-3] for interval in intervals))


# Table 6 by the names it prints, as `total_loss` takes it. The paper gives no coefficients: those of T-Loss (TC and
# MPJVE) are the authors' code's, used in the rows of its parts too, and the motion loss's is 1.
TABLE_6 = {
    "MPJPE Loss": {"mpjpe": 1.0},
    "WMPJPE Loss": {"wmpjpe": 1.0},
    "WMPJPE Loss + Motion Loss": {"wmpjpe": 1.0, "motion": 1.0},
    "WMPJPE Loss + TCLoss": {"wmpjpe": 1.0, "tc": 0.5},
    "WMPJPE Loss + MPJVE Loss": {"wmpjpe": 1.0, "mpjve": 2.0},
    "WMPJPE Loss + T-Loss": {"wmpjpe": 1.0, "tc": 0.5, "mpjve": 2.0},
}


def total_loss(
    pred: Poses,
    target: Poses,
    terms: Mapping[str, float],
    weights: Weights,
    squared: bool = False,
    skeleton: Skeleton | None = None,
) -> Scalar:
    """Eq. 9: the weighted sum of `terms`, which map names to coefficients.

    A name is one of `LOSSES`, or a user's "module:function", see `own_term`.
    weights, squared (of the recipe) and skeleton (of the poses) are for the terms that use them. Raises ValueError for
    any other name, or none.
    """
    unknown = [name for name in terms if name not in LOSSES and not is_own(name)]
    if unknown or not terms:
        raise ValueError(
            f"loss terms must be some of {', '.join(LOSSES)}, or module:function, found {', '.join(terms) or 'none'}"
        )
    functions = {name: own_term(name) if is_own(name) else LOSSES[name] for name in terms}
    arguments = pred, target, weights, squared, skeleton
    return sum(coefficient * functions[name](*arguments) for name, coefficient in terms.items())


def is_own(name: str) -> bool:
    """Whether a loss term comes from outside the package."""
    return ":" in name


@functools.cache
def own_term(name: str) -> Term:
    """The function that "module:function" names: (pred, target), poses in metres and of single precision, -> scalar.

    If it has a parameter `skeleton`, it is given the joint layout too.
    Raises ValueError if there is no such function, or, when called, if it returns anything but one number.
    """
    module, _, function_name = name.partition(":")
    path, text = own_code(name)
    namespace = {"__name__": module, "__file__": path}
    exec(compile(text, path, "exec"), namespace)
    function = namespace.get(function_name)
    if not callable(function):
        raise ValueError(f"loss term {name}: expected a function of this name in {path}, found none")

    takes_skeleton = "skeleton" in inspect.signature(function).parameters

    def term(pred, target, weights, squared, skeleton=None):
        value = function(*_pair(pred, target), **({"skeleton": skeleton} if takes_skeleton else {}))
        if not isinstance(value, Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(f"loss term {name}: expected a tensor of one number, found {shape}")
        return value

    return term


def own_code(name: str) -> tuple[str, str]:
    """Path and text of the module of "module:function": a file on the import path. It is part of a run's id.

    Read once per process, so that the code in the id is the code that trains. Raises ValueError if there is no such
    file.
    """
    return _own_code(name.split(":")[0])


@functools.cache
def _own_code(module: str) -> tuple[str, str]:
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.has_location:
        raise ValueError(f"loss term {module}:…: expected {module}.py on Python's import path, found no such module")
    return spec.origin, Path(spec.origin).read_text(encoding="utf-8")


def _precise(poses: Tensor) -> Tensor:
    # Near 1 m, bfloat16 has a resolution of 4 mm, which is coarser than the differences that training must resolve.
    return poses.to(torch.promote_types(poses.dtype, torch.float32))


def _pair(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if pred.shape != target.shape:  # would broadcast silently
        raise ValueError(f"pred and target must have one shape, found {tuple(pred.shape)} and {tuple(target.shape)}")
    return _precise(pred), _precise(target)


def _like(weights: Weights, poses: Tensor) -> Tensor:
    weights = torch.as_tensor(weights, dtype=poses.dtype, device=poses.device)
    if weights.shape != poses.shape[-2:-1]:
        raise ValueError(f"weights must be ({poses.shape[-2]},), one a joint, found {tuple(weights.shape)}")
    return weights


def _velocity(poses: Tensor) -> Tensor:
    return poses[..., 1:, :, :] - poses[..., :-1, :, :]


def _norm(vectors: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1)  # its gradient at 0 is 0, where sqrt's would be NaN


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())  # 0 for no values, where mean() gives NaN
