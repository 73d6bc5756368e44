"""Pages of the site that are written from results/ and figures/: tables, figures, claims, learning curves."""

import json
import re
from pathlib import Path

import pandas as pd

from mixste.evaluate import UNITS
from mixste.study import costs, pages, records, report, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES, Table, distinct, of_csv, runs_of

ROOT = store.ROOT
RUN = [
    "run",
    "rows",
    "model",
    "options",
    "keypoints",
    "poses",
    "seed",
    "seconds",
    "device",
    "recipe",
    "commit",
    "failed",
]
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
    folder, ledger = source / "study" / profile, pages.every_run(profile)
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
    drawings = {stem: figures & {stem, *drawings_of(stem)} for stem in tables.keys() | new.keys()}
    drawings |= {name: {name} for name in figures.difference(*drawings.values())}
    # The table or figure that a notebook is named after comes before its others.
    stems = sorted(drawings, key=lambda stem: (stem[:2], stem != named(stem).stem, stem))
    for stem in stems:
        table, parts = tables.get(stem), [f"# {title(stem)}", *([LOOK[stem]] if stem in LOOK else [])]
        if stem in new:
            parts += [
                about(profile, new[stem], stem),
                *lacking(profile, stem, new[stem]),
                *shown(profile, stem, new[stem], ledger),
            ]
        if stem in tables or drawings[stem]:
            drawn = [f"![{title(stem)}](/figures/{profile}/{name}.png)" for name in sorted(drawings[stem])]
            published = [about(profile, table, stem), *lacking(profile, stem, table), *drawn]
            published += shown(profile, stem, table, ledger)
            parts += ["## An earlier version", *map(lower, published)] if stem in new else published
        write(folder / f"{stem}.md", "\n\n".join([*parts, *again(profile, stem)]) + "\n")
    drawn = curves(profile)
    notebooks = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in executed(profile).glob("[0-9]*.ipynb")]
    parts = [
        f"# Profile {profile}",
        about(profile, pd.concat(tables.values())),
        *progress(profile, stems, {stem: new.get(stem, tables.get(stem)) for stem in stems}),
        "## Tables and figures",
        contents(["runs", "notebooks", *(["curves"] if drawn else []), *stems], shown=True),
    ]
    if drawn:
        write(folder / "curves.md", drawn)
    listing = ["# Notebooks as executed", contents(sorted(notebooks), shown=True)]
    write(folder / "notebooks.md", "\n\n".join(listing) + "\n")
    of_earlier = ledger["run"].isin(
        run for table in tables.values() if tidy.replaced(table) for run in tidy.run_ids(table)
    )
    parts_of_runs = [f"# All runs of {profile}", *listed_runs(profile, ledger[~of_earlier])]
    if of_earlier.any():
        parts_of_runs += ["## Of an earlier version", *listed_runs(profile, ledger[of_earlier])]
    write(folder / "runs.md", "\n\n".join(parts_of_runs) + "\n")
    write(folder / "index.md", "\n\n".join(parts) + "\n")


def measured(table: Table, profile: str) -> pd.DataFrame | None:
    """The values of those rows of a table that have records; None if no trained row has any."""
    rows = table.rows(PROFILES[profile])
    of_run = records.find(runs_of(rows), profile)
    rows = [row for row in rows if any(run in of_run for run in row.runs)]
    if not any(row.trained for row in rows):
        return None
    return report.measure(table, PROFILES[profile], rows, partial=True)


