"""Shared by several figures: their style, the label of the source, poses, and plots of tidy tables."""

import re
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mixste.io.files import replacing
from mixste.skeleton import Skeleton
from mixste.study.claims import FAILS, HOLDS
from mixste.study.profiles import Profile
from mixste.study.report import AT_LEVEL
from mixste.study.store import output, shown
from mixste.study.tables import CONSTANT, REGRESSION
from mixste.study.tidy import (
    FAILED,
    NOT_TESTED,
    NOT_TRAINED,
    absent,
    columns_of,
    over,
    short,
    why_without,
    without_value,
)

SIDES = {"left": "#c44e52", "right": "#4c72b0", "middle": "#444444"}
METHODS = {
    "VideoPose3D": "#8c8c8c",
    "PoseFormer": "#e08214",
    "seq2seq baseline": "#7b5ea7",
    "MixSTE": "#0b7a75",
    "DSTformer": "#b5507a",
    "MotionAGFormer": "#8b6b3e",
    "KTPFormer": "#a3a500",
}
SPLITS = {"train": "#a6bddb", "validation": "#6a89b8", "test": "#2b4c7e"}
PRINTED = {"color": "0.6", "marker": "D", "markerfacecolor": "none", "markersize": 5, "linestyle": ""}
WIDTH = 8.5  # inches: with the resolution of `save_figure`, as wide as a page shows without shrinking it

# For each view, the camera axes that point right and up on the page, and their signs.
VIEWS = {"front": ((0, 1), (1, -1)), "side": ((2, 1), (1, -1)), "top": ((0, 2), (1, 1))}


