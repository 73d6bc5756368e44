"""What a figure shows is what its table holds: positions, intervals, labels, and rows without a value."""

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
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
    about |= {"over": "8 people, 3 seeds", "profile": "smoke"}
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


def means(axes) -> list[tuple[float, float]]:
    """Positions of the averages that `plots.averages` draws."""
    return [
        tuple(point)
        for drawn in axes.collections
        if isinstance(drawn, PathCollection)
        for point in drawn.get_offsets().compressed().reshape(-1, 2)
    ]


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
            line(
                "so few", 60.0, note=f"small; {NOT_TRAINED}: 3 of 5 seeds; 1 of 5 seeds, run a {FAILED}: nan", seeds=1
            ),
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
        "some failed": f"some failed\n1 of 3 seeds {FAILED}",
        "some failed, some flat": f"some failed, some flat\n1 of 3 seeds {FAILED}, 1 of 2 seeds {AT_LEVEL}",
        "so few": f"so few\n2 of 5 seeds trained, 1 of 5 seeds {FAILED}",
    }


def test_a_method_has_one_colour():
    assert plots.color_of("MixSTE, cpn, T=243") == plots.color_of("MixSTE, GT, T=81") == plots.METHODS["MixSTE"]
    assert plots.color_of("PoseFormer, T=43, fine-tuned") == plots.METHODS["PoseFormer"]
    assert plots.color_of("+ alternating") == plots.METHODS["MixSTE"]
    assert len(set(plots.METHODS.values()) | set(plots.SPLITS.values())) == len(plots.METHODS) + len(plots.SPLITS)


# --- values by column


def table_by_column() -> pd.DataFrame:
    lines = [
        line(row, base + 10 * n, column, printed=base - 30 + n)
        for row, base in (("MixSTE, T=81", 40.0), ("MixSTE, T=243", 45.0), ("PoseFormer", 60.0))
        for n, column in enumerate(COLUMNS)
    ]
    lines += [missing("VideoPose3D", NOT_TRAINED, printed=33.0), line("PoseFormer", 5.0, metric="MPJVE")]
    lines += [line("MixSTE, T=81", -20.0, against="PoseFormer")]
    lines += [line(CONSTANT, 200.0, column) for column in COLUMNS]
    return pd.DataFrame(lines)


def test_by_column_puts_each_value_at_its_column_and_the_papers_beside_it():
    ours, paper = plots.by_column(table_by_column(), "MPJPE").axes
    rows = {"MixSTE, T=81": 40, "MixSTE, T=243": 45, "PoseFormer": 60}
    for axes, values in (
        (ours, {row: [base, base + 10, base + 20] for row, base in rows.items()} | {"VideoPose3D": []}),
        (paper, {row: [base - 30, base - 29, base - 28] for row, base in rows.items()} | {"VideoPose3D": [33]}),
    ):
        drawn = {line.get_label().partition("\n")[0]: line.get_xydata() for line in axes.lines}
        drawn = {row: points[np.isfinite(points).all(axis=1)] for row, points in drawn.items()}
        assert {row: points[:, 0].tolist() for row, points in drawn.items()} == values  # neither MPJVE nor differences
        for points in drawn.values():
            assert np.round(points[:, 1]).tolist() == [0, 1, 2][-len(points) :][: len(points)]
        assert len({round(y, 6) for points in drawn.values() for _, y in points}) == sum(map(len, drawn.values()))
    of_ours = {tuple(point) for line in ours.lines for point in line.get_xydata() if np.isfinite(point).all()}
    spans = {(low[0], high[0], low[1]) for low, high in intervals(ours)}
    assert spans == {(value - 2, value + 4, y) for value, y in of_ours}
    assert ours.get_xlim() == paper.get_xlim(), "on one scale"


