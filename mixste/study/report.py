"""From records of runs to tidy tables: values with intervals, beside what the paper prints."""

import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from mixste import evaluate
from mixste.data.check import PUBLISHED
from mixste.networks.references import at_constant_level
from mixste.study import costs, records, store, tidy, trainer
from mixste.study.profiles import Profile
from mixste.study.records import Record
from mixste.study.run import Run
from mixste.study.tables import CONSTANT, REGRESSION, Row, Table, runs_of
from mixste.study.uncertainty import difference_interval, equal_people, mean_interval

DIVERGED, SEEDS_DIVERGE = 1.5, "seeds diverge"  # if the error of one is more than 1.5 times that of another
AT_LEVEL = "at the level of a constant pose"  # by `mixste.networks.references.at_constant_level`

UNSEEN = "unseen takes"  # the column of the training subjects' takes that were not trained on
LEAST = 3  # people from whom an interval over people follows: with two, Student's t is 12.7


def _checked(rows: list[Row]) -> list[Row]:
    """The rows, `against` only where that row is among them.

    ValueError if a key or a label is not unique, or if `against` is a label.
    """
    for name in ("key", "label"):
        names = [getattr(row, name) for row in rows]
        if twice := {one for one in names if names.count(one) > 1}:
            raise ValueError(f"each row must have a {name} of its own, found several with {', '.join(sorted(twice))}")
    keys, of_label = {row.key for row in rows}, {row.label: row.key for row in rows}
    for row in rows:
        if row.against not in keys and row.against in of_label:
            raise ValueError(
                f"against must be the key of a row, {of_label[row.against]!r}, found its label {row.against!r} "
                f"in row {row.key!r}"
            )
    return [row if row.against in keys else replace(row, against="") for row in rows]


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def measure(
    table: Table,
    profile: Profile,
    rows: list[Row] | None = None,
    clip_errors: dict[str, pd.DataFrame] | None = None,
    partial: bool = False,
) -> pd.DataFrame:
    """The tidy table of a table's rows: its metrics, by column and on average ("Avg.").

    "Avg." is the mean over the columns, each with its frames as weights. Where the profile averages over subjects, it
    and each column are means over the subjects, and the columns are the profile's groups of subjects. `UNSEEN` has a
    column of its own, if takes of training subjects were kept back, and is not part of the average.

    It is computed from records (`mixste.study.records.find`); nothing is trained. rows: used instead of the table's
    own, such as some of them or a user's. clip_errors: by key of a row, its errors by clip
    (`mixste.evaluate.evaluate`, with a column seed), used instead of those of its runs. partial: allow runs without a
    record, which the note of their row then mentions. Failed trainings are left out, which the note mentions too. If
    the constant pose is among the rows, notes say which networks are at its level. A difference weighs takes as the row
    does; a row whose `against` is not among the rows has none. Intervals: see `summary`.
    RunError if a run has no record and not `partial`, or if the runs of a row, or of two that are compared, were tested
    on different takes. ValueError if two rows have the same key or label, or `against` is a label.
    """
    rows = _checked(table.rows(profile) if rows is None else rows)
    of_run = records.find([run for row in rows for run in row.runs], profile.name)
    lacking = [row.label for row in rows if not set(row.runs) <= of_run.keys()]
    if lacking and not partial:
        raise store.RunError(
            f"not all runs of {', '.join(lacking)} are in {store.store()} or among the records of profile "
            f"{profile.name}: `report.ready(rows, profile, train=True)` trains them, partial=True goes without"
        )
    measured: dict[str, _Measured] = {}
    for row in rows:
        kept = [of_run[run] for run in row.runs if run in of_run]
        measured[row.key] = _measured(row, kept, (clip_errors or {}).get(row.key), table, profile)
    every = [(one.row.label, takes) for one in measured.values() for takes in one.takes.values()]
    if mixed := sorted({label for label, takes in every if takes.isna().any(axis=None)}):
        raise store.RunError(
            f"expected the runs of a row to be tested on the same takes, found others in {', '.join(mixed)}: some of "
            "them were made with other data, so train these again"
        )
    constant = measured.get(CONSTANT)
    level = _ends(constant.takes["MPJPE"], profile).iloc[0] if constant and constant.takes else None
    faults = {key: _notes(one.faults, _at_level(one, level, profile)) for key, one in measured.items()}
    out = []
    for key, one in measured.items():
        row, base = replace(one.row, note=_notes(one.row.note, faults[key])), measured.get(one.row.against)
        if not one.takes:
            none = dict.fromkeys(("value", "low", "high", "degrees", "seed_spread"), np.nan) | {"over": "", "seeds": 0}
            out += [_about(replace(row, against=""), "Avg.", metric, one.ids) | none for metric in table.metrics]
            continue
        for metric in table.metrics:
            own = one.takes[metric]
            out += _lines(own, replace(row, against=""), metric, table, profile, one.ids)
            if base and base.takes:
                other, label = base.takes[metric], base.row.label
                if not _tested(own).index.isin(other.index).all():
                    raise store.RunError(
                        f"expected {row.label} and {label} to be tested on the same takes, found others: one of them "
                        "was made with other data, so train it again"
                    )
                note = _notes(row.note, faults[row.against] and f"{label}: {faults[row.against]}")
                both = replace(row, against=label, note=note)
                paired = _paired(row.runs, base.row.runs) and own.columns.equals(other.columns)
                out += _lines(own, both, metric, table, profile, one.ids, other, paired)
    efforts = {row.label: _effort(row.runs[0], of_run.get(row.runs[0])) for row in rows}
    out = [values | efforts[values["row"]] for values in out]
    about = {
        "table": table.number,
        "protocol": table.protocol or profile.protocol,
        "profile": profile.name,
        "source": profile.data.source,
        "comparable": profile.comparable,
    }
    return pd.DataFrame(out, columns=list(tidy.COLUMNS)).assign(**about).astype(tidy.COLUMNS)


