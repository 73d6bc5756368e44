"""The base class of all networks: what training, prediction, checkpoints and the study need to know about one."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from mixste.data.windows import evaluation_windows, sliding_starts, sliding_windows, training_starts
from mixste.io.weights import DEFAULT, CheckpointError, bundled_file, read_safetensors
from mixste.skeleton import SKELETONS, Skeleton, layouts_of

NETWORKS: dict[str, type["Network"]] = {}  # by name; `mixste.networks` imports those of the package
MODES = ("seq2seq", "seq2frame", "convolution")
MOST_TENSORS = 2_000  # of a checkpoint; the paper's network has 208


class Network(nn.Module):
    """Lifts windows of 2D keypoints to 3D poses. A subclass with a `name` is registered under it in `NETWORKS`.

    forward: (batch, frames, joints, 2) screen-normalised -> (batch, lifted, joints, 3) metres, camera axes,
    root-relative. A subclass passes all options of its constructor to this one: a checkpoint stores them, to rebuild
    the network. Its constants are buffers.

    mode: the frames that a window lifts. "seq2seq": all that it reads. "seq2frame": the central one, of a window around
    every frame of a clip. "convolution": as seq2frame in training; at test time one window is the whole clip, padded,
    of which forward lifts every frame whose receptive field of `frames` frames lies within.
    closed_form: True for a reference that is solved for by `fit(clips, skeleton) -> MPJPE in metres`, not trained.
    recipe_options: the settings of `mixste.train.Recipe` that are options of the constructor.
    authors_key: the first part of a key by which the authors' checkpoints are recognised; None if there are none.
    authors_container: the key of the weights in such a file.
    authors_metres: False if the poses of the authors' weights are in screen units, not in metres.
    authors_options: options that the authors' code fixes and that cannot be inferred from the weights.

    options, frames, joints: as given to the constructor. layout: the name in `mixste.skeleton.SKELETONS` of the joint
    layout that it was trained on; of a new network, the usual one with its number of joints; None if it is not in the
    file that the network was read from, and more than one is possible. metres: whether its poses are in metres. file:
    that it was read from, or None.
    """

    name: ClassVar[str]
    metres: bool = True
    file: Path | None = None
    mode: ClassVar[str] = "seq2seq"
    closed_form: ClassVar[bool] = False
    recipe_options: ClassVar[tuple[str, ...]] = ()
    authors_key: ClassVar[str | None] = None
    authors_container: ClassVar[str] = "model_pos"
    authors_metres: ClassVar[bool] = True
    authors_options: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.mode not in MODES:
            raise ValueError(f"{cls.__name__}.mode must be one of {', '.join(MODES)}, found {cls.mode!r}")
        if "name" in vars(cls):
            other = NETWORKS.setdefault(cls.name, cls)
            if other.__module__ not in (cls.__module__, "__main__") or other.__qualname__ != cls.__qualname__:
                raise ValueError(
                    f"network {cls.name!r} is {other.__module__}.{other.__qualname__}: choose another name"
                )
            NETWORKS[cls.name] = cls  # a class in a notebook may be defined again, or moved to a file

    def __init__(self, *, frames: int, joints: int, **options):
        super().__init__()
        self.options = {"frames": frames, "joints": joints, **options}
        self.frames, self.joints = frames, joints
        self.layout = next(iter(layouts_of(joints)), None)

    @property
    def skeleton(self) -> Skeleton:
        """The joint layout that it was trained on. Raises ValueError, which says how to give it, if it is unknown."""
        skeleton = SKELETONS.get(self.layout)
        if skeleton is None or len(skeleton.joints) != self.joints:
            names = layouts_of(self.joints)
            raise ValueError(
                f"expected a network whose joint layout is known, found {self.joints} joints "
                f"({self.layout or ' or '.join(names) or 'as in no layout here'}): give skeleton= or set the network's "
                'layout = "NAME" in Python'
                + "".join(f", {'or' if k else 'give'} --network-layout {name}" for k, name in enumerate(names))
                + " on the command line" * bool(names)
            )
        return skeleton

    @classmethod
    def poses_per_window(cls, frames: int) -> int:
        """How many poses a training window of `frames` frames supervises."""
        return frames if cls.mode == "seq2seq" else 1

    def training_starts(self, length: int, interval: int | None = None) -> Int[np.ndarray, "windows"]:
        """First frames of the training windows in a clip of `length` frames; negative ones are in the edge padding.

        interval: the distance between them, T if None. It has no effect unless the mode is seq2seq: the others have a
        window around every frame.
        """
        if self.mode == "seq2seq":
            return training_starts(length, self.frames, interval)
        return sliding_starts(length, self.frames)

    def windows(self, length: int) -> tuple[Int[np.ndarray, "windows read"], Int[np.ndarray, "windows lifted"]]:
        """The windows that cover a clip of `length` frames at test time: the frames each reads, and those it lifts."""
        if self.mode == "convolution":
            half = (self.frames - 1) // 2
            read = np.clip(np.arange(-half, length + half), 0, length - 1)
            return read[None], np.arange(length)[None]
        if self.mode == "seq2frame":
            return sliding_windows(length, self.frames), np.arange(length)[:, None]
        windows = evaluation_windows(length, self.frames)
        return windows, windows

    @classmethod
    def sizes(cls, profile) -> dict[str, int]:
        """The options of the constructor that set its size in a `mixste.study.profiles.Profile`."""
        return {}

    @classmethod
    def authors_sizes(cls, shapes: "Shapes") -> dict[str, object]:
        """The options of the constructor, from an authors' checkpoint. Raises CheckpointError if a key is missing."""
        raise NotImplementedError

    def authors_state(self) -> dict[str, Tensor]:
        """The state dict with the authors' names and shapes, in the same order."""
        return self.state_dict()

    @classmethod
    def from_pretrained(cls, name: str = DEFAULT) -> Self:
        """A network with bundled weights, in eval mode, on the CPU: `MixSTE.from_pretrained()`.

        name: "open-base", the default, is the most accurate; "open-small" is the fastest. The model card,
        mixste/weights/NAME.md, says what they were trained on and what their errors are. Raises CheckpointError for an
        unknown name, a file that was changed, and a network of another class.
        """
        path = bundled_file(name)
        network = read_network(path)
        if not isinstance(network, cls):
            raise CheckpointError(f"{path}: expected a {cls.__name__}, found a {type(network).__name__}")
        return network

    @classmethod
    def from_weights(
        cls,
        options: dict[str, object],
        weights: dict[str, Tensor],
        layout: str | None = None,
        state: Callable[["Network"], dict[str, Tensor]] = nn.Module.state_dict,
    ) -> Self:
        """The network with these weights, in eval mode, on the CPU.

        layout: of the joints; if None, it is the only one with that number of joints, or else stays unknown. state: a
        function from a network to its state dict with the names and shapes of `weights`. Raises CheckpointError, which
        names the keys, unless these are all the weights of the network and no others.
        """
        if options.get("depth", 0) > len(weights) or len(weights) > MOST_TENSORS:
            raise CheckpointError(f"expected weights of {options.get('depth')} blocks, found {len(weights)} tensors")
        with torch.device("meta"):  # takes no memory until the shapes have been checked
            network = cls(**options)
        expected = state(network)
        problems = [f"{key} missing" for key in expected if key not in weights]
        problems += [f"{key} surplus" for key in weights if key not in expected]
        problems += [
            f"{key} of shape {tuple(weights[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in weights and weights[key].shape != value.shape
        ]
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise CheckpointError(
                f"expected the weights of {cls.name} {options}, found {'; '.join(problems[:5])}{more}"
            )
        ours = {
            key: weights[theirs].reshape(value.shape).to(value.dtype, copy=True)
            for (key, value), theirs in zip(network.state_dict().items(), expected, strict=True)
        }
        network.load_state_dict(ours, assign=True)
        if any(buffer.is_meta for buffer in network.buffers()):  # not part of the state dict: the constructor sets them
            with torch.random.fork_rng(devices=[]):
                network = cls(**options)
            network.load_state_dict(ours, assign=True)
        names = layouts_of(network.joints)
        network.layout = layout or (names[0] if len(names) == 1 else None)
        return network.eval()