def test_by_column_names_columns_rows_and_unit():
    figure = plots.by_column(table_by_column(), "MPJPE")
    ours, paper = figure.axes
    assert [label.get_text() for label in ours.get_yticklabels()] == ["Dir.", "SitD.", "Avg."]
    assert list(ours.get_yticks()) == [0, 1, 2]
    assert ours.get_ylim()[0] > ours.get_ylim()[1], "the first column stands on top"
    assert {axes.get_xlabel() for axes in (ours, paper)} == {"MPJPE, mm"}
    assert [axes.get_title() for axes in (ours, paper)] == ["profile smoke", "printed in the paper (Human3.6M)"]
    labels = ["MixSTE, T=81", "MixSTE, T=243", "PoseFormer", f"VideoPose3D\n{NOT_TRAINED}"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels
    looks = [(drawn.get_color(), drawn.get_marker()) for drawn in ours.lines]
    assert len(set(looks)) == 4
    assert [color for color, _ in looks] == [plots.color_of(label) for label in labels]
    assert figure.legends[0].get_title().get_text() == "95 % intervals: 8 people, 3 seeds"


def test_by_column_writes_what_is_far_beyond_the_others_at_the_edge():
    table = pd.concat([table_by_column(), pd.DataFrame([line("KTPFormer", 900.0, column) for column in COLUMNS[:2]])])
    ours, paper = plots.by_column(table, "MPJPE").axes
    assert [(text.get_text(), round(text.get_position()[1])) for text in ours.texts] == [("900 →", 0), ("900 →", 1)]
    assert 85 < ours.get_xlim()[1] == paper.get_xlim()[1] < 200


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
    figure = plots.averages(table, ["MPJPE", "MPJVE"])
    left, right = figure.axes
    assert (means(left), dots(left)) == ([(50, 0), (60, 1)], {"D": [(40.9, 0)]})
    assert (means(right), dots(right)) == ([(9, 0), (10, 1)], {"D": [(2.3, 0)]})
    assert not left.texts
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["95 % intervals: 8 people, 3 seeds", "printed in the paper"]
    assert {tuple(ends.ravel()) for ends in intervals(left)} == {(48, 0, 54, 0), (58, 1, 64, 1)}
    assert [axes.get_xlabel() for axes in (left, right)] == ["MPJPE, mm", "MPJVE, mm/frame"]
    assert [label.get_text() for label in left.get_yticklabels()] == ["A", "B", f"C\n{FAILED}"]
    top, bottom = left.get_ylim()
    assert top > 2 > 0 > bottom, "the first row stands on top"
    assert not [drawn for drawn in left.lines if drawn.get_linestyle() == "--"]


def test_trainings_are_dots_below_the_average_of_their_row():
    """What is far beyond the others is a number at the edge, and failures are counted there.

    Of 50, 52, 51, 90, 52, 400, 51 and 226, seven tenths are at most 85; twice that is the end of the axis.
    """
    lines = [line("A", 51.0), line("B", 226.0, note=f"2 of 3 seeds, run b {FAILED}: collapsed"), line("C", 90.0)]
    ends = [("A", 50.0), ("A", 52.0), ("B", 52.0), ("B", 400.0), ("B", np.nan), ("C", 90.0)]
    trainings = pd.DataFrame([{"row": row, "metric": "MPJPE", "value": value} for row, value in ends])
    figure = plots.averages(pd.DataFrame(lines), ["MPJPE"], trainings)
    [axes] = figure.axes
    assert [(value, round(y)) for value, y in dots(axes)["o"]] == [(50, 0), (52, 0), (52, 1), (400, 1)]
    assert all(y > round(y) for _, y in dots(axes)["o"])
    assert [(text.get_text(), round(text.get_position()[1])) for text in axes.texts] == [
        ("226 →", 1),
        (f"400 →, 1 {FAILED}", 1),
    ]
    assert 90 < axes.get_xlim()[1] < 226
    assert "one training" in [text.get_text() for text in figure.legends[0].get_texts()]


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
    assert axes.get_xlabel() == "difference in MPJPE from D, mm"
    assert axes.yaxis_inverted()
    assert any(set(drawn.get_xdata()) == {0} for drawn in axes.lines), "zero is marked"
    assert axes.get_title().startswith("95 % intervals: 8 people, 3 seeds\npale: ")


def test_a_difference_without_an_interval_is_pale():
    lines = [line("D", 50.0), line("A", 5.0, against="D"), line("B", 5.0, width=np.nan, against="D")]
    [axes] = plots.differences(pd.DataFrame([*lines, line("A", 50.0), line("B", 50.0)]), "MPJPE", "from D").axes
    assert [drawn.get_alpha() for drawn in axes.lines if drawn.get_marker() == "o"] == [1, 0.35]


def test_differences_name_the_rows_that_were_not_trained():
    """Also where none is left to compare with: the row that the others are compared with is named then."""
    table = pd.DataFrame([missing("base", f"{NOT_TRAINED}: 1 of 1 seeds"), line("ours", 40.0)])
    [axes] = plots.differences(table, "MPJPE", "from base").axes
    assert not list(axes.get_yticks())
    assert axes.get_title() == f"{NOT_TRAINED}: base"
    assert axes.get_xlabel() == "difference in MPJPE from base, mm"
    lines = [line("A", 50.0), missing("B", NOT_TRAINED), line("C", 50.0), line("C", 3.0, against="A")]
    [axes] = plots.differences(pd.DataFrame(lines), "MPJPE", "from A").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["C"]
    assert axes.get_title().startswith(f"{NOT_TRAINED}: B\n95 % intervals: 8 people, 3 seeds\n")


def test_a_difference_whose_trainings_failed_keeps_its_line():
    lines = [line("A", 50.0), missing("B", f"3 of 3 {FAILED}"), missing("B", f"3 of 3 {FAILED}", against="A")]
    lines += [line("C", 50.0), line("C", 3.0, against="A")]
    [axes] = plots.differences(pd.DataFrame(lines), "MPJPE", "from A").axes
    assert dots(axes) == {"o": [(3, 1)]}
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"B\n{FAILED}", "C"]


