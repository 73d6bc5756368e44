"""Checkpoints: our safetensors files, and the .bin files that the authors of the networks published.

No file can run code: safetensors files contain only numbers, and the pickles in .bin files are read as data
(`mixste.io.archives`). A key that is missing, unexpected or of another shape is an error that names it.
"""

import json
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from mixste.io import DataError
from mixste.io.archives import read_archive
from mixste.io.files import replacing
from mixste.io.guard import guarded
from mixste.io.weights import CheckpointError, write_safetensors
from mixste.network import Network, Shapes, read_network
from mixste.networks import NETWORKS
from mixste.skeleton import Skeleton

SAME_JOINT = {"Hip": "Pelvis", "LFoot": "LAnkle", "RFoot": "RAnkle"}  # Human3.6M's names of HumanEva's


def unwrapped(model: nn.Module) -> Network:
    """The network inside the result of `torch.compile`, DataParallel or `accelerate`; a plain network itself.

    Raises CheckpointError for a module without a `mixste.network.Network`.
    """
    inner = model
    while not isinstance(inner, Network):
        names = [name for name in ("_orig_mod", "module", "model") if name in inner._modules]
        if not names:
            raise CheckpointError(f"expected a subclass of mixste.network.Network, found a {type(model).__name__}")
        inner = inner._modules[names[0]]
    return inner


