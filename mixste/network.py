"""What the study must know of a network, written on its class: a new network is one file, see `Network`."""

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
from mixste.io.weights import CheckpointError, bundled_file, read_safetensors
from mixste.skeleton import SKELETONS, Skeleton, layouts_of

NETWORKS: dict[str, type["Network"]] = {}  # by name; `mixste.networks` imports those of the package
MODES = ("seq2seq", "seq2frame", "convolution")
MOST_TENSORS = 2_000  # of a checkpoint; the paper's network has 208


class Network(nn.Module):
    """Lifts windows of 2D keypoints to 3D poses; a subclass with a `name` is found by it in `NETWORKS`.

    forward: (batch, frames, joints, 2) screen-normalised -> (batch, lifted, joints, 3) metres, camera axes,
    root-relative. The constructor passes all its options on to this one; a checkpoint keeps them to build the network
    again.

    mode: which frames a window lifts, in training and at test time. "seq2seq": all that it reads. "seq2frame": the
    central one, in a window around every frame of a clip. "convolution": trained like seq2frame; at test time it reads
    a whole clip at once, and lifts every frame whose receptive field of `frames` frames is there.
    closed_form: True for a reference that is not trained: `fit(clips, skeleton) -> MPJPE in metres` solves for it.
    recipe_options: those settings of `mixste.train.Recipe` that are options of the constructor.
    authors_key: the first part of keys that only its authors' checkpoints have; None where there are none.
    authors_options: options that its authors' code fixes and no weight tells.
    layout: on an instance, the joint layout (`mixste.skeleton.SKELETONS`) that it was trained on. A new network has the
    usual one for its number of joints, until it is trained; None where a file does not tell it.
    """

    name: ClassVar[str]
    mode: ClassVar[str] = "seq2seq"
    closed_form: ClassVar[bool] = False
    recipe_options: ClassVar[tuple[str, ...]] = ()
    authors_key: ClassVar[str | None] = None
    authors_options: ClassVar[dict[str, object]] = {}

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.mode not in MODES:
            raise ValueError(f"{cls.__name__}.mode must be one of {', '.join(MODES)}, found {cls.mode!r}")
        if "name" in vars(cls):
            other = NETWORKS.setdefault(cls.name, cls)
            if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"network {cls.name!r} is {other.__module__}.{other.__qualname__}: choose another name"
                )
            NETWORKS[cls.name] = cls  # a cell of a notebook that is run again defines its class again

    def __init__(self, *, frames: int, joints: int, **options):
        super().__init__()
        self.options = {"frames": frames, "joints": joints, **options}
        self.frames, self.joints = frames, joints
        self.layout = next(iter(layouts_of(joints)), None)

    @property
    def skeleton(self) -> Skeleton:
        """The joint layout that it was trained on. ValueError, which says how to give it, where that is not known."""
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
        """Poses that a training window of `frames` frames supervises."""
        return frames if cls.mode == "seq2seq" else 1

    def training_starts(self, length: int, interval: int | None = None) -> Int[np.ndarray, "windows"]:
        """First frames of the training windows in a clip of `length` frames; negative ones lie in the edge padding.

        interval: frames from one to the next, T if None; a window around every frame where only the centre is lifted.
        """
        if self.mode == "seq2seq":
            return training_starts(length, self.frames, interval)
        return sliding_starts(length, self.frames)

    def windows(self, length: int) -> tuple[Int[np.ndarray, "windows read"], Int[np.ndarray, "windows lifted"]]:
        """How it goes through a clip of `length` frames: the frames it reads and those it lifts, by window."""
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
        """Its constructor's options at the scale of a profile of the study, which has dims, depths, heads and so on."""
        return {}

    @classmethod
    def authors_sizes(cls, shapes: "Shapes") -> dict[str, object]:
        """The constructor's options, read off an authors' checkpoint. CheckpointError if a shape is missing."""
        raise NotImplementedError

    def authors_state(self) -> dict[str, Tensor]:
        """The state dict with the authors' names and shapes, in the same order."""
        return self.state_dict()

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """A network that comes with the package, in eval mode, on the CPU: `MixSTE.from_pretrained("open-small")`.

        The card beside the weights, mixste/weights/NAME.md, says what they were trained on and how far they can be
        trusted. Raises CheckpointError, which lists the names there are, for any other, for a file that has changed
        since, and for a network of another class.
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
        """The network with these weights, all of them and no other, in eval mode, on the CPU.

        state: of a network, its state dict in the names and shapes of `weights`. layout: None where the file does not
        tell; it is then the only one with that many joints, if there is one. CheckpointError names the keys that do not
        fit.
        """
        if options.get("depth", 0) > len(weights) / 10 or len(weights) > MOST_TENSORS:  # a block has more than 10
            raise CheckpointError(f"expected weights of {options.get('depth')} blocks, found {len(weights)} tensors")
        with torch.device("meta"):  # no memory, until the shapes are known to fit
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
        names = layouts_of(network.joints)
        network.layout = layout or (names[0] if len(names) == 1 else None)
        return network.eval()


class Shapes(dict[str, tuple[int, ...]]):
    """The shapes in an authors' checkpoint, by key, for `Network.authors_sizes`."""

    def size(self, key: str, axis: int) -> int:
        """The length of one axis. CheckpointError if there is none."""
        if key not in self:
            raise CheckpointError(f"expected weights with {key}, found none")
        if len(self[key]) <= axis:
            raise CheckpointError(f"expected {key} to have {axis + 1} axes or more, found {self[key]}")
        return self[key][axis]

    def count(self, part: str) -> int:
        """How many modules a list has: of the keys that begin with `part.`, the different second parts."""
        return len({key.split(".")[1] for key in self if key.startswith(f"{part}.")})


def network_class(name: str) -> type[Network]:
    """The class of a name in `NETWORKS`, or of "module:Class" in a module of your own, which is imported.

    Raises ValueError if there is none. A name that was read from a file must be looked up in `NETWORKS`, so that no
    file can have a module imported.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, or module:Class, found {name!r}")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"network {name}: expected a module {module} on Python's import path: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Network) and "name" in vars(found)):
        raise ValueError(f"network {name}: expected a subclass of mixste.network.Network with a name, found {found!r}")
    return found


def read_network(path: Path) -> Network:
    """The network of one of our safetensors files, in eval mode, on the CPU; CheckpointError for an unknown one."""
    weights, metadata = read_safetensors(path)
    if metadata.get("model") not in NETWORKS or "options" not in metadata:
        raise CheckpointError(
            f"expected the name of a network, one of {', '.join(NETWORKS)} (import the module of a network of your own "
            f"first), and its options beside the weights, found {metadata}"
        )
    return NETWORKS[metadata["model"]].from_weights(json.loads(metadata["options"]), weights, metadata.get("layout"))
