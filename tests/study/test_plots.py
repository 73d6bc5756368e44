"""What a figure shows is what its table holds: positions, intervals, labels, and rows without a value."""

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from mixste.skeleton import SKELETONS, human36m
from mixste.study import plots, store
from mixste.study.profiles import PROFILES
from mixste.study.report import AT_LEVEL
from mixste.study.tables import CONSTANT, REGRESSION
from mixste.study.tidy import FAILED, NOT_TRAINED

COLUMNS = ("Directions", "SittingDown", "Avg.")


def line(row, value, column="Avg.", metric="MPJPE", against="", note="", printed=np.nan, width=2.0, seeds=3) -> dict:
    """One line of a tidy table; the interval reaches `width` below the value and twice as far above it."""
    about = {"row": row, "against": against, "column": column, "metric": metric, "note": note, "seeds": seeds}
    about |= {"over": "8 people, 3 seeds"}
    unit = "mm/frame" if metric == "MPJVE" else "mm"
    return about | {"unit": unit, "value": value, "low": value - width, "high": value + 2 * width, "printed": printed}


def missing(row, note, **options) -> dict:
    return line(row, np.nan, note=note, seeds=0, **options)


@pytest.fixture(autouse=True)
def closed():
    yield
    plots.plt.close("all")


def dots(axes) -> dict[str, list[tuple[float, float]]]:
    """Positions of markers by their shape, points that are not drawn left out."""
    shapes: dict[str, list] = {}
    for drawn in axes.lines:
        if drawn.get_marker() not in ("None", None, ""):
            points = np.asarray(drawn.get_xydata(), dtype=float)
            shapes.setdefault(drawn.get_marker(), []).extend(map(tuple, points[np.isfinite(points).all(axis=1)]))
    return shapes


def intervals(axes) -> list[np.ndarray]:
    """Both ends of every line drawn by vlines and hlines, (2, 2) each, those with NaN left out."""
    segments = [s for drawn in axes.collections if isinstance(drawn, LineCollection) for s in drawn.get_segments()]
    return [np.asarray(s) for s in segments if len(s) and np.isfinite(s).all()]


# --- labels


def test_a_label_says_why_there_is_no_value_or_that_a_network_learned_nothing():
    table = pd.DataFrame(
        [
            line("sound", 50.0),
            line("flat", 200.0, note=f"openpose instead of HRNet; {AT_LEVEL} (205.3 mm)"),
            line("partly", 90.0, note=f"1 of 3 seeds {AT_LEVEL} (205.3 mm)"),
            missing("lost", f"3 of 3 {FAILED}"),
            missing("absent", NOT_TRAINED),
            line("some failed", 60.0, note=f"2 of 3 seeds, run a {FAILED}: the loss is nan", seeds=2),
            line("some failed, some flat", 90.0, note=f"2 of 3 seeds, run a {FAILED}: nan; 1 of 2 seeds {AT_LEVEL}"),
            line("sound", -3.0, against="flat", note="a difference has no label of its own"),
            line(CONSTANT, 205.3),
            line(REGRESSION, 72.0),
        ]
    )
    assert plots.names(table) == {
        "sound": "sound",
        "flat": f"flat\n{AT_LEVEL}",
        "partly": f"partly\n1 of 3 seeds {AT_LEVEL}",
        "lost": f"lost\n{FAILED}",
        "absent": f"absent\n{NOT_TRAINED}",
        "some failed": "some failed\n2 of 3 seeds",
        "some failed, some flat": f"some failed, some flat\n2 of 3 seeds, 1 of 2 seeds {AT_LEVEL}",
    }


# --- values by column


def table_by_column() -> pd.DataFrame:
    lines = [
        line(row, base + 10 * n, column) for row, base in (("A", 40.0), ("B", 60.0)) for n, column in enumerate(COLUMNS)
    ]
    lines += [missing("C", NOT_TRAINED), line("A", 5.0, metric="MPJVE"), line("A", -20.0, against="B")]
    lines += [line(CONSTANT, 200.0, column) for column in COLUMNS]
    return pd.DataFrame(lines)


