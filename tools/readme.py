"""Writes the generated parts of the README and the pages in docs/.

`python tools/readme.py` writes their tables, `python tools/readme.py picture` the animation in the README. Other tools
fill the parts of pages and model cards that they measure with `fill` and `publish`.
"""

import sys
from itertools import chain
from pathlib import Path

import pandas as pd

from mixste import MixSTE
from mixste.camera import normalize_screen
from mixste.data import load
from mixste.data.readers.detections import LAYOUTS, MADE_OF
from mixste.io.files import replacing
from mixste.io.install import PACKAGE
from mixste.io.weights import bundled_file
from mixste.predict import predict
from mixste.study import store, tidy
from mixste.study.claims import FAILS, HOLDS
from mixste.study.notebooks import DEFAULT
from mixste.study.profiles import PAPER_POSES, PROFILES
from mixste.study.tables import CONSTANT, REGRESSION, TABLES, Row, Table
from mixste.wild.outputs import pictures, save_gif

README, LIFT, PICTURE = (PACKAGE.parent / name for name in ("README.md", "docs/lift.md", "docs/lifted.gif"))

# By table, the keys of the rows shown, which mean the same in every profile; the references of Table 5 are those of
# Table 1.
SHOWN = {
    "table1": ("videopose3d-243", "poseformer-81", "mixste-81", "mixste-243", CONSTANT, REGRESSION),
    "table2": ("poseformer-81", "mixste-81", "mixste-243", REGRESSION),
    "table5": ("baseline", "alternating", "joint-separation", "full"),
}

# What came out beyond the paper's claims: of a table's row, the sentence on its difference from the row compared with.
FINDINGS = {
    ("curves", "mixste-81-3"): "A training three times as long changes the MPJPE of MixSTE, T=81, by",
    ("curves", "videopose3d-243-3"): "A training three times as long changes the MPJPE of VideoPose3D by",
    (
        "more_people",
        "16-8000",
    ): "Sixteen training subjects instead of eight, with as many frames in all, change the MPJPE by",
    ("paper_vs_code", "squared-norm"): "The squared norm of the paper's text changes the MPJPE by",
    ("paper_vs_code", "dropout"): "The dropout of the paper's text changes the MPJPE by",
}


def results() -> str:
    """MPJPE in mm of the main rows as Markdown: a column per profile, the paper's numbers last, notes below."""
    tables = {key: TABLES[key] for key in SHOWN}
    files = {table.notebook for table in tables.values()}
    profiles = [name for name in PROFILES if files & {path.stem for path in tidy.files(name)}]
    averages = {(key, name): _averages(name, table) for key, table in tables.items() for name in profiles}
    shown = {name: pd.concat([averages[key, name] for key in tables]) for name in profiles}
    headings = [_heading(name, shown[name]) for name in profiles]
    lines = [["MPJPE, mm", *headings, "printed in the paper: Human3.6M"]]
    lines.append(["---"] * len(lines[0]))
    notes: dict[str, str] = {}  # to their marks

    def cell(column: pd.DataFrame, label: str) -> str:
        if label not in column.index:
            return "not yet"
        row = column.loc[label]
        mark = notes.setdefault(row["note"], f"<sup>{len(notes) + 1}</sup>") if row["note"] else ""
        return tidy.interval_text(row, ".1f") + mark

    for key, table in tables.items():
        for row_key in SHOWN[key]:
            rows = {name: table.row(PROFILES[name], row_key) for name in profiles}
            row = rows[profiles[0]]
            cells = [cell(averages[key, name].set_index("row"), rows[name].label) for name in profiles]
            lines.append([f"Table {table.number}, {table.title}: {row.short}", *cells, _printed(row)])
    lines = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join(lines + [f"\n{mark} {note}." for note, mark in notes.items()])


