"""From runs to tidy tables: values with intervals, beside what the paper prints."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mixste import evaluate
from mixste.io.files import replacing
from mixste.networks.references import at_constant_level
from mixste.study import store, trainer
from mixste.study.intervals import bootstrap_interval
from mixste.study.profiles import Profile, profile_of
from mixste.study.tables import CONSTANT, REGRESSION, Row, Table, of_notebook, runs_of

# One value a row. `against` names the row that `value` is the difference to (row − against), and is empty for the value
# itself. low, high: 95 % bootstrap interval over takes (the views of one take averaged first) and seeds. seed_spread:
# standard deviation over seeds. printed: the paper's number, wherever it has one, comparable or not. A row all of whose
# runs failed has one line a metric, with 0 seeds and no value; `runs` then names those that failed.
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
AT_LEVEL = "at the level of a constant pose"  # by `mixste.networks.references.at_constant_level`
pd.options.display.max_colwidth = None  # a note is shown whole
UNITS = ("mm", "mm/frame", "mm²", "%", "M/frame", "M", "1", "frames/s", "×", "windows", "px", "GiB")


def trained(rows: list[Row]) -> list[Row]:
    """The rows with the runs that are in the store, without those that have none; each says how many it lacks."""
    found = []
    for row in rows:
        missing = trainer.lacking(row.runs)
        done = tuple(run for run in row.runs if run not in missing)
        few = f"{len(done)} of {len(row.runs)} seeds so far" if missing else ""
        if done:
            found.append(replace(row, runs=done, note=_notes(row.note, few)))
    return _compared(found)


def _compared(rows: list[Row]) -> list[Row]:
    """The rows, each with the one it is compared with if that is among them."""
    keys = {row.key for row in rows}
    return [row if row.against in keys else replace(row, against="") for row in rows]


def sound(row: Row) -> Row:
    """The row without the runs whose training failed; its note tells them, and how many seeds are left."""
    failed = {run: why for run in row.runs if (why := store.failure(run))}
    if not failed:
        return row
    left = tuple(run for run in row.runs if run not in failed)
    reasons = ", ".join(f"run {run.id} failed: {why}" for run, why in failed.items())
    return replace(row, runs=left, note=_notes(row.note, f"{len(left)} of {len(row.runs)} seeds, {reasons}"))


def _notes(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def with_earlier(table: pd.DataFrame, name: str, profile: Profile, labels: list[str], wanted: set[str]) -> pd.DataFrame:
    """A table of what is trained so far, completed by the rows of which results/ already tells more seeds.

    They stay as they were written, as long as all of their runs are `wanted`: the runs need not be in this store any
    more, where GPU days of them were made elsewhere. So does the difference to such a row. labels: of all rows, in
    order. Without MIXSTE_SO_FAR, the table as it is.
    """
    if not store.so_far():
        return table
    files = (read(profile.name, path.stem) for path in tables_of(profile.name))
    earlier = next((file for file in files if file["table"].iloc[0] == name), None)
    if earlier is None:
        return table
    here, there = (pd.MultiIndex.from_frame(one[["row", "against"]]) for one in (table, earlier))
    seeds = table["seeds"].groupby(here).max()
    more = earlier["seeds"].to_numpy() > seeds.reindex(there, fill_value=0).to_numpy()
    same = earlier["runs"].map(lambda ids: wanted.issuperset(ids.split()))
    kept = more & same & earlier["row"].isin(labels)
    table = pd.concat([table[~here.isin(there[kept])], earlier[kept]])
    return table.sort_values("row", key=lambda rows: rows.map(labels.index), kind="stable", ignore_index=True)


def by_clip(row: Row, protocol: str) -> pd.DataFrame:
    """Errors of a row's runs, one row a seed, clip and metric."""
    tables = [trainer.make(run, row.label).clips.assign(seed=run.seed) for run in row.runs]
    table = pd.concat(tables)
    return table[table["protocol"] == protocol]


def measure(
    table: Table, profile: Profile, rows: list[Row] | None = None, made: dict[str, pd.DataFrame] | None = None
) -> pd.DataFrame:
    """The tidy table of its rows, in its metrics, by column and on average ("Avg.", the mean of the columns).

    rows: others than the table's own, such as some of them or a user's. made: by key, the errors of rows that are not
    of their runs, as `by_clip` gives them. Runs that are not in the store are trained, but for MIXSTE_SO_FAR: see
    `trained` and `with_earlier`; RunError if there is no row at all then. Those that failed are left out, see `sound`.
    Where the constant pose is among the rows, notes tell which networks are at its level. Differences are between the
    seeds that both have, and count takes by the row's own frames; a row whose `against` is not among the rows gets
    none. ValueError if two rows have the same key or label.
    """
    planned = table.rows(profile) if rows is None else rows
    protocol, made = table.protocol or profile.protocol, made or {}
    for name in ("key", "label"):
        names = [getattr(row, name) for row in planned]
        if twice := {one for one in names if names.count(one) > 1}:
            raise ValueError(f"each row must have a {name} of its own, found several with {', '.join(sorted(twice))}")
    rows = trained(planned) if store.so_far() else _compared(planned)
    ids = {row.key: " ".join(run.id for run in row.runs) for row in rows}
    if not store.so_far():
        trainer.make_all([run for row in rows for run in row.runs], jobs=1, title=f"table {table.number}")
    rows = [sound(row) for row in rows]
    clips = {row.key: made[row.key] if row.key in made else by_clip(row, protocol) for row in rows if row.runs}
    takes = {
        (key, metric): _takes(own, metric, table.column(own, profile))
        for key, own in clips.items()
        for metric in dict.fromkeys((*table.metrics, "MPJPE"))
    }
    ends = {key: _ends(takes[key, "MPJPE"]) for key in clips}
    faults = {key: _notes(_diverged(own), _at_level(key, ends)) for key, own in clips.items()}
    labels, out = {row.key: row.label for row in rows}, []
    for row in rows:
        if not row.runs:
            out += _failed(row, table.metrics, ids[row.key])
            continue
        row = replace(row, note=_notes(row.note, faults[row.key]))
        for metric in table.metrics:
            own = takes[row.key, metric]
            out += _values(own, row, metric, table.averages_only)
            if row.against in clips:
                other = takes[row.against, metric].reindex(own.index)
                label = labels[row.against]
                note = _notes(row.note, faults[row.against] and f"{label}: {faults[row.against]}")
                both = replace(row, against=label, note=note)
                out += _differences(own, other, both, metric, table.averages_only)
    about = {
        "table": table.number,
        "protocol": protocol,
        "profile": profile.name,
        "source": profile.data.source,
        "comparable": profile.comparable,
    }
    values = pd.DataFrame(out, columns=list(COLUMNS)).assign(**about).astype(COLUMNS)
    wanted = {run.id for row in planned for run in row.runs} if store.so_far() else set()
    values = with_earlier(values, table.number, profile, [row.label for row in planned], wanted)
    if values.empty:
        raise store.RunError(f"none of {', '.join(row.label for row in planned)} is trained yet, in {store.store()}")
    return values


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


