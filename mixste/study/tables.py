"""The tables of the study, as data: the runs of each row, and the numbers that the paper prints for it.

The pages, the command line, the README and the notebooks read everything about a table from its entry in `TABLES`.
To add one, write a function that gives its rows at a scale (`mixste.study.profiles`), an entry, and a notebook.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain

import pandas as pd

from mixste.data.check import PUBLISHED, lacking
from mixste.losses import TABLE_6
from mixste.network import network_class
from mixste.networks.references import ConstantPose, FrameRegression
from mixste.study.profiles import Profile, Sweep
from mixste.study.published import published
from mixste.study.run import Data, Run
from mixste.train import AUTHORS, PAPER


@dataclass(frozen=True)
class Row:
    """One row of a table: its key, by which it is looked up, its runs (one per seed), and its label.

    label: the name shown to readers, by default the key. short: the label without what the table's title already says,
    by default the label. printed: the matching rows of `published`; None if the paper has none. against: the key of the
    row that it is compared with, on the same takes. note: remarks, such as smaller sizes that replace the paper's.
    """

    key: str
    runs: tuple[Run, ...]
    label: str = ""
    printed: pd.DataFrame | None = None
    against: str = ""
    note: str = ""
    short: str = ""

    def __post_init__(self):
        object.__setattr__(self, "label", self.label or self.key)
        object.__setattr__(self, "short", self.short or self.label)

    @property
    def trained(self) -> bool:
        """Whether its networks are trained; False for the rows of `references`."""
        return any(run.poses for run in self.runs)

    def variant(self, key: str, *, recipe: dict | None = None, options: dict | None = None, **fields) -> "Row":
        """A row to compare with this one: the same runs with other settings.

        recipe, options: settings of the training and of the network to change; fields: settings of the run itself, such
        as poses, frames or data. TypeError for an unknown one.
        """
        runs = tuple(
            replace(
                run,
                recipe=replace(run.recipe, **(recipe or {})),
                options=dict(run.options) | (options or {}),
                **fields,
            )
            for run in self.runs
        )
        return Row(key, runs, against=self.key, note=self.note)


def by_action(clips: pd.DataFrame, profile: Profile) -> pd.Series:
    return clips["action"]


def all_frames(clips: pd.DataFrame, profile: Profile) -> pd.Series:
    """All actions in one column: averages are over all frames alike, as in MPI-INF-3DHP's evaluation."""
    return pd.Series("all", index=clips.index)


HUMANEVA = ("Walk", "Jog"), ("S1", "S2", "S3")


def humaneva_names(profile: Profile) -> dict[str, str]:
    """The actions and subjects of Table 4 by what stands for them: a stand-in's first, second and third in order."""
    (actions, subjects), here = HUMANEVA, profile.humaneva
    names = zip(here.actions or actions, actions, strict=True), zip(here.subjects or subjects, subjects, strict=True)
    return dict(chain(*names))


def by_action_and_subject(clips: pd.DataFrame, profile: Profile) -> pd.Series:
    """The columns of Table 4, "Walk S1" to "Jog S3"."""
    names = humaneva_names(profile)
    return clips["action"].map(names) + " " + clips["subject"].map(names)


@dataclass(frozen=True)
class Table:
    """A table of the study.

    key: its name in `TABLES` and on the command line. number: the paper's; 8, which continues them; or that of its
    notebook; the column `table` of its CSV. notebook: the name of its notebook. title: what it shows, in a few words.
    rows: the rows in a profile, with unique keys and labels. metrics: the metrics shown. column: for each clip, the
    name of the column in which it is averaged. averages_only: show only the mean over the columns.
    protocol: see `mixste.evaluate.evaluate`; empty for the profile's. csv: the name of its CSV, by default the
    notebook's.
    """

    key: str
    number: str
    notebook: str
    title: str
    rows: Callable[[Profile], list[Row]]
    metrics: tuple[str, ...] = ("MPJPE", "P-MPJPE", "MPJVE")
    column: Callable[[pd.DataFrame, Profile], pd.Series] = by_action
    averages_only: bool = False
    protocol: str = ""
    csv: str = ""

    def __post_init__(self):
        object.__setattr__(self, "csv", self.csv or self.notebook)

    def row(self, profile: Profile, key: str) -> Row:
        """The row with this key. KeyError for an unknown key lists all keys."""
        rows = {row.key: row for row in self.rows(profile)}
        if key not in rows:
            raise KeyError(f"{self.key} has the rows {', '.join(rows)}, found {key!r}")
        return rows[key]


