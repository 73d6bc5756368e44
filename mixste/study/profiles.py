"""The profiles of the study: data, sizes that replace the paper's, length of training, and seeds."""

import os
from dataclasses import dataclass, field, replace

from mixste.data.sources.people import PEOPLE, subjects
from mixste.network import network_class
from mixste.study.run import Data, Run
from mixste.train import AUTHORS, Recipe

# Human3.6M's 1,559,752 training frames, each also mirrored, in the authors' 120 epochs.
PAPER_POSES = 120 * 2 * 1_559_752


@dataclass(frozen=True)
class MorePeople:
    """The plan of table `more_people`.

    orders: random orders of the training subjects; the first ones of each are trained on, with a seed of its own.
    tested: subjects to test on. counts: numbers of subjects to train on, with `frames` frames in all, equally many of
    each (0: all that there are). other_frames: other numbers of frames, with the last of `counts`.
    """

    orders: tuple[tuple[str, ...], ...] = (("S6", "S8", "S7", "S1", "S5"), ("S8", "S1", "S5", "S6", "S7"))
    tested: tuple[str, ...] = ("S9", "S11")
    counts: tuple[int, ...] = (1, 4)
    frames: int = 600
    other_frames: tuple[int, ...] = (75,)


@dataclass(frozen=True)
class Sweep:
    """The plan of table `rates` or `leaders_rates`, by which learning rates are chosen.

    networks: keys of `mixste.study.tables.networks`, or of `mixste.study.tables.six_networks`. rates: learning rates.
    length: of these trainings, as a share of each network's. seeds: of each training.
    """

    networks: tuple[str, ...]
    rates: tuple[float, ...]
    length: float
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Training:
    """How a network is trained where this differs from the profile: None stands for the profile's."""

    poses: int | None = None  # length of a training, in supervised poses
    learning_rate: float | None = None
    batch_frames: int | None = None  # supervised poses in a step
    seeds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Profile:
    """A scale of the study: data, sizes that replace the paper's, and length and number of trainings."""

    name: str
    title: str  # shown in every table and figure: the data, the length of training, whether comparable with the paper
    data: Data  # the main source
    detectors: tuple[str, str]  # the detectors that replace CPN and HRNet
    humaneva: Data  # the data of Table 4
    mpi_inf_3dhp: Data  # the data of Table 3
    frames: dict[int, int]  # the paper's T -> the T used here
    dims: dict[int, int]  # the paper's d_m -> the width used here
    depths: dict[int, int]  # the paper's d_l -> the depth used here
    heads: int  # attention heads
    channels: int  # channels of VideoPose3D's convolutions
    joint_dim: int  # width of a joint where joints are not separated: PoseFormer, and two rows of Table 5
    poses: int  # length of a training, in supervised poses
    seeds: tuple[int, ...]  # each row is trained once with each of them
    recipe_changes: dict[str, object] = field(default_factory=dict)  # settings that differ from the authors' recipe
    adamw_rate: float | None = None  # for AdamW and Adam in `paper_vs_code`, if the recipe has another optimizer
    # By `network_key`, as "poseformer", or by that and the paper's T, as "mixste-243", which comes first.
    networks: dict[str, Training] = field(default_factory=dict)
    # By table: length of its trainings as a share of each network's, and seeds; by default 1, and those of the network.
    lengths: dict[str, float] = field(default_factory=dict)
    table_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    # Table `curves`: lengths as shares of each network's, each with the number of seeds at most.
    curves: dict[float, int] = field(default_factory=lambda: {1 / 8: 1, 1 / 3: 1, 1: 1})
    sweep: Sweep = Sweep(("mixste-81",), (2e-5, 4e-5, 8e-5), length=1 / 12)
    # Table `leaders`: from detected keypoints, or also from exact ones; and the plan of its rates.
    leaders: tuple[str, ...] = ("detected", "exact")
    leaders_sweep: Sweep = Sweep(("ktpformer-243",), (2e-5, 4e-5, 8e-5), length=1 / 12)
    ablation_frames: int = 243  # the paper's T that replaces 243 in Tables 5 and 6 and `paper_vs_code`
    long_clips: int | None = None  # the longest of the paper's T that most test clips reach; None: they reach all
    ablation_dim: int = 512  # the d_m that replaces 512 in Table 6 and `paper_vs_code`, for all rows alike
    people: MorePeople = MorePeople()
    # The protocol of the tables, see `mixste.evaluate.evaluate`. "authors" also counts the padding of short clips, of
    # which long windows have more than short ones.
    protocol: str = "exact"
    average: str = "actions"  # what averages are over: "actions", as in the paper, or "subjects", who count the same
    # Columns that replace those of the actions: names, and the subjects that each averages over, which may overlap.
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    comparable: bool = False  # whether the paper's numbers measure the same thing
    gpu: bool = True  # whether its trainings need a GPU

    @property
    def detected(self) -> Data:
        """The main source with the first detector's keypoints, on which most rows are trained."""
        return replace(self.data, keypoints=self.detectors[0])

    def recipe(self, **changes) -> Recipe:
        return replace(AUTHORS, **{**self.recipe_changes, **changes})

    @property
    def departures(self) -> str:
        """A sentence on what the recipe changes in the authors'."""
        changed = {name: value for name, value in self.recipe_changes.items() if value != getattr(AUTHORS, name)}
        recipe = ", ".join(f"{name} {value} (theirs: {getattr(AUTHORS, name)})" for name, value in changed.items())
        return "The recipe is the authors'" + (f", but for {recipe}." if recipe else ".")

    def __str__(self) -> str:
        return f"{self.name}: {self.title}. {self.departures}"

    def mixste(
        self, frames=243, keypoints=None, *, dim=512, depth=8, data=None, recipe=None, options=None
    ) -> tuple[Run, ...]:
        """MixSTE's runs, one per seed. frames, dim and depth are the paper's sizes; options are other options."""
        options = {"dim": self.dims[dim], "depth": self.depths[depth], "heads": self.heads} | (options or {})
        return self.seeded("mixste", frames, options, recipe or self.recipe(), keypoints, data)

    def peer(self, model: str, frames: int, keypoints=None, data=None, start=None) -> tuple[Run, ...]:
        """VideoPose3D's or PoseFormer's runs, trained on the plain MPJPE as their authors do."""
        options = network_class(model).sizes(self)
        recipe = self.recipe(loss=(("mpjpe", 1.0),), scaled_gradient=False, random_starts=False)
        return self.seeded(model, frames, options, recipe, keypoints, data, start)

    def seeded(self, model, frames, options, recipe, keypoints, data, start=None) -> tuple[Run, ...]:
        """One run per seed. start: for each of them, the run that it is fine-tuned from.

        The network's rate and batch replace the profile's, but not those that a recipe chooses for itself.
        """
        data = data or (replace(self.data, keypoints=keypoints) if keypoints else self.detected)
        network = network_key(model, options)
        training = self.networks.get(f"{network}-{frames}") or self.networks.get(network) or Training()
        for name in ("learning_rate", "batch_frames"):
            value = getattr(training, name)
            if value is not None and getattr(recipe, name) == getattr(self.recipe(), name):
                recipe = replace(recipe, **{name: value})
        poses, seeds = training.poses or self.poses, training.seeds or self.seeds
        options = tuple(sorted(options.items()))
        return tuple(
            Run(data, self.frames[frames], poses, seed, model, options, recipe, first)
            for seed, first in zip(seeds, start or [None] * len(seeds), strict=True)
        )

    def scaled(self, times: float) -> "Profile":
        """The profile with all trainings `times` as long."""
        networks = {
            name: replace(training, poses=training.poses and round(times * training.poses))
            for name, training in self.networks.items()
        }
        return replace(self, poses=round(times * self.poses), networks=networks)

    def of_table(self, key: str) -> "Profile":
        """The profile with the length and the seeds of this table's trainings."""
        profile, seeds = self.scaled(self.lengths.get(key, 1)), self.table_seeds.get(key)
        if seeds is None:
            return profile
        networks = {name: replace(training, seeds=None) for name, training in profile.networks.items()}
        return replace(profile, seeds=seeds, networks=networks)

    def full(self) -> tuple[Run, ...]:
        """The paper's model, T = 243, by the authors' recipe, on the first detector: a row of Tables 1, 5, 6 and 7."""
        return tuple(replace(run, test_curve=True) for run in self.mixste())

    def ablated(self, dim=512) -> tuple[Run, ...]:
        """The complete model of Table 5 or 6: `full`, or a smaller one if these tables use smaller sizes."""
        return self.mixste(self.ablation_frames, dim=dim) if self.size_note(dim) else self.full()

    def size_note(self, dim=512) -> str:
        """The note on a row with smaller sizes than T = 243 and d_m = 512; empty for a row with these sizes."""
        sizes = {"T": (self.frames, self.ablation_frames, 243), "d_m": (self.dims, dim, 512)}
        smaller = [
            f"{name} = {sizes_here[used]} instead of {sizes_here[paper]}"
            for name, (sizes_here, used, paper) in sizes.items()
            if used != paper
        ]
        return ", ".join(smaller)