def progress(profile: str, stems: list[str], tables: dict[str, pd.DataFrame | None]) -> list[str]:
    """How many trainings of the profile there are so far, in all and by table, and what is of an earlier version.

    Empty if there are none, or all. tables: by stem, as it is shown; None for a figure without one.
    """
    whole = pages.so_far(distinct(PROFILES[profile]), profile)
    old = {stem for stem, table in tables.items() if table is not None and tidy.replaced(table)}
    numbers = {stem[:2] for stem in old}  # of notebooks, whose other figures are as old
    old |= {stem for stem, table in tables.items() if table is None and stem[:2] in numbers}
    lines = [
        {
            "table": f"[{title(stem)}]({stem}.md)",
            "trainings": pages.so_far(planned(profile, stem), profile).removesuffix(" trainings so far") or "all",
        }
        for stem in stems
        if stem not in old and planned(profile, stem)
    ]
    if not (whole and lines):
        return [f"{whole}."] if whole else []
    parts = ["## So far", f"**{whole}.**", pages.markdown(pd.DataFrame(lines))]
    links = "; ".join(f"[{title(stem)}]({stem}.md)" for stem in stems if stem in old)
    return parts + ([f"Of an earlier version are: {links}."] if old else [])


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
    for row, lines in table.groupby("row", sort=False):
        for run in tidy.run_ids(lines):
            rows.setdefault(run, {}).setdefault(row)
    runs = ledger[ledger["run"].isin(rows)]
    runs = runs.assign(rows=["; ".join(rows[run]) for run in runs["run"]])
    values = ["## Verdicts", *verdicts(table)] if stem == "14_claims" else numbers(table)
    return [*values, "## Runs", *listed_runs(profile, runs)]


def earlier(notebook: Path) -> str:
    """What an executed notebook of a profile was made with, if its tables are of an earlier version; else empty."""
    profile = notebook.parent.parent.name
    stems = [path.stem for path in tidy.files(profile) if path.stem[:2] == notebook.name[:2]]
    return next(filter(None, (tidy.replaced(tidy.read(profile, stem)) for stem in stems)), "")


def executed(profile: str) -> Path:
    """The folder of a profile's executed notebooks."""
    own = ROOT / "results" / profile / "notebooks"
    return own if own.exists() else ROOT / "notebooks"


def notebook(profile: str, stem: str) -> Path:
    """The notebook that makes a table or figure, as executed in this profile or else in the default one."""
    folders = executed(profile), ROOT / "notebooks"
    return next(path for folder in folders for path in folder.glob(f"{stem[:2]}_*.ipynb"))


def named(stem: str) -> Path:
    """The notebook with the number of a table or figure."""
    [path] = (ROOT / "notebooks").glob(f"{stem[:2]}_*.ipynb")
    return path


def drawings_of(table: str) -> set[str]:
    """The figures that belong on the page of a table and have other names, as 19_leaders_costs on that of 19_costs."""
    return {f"{named(table).stem}{table[2:]}", f"{table}_averages"}


def title(stem: str) -> str:
    """The heading of the notebook of a table or figure; of a part of one, what stands before a colon, and the part."""
    path = named(stem)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    heading = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
    if stem == path.stem:
        return heading
    part = stem.removeprefix(f"{path.stem}_").removeprefix(stem[:3])  # as "averages" of 19_leaders_averages
    part = of_csv(stem).title if of_csv(stem) else re.sub(r"figure(\d)", r"Figure \1", part.replace("_", " "))
    return f"{heading.partition(':')[0]}: {part}"


def about(profile: str, table: pd.DataFrame | None, stem: str = "") -> str:
    """The profile of a page, whether its numbers are of an earlier version, and how many trainings there are so far."""
    earlier = "" if table is None else tidy.replaced(table)
    of = f"an earlier version: {earlier}" if earlier else PROFILES[profile].title
    so_far = "" if earlier or table is None or not stem else pages.so_far(planned(profile, stem), profile)
    return f"Profile `{profile}`: {of}." + (f" **{so_far}.**" if so_far else "")


def lacking(profile: str, stem: str, table: pd.DataFrame | None) -> list[str]:
    """A sentence that names the rows of a table that are not trained yet, if there are any."""
    rows = [] if table is None else pages.lacking(profile, stem, table)
    return [f"Not trained yet: {'; '.join(rows)}."] if rows else []


