"""A run: one training and its evaluation, with an id that is the hash of everything that its result depends on."""

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mixste import data, losses
from mixste.data.clips import PoseDataset
from mixste.data.splits import by_takes, equal_shares, in_layout, thinned, validating
from mixste.io.install import PACKAGE
from mixste.network import Network, network_class
from mixste.skeleton import SKELETONS, Skeleton, human36m
from mixste.study import identity
from mixste.train import AUTHORS, Recipe, seed_of

# Entry points of the code that makes the synthetic data, trains, and computes errors, for `identity.fingerprint`.
SYNTHETIC = ("mixste.data.sources.synthetic:load", "mixste.study.run:_load")
TRAINING = ("mixste.study.run:Run.build", "mixste.study.trainer:run_device")
ERRORS = (
    *("mixste.study.trainer:errors_of", "mixste.study.trainer:constant_pose_of"),
    *("mixste.networks.references:ConstantPose.fit", "mixste.networks.references:at_constant_level"),
)


@dataclass(frozen=True)
class Data:
    """The data of a run: the arguments of `mixste.data.load`, and a selection of clips.

    skeleton: another layout than the source's, for stand-ins. subjects, actions: only these (empty: all). split:
    "published" is the source's own; "takes" trains and tests on the same subjects, as HumanEva does, with the last take
    of each action as the test; "validation" tests on the source's validation subjects, or on the last training subject
    where it has none. test_cameras: test on the clips of the first N cameras (0: all), to save time; unseen takes too.
    train_frames: train on this many frames in all, equally many of each subject (0: all), see
    `mixste.data.splits.equal_shares`. stride: keep every Nth frame of each clip, so that a short window spans more
    time; train_frames counts those that are kept.
    """

    source: str
    keypoints: str = "gt"
    rig: str | None = None
    skeleton: str | None = None
    subjects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    split: str = "published"
    test_cameras: int = 0
    train_frames: int = 0
    stride: int = 1

    def load(self) -> PoseDataset:
        return _load(self)

    @property
    def fingerprint(self) -> str:
        """Hash of the data; for the synthetic source, of the code that generates them, which is not run."""
        if self.source == "synthetic":
            calibrations = [path.read_text() for path in sorted((PACKAGE / "data").glob("*_cameras.json"))]
            content = [identity.settings(self), identity.fingerprint(*SYNTHETIC), calibrations]
        else:
            content = [self.load().fingerprint]
        return hashlib.sha256(repr([*content, self.layout]).encode()).hexdigest()[:16]

    @property
    def layout(self) -> Skeleton:
        if self.skeleton:
            return SKELETONS[self.skeleton]
        return human36m if self.source == "synthetic" else self.load().skeleton


@functools.lru_cache(maxsize=4)
def _load(choice: Data) -> PoseDataset:
    return select(_source(choice.source, choice.keypoints, choice.rig), choice)


@functools.lru_cache(maxsize=2)
def _source(name: str, keypoints: str, rig: str | None) -> PoseDataset:
    """A source as it is, kept since several selections of its clips are often read one after the other."""
    options = {"rig": rig} if rig else {}
    if name == "open-people":
        options["strict"] = True  # results are about all of its subjects
    return data.load(name, keypoints=keypoints, **options)


def select(dataset: PoseDataset, choice: Data) -> PoseDataset:
    """The part of a source's data that a run reads."""
    if choice.skeleton:
        dataset = in_layout(dataset, SKELETONS[choice.skeleton])
    dataset = thinned(dataset.select(choice.subjects or None, choice.actions or None), choice.stride)
    if choice.split == "takes":
        dataset = by_takes(dataset)
    elif choice.split == "validation":
        dataset = validating(dataset)
    if choice.train_frames:
        dataset = replace(dataset, train=equal_shares(dataset.train, choice.train_frames))
    if choice.test_cameras:
        cameras = sorted({clip.camera for clip in dataset.test})[: choice.test_cameras]
        test, unseen = (
            [clip for clip in clips if clip.camera in cameras] for clips in (dataset.test, dataset.unseen_takes)
        )
        dataset = replace(dataset, test=test, unseen_takes=unseen)
    return dataset