def test_by_column_puts_each_value_at_its_column():
    [axes] = plots.by_column(table_by_column(), "MPJPE").axes
    points = dots(axes)["o"]
    assert sorted(value for _, value in points) == [40, 50, 60, 60, 70, 80]  # neither MPJVE, differences nor references
    for x, value in points:
        row, column = ("A", round(x)) if value == 40 + 10 * round(x) else ("B", round(x))
        assert value == {"A": 40, "B": 60}[row] + 10 * column
        assert abs(x - column) < 0.5
    assert len({round(x, 6) for x, _ in points}) == 6, "points of two rows do not hide each other"
    spans = {(round(low[0], 6), low[1], high[1]) for low, high in intervals(axes)}
    assert spans == {(round(x, 6), value - 2, value + 4) for x, value in points}


def test_by_column_names_columns_rows_and_unit():
    figure = plots.by_column(table_by_column(), "MPJPE")
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["Dir.", "SitD.", "Avg."]
    assert list(axes.get_xticks()) == [0, 1, 2]
    assert axes.get_ylabel() == "MPJPE, mm"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B", f"C\n{NOT_TRAINED}"]
    colours = {drawn.get_label(): drawn.get_color() for drawn in axes.lines}
    assert len(set(colours.values())) == 3
    assert figure.legends[0].get_title().get_text() == "95 % intervals: 8 people, 3 seeds"


# --- averages


def test_averages_are_drawn_beside_the_printed_values():
    table = pd.DataFrame(
        [
            line("A", 50.0, printed=40.9),
            line("A", 9.0, metric="MPJVE", printed=2.3),
            line("A", 99.0, column="Directions"),
            line("B", 60.0),
            line("B", 10.0, metric="MPJVE"),
            missing("C", f"3 of 3 {FAILED}"),
            line("A", -10.0, against="B"),
            line(CONSTANT, 200.0),
        ]
    )
    left, right = plots.averages(table, ["MPJPE", "MPJVE"]).axes
    assert dots(left) == {"o": [(50, 0), (60, 1)], "D": [(40.9, 0)]}
    assert dots(right) == {"o": [(9, 0), (10, 1)], "D": [(2.3, 0)]}
    assert {tuple(ends.ravel()) for ends in intervals(left)} == {(48, 0, 54, 0), (58, 1, 64, 1)}
    assert [axes.get_xlabel() for axes in (left, right)] == ["MPJPE, mm", "MPJVE, mm/frame"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["A", "B", f"C\n{FAILED}"]
    top, bottom = left.get_ylim()
    assert top > 2 > 0 > bottom, "the first row stands on top"
    assert not [drawn for drawn in left.lines if drawn.get_linestyle() == "--"]


def test_the_unit_is_that_of_the_metric_though_the_first_row_lacks_it():
    table = pd.DataFrame([line("A", 50.0), line("B", 60.0), line("B", 10.0, metric="MPJVE")])
    assert plots.averages(table, ["MPJPE", "MPJVE"]).axes[1].get_xlabel() == "MPJVE, mm/frame"


def test_the_constant_pose_is_drawn_only_where_a_network_is_at_its_level():
    lines = [line("A", 199.0, note=f"{AT_LEVEL} (200.0 mm)"), line("B", 60.0), line(CONSTANT, 200.0)]
    figure = plots.averages(pd.DataFrame(lines), ["MPJPE"])
    [dashed] = [drawn for drawn in figure.axes[0].lines if drawn.get_linestyle() == "--"]
    assert set(dashed.get_xdata()) == {200.0}
    assert CONSTANT in [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"A\n{AT_LEVEL}", "B"]


# --- differences and claims


def test_differences_whose_interval_includes_zero_are_pale():
    """The interval reaches 2 below and 4 above: of -3 from -5 to 1, of 5 from 3 to 9, of 2 from 0 to 6."""
    lines = [line(row, 50.0) for row in "ABCD"]
    lines += [line(row, value, against="D") for row, value in (("A", -3.0), ("B", 5.0), ("C", 2.0))]
    lines += [line("B", 7.0, against="D", column="Directions"), line("B", 1.0, against="D", metric="MPJVE")]
    [axes] = plots.differences(pd.DataFrame(lines), "MPJPE", "from D").axes
    assert dots(axes) == {"o": [(-3, 0), (5, 1), (2, 2)]}
    whiskers = {tuple(drawn.get_xdata()): drawn.get_alpha() for drawn in axes.lines if len(set(drawn.get_ydata())) == 1}
    assert whiskers[-5, 1] == whiskers[0, 6] < whiskers[3, 9] == 1
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B", "C"]
    assert axes.get_xlabel() == "MPJPE from D, mm"
    assert axes.yaxis_inverted()
    assert any(set(drawn.get_xdata()) == {0} for drawn in axes.lines), "zero is marked"
    assert axes.get_title() == "95 % intervals: 8 people, 3 seeds"


def test_a_difference_without_an_interval_is_pale():
    lines = [line("A", 5.0), line("B", 5.0, width=np.nan)]
    [axes] = plots.verdicts(pd.DataFrame(lines)).axes
    assert [drawn.get_alpha() for drawn in axes.lines if drawn.get_marker() == "o"] == [1, 0.35]


def test_differences_name_the_rows_that_were_not_trained():
    """Also where none is left to compare with: the row that the others are compared with is named then."""
    table = pd.DataFrame([missing("base", f"{NOT_TRAINED}: 1 of 1 seeds"), line("ours", 40.0)])
    [axes] = plots.differences(table, "MPJPE", "from base").axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"base\n{NOT_TRAINED}"]
    assert axes.get_xlabel() == "MPJPE from base, mm"


