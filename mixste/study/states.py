"""The state of an interrupted training: read as data, and used only if it is complete and belongs to that training.

A state may be cut short, belong to another network, or come from another machine. It is compared with the network, its
optimizer, the steps and the learning curve before any of it is used.
"""

import io
import math
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from mixste import checkpoints
from mixste.io.files import replacing
from mixste.study.run import Run
from mixste.study.store import remove
from mixste.train import CollapseWatch, optimizer_of

PICKLED = 4 * 2**20  # bytes: a hundred times what the largest network needs, and read in seconds


class StateError(ValueError):
    """A state that is incomplete, or of another training; the message completes "expected …, found"."""


def resume(part: Path, run: Run, networks: list[nn.Module]) -> dict:
    """The state that a killed training saved in its folder: step, history and the rest; step 0 where there is none.

    networks: the one that is trained, or all that it could be. An unusable state is removed, with a message, and the
    training starts again.
    """
    path = part / "state.pt"
    try:
        state = read(part, run, networks)
    except FileNotFoundError:
        return {"step": 0, "history": []}
    except StateError as error:
        print(
            f"{path}: expected the state of this training, found {error}; it is removed, and the training starts again",
            flush=True,
        )
        remove(path)
        return {"step": 0, "history": []}
    if len(state["rng"]) > 1 and not torch.cuda.is_available():  # there only the CPU's random numbers are of use
        with replacing(path) as file:
            torch.save(state | {"rng": state["rng"][:1]}, file)
    return state


def read(part: Path, run: Run, networks: list[nn.Module]) -> dict:
    """The state that a killed training saved in its folder, on the CPU, checked along with its best weights.

    StateError unless all of it is whole and fits the run and one of the networks; FileNotFoundError if there is none;
    OSError if it cannot be read.
    """
    state = _load(part / "state.pt", run, networks)
    if run.test_curve and state["history"]:
        step = min(state["history"], key=lambda row: row["test_mpjpe"])["step"]
        try:
            weights = checkpoints.load_checkpoint(best_weights(part, step)).state_dict()
        except checkpoints.CheckpointError:
            weights = {}
        if not same(weights, state["model"]):
            raise StateError(f"none of its best weights, those of step {step}")
    return state


def best_weights(part: Path, step: int) -> Path:
    """The weights saved at a point of the test curve, until it is clear whether they stay the best."""
    return part / f"best-{step}.safetensors"


def _load(path: Path, run: Run, networks: list[nn.Module]) -> dict:
    if path.is_dir():
        raise StateError("a folder")
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            pickled = [entry.file_size for entry in entries if entry.filename.endswith("/data.pkl")]
            if len(pickled) != 1 or pickled[0] > PICKLED or sum(entry.file_size for entry in entries) > len(content):
                raise StateError("another kind of archive")
            if archive.testzip():
                raise StateError("a damaged file")
        with warnings.catch_warnings(action="ignore"):  # of what a damaged pickle asks for
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _check(state, run, networks)
    except StateError:
        raise
    except Exception as error:  # a damaged archive, or a state of other types, fails in more ways than can be listed
        raise StateError(f"a damaged file ({type(error).__name__})") from None
    return state


def _check(state: dict, run: Run, networks: list[nn.Module]) -> None:
    names = {"step", "history", "total", "counted", "model", "optimizer", "rng"}
    if missing := names - state.keys():
        raise StateError(f"one without {', '.join(sorted(missing))}")
    network = next((network for network in networks if same(state["model"], network.state_dict())), None)
    if network is None:
        raise StateError("the weights of another network")
    if not all(weight.isfinite().all() for weight in state["model"].values()):
        raise StateError("weights that are not finite")
    _check_steps(state, run)
    _check_optimizer(state, run, network)
    torch.Generator().set_state(state["rng"][0])  # raises RuntimeError for what is none
    if len(state["rng"]) > 2 or not all(isinstance(rng, Tensor) for rng in state["rng"]):
        raise StateError("random numbers of other devices")


def same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors have the same names, shapes and types."""
    return tensors.keys() == expected.keys() and all(
        isinstance(tensors[name], Tensor) and (tensors[name].shape, tensors[name].dtype) == (one.shape, one.dtype)
        for name, one in expected.items()
    )


def _check_steps(state: dict, run: Run) -> None:
    """The step, the rows of the curve up to it, and the loss since the last one."""
    poses, steps, step, total = run.poses_per_step, run.steps, state["step"], state["total"]
    if type(step) is not int or not 0 < step <= steps:
        raise StateError(f"step {step!r} of {steps}")
    rows = {math.ceil(steps * (point + 1) / run.points) for point in range(run.points)}
    names = {"step", "poses", "epoch", "learning_rate", "loss"} | ({"test_mpjpe"} if run.test_curve else set())
    curve = [(row["step"], row["poses"]) for row in state["history"]]
    if curve != [(row, row * poses) for row in sorted(rows) if row <= step]:
        raise StateError("the learning curve of another training")
    for row in state["history"]:
        if row.keys() != names or not all(
            type(value) in (int, float) and math.isfinite(value) for value in row.values()
        ):
            raise StateError(f"a damaged learning curve at step {row['step']}")
    if state["counted"] != step - (curve[-1][0] if curve else 0) or total.shape != () or not total.is_floating_point():
        raise StateError("the loss of other steps")
    if "watch" in state:  # older versions saved none
        _check_watch(state["watch"], step, CollapseWatch(steps, math.nan).every)


def _check_watch(watch: dict, step: int, every: int) -> None:
    total, counted, means = watch["total"], watch["counted"], watch["means"]
    fits = type(counted) is int and 0 <= counted < every and len(means) * every + counted <= step
    if not fits or not all(type(mean) is float and math.isfinite(mean) for mean in means):
        raise StateError("a watch over the losses of other steps")
    if watch.keys() != {"total", "counted", "means"} or total.shape != () or not total.is_floating_point():
        raise StateError("a damaged watch over the losses")


def _check_optimizer(state: dict, run: Run, network: nn.Module) -> None:
    """Moments of every parameter, after as many steps, and the settings of the recipe."""
    optimizer, expected = state["optimizer"], optimizer_of(network, run.recipe)
    groups, expected_groups = optimizer["param_groups"], expected.state_dict()["param_groups"]
    for group, expected_group in zip(groups, expected_groups, strict=True):
        compared = (group.keys() & expected_group.keys()) - {"lr", "capturable"}  # set at every step
        if group["params"] != expected_group["params"] or any(group[key] != expected_group[key] for key in compared):
            raise StateError("an optimizer with other settings")
    parameters = [(parameter, group) for group in expected.param_groups for parameter in group["params"]]
    if optimizer["state"].keys() != set(range(len(parameters))):
        raise StateError("an optimizer of other parameters")
    for number, (parameter, group) in enumerate(parameters):
        moments = optimizer["state"][number]
        names = ("momentum",) if group.get("momentum") else ("exp_avg", "exp_avg_sq")
        like = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        expected_moments = {"step": torch.empty((), device="meta")} | dict.fromkeys(names, like)
        if not same(moments, expected_moments) or moments["step"] != state["step"]:
            raise StateError("an optimizer that is incomplete")
        negative = "exp_avg_sq" in moments and (moments["exp_avg_sq"] < 0).any()
        if negative or not all(moment.isfinite().all() for moment in moments.values()):
            raise StateError("an optimizer with impossible values")
