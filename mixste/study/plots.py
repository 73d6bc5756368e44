"""Shared by several figures: their style, the label of the source, poses, and plots of tidy tables."""

import re
import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixste.io.files import replacing
from mixste.skeleton import Skeleton
from mixste.study.profiles import Profile
from mixste.study.report import AT_LEVEL
from mixste.study.store import output, shown
from mixste.study.tables import CONSTANT, REGRESSION
from mixste.study.tidy import columns_of, over, short, sound_seeds, why_without, without_value

SIDES = {"left": "#c44e52", "right": "#4c72b0", "middle": "#444444"}
METHODS = {"VideoPose3D": "#8c8c8c", "PoseFormer": "#e08214", "MixSTE": "#0b7a75"}

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


def names(table: pd.DataFrame) -> dict[str, str]:
    """The label of each row of a tidy table. A second line says if it has no value, if some of its seeds failed, or if
    it is at the level of a constant pose.

    The two references are left out: they would stretch the axes.
    """
    table = table[(table["against"] == "") & ~table["row"].isin((CONSTANT, REGRESSION))]
    missing, notes = table["row"][without_value(table)].unique(), table.groupby("row", sort=False)["note"].first()

    def label(row: str, note: str) -> str:
        flat = re.search(rf"(\d+ of \d+ seeds )?{AT_LEVEL}", note)
        flags = [why_without(note)] if row in missing else [sound_seeds(note), flat[0] if flat else ""]
        return "\n".join(filter(None, [row, ", ".join(filter(None, flags))]))

    return {row: label(row, note) for row, note in notes.items()}


def by_column(table: pd.DataFrame, metric: str) -> Figure:
    """Plot a metric of a tidy table over its columns: a point with its interval for each row of `names`.

    The legend says what the intervals of the average are over. Those of a column are over the people that it is about.
    """
    rows, table = names(table), table[(table["metric"] == metric) & (table["against"] == "")]
    columns = columns_of(table)
    figure, axes = plt.subplots(figsize=(11, 4), layout="constrained")
    for place, (row, color) in enumerate(zip(rows, sns.color_palette(n_colors=len(rows)), strict=True)):
        values = table[table["row"] == row].set_index("column").reindex(columns)
        x = np.arange(len(columns)) + (place - (len(rows) - 1) / 2) * 0.8 / len(rows)
        axes.vlines(x, values["low"], values["high"], color=color, alpha=0.5)
        axes.plot(x, values["value"], "o", color=color, markersize=4, label=rows[row])
    axes.set_xticks(range(len(columns)), [short(column) for column in columns], rotation=35, ha="right")
    axes.set(ylabel=f"{metric}, {table['unit'].iloc[0]}", xlim=(-0.6, len(columns) - 0.4))
    axes.grid(axis="x", visible=False)
    for column in range(0, len(columns), 2):
        axes.axvspan(column - 0.5, column + 0.5, color="0.96", zorder=0)
    figure.legend(
        loc="outside upper center",
        fontsize="small",
        ncols=3,
        title=over(table[table["column"] == "Avg."]),
        title_fontsize="small",
    )
    return figure


def averages(table: pd.DataFrame, metrics: list[str]) -> Figure:
    """Plot the averages of a tidy table with their intervals, one panel per metric.

    Open diamonds are the paper's values. If a network is at the level of a constant pose, that is a dashed line.
    """
    table = table[(table["column"] == "Avg.") & (table["against"] == "") & table["metric"].isin(metrics)]
    labels = names(table)
    flat = any(AT_LEVEL in name for name in labels.values())
    size = (3 + 3 * len(metrics), 1 + 0.4 * len(labels))
    figure, grid = plt.subplots(1, len(metrics), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, metric in zip(grid.flat, metrics, strict=True):
        every = table[table["metric"] == metric].set_index("row")
        rows = every.reindex(list(labels))
        if flat and CONSTANT in every.index:
            axes.axvline(every.loc[CONSTANT, "value"], color="0.3", linestyle="--", linewidth=1, label=CONSTANT)
        y = np.arange(len(labels))
        axes.hlines(y, rows["low"], rows["high"], color=SIDES["right"], label=over(every.reset_index()))
        axes.plot(rows["value"], y, "o", color=SIDES["right"])
        axes.plot(
            rows["printed"], y, "D", color="0.6", markerfacecolor="none", markersize=5, label="printed in the paper"
        )
        axes.set_xlabel(f"{metric}, {every['unit'].iloc[0]}")
        axes.set_yticks(y, labels.values())
    grid[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", fontsize="small", ncols=2)
    return figure


def differences(table: pd.DataFrame, metric: str, label: str) -> Figure:
    """Plot the differences of a tidy table with their intervals; one that is not clear of zero is pale.

    A row without a value keeps its line, and its label says why.
    """
    labels, averages = names(table), table[(table["metric"] == metric) & (table["column"] == "Avg.")]
    rows = averages[(averages["against"] != "") | averages["value"].isna()].drop_duplicates("row")
    rows = rows[rows["row"].isin(labels)]
    figure, axes = plt.subplots(figsize=(8, 0.6 + 0.42 * len(rows)), layout="constrained")
    _whiskers(axes, rows.assign(row=rows["row"].map(labels)))
    axes.set_xlabel(f"{metric} {label}, {averages['unit'].iloc[0]}")
    return figure


def verdicts(table: pd.DataFrame) -> Figure:
    """Plot the claims of notebook 14, each in its own unit: ours with its interval, the paper's as a diamond."""
    figure, axes = plt.subplots(figsize=(10, 0.6 + 0.3 * len(table)), layout="constrained")
    _whiskers(axes, table)
    axes.plot(
        table["printed"], range(len(table)), "D", color="0.6", markerfacecolor="none", markersize=5, label="paper"
    )
    axes.set(xscale="symlog", xlabel="difference, in the claim's unit (ours ● with interval, paper ◇)")
    return figure


def _whiskers(axes: Axes, rows: pd.DataFrame) -> None:
    """A point with its interval on a line for each row, pale if the interval includes zero or there is none.

    What the intervals are over is the title.
    """
    undecided = ~((rows["low"] > 0) | (rows["high"] < 0))
    for y, (value, low, high, pale) in enumerate(zip(rows["value"], rows["low"], rows["high"], undecided, strict=True)):
        axes.plot([low, high], [y, y], color=SIDES["right"], alpha=0.35 if pale else 1)
        axes.plot(value, y, "o", color=SIDES["right"], alpha=0.35 if pale else 1)
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_title(over(rows), fontsize="small")
    axes.set_yticks(range(len(rows)), rows["row"])
    axes.invert_yaxis()
