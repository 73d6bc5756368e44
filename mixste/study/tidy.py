"""Tidy tables, one value a row: their schema, their files, and how notebooks show them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from mixste.io.files import replacing
from mixste.study import records, store
from mixste.study.profiles import Profile, profile_of
from mixste.study.tables import CONSTANT, REGRESSION, TABLES, Table, distinct, of_csv

# One value per row. If `against` names another row, `value` is the difference row − against; otherwise it is empty.
# low, high: 95 % interval, nan where nothing was repeated. over: what it was repeated over, and so what the interval
# generalises to, see `mixste.study.uncertainty.Interval`; empty in tables older than this column, whose intervals are
# a bootstrap over takes and seeds. degrees: of freedom of the interval's Student's t. seeds: how many the row has.
# seed_spread: standard deviation over seeds, of a difference only where seeds are paired. poses, steps: length of one
# training; 0 where nothing is trained. macs: millions of multiply-accumulates of the forward pass for each supervised
# pose. gpu_seconds: of one training alone, at the speed in results/bench/study.csv, or as recorded if its kind is not
# in there; nan for trainings on a CPU. printed: the paper's number, wherever it has one, comparable or not. A row all
# of whose runs failed or are missing has one line a metric, with 0 seeds and no value; `runs` then names those that
# failed.
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
    "over": str,
    "degrees": float,
    "seeds": int,
    "seed_spread": float,
    "poses": int,
    "steps": int,
    "macs": float,
    "gpu_seconds": float,
    "protocol": str,
    "profile": str,
    "source": str,
    "comparable": bool,
    "runs": str,
    "printed": float,
    "note": str,
}
EMPTY = {str: "", float: np.nan, int: 0, bool: False}
UNITS = ("mm", "mm/frame", "mm²", "%", "points", "M/frame", "M", "1", "frames/s", "×", "windows", "px", "GiB")
# Published tables of data or recipes that have been replaced stay until their profile is run again. By their column
# source, what they were made with. None of them says what its intervals are over.
REPLACED = {
    "open-subjects": "eight subjects of HDM05 and CMU, AdamW, 0.8% of the paper's training",
    "open-styles": "Bandai-Namco's unseen styles, AdamW, 0.8% of the paper's training",
}
EFFORT = {  # heads of the columns that say what one training takes
    "poses": "poses",
    "steps": "steps",
    "macs": "million multiply-accumulates a pose",
    "gpu_seconds": "GPU seconds",
}
FAILED, NOT_TRAINED = "failed", "not trained here"  # in the notes of rows that lack some or all of their runs
NOT_TESTED = "not tested"  # the verdict on a claim whose rows may lack all of their runs
# In these notes: the number of seeds without a record, or with a value, and of all.
_MISSING = re.compile(rf"{NOT_TRAINED}: (\d+) of (\d+) seeds")
_SOUND = re.compile(rf"(\d+) of (\d+) seeds, run \S+ {FAILED}")
pd.options.display.max_colwidth = None  # a note is shown whole


def table(values: list[dict], profile: Profile, number: str) -> pd.DataFrame:
    """A tidy table from values that no run's clips give (counts, timings): missing columns get their empty value."""
    about = {"table": number, "profile": profile.name, "source": profile.data.source, "comparable": profile.comparable}
    rows = [{name: EMPTY[kind] for name, kind in COLUMNS.items()} | about | value for value in values]
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
    with_reason = table["note"].str.contains(f"{FAILED}|{NOT_TRAINED}|{NOT_TESTED}")
    return table["value"].isna() & (table["seeds"] == 0) & with_reason


def failed_note(sound: int, of: int, failed: dict[str, str]) -> str:
    """The note on a value from so many seeds of all; failed: why, by the id of each run that failed."""
    if not failed:
        return ""
    return f"{sound} of {of} seeds, {', '.join(f'run {run} {FAILED}: {why}' for run, why in failed.items())}"


