"""The scales of the study: the data, the sizes that stand for the paper's, the length of training and the seeds."""

import math
import os
from dataclasses import dataclass, field, replace

from mixste.study import store
from mixste.study.run import Data, Run
from mixste.train import AUTHORS, Recipe

# Human3.6M's 1,559,752 training frames, each also mirrored, in the authors' 120 epochs.
PAPER_POSES = 120 * 2 * 1_559_752


@dataclass(frozen=True)
class Profile:
    """A scale of the study.

    data: the main source. detectors: whose keypoints stand for CPN's and HRNet's. comparable: whether the paper's
    numbers measure the same thing. humaneva, dhp: sources of Tables 4 and 3. frames, dims, depths: what stands for the
    paper's T, d_m and d_l. heads, channels, joint_dim: widths of attention heads' number, VideoPose3D and the
    non-separated models. poses: length of training. departure: from the authors' recipe. shares: of poses and batch,
    for models that take so much longer over a pose; their steps are as many. long: lengths of the long trainings, in
    `poses`. rate: MixSTE's learning rate up to 512 wide and T = 81, where it does not bear its peers'; lower for wider
    tokens, and for longer windows, of which a batch has fewer. ablated: which of the paper's T stands for 243 in
    Tables 5 and 6 and notebook 13. slim: which d_m for 512 in Table 6 and notebook 13, where all rows are as wide.
    protocol: of the tables, see `mixste.evaluate.evaluate`; the authors' counts a short clip's padding too, and thereby
    more of a long window's than of a short one's. people: whom notebook 18 trains on, one more each time, and whom it
    tests on. gpu: whether a training is worth one.
    """

    name: str
    title: str
    data: Data
    detectors: tuple[str, str]
    humaneva: Data
    dhp: Data
    frames: dict[int, int]
    dims: dict[int, int]
    depths: dict[int, int]
    heads: int
    channels: int
    joint_dim: int
    poses: int
    seeds: tuple[int, ...]
    departure: dict[str, object] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    long: tuple[int, ...] = (2,)
    rate: float | None = None
    ablated: int = 243
    slim: int = 512
    people: tuple[tuple[str, ...], tuple[str, ...]] = (("S1", "S5", "S6", "S7", "S8"), ("S9", "S11"))
    protocol: str = "exact"
    comparable: bool = False
    gpu: bool = True

    def recipe(self, base: Recipe = AUTHORS, **changes) -> Recipe:
        return replace(base, **{**self.departure, **changes})

    def mixste(
        self, frames=243, keypoints=None, *, dim=512, depth=8, data=None, recipe=None, options=None, rate=None
    ) -> tuple[Run, ...]:
        """MixSTE's runs, one a seed. frames, dim and depth are the paper's figures; options are the network's own.

        rate: the learning rate, where it is not to be the profile's.
        """
        options = {"dim": self.dims[dim], "depth": self.depths[depth], "heads": self.heads} | (options or {})
        recipe = recipe or self.recipe()
        if self.rate and rate is None:
            width = options["dim"] * (1 if options.get("separate_joints", True) else 17)
            rate = self.rate * min(1, 512 / width) * min(1, math.sqrt(81 / frames))
        recipe = replace(recipe, learning_rate=rate or recipe.learning_rate)
        return self.seeded("mixste", frames, options, recipe, keypoints, data)

    def peer(self, model: str, frames: int, keypoints=None, data=None, start=None) -> tuple[Run, ...]:
        """VideoPose3D's or PoseFormer's runs, trained on the plain MPJPE as their authors do."""
        options = {"channels": self.channels}
        if model == "poseformer":
            options = {"joint_dim": self.joint_dim, "depth": max(1, self.depths[8] // 2), "heads": self.heads}
        recipe = self.recipe(loss=(("mpjpe", 1.0),), scaled_gradient=False, random_starts=False)
        share = self.shares.get(model, 1)
        recipe = replace(recipe, batch_frames=max(1, round(recipe.batch_frames * share)))
        return self.seeded(model, frames, options, recipe, keypoints, data, start, round(self.poses * share))

    def seeded(self, model, frames, options, recipe, keypoints, data, start=None, poses=None) -> tuple[Run, ...]:
        data = data or replace(self.data, keypoints=keypoints or self.detectors[0])
        options = tuple(sorted(options.items()))
        return tuple(
            Run(data, self.frames[frames], poses or self.poses, seed, model, options, recipe, begun)
            for seed, begun in zip(self.seeds, start or [None] * len(self.seeds), strict=True)
        )

    def note(self, model: str) -> str:
        """What a row must say of a model that learns from fewer poses than the others; empty for those."""
        share = self.shares.get(model, 1)
        few = f"{self.poses * share:,.0f} poses of training to the others' {self.poses:,}, in as many steps"
        return "" if share == 1 else f"{few}: for each pose it reads all T frames"

    def full(self) -> tuple[Run, ...]:
        """The paper's model, T = 243, by the authors' recipe, on the first detector: a row of Tables 1, 5, 6 and 7."""
        return tuple(replace(run, test_curve=True) for run in self.mixste())

    def whole(self, dim=512) -> tuple[Run, ...]:
        """The row of Table 5 or 6 from which nothing is taken away: `full`, or smaller where these are."""
        return self.mixste(self.ablated, dim=dim) if self.smaller(dim) else self.full()

    def smaller(self, dim=512) -> str:
        """What a row must say of sizes that stand for T = 243 and d_m = 512; empty for those."""
        sizes = {"T": (self.frames, self.ablated, 243), "d_m": (self.dims, dim, 512)}
        own = [
            f"{name} = {stands[used]} in the place of {stands[paper]}"
            for name, (stands, used, paper) in sizes.items()
            if used != paper
        ]
        return ", ".join(own)


def _smoke(
    name: str,
    title: str,
    data: Data,
    humaneva: Data,
    dhp: Data,
    poses: int,
    detectors=("cpn", "openpose"),
    protocol="exact",
    people=Profile.people,
    **departure,
) -> Profile:
    """The study small enough for two CPU cores: T / 9, d_m / 16, depth 3 for 8."""
    return Profile(
        name=name,
        title=title,
        data=data,
        detectors=detectors,
        humaneva=humaneva,
        dhp=dhp,
        frames={1: 1, 27: 3, 43: 5, 81: 9, 128: 15, 243: 27, 300: 33},
        dims={64: 8, 128: 16, 256: 24, 512: 32, 640: 40},
        depths={4: 1, 6: 2, 8: 3, 10: 4},
        heads=4,
        channels=64,
        joint_dim=8,
        poses=poses,
        seeds=(0,),
        departure={"learning_rate": 3e-3, "schedule": "cosine", "batch_frames": 64, **departure},
        people=people,
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
    "open-subjects",
    "cpn",
    **_HUMANEVA,
    subjects=("hdm_bd", "hdm_bk", "hdm_dg"),
    actions=("Sneak", "Jog in circle"),
)

# From both recordings in turns; the last is the one whom the source sets apart for validation.
_OPEN_PEOPLE = (("hdm_bk", "cmu_02", "hdm_dg", "cmu_01", "hdm_bd"), ("hdm_mm", "hdm_tr", "cmu_03"))

PROFILES = {
    "smoke": _smoke(
        "smoke",
        "synthetic people, small models: shows that the study runs, not what the paper found",
        data=Data("synthetic", test_cameras=1),
        humaneva=Data("synthetic", "cpn", **_HUMANEVA, subjects=("S1", "S5", "S6"), actions=("Walking", "WalkDog")),
        dhp=Data("synthetic", **_DHP, test_cameras=1),
        poses=30_000,
    ),
    "open-cpu": _smoke(
        "open-cpu",
        "real motion capture (HDM05, CMU) by virtual cameras, small models: not comparable with the paper",
        data=Data("open-subjects", test_cameras=1),
        humaneva=_OPEN_HUMANEVA,
        dhp=Data("open-subjects", **_DHP, test_cameras=1),
        poses=30_000,
        people=_OPEN_PEOPLE,
        body_shapes=True,
    ),
    "open": Profile(
        name="open",
        title="real motion capture (HDM05, CMU) by virtual cameras, short trainings: not comparable with the paper",
        data=Data("open-subjects"),
        detectors=("cpn", "openpose"),
        humaneva=_OPEN_HUMANEVA,
        dhp=Data("open-subjects", **_DHP),
        **_PUBLISHED_SIZES,
        poses=3_000_000,
        seeds=(0, 1, 2),
        # Chosen on the validation person. The gradient times its own loss and stochastic depth each hold a training as
        # short as this one back on the plateau of flat poses.
        departure={
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "random_starts": True,
            "body_shapes": True,
            "scaled_gradient": False,
            "drop_path": 0.0,
        },
        shares={"poseformer": 1 / 32},
        long=(8, 32),
        # At 1e-3 seven trainings of eight ended with one pose for all, 512 wide, and one of three, 256 wide; at 5e-4
        # three of six with T = 243, one of nine with T = 81. Clipped gradients collapsed as often.
        rate=5e-4,
        ablated=81,  # half of the clips are shorter than 97 frames
        slim=256,
        people=_OPEN_PEOPLE,
    ),
    "paper-cpu": _smoke(
        "paper-cpu",
        "the paper's data, small models: shows that your data work, not what the paper found",
        data=Data("human36m", test_cameras=1),
        humaneva=Data("humaneva"),
        dhp=Data("mpi_inf_3dhp"),
        poses=30_000,
        detectors=_PUBLISHED_DETECTORS,
        protocol="authors",
    ),
    "paper": Profile(
        name="paper",
        title="the paper's data and settings",
        data=Data("human36m"),
        detectors=_PUBLISHED_DETECTORS,
        humaneva=Data("humaneva"),
        dhp=Data("mpi_inf_3dhp"),
        **_PUBLISHED_SIZES,
        poses=PAPER_POSES,
        seeds=(0,),
        protocol="authors",
        comparable=True,
    ),
}


# One skeleton for all, so that no body needs resizing; clips as long as T = 243. Its HumanEva is that of `open`.
PROFILES["open-styles"] = replace(
    PROFILES["open"],
    name="open-styles",
    title="real motion capture (Bandai-Namco, styles never seen) by virtual cameras, short trainings: "
    "not comparable with the paper",
    data=Data("open-styles", test_cameras=1),
    dhp=Data("open-styles", **_DHP, test_cameras=1),
    departure=PROFILES["open"].departure | {"body_shapes": False},
    people=(("bandai",), ()),
)


def profile_of(name: str) -> Profile:
    """The profile of this name; ValueError lists those there are.

    The environment variable MIXSTE_POSES cuts its trainings short, to try out whether data and machine hold; the title
    says so. MIXSTE_SO_FAR=1 trains nothing: tables hold the rows that are trained, see
    `mixste.study.report.trained`.
    """
    if name not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, found {name!r}")
    profile, poses = PROFILES[name], os.environ.get("MIXSTE_POSES", "")
    if store.so_far():
        profile = replace(profile, title=f"{profile.title}; so far: rows that are not trained yet are left out")
    if not poses:
        return profile
    if not poses.isdecimal() or int(poses) < 1:
        raise ValueError(f"MIXSTE_POSES must be a positive number, found {poses!r}")
    return replace(profile, poses=int(poses), title=f"{profile.title}, CUT SHORT to {poses} poses of training")