@dataclass(frozen=True)
class _Measured:
    """A row with what its runs gave.

    ids: of its sound runs, or of those that failed if none is. takes: by metric, see `_takes`; empty if no run is
    sound. faults: the note on runs that failed or are missing, and on seeds that diverge.
    """

    row: Row
    ids: str
    takes: dict[str, pd.DataFrame]
    faults: str


def _measured(row: Row, kept: list[Record], errors: pd.DataFrame | None, table: Table, profile: Profile) -> _Measured:
    """kept: the records of its runs that there are. errors: used instead of theirs."""
    sound = [record for record in kept if not record.failed]
    one = _Measured(row, " ".join(record.id for record in sound or kept), {}, absent_note(len(row.runs), kept))
    if errors is None and not sound:
        return one
    errors = _errors(sound, table, profile) if errors is None else errors.assign(seen=False)
    column = table.column(errors, profile).mask(errors["seen"], UNSEEN)
    takes = {metric: _takes(errors, metric, column) for metric in {*table.metrics, "MPJPE"}}
    return replace(one, takes=takes, faults=_notes(one.faults, _diverged(errors)))


def trainings(table: Table, profile: Profile) -> pd.DataFrame:
    """The averages of each training of a table by itself, as `measure` gives them; without those that have no record.

    Two more columns: seed, and learning_rate. A training that failed has no value.
    """
    rows = table.rows(profile)
    of = {f"{row.label}, seed {run.seed}": (row, run) for row in rows if row.trained for run in row.runs}
    alone = [replace(row, key=name, label=name, runs=(run,), against="") for name, (row, run) in of.items()]
    constant = [row for row in rows if row.key == CONSTANT]
    values = measure(replace(table, averages_only=True), profile, [*alone, *constant], partial=True)
    values = values[values["row"].isin(of) & ~values["note"].str.contains(tidy.NOT_TRAINED)]
    return values.assign(
        row=[of[name][0].label for name in values["row"]],
        seed=[of[name][1].seed for name in values["row"]],
        learning_rate=[of[name][1].recipe.learning_rate for name in values["row"]],
    )


def sound(row: Row) -> Row:
    """The row with the runs whose weights are in the store, for code that needs its networks.

    Its note mentions those that failed, and how many are left if others are not here. RunError if none is left, unless
    all failed: NotHere, or that a run is here without its weights.
    """
    runs, failed, absent = [], {}, []
    for run in row.runs:
        try:
            here = (store.finished(run).path / "weights.safetensors").exists()
        except store.FailedRun:
            failed[run.id] = store.failure(run)
        except store.NotHere:
            absent.append(run)
        else:
            (runs if here else absent).append(run)
    if absent and not runs:
        store.finished(absent[0]).model()  # raises what is missing
    left = f"networks of {len(runs)} of {len(row.runs)} seeds" if absent else ""
    note = _notes(row.note, left, tidy.failed_note(len(runs), len(row.runs), failed))
    return replace(row, runs=tuple(runs), note=note)


def absent_note(of: int, own: list[Record]) -> str:
    """The note on a row of so many runs, of which some failed or have no record. own: the records that there are."""
    failed = {record.id: record.failed for record in own if record.failed}
    missing = f"{tidy.NOT_TRAINED}: {of - len(own)} of {of} seeds" if len(own) < of else ""
    return _notes(missing, tidy.failed_note(len(own) - len(failed), of, failed))