def _failed(row: Row, metrics_shown: tuple[str, ...], named: str) -> list[dict]:
    """The lines of a row none of whose trainings came to its end."""
    about = {"value": np.nan, "low": np.nan, "high": np.nan, "seeds": 0, "seed_spread": np.nan, "runs": named}
    return [
        _about(row, "Avg.", metric, evaluate.UNITS[metric], "") | about | {"printed": _printed(row, metric, "Avg.")}
        for metric in metrics_shown
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


def _values(takes: pd.DataFrame, row: Row, metric: str, averages_only: bool) -> list[dict]:
    out = []
    unit = evaluate.UNITS[metric]
    for name, group, weights in _columns(takes, averages_only):
        values = group.drop(columns="frames")
        out.append(
            {
                **_about(row, name, metric, unit, ""),
                **_interval(values, weights),
                "seeds": values.shape[1],
                "seed_spread": _spread(values, weights),
                "printed": _printed(row, metric, name),
            }
        )
    return out


def _differences(own, other, row: Row, metric: str, averages_only: bool) -> list[dict]:
    out = []
    unit = evaluate.UNITS[metric]
    seeds = own.columns.drop("frames").intersection(other.columns)
    if seeds.empty:
        return out
    for name, group, weights in _columns(own, averages_only):
        a, b = group[seeds], other.loc[group.index, seeds]
        out.append(
            {
                **_about(row, name, metric, unit, row.against),
                **_interval(a - b, weights),
                "seeds": a.shape[1],
                "seed_spread": _spread(a - b, weights),
                "printed": np.nan,
            }
        )
    return out


def _about(row: Row, column: str, metric: str, unit: str, against: str) -> dict:
    ids = " ".join(run.id for run in row.runs)
    return {
        "row": row.label,
        "against": against,
        "column": column,
        "metric": metric,
        "unit": unit,
        "runs": ids,
        "note": row.note,
    }


def _interval(values: pd.DataFrame, weights: pd.Series) -> dict[str, float]:
    """Of (takes, seeds)."""
    if len(values) < 2:
        return {"value": float(values.to_numpy().mean()), "low": np.nan, "high": np.nan}
    value, low, high = bootstrap_interval(values.to_numpy(), weights.to_numpy(), seed=0)
    return {"value": value, "low": low, "high": high}


def _spread(values: pd.DataFrame, weights: pd.Series) -> float:
    """Standard deviation over seeds of the weighted mean."""
    means = _means(values, weights)
    return float(means.std(ddof=1)) if len(means) > 1 else np.nan


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
    valued = table[~all_failed(table)]
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


def all_failed(table: pd.DataFrame) -> pd.Series:
    """Which lines are of rows all of whose runs failed: they have no value, and their notes say why."""
    return table["value"].isna() & (table["seeds"] == 0) & table["note"].str.contains("failed")


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
        values = group["value"].map(_one).mask((group["seeds"] == 0) & group["value"].isna(), "failed")
        out.append(pd.Series(values, name=(row, group["profile"].dropna().iloc[0])))
        if group["printed"].notna().any():
            out.append(pd.Series(group["printed"].map(_one), name=(row, "paper")))
    frame = pd.DataFrame(out)
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=[metric, ""])
    return frame.rename(columns=short)


def columns_of(table: pd.DataFrame) -> list[str]:
    """Its columns in their order, the average last, which is all that a row has whose runs failed."""
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
    """A value and its interval, if it has one; "failed" where there is no value."""
    if np.isnan(line.value):
        return "failed"
    return f"{line.value:{form}}" + ("" if np.isnan(line.low) else f" [{line.low:{form}}, {line.high:{form}}]")


def tables_of(profile: str, root: Path | None = None) -> list[Path]:
    """The tables of a profile that are published, or that lie below another root."""
    return sorted(((root or store.ROOT) / "results" / profile).glob("[0-9][0-9]_*.csv"))


def ready(rows: Iterable[Row]) -> str:
    """Train whatever these rows lack, but for MIXSTE_SO_FAR; says in one line how many runs stand behind them."""
    wanted = runs_of(rows)
    if store.so_far():
        return f"{len(wanted) - len(trainer.lacking(wanted))} of {len(wanted)} runs so far"
    return trainer.make_all(wanted, title="training") or f"{len(wanted)} runs ready"