def numbers(table: pd.DataFrame) -> list[str]:
    """The parts of a page that show a table's values, the paper's beside them."""
    table = table[~tidy.not_trained(table)]
    of_runs = (table["runs"] != "") | tidy.without_value(table)
    errors = table[table["metric"].isin(UNITS) & of_runs]
    averages = errors[errors["column"] == "Avg."]
    others, parts = table, []
    if len(averages):
        parts += ["## Averages", *pages.averages(averages)]
        for metric, values in errors.groupby("metric", sort=False) if len(errors) > len(averages) else ():
            columns = tidy.beside(values, metric).reset_index()
            parts += [f"## {metric} by column, {UNITS[metric]}", pages.markdown(columns)]
        others = table.drop(errors.index)
    if len(others):
        parts += ["## Other values" if parts else "## Values", *grids(others)]
    return [part for part in parts if part]


def grids(table: pd.DataFrame) -> list[str]:
    """Parts of a page that show any values: a grid for each metric if there are several rows and columns, one for all
    metrics if each row has one column; the others in a list.
    """
    if (
        table["metric"].nunique() > 1
        and (table.groupby("row")["column"].nunique() == 1).all()
        and not any(table["against"])
    ):
        return [pages.markdown(by_metric(table))]
    parts = []
    for (metric, unit, of_difference), values in table.groupby(["metric", "unit", table["against"] != ""], sort=False):
        about, drawn = metric if unit in ("1", metric) else f"{metric}, {unit}", values
        if of_difference and values["row"].nunique() == 1:
            about += f", difference of {values['row'].iloc[0]} to"
            drawn = values.assign(row=values["against"])
        elif of_difference and values["against"].nunique() == 1:
            about += f", difference to {values['against'].iloc[0]}"
        elif of_difference:
            continue
        if min(drawn["row"].nunique(), drawn["column"].nunique()) > 1:
            drawn, same = shortened(drawn)
            parts += [f"{about}{f' ({same})' if same and not of_difference else ''}:", pages.markdown(grid(drawn))]
            table = table.drop(values.index)
    return [*parts, pages.markdown(listed(table))] if len(table) else parts


