"""Writes the generated parts of the README and the pages in docs/.

`python tools/readme.py` writes their tables, `python tools/readme.py picture` the animation in the README. Other tools
fill the parts of pages and model cards that they measure with `fill` and `publish`.
"""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from mixste import MixSTE
from mixste.camera import normalize_screen
from mixste.data import load
from mixste.data.readers.detections import LAYOUTS, MADE_OF
from mixste.io.files import replacing
from mixste.io.install import PACKAGE
from mixste.io.weights import DEFAULT as DEFAULT_WEIGHTS
from mixste.io.weights import bundled, bundled_file
from mixste.predict import predict
from mixste.study import store, tidy
from mixste.study.claims import FAILS, HOLDS
from mixste.study.notebooks import DEFAULT
from mixste.study.pages import markdown
from mixste.study.profiles import PROFILES, Profile
from mixste.study.tables import CONSTANT, REGRESSION, TABLES, Row, Table
from mixste.wild.outputs import pictures, save_gif

README, LIFT, PICTURE = (PACKAGE.parent / name for name in ("README.md", "docs/lift.md", "docs/lifted.gif"))

# Of the table of results: the profile, the keys of its rows, by column the tables that have them, and what stands where
# a published table lacks a row.
MAIN = "open"
SHOWN = (CONSTANT, REGRESSION, "videopose3d-243", "poseformer-81", "baseline", "mixste-81", "mixste-243")
COLUMNS = {"detected keypoints": ("table1", "table5"), "exact keypoints": ("table2",)}
NOT_YET = "not yet"

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
    """MPJPE of the main methods in profile `MAIN` as Markdown: by keypoints, the paper's beside it, notes below.

    Tables of an earlier version are shown, and named so, only as long as none of the profile as it is now is published.
    """
    profile, keys = PROFILES[MAIN], [key for keys in COLUMNS.values() for key in keys]
    tables, rows = ({key: of(TABLES[key], profile) for key in keys} for of in (_averages, _rows))
    new = [key for key, table in tables.items() if len(table) and not tidy.replaced(table)]
    tables = {key: table for key, table in tables.items() if key in new or not new}
    published = pd.concat(tables.values())
    earlier = tidy.replaced(published) if len(published) else ""
    notes: dict[str, str] = {}  # to their marks
    lines = []
    for row_key in SHOWN:
        places = [next((key for key in keys if row_key in rows[key]), "") for keys in COLUMNS.values()]
        of_columns = [rows[key][row_key] if key else None for key in places]
        values = [_cell(tables.get(key), row, notes) for key, row in zip(places, of_columns, strict=True)]
        lines.append([next(filter(None, of_columns)).short, *values, *map(_printed, of_columns)])
    title = f"{profile.title}. Averages are over {profile.average}"
    if earlier:
        title = (
            f"an earlier version, with trainings too short to compare methods ({earlier}). Averages are over actions"
        )
    over = f", with {tidy.over(published)}" if len(published) else ""
    heads = ["MPJPE, mm", *COLUMNS, *(f"the paper (Human3.6M), {column}" for column in COLUMNS)]
    shown = [f"Profile `{MAIN}`: {title}{over}.", "", markdown(pd.DataFrame(lines, columns=heads))]
    return "\n".join(shown + [f"\n{mark} {note}." for note, mark in notes.items()])


def _rows(table: Table, profile: Profile) -> dict[str, Row]:
    return {row.key: row for row in table.rows(profile)}


def _averages(table: Table, profile: Profile) -> pd.DataFrame:
    """The published averages of a table; none where it is not published."""
    if table.csv not in {path.stem for path in tidy.files(profile.name)}:
        return pd.DataFrame(columns=list(tidy.COLUMNS))
    values = tidy.read(profile.name, table.csv)
    return values[(values["column"] == "Avg.") & (values["metric"] == "MPJPE") & (values["against"] == "")]


def _cell(table: pd.DataFrame | None, row: Row | None, notes: dict[str, str]) -> str:
    """The value of a row with its interval, how many of its seeds it has if not all, and the mark of its note.

    A dash where there is no such row. notes: to their marks, to which that of the row is added.
    """
    if row is None:
        return "–"
    lines = () if table is None else table[table["row"] == row.label]
    if not len(lines) or tidy.not_trained(lines).all():
        return NOT_YET
    [line] = lines.itertuples()
    note, seeds = tidy.remark(line.note), tidy.seeds_of(line)
    mark = notes.setdefault(note, f"<sup>{len(notes) + 1}</sup>") if note else ""
    return tidy.interval_text(line, ".1f") + (f" ({seeds} seeds)" if " of " in seeds else "") + mark


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
                f"- `{name}`: the published tables are of an earlier version ({earlier}), with trainings too short to "
                "test a claim."
            )
            continue
        lines.append(f"- `{name}`: {_verdicts(claims)} ([14_claims]({folder}/14_claims.ipynb)).")
        lines += [f"  - {claim}" for claim in _judged(claims)]
        for (key, row_key), sentence in FINDINGS.items():
            table = TABLES[key]
            if table.csv not in published:
                continue
            row = table.row(profile, row_key)
            values = tidy.read(name, table.csv)
            if tidy.replaced(values):
                continue
            values = values.query("column == 'Avg.' and metric == 'MPJPE' and against != ''")
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
    why = "; ".join(f"{reason}: {count}" for reason, count in reasons.items())
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


def _printed(row: Row | None) -> str:
    """The paper's average MPJPE of a row; a dash where it has none."""
    if row is None or row.printed is None:
        return "–"
    [value] = row.printed.query("metric == 'MPJPE' and column == 'Avg.'")["value"]
    return f"{value:.1f}"


