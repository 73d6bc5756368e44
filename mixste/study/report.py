"""From records of runs to tidy tables: values with intervals, beside what the paper prints."""

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mixste import evaluate
from mixste.io.files import replacing
from mixste.networks.references import at_constant_level
from mixste.study import records, store, trainer
from mixste.study.intervals import summary
from mixste.study.profiles import Profile, profile_of
from mixste.study.records import Record
from mixste.study.tables import CONSTANT, REGRESSION, Row, Table, of_notebook, runs_of

# One value a row. `against` names the row that `value` is the difference to (row − against), and is empty for the value
# itself. low, high: 95 % bootstrap interval over takes (the views of one take averaged first) and seeds. seed_spread:
# standard deviation over seeds. printed: the paper's number, wherever it has one, comparable or not. A row all of whose
# runs failed or are missing has one line a metric, with 0 seeds and no value; `runs` then names those that failed.
COLUMNS = {
    "table": str,
    "row": str,
    "against": str,
    "column": str,
    "metric": str,
    "unit": str,
    "value": float,
    "low": float,
    "high": float,
    "seeds": int,
    "seed_spread": float,
    "protocol": str,
    "profile": str,
    "source": str,
    "comparable": bool,
    "runs": str,
    "printed": float,
    "note": str,
}
DIVERGED, SEEDS_DIVERGE = 1.5, "seeds diverge"  # the error of one is more than so many times that of another
FAILED, NOT_TRAINED = "failed", "not trained here"  # in the notes of rows that lack some or all of their runs
AT_LEVEL = "at the level of a constant pose"  # by `mixste.networks.references.at_constant_level`
pd.options.display.max_colwidth = None  # a note is shown whole
UNITS = ("mm", "mm/frame", "mm²", "%", "M/frame", "M", "1", "frames/s", "×", "windows", "px", "GiB")


def _compared(rows: list[Row]) -> list[Row]:
    """The rows, each with the one it is compared with if that is among them."""
    keys = {row.key for row in rows}
    return [row if row.against in keys else replace(row, against="") for row in rows]


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def measure(
    table: Table,
    profile: Profile,
    rows: list[Row] | None = None,
    made: dict[str, pd.DataFrame] | None = None,
    partial: bool = False,
) -> pd.DataFrame:
    """The tidy table of its rows, in its metrics, by column and on average ("Avg.", the mean of the columns).

    It is made of records (`mixste.study.records.find`); nothing is trained. rows: others than the table's own, such as
    some of them or a user's. made: by key, the errors by clip (`mixste.evaluate.evaluate`, with a column seed) of
    rows that are not of their runs. partial: whether runs without a record may be missing, which the notes
    of their rows then say; otherwise they are a RunError. Trainings that failed are left out, as notes say too.
    Where the constant pose is among the rows, notes tell which networks are at its level. Differences are between the
    seeds that both have, and count takes by the row's own frames; a row whose `against` is not among the rows gets
    none. ValueError if two rows have the same key or label.
    """
    rows = _compared(table.rows(profile) if rows is None else rows)
    protocol, made = table.protocol or profile.protocol, made or {}
    for name in ("key", "label"):
        names = [getattr(row, name) for row in rows]
        if twice := {one for one in names if names.count(one) > 1}:
            raise ValueError(f"each row must have a {name} of its own, found several with {', '.join(sorted(twice))}")
    found = records.find([run for row in rows for run in row.runs], profile.name)
    lacking = [row.label for row in rows if not set(row.runs) <= found.keys()]
    if lacking and not partial:
        raise store.RunError(
            f"not all runs of {', '.join(lacking)} are in {store.store()} or among the records of profile "
            f"{profile.name}: `report.ready(rows, profile, train=True)` trains them, partial=True goes without"
        )
    kept = {row.key: [found[run] for run in row.runs if run in found] for row in rows}
    sound = {key: [record for record in own if not record.failed] for key, own in kept.items()}
    rows = [replace(row, note=_notes(row.note, _absent(row, kept[row.key]))) for row in rows]
    errors = {key: _errors(own, protocol) for key, own in sound.items() if own} | made
    takes = {
        (key, metric): _takes(own, metric, table.column(own, profile))
        for key, own in errors.items()
        for metric in dict.fromkeys((*table.metrics, "MPJPE"))
    }
    ends = {key: _ends(takes[key, "MPJPE"]) for key in errors}
    faults = {key: _notes(_diverged(own), _at_level(key, ends)) for key, own in errors.items()}
    labels, out = {row.key: row.label for row in rows}, []
    for row in rows:
        ids = " ".join(record.id for record in sound[row.key] or kept[row.key])
        if row.key not in errors:
            out += _without_value(row, table.metrics, ids)
            continue
        row = replace(row, note=_notes(row.note, faults[row.key]))
        for metric in table.metrics:
            own = takes[row.key, metric]
            out += _values(own, row, metric, table.averages_only, ids)
            if row.against in errors:
                other = takes[row.against, metric].reindex(own.index)
                label = labels[row.against]
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
    return pd.DataFrame(out, columns=list(COLUMNS)).assign(**about).astype(COLUMNS)