def shortened(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """A table whose rows are named without what all their names share, as "cpn, equal poses"; and that."""
    names = {row: row.split(", ") for row in table["row"].unique()}
    same = [part for part in next(iter(names.values())) if all(part in parts for parts in names.values())]
    short = {row: ", ".join(part for part in parts if part not in same) for row, parts in names.items()}
    return table.assign(row=table["row"].map(short)), ", ".join(same)


def grid(table: pd.DataFrame) -> pd.DataFrame:
    """Values of one metric, a line a column of the table, and a column a row."""
    wide = listed(table).pivot(index="column", columns="row", values="value").fillna("")
    order = {name: list(dict.fromkeys(table[name])) for name in ("column", "row")}
    return wide.reindex(index=order["column"], columns=order["row"]).rename_axis(index="").reset_index()


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    """Values of rows that have one column each: a line a row, a column a metric, the paper's number in parentheses."""
    table = table.assign(metric=table["metric"] + table["unit"].map(lambda unit: "" if unit == "1" else f", {unit}"))
    shown = listed(table).reindex(columns=["row", "column", "metric", "value", "paper"], fill_value="")
    shown["value"] += shown["paper"].map(lambda number: f" (paper: {number})" if number else "")
    wide = shown.pivot(index=["row", "column"], columns="metric", values="value").fillna("")
    wide = wide.reindex(
        index=list(dict.fromkeys(zip(shown["row"], shown["column"], strict=True))), columns=shown["metric"].unique()
    ).reset_index()
    return wide if wide["column"].nunique() > 1 else wide.drop(columns="column")


def listed(table: pd.DataFrame) -> pd.DataFrame:
    """A table one value a line, for those that are not averages of errors."""
    shown = table[["row", "against", "column", "metric", "unit"]].copy()
    lines = list(table.itertuples())
    shown["value"] = [tidy.interval_text(line, _form(line, line.value)) for line in lines]
    shown["paper"] = ["" if pd.isna(line.printed) else f"{line.printed:{_form(line, line.printed)}}" for line in lines]
    shown["note"] = table["note"]
    return filled(shown)


def _form(line, number: float) -> str:
    """The format of a number on a line of a table: of errors one digit, of others three or four; differences signed."""
    digits = ",.0f" if abs(number) >= 1000 else ".3g" if abs(number) < 1 else ".4g"
    digits = ".1f" if line.unit in UNITS.values() else digits
    return f"{'+' if line.against else ''}z{digits}"


def filled(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the columns that are empty."""
    return table.loc[:, (table != "").any()]


def listed_runs(profile: str, runs: pd.DataFrame) -> list[str]:
    """Runs with their seeds, failures, seconds, device and commit, and links to their records."""
    if runs.empty:
        return ["No training is behind it."]
    seconds = costs.seconds(runs)["training"]
    devices = ", ".join(sorted(set(runs["device"]) - {""}))
    text = (
        f"{len(runs)} runs, of seeds {', '.join(sorted(set(runs['seed']), key=int))}; {(runs['failed'] != '').sum()} "
        f"failed; {seconds.sum():,.0f} seconds of training in all, on {devices or 'an unknown device'}."
    )
    if runs.reindex(columns=["sharing", "resumed_at"]).apply(pd.to_numeric).gt([1, 0]).any(axis=None):
        text += (
            " Trainings that share a GPU have their part of its seconds; those of a training that was resumed are "
            "extrapolated to its whole length."
        )
    recipes = [text.split() for text in runs["recipe"]]
    told = [settings for settings in recipes if settings]  # older lines lack them
    common = [setting for setting in told[0] if all(setting in settings for settings in told)] if told else []
    if common:
        text += f" All trainings differ from the authors' recipe in {', '.join(common)}."
    own = [" ".join(setting for setting in settings if setting not in common) for settings in recipes]
    links = [record(profile, run) for run in runs["run"]]
    poses = [f"{int(number):,}" for number in runs["poses"]]
    values = runs.assign(run=links, poses=poses, recipe=own, seconds=[f"{value:.0f}" for value in seconds])
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
    parts = [
        "# The paper's claims",
        "*value* and *paper* are differences: the row that the claim is about minus the row under *against*, negative "
        "for a lower error. Brackets are 95 % intervals. [14_claims](/notebooks/14_claims.ipynb) has the rule of the "
        "verdicts.",
    ]
    for profile in profiles:
        if not (ROOT / "results" / profile / "14_claims.csv").exists():
            continue
        table = tidy.read(profile, "14_claims")
        parts += [f"## Profile {profile}", about(profile, table), *verdicts(table)]
        parts.append(f"The runs behind it: [{profile}](/study/{profile}/14_claims.md).")
    return "\n\n".join(parts) + "\n"


def verdicts(table: pd.DataFrame) -> list[str]:
    """The parts of a page that show the claims of a table 14_claims."""
    shown = listed(table).rename(columns={"row": "claim", "note": "verdict"})
    forms = table["unit"].map(lambda unit: "+z.2f" if unit == "mm/frame" else "+z.1f")
    shown["value"] = [tidy.interval_text(line, form) for line, form in zip(table.itertuples(), forms, strict=True)]
    kinds = set(map(pages.verdict, shown["verdict"]))
    columns = [*(("verdict",) if len(kinds) > 1 else ()), "value", "paper", "unit", "against"]
    shown = shown[[name for name in ("claim", *columns) if name in shown]]
    same = [f"The verdict on every claim: *{kind}*." for kind in kinds if len(kinds) == 1]
    return [*same, pages.markdown(shown)]
