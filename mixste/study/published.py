"""The numbers that the paper prints in its Tables 1–7."""

from pathlib import Path

import pandas as pd

_ROW = ["table", "method", "venue", "keypoints", "frames", "depth", "dim", "detail", "metric", "unit"]


def published(table: int | None = None) -> pd.DataFrame:
    """The printed numbers of Table `table` (None: of all seven), one a row, in printed order.

    table: its number. method: "Ours" is MixSTE. venue: where the method appeared. keypoints: "CPN", "HRNet" or "GT".
    frames, depth, dim: T, d_l and d_m. detail: the variant, as "fine-tuned" or "+ joint separation". metric: "MPJPE",
    "P-MPJPE", "MPJVE", "PCK", "AUC" or "FLOPs". column: a canonical action; "Walk S1" to "Jog S3" in Table 4; "Avg.",
    also where a table has nothing but overall figures. value, unit: "mm", "%" or, of FLOPs, "M/frame".
    What the paper does not say of a row is "" or NA; a printed "-" has no row. Raises ValueError for other tables.
    """
    integers = ["frames", "depth", "dim"]
    numbers = pd.read_csv(
        Path(__file__).with_name("published.csv"),
        dtype={"value": float, **dict.fromkeys(integers, "Int64")},
        keep_default_na=False,  # text that is not there is "", not NaN
        na_values=dict.fromkeys(integers, ""),
    )
    if table is None:
        return numbers
    if table not in set(numbers["table"]):
        raise ValueError(f"expected a table from 1 to 7, found {table!r}")
    return numbers[numbers["table"] == table].reset_index(drop=True)


def averages() -> pd.DataFrame:
    """Of every row of Tables 1, 2 and 4: the `printed` average beside the `mean` of the numbers it is the average of.

    Rounding to a tenth can make them differ by up to 0.1: half a tenth from the average, half from the numbers.
    """
    numbers = published()
    is_average = numbers["column"] == "Avg."
    means = numbers[~is_average].groupby(_ROW, sort=False, dropna=False, as_index=False)["value"].mean()
    printed = numbers[is_average].drop(columns="column")
    return means.rename(columns={"value": "mean"}).merge(printed.rename(columns={"value": "printed"}), on=_ROW)