def style() -> None:
    """Set the style of the study: small figures, light enough for a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", rc={"figure.dpi": 72, "axes.titlesize": "medium"})


def save_figure(figure: Figure, name: str, profile: Profile, about: str = "") -> None:
    """Write figures/<profile>/<name>.png in the output folder, labelled with profile and data, and print its path.

    about: the label of a figure that shows other data than the profile's.
    """
    about = textwrap.wrap(about or f"{profile.name}: {profile.title}", int(18 * figure.get_figwidth()))
    if (engine := figure.get_layout_engine()) is not None:
        strip = (0.1 + 0.1 * len(about)) / figure.get_figheight()  # inches below the figure, for the text
        engine.set(rect=(0, strip, 1, 1 - strip))
    figure.text(0.995, 0.005, "\n".join(about), ha="right", va="bottom", fontsize=7, color="#666666")
    path = output() / "figures" / profile.name / f"{name}.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    print(shown(path))


def side_of(joint: int, skeleton: Skeleton) -> str:
    return "left" if joint in skeleton.left else "right" if joint in skeleton.right else "middle"


def draw_pose(axes: Axes, pose: Float[np.ndarray, "joints 3"], skeleton: Skeleton, view: str = "front", **line) -> None:
    """Draw a pose in camera axes, seen from the camera ("front"), from its right ("side") or from above ("top")."""
    (across, up), signs = VIEWS[view]
    draw_bones(axes, pose[:, [across, up]] * np.array(signs), skeleton, **line)
    axes.set_aspect("equal")


def draw_bones(axes: Axes, points: Float[np.ndarray, "joints 2"], skeleton: Skeleton, **line) -> None:
    """Draw bones between 2D points, left and right in their colours."""
    for parent, child in skeleton.bones:
        color = line.get("color", SIDES[side_of(child, skeleton)])
        axes.plot(*points[[parent, child]].T, **{"linewidth": 2, "solid_capstyle": "round", **line, "color": color})


def show(figure: Figure) -> None:
    """Show a figure in a notebook, once."""
    plt.show()
    plt.close(figure)


def color_of(row: str) -> str:
    """The colour of the method that a row is named after; other rows are variants of MixSTE."""
    return next((color for name, color in METHODS.items() if row.startswith(name)), METHODS["MixSTE"])


def names(table: pd.DataFrame) -> dict[str, str]:
    """The label of each row of a tidy table. A second line says if it has no value, if some of its seeds failed or were
    not trained, or if it is at the level of a constant pose.

    The two references are left out: they would stretch the axes.
    """
    table = table[(table["against"] == "") & ~table["row"].isin((CONSTANT, REGRESSION))]
    missing, notes = table["row"][without_value(table)].unique(), table.groupby("row", sort=False)["note"].first()

    def label(row: str, note: str) -> str:
        flat = re.search(rf"(\d+ of \d+ seeds )?{AT_LEVEL}", note)
        flags = [why_without(note)] if row in missing else [absent(note), flat[0] if flat else ""]
        return "\n".join(filter(None, [row, ", ".join(filter(None, flags))]))

    return {row: label(row, note) for row, note in notes.items()}


def by_column(table: pd.DataFrame, metric: str) -> Figure:
    """Plot a metric of a tidy table, a line for each of its columns, beside what the paper prints on the same scale.

    Each row of `names` has the colour of its method, and rows of one method differ in shape. The legend says what the
    intervals of the average are over. Those of a column are over the people that it is about. Beyond twice the 70 %
    quantile, values are numbers at the edge.
    """
    rows, table = names(table), table[(table["metric"] == metric) & (table["against"] == "")]
    columns, colors, drawn = columns_of(table), [color_of(row) for row in rows], table[table["row"].isin(rows)]
    size = (WIDTH, 1.5 + 0.3 * -(-len(rows) // 2) + 0.36 * len(columns))
    figure, both = plt.subplots(1, 2, figsize=size, layout="constrained", sharex=True, sharey=True)
    limit = _limit(both[0], drawn["value"], drawn["low"], drawn["high"], drawn["printed"])
    for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
        values = table[table["row"] == row].set_index("column").reindex(columns)
        y = _beside(place, len(rows), columns)
        look = {"color": color, "marker": "os^v"[colors[:place].count(color)], "markersize": 5, "linestyle": ""}
        both[0].hlines(y, values["low"], values["high"], color=color, alpha=0.5)
        for axes, number in zip(both, ("value", "printed"), strict=True):
            axes.plot(values[number], y, **look, label=rows[row])
        for line, column in zip(y, columns, strict=True):
            _at_edge(both[0], line, values.loc[[column], "value"], limit, color)
    unit = f"{metric}, {table['unit'].iloc[0]}"
    both[0].set(title=f"profile {table['profile'].iloc[0]}", xlabel=unit)
    both[1].set(title="printed in the paper (Human3.6M)", xlabel=unit)
    _striped(both, map(short, columns))
    figure.legend(
        *both[0].get_legend_handles_labels(),
        loc="outside upper center",
        fontsize="small",
        ncols=2,
        title=over(table[table["column"] == "Avg."]),
        title_fontsize="small",
    )
    return figure


def dots(axes: Axes, table: pd.DataFrame, labels: dict[str, str]) -> None:
    """Plot values of a tidy table with their intervals, a line for each of its columns, in the colours of `METHODS`.

    labels: for the legend, by row.
    """
    columns = list(dict.fromkeys(table["column"]))
    for place, (row, label) in enumerate(labels.items()):
        values = table[table["row"] == row].set_index("column").reindex(columns)
        y = _beside(place, len(labels), columns)
        axes.hlines(y, values["low"], values["high"], color=METHODS[row], alpha=0.5)
        axes.plot(values["value"], y, "o", color=METHODS[row], markersize=5, label=label, clip_on=False)
    _striped([axes], [textwrap.fill(column, 18) for column in columns], fontsize="small")


def _beside(place: int, of: int, lines: list[str]) -> Float[np.ndarray, "lines"]:
    """Where on each line the mark of this place is, of so many side by side."""
    return np.arange(len(lines)) + (place - (of - 1) / 2) * 0.7 / of


def _striped(panels: Sequence[Axes], names: Iterable[str], **text) -> None:
    """Name the lines of panels with a common y axis, from above, every second one on grey."""
    names = list(names)
    for axes in panels:
        axes.grid(axis="y", visible=False)
        for line in range(0, len(names), 2):
            axes.axhspan(line - 0.5, line + 0.5, color="0.96", zorder=0)
    panels[0].set_yticks(range(len(names)), names, **text)
    panels[0].set_ylim(len(names) - 0.5, -0.5)


def averages(table: pd.DataFrame, metrics: list[str], trainings: pd.DataFrame | None = None) -> Figure:
    """Plot the averages of a tidy table with their intervals and what the paper prints, one panel per metric.

    trainings: of the same rows, see `mixste.study.report.trainings`; small dots below the averages of several seeds.
    Beyond twice the 70 % quantile, values are numbers at the edge, as is how many trainings failed. The constant pose
    is a dashed line, if a network is at its level.
    """
    table = table[(table["column"] == "Avg.") & (table["against"] == "") & table["metric"].isin(metrics)]
    trainings = table.iloc[:0] if trainings is None else trainings
    labels = names(table)
    colors, y = [color_of(row) for row in labels], np.arange(len(labels))
    flat = any(AT_LEVEL in name for name in labels.values())
    size = (WIDTH, 1.3 + 0.45 * len(labels))
    figure, grid = plt.subplots(1, len(metrics), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, metric in zip(grid.flat, metrics, strict=True):
        every = table[table["metric"] == metric].set_index("row")
        rows, single = every.reindex(list(labels)), trainings[trainings["metric"] == metric]
        axes.hlines(y, rows["low"], rows["high"], color=colors)
        axes.scatter(rows["value"], y, color=colors, s=45, zorder=2)
        axes.plot(rows["printed"], y, **PRINTED)
        limit = _limit(axes, pd.concat([rows["value"], single["value"]]), rows["low"], rows["high"], rows["printed"])
        if flat and CONSTANT in every.index and (level := every.loc[CONSTANT, "value"]) < limit:
            axes.axvline(level, color="0.3", linestyle="--", linewidth=1, label=CONSTANT)
        for place, (row, color) in enumerate(zip(labels, colors, strict=True)):
            _at_edge(axes, place, rows.loc[[row], "value"], limit, color)
            own = single.loc[single["row"] == row, "value"]
            if len(own) > 1:
                axes.plot(own, np.full(len(own), place + 0.27), "o", color=color, markersize=3.5, alpha=0.7)
                _at_edge(axes, place + 0.27, own, limit, color)
        axes.set_xlabel(f"{metric}, {every['unit'].iloc[0]}")
        axes.set_yticks(y, labels.values())
    grid[0, 0].set_ylim(len(labels) - 0.4, -0.6)
    handles = [Line2D([], [], color="0.3", marker="o", label=textwrap.fill(over(table), 56) or "average")]
    if trainings.duplicated(["row", "metric"]).any():
        handles.append(Line2D([], [], color="0.3", marker="o", markersize=3.5, linestyle="", label="one training"))
    if table["printed"].notna().any():
        handles.append(Line2D([], [], **PRINTED, label="printed in the paper"))
    handles += [handle for axes in grid.flat for handle in axes.get_legend_handles_labels()[0]][:1]
    figure.legend(handles=handles, loc="outside upper right", fontsize="small", ncols=3)
    return figure


def differences(table: pd.DataFrame, metric: str, label: str) -> Figure:
    """Plot the differences of a tidy table with their intervals; one that is not clear of zero is pale.

    A row whose trainings failed keeps its line, and its label says so; those that are not trained are named above.
    Beyond twice the 70 % quantile of the intervals' ends, values are numbers at the edge, so that one does not flatten
    the others.
    """
    labels, averages = names(table), table[(table["metric"] == metric) & (table["column"] == "Avg.")]
    rows = averages[(averages["against"] != "") | averages["value"].isna()].drop_duplicates("row")
    rows = rows[rows["row"].isin(labels)]
    absent = rows["value"].isna() & rows["note"].str.contains(NOT_TRAINED)
    without, rows = "; ".join(rows["row"][absent]), rows[~absent]
    above = textwrap.wrap(f"{NOT_TRAINED}: {without}", 90) if without else []
    size = (8, 1 + 0.2 * len(above) + 0.42 * max(len(rows), 1))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    undecided = ~((rows["low"] > 0) | (rows["high"] < 0))
    for y, (line, pale) in enumerate(zip(rows.itertuples(), undecided, strict=True)):
        look = {"color": METHODS["MixSTE"], "alpha": 0.35 if pale else 1}
        axes.plot([line.low, line.high], [y, y], **look)
        axes.plot(line.value, y, "o", **look)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks(range(len(rows)), rows["row"].map(labels))
    axes.invert_yaxis()
    pale = "pale: zero is in the interval, or there is none" if len(rows) else ""
    axes.set_title("\n".join(filter(None, [*above, over(rows), pale])), fontsize="small")
    farthest = rows["high"].where(rows["high"] > -rows["low"], rows["low"]).fillna(rows["value"])
    limit = _limit(axes, farthest, rows["value"], rows["low"], rows["high"], pd.Series([0.0]))
    for place in range(len(rows)):
        _at_edge(axes, place, rows["value"].iloc[[place]], limit, METHODS["MixSTE"])
    axes.set_xlabel(f"difference in {metric} {label}, {averages['unit'].iloc[0]}")
    if rows.empty:
        axes.set_xticks([])
    return figure


def _limit(axes: Axes, values: pd.Series, *others: pd.Series) -> float:
    """Limit the x axis to twice the 70 % quantile of absolute values, which is returned, or to less if all ends before.

    others: what else is shown, such as the ends of intervals, which may reach out of the axis.
    """
    limit = 2 * values.abs().quantile(0.7)
    if not limit > 0:  # nothing to show, or zeros alone
        return np.inf
    ends = pd.concat([values, *others])
    left, right = max(ends.min(), -limit), min(ends.max(), limit)
    margin = 0.05 * (right - left)
    axes.set_xlim(left - margin * (left > -limit), right + margin * (right < limit))
    return limit


def _at_edge(axes: Axes, y: float, values: pd.Series, limit: float, color: str) -> None:
    """Write what the axis does not show at its edges: values beyond the limit, and how many trainings failed."""
    high, low, failed = values[values > limit], values[values < -limit], values.isna().sum()
    right = [*(f"{value:.0f} →" for value in high), f"{failed} {FAILED}" if failed and len(values) > 1 else ""]
    for x, side, texts in ((0.995, "right", right), (0.005, "left", [f"← {value:.0f}" for value in low])):
        if not (text := ", ".join(filter(None, texts))):
            continue
        axes.text(
            *(x, y, text),
            transform=axes.get_yaxis_transform(),
            ha=side,
            va="center",
            color=color,
            fontsize="small",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )


VERDICTS = {HOLDS: SIDES["right"], FAILS: SIDES["left"], NOT_TESTED: "#777777"}
FRACTIONS = (-2.0, 3.0)  # of the paper's effect: limits of the axes in `verdicts`


def verdicts(claims: pd.DataFrame) -> Figure:
    """Plot claims (`mixste.study.claims.judge`) with their verdicts: a panel for each unit, a row for each claim.

    The effect is shown as a fraction of the paper's, so that the claimed side, shaded, is the right one everywhere. A
    tick marks the smallest effect that matters. Effects beyond the axes are triangles, with the number beside them. The
    last panel has the claims for which the paper prints no number, each in its own unit.
    """
    own_units = claims[claims["printed"].isna()]
    panels = [*claims[claims["printed"].notna()].groupby("unit", sort=False)]
    panels += [("", own_units)] if len(own_units) else []
    rows = [len(own) for _, own in panels]
    size = (WIDTH, 1.2 + 0.28 * sum(rows) + 0.5 * len(rows))
    figure, grid = plt.subplots(len(rows), figsize=size, layout="constrained", height_ratios=rows, squeeze=False)
    for axes, (unit, own) in zip(grid.flat, panels, strict=True):
        scale = own["side"] * (own["printed"].abs() if unit else 1.0)
        labels = own["row"] if unit else own["row"] + ", " + own["unit"]
        ends = np.sort(own[["low", "high"]].to_numpy() / scale.to_numpy()[:, None])
        limits = FRACTIONS if unit else _around(np.concatenate([*ends, own["value"] / scale, own["smallest"]]))
        axes.axvspan(0, limits[1], color="#e4edf6", zorder=0)
        for y, (line, end, by) in enumerate(zip(own.itertuples(), ends, scale.abs(), strict=True)):
            _verdict(axes, y, line, end, by, limits)
        axes.axvline(0, color="0.3", linewidth=1)
        if unit:
            axes.axvline(1, color="0.3", linewidth=1, linestyle="--")
        axes.set(xlim=limits, ylim=(len(own) - 0.5, -0.5))
        axes.set_yticks(range(len(own)), map(_two_lines, labels), fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(axis="y", visible=False)
        named = "percentage points" if unit == "points" else unit
        of_paper = f"claims in {named}: effect, as a multiple of the paper's"
        title = of_paper if unit else "claims without a number in the paper: effect, in the unit named"
        axes.set_title(title, fontsize=9, loc="left")
    between = textwrap.fill(over(claims.assign(against="another")), 72)
    marks = [
        Line2D([], [], color="0.3", marker="o", label=between or "no value yet"),
        Line2D([], [], color="0.3", linestyle="--", label="as in the paper"),
        Line2D([], [], color="#b8860b", marker="|", linestyle="", markersize=9, label="smallest effect that matters"),
        Patch(color="#e4edf6", label="the side that the paper claims"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _verdict(axes: Axes, y: int, line, ends: Float[np.ndarray, "2"], scale: float, limits: tuple[float, float]) -> None:
    """One claim: its effect and interval divided by `scale`, and the verdict to the right of the axes."""
    effect, color = line.side * line.value / scale, VERDICTS[re.match("|".join(VERDICTS), line.note)[0]]
    axes.plot([line.smallest / scale] * 2, [y - 0.25, y + 0.25], color="#b8860b", linewidth=2)
    if limits[0] <= effect <= limits[1]:
        axes.plot(ends, [y, y], color=color)
        axes.plot(effect, y, "o", color=color, markersize=5, clip_on=False)
    elif np.isfinite(effect):
        low, inset = effect < limits[0], 0.02 * (limits[1] - limits[0])
        x = limits[0] + inset if low else limits[1] - inset
        axes.plot(x, y, "<" if low else ">", color=color, markersize=5)
        about = {"xytext": (6 if low else -6, 0), "textcoords": "offset points", "ha": "left" if low else "right"}
        axes.annotate(f"{effect:.2g}", (x, y), va="center", fontsize=8, **about)
    about = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 8, "color": color}
    axes.text(1.03, y, _two_lines(line.note), **about)


def _two_lines(text: str) -> str:
    """A text of more than 38 characters broken about its middle, but not before a unit."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    broken = (textwrap.wrap(text, width) for width in range(max(len(text) // 2, 30), len(text) + 1))
    return text if len(text) <= 38 else "\n".join(next(lines for lines in broken if len(lines) <= 2))


def _around(values: Float[np.ndarray, "values"]) -> tuple[float, float]:
    """Limits of axes that show zero and these values."""
    values = np.append(values[np.isfinite(values)], 0.0)
    margin = 0.05 * np.ptp(values)
    return values.min() - margin, values.max() + margin