def sound(row: Row) -> Row:
    """The row without the runs whose training failed, for what needs its networks. NotHere if another is missing."""
    runs = []
    for run in row.runs:
        with contextlib.suppress(store.FailedRun):
            store.finished(run)
            runs.append(run)
    return replace(row, runs=tuple(runs))


def _absent(row: Row, kept: list[Record]) -> str:
    """What must be said of a row some of whose runs have no record, or failed."""
    failed = [f"run {record.id} failed: {record.failed}" for record in kept if record.failed]
    missing = len(row.runs) - len(kept)
    return _notes(
        f"{NOT_TRAINED}: {missing} of {len(row.runs)} seeds" if missing else "",
        f"{len(kept) - len(failed)} of {len(row.runs)} seeds, {', '.join(failed)}" if failed else "",
    )


def _errors(sound: list[Record], protocol: str) -> pd.DataFrame:
    """Errors of a row's runs, one line a seed, take and metric."""
    table = pd.concat([record.takes.assign(seed=record.spec.seed) for record in sound])
    return table[table["protocol"] == protocol]


def _diverged(clips: pd.DataFrame) -> str:
    """What must be said of a row whose seeds end at errors so far from each other that their mean tells nothing."""
    clips = clips[clips["metric"] == "MPJPE"]
    sums = clips.assign(total=clips["value"] * clips["frames"]).groupby("seed")[["total", "frames"]].sum()
    errors = sums["total"] / sums["frames"]
    if errors.max() <= DIVERGED * errors.min():
        return ""
    return f"{SEEDS_DIVERGE}, at {', '.join(f'{error:.1f}' for error in errors)} mm over all frames"


def _ends(takes: pd.DataFrame) -> pd.Series:
    """The average error of each seed."""
    [(_, group, weights)] = _columns(takes, averages_only=True)
    return _means(group.drop(columns="frames"), weights)


def _at_level(key: str, ends: dict[str, pd.Series]) -> str:
    """What must be said of a row whose networks, or some of them, are no better than the constant pose's row."""
    if CONSTANT not in ends or key in (CONSTANT, REGRESSION):
        return ""
    constant = ends[CONSTANT].iloc[0]
    flat = sum(at_constant_level(error, constant) for error in ends[key])
    some = f"{flat} of {len(ends[key])} seeds " if flat < len(ends[key]) else ""
    return f"{some}{AT_LEVEL} ({constant:.1f} mm)" if flat else ""


def _without_value(row: Row, metrics: tuple[str, ...], ids: str) -> list[dict]:
    """The lines of a row of which no training came to its end, or none has a record."""
    none = {"value": np.nan, "low": np.nan, "high": np.nan, "seeds": 0, "seed_spread": np.nan}
    return [
        _about(row, "Avg.", metric, "", ids) | none | {"printed": _printed(row, metric, "Avg.")} for metric in metrics
    ]


def _takes(clips: pd.DataFrame, metric: str, column: pd.Series) -> pd.DataFrame:
    """Of one metric: rows (column, subject, take), a value for each seed, and the frames of the take."""
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