def save_checkpoint(model: nn.Module, path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights as safetensors, with the network's name, options and joint layout in the metadata.

    model: a `Network`, or a module in which `unwrapped` finds one; CheckpointError for any other. dtype: of the weights
    in the file; torch.float16 halves its size. They are loaded as float32.
    """
    model = unwrapped(model)
    metadata = {"model": model.name, "options": json.dumps(model.options)}
    metadata |= {"layout": model.layout} if model.layout else {}
    metadata |= {} if model.metres else {"unit": "screen"}
    weights = {
        key: value.to(dtype if value.is_floating_point() else value.dtype, copy=True)  # weights may share memory
        for key, value in model.state_dict().items()
    }
    write_safetensors(path, weights, metadata)


def load_checkpoint(path) -> Network:
    """The network of a checkpoint, in eval mode, on the CPU.

    path: our .safetensors, or a file published by the authors of one of the networks (.bin, .pth.tr); its sizes are
    inferred from the shapes. The joint layout is in our files only. For another file with 17 joints, of which there are
    two layouts, it must be given: see `Network.skeleton`. Raises CheckpointError, in one sentence, for a file that is
    not a checkpoint of a network in `NETWORKS`, or is incomplete.
    """
    path = Path(path)
    with guarded(path, "a checkpoint", CheckpointError):
        with open(path, "rb") as file:
            start = file.read(40)
        try:
            if start[8:9] == b"{":  # safetensors: the header's length, then JSON
                return read_network(path)
            if start[:1] == b"\x80" or zipfile.is_zipfile(path):  # torch.save: a pickle, since PyTorch 1.6 an archive
                return _load_authors(path)
        except DataError as error:
            raise CheckpointError(f"expected weights and nothing else, found {error}") from None
        content = f"one that begins with {start!r}" if start else "an empty one"
        content = "an archive without its end" if start[:2] == b"PK" else content
        raise CheckpointError(f"expected a file that torch.save or safetensors wrote, found {content}")


def export_authors(model: nn.Module, path) -> None:
    """Write the weights in the format that the authors' scripts read.

    Keys have the prefix `module.`, since the scripts load them into a DataParallel network. Optimiser and random state
    are None: the scripts then start new ones. The joint layout is lost. model: as in `save_checkpoint`. Raises
    CheckpointError for a variant that the authors' code does not have, and for a network whose authors published no
    format.
    """
    model = unwrapped(model)
    if model.authors_key is None:
        raise CheckpointError(f"{path}: expected a network whose authors published a format, found {model.name}")
    for name, theirs in model.authors_options.items():
        value = model.options[name]
        if value != theirs:
            raise CheckpointError(f"{path}: expected {name} = {theirs}, as in the authors' network, found {value}")
    weights = {
        f"module.{key}": (value.float() if value.is_floating_point() else value).cpu()
        for key, value in model.authors_state().items()
    }
    with replacing(path) as temporary:
        content = {"epoch": 0, "lr": 4e-5, "random_state": None, "optimizer": None, model.authors_container: weights}
        torch.save(content, temporary)


def transfer(model: Network, frames: int, source: Skeleton, target: Skeleton) -> Network:
    """A copy of the network for windows of `frames` frames in another joint layout, for fine-tuning (Table 4).

    Only MixSTE's two position embeddings depend on joints and frames. A joint gets the embedding of the joint of
    the same name in the source. Of the frame embeddings, the central ones are kept: consecutive embeddings then still
    belong to consecutive frames. Resampling all of them to a smaller number would keep the ends of the window, but
    consecutive frames would get embeddings that were trained for frames further apart. Raises ValueError for more
    frames than the network has, a joint that the source lacks, and a change of joints or frames of a network whose
    other widths depend on them: MixSTE without joint separation, and the peers, which must have been trained with those
    of the target.
    """
    names = [SAME_JOINT.get(name, name) for name in source.joints]
    wanted = [SAME_JOINT.get(name, name) for name in target.joints]
    lacking = [name for name in wanted if name not in names]
    if lacking:
        raise ValueError(f"{target.name} must have the joints of {source.name} or fewer, found {', '.join(lacking)}")
    if frames > model.frames:
        raise ValueError(f"frames must be at most the network's {model.frames}, found {frames}")
    if wanted != names and not getattr(model, "separate_joints", False):
        raise ValueError(f"only MixSTE with one sequence a joint can change its joints, found {model.name} without")
    if frames != model.frames and not hasattr(model, "frame_position"):
        raise ValueError(f"only MixSTE can change its frames, found {model.name} of {model.frames} for {frames}")
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    if wanted != names:
        weights["joint_position"] = weights["joint_position"][[names.index(name) for name in wanted]]
    if frames != model.frames:
        first = (model.frames - frames) // 2
        weights["frame_position"] = weights["frame_position"][first : first + frames].clone()
    options = model.options | {"frames": frames, "joints": len(target.joints)}
    return type(model).from_weights(options, weights, target.name).train(model.training)


def _load_authors(path: Path) -> Network:
    weights = _read_authors(path)
    shapes = Shapes({key: tuple(value.shape) for key, value in weights.items()})
    published = [network for network in NETWORKS.values() if network.authors_key]
    for network in reversed(published):  # KTPFormer's file has MixSTE's key too; it is defined after what it extends
        if shapes.count(network.authors_key):
            loaded = network.from_weights(network.authors_sizes(shapes), weights, state=network.authors_state)
            loaded.metres = network.authors_metres
            return loaded
    names = [network.__name__ for network in published]
    keys = ", ".join(list(weights)[:5]) or "none"
    raise CheckpointError(f"expected the weights of {', '.join(names[:-1])} or {names[-1]}, found {keys}")


def _read_authors(path: Path) -> dict[str, Tensor]:
    """The weights of a .bin file, without the prefix `module.` of a DataParallel network."""
    content = read_archive(path)
    containers = dict.fromkeys(network.authors_container for network in NETWORKS.values())
    stored = [content[name] for name in containers if isinstance(content, dict) and name in content]
    stored = [weights for weights in stored if isinstance(weights, dict)]
    if not stored:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise CheckpointError(
            f"expected a dictionary with the weights under {' or '.join(containers)}, found {keys or 'none'}"
        )
    weights = {}
    for key, value in stored[0].items():
        key = str(key).removeprefix("module.")
        if key in weights:
            raise CheckpointError(f"expected each key once, found {key} with and without the prefix module.")
        if not isinstance(value, Tensor):
            raise CheckpointError(f"expected {key} to be a dense tensor, found a {type(value).__name__}")
        weights[key] = value
    if sum(weight.nbytes for weight in weights.values()) > path.stat().st_size:
        raise CheckpointError("expected weights that are all stored, found tensors that repeat a few numbers")
    return weights
