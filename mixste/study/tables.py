"""The tables of the study, as data: which runs stand behind each row, and what the paper prints for it.

`PLAN` has one function a table; each gives the rows at a scale (`mixste.study.profiles`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain

import pandas as pd

from mixste.data.check import PUBLISHED, lacking
from mixste.losses import TABLE_6
from mixste.networks.references import ConstantPose, FrameRegression
from mixste.study.profiles import Profile
from mixste.study.published import published
from mixste.study.run import Run
from mixste.train import AUTHORS, PAPER


@dataclass(frozen=True)
class Row:
    """One row of a table: its label, the runs behind it (one a seed), and the paper's numbers for it.

    printed: of `published`, the rows that belong to it; None where the paper has none. against: label of the row it
    is compared with, clip by clip. note: what stands for what.
    """

    label: str
    runs: tuple[Run, ...]
    printed: pd.DataFrame | None = None
    against: str = ""
    note: str = ""

    @property
    def trained(self) -> bool:
        """Whether networks that are trained stand behind it, and not one of `references`."""
        return any(run.poses for run in self.runs)


CONSTANT, REGRESSION = "constant pose", "linear regression, single frames"


def references(beside: Row, note: str = "") -> list[Row]:
    """What every table of errors ends with: what can be had without a network, from the data of one of its rows."""
    data = beside.runs[0].data
    constant, regression = (Run(data, 1, 0, 0, network.name) for network in (ConstantPose, FrameRegression))
    return [Row(CONSTANT, (constant,)), Row(REGRESSION, (regression,), note=note)]


def _printed(table: int, **where) -> pd.DataFrame:
    """The rows of a published table with these values; at least one."""
    numbers = published(table)
    for column, value in where.items():
        numbers = numbers[numbers[column] == value]
    if numbers.empty:
        raise ValueError(f"Table {table} prints no row with {where}")
    return numbers


def table1(p: Profile) -> list[Row]:
    """Per-action errors from detected keypoints."""
    first, second = p.detectors
    ours = {"method": "Ours", "keypoints": "CPN"}
    rows = [
        Row(f"VideoPose3D, {first}, T=243", p.peer("videopose3d", 243), _printed(1, method="Pavllo et al.")),
        Row(
            f"PoseFormer, {first}, T=81",
            p.peer("poseformer", 81),
            _printed(1, method="Zheng et al."),
            note=p.pose_note("poseformer"),
        ),
        Row(f"MixSTE, {first}, T=81", p.mixste(81), _printed(1, **ours, frames=81), f"PoseFormer, {first}, T=81"),
        Row(f"MixSTE, {first}, T=243", p.full(), _printed(1, **ours, frames=243), f"MixSTE, {first}, T=81"),
        Row(
            f"MixSTE, {second}, T=243",
            p.mixste(keypoints=second),
            _printed(1, method="Ours", keypoints="HRNet"),
            f"MixSTE, {first}, T=243",
            note=f"{second} instead of HRNet, whose keypoints were never released",
        ),
    ]
    return rows + references(rows[0], f"from keypoints of {first}")


def table2(p: Profile) -> list[Row]:
    """Per-action errors from ground-truth keypoints."""
    rows = [
        Row(
            "PoseFormer, GT, T=81",
            p.peer("poseformer", 81, "gt"),
            _printed(2, method="Zheng et al."),
            note=p.pose_note("poseformer"),
        ),
        Row("MixSTE, GT, T=81", p.mixste(81, "gt"), _printed(2, method="Ours", frames=81), "PoseFormer, GT, T=81"),
        Row("MixSTE, GT, T=243", p.mixste(243, "gt"), _printed(2, method="Ours", frames=243), "MixSTE, GT, T=81"),
    ]
    return rows + references(rows[0])


def table3(p: Profile) -> list[Row]:
    """MPI-INF-3DHP: PCK, AUC and MPJPE from ground-truth keypoints."""
    rows = [
        Row("MixSTE, T=1", p.mixste(1, data=p.mpi_inf_3dhp), _printed(3, method="Ours", frames=1)),
        Row("MixSTE, T=27", p.mixste(27, data=p.mpi_inf_3dhp), _printed(3, method="Ours", frames=27), "MixSTE, T=1"),
    ]
    return rows + references(rows[0])


def table4(p: Profile) -> list[Row]:
    """HumanEva: from scratch, with windows at every frame, and fine-tuned from the main source.

    The peers' pretraining uses the 15 joints from the start; MixSTE's is the study's full model, moved to 15 joints and
    another T by `mixste.checkpoints.transfer`.
    """
    fifteen = replace(p.data, keypoints=p.detectors[0], skeleton="humaneva15")
    rows = []
    for label, model, frames, method in (
        ("VideoPose3D, T=81", "videopose3d", 81, "Pavllo et al."),
        ("PoseFormer, T=43", "poseformer", 43, "Zheng et al."),
    ):
        begun, note = p.peer(model, frames, data=fifteen), p.pose_note(model)
        rows.append(
            Row(label, p.peer(model, frames, data=p.humaneva), _printed(4, method=method, detail=""), note=note)
        )
        tuned = p.peer(model, frames, data=p.humaneva, start=begun)
        printed = _printed(4, method=method, detail="fine-tuned")
        rows.append(Row(f"{label}, fine-tuned", tuned, printed, label, note))
    ours, every = (
        p.mixste(43, data=p.humaneva, recipe=p.recipe(random_starts=False, interval=interval)) for interval in (None, 1)
    )
    tuned = tuple(replace(run, start=full) for run, full in zip(ours, p.full(), strict=True))
    label = "MixSTE, T=43"
    return [
        *rows,
        Row(label, ours, _printed(4, method="Ours", detail="")),
        Row(f"{label}, interval = 1", every, _printed(4, method="Ours", detail="interval = 1"), label),
        Row(f"{label}, fine-tuned", tuned, _printed(4, method="Ours", detail="fine-tuned"), label),
        *references(rows[0]),
    ]


def _narrow(p: Profile) -> dict[str, int | bool]:
    """Options without joint separation."""
    return {"separate_joints": False, "dim": p.joint_dim}


def table5(p: Profile) -> list[Row]:
    """Components. Without joint separation a joint is joint_dim wide, as in PoseFormer (a temporal token joints times
    that); with it, dim."""
    plain = p.recipe(loss=(("mpjpe", 1.0),))
    details = published(5)["detail"].unique()
    narrow = _narrow(p)
    runs = [
        p.mixste(p.ablation_frames, recipe=plain, options=narrow | {"alternating": False}),
        p.mixste(p.ablation_frames, recipe=plain, options=narrow),
        p.mixste(p.ablation_frames, recipe=plain),
        p.ablated(),
    ]
    labels = ["seq2seq baseline", "+ alternating", "+ joint separation", "+ our loss"]
    rows = [
        Row(label, row, _printed(5, detail=detail), against, p.size_note())
        for label, row, detail, against in zip(labels, runs, details, ["", *labels[:-1]], strict=True)
    ]
    return rows + references(rows[0])


def table6(p: Profile) -> list[Row]:
    """Losses."""
    rows = []
    for name, terms in TABLE_6.items():
        ours, recipe = terms == dict(AUTHORS.loss), p.recipe(loss=tuple(terms.items()))
        runs = p.ablated(p.ablation_dim) if ours else p.mixste(p.ablation_frames, dim=p.ablation_dim, recipe=recipe)
        against = "" if name == "MPJPE Loss" else "MPJPE Loss"
        rows.append(Row(name, runs, _printed(6, detail=name), against, p.size_note(p.ablation_dim)))
    return rows + references(rows[0])


def table7(p: Profile) -> list[Row]:
    """Depth, dimension and input length."""
    rows = []
    for (depth, dim, frames), printed in published(7).groupby(["depth", "dim", "frames"], sort=False):
        full = (depth, dim, frames) == (8, 512, 243)
        runs = p.full() if full else p.mixste(frames, dim=dim, depth=depth)
        rows.append(Row(f"depth {depth}, dim {dim}, T {frames}", runs, printed))
    return rows + references(rows[0])


def paper_vs_code(p: Profile) -> list[Row]:
    """One difference between the paper's text and the authors' code at a time, then all of them (notebook 13)."""
    a = AUTHORS
    base = "authors' recipe"
    # Where a profile departs from what is measured here.
    own = {name: getattr(a, name) for name in ("scaled_gradient", "drop_path", "random_starts")}
    half = (("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 1.0))
    switched = {
        "1: squared norm": {"squared": PAPER.squared},
        "2: weights by group": {"weights": PAPER.weights},
        "3: coefficients 0.5, 1.0": {"loss": half},
        "6: plain gradient": {"scaled_gradient": PAPER.scaled_gradient},
        "7: Adam": {"optimizer": PAPER.optimizer, "weight_decay": PAPER.weight_decay},
        "10: batch of 1024 windows": {"batch_frames": p.recipe().batch_frames * p.frames[p.ablation_frames]},
        "11: dropout": {"dropout": PAPER.dropout, "drop_path": PAPER.drop_path},
        "12: attention scale": {"attention_scale": PAPER.attention_scale},
        "13: embedding norm": {"embedding_norm": PAPER.embedding_norm},
        "19: no mirrored windows": {"mirror": False},
    }
    plain = tuple(
        replace(run, test_curve=True) for run in p.mixste(p.ablation_frames, dim=p.ablation_dim, recipe=p.recipe(**own))
    )
    recipes = {label: p.recipe(**own | change) for label, change in switched.items()}
    recipes["paper's recipe"] = p.recipe(PAPER, random_starts=PAPER.random_starts)
    switches = {
        label: p.mixste(p.ablation_frames, dim=p.ablation_dim, recipe=recipe) for label, recipe in recipes.items()
    }
    rows = [Row(label, runs, against=base, note=p.size_note(p.ablation_dim)) for label, runs in switches.items()]
    return [Row(base, plain, note=p.size_note(p.ablation_dim)), *rows, *references(rows[0])]


def limits(p: Profile) -> list[Row]:
    """What augmentation and length of training are worth, from exact keypoints, on people set apart for such choices.

    One seed, first of the profile's. The curves of the long trainings are theirs too (notebook 17); two other networks,
    trained as long on the same, say whether the order of the methods is one of length. MixSTE's rate is that of its
    peers: from exact keypoints none of these narrow networks has collapsed; the baseline's is Table 5's.
    """
    data, names = replace(p.data, keypoints="gt", split="validation"), ("random_starts", "body_shapes", "new_cameras")
    choices = {"as recorded": (), **{name.replace("_", " "): (name,) for name in names}}
    choices |= {"bodies and cameras": names[1:], "all three": names}
    rows = []
    for label, chosen in choices.items():
        recipe = p.recipe(**{name: name in chosen for name in names})
        runs = p.mixste(81, dim=256, data=data, recipe=recipe, rate=recipe.learning_rate)[:1]
        rows.append(Row(label, runs, against="as recorded" if rows else ""))
    shapes, every = rows[2], rows[-1]

    def long(label: str, runs: tuple[Run, ...], times: int, against: str) -> Row:
        runs = tuple(replace(run, poses=times * run.poses, test_curve=True) for run in runs[:1])
        return Row(f"{label}, {times} times as long", runs, against=against)

    first, *more = p.long
    ours = long(every.label, every.runs, first, every.label)
    recipe = p.recipe(loss=(("mpjpe", 1.0),), **dict.fromkeys(names, True))
    baseline = p.mixste(81, data=data, recipe=recipe, options={**_narrow(p), "alternating": False})
    videopose3d = tuple(  # reads a window around every frame: nothing to start at random
        replace(run, recipe=replace(run.recipe, **dict.fromkeys(names[1:], True)))
        for run in p.peer("videopose3d", 81, data=data)
    )
    return [
        *rows,
        long(shapes.label, shapes.runs, first, shapes.label),
        long("VideoPose3D", videopose3d, first, ours.label),
        long("seq2seq baseline", baseline, first, ours.label),
        ours,
        *(long(every.label, every.runs, times, ours.label) for times in more),
        *references(rows[0]),
    ]


def more_people(p: Profile) -> list[Row]:
    """How the error on people never seen falls with the number of people trained on (notebook 18): the first of the
    long trainings of `limits` with all augmentations, on two people and then one more at a time.

    Of the last row there are three seeds, whose poses the notebook also averages; of the others one.
    """
    trained, tested = p.people
    ours = next(row.runs[0] for row in limits(p) if row.label == f"all three, {p.long[0]} times as long")
    rows = []
    for count in range(min(2, len(trained)), len(trained) + 1):
        data = replace(ours.data, split="everyone", subjects=(*trained[:count], *tested))
        seeds = range(3) if count == len(trained) else (0,)
        runs = tuple(replace(ours, data=data, seed=seed, test_curve=False) for seed in seeds)
        rows.append(Row(f"{count} people", runs, against=rows[-1].label if rows else ""))
    return rows + references(rows[-1])


PLAN: dict[str, Callable[[Profile], list[Row]]] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "table4": table4,
    "table5": table5,
    "table6": table6,
    "table7": table7,
    "paper_vs_code": paper_vs_code,
    "limits": limits,
    "more_people": more_people,
}


def lacking_data(profile: Profile, root=None) -> dict[str, list[str]]:
    """For each table of the plan, the files of licensed data that its runs would not find; none where it can be made.

    root: where the data are, see `mixste.data.load`.
    """

    def sources(run: Run | None) -> set[tuple[str, str]]:
        return set() if run is None else {(run.data.source, run.data.keypoints)} | sources(run.start)

    lacks = {}
    for table, rows in PLAN.items():
        read = set().union(*(sources(run) for row in rows(profile) for run in row.runs))
        files = (lacking(name, root, keypoints) for name, keypoints in sorted(read) if name in PUBLISHED)
        lacks[table] = list(dict.fromkeys(chain.from_iterable(files)))
    return lacks


def distinct(profile: Profile, tables=tuple(PLAN)) -> list[Run]:
    """Every run that these tables need, once, in an order in which a run comes after the one it starts from."""
    found: dict[Run, None] = {}

    def add(run: Run) -> None:
        if run.start is not None:
            add(run.start)
        found.setdefault(run)

    for table in tables:
        for row in PLAN[table](profile):
            for run in row.runs:
                add(run)
    return list(found)
