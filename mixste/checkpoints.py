"""Weights on disk: ours as safetensors, and the .bin files that the authors of the three networks published.

No file can run code: safetensors hold nothing but numbers, and the pickles inside .bin files are read as data
(`mixste.io.pickles`). Every key counts: one that is missing, surplus or of another shape is an error that names it.
"""

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load, save_file
from torch import Tensor, nn

from mixste.io import DataError
from mixste.io.files import replacing
from mixste.io.guard import guarded
from mixste.io.pickles import Name, Pending, read_pickle
from mixste.model import MixSTE
from mixste.networks.poseformer import PoseFormer
from mixste.networks.references import REFERENCES
from mixste.networks.videopose3d import VideoPose3D
from mixste.skeleton import Skeleton

MODELS = {"mixste": MixSTE, "videopose3d": VideoPose3D, "poseformer": PoseFormer} | REFERENCES

# The authors' names of MixSTE's parts. Those of the peers are the same here and there.
AUTHORS = {
    "embed": "Spatial_patch_to_embedding",
    "joint_position": "Spatial_pos_embed",  # (1, joints, dim) there, (joints, dim) here
    "frame_position": "Temporal_pos_embed",  # likewise
    "spatial_blocks": "STEblocks",
    "temporal_blocks": "TTEblocks",
    "spatial_norm": "Spatial_norm",
    "temporal_norm": "Temporal_norm",
    "head_norm": "head.0",
    "head": "head.1",
}
SAME_JOINT = {"Hip": "Pelvis", "LFoot": "LAnkle", "RFoot": "RAnkle"}  # Human3.6M's names of HumanEva's
SUMS = "SHA256SUMS"  # beside the weights that come along, as `sha256sum --check` reads it
MOST_TENSORS = 2_000  # the paper's network has 208
HEADS = 8  # in all published transformers; the one size that no shape tells


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what was expected, what was found, and where."""


def from_pretrained(name: str) -> MixSTE:
    """A network that comes with the package, in eval mode, on the CPU: `MixSTE.from_pretrained("open-small")`.

    The card beside the weights, mixste/weights/NAME.md, says what they were trained on and how far they can be trusted.
    Raises CheckpointError, which lists the names there are, for any other, and for a file that has changed since.
    """
    shipped = pretrained()
    if name not in shipped:
        raise CheckpointError(
            f"expected the name of shipped weights, {', '.join(shipped) or 'none here'}, found {name!r}"
        )
    path = shipped[name]
    expected, found = _sums(path.parent).get(path.name), _sha256(path)
    if found != expected:
        raise CheckpointError(
            f"{path}: expected the file that was shipped, with the SHA-256 {expected} of {SUMS}, found {found}: "
            "install the package again"
        )
    return load_checkpoint(path)


def pretrained() -> dict[str, Path]:
    """The weights that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(str(files("mixste"))).glob("weights/*.safetensors"))}