CONSTANT, REGRESSION = "constant pose", "linear regression, single frames"  # keys, and labels


def references(data: Data, note: str = "") -> list[Row]:
    """The last rows of every table of errors: a constant pose and a linear regression, fitted to `data`."""
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
    first, second = p.detectors

    def row(
        key: str, network: str, frames: int, runs: tuple[Run, ...], *, keypoints=first, printed, against="", note=""
    ):
        label, short = f"{network}, {keypoints}, T={frames}", f"{network}, T={frames}"
        return Row(key, runs, label, _printed(1, **printed), against, note, short)

    ours = {"method": "Ours", "keypoints": "CPN"}
    hrnet = f"{second} instead of HRNet, whose keypoints were never released"
    rows = [
        row("videopose3d-243", "VideoPose3D", 243, p.peer("videopose3d", 243), printed={"method": "Pavllo et al."}),
        row("poseformer-81", "PoseFormer", 81, p.peer("poseformer", 81), printed={"method": "Zheng et al."}),
        row("mixste-81", "MixSTE", 81, p.mixste(81), printed=ours | {"frames": 81}, against="poseformer-81"),
        row("mixste-243", "MixSTE", 243, p.full(), printed=ours | {"frames": 243}, against="mixste-81"),
        row(
            "mixste-243-second-detector",
            *("MixSTE", 243, p.mixste(keypoints=second)),
            keypoints=second,
            printed={"method": "Ours", "keypoints": "HRNet"},
            against="mixste-243",
            note=hrnet,
        ),
    ]
    return rows + references(p.detected, f"from keypoints of {first}")


def table2(p: Profile) -> list[Row]:
    def row(key: str, network: str, frames: int, runs: tuple[Run, ...], method: str, against="", note=""):
        printed = _printed(2, method=method, frames=frames)
        return Row(key, runs, f"{network}, GT, T={frames}", printed, against, note, f"{network}, T={frames}")

    rows = [
        row("poseformer-81", "PoseFormer", 81, p.peer("poseformer", 81, "gt"), "Zheng et al."),
        row("mixste-81", "MixSTE", 81, p.mixste(81, "gt"), "Ours", against="poseformer-81"),
        row("mixste-243", "MixSTE", 243, p.mixste(243, "gt"), "Ours", against="mixste-81"),
    ]
    return rows + references(replace(p.data, keypoints="gt"))


def table3(p: Profile) -> list[Row]:
    p = p.of_table("table3")
    rows = [
        Row(f"mixste-{frames}", p.mixste(frames, data=p.mpi_inf_3dhp), f"MixSTE, T={frames}", printed, against)
        for frames, against in ((1, ""), (27, "mixste-1"))
        for printed in [_printed(3, method="Ours", frames=frames)]
    ]
    return rows + references(p.mpi_inf_3dhp)


def table4(p: Profile) -> list[Row]:
    """Trained from scratch, with windows at every frame, and fine-tuned from the main source.

    The peers are pretrained with 15 joints. MixSTE's pretrained network is the study's full model, transferred to 15
    joints and another T by `mixste.checkpoints.transfer`.
    """
    p = p.of_table("table4")
    fifteen = replace(p.detected, skeleton="humaneva15")
    rows = []
    for key, label, model, frames, method in (
        ("videopose3d-81", "VideoPose3D, T=81", "videopose3d", 81, "Pavllo et al."),
        ("poseformer-43", "PoseFormer, T=43", "poseformer", 43, "Zheng et al."),
    ):
        pretrained = p.peer(model, frames, data=fifteen)
        scratch = p.peer(model, frames, data=p.humaneva)
        tuned = p.peer(model, frames, data=p.humaneva, start=pretrained)
        printed, printed_tuned = (_printed(4, method=method, detail=detail) for detail in ("", "fine-tuned"))
        rows.append(Row(key, scratch, label, printed))
        rows.append(Row(f"{key}-fine-tuned", tuned, f"{label}, fine-tuned", printed_tuned, key))
    scratch, every = (
        p.mixste(43, data=p.humaneva, recipe=p.recipe(random_starts=False, interval=interval)) for interval in (None, 1)
    )
    tuned = tuple(replace(run, start=full) for run, full in zip(scratch, p.full(), strict=True))
    key, label = "mixste-43", "MixSTE, T=43"
    rows.append(Row(key, scratch, label, _printed(4, method="Ours", detail="")))
    for suffix, detail, runs in (("interval-1", "interval = 1", every), ("fine-tuned", "fine-tuned", tuned)):
        printed = _printed(4, method="Ours", detail=detail)
        rows.append(Row(f"{key}-{suffix}", runs, f"{label}, {detail}", printed, key))
    return rows + references(p.humaneva)


