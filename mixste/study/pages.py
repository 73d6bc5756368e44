"""The pages of results: results/README.md, and runs.csv, which says where each run was made."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pandas as pd

from mixste import evaluate
from mixste.io.files import replacing
from mixste.study import records, store, tidy
from mixste.study.profiles import PROFILES
from mixste.study.records import Record
from mixste.study.run import Run
from mixste.study.tables import TABLES, distinct, of_csv
from mixste.study.tidy import failed_runs, files, over, read, replaced, with_intervals, without_value

# The published page is short: of these tables it has the averages of the MPJPE, and of the others links.
MAIN = ("02_table1", "03_table2", "06_table5_components")

# The parts of a run's environment that are in runs.csv.
ENVIRONMENT = (
    *("device", "driver", "torch", "numpy", "python", "mixste", "commit"),
    *("steps", "resumed_at", "sharing", "peak_gib", "training_seconds", "testing_seconds"),
)


def page(root: Path, but: Collection[Path] = ()) -> str:
    """Write results/README.md below a root: the averages of all tables there, by profile, beside the paper's numbers.

    The published page, below `store.ROOT`, has the main tables, and links to the others; the site has a page for each.
    Also writes results/<profile>/runs.csv, see `ledger`. but: files to leave out. A file that is not a table of the
    study is left out too, and a line is printed. Returns the text.
    """
    published = root == store.ROOT
    effort_is = [
        "Below each table stands what one training takes: supervised poses, steps, multiply-accumulates of the forward",
        "pass for each supervised pose, and, on a GPU, seconds of a training that has the GPU to itself.",
        "",
    ]
    where = [
        "The main tables of the study. `make docs` builds its site, which has a page for each table and figure, with",
        "the runs behind it. All published tables, figures and executed notebooks are listed below, by profile.",
        "",
    ]
    lines = [
        "# Results",
        "",
        *(where if published else ()),
        "This page is generated from the tables in the folders beside it. Each number is an average with its",
        "95 % interval. Above each table stands what its intervals are over:",
        "",
        "- *8 people, 3 seeds*: other trainings, tested on other people.",
        "- *8 people, these networks*: the same networks, tested on other people. There is one seed, and how much",
        "  trainings differ is unknown.",
        "- *12 takes of one person, 3 seeds*: other trainings, tested on other takes of this person.",
        "- *these people, 3 seeds*: other trainings, tested on the same people, of a benchmark or only two.",
        "- *no intervals*: one training, tested on the people of a benchmark or on only two.",
        "- *takes and seeds, by bootstrap*: an older table, whose intervals are too narrow for few seeds or people.",
        "",
        "Differences are on the same takes. Trainings of different rows are not paired, even with the same seed.",
        "",
        *(() if published else effort_is),
        "Only profile `paper` is comparable with the paper: in the others, compare the pattern of the column *paper*,",
        "not its level. They count each frame once; the authors' protocol also counts padding and overlaps.",
    ]
    for name, profile in PROFILES.items():
        tables = {}
        for path in files(name, root):
            try:
                if path not in but:
                    tables[path] = read(name, path.stem, root)
            except (ValueError, OSError) as error:
                print(f"{store.shown(path)} is left out of results/README.md: {error}", flush=True)
        if not tables.keys() - {root / "results" / name / "01_architecture.csv"}:
            continue
        ledger_lines = ledger(name, root, tables)
        of_networks = [table for table in tables.values() if (table["runs"] != "").any()]  # not the card of the data
        earlier = dict.fromkeys(map(replaced, of_networks or tables.values()))  # "" for tables of the profile as it is
        title = (
            profile.title
            if "" in earlier
            else f"an earlier version: {'; '.join(earlier)}, not comparable with the paper"
        )
        longest = pd.to_numeric(ledger_lines["poses"]).max()
        planned_lengths = {run.poses for table in TABLES.values() for row in table.rows(profile) for run in row.runs}
        if not published and longest < profile.poses and longest not in planned_lengths:  # with MIXSTE_POSES
            title += f", CUT SHORT to at most {longest:g} poses of training"
        lines += [
            "",
            f"## Profile `{name}`: {title}",
            "",
            f"Averages are over {profile.average if '' in earlier else 'actions'}.",
            f"They are from {len(ledger_lines)} runs, listed in [runs.csv]({name}/runs.csv).",
        ]
        lines += [_redrawn(name, list(ledger_lines["run"]))] if published else []
        if "" not in earlier:
            lines += ["The settings of the profile as it is now are in `mixste/study/profiles.py`."]
        else:
            lines += [profile.departures]
        if published and (progress := so_far(distinct(profile), name)):
            lines += [f"The profile as it is now: {progress}."]
        for path, whole in tables.items():
            if path.stem == "01_architecture" or (published and path.stem not in MAIN):  # 01 repeats those of Table 1
                continue
            of_runs = (whole["runs"] != "") | without_value(whole)
            metrics = ["MPJPE"] if published else list(evaluate.UNITS)
            table = whole[(whole["column"] == "Avg.") & whole["metric"].isin(metrics) & of_runs]
            if len(table):
                planned = of_csv(path.stem)
                lines += [
                    "",
                    f"### [{path.stem}]({name}/{path.name})" + (f": {planned.title}" if planned else ""),
                    "",
                    *([f"*An earlier version: {replaced(table)}*", ""] if replaced(table) else []),
                    *([f"*{over(table)}*", ""] if over(table) else []),
                    markdown(with_intervals(table, notes=False).reset_index()),
                    *([] if published else effort(table)),
                    *[f"\n*{row}*: {note}." for row, note in notes_of(table)],
                ]
                # Rows added to the table since the file was written.
                new = [
                    row.label
                    for row in (planned.rows(profile) if planned and not replaced(table) else ())
                    if row.label not in set(table["row"])
                ]
                lines += [f"\nNot trained yet: {'; '.join(new)}."] if new else []
                missing = [] if published else _missing(name, path.stem, whole)
                lines += (
                    [f"\nRows of the published table that are missing here: {'; '.join(missing)}."] if missing else []
                )
        lines += _listed(name, list(tables)) if published else []
    text = "\n".join(lines) + "\n"
    with replacing(root / "results" / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


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
    named: dict[str, list[str]] = {}  # a notebook may have several tables, and is named once
    for file, content in tables.items():
        for run in (*" ".join(content["runs"]).split(), *failed_runs(content)):
            if file.stem[:2] not in named.setdefault(run, []):
                named[run].append(file.stem[:2])
    lines = []
    for run, numbers in sorted(named.items(), key=lambda item: (item[1], item[0])):
        record = records.of_id(run, profile)
        line = old.get(run, {}) if record is None else line_of(record)
        lines.append({"run": run} | line | {"notebooks": " ".join(numbers)})
    columns = [
        "run",
        "notebooks",
        "model",
        "frames",
        "options",
        "keypoints",
        "poses",
        "learning_rate",
        "seed",
        *ENVIRONMENT,
        "failed",
    ]
    table = pd.DataFrame(lines, columns=columns)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)
    return table


def so_far(runs: Iterable[Run], profile: str) -> str:
    """As "3 of 175 trainings so far", by the records of these runs; empty where there are none, or all of them."""
    trained = [run for run in runs if run.poses]
    made = len(records.find(trained, profile))
    return f"{made} of {len(trained)} trainings so far" if 0 < made < len(trained) else ""


def _listed(profile: str, tables: list[Path]) -> list[str]:
    """Links to the tables of a profile, to its figures and to its executed notebooks."""
    own = f"{profile}/notebooks"
    executed = own if (store.ROOT / "results" / own).exists() else "../notebooks"
    links = ", ".join(f"[{path.stem}]({profile}/{path.name})" for path in tables)
    return [
        "",
        f"All tables of `{profile}`: {links}.",
        f"[Figures](../figures/{profile}), [executed notebooks]({executed}).",
    ]


def _missing(profile: str, name: str, table: pd.DataFrame) -> list[str]:
    """Rows of the published table that this one lacks, as where a notebook stopped for want of a network."""
    try:
        published = read(profile, name, store.ROOT)
    except (ValueError, OSError):
        return []
    rows = set(published["row"]) if replaced(published) else set(table["row"])
    return [row for row in dict.fromkeys(published["row"]) if row not in rows]


def _redrawn(profile: str, runs: list[str]) -> str:
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
        **{name: _shown(about[name], 3 if name == "resumed_at" else 1) for name in ENVIRONMENT if name in about},
        "failed": record.failed,
    }


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


def notes_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(row, note), each once."""
    notes = table.loc[(table["note"] != "") & (table["against"] == ""), ["row", "note"]]
    return list(dict.fromkeys(notes.itertuples(index=False, name=None)))


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
