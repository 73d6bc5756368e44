"""Pages of the site that are written from results/ and figures/: tables, figures, claims, learning curves."""

import json
import re
from pathlib import Path

import pandas as pd

from mixste.evaluate import UNITS
from mixste.study import pages, records, report, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES, Table, distinct, of_csv, runs_of

ROOT = store.ROOT
RUN = ["run", "rows", "model", "options", "keypoints", "poses", "seed", "seconds", "device", "commit", "failed"]
# By figure: a sentence that links to the page where the same can be tried.
LOOK = {
    "11_figure5_attention": "[Attention by layer and joint](/attention.md) can be browsed.",
    "12_figure6_qualitative": "[Clips of the test subjects](/clips.md) can be played.",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def contents(entries: list[str], caption: str = "", shown: bool = False) -> str:
    """A table of contents, in the margin or also on the page."""
    options = [":maxdepth: 1", *([f":caption: {caption}"] if caption else []), *([] if shown else [":hidden:"])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


def study(profile: str, source: Path) -> None:
    """Write the pages of a profile: one for each table and figure, their list, its runs, notebooks, learning curves."""
    folder, ledger = source / "study" / profile, every_run(profile)
    tables = {path.stem: tidy.read(profile, path.stem) for path in tidy.files(profile)}
    figures = {path.stem for path in (ROOT / "figures" / profile).glob("[0-9]*.png")}
    # Tables that are not published as the profile is now, from the records that there are.
    new = {
        table.csv: values
        for table in TABLES.values()
        if table.csv not in tables or tidy.replaced(tables[table.csv])
        for values in [measured(table, profile)]
        if values is not None
    }
    stems = sorted(tables.keys() | figures | new.keys())
    for stem in stems:
        table, parts = tables.get(stem), [f"# {title(stem)}", *([LOOK[stem]] if stem in LOOK else [])]
        if stem in new:
            parts += [
                about(profile, new[stem], stem),
                *lacking(profile, stem, new[stem]),
                *shown(profile, stem, new[stem], ledger),
            ]
        if stem in tables or stem in figures:
            drawn = [f"![{title(stem)}](/figures/{profile}/{stem}.png)"] if stem in figures else []
            published = [about(profile, table, stem), *lacking(profile, stem, table), *drawn]
            published += shown(profile, stem, table, ledger)
            parts += ["## An earlier version", *map(lower, published)] if stem in new else published
        write(folder / f"{stem}.md", "\n\n".join([*parts, *again(profile, stem)]) + "\n")
    drawn = curves(profile)
    notebooks = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in executed(profile).glob("[0-9]*.ipynb")]
    parts = [
        f"# Profile {profile}",
        about(profile, pd.concat(tables.values())),
        *progress(profile, new),
        "## Tables and figures",
        contents(["runs", "notebooks", *(["curves"] if drawn else []), *stems], shown=True),
    ]
    if drawn:
        write(folder / "curves.md", drawn)
    listing = ["# Notebooks as executed", contents(sorted(notebooks), shown=True)]
    write(folder / "notebooks.md", "\n\n".join(listing) + "\n")
    write(folder / "runs.md", "\n\n".join([f"# All runs of {profile}", *listed_runs(profile, ledger)]) + "\n")
    write(folder / "index.md", "\n\n".join(parts) + "\n")


def every_run(profile: str) -> pd.DataFrame:
    """The lines of runs.csv, and the same of the published records that are of no published table."""
    ledger = pd.read_csv(ROOT / "results" / profile / "runs.csv", dtype=str, keep_default_na=False)
    others = sorted(path for path in records.folder(profile).glob("*.json") if path.stem not in set(ledger["run"]))
    lines = [{"run": record.id} | pages.line_of(record) for record in map(records.read, others)]
    return pd.concat([ledger, pd.DataFrame(lines, dtype=object)], ignore_index=True).fillna("").astype(str)


def measured(table: Table, profile: str) -> pd.DataFrame | None:
    """The values of those rows of a table that have records; None if no trained row has any."""
    rows = table.rows(PROFILES[profile])
    of_run = records.find(runs_of(rows), profile)
    rows = [row for row in rows if any(run in of_run for run in row.runs)]
    if not any(row.trained for row in rows):
        return None
    return report.measure(table, PROFILES[profile], rows, partial=True)


def progress(profile: str, new: dict[str, pd.DataFrame]) -> list[str]:
    """How many trainings of the profile there are so far, in all and by table; empty if there are none, or all.

    new: by stem, the tables that are made from records, see `study`.
    """
    whole = pages.so_far(distinct(PROFILES[profile]), profile)
    lines = [
        {
            "table": f"[{title(stem)}]({stem}.md)",
            "trainings": pages.so_far(planned(profile, stem), profile) or "all trainings",
        }
        for stem in new
    ]
    if not (whole and lines):
        return [f"{whole}."] if whole else []
    return [
        "## So far",
        f"**{whole}.** Tables and figures that are not listed here are of an earlier version.",
        pages.markdown(pd.DataFrame(lines)),
    ]


def planned(profile: str, stem: str) -> list:
    """The runs of a table of the study as the profile is now."""
    return runs_of(of_csv(stem).rows(PROFILES[profile])) if of_csv(stem) else []


def lower(part: str) -> str:
    """A part of a page with its heading one level lower."""
    return f"#{part}" if part.startswith("## ") else part


def shown(profile: str, stem: str, table: pd.DataFrame | None, ledger: pd.DataFrame) -> list[str]:
    """The parts of a page that show the values of a table, and the runs behind it or behind a figure."""
    if table is None:
        return ["## Runs", *listed_runs(profile, ledger[[stem[:2] in used.split() for used in ledger["notebooks"]]])]
    rows: dict[str, dict[str, None]] = {}
    for row, ids, note in table[["row", "runs", "note"]].drop_duplicates().itertuples(index=False):
        for run in ids.split() + re.findall(rf"run (\S+) {tidy.FAILED}: ", note):
            rows.setdefault(run, {}).setdefault(row)
    runs = ledger[ledger["run"].isin(rows)]
    runs = runs.assign(rows=["; ".join(rows[run]) for run in runs["run"]])
    return [*numbers(table), "## Runs", *listed_runs(profile, runs)]


def executed(profile: str) -> Path:
    """The folder of a profile's executed notebooks."""
    own = ROOT / "results" / profile / "notebooks"
    return own if own.exists() else ROOT / "notebooks"


def notebook(profile: str, stem: str) -> Path:
    """The notebook that makes a table or figure, as executed in this profile or else in the default one."""
    folders = executed(profile), ROOT / "notebooks"
    return next(path for folder in folders for path in folder.glob(f"{stem[:2]}_*.ipynb"))


def title(stem: str) -> str:
    """Of a table or figure: the heading of its notebook, and what part of it this is."""
    [path] = (ROOT / "notebooks").glob(f"{stem[:2]}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    heading = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
    part = of_csv(stem).title if of_csv(stem) else re.sub(r"(?<=[a-z])(?=\d)", " ", stem[3:].replace("_", " "))
    return heading if stem == path.stem else f"{heading}: {part}"


def about(profile: str, table: pd.DataFrame | None, stem: str = "") -> str:
    """The profile of a page, whether its numbers are of an earlier version, and how many trainings there are so far."""
    earlier = "" if table is None else tidy.replaced(table)
    of = f"an earlier version: {earlier}" if earlier else PROFILES[profile].title
    so_far = "" if earlier or table is None or not stem else pages.so_far(planned(profile, stem), profile)
    return f"Profile `{profile}`: {of}." + (f" **{so_far}.**" if so_far else "")


def not_trained(table: pd.DataFrame) -> pd.Series:
    """Which lines are of rows that have no value because they are not trained yet."""
    return tidy.without_value(table) & table["note"].str.contains(tidy.NOT_TRAINED)


def lacking(profile: str, stem: str, table: pd.DataFrame | None) -> list[str]:
    """A sentence that names the rows of a table that are not trained yet, if there are any."""
    if table is None or tidy.replaced(table):
        return []
    planned_rows = of_csv(stem).rows(PROFILES[profile]) if of_csv(stem) else []
    lines = dict.fromkeys(table.loc[not_trained(table), "row"])
    lines |= dict.fromkeys(row.label for row in planned_rows if row.trained and row.label not in set(table["row"]))
    return [f"Not trained yet: {'; '.join(lines)}."] if lines else []


def numbers(table: pd.DataFrame) -> list[str]:
    """The parts of a page that show a table's values, the paper's beside them."""
    table = table[~not_trained(table)]
    of_runs = (table["runs"] != "") | tidy.without_value(table)
    errors = table[table["metric"].isin(UNITS) & of_runs]
    averages = errors[errors["column"] == "Avg."]
    parts = []
    if len(averages):
        values = filled(tidy.with_intervals(averages, notes=False).reset_index())
        seeds = averages[averages["against"] == ""]["seeds"].tolist()
        if len(set(seeds)) > 1:
            values.insert(3, "seeds", seeds)
        parts += ["## Averages", f"*{tidy.over(averages)}*", pages.markdown(values), "\n".join(pages.effort(averages))]
        notes = [(row, note.replace(tidy.NOT_TRAINED, "not trained yet")) for row, note in pages.notes_of(averages)]
        parts += [f"*{row}*: {note}." for row, note in notes]
    if len(errors) > len(averages) and len(averages):
        for metric, values in errors.groupby("metric", sort=False):
            columns = tidy.beside(values, metric).reset_index()
            parts += [f"## {metric} by column, {UNITS[metric]}", pages.markdown(columns)]
    others = table.drop(averages.index if len(averages) == len(errors) else errors.index)
    if len(others):
        parts += ["## Other values" if parts else "## Values", pages.markdown(listed(others))]
    return [part for part in parts if part]


def listed(table: pd.DataFrame) -> pd.DataFrame:
    """A table one value a line, for those that are not averages of errors."""
    shown = table[["row", "against", "column", "metric", "unit"]].copy()
    forms = table["unit"].map(lambda unit: ".4g" if unit not in UNITS.values() else ".1f")
    shown["value"] = [tidy.interval_text(line, form) for line, form in zip(table.itertuples(), forms, strict=True)]
    shown["paper"] = [
        "" if pd.isna(number) else f"{number:{form}}" for number, form in zip(table["printed"], forms, strict=True)
    ]
    shown["note"] = table["note"]
    return filled(shown)


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns that are empty."""
    return table.loc[:, (table != "").any()]


def listed_runs(profile: str, runs: pd.DataFrame) -> list[str]:
    """Runs with their seeds, failures, seconds, device and commit, and links to their records."""
    if runs.empty:
        return ["No training is behind it."]
    numbers = runs.reindex(columns=["training_seconds", "sharing", "resumed_at"]).apply(pd.to_numeric).fillna(0)
    seconds = numbers["training_seconds"] / numbers["sharing"].clip(lower=1) / (1 - numbers["resumed_at"])
    devices = ", ".join(sorted(set(runs["device"]) - {""}))
    text = (
        f"{len(runs)} runs, of seeds {', '.join(sorted(set(runs['seed']), key=int))}; {(runs['failed'] != '').sum()} "
        f"failed; {seconds.sum():,.0f} seconds of training in all, on {devices or 'an unknown device'}."
    )
    if (numbers["sharing"] > 1).any() or (numbers["resumed_at"] > 0).any():
        text += (
            " Trainings that share a GPU have their part of its seconds; those of a training that was resumed are "
            "extrapolated to its whole length."
        )
    links = [record(profile, run) for run in runs["run"]]
    poses = [f"{int(number):,}" for number in runs["poses"]]
    values = runs.assign(run=links, poses=poses, seconds=[f"{value:.0f}" for value in seconds])
    return [text, pages.markdown(filled(values.reindex(columns=RUN, fill_value="")))]


def again(profile: str, stem: str) -> list[str]:
    """The parts of a page that say how to reproduce it."""
    path = notebook(profile, stem)
    lines = [f"Made by the notebook [{path.stem}](/{path.relative_to(ROOT)})."]
    if (ROOT / "results" / profile / f"{stem}.csv").exists():
        lines.append(f"All published values: [{stem}.csv](/results/{profile}/{stem}.csv).")
    command = f"mixste reproduce --profile {profile} --notebook {stem[:2]}"
    if any(records.folder(profile).glob("*.json")):
        command += f"\n{command} --records  # from the published records, without training"
    return ["## How to reproduce it", " ".join(lines), f"```sh\n{command}\n```"]


def record(profile: str, run: str) -> str:
    """A run's id, as a link to its record where that is published."""
    path = Path("results") / profile / "records" / f"{run}.json"
    return f"[{run}](/{path})" if (ROOT / path).exists() else run


def curves(profile: str) -> str:
    """The page of learning curves, the training loss of each published record by poses; empty if there are none.

    Those of Table 1 come first, and are the ones that the page shows when it is opened.
    """
    first = {run for row in TABLES["table1"].rows(PROFILES[profile]) for run in row.runs}
    lines = []
    for record in map(records.read, sorted(records.folder(profile).glob("*.json"))):
        run, points = record.spec, record.curve
        if run.poses and len(points):  # references are not trained
            options = " ".join(f"{name}={value}" for name, value in run.options)
            parts = [run.model, f"T={run.frames}", options, run.data.keypoints, f"{run.poses:,} poses"]
            parts.append(f"rate {run.recipe.learning_rate:g}")
            name = ", ".join([*parts, f"seed {run.seed}", record.id])
            points = points[["poses", "loss"]].dropna().to_numpy().tolist()
            lines.append({"name": name, "points": points, "shown": run in first})
    if not lines:
        return ""
    lines.sort(key=lambda line: (not line["shown"], line["name"]))
    about = f"The loss of {len(lines)} trainings by poses of training. Losses with different terms are not comparable."
    data = f'<div class="curves"><script type="application/json">{json.dumps(lines)}</script></div>'
    return f"# Learning curves\n\n{about}\n\n{data}\n"


def claims(profiles: list[str]) -> str:
    """The page of the paper's claims: a table for each profile."""
    parts = ["# The paper's claims", "Differences are between the row of the claim and the one it is compared with."]
    for profile in profiles:
        if not (ROOT / "results" / profile / "14_claims.csv").exists():
            continue
        table = tidy.read(profile, "14_claims")
        shown = listed(table).rename(columns={"row": "claim", "note": "verdict"})
        shown["value"] = [tidy.interval_text(line, "+.1f") for line in table.itertuples()]
        shown = shown[[name for name in ("claim", "verdict", "value", "paper", "unit", "against") if name in shown]]
        parts += [f"## {profile}", about(profile, table), pages.markdown(shown)]
        parts.append(f"The runs behind it: [{profile}](/study/{profile}/14_claims.md).")
    return "\n\n".join(parts) + "\n"
