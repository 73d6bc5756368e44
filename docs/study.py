"""Pages of the site that are written from results/ and figures/: tables, figures, claims, learning curves."""

import json
import re
from pathlib import Path

import pandas as pd

from mixste.evaluate import UNITS
from mixste.study import pages, records, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import of_csv

ROOT = store.ROOT
RUN = ["run", "model", "options", "keypoints", "poses", "seed", "training_seconds", "device", "commit", "failed"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def contents(entries: list[str], caption: str = "", shown: bool = False) -> str:
    """A table of contents, in the margin or also on the page."""
    options = [":maxdepth: 1", *([f":caption: {caption}"] if caption else []), *([] if shown else [":hidden:"])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


def study(profile: str, source: Path) -> None:
    """The pages of a profile: one for each table and figure, and their list."""
    ledger = pd.read_csv(ROOT / "results" / profile / "runs.csv", dtype=str, keep_default_na=False)
    tables = {path.stem: tidy.read(profile, path.stem) for path in tidy.files(profile)}
    figures = {path.stem for path in (ROOT / "figures" / profile).glob("[0-9]*.png")}
    for stem in sorted(tables.keys() | figures):
        table = tables.get(stem)
        parts = [f"# {title(stem)}", about(profile, table)]
        if stem in figures:
            parts.append(f"![{title(stem)}](/figures/{profile}/{stem}.png)")
        parts += [] if table is None else numbers(table)
        if table is None:
            runs = ledger[[stem[:2] in used.split() for used in ledger["notebooks"]]]
        else:
            used = " ".join(table["runs"]).split() + tidy.failed_runs(table)
            runs = ledger[ledger["run"].isin(used)]
        write(source / "study" / profile / f"{stem}.md", "\n\n".join([*parts, *origin(profile, stem, runs)]) + "\n")
    drawn = curves(profile, ledger)
    notebooks = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in executed(profile).glob("[0-9]*.ipynb")]
    parts = [
        f"# Profile {profile}",
        about(profile, pd.concat(tables.values())),
        "## Tables and figures",
        contents(["notebooks", *(["curves"] if drawn else []), *sorted(tables.keys() | figures)], shown=True),
    ]
    if drawn:
        write(source / "study" / profile / "curves.md", drawn)
    listing = ["# Notebooks as executed", contents(sorted(notebooks), shown=True)]
    write(source / "study" / profile / "notebooks.md", "\n\n".join(listing) + "\n")
    write(source / "study" / profile / "index.md", "\n\n".join(parts) + "\n")


def executed(profile: str) -> Path:
    """The folder of a profile's executed notebooks."""
    own = ROOT / "results" / profile / "notebooks"
    return own if own.exists() else ROOT / "notebooks"


def notebook(profile: str, stem: str) -> Path:
    """The executed notebook that made a table or figure."""
    return next(iter(executed(profile).glob(f"{stem[:2]}_*.ipynb")))


def title(stem: str) -> str:
    """Of a table or figure: the heading of its notebook, and what part of it this is."""
    [path] = (ROOT / "notebooks").glob(f"{stem[:2]}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    heading = "".join(cells[0]["source"]).splitlines()[0].removeprefix("# ")
    part = of_csv(stem).title if of_csv(stem) else re.sub(r"(?<=[a-z])(?=\d)", " ", stem[3:].replace("_", " "))
    return heading if stem == path.stem else f"{heading}: {part}"


def about(profile: str, table: pd.DataFrame | None) -> str:
    """The profile of a page, and whether its numbers are of an earlier version."""
    earlier = "" if table is None else tidy.replaced(table)
    shown = f"an earlier version: {earlier}" if earlier else PROFILES[profile].title
    return f"Profile `{profile}`: {shown}."


def numbers(table: pd.DataFrame) -> list[str]:
    """The parts of a page that show a table's values, the paper's beside them."""
    of_runs = (table["runs"] != "") | tidy.without_value(table)
    errors = table[table["metric"].isin(UNITS) & of_runs]
    averages = errors[errors["column"] == "Avg."]
    parts = []
    if len(averages):
        shown = filled(tidy.with_intervals(averages, notes=False).reset_index())
        parts += ["## Averages", f"*{tidy.over(averages)}*", pages.markdown(shown), "\n".join(pages.effort(averages))]
        parts += [f"*{row}*: {note}." for row, note in pages.notes_of(averages)]
    if len(errors) > len(averages) and len(averages):
        for metric, values in errors.groupby("metric", sort=False):
            shown = tidy.beside(values, metric).reset_index()
            parts += [f"## {metric} by column, {UNITS[metric]}", pages.markdown(shown)]
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


def origin(profile: str, stem: str, runs: pd.DataFrame) -> list[str]:
    """The parts of a page that say where its numbers come from."""
    number, made = stem[:2], notebook(profile, stem)
    lines = [f"Made by the notebook [{made.stem}](/{made.relative_to(ROOT)})."]
    if (ROOT / "results" / profile / f"{stem}.csv").exists():
        lines.append(f"All values: [{stem}.csv](/results/{profile}/{stem}.csv).")
    lines.append(f"To make it again:\n\n```sh\nmixste reproduce --profile {profile} --notebook {number}\n```")
    parts = ["## Where it comes from", " ".join(lines)]
    if runs.empty:
        return [*parts, "No training is behind it."]
    seconds = pd.to_numeric(runs["training_seconds"]).sum()
    failed = (runs["failed"] != "").sum()
    devices = ", ".join(sorted(set(runs["device"]) - {""}))
    parts.append(
        f"{len(runs)} runs, of seeds {', '.join(sorted(set(runs['seed'])))}; {failed} failed; {seconds:,.0f} seconds "
        f"of training in all, on {devices or 'an unknown device'}."
    )
    shown = runs[RUN].copy()
    shown["run"] = [record(profile, run) for run in runs["run"]]
    return [*parts, pages.markdown(shown.rename(columns={"training_seconds": "seconds"}))]


def record(profile: str, run: str) -> str:
    """A run's id, as a link to its record where that is published."""
    path = Path("results") / profile / "records" / f"{run}.json"
    return f"[{run}](/{path})" if (ROOT / path).exists() else run


def curves(profile: str, ledger: pd.DataFrame) -> str:
    """The page of learning curves: of each published record, the training loss by poses; empty if there are none.

    Those of Table 1 are first.
    """
    table1 = set(ledger[["02" in used.split() for used in ledger["notebooks"]]]["run"])
    lines = []
    for record in map(records.read, sorted(records.folder(profile).glob("*.json"))):
        run, points = record.spec, record.curve
        if run.poses and len(points):  # references are not trained
            options = " ".join(f"{name}={value}" for name, value in run.options)
            parts = [run.model, f"T={run.frames}", options, run.data.keypoints, f"{run.poses:,} poses"]
            name = ", ".join([*parts, f"seed {run.seed}", record.id])
            points = points[["poses", "loss"]].dropna().to_numpy().tolist()
            lines.append({"name": name, "points": points, "shown": record.id in table1})
    if not lines:
        return ""
    lines.sort(key=lambda line: (not line["shown"], line["name"]))
    about = f"The loss of {len(lines)} trainings by poses of training. Losses of different terms are not comparable."
    data = f'<div class="curves"><script type="application/json">{json.dumps(lines)}</script></div>'
    return f"# Learning curves\n\n{about}\n\n{data}\n"


def claims(made: list[str]) -> str:
    """The page of the paper's claims: a table for each profile."""
    parts = ["# The paper's claims", "Differences are between the row of the claim and the one it is compared with."]
    for profile in made:
        if not (ROOT / "results" / profile / "14_claims.csv").exists():
            continue
        table = tidy.read(profile, "14_claims")
        shown = listed(table).rename(columns={"row": "claim", "note": "verdict"})
        shown.insert(1, "verdict", shown.pop("verdict"))
        parts += [f"## {profile}", about(profile, table), pages.markdown(shown)]
        parts.append(f"The runs behind it: [{profile}](/study/{profile}/14_claims.md).")
    return "\n\n".join(parts) + "\n"
