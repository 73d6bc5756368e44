"""The pages of results: results/README.md, and runs.csv, which says where each run was made."""

import re
from collections.abc import Collection, Iterable
from dataclasses import fields
from pathlib import Path

import pandas as pd

from mixste import evaluate
from mixste.io.files import replacing
from mixste.study import costs, records, store, tidy
from mixste.study.profiles import PROFILES, Profile
from mixste.study.records import Record
from mixste.study.run import Run
from mixste.study.tables import CONSTANT, REGRESSION, distinct, of_csv
from mixste.study.tidy import files, interval_text, over, read, replaced, without_value
from mixste.train import AUTHORS, Recipe

# The published page is short: of these tables it has the averages, and of the others links.
MAIN = ("02_table1", "03_table2", "06_table5_components")
HEAD = """# Results
{where}
This page is generated from the tables in the folders beside it. Each number is an average with its
95 % interval. The line above a table says which changes its intervals account for:

- *8 people, 3 seeds*: testing on other people, and training again.
- *8 people, these networks*: testing the same networks on other people. There is one seed, so how much
  trainings differ is unknown.
- *12 takes of one person, 3 seeds*: testing on other takes of this person, and training again.
- *these people, 3 seeds*: training again, tested on the same people: those of a benchmark, or only two.
- *no intervals*: one training, tested on the people of a benchmark or on only two.
- *takes and seeds, by bootstrap*: an older table, whose intervals are too narrow for few seeds or people.

A column *paper* has what the paper prints for the metric to its left. *1 of 5* seeds: the others are not trained yet,
or they failed, as a note then says. Differences are on the same takes. Trainings of different rows are not paired,
even with the same seed.
{effort}
Only profile `paper` is comparable with the paper. In the other profiles, compare the pattern of the rows with that of
the columns *paper*, not the level. The other profiles count each frame once; the authors' protocol also counts padding
and overlaps.
"""
WHERE = """
The main tables of the study, by profile. Links at the end of each profile lead to its other tables, figures and
executed notebooks. `make docs` builds the site of the study, which has a page for each table and figure, with the runs
behind it.
"""
EFFORT = """
Below each table is the cost of one training: supervised poses, steps, multiply-accumulates of the forward pass for each
supervised pose, and, on a GPU, the seconds of a training that has the GPU to itself.
"""

REPEATS = "01_architecture"  # the table that repeats runs of Table 1
# The columns of runs.csv; those of the environment are the parts of it that are shown.
ENVIRONMENT = (
    *("device", "driver", "torch", "numpy", "python", "mixste", "commit"),
    *("steps", "resumed_at", "sharing", "peak_gib", "training_seconds", "testing_seconds"),
)
SETTINGS = ("model", "frames", "options", "keypoints", "poses", "learning_rate", "recipe", "seed")
LEDGER = ["run", "notebooks", *SETTINGS, *ENVIRONMENT, "failed"]