def network_key(model: str, options: dict) -> str:
    """The name in `Profile.networks`: the model's, or, for MixSTE without joint separation, that of a row of Table 5.

    These are "baseline", or "alternating" if its blocks alternate.
    """
    if options.get("separate_joints", True):
        return model
    return "alternating" if options.get("alternating", True) else "baseline"


_LATER = ("dstformer-243", "motionagformer-243", "ktpformer-243")  # keys of `mixste.study.tables.six_networks`


def _smoke(
    name: str,
    title: str,
    data: Data,
    humaneva: Data,
    mpi_inf_3dhp: Data,
    detectors=("cpn", "openpose"),
    protocol="exact",
) -> Profile:
    """A profile for two CPU cores: T / 27, at a tenth of the frame rate, d_m / 16, depth 3 instead of 8."""
    return Profile(
        name=name,
        title=title,
        data=replace(data, stride=10),
        detectors=detectors,
        humaneva=replace(humaneva, stride=10),
        mpi_inf_3dhp=replace(mpi_inf_3dhp, stride=10),
        # A step sees few poses, and MixSTE learns more from different ones. On synthetic people at 10 frames/s, after
        # 60,000 poses with AdamW at 5e-3, it is at 59 mm with T = 3, 71 with 9, and 121 with 27. With T = 9, after
        # 40,000 with Muon, it is at 70 mm there, and at 61 at 5 frames/s.
        frames={1: 1, 27: 2, 43: 3, 81: 3, 128: 5, 243: 9, 300: 11},
        dims={64: 4, 128: 8, 256: 16, 512: 32, 640: 40},
        depths={4: 1, 6: 2, 8: 3, 10: 4},
        heads=2,
        channels=64,
        joint_dim=4,
        # With T = 9, some trainings end at 100 mm after 40,000 poses, where others were half-way through theirs. After
        # 50,000, all end between 53 and 65 mm.
        poses=54_000,
        seeds=(0,),
        lengths={
            **dict.fromkeys(("table3", "table4", "table7"), 3 / 5),
            **dict.fromkeys(("paper_vs_code", "limits", "leaders"), 1 / 3),
            "more_people": 2 / 3,
        },
        sweep=Sweep(("mixste-81",), (4e-3, 8e-3, 1.6e-2), length=1 / 4),
        leaders=("detected",),  # at this length, three of the six are trainings of other tables
        leaders_sweep=Sweep(_LATER, (4e-3, 8e-3), length=1 / 18),
        # The changes to the authors' recipe that lower the error most on synthetic people. After 60,000 poses with
        # T = 9, batches of 45 poses give 71 mm, and of 90 give 113; AdamW gives 65 mm at its best rate, Muon 55. After
        # 40,000, Muon gives 70 mm, and with the scaled gradient 83; AdamW gives 88. The rate is between the best one
        # for T = 3, 1e-2, and the best one without joint separation, 5e-3.
        recipe_changes={
            "optimizer": "muon",
            "learning_rate": 8e-3,
            "schedule": "cosine",
            "batch_frames": 45,
            "random_starts": True,
            "scaled_gradient": False,
            "drop_path": 0.0,
        },
        adamw_rate=5e-3,
        people=MorePeople(orders=MorePeople.orders[:1]),
        protocol=protocol,
        gpu=False,
    )


