"""A run: one training and its evaluation, named by the hash of all that its outcome depends on."""

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from mixste import data, losses
from mixste.data.clips import PoseDataset
from mixste.data.splits import by_takes, in_layout, validating
from mixste.io.install import PACKAGE
from mixste.network import Network, network_class
from mixste.skeleton import SKELETONS, Skeleton, human36m
from mixste.study.identity import CODE, SYNTHETIC_CODE, _code, code_fingerprint
from mixste.train import AUTHORS, Recipe, seed_of


@dataclass(frozen=True)
class Data:
    """What a run reads: the arguments of `mixste.data.load`, and a choice of clips.

    skeleton: another layout than the source's, for stand-ins. subjects, actions: only these (empty: all). split:
    "published" for the source's own; "everyone" trains on its validation people too; "takes" trains and tests on the
    same people, as HumanEva does, the last take of each action being the test; "validation" tests on the people whom
    the source sets apart for choosing settings, or else on the last of those it trains on. test_cameras: test on the
    clips of the first so many cameras (0: all), where every view would cost more than it tells.
    """

    source: str
    keypoints: str = "gt"
    rig: str | None = None
    skeleton: str | None = None
    subjects: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    split: str = "published"
    test_cameras: int = 0

    def load(self) -> PoseDataset:
        return _load(self)

    @property
    def fingerprint(self) -> str:
        """Of all that this reads; the synthetic source is what its code makes, and need not be made to be known."""
        if self.source != "synthetic":
            return self.load().fingerprint
        cameras = [path.read_text() for path in sorted((PACKAGE / "data").glob("*_cameras.json"))]
        return hashlib.sha256(f"{self} {code_fingerprint(SYNTHETIC_CODE)} {cameras}".encode()).hexdigest()[:16]

    @property
    def layout(self) -> Skeleton:
        if self.skeleton:
            return SKELETONS[self.skeleton]
        return human36m if self.source == "synthetic" else self.load().skeleton


@functools.lru_cache(maxsize=4)
def _load(wanted: Data) -> PoseDataset:
    options = {"rig": wanted.rig} if wanted.rig else {}
    dataset = data.load(wanted.source, keypoints=wanted.keypoints, **options)
    if wanted.skeleton:
        dataset = in_layout(dataset, SKELETONS[wanted.skeleton])
    dataset = dataset.select(wanted.subjects or None, wanted.actions or None)
    if wanted.split == "takes":
        dataset = by_takes(dataset)
    elif wanted.split == "validation":
        dataset = validating(dataset)
    elif wanted.split == "everyone":
        dataset = replace(dataset, train=dataset.train + dataset.validation, validation=[])
    if wanted.test_cameras:
        cameras = sorted({clip.camera for clip in dataset.test})[: wanted.test_cameras]
        dataset = replace(dataset, test=[clip for clip in dataset.test if clip.camera in cameras])
    return dataset


@dataclass(frozen=True)
class Run:
    """One training and its evaluation, complete: whatever changes the outcome is in here, in the data, or in `CODE`.

    model: a name in `NETWORKS`, or module:Class for a network of your own; one of `references` is fitted in closed
    form, by no recipe, and poses are 0 then. options: of the network, besides frames and what the recipe sets; also as
    a dict. poses: length of training, in
    poses supervised. start: the run whose last weights this one begins with (fine-tuning). test_curve: evaluate on the
    test clips along the way and keep the best weights beside the last, which is how the authors chose theirs (notebook
    13, row 25).
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

    def __post_init__(self):  # in one order, so that equal runs have one name
        object.__setattr__(self, "options", tuple(sorted(dict(self.options).items())))

    @property
    def id(self) -> str:
        return _id(self)

    @property
    def network_class(self) -> type[Network]:
        return network_class(self.model)

    def build(self) -> Network:
        """The untrained network, from the seed; a run with a `start` begins with the weights of that one instead."""
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
    parts = [spec(run), run.data.fingerprint, code_fingerprint(CODE)]
    parts += [run.start.id, code_fingerprint(("checkpoints",))] if run.start else [""]  # which fits one to the other
    parts += [_code(losses.own_code(name)[1]) for name, _ in run.recipe.loss if losses.is_own(name)]
    parts += [code_fingerprint(("networks/references",))] if run.network_class.closed_form else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def spec(run: Run) -> str:
    return json.dumps(asdict(run), indent=1, sort_keys=True)


def read_spec(path: Path) -> Run:
    """The run that a spec.json describes. ValueError if it describes none."""
    try:
        return run_of(json.loads(Path(path).read_text(encoding="utf-8")))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"expected the settings of a run in {path}: {error}") from None


def run_of(spec: dict) -> Run:
    """The run whose settings a spec.json holds. ValueError, TypeError or KeyError if it holds none."""
    start = spec["start"] and run_of(spec["start"])
    data, recipe = Data(**_tuples(spec["data"])), Recipe(**_tuples(spec["recipe"]))
    return Run(**_tuples(spec) | {"data": data, "recipe": recipe, "start": start})


def _tuples(value):
    """JSON's lists are our tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def describe(run: Run) -> str:
    """A run in a few words, for messages."""
    return f"{run.id} ({run.model}, T={run.frames}, {run.data.source}, seed {run.seed})"