def sound_seeds(note: str) -> str:
    """The text "2 of 3 seeds" from the note on a value, if the others failed; else empty."""
    match = _SOUND.search(note)
    return f"{match[1]} of {match[2]} seeds" if match else ""


def seeds_of(line) -> str:
    """How many seeds a line of a table has a value from: "3", or, if some failed or are not trained yet, "1 of 3"."""
    planned = _MISSING.search(line.note) or _SOUND.search(line.note)
    return f"{line.seeds} of {planned[2]}" if planned else str(line.seeds)


def absent(note: str) -> str:
    """How many seeds were trained and how many of them failed, if not all are sound, from the note on a value."""
    missing, sound = _MISSING.search(note), _SOUND.search(note)
    trained = f"{int(missing[2]) - int(missing[1])} of {missing[2]} seeds trained" if missing else ""
    failed = f"{len(_failed(note))} of {sound[2]} seeds {FAILED}" if sound else ""
    return ", ".join(filter(None, [trained, failed]))


def _failed(notes: str) -> list[str]:
    """The ids of the failed runs that notes name."""
    return re.findall(rf"run (\S+) {FAILED}: ", notes)


def remark(note: str) -> str:
    """A note without the part that says how many seeds are not trained yet, which `seeds_of` gives."""
    return "; ".join(part for part in note.split("; ") if part and not part.startswith(NOT_TRAINED))


def not_trained(table: pd.DataFrame) -> pd.Series:
    """Which lines are of rows that have no value because they are not trained yet."""
    return without_value(table) & table["note"].str.contains(NOT_TRAINED)


def run_ids(table: pd.DataFrame) -> list[str]:
    """The ids of the runs behind a table, with those that failed; several times where several values name them."""
    return [*" ".join(table["runs"]).split(), *_failed("\n".join(table["note"]))]


def why_without(note: str) -> str:
    """The text shown instead of a missing value; none for a claim, whose verdict says it."""
    if note.startswith(NOT_TESTED):
        return ""
    sound = sound_seeds(note).removesuffix(" seeds")
    return NOT_TRAINED if NOT_TRAINED in note else f"{FAILED}: {sound}" if sound else FAILED


def save(values: pd.DataFrame, name: str) -> None:
    """Check a tidy table, write it to results/<profile>/<name>.csv of the output folder, and say where it went.

    ValueError if a table of the study has this name and the values name rows that are neither its own nor of a run of
    its notebook's tables.
    """
    validate(values)
    profile = values["profile"].iloc[0]
    if table := of_csv(name):
        rows = table.rows(profile_of(profile))
        others = values[(values["runs"] != "") & ~values["row"].isin([row.label for row in rows])]
        parts = [part.key for part in TABLES.values() if part.notebook == table.notebook]
        wanted = distinct(profile_of(profile), parts) if len(others) else []
        known = {record.id for record in records.find(wanted, profile).values()}  # ids of runs would need the data
        others = others.loc[[not known.issuperset(ids.split()) for ids in others["runs"]], "row"]
        if len(others):
            names = ", ".join(sorted(set(others)))
            raise ValueError(f"{name} is a table of the study, without {names}: save yours by another name")
    if len(lines := values[values["low"].notna() & (values["over"] == "")]):
        raise ValueError(f"an interval must say what it is over, found none in {lines.iloc[0].to_dict()}")
    path = store.output() / "results" / profile / f"{name}.csv"
    with replacing(path) as temporary:
        values.to_csv(temporary, index=False, float_format="%.4f")
    print(f"{store.shown(path)}: {len(values)} values")


def read(profile: str, name: str, root: Path | None = None) -> pd.DataFrame:
    """A table written by `save`: a published one, or one below another root, such as `store.output()`.

    ValueError if the file holds something else.
    """
    path = (root or store.ROOT) / "results" / profile / f"{name}.csv"
    floats = [name for name, kind in COLUMNS.items() if kind is float]
    try:
        table = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False, na_values=dict.fromkeys(floats, ""))
        for place, (name, kind) in enumerate(COLUMNS.items()):
            if name in ("over", "degrees", *EFFORT) and name not in table:  # written before there was this column
                table.insert(min(place, len(table.columns)), name, EMPTY[kind])
        validate(table)
    except ValueError as error:
        raise ValueError(f"expected a table of the study in {path}: {error}") from None
    return table