_PUBLISHED_DETECTORS = ("cpn_ft_h36m_dbb", "detectron_ft_h36m")
_PUBLISHED_SIZES = {
    "frames": {size: size for size in (1, 27, 43, 81, 128, 243, 300)},
    "dims": {size: size for size in (64, 128, 256, 512, 640)},
    "depths": {size: size for size in (4, 6, 8, 10)},
    "heads": 8,
    "channels": 1024,
    "joint_dim": 32,
}


_HUMANEVA = {"rig": "humaneva", "skeleton": "humaneva15", "split": "takes"}
_DHP = {"rig": "mpi_inf_3dhp", "skeleton": "mpi_inf_3dhp"}

# Two actions that three people of HDM05 performed several times.
_OPEN_HUMANEVA = Data(
    "open-people",
    "cpn",
    **_HUMANEVA,
    subjects=("hdm_bd", "hdm_bk", "hdm_dg"),
    actions=("Sneak", "Jog in circle"),
)

# Three random orders. No two of the first eight can be one person (`mixste.data.sources.people`): they are 01 or 16, 29
# or 49, 07 or 08, and five others. The first four have at least 4,000 frames each, so that two, four and eight subjects
# give equal shares of 8,000 frames. The others follow. Of all sixteen, three have less than their share and give what
# they have (10: 229, 26: 347, 32: 382 frames); the other thirteen give 541 or 542 frames each.
_FIRST_EIGHT = (
    ("cmu_14", "hdm_bk", "cmu_35", "cmu_49", "cmu_16", "cmu_08", "hdm_dg", "cmu_131"),
    ("hdm_dg", "cmu_01", "cmu_49", "hdm_bk", "cmu_08", "cmu_131", "cmu_35", "cmu_14"),
    ("cmu_14", "cmu_16", "hdm_bk", "hdm_dg", "cmu_07", "cmu_35", "cmu_29", "cmu_131"),
)
_OPEN_PEOPLE = MorePeople(
    orders=tuple((*first, *(name for name in subjects("train") if name not in first)) for first in _FIRST_EIGHT),
    tested=subjects("test"),
    counts=(2, 4, 8, 16),
    frames=8000,
    other_frames=(1000, 2000, 4000, 0),
)