def write_sums(folder: Path) -> None:
    """Write down the hashes of the weights in a folder, which `from_pretrained` then holds them to."""
    with replacing(folder / SUMS) as temporary:
        lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.glob("*.safetensors"))]
        temporary.write_text("".join(lines), encoding="utf-8", newline="\n")


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(model: nn.Module, path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights as safetensors, with the model's name and options, so that the file is enough.

    dtype: torch.float16 halves the file; whatever it is, weights are loaded as float32.
    """
    [name] = [name for name, kind in MODELS.items() if type(model) is kind]
    metadata = {"model": name, "options": json.dumps(model.options)}
    with replacing(path) as temporary:
        weights = {
            key: value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous()
            for key, value in model.state_dict().items()
        }
        save_file(weights, temporary, metadata)
        # It orders the metadata by chance; the same network shall be the same bytes.
        with open(temporary, "r+b") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) | {"__metadata__": metadata}
            file.seek(8)
            file.write(json.dumps(header, separators=(",", ":")).encode().ljust(size))


def load_checkpoint(path) -> nn.Module:
    """The network of a checkpoint, in eval mode, on the CPU: MixSTE, VideoPose3D or PoseFormer.

    path: our .safetensors, or a .bin as the authors of one of them publish it, whose sizes are read off the shapes.
    Raises CheckpointError, in one sentence, for anything that is not one, whole.
    """
    path = Path(path)
    with guarded(path, "a checkpoint", CheckpointError):
        with open(path, "rb") as file:
            ours = file.read(9)[8:] == b"{"  # safetensors: the header's length, then JSON
        try:
            return (_load_ours(path) if ours else _load_authors(path)).eval()
        except DataError as error:
            raise CheckpointError(f"expected weights and nothing else, found {error}") from None


def export_authors(model: nn.Module, path) -> None:
    """Write the weights as the authors' scripts read them, so that theirs can evaluate ours.

    Keys are prefixed `module.`, since they load into a DataParallel network. Optimiser and random state are None: their
    scripts then start new ones. Raises CheckpointError for a variant that the authors' network has no switch for.
    """
    if isinstance(model, MixSTE):
        switches = {"alternating": True, "separate_joints": True, "attention_scale": "head", "embedding_norm": False}
        for name, theirs in (switches | {"heads": HEADS}).items():
            found = model.options[name]
            if found != theirs:
                raise CheckpointError(f"{path}: expected {name} = {theirs}, as in the authors' network, found {found}")
    weights = {
        f"module.{key}": (value.float() if value.is_floating_point() else value).cpu()
        for key, value in _under_their_names(model).items()
    }
    with replacing(path) as temporary:
        torch.save({"epoch": 0, "lr": 4e-5, "random_state": None, "optimizer": None, "model_pos": weights}, temporary)


def transfer(model: MixSTE, frames: int, source: Skeleton, target: Skeleton) -> MixSTE:
    """A copy of the network that reads `frames` frames of another layout, for fine-tuning (Table 4).

    Only the two position embeddings depend on joints and frames. A joint takes the row of the joint of the same name in
    the source. Of the frames' rows the central ones are kept: they are one frame apart, as the frames of the new clips
    are. Resampling all rows to fewer would keep the window's ends, but show the temporal blocks neighbours that are
    marked as several frames apart and have moved by one. Raises ValueError for more frames than the network has, a
    joint that the source lacks, or a network without joint separation, whose every width depends on the joints.
    """
    known = [SAME_JOINT.get(name, name) for name in source.joints]
    wanted = [SAME_JOINT.get(name, name) for name in target.joints]
    lacking = [name for name in wanted if name not in known]
    if lacking:
        raise ValueError(f"{target.name} must have the joints of {source.name} or fewer, found {', '.join(lacking)}")
    if frames > model.frames:
        raise ValueError(f"frames must be at most the network's {model.frames}, found {frames}")
    if wanted != known and not model.separate_joints:
        raise ValueError("only a network with one sequence a joint can change its joints, found one without")
    first = (model.frames - frames) // 2
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    weights["joint_position"] = weights["joint_position"][[known.index(name) for name in wanted]]
    weights["frame_position"] = weights["frame_position"][first : first + frames].clone()
    with torch.device("meta"):  # without drawing weights that would be thrown away
        moved = MixSTE(**model.options | {"frames": frames, "joints": len(target.joints)})
    moved.load_state_dict(weights, assign=True)
    return moved


def _load_ours(path: Path) -> nn.Module:
    content = path.read_bytes()  # `safe_open` takes no path that is not UTF-8
    weights = load(content)
    metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if metadata.get("model") not in MODELS or "options" not in metadata:
        raise CheckpointError(f"expected the model's name and options beside its weights, found {metadata}")
    return _built(metadata["model"], json.loads(metadata["options"]), weights, lambda model: model.state_dict())


def _load_authors(path: Path) -> nn.Module:
    weights = _read_authors(path)

    def size(key: str, axis: int) -> int:
        if key not in weights:
            raise CheckpointError(f"expected weights with {key}, found none")
        if weights[key].ndim <= axis:
            raise CheckpointError(f"expected {key} to have {axis + 1} axes or more, found {tuple(weights[key].shape)}")
        return weights[key].shape[axis]

    def count(part: str) -> int:
        return len({key.split(".")[1] for key in weights if key.startswith(f"{part}.")})

    def transformer(blocks: str) -> dict:
        dim = size("Spatial_patch_to_embedding.weight", 0)
        return {
            "frames": size("Temporal_pos_embed", 1),
            "joints": size("Spatial_pos_embed", 1),
            "depth": count(blocks),
            "heads": HEADS,
            "mlp_ratio": size(f"{blocks}.0.mlp.fc1.weight", 0) / dim,
            "dim" if blocks == "STEblocks" else "joint_dim": dim,
        }

    if count("STEblocks"):
        name, options = "mixste", transformer("STEblocks")
    elif count("Spatial_blocks"):
        name, options = "poseformer", transformer("Spatial_blocks")
    elif count("shrink"):
        frames = size("expand_conv.weight", 2) ** ((count("layers_conv") + 1) // 2 + 1)  # two convolutions a block
        joints, channels = size("expand_conv.weight", 1) // 2, size("expand_conv.weight", 0)
        name, options = "videopose3d", {"frames": frames, "joints": joints, "channels": channels}
    else:
        found = ", ".join(list(weights)[:5]) or "none"
        raise CheckpointError(f"expected the weights of MixSTE, PoseFormer or VideoPose3D, found {found}")
    return _built(name, options, weights, _under_their_names)


def _read_authors(path: Path) -> dict[str, Tensor]:
    """The weights of a .bin file, the prefix `module.` of a DataParallel network taken off."""
    with open(path, "rb") as file:
        held, storages = _read_archive(file) if zipfile.is_zipfile(file) else _read_stream(file)
    if not isinstance(held, dict) or not isinstance(held.get("model_pos"), dict):
        found = ", ".join(map(str, list(held)[:5])) if isinstance(held, dict) else f"a {type(held).__name__}"
        raise CheckpointError(f"expected a dictionary with the weights under model_pos, found {found or 'none'}")
    weights = {}
    for key, value in held["model_pos"].items():
        key = str(key).removeprefix("module.")
        if key in weights:
            raise CheckpointError(f"expected each key once, found {key} with and without the prefix module.")
        if not isinstance(value, Stored):
            raise CheckpointError(f"expected {key} to be a dense tensor, found a {type(value).__name__}")
        weights[key] = value.tensor(storages)
    if sum(weight.nbytes for weight in weights.values()) > path.stat().st_size:
        raise CheckpointError("expected all weights to be stored, found some that repeat a few numbers")
    return weights


def _read_archive(file: BinaryIO) -> tuple[object, dict[str, bytearray]]:
    """What torch.save writes since PyTorch 1.6: one pickle, and each storage's numbers in an entry of their own."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > file.seek(0, 2):
            raise CheckpointError("expected an archive without compression, found one that unpacks to more")
        [pickled] = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        with archive.open(pickled) as stream:
            held = read_pickle(stream, TORCH, Storage.of)
        folder = pickled.filename.removesuffix("data.pkl") + "data/"
        inside = [entry for entry in entries if entry.filename.startswith(folder)]
        return held, {entry.filename.removeprefix(folder): bytearray(archive.read(entry)) for entry in inside}


def _read_stream(file: BinaryIO) -> tuple[object, dict[str, bytearray]]:
    """What it wrote before: five pickles in a row, then the numbers of each storage."""
    size = file.seek(0, 2)
    file.seek(0)
    if read_pickle(file) != 0x1950A86A20F9469CFC6C:
        raise DataError("another kind of file")
    read_pickle(file), read_pickle(file)  # versions of the format and of the system
    found: dict[str, Storage] = {}

    def storage(reference: tuple) -> Storage:
        made = Storage.of(reference)
        return found.setdefault(made.key, made)

    held = read_pickle(file, TORCH, storage)
    storages = {}
    for key in read_pickle(file):
        count = int.from_bytes(file.read(8), "little")
        if count > size:
            raise CheckpointError(f"expected a storage of {found[key].count} numbers, found {count}")
        storages[key] = bytearray(file.read(count * found[key].dtype.itemsize))
    return held, storages


@dataclass(frozen=True)
class Storage:
    """A stretch of numbers beside the pickle."""

    dtype: torch.dtype
    key: str
    count: int

    @classmethod
    def of(cls, reference: tuple) -> "Storage":
        """From what the pickle says of it: ("storage", type, key, device, count); older files add None."""
        match reference:
            case ("storage", Name() as kind, str(key), str(), int(count), *rest) if rest in ([], [None]):
                return cls(kind.make(), key, count)
        raise DataError("a reference to something other than numbers")


@dataclass(frozen=True)
class Stored:
    """A tensor, as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def tensor(self, storages: dict[str, bytearray]) -> Tensor:
        numbers = storages[self.storage.key]
        if len(numbers) != self.storage.count * self.storage.dtype.itemsize:
            raise CheckpointError(f"expected {self.storage.count} numbers in a storage, found {len(numbers)} bytes")
        if math.prod(self.shape) > self.storage.count:  # PyTorch's own count of them may overflow
            raise CheckpointError(f"expected all weights to be stored, found {self.shape} that repeat a few numbers")
        # Raises RuntimeError for a view that leaves its storage.
        return torch.frombuffer(numbers, dtype=self.storage.dtype).as_strided(self.shape, self.stride, self.offset)


DTYPES = {"Double": torch.double, "Float": torch.float, "Half": torch.half, "BFloat16": torch.bfloat16}
DTYPES |= {"Long": torch.long, "Int": torch.int, "Short": torch.short, "Char": torch.int8, "Byte": torch.uint8}
# What the names in a pickle stand for. A NumPy RandomState, the shuffle's, is passed over: its names, by old and new
# versions, make nothing of what they are given.
TORCH = {
    "collections OrderedDict": lambda: {},
    "torch._utils _rebuild_tensor": Stored,
    "torch._utils _rebuild_tensor_v2": lambda *view: Stored(*view[:4]),
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    **{f"torch {name}Storage": lambda dtype=dtype: dtype for name, dtype in DTYPES.items()},
    **{
        f"numpy.random{name}": lambda *_: Pending(lambda state: None)
        for name in (
            *(" __RandomState_ctor", "._pickle __randomstate_ctor"),
            *("._pickle __bit_generator_ctor", "._mt19937 MT19937"),
        )
    },
}


def _under_their_names(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with the authors' names and shapes, in the same order."""
    renamed = {}
    for key, value in model.state_dict().items():
        part, dot, rest = key.partition(".")
        if isinstance(model, MixSTE):
            key, value = AUTHORS[part] + dot + rest, value[None] if part.endswith("_position") else value
        renamed[key] = value
    return renamed


def _built(name: str, options: dict, weights: dict[str, Tensor], naming) -> nn.Module:
    """The network with these weights, all of them and no other; naming(model) is its state dict in the file's terms."""
    if options.get("depth", 0) > len(weights) / 10 or len(weights) > MOST_TENSORS:  # a block has more than 10
        raise CheckpointError(f"expected weights of {options.get('depth')} blocks, found {len(weights)} tensors")
    with torch.device("meta"):  # no memory, until the shapes are known to fit
        model = MODELS[name](**options)
    expected = naming(model)
    problems = [f"{key} missing" for key in expected if key not in weights]
    problems += [f"{key} surplus" for key in weights if key not in expected]
    problems += [
        f"{key} of shape {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in weights and weights[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"expected the weights of {name} {options}, found {'; '.join(problems[:5])}{more}")
    state = {
        key: weights[theirs].reshape(value.shape).to(value.dtype, copy=True)
        for (key, value), theirs in zip(model.state_dict().items(), expected, strict=True)
    }
    model.load_state_dict(state, assign=True)
    return model