def test_a_difference_without_a_value_keeps_its_line():
    lines = [line("A", 50.0), missing("B", NOT_TRAINED), missing("B", NOT_TRAINED, against="A")]
    lines += [line("C", 50.0), line("C", 3.0, against="A")]
    [axes] = plots.differences(pd.DataFrame(lines), "MPJPE", "from A").axes
    assert dots(axes) == {"o": [(3, 1)]}
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"B\n{NOT_TRAINED}", "C"]


def test_claims_beside_the_papers_numbers():
    table = pd.DataFrame([line("one", -3.0, printed=-6.2), line("two", 4.0), line("three", 0.1, printed=1.0)])
    [axes] = plots.verdicts(table).axes
    assert dots(axes) == {"o": [(-3, 0), (4, 1), (0.1, 2)], "D": [(-6.2, 0), (1, 2)]}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two", "three"]


# --- poses


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_bone_is_drawn_in_the_colour_of_its_side(skeleton):
    _, axes = plots.plt.subplots()
    points = np.arange(2.0 * len(skeleton.joints)).reshape(-1, 2)
    plots.draw_bones(axes, points, skeleton)
    for (parent, child), drawn in zip(skeleton.bones, axes.lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xydata(), points[[parent, child]])
        name = skeleton.joints[child]
        side = "left" if name[0] == "L" else "right" if name[0] == "R" else "middle"
        assert drawn.get_color() == plots.SIDES[side]
    plots.draw_bones(axes, points, skeleton, color="black")
    assert {drawn.get_color() for drawn in axes.lines[len(skeleton.bones) :]} == {"black"}


@pytest.mark.parametrize(
    ("view", "head", "hand"),
    [
        ("front", (0, 0.6), (0.5, 0.3)),  # the head above, the hand at the camera's right, to the right on the page
        ("side", (0, 0.6), (-0.2, 0.3)),  # depth across: the hand is nearer to the camera
        ("top", (0, 0), (0.5, -0.2)),  # depth up
    ],
)
def test_a_pose_from_three_sides(view, head, hand):
    """Camera axes are x right, y down, z forward."""
    pose = np.zeros((17, 3))
    pose[human36m.joints.index("Head")] = [0, -0.6, 0]
    pose[human36m.joints.index("LWrist")] = [0.5, -0.3, -0.2]
    _, axes = plots.plt.subplots()
    plots.draw_pose(axes, pose, human36m, view)
    ends = {
        human36m.joints[child]: drawn.get_xydata()[1]
        for (_, child), drawn in zip(human36m.bones, axes.lines, strict=True)
    }
    np.testing.assert_allclose(ends["Head"], head, atol=1e-12)
    np.testing.assert_allclose(ends["LWrist"], hand, atol=1e-12)
    assert axes.get_aspect() == 1


# --- files


def test_a_saved_figure_names_its_profile_and_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(plots, "output", lambda: tmp_path)
    profile = PROFILES["smoke"]
    figure, axes = plots.plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot([0, 1])
    plots.save_figure(figure, "test", profile)
    path = tmp_path / "figures" / "smoke" / "test.png"
    assert capsys.readouterr().out.strip() == str(store.shown(path))
    with Image.open(path) as image:
        assert image.size == (880, 440)  # 110 dots an inch
        assert "Software" not in image.info  # or the version of Matplotlib would change the file
    [label] = [text.get_text() for text in figure.texts]
    assert label.replace("\n", " ") == f"smoke: {profile.title}"
    strip = figure.texts[0].get_window_extent().y1
    assert axes.get_tightbbox().y0 >= strip, "the label covers nothing of the figure"