def _baseline(p: Profile, **options) -> tuple[Run, ...]:
    """The runs of Table 5's seq2seq baseline, without joint separation. options: of a row that differs from it."""
    options = {"separate_joints": False, "dim": p.joint_dim, "alternating": False} | options
    return p.mixste(p.ablation_frames, recipe=p.recipe(loss=(("mpjpe", 1.0),)), options=options)


def table5(p: Profile) -> list[Row]:
    """A joint's token is joint_dim wide without joint separation, as in PoseFormer, and dim wide with it."""
    separated = p.mixste(p.ablation_frames, recipe=p.recipe(loss=(("mpjpe", 1.0),)))[: len(p.seeds)]
    rows = [
        Row(key, runs, label, _printed(5, detail=detail), against, p.size_note())
        for key, label, detail, runs, against in (
            ("baseline", "seq2seq baseline", "seq2seq baseline", _baseline(p), ""),
            ("alternating", "+ alternating", "+ alternating design", _baseline(p, alternating=True), "baseline"),
            ("joint-separation", "+ joint separation", "+ joint separation", separated, "alternating"),
            ("full", "+ our loss", "+ our loss", p.ablated(), "joint-separation"),
        )
    ]
    return rows + references(p.detected)


def table6(p: Profile) -> list[Row]:
    """Keys are the terms of the loss, as "wmpjpe+tc"."""
    p = p.of_table("table6")
    dim, rows = p.ablation_dim, []
    for label, terms in TABLE_6.items():
        recipe = p.recipe(loss=tuple(terms.items()))
        full = terms == dict(AUTHORS.loss)
        runs = p.ablated(dim) if full else p.mixste(p.ablation_frames, dim=dim, recipe=recipe)
        key = "+".join(terms)
        against = "" if key == "mpjpe" else "mpjpe"
        rows.append(Row(key, runs, label, _printed(6, detail=label), against, p.size_note(dim)))
    return rows + references(p.detected)


def table7(p: Profile) -> list[Row]:
    """Keys are the paper's sizes, as "8-512-243": depth, dim, T. Each row is compared with the first of its group."""
    p, rows = p.of_table("table7"), []
    for (depth, dim, frames), printed in published(7).groupby(["depth", "dim", "frames"], sort=False):
        full = (depth, dim, frames) == (8, 512, 243)
        runs = p.full() if full else p.mixste(frames, dim=dim, depth=depth)
        key, first = f"{depth}-{dim}-{frames}", "4-64-27" if dim == 64 else "8-64-27" if frames == 27 else "8-512-27"
        against = "" if key == first else first
        rows.append(Row(key, runs, f"depth {depth}, dim {dim}, T {frames}", printed, against))
    return rows + references(p.detected)


