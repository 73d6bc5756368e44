"""Weights on disk: our own as safetensors, which cannot hold code."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mixste.baselines import PoseFormer, VideoPose3D
from mixste.files import replacing
from mixste.model import MixSTE

MODELS = {"mixste": MixSTE, "videopose3d": VideoPose3D, "poseformer": PoseFormer}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what was expected, what was found, and where."""


def save_checkpoint(model: nn.Module, path) -> None:
    """Write the weights as float32 safetensors, with the model's name and options, so that the file is enough."""
    [name] = [name for name, kind in MODELS.items() if type(model) is kind]
    metadata = {"model": name, "options": json.dumps(model.options)}
    with replacing(path) as temporary:
        weights = {key: value.detach().float().contiguous() for key, value in model.state_dict().items()}
        save_file(weights, temporary, metadata)


def load_checkpoint(path) -> nn.Module:
    """The network of a checkpoint, in eval mode, on the CPU.

    Raises CheckpointError, in one sentence, for anything that is not one, whole.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, it is no dict
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected a checkpoint, found no such file") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: expected safetensors weights, found a file that cannot be read ({error})"
        ) from None
    try:
        model = MODELS[metadata["model"]](**json.loads(metadata["options"]))
        model.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: expected weights with their model and options, found {error}") from None
    return model.eval()