def _errors(sound: list[Record], table: Table, profile: Profile) -> pd.DataFrame:
    """Errors of a row's runs: one line per seed, take and metric. seen: whether the subject was trained on."""
    tables = [record.takes.assign(seed=record.spec.seed, seen=False) for record in sound]
    if not table.averages_only:  # which unseen takes are no part of
        kept_back = [(record, record.unseen_takes) for record in sound]
        tables += [takes.assign(seed=record.spec.seed, seen=True) for record, takes in kept_back if len(takes)]
    errors = pd.concat(tables)
    return errors[errors["protocol"] == (table.protocol or profile.protocol)]


def _diverged(clips: pd.DataFrame) -> str:
    """The note on a row whose seeds diverge: their errors differ so much that their mean says nothing."""
    clips = clips[(clips["metric"] == "MPJPE") & ~clips["seen"]]
    errors = store.over_frames(clips, ["seed"])["value"].sort_index()
    if errors.max() <= DIVERGED * errors.min():
        return ""
    return f"{SEEDS_DIVERGE}, at {', '.join(f'{error:.1f}' for error in errors)} mm over all frames"


def _ends(takes: pd.DataFrame, profile: Profile) -> pd.Series:
    """The average error of each seed."""
    [(_, group, weights)] = _columns(takes, profile, averages_only=True)
    return group.drop(columns="frames").mul(weights, axis=0).sum() / weights.sum()


def _at_level(one: _Measured, level: float | None, profile: Profile) -> str:
    """The note on a row with networks that are no better than the constant pose. level: its error, if measured."""
    if level is None or not one.takes or one.row.key in (CONSTANT, REGRESSION):
        return ""
    ends = _ends(one.takes["MPJPE"], profile)
    flat = sum(at_constant_level(error, level) for error in ends)
    some = f"{flat} of {len(ends)} seeds " if flat < len(ends) else ""
    return f"{some}{AT_LEVEL} ({level:.1f} mm)" if flat else ""


def _effort(run: Run, record: Record | None) -> dict[str, float]:
    """What one training takes: poses, steps, macs and gpu_seconds of `tidy.COLUMNS`. record: of the run, if any."""
    if not run.poses:
        return {"poses": 0, "steps": 0, "macs": np.nan, "gpu_seconds": np.nan}
    about = record.environment if record else {}
    seconds, resumed = costs.alone(run), about.get("resumed_at", 0.0)
    if np.isnan(seconds) and costs.GPU.search(about.get("device", "")) and about.get("sharing", 1) == 1 > resumed:
        seconds = about["training_seconds"] / (1 - resumed)
    joints = len(record.layout.joints) if record and not record.failed else costs.JOINTS
    try:
        macs = costs.size(run.model, run.frames, run.options, joints)[0] / 1e6
    except RuntimeError:  # a network of one's own that does not run on PyTorch's meta device
        macs = np.nan
    return {"poses": run.poses, "steps": run.steps, "macs": macs, "gpu_seconds": seconds}


def _takes(clips: pd.DataFrame, metric: str, column: pd.Series) -> pd.DataFrame:
    """One metric by (column, subject, take): a value per seed, and the number of frames of the take.

    Where each seed has training subjects of its own, unseen takes are those that all of them have.
    """
    clips = clips.assign(column=column)
    means = store.over_frames(clips[clips["metric"] == metric], ["column", "subject", "action", "take", "seed"])
    takes = means["value"].unstack("seed").assign(frames=means["frames"].unstack("seed").iloc[:, 0])
    return takes[takes.notna().all(axis=1) | (takes.index.get_level_values("column") != UNSEEN)]


def _columns(takes: pd.DataFrame, profile: Profile, averages_only: bool):
    """(name, its takes, their weights): of each column, and of all on average ("Avg.").

    Where groups of the profile's are among the subjects, they are the columns. They may overlap.
    """
    unseen, takes = takes[takes.index.get_level_values("column") == UNSEEN], _tested(takes)
    by_subject = profile.average == "subjects"
    weigh = _by_subject if by_subject else operator.itemgetter("frames")
    if not averages_only:
        subject = takes.index.get_level_values("subject")
        groups = {name: takes[subject.isin(members)] for name, members in profile.groups.items()}
        groups = {name: group for name, group in groups.items() if len(group)}
        for name, group in (groups or dict(iter(takes.groupby(level="column", sort=False)))).items():
            yield name, group, weigh(group)
        if len(unseen):
            yield UNSEEN, unseen, weigh(unseen)
    of_columns = takes["frames"] / takes.groupby(level="column")["frames"].transform("sum")
    yield "Avg.", takes, weigh(takes) if by_subject else of_columns