def paper_vs_code(p: Profile) -> list[Row]:
    """The profile's recipe with one setting of the authors' code or of the paper's text at a time, then with all.

    Settings that are the profile's already have no row. "authors" and "paper" keep its schedule and batch, and have its
    `adamw_rate`, as do the rows "adamw" and "adam".
    """
    p = p.of_table("paper_vs_code")
    ours, adamw = p.recipe(), {"learning_rate": p.adamw_rate or p.recipe().learning_rate}
    half = (("wmpjpe", 1.0), ("tc", 0.5), ("mpjve", 1.0))
    windows = ours.batch_frames * p.frames[p.ablation_frames]
    switches = [
        ("squared-norm", "1: squared norm", {"squared": PAPER.squared}),
        ("group-weights", "2: weights by group", {"weights": PAPER.weights}),
        ("half-coefficients", "3: coefficients 0.5, 1.0", {"loss": half}),
        ("scaled-gradient", "6: scaled gradient", {"scaled_gradient": AUTHORS.scaled_gradient}),
        ("plain-gradient", "6: plain gradient", {"scaled_gradient": PAPER.scaled_gradient}),
        ("adamw", "7: AdamW", {"optimizer": AUTHORS.optimizer, **adamw}),
        ("adam", "7: Adam", {"optimizer": PAPER.optimizer, "weight_decay": PAPER.weight_decay, **adamw}),
        ("batch-1024", "10: batch of 1024 windows", {"batch_frames": windows}),
        ("stochastic-depth", "11: stochastic depth", {"drop_path": AUTHORS.drop_path}),
        ("dropout", "11: dropout", {"dropout": PAPER.dropout, "drop_path": PAPER.drop_path}),
        ("attention-scale", "12: attention scale", {"attention_scale": PAPER.attention_scale}),
        ("embedding-norm", "13: embedding norm", {"embedding_norm": PAPER.embedding_norm}),
        ("not-mirrored", "19: no mirrored windows", {"mirror": False}),
    ]
    recipes = {(key, label): replace(ours, **change) for key, label, change in switches}
    length = {"schedule": ours.schedule, "batch_frames": ours.batch_frames, **adamw}
    recipes["authors", "authors' recipe"] = replace(AUTHORS, **length)
    recipes["paper", "paper's recipe"] = replace(PAPER, **length)
    trained = partial(p.mixste, p.ablation_frames, dim=p.ablation_dim)
    note = p.size_note(p.ablation_dim)
    plain = tuple(replace(run, test_curve=True) for run in trained(recipe=ours))
    base = Row("base", plain, f"recipe of profile {p.name}", note=note)
    rows = [
        Row(key, trained(recipe=recipe), label, against=base.key, note=note)
        for (key, label), recipe in recipes.items()
        if recipe != ours
    ]
    return [base, *rows, *references(p.detected)]


def limits(p: Profile) -> list[Row]:
    """The effect of augmentation, from ground-truth keypoints, on validation subjects."""
    p = p.of_table("limits")
    data = replace(p.data, keypoints="gt", split="validation")
    names = ("random_starts", "body_shapes", "measured_bodies", "new_cameras")
    bodies_and_cameras = ("measured_bodies", "new_cameras")
    choices = [
        ("as-recorded", "as recorded", ()),
        *((name.replace("_", "-"), name.replace("_", " "), (name,)) for name in names),
        ("bodies-and-cameras", "bodies and cameras", bodies_and_cameras),
        ("all", "all three", ("random_starts", *bodies_and_cameras)),
    ]
    rows: list[Row] = []
    for key, label, chosen in choices:
        recipe = p.recipe(**{name: name in chosen for name in names})
        runs = p.mixste(81, dim=256, data=data, recipe=recipe)
        rows.append(Row(key, runs, label, against="as-recorded" if rows else ""))
    return rows + references(data)


def networks(p: Profile) -> dict[str, tuple[str, tuple[Run, ...]]]:
    """The networks that are compared, by key: label and runs, from the first detector's keypoints.

    All but the last are rows of Tables 1 and 5.
    """
    return {
        "videopose3d-243": ("VideoPose3D, T=243", p.peer("videopose3d", 243)),
        "poseformer-81": ("PoseFormer, T=81", p.peer("poseformer", 81)),
        "baseline": (f"seq2seq baseline, T={p.ablation_frames}", _baseline(p)),
        "mixste-81": ("MixSTE, T=81", p.mixste(81)),
        "mixste-243": ("MixSTE, T=243", p.mixste(243)),
    }


def curves(p: Profile) -> list[Row]:
    """The error by the length of training: networks of Tables 1 and 5, shorter and longer, each with a schedule of its
    own that ends at a rate of zero.

    Keys are the network's and the length as a share of its length in the profile, as "mixste-81-1/8".
    """
    rows = []
    for key in ("videopose3d-243", "poseformer-81", "baseline", "mixste-81"):
        for share, seeds in p.curves.items():
            label, runs = networks(p.scaled(share))[key]
            length = str(Fraction(share).limit_denominator(100))
            against = f"{key}-1" if length != "1" else ""
            rows.append(Row(f"{key}-{length}", runs[:seeds], f"{label}, length × {length}", against=against))
    return rows + references(p.detected)


def rates(p: Profile) -> list[Row]:
    """The error by learning rate, on validation subjects, by which the rates of the networks are chosen.

    Keys are the network's and the rate, as "mixste-81-0.001".
    """
    return _swept(p, p.sweep, networks(p.scaled(p.sweep.length)))