def findings() -> str:
    """What came out as Markdown, a bullet a sentence: the verdicts on the claims in each profile, and `FINDINGS`.

    Each stands on the published table that it names. A difference without an interval, or of rows that lack some of
    their trainings, gives no sentence, nor does a table of an earlier version.
    """
    lines = []
    for name, profile in PROFILES.items():
        folder = f"results/{name}/notebooks"
        published = {path.stem for path in tidy.files(name)}
        if name == DEFAULT or "14_claims" not in published:
            continue
        claims = tidy.read(name, "14_claims")
        if earlier := tidy.replaced(claims):
            lines.append(
                f"- `{name}`: the published tables are of an earlier version ({earlier}), too short to test a claim."
            )
            continue
        lines.append(f"- `{name}`: {_verdicts(claims)} ([14_claims]({folder}/14_claims.ipynb)).")
        lines += [f"  - {claim}" for claim in _judged(claims)]
        for (key, row_key), sentence in FINDINGS.items():
            table = TABLES[key]
            if table.csv not in published:
                continue
            row = table.row(profile, row_key)
            values = tidy.read(name, table.csv).query("column == 'Avg.' and metric == 'MPJPE' and against != ''")
            values = values[(values["row"] == row.label) & ~values["note"].str.contains(tidy.NOT_TRAINED)]
            for value in values.dropna(subset="low").itertuples():
                where = f"{value.over}; [{table.notebook}]({folder}/{table.notebook}.ipynb)"
                lines.append(f"- `{name}`: {sentence} {tidy.interval_text(value, '+.1f')} mm ({where}).")
    return "\n".join(lines)


def _verdicts(claims: pd.DataFrame) -> str:
    """How many claims have each verdict, and why some are not tested."""
    parts = claims["note"].str.extract(f"^({HOLDS}|{FAILS}|{tidy.NOT_TESTED})(?:: ([^,(]*))?")
    counts = parts[0].value_counts()
    reasons = parts.loc[parts[0] == tidy.NOT_TESTED, 1].str.strip().value_counts()
    told = ", ".join(f"{counts.get(verdict, 0)} *{verdict}*" for verdict in (HOLDS, FAILS, tidy.NOT_TESTED))
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return f"of the paper's {len(claims)} claims, {told}{f' ({why})' if why else ''}"


def _judged(claims: pd.DataFrame) -> list[str]:
    """A line for each claim that holds or does not."""
    lines = []
    for line in claims[~claims["note"].str.startswith(tidy.NOT_TESTED)].itertuples():
        printed = "" if pd.isna(line.printed) else f"; the paper: {line.printed:+g}"
        lines.append(
            f"{line.note}: *{line.row.partition('. ')[2]}*, {tidy.interval_text(line, '+.1f')} {line.unit}{printed}"
        )
    return lines


def _printed(row: Row) -> str:
    """The paper's average MPJPE of a row; a dash where it has none."""
    if row.printed is None:
        return "–"
    [value] = row.printed.query("metric == 'MPJPE' and column == 'Avg.'")["value"]
    return f"{value:.1f}"


def _heading(name: str, shown: pd.DataFrame) -> str:
    """The heading of a profile's column: its name, the origin of its numbers, what averages and intervals are over."""
    profile, earlier = PROFILES[name], tidy.replaced(shown)
    if earlier:
        return f"`{name}`, an earlier version: {earlier}; averages over actions; {tidy.over(shown)}"
    frames, share = profile.frames[243], profile.poses / PAPER_POSES
    size = f", small networks, T={frames} for 243" if frames != 243 else ""
    length = f", {share:.1%} of the paper's training" if share < 1 and not size else ""
    return f"`{name}`: {profile.data.source}{size}{length}; averages over {profile.average}; {tidy.over(shown)}"


def _averages(profile: str, table: Table) -> pd.DataFrame:
    """The published averages of a table; none where it is not published."""
    if table.notebook not in {path.stem for path in tidy.files(profile)}:
        return pd.DataFrame(columns=list(tidy.COLUMNS))
    values = tidy.read(profile, table.notebook)
    return values[(values["column"] == "Avg.") & (values["metric"] == "MPJPE") & (values["against"] == "")]


