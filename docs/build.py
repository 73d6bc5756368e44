"""The site of the study: python docs/build.py [FOLDER].

Pages for tables and figures are written from results/ and figures/, the rest is copied; Sphinx makes the site from both.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import api
import pandas as pd

from mixste.evaluate import UNITS
from mixste.study import pages, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.tables import of_csv

ROOT = store.ROOT
COPIED = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "docs", "notebooks", "results", "figures", "mixste/weights")
RUN = ["run", "model", "options", "keypoints", "poses", "seed", "training_seconds", "device", "commit", "failed"]
# Of GitHub's links, those to folders and to modules lead to pages of the site.
LINKS = {
    r"\]\([./]*results/README\.md\)": r"](/results.md)",
    r"\]\([\w./-]*?([\w-]+)/(?:notebooks|records)\)": r"](/study/\1/index.md)",
    r"\]\((?:\.\./)*mixste/([\w/]+)\.py\)": lambda match: f"](/api/mixste.{match[1].replace('/', '.')}.rst)",
    r"(?<!`)`(mixste(?:\.\w+)+)`": r"{py:obj}`\1`",
}


def main(folder: str = "site") -> None:
    """Write the site into a folder, and its sources into .cache/site. A warning of Sphinx is an error."""
    source = ROOT / ".cache" / "site"
    shutil.rmtree(source, ignore_errors=True)
    copy(source)
    api.write(source / "api")
    made = [name for name in PROFILES if tidy.files(name)]
    for profile in made:
        study(profile, source)
    write(source / "claims.md", claims(made))
    entries = ["claims", *(f"/study/{name}/index" for name in made)]
    write(source / "results.md", f"# Results\n\n{contents(entries, shown=True)}\n")
    write(source / "index.md", start())
    options = ["-b", "html", "-c", str(ROOT / "docs"), "-d", str(ROOT / ".cache" / "doctrees"), "-W", "--keep-going"]
    command = [sys.executable, "-m", "sphinx", *options, "-q", "-E", "-j", "2", str(source), folder]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if subprocess.run(command, env=environment).returncode:
        raise SystemExit("the site has faults, see above")
    print(f"{folder}/index.html: {len(list(Path(folder).rglob('*.html')))} pages")


def copy(source: Path) -> None:
    """What the site shows as it is in the repository, with links that lead on within the site."""
    ignored = shutil.ignore_patterns("*.safetensors", "build.py", "conf.py", "api.py", "static", "__pycache__")
    for name in COPIED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=ignored)
        else:
            shutil.copyfile(ROOT / name, source / name)
    (source / "results" / "README.md").unlink()  # each of its tables has a page
    for path in source.rglob("*.md"):
        write(path, linked(path.read_text(encoding="utf-8")))
    for path in source.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = linked("".join(cell["source"]))
                # A profile may lack a notebook that another one links to.
                cell["source"] = re.sub(
                    r"\]\((\d\d_\w+\.ipynb)\)",
                    lambda match: match[0] if (path.parent / match[1]).exists() else f"](/notebooks/{match[1]})",
                    text,
                )
        write(path, json.dumps(notebook))


def linked(text: str) -> str:
    for pattern, link in LINKS.items():
        text = re.sub(pattern, link, text)
    return text


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def contents(entries: list[str], caption: str = "", shown: bool = False) -> str:
    """A table of contents, in the margin or also on the page."""
    options = [":maxdepth: 1", *([f":caption: {caption}"] if caption else []), *([] if shown else [":hidden:"])]
    return "\n".join(["```{toctree}", *options, "", *entries, "```"])


def start() -> str:
    """The first page, from README: what the project is, its architecture, how to lift a video, the main table."""
    readme = linked((ROOT / "README.md").read_text(encoding="utf-8"))
    intro, *sections = re.split(r"^## ", readme, flags=re.MULTILINE)
    of = {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}
    table = re.search(r"<!-- results: begin -->(.*?)<!-- results: end -->", of["Results"], re.DOTALL)[1]
    guides = sorted(f"/docs/{path.stem}" for path in (ROOT / "docs").glob("*.md"))
    cards = sorted(f"/mixste/weights/{path.stem}" for path in (ROOT / "mixste" / "weights").glob("*.md"))
    parts = [
        intro.strip(),
        "![The architecture: blocks that attend over joints alternate with blocks that attend over frames]"
        "(figures/smoke/01_figure1.png)",
        "## Lift a video",
        of["Lift a video"].strip(),
        "## Main results",
        "What the profiles are, and what follows from the numbers, is in the [overview](README.md#results). Every table "
        "and figure has a page that names the runs behind it; the paper's [claims](claims.md) are on a page of their own.",
        table.strip(),
        contents(["/README", "/results", *guides, *cards, "/api/index", "/CONTRIBUTING"]),
    ]
    return "\n\n".join(parts) + "\n"


def study(profile: str, source: Path) -> None:
    """The pages of a profile: one for each table and figure, and their list."""
    ledger = pd.read_csv(ROOT / "results" / profile / "runs.csv", dtype=str, keep_default_na=False)
    tables = {path.stem: tidy.read(profile, path.stem) for path in tidy.files(profile)}
    figures = {path.stem for path in (ROOT / "figures" / profile).glob("[0-9]*.png")}
    for stem in sorted(tables.keys() | figures):
        table = tables.get(stem)
        number = stem[:2]
        parts = [f"# {title(stem)}", about(profile, table)]
        if stem in figures:
            parts.append(f"![{title(stem)}](/figures/{profile}/{stem}.png)")
        parts += [] if table is None else numbers(table)
        if table is None:
            runs = ledger[[number in used.split() for used in ledger["notebooks"]]]
        else:
            used = " ".join(table["runs"]).split() + tidy.failed_runs(table)
            runs = ledger[ledger["run"].isin(used)]
        write(source / "study" / profile / f"{stem}.md", "\n\n".join([*parts, *origin(profile, stem, runs)]) + "\n")
    notebooks = [f"/{path.relative_to(ROOT).with_suffix('')}" for path in executed(profile).glob("[0-9]*.ipynb")]
    parts = [
        f"# Profile {profile}",
        about(profile, pd.concat(tables.values())),
        "## Tables and figures",
        contents(sorted(tables.keys() | figures), shown=True),
        "## Notebooks as executed",
        contents(sorted(notebooks), shown=True),
    ]
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
    part = of_csv(stem).title if of_csv(stem) else stem[3:].replace("_", " ")
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
        shown = tidy.with_intervals(averages, notes=False).reset_index()
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
    """A table one value a line, for those that are not averages of errors; columns that are empty are left out."""
    shown = table[["row", "against", "column", "metric", "unit"]].copy()
    forms = table["unit"].map(lambda unit: ".4g" if unit not in UNITS.values() else ".1f")
    shown["value"] = [tidy.interval_text(line, form) for line, form in zip(table.itertuples(), forms, strict=True)]
    shown["paper"] = ["" if pd.isna(number) else f"{number:{form}}" for number, form in zip(table["printed"], forms)]
    shown["note"] = table["note"]
    return shown.loc[:, (shown != "").any()]


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


def claims(made: list[str]) -> str:
    """The page of the paper's claims: a table for each profile."""
    parts = ["# The paper's claims", "Differences are between the row of the claim and the one it is compared with."]
    for profile in made:
        if not (ROOT / "results" / profile / "14_claims.csv").exists():
            continue
        table = tidy.read(profile, "14_claims")
        parts += [f"## {profile}", about(profile, table), pages.markdown(listed(table))]
        parts.append(f"The runs behind it: [{profile}](/study/{profile}/14_claims.md).")
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