def _swept(p: Profile, plan: Sweep, trained: dict[str, tuple[str, tuple[Run, ...]]]) -> list[Row]:
    """A row for each network and rate of a plan. trained: see `networks`, in the length of the plan."""
    data = replace(p.detected, split="validation", test_cameras=1)
    rows = []
    for key in plan.networks:
        label, [first, *_] = trained[key]
        for rate in plan.rates:
            run = replace(first, data=data, recipe=replace(first.recipe, learning_rate=rate))
            runs = tuple(replace(run, seed=seed) for seed in plan.seeds)
            rows.append(Row(f"{key}-{rate:g}", runs, f"{label}, rate {rate:g}"))
    return rows + references(data)


LATER = {"dstformer": "DSTformer", "motionagformer": "MotionAGFormer-B", "ktpformer": "KTPFormer"}  # than MixSTE


def six_networks(p: Profile, keypoints: str) -> dict[str, tuple[str, tuple[Run, ...]]]:
    """The networks of table `leaders`, by key: label and runs, each in the T and of the size it was published with.

    The later ones are trained by MixSTE's recipe, its loss included, so that they differ from it in the network alone.
    """
    later = {
        f"{name}-243": (
            f"{label}, T=243",
            p.seeded(name, 243, network_class(name).sizes(p), p.recipe(), keypoints, None),
        )
        for name, label in LATER.items()
    }
    return {
        "mixste-243": ("MixSTE, T=243", p.mixste(keypoints=keypoints)),
        **later,
        "poseformer-81": ("PoseFormer, T=81", p.peer("poseformer", 81, keypoints)),
        "videopose3d-243": ("VideoPose3D, T=243", p.peer("videopose3d", 243, keypoints)),
    }


def leaders(p: Profile) -> list[Row]:
    """MixSTE, three networks that came after it and two that came before, in one harness.

    In each profile they are trained for equally many poses, as many as the one with the fewest. Where the profile gives
    each network a length of its own, for equal GPU time, there are rows of that length too. Keys are the network's, the
    keypoints and the budget, as "ktpformer-243-detected-time"; each is compared with MixSTE. From detected keypoints,
    those that lift whole windows also keep the weights with the lowest error on the test people, as Table 1's MixSTE.
    """
    p = p.of_table("leaders")
    rows = []
    for kind in p.leaders:
        keypoints = {"detected": p.detectors[0], "exact": "gt"}[kind]
        trained = six_networks(p, keypoints)
        lengths = {run.poses for _, runs in trained.values() for run in runs}
        budgets = {"time": None} if len(lengths) > 1 else {}
        for budget, poses in (budgets | {"poses": min(lengths)}).items():
            for key, (label, runs) in trained.items():
                curve = kind == "detected" and runs[0].network_class.mode == "seq2seq"
                runs = tuple(replace(run, poses=poses or run.poses, test_curve=curve) for run in runs)
                against = "" if key == "mixste-243" else f"mixste-243-{kind}-{budget}"
                rows.append(Row(f"{key}-{kind}-{budget}", runs, f"{label}, {keypoints}, equal {budget}", None, against))
    return rows + references(p.detected)


def leaders_rates(p: Profile) -> list[Row]:
    """`rates` for the later networks of table `leaders`."""
    plan = p.leaders_sweep
    return _swept(p, plan, six_networks(p.scaled(plan.length), p.detectors[0]))


def more_people(p: Profile) -> list[Row]:
    """The error on unseen subjects by the number of training subjects, and by the number of frames.

    Keys are the two numbers, as "2-8000", or "16-all". Each of the profile's orders of subjects is a seed, and all
    networks are trained from ground-truth keypoints.
    """
    p, plan = p.of_table("more_people"), p.people
    base = p.mixste(81, "gt", dim=256)[0]

    def row(count: int, frames: int, against: str = "") -> Row:
        trained = [tuple(sorted(order[:count])) for order in plan.orders]
        runs = tuple(
            replace(base, seed=seed, data=replace(base.data, subjects=(*first, *plan.tested), train_frames=frames))
            for seed, first in enumerate(trained)
        )
        people = f"{count} subject{'s' * (count > 1)}"
        label = f"{people}, {frames:,} frames" if frames else f"{people}, all frames"
        return Row(f"{count}-{frames or 'all'}", runs, label, against=against)

    rows: list[Row] = []
    for count in plan.counts:
        rows.append(row(count, plan.frames, rows[-1].key if rows else ""))
    most = rows[-1]
    rows += [row(plan.counts[-1], frames, most.key) for frames in plan.other_frames]
    return rows + references(most.runs[0].data)