def speed() -> str:
    """Speed of the fast path at the published size as Markdown, from results/bench.

    Beside each reference that was measured in the same run; a dash stands for one that was not.
    """
    paths = [store.ROOT / "results" / "bench" / f"{name}.csv" for name in ("h200", "cpu")]
    bench = pd.concat(pd.read_csv(path) for path in paths if path.exists())
    bench = bench[bench["what"].isin(("inference", "training step"))]
    speeds = bench.set_index(["hardware", "what", "batch", "variant"])["frames_per_second"]
    references = {"float32": "float32", "TF32": "TF32", "bfloat16 autocast": "bfloat16"}
    lines = []
    for row in bench[bench["variant"].isin(("fast, bfloat16", "fast, float32"))].itertuples():
        what = f"{row.what}, {row.variant.removeprefix('fast, ')}"
        line = {"on": row.hardware, "what": what, "windows at once": row.batch}
        line["frames a second"] = f"{row.frames_per_second:,.0f}"
        for reference, name in references.items():
            speed = speeds.get((row.hardware, row.what, row.batch, f"reference, {reference}"))
            line[f"times the reference in {name}"] = "–" if speed is None else f"{row.frames_per_second / speed:.1f}"
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def layouts() -> str:
    """Joints that are computed from a detector's points as Markdown: the points, and the layouts that have them."""
    detectors = {name: set(points) for name, points in LAYOUTS.items() if name != "human36m"}
    lines = []
    for joint, rows in MADE_OF.items():
        for row in rows if len(rows) > 1 else ():
            having = [name for name, points in detectors.items() if set(row) <= points]
            parts = " + ".join(point if weight == 1 else f"{weight:g} {point}" for point, weight in row.items())
            lines.append(
                [joint, parts.replace("+ -", "− "), "all" if len(having) == len(detectors) else ", ".join(having)]
            )
    lines.append(["Spine", "0.5 Hip + 0.5 Thorax", "all"])
    return markdown(pd.DataFrame(lines, columns=["joint", "made of", "in"]))


def weights() -> str:
    """The bundled weights as Markdown: size, speed, and errors, see `_errors_of_weights`."""
    speeds = pd.read_csv(store.ROOT / "results" / "bench" / "stream.csv").query("what == 'lift'")
    speeds = speeds.set_index("weights")["poses_per_second"]
    errors, people, own = _errors_of_weights()
    lines = []
    for name, path in bundled().items():
        line = {"weights": f"[{name}](../mixste/weights/{name}.md)", "MB": f"{path.stat().st_size / 1e6:.0f}"}
        lines.append(line | {"frames a second": f"{speeds[name]:.0f}" if name in speeds else "–"} | errors[name])
    caption = (
        f"Columns 4 to 7: MPJPE in mm on {len(people)} test subjects of `open-people` ({', '.join(sorted(people))}), "
        "seen by virtual cameras at 50 frames a second, from exact keypoints and from those of three simulated "
        "detectors. Real clip: MPJPE in mm for one person, lifted from OpenPose's keypoints in each of four cameras; "
        f"MediaPipe's own 3D poses have {own} there. Frames a second: of `mixste lift` on one core."
    )
    return f"{markdown(pd.DataFrame(lines))}\n\n{caption}"


def accuracy() -> str:
    """How far off the poses of the default weights are, in a sentence."""
    errors, people, own = _errors_of_weights()
    exact, *detected, real = errors[DEFAULT_WEIGHTS].values()
    low, high = (pick(detected, key=float) for pick in (min, max))
    return (
        f"The default weights have an MPJPE of {exact} mm from exact keypoints and of {low} to {high} mm from those of "
        f"simulated detectors, on {len(people)} test people seen by virtual cameras. On a real clip they have {real} "
        f"mm, where MediaPipe's own 3D poses have {own} mm ([errors and model cards](docs/lift.md#networks))."
    )


def _errors_of_weights() -> tuple[dict[str, dict[str, str]], set[str], str]:
    """MPJPE of all bundled weights by column of their table, the people, and MPJPE of MediaPipe's own poses.

    On the test subjects that all weights were measured on, at 50 frames a second, nothing missing, averaged over
    frames; and on the real clip.
    """
    everything = {name: pd.read_csv(path.with_suffix(".csv")) for name, path in bundled().items()}
    chosen = "source == 'open-people' and metric == 'MPJPE' and fps == 50 and missing == 0"
    measured = {name: errors.query(chosen) for name, errors in everything.items()}
    real = {name: errors.query("source == 'pose2sim'") for name, errors in everything.items()}
    people = set.intersection(*(set(errors["subject"]) for errors in measured.values()))
    columns = {"exact keypoints": "gt", "CPN": "cpn", "OpenPose": "openpose", "MediaPipe": "mediapipe"}
    lines = {}
    for name, errors in measured.items():
        errors = errors[errors["subject"].isin(people)]
        lines[name] = {head: mean(errors[errors["keypoints"] == kind]) for head, kind in columns.items()}
        lines[name]["real clip"] = mean(real[name].query("keypoints == 'openpose'"))
    own = mean(pd.concat(real.values()).query('keypoints == "mediapipe\'s own poses"'))
    return lines, people, own


def mean(errors: pd.DataFrame, metric: str = "MPJPE") -> str:
    """The mean over frames of errors of bundled weights; a dash where nothing was measured."""
    errors = errors[errors["metric"] == metric]
    return f"{np.average(errors['value'], weights=errors['frames']):.1f}" if len(errors) else "–"


def tables() -> dict[Path, str]:
    """The pages with their tables as they should be."""
    contents = {
        README: {"accuracy": accuracy(), "findings": findings(), "results": results(), "speed": speed()},
        LIFT: {"weights": weights(), "layouts": layouts()},
    }
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
    model = MixSTE.from_pretrained()
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