class Shapes(dict[str, tuple[int, ...]]):
    """The shapes in an authors' checkpoint by key, see `Network.authors_sizes`."""

    def size(self, key: str, axis: int) -> int:
        """The length of an axis. Raises CheckpointError if there is no such key or axis."""
        if key not in self:
            raise CheckpointError(f"expected weights with {key}, found none")
        if len(self[key]) <= axis:
            raise CheckpointError(f"expected {key} to have {axis + 1} axes or more, found {self[key]}")
        return self[key][axis]

    def count(self, part: str) -> int:
        """The number of modules in a list: of distinct second parts of the keys that begin with `part.`."""
        return len({key.split(".")[1] for key in self if key.startswith(f"{part}.")})


def network_class(name: str) -> type[Network]:
    """The class with this name in `NETWORKS`, or of "module:Class": the module, your own, is then imported.

    Raises ValueError if there is none. Names from files that others may have written are looked up in `NETWORKS` alone,
    so that no file causes an import.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, or module:Class, found {name!r}")
    try:
        network = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"network {name}: expected a module {module} on Python's import path: {error}") from None
    if not (isinstance(network, type) and issubclass(network, Network) and "name" in vars(network)):
        raise ValueError(
            f"network {name}: expected a subclass of mixste.network.Network with a name, found {network!r}"
        )
    return network


def read_network(path: Path) -> Network:
    """The network in one of our safetensors files, in eval mode, on the CPU.

    Raises CheckpointError if the file is of no network in `NETWORKS`, or not whole.
    """
    weights, metadata = read_safetensors(path)
    if metadata.get("model") not in NETWORKS or "options" not in metadata:
        raise CheckpointError(
            f"expected the name of a network, one of {', '.join(NETWORKS)} (import the module of a network of your own "
            f"first), and its options beside the weights, found {metadata}"
        )
    kind, options = NETWORKS[metadata["model"]], json.loads(metadata["options"])
    network = kind.from_weights(options, weights, metadata.get("layout"))
    network.metres = metadata.get("unit", "metre") == "metre"
    network.file = path
    return network