@dataclass(frozen=True)
class Run:
    """One training and its evaluation. Everything that changes the result is a field, in the data, or in `code`.

    model: of `NETWORKS`, or "module:Class"; a reference is fitted in closed form, without a recipe, and has poses = 0.
    options: of the network, besides frames and what the recipe sets; also as a dict. poses: length of training, in
    poses supervised. start: the run whose final weights this one starts with (fine-tuning). test_curve: evaluate on the
    test clips during training and keep the best weights besides the final ones: the authors report the epoch with the
    lowest test error (notebook 13, row 25).
    """

    data: Data
    frames: int
    poses: int
    seed: int
    model: str = "mixste"
    options: tuple[tuple[str, int | float | bool], ...] = ()
    recipe: Recipe = AUTHORS
    start: "Run | None" = None
    test_curve: bool = False

    def __post_init__(self):  # sorted, so that equal runs have the same id
        object.__setattr__(self, "options", tuple(sorted(dict(self.options).items())))

    @property
    def id(self) -> str:
        return _id(self)

    @property
    def network_class(self) -> type[Network]:
        return network_class(self.model)

    def build(self) -> Network:
        """The untrained network, from the seed. A run with a `start` uses the weights of that run instead."""
        torch.manual_seed(seed_of(self.seed, 2))
        network = self.network(len(self.data.layout.joints))
        network.layout = self.data.layout.name
        return network

    def network(self, joints: int) -> Network:
        options = {"frames": self.frames, "joints": joints, **dict(self.options)}
        options |= {name: getattr(self.recipe, name) for name in self.network_class.recipe_options}
        return self.network_class(**options)

    @property
    def poses_per_step(self) -> int:
        """Poses supervised in a step: of whole windows of T frames, or of their centres alone for the peers."""
        window = self.network_class.poses_per_window(self.frames)
        return max(1, self.recipe.batch_frames // window) * window

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.poses / self.poses_per_step))

    @property
    def points(self) -> int:
        """Rows of the learning curve."""
        return 5 if self.test_curve else 20


@functools.lru_cache(maxsize=4096)
def _id(run: Run) -> str:
    settings = identity.settings(replace(run, start=None))
    start = run.start.id if run.start else None
    content = json.dumps([settings, run.data.fingerprint, code(run), start], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def code(run: Run) -> str:
    """The fingerprint of the code of its training: the network, the terms of the loss, and the training loop."""
    entries = [_entry(run.network_class), *TRAINING]
    if run.network_class.closed_form:
        return identity.fingerprint(*entries, f"{entries[0]}.fit")
    entries.append("mixste.study.trainer:train_run")
    for name, _ in run.recipe.loss:
        if losses.is_own(name):
            losses.own_code(name)  # from now on this process trains with the code in the id
            entries.append(name)
        elif name in losses.LOSSES:  # an unknown name is an error in the training
            entries.append(_entry(losses.LOSSES[name]))
    if run.start:
        entries.append("mixste.checkpoints:transfer")
    if run.test_curve:
        entries.append("mixste.study.trainer:curve_mpjpe")
    return identity.fingerprint(*entries)


def code_of_errors(run: Run) -> str:
    """The fingerprint of the code that computes its errors."""
    return identity.fingerprint(_entry(run.network_class), *ERRORS)


def _entry(what) -> str:
    return f"{what.__module__}:{what.__qualname__}"


def spec(run: Run) -> str:
    return json.dumps(asdict(run), indent=1, sort_keys=True)


def read_spec(path: Path) -> Run:
    """The run described by a spec.json. ValueError if the file does not describe one."""
    try:
        return run_of(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected the settings of a run in {path}: {error}") from None


def run_of(spec: dict) -> Run:
    """The run with these settings of a spec.json. ValueError, TypeError or KeyError if they are not a run's."""
    start = spec["start"] and run_of(spec["start"])
    data, recipe = Data(**_tuples(spec["data"])), Recipe(**_tuples(spec["recipe"]))
    return Run(**_tuples(spec) | {"data": data, "recipe": recipe, "start": start})


def _tuples(value):
    """JSON lists as tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def describe(run: Run) -> str:
    """A run in a few words, for messages."""
    return f"{run.id} ({run.model}, T={run.frames}, {run.data.source}, seed {run.seed})"