def page(root: Path, but: Collection[Path] = ()) -> str:
    """Write results/README.md below a root: the averages of all tables there, by profile, beside the paper's numbers.

    The published page, below `store.ROOT`, has the main tables, and links to the others; the site has a page for each.
    Also writes results/<profile>/runs.csv, see `ledger`. but: files to leave out. A file that is not a table of the
    study is left out too, and a line is printed. Returns the text.
    """
    published = root == store.ROOT
    tables = {name: _tables(name, root, but) for name in by_size()}
    tables = {name: of_profile for name, of_profile in tables.items() if {path.stem for path in of_profile} - {REPEATS}}
    head = HEAD.format(where=WHERE if published else "", effort="" if published else EFFORT)
    lines = [head.rstrip("\n")]
    ledgers = {name: ledger(name, root, of_profile) for name, of_profile in tables.items()}
    lines += _compute(tables) if published else []
    for name, of_profile in tables.items():
        longest = pd.to_numeric(ledgers[name]["poses"]).max()
        for earlier, of_version in _versions(of_profile).items():
            lines += _section(PROFILES[name], earlier, of_version, published, longest)
    text = "\n".join(lines) + "\n"
    with replacing(root / "results" / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def by_size() -> list[str]:
    """The names of the profiles: those on the paper's data first, then those of its sizes, then those of small ones."""
    return sorted(PROFILES, key=lambda name: (not PROFILES[name].comparable, not PROFILES[name].gpu))


def _tables(profile: str, root: Path, but: Collection[Path]) -> dict[Path, pd.DataFrame]:
    """The tables of a profile below a root, by file."""
    tables = {}
    for path in files(profile, root):
        try:
            if path not in but:
                tables[path] = read(profile, path.stem, root)
        except (ValueError, OSError) as error:
            print(f"{store.shown(path)} is left out of results/README.md: {error}", flush=True)
    return tables


def _versions(tables: dict[Path, pd.DataFrame]) -> dict[str, dict[Path, pd.DataFrame]]:
    """The tables by what those of an earlier version were made with; "" stands for the profile as it is, and first.

    If no table of networks is of the profile as it is, such as the card of its data, all stand together.
    """
    versions: dict[str, dict[Path, pd.DataFrame]] = {"": {}}
    for path, table in tables.items():
        versions.setdefault(replaced(table), {})[path] = table
    if len(versions) > 1 and not any((table["runs"] != "").any() for table in versions[""].values()):
        last = list(versions)[-1]
        versions[last] = versions.pop("") | versions[last]
    return {earlier: of_version for earlier, of_version in versions.items() if of_version}


def _section(
    profile: Profile, earlier: str, tables: dict[Path, pd.DataFrame], published: bool, longest: float
) -> list[str]:
    """The lines on the tables of a profile, or of an earlier version of it. longest: poses of its longest training."""
    title = f"an earlier version: {earlier}, not comparable with the paper" if earlier else profile.title
    if not published and longest < profile.poses and longest not in {run.poses for run in distinct(profile)}:
        title += f", CUT SHORT to at most {longest:g} poses of training"  # with MIXSTE_POSES
    runs = {run for table in tables.values() for run in tidy.run_ids(table)}
    lines = ["", f"## Profile `{profile.name}`: {title}", ""]
    lines += [f"Averages are over {'actions' if earlier else profile.average}."]
    lines += [f"The tables are from {len(runs)} runs, listed in [runs.csv]({profile.name}/runs.csv)."]
    lines += [_redrawn(profile.name, runs)] if published else []
    now = "The settings of the profile as it is now are in `mixste/study/profiles.py`."
    lines += [now if earlier else profile.departures]
    for path, table in tables.items():
        if path.stem != REPEATS and (path.stem in MAIN or not published):
            lines += _of_table(profile.name, path, table, earlier, published)
    for path, table in tables.items():
        if path.stem == "14_claims" and not earlier:
            lines += ["", f"### {_link(profile.name, path)}: verdicts on the paper's claims", "", verdicts(table)]
    return lines + (_listed(profile.name, list(tables)) if published else [])


def _of_table(profile: str, path: Path, whole: pd.DataFrame, earlier: str, published: bool) -> list[str]:
    """The lines on the averages of a table; none where it has no errors of runs."""
    of_runs = (whole["runs"] != "") | without_value(whole)
    table = whole[(whole["column"] == "Avg.") & whole["metric"].isin(evaluate.UNITS) & of_runs]
    if table.empty:
        return []
    title = f": {of_csv(path.stem).title}" if of_csv(path.stem) else ""
    lines = ["", f"### {_link(profile, path)}{title}", ""]
    lines += [f"*An earlier version: {earlier}.*", ""] if earlier else []
    lines += ["\n\n".join(averages(table, costs=not published))]
    rows = {"Not trained yet": lacking(profile, path.stem, table)}
    rows["Rows of the published table that are missing here"] = [] if published else _missing(profile, path.stem, whole)
    return lines + [f"\n{what}: {'; '.join(names)}." for what, names in rows.items() if names]


def _link(profile: str, path: Path) -> str:
    return f"[{path.stem}]({profile}/{path.name})"


def averages(table: pd.DataFrame, costs: bool = True) -> list[str]:
    """Parts of a page that show averages: a line a row, and a column a metric with its unit; what must be said of them.

    The values with the paper's beside them and how many seeds they are from; the differences; what a training takes, if
    `costs`; the notes. Rows that are not trained yet are left out, see `lacking`.
    """
    table = table[~tidy.not_trained(table)]
    own, differences = table[table["against"] == ""], table[table["against"] != ""]
    parts = [f"*{over(table)}*" if over(table) else "", _by_metric(own)]
    if len(differences):
        parts += [f"Differences{f', *{over(differences)}*' if differences['low'].notna().any() else ''}:"]
        parts += [_by_metric(differences)]
    parts += ["\n".join(effort(table))] if costs else []
    notes = own[["row"]].assign(note=own["note"].map(tidy.remark)).drop_duplicates().query("note != ''")
    rows = notes.groupby("note", sort=False)["row"].agg("; ".join)
    parts += [" ".join(f"*{of_note}*: {note}." for note, of_note in rows.items())]
    return [part for part in parts if part]


def _by_metric(table: pd.DataFrame) -> str:
    """Averages, or differences, as Markdown: a line a row, a column a metric, without the columns that are empty."""
    key, sign = ["row", "against"], "+" if table["against"].any() else ""
    rows = table.drop_duplicates(key).set_index(key, drop=False)
    columns = [rows["row"], rows["against"].rename("to")]
    for (metric, unit), lines in table.set_index(key).groupby(["metric", "unit"], sort=False):
        form = f"{sign}z.{2 if unit == 'mm/frame' else 1}f"
        texts = [interval_text(line, form) for line in lines.itertuples()]
        columns.append(pd.Series(texts, lines.index, name=f"{metric}, {unit}"))
        columns += [] if sign else [lines["printed"].map("{:.1f}".format, na_action="ignore").rename("paper")]
    if not sign:
        seeds = [tidy.seeds_of(line) for line in rows.itertuples()]
        columns.append(pd.Series(seeds, rows.index, name="seeds").mask(rows["row"].isin((CONSTANT, REGRESSION)), ""))
    shown = pd.concat(columns, axis="columns").astype(object).fillna("")
    return markdown(shown.loc[:, (shown != "").any().to_numpy()])


def verdicts(claims: pd.DataFrame) -> str:
    """How many of the claims have each verdict, and which, as Markdown. claims: table 14_claims."""
    numbers = claims["row"].str.partition(".")[0].astype(int)
    kinds = sorted(numbers.groupby(claims["note"].map(verdict)))
    return markdown(
        pd.DataFrame(
            {"verdict": kind, "claims": len(rows), "which": _ranges(rows) if len(kinds) > 1 else "all"}
            for kind, rows in kinds
        )
    )


def _ranges(numbers: Iterable[int]) -> str:
    """Rising numbers in short, as "1–3, 7"."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and number == ends[-1][1] + 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in ends)


def verdict(note: str) -> str:
    """A verdict on a claim with its reason, without the name of the difference that decides it."""
    return re.sub(r" \([^()]*\)$", "", note)


def lacking(profile: str, stem: str, table: pd.DataFrame) -> list[str]:
    """The rows of a table of the study that are not trained yet; none of a table of an earlier version."""
    if replaced(table):
        return []
    planned = of_csv(stem).rows(PROFILES[profile]) if of_csv(stem) else []
    new = [row.label for row in planned if row.trained and row.label not in set(table["row"])]
    return list(dict.fromkeys([*table.loc[tidy.not_trained(table), "row"], *new]))


def every_run(profile: str) -> pd.DataFrame:
    """The lines of the published runs.csv, and the same of the published records that are of no published table."""
    ledger = pd.read_csv(store.ROOT / "results" / profile / "runs.csv", dtype=str, keep_default_na=False)
    others = sorted(path for path in records.folder(profile).glob("*.json") if path.stem not in set(ledger["run"]))
    lines = [{"run": record.id} | line_of(record) for record in map(records.read, others)]
    return pd.concat([ledger, pd.DataFrame(lines, dtype=object)], ignore_index=True).fillna("").astype(str)


def _compute(profiles: Iterable[str]) -> list[str]:
    """A table of the trainings of each profile: how many, how many failed, their hours, and on what."""
    lines = []
    for profile in profiles:
        runs = every_run(profile)
        trained = runs[pd.to_numeric(runs["poses"]).fillna(0) > 0]
        now, planned = _trained(distinct(PROFILES[profile]), profile)
        line = {"profile": f"`{profile}`", "of its plan": f"{now} of {planned}", "trainings in all": len(trained)}
        hours = costs.seconds(trained)["training"].sum() / 3600
        line |= {"failed": (trained["failed"] != "").sum(), "hours": f"{hours:.1f}"}
        lines.append(line | {"on": ", ".join(sorted(set(trained["device"]) - {""}))})
    about = "Published trainings: those of the present plan of each profile, and all, including those of "
    about += "earlier versions. Hours are of a GPU or of a CPU core."
    return ["", about, "", markdown(pd.DataFrame(lines))] if lines else []


def ledger(profile: str, root: Path, tables: dict[Path, pd.DataFrame]) -> pd.DataFrame:
    """The runs in a profile's tables, with settings and environment; also written to runs.csv beside the tables.

    Failed ones, which notes name, are among them, with the reason. The line of a run without a record is kept from the
    previous file.
    """
    path = root / "results" / profile / "runs.csv"
    try:
        old = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("run").T.to_dict()
    except (OSError, ValueError, KeyError):  # missing or damaged: rewritten from the records
        old = {}
    named: dict[str, dict[str, None]] = {}  # a notebook may have several tables, and is named once
    for file, content in tables.items():
        for run in tidy.run_ids(content):
            named.setdefault(run, {}).setdefault(file.stem[:2])
    lines = []
    for run, numbers in sorted(named.items(), key=lambda item: (list(item[1]), item[0])):
        record = records.of_id(run, profile)
        line = old.get(run, {}) if record is None else line_of(record)
        lines.append({"run": run} | line | {"notebooks": " ".join(numbers)})
    table = pd.DataFrame(lines, columns=LEDGER)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return table


def so_far(runs: Iterable[Run], profile: str) -> str:
    """As "3 of 175 trainings so far", by the records of these runs; empty where there are none, or all of them."""
    made, planned = _trained(runs, profile)
    return f"{made} of {planned} trainings so far" if 0 < made < planned else ""


def _trained(runs: Iterable[Run], profile: str) -> tuple[int, int]:
    """How many of these runs have records, and how many there are; references, which are not trained, do not count."""
    trained = [run for run in runs if run.poses]
    return len(records.find(trained, profile)), len(trained)


def _listed(profile: str, tables: list[Path]) -> list[str]:
    """Links to these tables of a profile, to its figures and to its executed notebooks."""
    own = f"{profile}/notebooks"
    executed = own if (store.ROOT / "results" / own).exists() else "../notebooks"
    links = ", ".join(_link(profile, path) for path in tables)
    return ["", f"All its tables: {links}.", f"[Figures](../figures/{profile}), [executed notebooks]({executed})."]


def _missing(profile: str, name: str, table: pd.DataFrame) -> list[str]:
    """Rows of the published table that this one lacks, as where a notebook stopped for want of a network."""
    try:
        published = read(profile, name, store.ROOT)
    except (ValueError, OSError):
        return []
    rows = set(published["row"]) if replaced(published) else set(table["row"])
    return [row for row in dict.fromkeys(published["row"]) if row not in rows]


def _redrawn(profile: str, runs: Collection[str]) -> str:
    """A sentence on whether the published tables of a profile can be redrawn without training."""
    lacking = sum(not (records.folder(profile) / f"{run}.json").exists() for run in runs)
    kept = f"Their [records]({profile}/records) redraw tables and figures without training: "
    kept += f"`mixste reproduce --profile {profile} --records`."
    lost = f"Records are missing for {lacking} of them: their tables stay as they are until these are trained again."
    return lost if lacking else kept


def line_of(record: Record) -> dict[str, object]:
    """The line of a run in runs.csv, without the notebooks that use it."""
    run, about = record.spec, record.environment
    options = run.options or [("frames", run.frames)]  # a reference has no options
    return {
        **{name: getattr(run, name) for name in ("model", "frames", "poses", "seed")},
        "options": " ".join(f"{name}={value}" for name, value in options),
        "keypoints": run.data.keypoints,
        "learning_rate": f"{run.recipe.learning_rate:.3g}",
        "recipe": _departures(run.recipe),
        **{name: _shown(about[name], 3 if name == "resumed_at" else 1) for name in ENVIRONMENT if name in about},
        "failed": record.failed,
    }


def _departures(recipe: Recipe) -> str:
    """The settings in which a recipe differs from the authors', as "optimizer=muon drop_path=0.0"; not the rate."""
    names = [field.name for field in fields(recipe) if field.name != "learning_rate"]
    changed = {name: getattr(recipe, name) for name in names if getattr(recipe, name) != getattr(AUTHORS, name)}
    if "loss" in changed:
        changed["loss"] = "+".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in recipe.loss)
    return " ".join(f"{name}={value}" for name, value in changed.items())


def _shown(value, digits: int):
    return round(value, digits) if isinstance(value, float) else value


def effort(table: pd.DataFrame) -> list[str]:
    """What a training of each row takes: a table, or a sentence where all take the same."""
    shown = tidy.effort(table)
    if shown.empty:
        return []
    if len(shown.drop_duplicates()) > 1:
        return ["", "One training takes:", "", markdown(shown.reset_index())]
    return ["", f"One training takes {', '.join(f'{value} {name}' for name, value in shown.iloc[0].items())}."]


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