def test_one_large_difference_does_not_flatten_the_others():
    """The intervals of 1, 2, -3, 5 and 372 end at 2, 3, -3.5, 6 and 373, of which seven tenths are at most 5.5.

    Twice that is the end of the axis, so that no interval but that of the largest is cut.
    """
    changes = {"B": 1.0, "C": 2.0, "D": -3.0, "E": 5.0, "F": 372.0}
    lines = [line(row, 50.0) for row in "ABCDEF"]
    lines += [line(row, value, against="A", width=0.5) for row, value in changes.items()]
    [axes] = plots.differences(pd.DataFrame(lines), "MPJPE", "from A").axes
    [text] = axes.texts
    assert (text.get_text(), text.get_position()[1]) == ("372 →", 4)
    left, right = axes.get_xlim()
    assert -11 < left < -3.5
    assert 6 < right <= 11
    wide = [*lines[:6], *(line(row, value, against="A", width=2.0) for row, value in changes.items() if row != "F")]
    left, right = plots.differences(pd.DataFrame(wide), "MPJPE", "from A").axes[0].get_xlim()
    assert (left < -5, right > 9) == (True, True), "intervals wider than the differences are shown whole"


def test_dots_are_values_by_column_with_their_intervals():
    table = pd.DataFrame([line("MixSTE", 50.0, "Hip"), line("PoseFormer", 55.0, "Hip"), line("MixSTE", 70.0, "Wrist")])
    _, axes = plots.plt.subplots()
    plots.dots(axes, table, {"PoseFormer": "PoseFormer", "MixSTE": "ours"})
    assert dots(axes) == {"o": [(55, -0.175), (50, 0.175), (70, 1.175)]}
    ends = sorted(segment[:, 0].tolist() for segment in intervals(axes))
    assert ends == [[48, 54], [53, 59], [68, 74]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Hip", "Wrist"]
    assert axes.get_legend_handles_labels()[1] == ["PoseFormer", "ours"]


def test_a_long_verdict_has_two_lines_and_keeps_a_number_with_its_unit():
    text = plots._two_lines("not tested: too short, 0.0087 % of the paper's training (Head against PoseFormer)")
    assert text.count("\n") == 1
    assert "0.0087\N{NO-BREAK SPACE}%" in text
    assert plots._two_lines("not tested: not trained yet") == "not tested: not trained yet"


def test_claims_are_fractions_of_the_papers_effect_with_their_verdicts():
    """The interval reaches 2 below and 4 above: of -3, where the paper prints -6, a third of it below and 5/6 above."""
    lines = [
        line("one", -3.0, printed=-6.0, note="holds") | {"side": -1, "smallest": 0.6},
        line("two", 40.0, printed=2.0, note="does not hold: the opposite") | {"side": -1, "smallest": 0.6},
        missing("three", "not tested: not trained yet", printed=1.0) | {"side": 1, "smallest": 0.4},
        line("four", 1.0, printed=2.0, metric="MPJVE", note="holds") | {"side": 1, "smallest": 0.5},
        line("five", -7.0, note="holds") | {"side": -1, "smallest": 0.4},
    ]
    of_mm, of_velocity, without = plots.verdicts(pd.DataFrame(lines)).axes
    assert dots(of_mm) == {"o": [(0.5, 0)], "<": [(pytest.approx(-1.9), 1)]}
    whiskers = [drawn.get_xdata() for drawn in of_mm.lines if len(set(drawn.get_ydata())) == 1 < len(drawn.get_ydata())]
    np.testing.assert_allclose(whiskers, [[-1 / 6, 5 / 6]])
    ticks = [set(drawn.get_xdata()) for drawn in of_mm.lines if drawn.get_color() == "#b8860b"]
    assert [round(tick.pop(), 6) for tick in ticks] == [0.1, 0.3, 0.4]
    assert [text.get_text() for text in of_mm.texts] == ["holds", "-20", lines[1]["note"], lines[2]["note"]]
    assert [text.get_text() for text in of_mm.get_yticklabels()] == ["one", "two", "three"]
    assert dots(of_velocity) == {"o": [(0.5, 0)]}
    assert dots(without) == {"o": [(7, 0)]}
    assert [text.get_text() for text in without.get_yticklabels()] == ["five, mm"]


@pytest.mark.parametrize("draw", [plots.verdicts, lambda table: plots.averages(table, ["MPJPE", "MPJVE"])])
def test_all_that_intervals_are_over_fits_into_the_width_of_the_figure(draw):
    """As while some seeds of profile `open` are not trained yet: of claims, many kinds of people and seeds."""
    kinds = [f"{people} people, {seeds} and 5 seeds" for people in (3, 8) for seeds in (1, 2, 3, 4, 5)]
    claim = {"note": "holds", "side": -1, "smallest": 0.6}
    lines = [line(kind, -3.0, printed=-6.0) | claim | {"over": kind} for kind in kinds]
    figure = draw(pd.DataFrame([*lines, line("another", 3.0, metric="MPJVE") | claim | {"over": kinds[0]}]))
    figure.canvas.draw()
    legend = figure.legends[0]
    assert all(kind in " ".join(legend.get_texts()[0].get_text().split()) for kind in kinds)
    box = legend.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


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