_OPEN_GROUPS = {
    "HDM05": tuple(name for name in subjects("test") if name.startswith("hdm")),  # surely people never trained on
    "everyday": tuple(name for name in subjects("test") if not PEOPLE[name].hard),
    "hard": tuple(name for name in subjects("test") if PEOPLE[name].hard),
}

FIVE = (0, 1, 2, 3, 4)

PROFILES = {
    "smoke": _smoke(
        "smoke",
        "synthetic people at 5 frames/s, small models: shows that the study runs, not what the paper found",
        data=Data("synthetic", test_cameras=1),
        humaneva=Data("synthetic", "cpn", **_HUMANEVA, subjects=("S1", "S5", "S6"), actions=("Walking", "WalkDog")),
        mpi_inf_3dhp=Data("synthetic", **_DHP, test_cameras=1),
    ),
    "open": Profile(
        name="open",
        title="27 subjects of real motion capture (HDM05, CMU) by virtual cameras, 300 GPU seconds a training: "
        "not comparable with the paper",
        data=Data("open-people"),
        detectors=("cpn", "openpose"),
        humaneva=_OPEN_HUMANEVA,
        mpi_inf_3dhp=Data("open-people", **_DHP),
        **_PUBLISHED_SIZES,
        # For the networks of Tables 1, 2, 5 and 8, the poses of 300 seconds of an H200 at the speeds in
        # results/bench/study.csv. The rate is the best of those that table `rates` has records of, for each of them.
        poses=24_600_000,
        seeds=(0, 1, 2),
        networks={
            "mixste-81": Training(seeds=FIVE),
            "baseline": Training(67_000_000, seeds=FIVE),
            "alternating": Training(66_000_000),
            "videopose3d": Training(36_000_000, seeds=FIVE),
            "poseformer": Training(6_600_000, batch_frames=256, seeds=FIVE),
            "poseformer-43": Training(3_600_000, batch_frames=256, seeds=FIVE),
            "dstformer": Training(10_700_000),
            "motionagformer": Training(7_700_000),
            "ktpformer": Training(11_100_000),
        },
        lengths={
            **dict.fromkeys(("table3", "table4"), 1 / 3),
            **dict.fromkeys(("table6", "table7", "paper_vs_code", "limits", "more_people"), 1 / 2),
        },
        table_seeds={
            **dict.fromkeys(("table3", "table4", "table6", "leaders"), (0, 1, 2)),
            "table7": (0, 1),
            **dict.fromkeys(("paper_vs_code", "limits"), (0,)),
        },
        curves={1 / 8: 3, 1: 5, 3: 2},
        sweep=Sweep(
            ("mixste-81", "mixste-243", "baseline", "videopose3d-243", "poseformer-81"),
            (2.5e-4, 5e-4, 1e-3, 2e-3),
            length=1 / 6,
        ),
        leaders_sweep=Sweep(_LATER, (2.5e-4, 5e-4, 1e-3, 2e-3), length=1 / 6),
        # Chosen on validation subjects, see results/bench. With AdamW and d_m = 512, trainings collapse at rates from
        # 5e-4 on with T = 81, and from 2.5e-4 on with T = 243 (collapse.csv). After 6 M poses, Muon's error is lower by
        # 10 to 20 mm, and drawing all subjects equally often costs 5 mm (recipe.csv): three of the 16 have 69 % of the
        # frames. With AdamW and the scaled gradient or stochastic depth, trainings as short as these stayed at the
        # level of a constant pose.
        recipe_changes={
            "optimizer": "muon",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "random_starts": True,
            "measured_bodies": True,
            "scaled_gradient": False,
            "drop_path": 0.0,
        },
        adamw_rate=2.5e-4,
        ablation_frames=81,  # seven of ten clips are shorter than 243 frames
        long_clips=81,  # of the test clips, 72 % have 81 frames, 43 % have 128, and 20 % have 243
        ablation_dim=256,
        people=_OPEN_PEOPLE,
        average="subjects",
        groups=_OPEN_GROUPS,
    ),
    "paper-cpu": _smoke(
        "paper-cpu",
        "the paper's data, small models: shows that your data work, not what the paper found",
        data=Data("human36m", test_cameras=1),
        humaneva=Data("humaneva"),
        mpi_inf_3dhp=Data("mpi_inf_3dhp"),
        detectors=_PUBLISHED_DETECTORS,
        protocol="authors",
    ),
    "paper": Profile(
        name="paper",
        title="the paper's data and settings",
        data=Data("human36m"),
        detectors=_PUBLISHED_DETECTORS,
        humaneva=Data("humaneva"),
        mpi_inf_3dhp=Data("mpi_inf_3dhp"),
        **_PUBLISHED_SIZES,
        poses=PAPER_POSES,
        seeds=(0,),
        people=MorePeople(
            orders=(*MorePeople.orders, ("S8", "S6", "S5", "S7", "S1")),
            counts=(1, 2, 4),
            frames=48_000,
            other_frames=(6000, 12_000, 24_000),
        ),
        protocol="authors",
        comparable=True,
    ),
}