def _means(values: pd.DataFrame, weights: pd.Series) -> pd.Series:
    """The weighted mean of each seed."""
    return values.mul(weights, axis=0).sum() / weights.sum()


def _printed(row: Row, metric: str, column: str) -> float:
    if row.printed is None:
        return np.nan
    found = row.printed[(row.printed["metric"] == metric) & (row.printed["column"] == column)]["value"]
    return float(found.iloc[0]) if len(found) else np.nan


def tidy(values: list[dict], profile: Profile, table: str) -> pd.DataFrame:
    """A tidy table from values that no run's clips give (counts, timings): missing columns get their empty value."""
    empty = {str: "", float: np.nan, int: 0, bool: False}
    about = {"table": table, "profile": profile.name, "source": profile.data.source, "comparable": profile.comparable}
    rows = [{name: empty[kind] for name, kind in COLUMNS.items()} | about | value for value in values]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def validate(table: pd.DataFrame) -> None:
    """Raise ValueError unless the table keeps to the schema of `COLUMNS`."""
    if list(table.columns) != list(COLUMNS):
        raise ValueError(f"columns must be {list(COLUMNS)}, found {list(table.columns)}")
    if table.empty:
        raise ValueError("expected at least one value, found none")
    valued = table[~without_value(table)]
    if not np.isfinite(valued["value"]).all():
        raise ValueError(f"values must be finite, found {valued[~np.isfinite(valued['value'])].iloc[0].to_dict()}")
    unknown = set(table["unit"]) - set(UNITS)
    if unknown:
        raise ValueError(f"units must be among {UNITS}, found {unknown}")
    keys = ["row", "against", "column", "metric", "protocol"]
    if table.duplicated(keys).any():
        raise ValueError(f"one value a row: found twice {table[table.duplicated(keys)].iloc[0][keys].to_dict()}")
    for name in ("table", "profile", "source"):
        if table[name].nunique() != 1 or not table[name].iloc[0]:
            raise ValueError(f"{name} must be one and the same in a table, found {sorted(set(table[name]))}")
    between = table.dropna(subset=["low", "high"])
    if ((between["low"] > between["value"] + 1e-6) | (between["high"] < between["value"] - 1e-6)).any():
        raise ValueError("an interval must hold its value")


def without_value(table: pd.DataFrame) -> pd.Series:
    """Which lines are of rows that have no value, since all of their runs failed or are missing, as their notes say."""
    said = table["note"].str.contains(f"{FAILED}|{NOT_TRAINED}")
    return table["value"].isna() & (table["seeds"] == 0) & said


def why_without(note: str) -> str:
    """What stands for a value that is not there, in a word or two."""
    return NOT_TRAINED if NOT_TRAINED in note else FAILED


def save(values: pd.DataFrame, name: str) -> None:
    """Check a tidy table, write it to results/<profile>/<name>.csv of the output folder, and say where it went.

    ValueError if a table of the study has this name and the values name rows that are neither its own nor of its runs.
    """
    validate(values)
    profile = values["profile"].iloc[0]
    if table := of_notebook(name):
        rows = table.rows(profile_of(profile))
        others = values[(values["runs"] != "") & ~values["row"].isin([row.label for row in rows])]
        known = {run.id for row in rows for run in row.runs} if len(others) else set()
        others = others.loc[[not known.issuperset(ids.split()) for ids in others["runs"]], "row"]
        if len(others):
            names = ", ".join(sorted(set(others)))
            raise ValueError(f"{name} is a table of the study, without {names}: save yours by another name")
    path = store.output() / "results" / profile / f"{name}.csv"
    with replacing(path) as temporary:
        values.to_csv(temporary, index=False, float_format="%.4f")
    print(f"{store.shown(path)}: {len(values)} values")


def read(profile: str, name: str, root: Path | None = None) -> pd.DataFrame:
    """A table written by `save`: a published one, or one below another root (`store.output()`: of the last run).

    ValueError if the file holds something else.
    """
    path = (root or store.ROOT) / "results" / profile / f"{name}.csv"
    floats = [name for name, kind in COLUMNS.items() if kind is float]
    try:
        table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=dict.fromkeys(floats, ""))
        validate(table)
    except ValueError as error:
        raise ValueError(f"expected a table of the study in {path}: {error}") from None
    return table