def measured_before(table: Table, profile: Profile) -> pd.DataFrame:
    """The published lines of a table that are not of its rows, for a notebook whose networks are not here.

    Empty if there are none, or if they are of an earlier version.
    """
    path = store.ROOT / "results" / profile.name / f"{table.csv}.csv"
    lines = read(profile.name, table.csv) if path.exists() else pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    own = lines["row"].isin([row.label for row in table.rows(profile)])
    return lines[~own & (lines["source"] == profile.data.source)] if not replaced(lines) else lines[:0]


def replaced(table: pd.DataFrame) -> str:
    """What a table of data or of a recipe that have been replaced was made with; empty for any other."""
    return "" if table.empty or table["over"].any() else REPLACED.get(table["source"].iloc[0], "")


def files(profile: str, root: Path | None = None) -> list[Path]:
    """The tables of a profile that are published, or that lie below another root."""
    return sorted(((root or store.ROOT) / "results" / profile).glob("[0-9][0-9]_*.csv"))


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
        about = group.dropna(subset="profile").iloc[0]
        seeds = sound_seeds(about["note"]) if about["seeds"] else ""
        out.append(pd.Series(values, name=(row, ", ".join(filter(None, (about["profile"], seeds))))))
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


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Averages with their intervals and what the paper prints, one line a row; differences to the row compared with.

    What the intervals are over stands in the corner, as the name of the columns. The last column has the notes on the
    rows, if there are any.
    """
    averages = table[table["column"] == "Avg."]
    own, differences = averages[averages["against"] == ""], averages[averages["against"] != ""]
    of_row = {(line.row, line.metric): line for line in differences.itertuples()}
    lines = []
    for value in own.itertuples():
        line = {"row": value.row, "metric": value.metric, "value": interval_text(value, ".1f")}
        if difference := of_row.get((value.row, value.metric)):
            line |= {"difference": interval_text(difference, "+.1f"), "to": difference.against}
        line |= {"paper": _one(value.printed)}
        line |= {"note": value.note} if own["note"].any() else {}
        lines.append(line)
    return pd.DataFrame(lines).fillna("").set_index(["row", "metric"]).rename_axis(columns=over(averages))


def effort(table: pd.DataFrame) -> pd.DataFrame:
    """What one training of each row takes, in the columns of `EFFORT` that are not empty."""
    rows = table[(table["against"] == "") & (table["poses"] > 0)].drop_duplicates("row").set_index("row")
    shown = rows[list(EFFORT)].dropna(axis="columns", how="all").rename(columns=EFFORT)
    return shown.map(lambda value: "" if pd.isna(value) else f"{value:,.0f}" if value > 100 else f"{value:.3g}")


def over(table: pd.DataFrame) -> str:
    """A caption: what the intervals of a table are over, the most frequent first, or why there are none.

    The two references, which involve no randomness, and differences count only if the table has nothing else. Empty if
    no row has a value.
    """
    table = table[table["seeds"] > 0]
    networks = table[~table["row"].isin((CONSTANT, REGRESSION))]
    table = networks if len(networks) else table
    averages = table[table["against"] == ""]
    table = averages if len(averages) else table
    kinds = table.loc[table["low"].notna(), "over"].replace("", "takes and seeds, by bootstrap").value_counts()
    if len(kinds):
        return f"95 % intervals: {'; '.join(kinds.index)}"
    return "no intervals: one training, these people" if len(table) else ""


def interval_text(line, form: str) -> str:
    """A value and its interval, if it has one; where there is no value, why. form: of numbers, as "+.1f"."""
    if np.isnan(line.value):
        return why_without(line.note)
    return f"{line.value:{form}}" + ("" if np.isnan(line.low) else f" [{line.low:{form}}, {line.high:{form}}]")