def _tested(takes: pd.DataFrame) -> pd.DataFrame:
    return takes[takes.index.get_level_values("column") != UNSEEN]


def _by_subject(takes: pd.DataFrame) -> pd.Series:
    """Weights of takes by which every subject counts the same, and frames within a subject."""
    return pd.Series(equal_people(takes.index.get_level_values("subject"), takes["frames"].to_numpy()), takes.index)


def _lines(
    takes: pd.DataFrame,
    row: Row,
    metric: str,
    table: Table,
    profile: Profile,
    ids: str,
    others: pd.DataFrame | None = None,
    paired: bool = False,
) -> list[dict]:
    """A row's values, by column and on average. others: subtracted, in the columns whose takes are among them."""
    lines = []
    for name, group, weights in _columns(takes, profile, table.averages_only):
        if others is None or group.index.isin(others.index).all():
            less = None if others is None else others.loc[group.index].drop(columns="frames")
            values = summary(group.drop(columns="frames"), weights, profile, less, paired)
            lines.append(_about(row, name, metric, ids) | values)
    return lines


def _paired(runs: tuple[Run, ...], others: tuple[Run, ...]) -> bool:
    """Whether each run of two rows is the same, evaluated in two ways, or both start from the same trained network.

    Separate trainings are not paired, even with the same seed: nothing of a seed's effect on one is known to carry over
    to the other.
    """

    def alike(run: Run, other: Run) -> bool:
        return run == other or (run.start is not None and run.start == other.start)

    return len(runs) == len(others) and all(map(alike, runs, others))


def summary(
    values: pd.DataFrame,
    weights: pd.Series,
    profile: Profile,
    others: pd.DataFrame | None = None,
    paired: bool = False,
) -> dict[str, float | str]:
    """The columns of a tidy table that say what was measured: value, low, high, over, degrees, seeds and seed_spread.

    values: by take (rows, with an index level "subject") and seed (columns). others: subtracted, on the same takes.
    paired: whether their seeds are those of `values`, see `mixste.study.uncertainty.difference_interval`. seeds: those
    of `values`. seed_spread: their standard deviation; nan for a single seed, and for a difference of separate
    trainings.

    The interval is over people and seeds, with a single person over takes and seeds. On licensed data, a benchmark, it
    is over seeds alone: other trainings, the same test. The same holds for fewer than `LEAST` people, or takes of one.
    """
    people = values.index.get_level_values("subject").to_numpy()
    of_takes = values.to_numpy(), people, weights.to_numpy()
    number = len(set(people))
    few = (number if number > 1 else len(people)) < LEAST
    these_people = few or profile.data.source in PUBLISHED
    if others is None:
        interval = mean_interval(*of_takes, these_people=these_people)
    else:
        own, *about = of_takes
        interval = difference_interval(own, others.to_numpy(), *about, paired=paired, these_people=these_people)
    of_seeds = np.average(values - others if paired else values, axis=0, weights=weights)
    spread = of_seeds.std(ddof=1) if len(of_seeds) > 1 and (others is None or paired) else np.nan
    return asdict(interval) | {"seeds": len(of_seeds), "seed_spread": spread}


def _about(row: Row, column: str, metric: str, ids: str) -> dict:
    """What a line says besides values; of a difference, for which the paper prints none, `against` is a label."""
    about = {"row": row.label, "against": row.against, "column": column, "metric": metric}
    about |= {"unit": evaluate.UNITS[metric], "runs": ids, "note": row.note}
    if row.printed is None or row.against:
        return about | {"printed": np.nan}
    printed = row.printed.query("metric == @metric and column == @column")["value"]
    return about | {"printed": next(iter(printed), np.nan)}


def ready(rows: Iterable[Row], profile: Profile, train: bool | None = None) -> str:
    """Train the runs of these rows that the store lacks, if `train`. Returns one line: how many runs have records.

    train: by default True in profiles that need no GPU.
    """
    wanted = runs_of(rows)
    failed = trainer.make_all(wanted, title="training") if trains(profile, train) else ""
    return failed or f"{len(records.find(wanted, profile.name))} of {len(wanted)} runs ready"


def trains(profile: Profile, train: bool | None) -> bool:
    """Whether a notebook trains missing runs: `train`, or if that is None, in profiles that need no GPU."""
    return not profile.gpu if train is None else train