def beside(table: pd.DataFrame, metric: str = "MPJPE", columns: list[str] | None = None) -> pd.DataFrame:
    """One metric as the paper lays it out: rows down, columns across, each row followed by the paper's printed one."""
    table = table[(table["metric"] == metric) & (table["against"] == "")]
    columns = columns or columns_of(table)
    out = []
    for row, group in table.groupby("row", sort=False):
        group = group.set_index("column").reindex(columns)
        values = (
            group["value"]
            .map(_one)
            .mask((group["seeds"] == 0) & group["value"].isna(), group["note"].map(why_without, na_action="ignore"))
        )
        out.append(pd.Series(values, name=(row, group["profile"].dropna().iloc[0])))
        if group["printed"].notna().any():
            out.append(pd.Series(group["printed"].map(_one), name=(row, "paper")))
    frame = pd.DataFrame(out)
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=[metric, ""])
    return frame.rename(columns=short)


def columns_of(table: pd.DataFrame) -> list[str]:
    """Its columns in their order, the average last, which is all that a row without a value has."""
    return sorted(dict.fromkeys(table["column"]), key=lambda column: column == "Avg.")


def _one(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


def short(action: str) -> str:
    """The paper's column heads: "Directions" → "Dir."."""
    heads = {"Directions": "Dir.", "Discussion": "Disc.", "Eating": "Eat", "Greeting": "Greet", "Phoning": "Phone"}
    heads |= {"Posing": "Pose", "Purchases": "Pur.", "Sitting": "Sit", "SittingDown": "SitD.", "Smoking": "Smoke"}
    heads |= {"Waiting": "Wait", "WalkDog": "WalkD.", "Walking": "Walk", "WalkTogether": "WalkT."}
    return heads.get(action, action)


def with_intervals(table: pd.DataFrame, notes: bool = True) -> pd.DataFrame:
    """Averages with their intervals and what the paper prints, one line a row; differences to the row compared with.

    notes: with what must be said of the rows, if there is anything.
    """
    own = table[(table["column"] == "Avg.") & (table["against"] == "")]
    diff = table[(table["column"] == "Avg.") & (table["against"] != "")].set_index(["row", "metric"])
    lines = []
    for value in own.itertuples():
        line = {
            "row": value.row,
            "metric": value.metric,
            "value": interval_text(value, ".1f"),
        }
        if (value.row, value.metric) in diff.index:
            d = diff.loc[(value.row, value.metric)]
            line |= {"difference": interval_text(d, "+.1f"), "to": d.against}
        line |= {"paper": _one(value.printed)}
        line |= {"note": value.note} if notes and own["note"].any() else {}
        lines.append(line)
    return pd.DataFrame(lines).fillna("").set_index(["row", "metric"])


def interval_text(line, form: str) -> str:
    """A value and its interval, if it has one; where there is no value, why."""
    if np.isnan(line.value):
        return why_without(line.note)
    return f"{line.value:{form}}" + ("" if np.isnan(line.low) else f" [{line.low:{form}}, {line.high:{form}}]")


def tables_of(profile: str, root: Path | None = None) -> list[Path]:
    """The tables of a profile that are published, or that lie below another root."""
    return sorted(((root or store.ROOT) / "results" / profile).glob("[0-9][0-9]_*.csv"))


def ready(rows: Iterable[Row], profile: Profile, train: bool | None = None) -> str:
    """Train the runs of these rows that the store lacks, if asked to; says in one line how many have records.

    train: by default in profiles that need no GPU.
    """
    wanted = runs_of(rows)
    failed = trainer.make_all(wanted, title="training") if trains(profile, train) else ""
    return failed or f"{len(records.find(wanted, profile.name))} of {len(wanted)} runs ready"


def trains(profile: Profile, train: bool | None) -> bool:
    """Whether a notebook trains what it lacks: as asked for, or else in profiles that need no GPU."""
    return not profile.gpu if train is None else train
