import csv
from itertools import groupby
from pathlib import Path

import pytest

import mixste.study
from mixste.study.published import averages, published

ACTIONS = [
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Photo", "Posing", "Purchases", "Sitting"),
    *("SittingDown", "Smoking", "Waiting", "WalkDog", "Walking", "WalkTogether"),
]


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        (1, (16 + 8 + 4) * 16 - 15),  # MPJPE, P-MPJPE and MPJVE; [25] prints its average alone
        (2, 5 * 16),
        (3, 9 * 3 - 1),  # [33] prints no MPJPE
        (4, 7 * 7),
        (5, 4 * 2),
        (6, 6 * 2),
        (7, 12),
    ],
)
def test_every_number_of_a_table_is_there_once(table, rows):
    numbers = published(table)
    assert len(numbers) == rows
    assert (numbers["table"] == table).all()
    assert not numbers.drop(columns="value").duplicated().any()


def test_all_tables_by_default_and_no_others():
    assert published()["table"].drop_duplicates().tolist() == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="from 1 to 7, found 8"):
        published(8)


def test_columns_are_typed_and_in_printed_order():
    numbers = published()
    assert numbers["value"].dtype == float
    assert {numbers[name].dtype.name for name in ("frames", "depth", "dim")} == {"Int64"}
    assert not numbers.drop(columns=["frames", "depth", "dim"]).isna().any(axis=None)
    assert published(1)["column"].drop_duplicates().tolist() == [*ACTIONS, "Avg."]
    assert published(4)["column"].drop_duplicates().tolist() == [
        *("Walk S1", "Walk S2", "Walk S3", "Jog S1", "Jog S2", "Jog S3", "Avg.")
    ]
    assert dict(zip(numbers["metric"], numbers["unit"], strict=True)) == {
        **dict.fromkeys(["MPJPE", "P-MPJPE", "MPJVE"], "mm"),
        **dict.fromkeys(["PCK", "AUC"], "%"),
        "FLOPs": "M/frame",
    }


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (47.3, 'metric == "P-MPJPE" and method == "Ours" and keypoints == "HRNet" and column == "SittingDown"'),
        (39.8, 'metric == "MPJPE" and method == "Ours" and keypoints == "HRNet" and column == "Avg."'),
        (1.6, 'table == 1 and method == "Ours" and metric == "MPJVE" and column == "Sitting"'),
        (54.0, 'table == 1 and method == "Lin et al." and metric == "MPJPE"'),
        (49.0, 'table == 1 and method == "Pavllo et al." and metric == "MPJPE" and column == "WalkDog"'),
        (31.3, 'table == 2 and method == "Zheng et al." and column == "Avg."'),
        (14.7, 'table == 2 and method == "Ours" and frames == 243 and column == "Walking"'),
        (66.5, 'table == 3 and method == "Ours" and frames == 27 and metric == "AUC"'),
        (11.0, 'table == 4 and method == "Zheng et al." and detail == "" and column == "Walk S2"'),
        (24.6, 'table == 4 and method == "Ours" and detail == "interval = 1" and column == "Jog S1"'),
        (186405, 'table == 5 and detail == "+ alternating design" and metric == "FLOPs"'),
        (41.7, 'table == 5 and detail == "+ joint separation" and metric == "MPJPE"'),
        (2.6, 'table == 6 and detail == "WMPJPE Loss + MPJVE Loss" and metric == "MPJVE"'),
        (51.1, "table == 7 and depth == 10 and dim == 64 and frames == 27"),
        (41.8, "table == 7 and depth == 8 and dim == 512 and frames == 300"),
    ],
)
def test_spot_values(value, where):
    assert published().query(where)["value"].tolist() == [value]


def test_the_full_model_prints_one_number_wherever_it_stands():
    rows = (
        'table == 1 and keypoints == "CPN" and frames == 243',
        'table == 5 and detail == "+ our loss"',
        'table == 6 and detail == "WMPJPE Loss + T-Loss"',
        "table == 7 and depth == 8 and dim == 512 and frames == 243",
    )
    ours = published().query('method == "Ours" and metric == "MPJPE" and column == "Avg."')
    assert [ours.query(row)["value"].tolist() for row in rows] == [[40.9]] * 4


def test_averages_that_rounding_does_not_explain():
    rows = averages()
    assert len(rows) == 15 + 8 + 4 + 5 + 7  # all rows of Tables 1, 2 and 4 but [25], which has nothing to average
    off = rows[(rows["printed"] - rows["mean"]).abs() > 0.1 + 1e-9]
    found = {
        (row.table, row.method, row.keypoints, row.metric): (row.printed, round(row.mean, 2))
        for row in off.itertuples()
    }
    assert found == {
        (1, "Ours", "HRNet", "MPJPE"): (39.8, 39.54),
        (1, "Ours", "HRNet", "P-MPJPE"): (30.6, 30.44),
        (2, "Ours", "GT", "MPJPE"): (21.6, 21.49),
        # Peers' rows that do not add up either.
        (1, "Pavlakos et al.", "", "MPJPE"): (56.2, 55.77),
        (1, "Wang et al.", "HRNet", "MPJPE"): (42.6, 42.73),
        (1, "Wang et al.", "CPN", "P-MPJPE"): (34.5, 34.65),
        (1, "Wang et al.", "HRNet", "P-MPJPE"): (32.7, 32.92),
        (2, "Wang et al.", "GT", "MPJPE"): (25.6, 25.17),
    }
    assert (off.loc[(off["method"] == "Ours") & (off["table"] == 2), "frames"] == 243).all()


def squeeze(text: str) -> str:
    return text.replace(" ", "")


def test_every_row_is_a_line_of_the_paper(paper_text):
    """What each printed row says and its numbers, digit for digit and in order, stand in one line of the text."""
    with Path(mixste.study.__file__).with_name("published.csv").open(newline="") as file:
        numbers = list(csv.DictReader(file))
    lines = [line.removesuffix(" -") for line in paper_text.splitlines()]

    def row_of(number):
        names = ("table", "method", "venue", "keypoints", "frames", "depth", "dim", "detail")
        return [number[name] for name in names], number["metric"] if number["table"] in "12" else "all metrics"

    for ((table, method, venue, keypoints, frames, depth, dim, _), _), row in groupby(numbers, row_of):
        values = " ".join(number["value"] for number in row)
        if table in "1234":
            words = [venue, f"T={frames}" if frames else "", keypoints if table == "1" else ""]
        else:
            words, method = [f"{depth} {dim} {frames}" if table == "7" else ""], ""
        assert any(
            line.startswith(method) and line.endswith(values) and all(squeeze(word) in squeeze(line) for word in words)
            for line in lines
        ), (table, method, *words, values)