TABLES: dict[str, Table] = {
    table.key: table
    for table in (
        Table("table1", "1", "02_table1", "detected keypoints", table1),
        Table("table2", "2", "03_table2", "ground-truth keypoints", table2),
        Table("table3", "3", "04_table3", "MPI-INF-3DHP", table3, ("PCK", "AUC", "MPJPE"), all_frames, True),
        Table("table4", "4", "05_table4", "HumanEva", table4, ("MPJPE", "P-MPJPE"), by_action_and_subject),
        Table("table5", "5", "06_table5_components", "components", table5, averages_only=True),
        Table("table6", "6", "07_table6_losses", "losses", table6, ("MPJPE", "MPJVE"), averages_only=True),
        Table("table7", "7", "08_table7_grid", "depth, dimension, input length", table7, averages_only=True),
        Table(
            "paper_vs_code",
            "13",
            "13_paper_vs_code",
            "paper's text and authors' code",
            paper_vs_code,
            averages_only=True,
        ),
        Table(
            *("limits", "17", "17_limits", "augmentation", limits),
            metrics=("MPJPE", "N-MPJPE", "P-MPJPE"),
            averages_only=True,
            protocol="exact",
        ),
        Table(
            *("curves", "17", "17_limits", "length of training", curves),
            averages_only=True,
            csv="17_curves",
        ),
        Table(
            *("rates", "17", "17_limits", "learning rates, on validation subjects", rates),
            averages_only=True,
            protocol="exact",
            csv="17_rates",
        ),
        Table(
            *("more_people", "18", "18_people", "number of subjects and frames trained on", more_people),
            metrics=("MPJPE", "N-MPJPE", "P-MPJPE"),
            protocol="exact",
        ),
        Table("leaders", "8", "19_leaders", "six networks in one harness", leaders, averages_only=True),
        Table(
            *("leaders_rates", "8", "19_leaders", "learning rates, on validation subjects", leaders_rates),
            averages_only=True,
            protocol="exact",
            csv="19_rates",
        ),
    )
}


def named(names: Iterable[str]) -> list[Table]:
    """The tables of these keys or numbers, as "table5" or "5"; ValueError for an unknown one lists all."""
    of_name = {name: [table for table in TABLES.values() if name in (table.key, table.number)] for name in names}
    if unknown := [name for name, tables in of_name.items() if not tables]:
        tables = ", ".join(f"{table.number} ({table.key})" for table in TABLES.values())
        raise ValueError(f"table must be among {tables}, found {', '.join(unknown)}")
    return list({table.key: table for table in chain.from_iterable(of_name.values())}.values())


def of_csv(stem: str) -> Table | None:
    """The table of the CSV of this name, or None."""
    return next((table for table in TABLES.values() if table.csv == stem), None)


def lacking_data(profile: Profile, root=None) -> dict[str, list[str]]:
    """For each table, by key, the missing files of licensed data; empty if it can be made.

    root: where the data are, see `mixste.data.load`.
    """

    def sources(run: Run | None) -> set[tuple[str, str]]:
        return set() if run is None else {(run.data.source, run.data.keypoints)} | sources(run.start)

    lacks = {}
    for key, table in TABLES.items():
        read = set().union(*(sources(run) for row in table.rows(profile) for run in row.runs))
        files = (lacking(name, root, keypoints) for name, keypoints in sorted(read) if name in PUBLISHED)
        lacks[key] = list(dict.fromkeys(chain.from_iterable(files)))
    return lacks


def distinct(profile: Profile, tables: Iterable[str] | None = None) -> list[Run]:
    """Every run that these tables need, by key; of all tables by default. See `runs_of`."""
    return runs_of(row for key in (TABLES if tables is None else tables) for row in TABLES[key].rows(profile))


def runs_of(rows: Iterable[Row]) -> list[Run]:
    """Every run that these rows need, once, in an order in which a run comes after the one it starts from."""
    runs: dict[Run, None] = {}

    def add(run: Run) -> None:
        if run.start is not None:
            add(run.start)
        runs.setdefault(run)

    for row in rows:
        for run in row.runs:
            add(run)
    return list(runs)