def speed() -> str:
    """Speed of the fast path at the published size as Markdown, from results/bench.

    Beside each reference that was measured in the same run; a dash stands for one that was not.
    """
    paths = [store.ROOT / "results" / "bench" / f"{name}.csv" for name in ("h200", "h100", "cpu")]
    bench = pd.concat(pd.read_csv(path) for path in paths if path.exists())
    bench = bench[bench["what"].isin(("inference", "training step"))]
    speeds = bench.set_index(["hardware", "what", "batch", "variant"])["frames_per_second"]
    references = {"float32": "float32", "TF32": "TF32", "bfloat16 autocast": "bfloat16"}
    lines = [["on", "what", "windows at once", "frames a second"]]
    lines[0] += [f"times the reference in {name}" for name in references.values()]
    lines.append(["---"] * len(lines[0]))
    for row in bench[bench["variant"].isin(("fast, bfloat16", "fast, float32"))].itertuples():
        what = f"{row.what}, {row.variant.removeprefix('fast, ')}"
        lines.append([row.hardware, what, str(row.batch), f"{row.frames_per_second:,.0f}"])
        for reference in references:
            speed = speeds.get((row.hardware, row.what, row.batch, f"reference, {reference}"))
            lines[-1].append("–" if speed is None else f"{row.frames_per_second / speed:.1f}")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def layouts() -> str:
    """Joints that are computed from a detector's points as Markdown: the points, and the layouts that have them."""
    detectors = {name: set(points) for name, points in LAYOUTS.items() if name != "human36m"}
    lines = ["| joint | made of | in |", "| --- | --- | --- |"]
    for joint, rows in MADE_OF.items():
        for row in rows if len(rows) > 1 else ():
            having = [name for name, points in detectors.items() if set(row) <= points]
            parts = " + ".join(point if weight == 1 else f"{weight:g} {point}" for point, weight in row.items())
            where = "all" if len(having) == len(detectors) else ", ".join(having)
            lines.append(f"| {joint} | {parts.replace('+ -', '− ')} | {where} |")
    return "\n".join([*lines, "| Spine | 0.5 Hip + 0.5 Thorax | all |"])


def tables() -> dict[Path, str]:
    """The pages with their tables as they should be."""
    contents = {README: {"findings": findings(), "results": results(), "speed": speed()}, LIFT: {"layouts": layouts()}}
    pages = {page: page.read_text(encoding="utf-8") for page in contents}
    for page, marks in contents.items():
        for mark, content in marks.items():
            pages[page] = between(pages[page], mark, content)
    return pages


def between(text: str, mark: str, content: str) -> str:
    """The text with `content` between `<!-- mark: begin -->` and `<!-- mark: end -->`; ValueError without the two."""
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(
            f"expected {begin.strip()} and {end} once each, found {text.count(begin)} and {text.count(end)}"
        )
    before, rest = text.split(begin)
    return f"{before}{begin}{content}\n{end}{rest.split(end)[1]}"


def fill(page: Path, mark: str, content: str) -> None:
    """Write the content into the part of a page that `between` finds."""
    text = between(page.read_text(encoding="utf-8"), mark, content)
    with replacing(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(measurements: pd.DataFrame, result: Path, mark: str, content: str) -> None:
    """Write what was measured of bundled weights (column weights) into a CSV beside others', and into their card."""
    [weights] = measurements["weights"].unique()
    others = pd.read_csv(result) if result.exists() else measurements[:0]
    with replacing(result) as temporary:
        pd.concat([others[others["weights"] != weights], measurements]).to_csv(temporary, index=False)
    fill(bundled_file(weights).with_suffix(".md"), mark, content)


def picture() -> None:
    """docs/lifted.gif: an unseen subject of HDM05, lifted from one camera's noisy keypoints."""
    model = MixSTE.from_pretrained("open-small")
    clips = load("open-people", keypoints="openpose").test
    clips = {clip.action: clip for clip in clips if (clip.subject, clip.camera) == ("hdm_tr", "C1")}

    def filmed(clip):
        lifted = predict(model, normalize_screen(clip.keypoints, *clip.resolution))
        bodies = [(poses - poses[:, :1])[::2] for poses in (lifted, clip.poses)]
        names = (f"{clip.action.lower()}: keypoints", "lifted", "recorded")
        return pictures(clip.keypoints[::2], clip.resolution, bodies, 200, names)

    actions = ("Throw basketball", "Kick", "Rotate arms", "Squat", "Jog in circle")
    save_gif(chain.from_iterable(filmed(clips[action]) for action in actions), 25, PICTURE)


def main(what: str = "tables") -> None:
    """Write "tables" or "picture"; ValueError for anything else."""
    if what == "picture":
        picture()
    elif what == "tables":
        for page, text in tables().items():
            with replacing(page) as temporary:
                temporary.write_text(text, encoding="utf-8")
    else:
        raise ValueError(f"expected tables or picture, found {what!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
