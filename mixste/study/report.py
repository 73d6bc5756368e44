"""From records of runs to tidy tables: values with intervals, beside what the paper prints."""

import contextlib
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd

from mixste import evaluate
from mixste.networks.references import at_constant_level
from mixste.study import records, store, tidy, trainer
from mixste.study.intervals import summary
from mixste.study.profiles import Profile
from mixste.study.records import Record
from mixste.study.tables import CONSTANT, REGRESSION, Row, Table, runs_of

DIVERGED, SEEDS_DIVERGE = 1.5, "seeds diverge"  # if the error of one is more than 1.5 times that of another
AT_LEVEL = "at the level of a constant pose"  # by `mixste.networks.references.at_constant_level`


def _compared(rows: list[Row]) -> list[Row]:
    """The rows, `against` only where that row is among them. ValueError if it is a label instead of a key."""
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
    """The tidy table of a table's rows: its metrics, by column and on average ("Avg.", the mean over columns).

    It is computed from records (`mixste.study.records.find`); nothing is trained. rows: used instead of the table's
    own, such as some of them or a user's. clip_errors: by key of a row, its errors by clip
    (`mixste.evaluate.evaluate`, with a column seed), used instead of those of its runs. partial: allow runs without a
    record, which the note of their row then mentions. Failed trainings are left out, which the note mentions too. If
    the constant pose is among the rows, notes say which networks are at its level. Differences are over the seeds that
    both rows have, with takes weighted by the frames of the row; a row whose `against` is not among the rows has none.
    RunError if a run has no record and not `partial`, or if the runs of a row, or of two that are compared, were tested
    on different takes. ValueError if two rows have the same key or label, or `against` is a label.
    """
    rows = _compared(table.rows(profile) if rows is None else rows)
    protocol = table.protocol or profile.protocol
    for name in ("key", "label"):
        names = [getattr(row, name) for row in rows]
        if twice := {one for one in names if names.count(one) > 1}:
            raise ValueError(f"each row must have a {name} of its own, found several with {', '.join(sorted(twice))}")
    of_run = records.find([run for row in rows for run in row.runs], profile.name)
    lacking = [row.label for row in rows if not set(row.runs) <= of_run.keys()]
    if lacking and not partial:
        raise store.RunError(
            f"not all runs of {', '.join(lacking)} are in {store.store()} or among the records of profile "
            f"{profile.name}: `report.ready(rows, profile, train=True)` trains them, partial=True goes without"
        )
    by_key = {row.key: [of_run[run] for run in row.runs if run in of_run] for row in rows}
    sound = {key: [record for record in own if not record.failed] for key, own in by_key.items()}
    rows = [replace(row, note=_notes(row.note, _absent(row, by_key[row.key]))) for row in rows]
    errors = {key: _errors(own, protocol) for key, own in sound.items() if own} | (clip_errors or {})
    takes = {
        (key, metric): _takes(own, metric, table.column(own, profile))
        for key, own in errors.items()
        for metric in dict.fromkeys((*table.metrics, "MPJPE"))
    }
    labels = {row.key: row.label for row in rows}
    if mixed := sorted({labels[key] for (key, _), values in takes.items() if values.isna().any(axis=None)}):
        raise store.RunError(
            f"expected the runs of a row to be tested on the same takes, found others in {', '.join(mixed)}: some of "
            "them were made with other data, so train these again"
        )
    ends = {key: _ends(takes[key, "MPJPE"]) for key in errors}
    faults = {key: _notes(_diverged(own), _at_level(key, ends)) for key, own in errors.items()}
    out = []
    for row in rows:
        ids = " ".join(record.id for record in sound[row.key] or by_key[row.key])
        if row.key not in errors:
            out += _without_value(row, table.metrics, ids)
            continue
        row = replace(row, note=_notes(row.note, faults[row.key]))
        for metric in table.metrics:
            own = takes[row.key, metric]
            out += _values(own, row, metric, table.averages_only, ids)
            if row.against in errors:
                other, label = takes[row.against, metric], labels[row.against]
                if not own.index.isin(other.index).all():
                    raise store.RunError(
                        f"expected {row.label} and {label} to be tested on the same takes, found others: one of them "
                        "was made with other data, so train it again"
                    )
                note = _notes(row.note, faults[row.against] and f"{label}: {faults[row.against]}")
                both = replace(row, against=label, note=note)
                out += _differences(own, other, both, metric, table.averages_only, ids)
    about = {
        "table": table.number,
        "protocol": protocol,
        "profile": profile.name,
        "source": profile.data.source,
        "comparable": profile.comparable,
    }
    return pd.DataFrame(out, columns=list(tidy.COLUMNS)).assign(**about).astype(tidy.COLUMNS)


def sound(row: Row) -> Row:
    """The row without failed runs, for code that needs its networks. NotHere if another run is missing."""
    runs = []
    for run in row.runs:
        with contextlib.suppress(store.FailedRun):
            store.finished(run)
            runs.append(run)
    return replace(row, runs=tuple(runs))