# All clips have one skeleton, so bodies are not resized, and averages are over actions. Clips have at least 243 frames.
# The stand-in for HumanEva has the same clips as in `open`.
PROFILES["open-styles"] = replace(
    PROFILES["open"],
    name="open-styles",
    title="real motion capture (Bandai-Namco, unseen styles) by virtual cameras, 300 GPU seconds a training: "
    "not comparable with the paper",
    data=Data("open-styles", test_cameras=1),
    mpi_inf_3dhp=Data("open-styles", **_DHP, test_cameras=1),
    recipe_changes=PROFILES["open"].recipe_changes | {"measured_bodies": False},
    people=MorePeople((("bandai",),), (), counts=(1,), frames=0, other_frames=()),  # there is one skeleton only
    average="actions",
    groups={},
    long_clips=None,  # 79 % of the test clips have 300 frames
    # Three seeds for all, and no curve: at its one length it has the networks of Tables 1 and 5.
    networks={name: replace(training, seeds=None) for name, training in PROFILES["open"].networks.items()},
    curves={1: 3},
)


def profile_of(name: str) -> Profile:
    """The profile of this name. ValueError for an unknown name lists all names.

    The environment variable MIXSTE_POSES shortens the trainings, to test data and machine; the title then says so.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, found {name!r}")
    profile, poses = PROFILES[name], os.environ.get("MIXSTE_POSES", "")
    if not poses:
        return profile
    if not poses.isdecimal() or int(poses) < 1:
        raise ValueError(f"MIXSTE_POSES must be a positive number, found {poses!r}")
    title = f"{profile.title}, CUT SHORT to {poses} poses of training"
    networks = {name: replace(training, poses=None) for name, training in profile.networks.items()}
    return replace(profile, poses=int(poses), networks=networks, lengths={}, title=title)