def _absent(row: Row, of_row: list[Record]) -> str:
    """The note on a row with runs that failed or have no record."""
    failed = [f"run {record.id} failed: {record.failed}" for record in of_row if record.failed]
    missing = len(row.runs) - len(of_row)
    return _notes(
        f"{tidy.NOT_TRAINED}: {missing} of {len(row.runs)} seeds" if missing else "",
        f"{len(of_row) - len(failed)} of {len(row.runs)} seeds, {', '.join(failed)}" if failed else "",
    )


def _errors(sound: list[Record], protocol: str) -> pd.DataFrame:
    """Errors of a row's runs: one line per seed, take and metric."""
    table = pd.concat([record.takes.assign(seed=record.spec.seed) for record in sound])
    return table[table["protocol"] == protocol]


def _diverged(clips: pd.DataFrame) -> str:
    """The note on a row whose seeds diverge: their errors differ so much that their mean says nothing."""
    clips = clips[clips["metric"] == "MPJPE"]
    sums = clips.assign(total=clips["value"] * clips["frames"]).groupby("seed")[["total", "frames"]].sum()
    errors = sums["total"] / sums["frames"]
    if errors.max() <= DIVERGED * errors.min():
        return ""
    return f"{SEEDS_DIVERGE}, at {', '.join(f'{error:.1f}' for error in errors)} mm over all frames"


def _ends(takes: pd.DataFrame) -> pd.Series:
    """The average error of each seed."""
    [(_, group, weights)] = _columns(takes, averages_only=True)
    return group.drop(columns="frames").mul(weights, axis=0).sum() / weights.sum()


def _at_level(key: str, ends: dict[str, pd.Series]) -> str:
    """The note on a row with networks that are no better than the constant pose."""
    if CONSTANT not in ends or key in (CONSTANT, REGRESSION):
        return ""
    constant = ends[CONSTANT].iloc[0]
    flat = sum(at_constant_level(error, constant) for error in ends[key])
    some = f"{flat} of {len(ends[key])} seeds " if flat < len(ends[key]) else ""
    return f"{some}{AT_LEVEL} ({constant:.1f} mm)" if flat else ""


def _without_value(row: Row, metrics: tuple[str, ...], ids: str) -> list[dict]:
    """The lines of a row whose trainings all failed or have no record."""
    none = {"value": np.nan, "low": np.nan, "high": np.nan, "seeds": 0, "seed_spread": np.nan}
    return [
        _about(row, "Avg.", metric, "", ids) | none | {"printed": _printed(row, metric, "Avg.")} for metric in metrics
    ]


def _takes(clips: pd.DataFrame, metric: str, column: pd.Series) -> pd.DataFrame:
    """One metric by (column, subject, take): a value per seed, and the number of frames of the take."""
    clips = clips.assign(column=column, total=clips["value"] * clips["frames"])
    clips = clips[clips["metric"] == metric]
    sums = clips.groupby(["column", "subject", "action", "take", "seed"], sort=False)[["total", "frames"]].sum()
    value = (sums["total"] / sums["frames"]).unstack("seed")
    return value.assign(frames=sums["frames"].unstack("seed").iloc[:, 0])


def _columns(takes: pd.DataFrame, averages_only: bool):
    """(name, its takes, their weights): each column with its frames as weights, then the mean of the columns."""
    if not averages_only:
        for name, group in takes.groupby(level="column", sort=False):
            yield name, group, group["frames"]
    yield "Avg.", takes, takes["frames"] / takes.groupby(level="column")["frames"].transform("sum")


def _values(takes: pd.DataFrame, row: Row, metric: str, averages_only: bool, ids: str) -> list[dict]:
    return [
        _about(row, name, metric, "", ids)
        | summary(group.drop(columns="frames"), weights)
        | {"printed": _printed(row, metric, name)}
        for name, group, weights in _columns(takes, averages_only)
    ]


def _differences(own, other, row: Row, metric: str, averages_only: bool, ids: str) -> list[dict]:
    seeds = own.columns.drop("frames").intersection(other.columns)
    if seeds.empty:
        return []
    return [
        _about(row, name, metric, row.against, ids)
        | summary(group[seeds] - other.loc[group.index, seeds], weights)
        | {"printed": np.nan}
        for name, group, weights in _columns(own, averages_only)
    ]


def _about(row: Row, column: str, metric: str, against: str, ids: str) -> dict:
    about = {"row": row.label, "against": against, "column": column, "metric": metric}
    return about | {"unit": evaluate.UNITS[metric], "runs": ids, "note": row.note}


def _printed(row: Row, metric: str, column: str) -> float:
    if row.printed is None:
        return np.nan
    values = row.printed[(row.printed["metric"] == metric) & (row.printed["column"] == column)]["value"]
    return float(values.iloc[0]) if len(values) else np.nan


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
