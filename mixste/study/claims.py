"""The paper's claims that compare two rows of a table, and the rule for their verdict."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mixste.study import report, tidy
from mixste.study.profiles import Profile
from mixste.study.run import Run
from mixste.study.tables import CONSTANT, TABLES, Row

NOTHING_REPEATED = "one training of each, on these people"  # without an interval, a difference may be chance


@dataclass(frozen=True)
class Claim:
    """One claim: that `row` differs from `against` in `metric`, by the number printed.

    where: in the paper. claim: in words, unique with its number. printed: row − against, in `unit`; "%" is relative to
    the row compared with, but for PCK, which is in points. table, row, against: keys, see `mixste.study.tables`.
    """

    where: str
    claim: str
    printed: float
    unit: str
    table: str
    row: str
    against: str
    metric: str

    def rows(self, profile: Profile) -> tuple[Row, Row]:
        """(row, row compared with)."""
        table = TABLES[self.table]
        return table.row(profile, self.row), table.row(profile, self.against)

    def runs(self, profile: Profile) -> list[Run]:
        return [run for row in self.rows(profile) for run in row.runs]


def claims() -> list[Claim]:
    """All of them, in the paper's order."""
    table = pd.read_csv(Path(__file__).with_name("claims.csv"), dtype=str)
    return [Claim(**line | {"printed": float(line["printed"])}) for line in table.to_dict("records")]


def on_claimed_side(claimed: float, low: float, high: float) -> bool | None:
    """Whether a difference lies on the claimed side of zero, by the ends of its interval.

    claimed: a number of that side, such as the paper's. None if the interval contains zero, or where there is none.
    """
    worst, best = sorted(np.sign(claimed) * np.array([low, high]))
    return True if worst > 0 else False if best < 0 else None


def verdict(
    holds: bool | None,
    reasons: Iterable[str] = (),
    these_networks: bool = False,
    seeds: Mapping[str, str] | None = None,
) -> str:
    """ "holds", "does not hold", or "open".

    reasons: why the numbers say nothing about the claim, such as a collapsed training. If there are any, the verdict is
    "open", with the first of them. these_networks: whether a method was trained once, so that the verdict is about
    that network, not about the method: "holds for these networks". seeds: of each method of which a training failed,
    how many did not, see `tidy.sound_seeds`: "holds, from 2 of 3 seeds of MixSTE".
    """
    some = "".join(f", from {sound} of {name}" for name, sound in (seeds or {}).items() if sound)
    for reason in reasons:
        return f"open: {reason}{some}"
    if holds is None:
        return f"open{some}"
    return ("holds" if holds else "does not hold") + (" for these networks" if these_networks else "") + some


def judge(claim: Claim, profile: Profile) -> dict[str, object]:
    """Columns of a tidy table: ours in the claim's unit with its interval, the verdict as note, runs and seeds.

    There is no value where all trainings of a row failed, or none is there.
    """
    table = replace(TABLES[claim.table], metrics=(claim.metric,), averages_only=True)
    row, base = claim.rows(profile)
    rows = [replace(base, against=""), replace(row, against=base.key), table.row(profile, CONSTANT)]
    values = report.measure(table, profile, rows, partial=True)
    about = {"against": base.label, "metric": claim.metric, "unit": claim.unit, "printed": claim.printed}
    about |= {"protocol": values["protocol"].iloc[0], "seeds": 0}
    absent = values[tidy.without_value(values) & (values["row"] != CONSTANT)]
    values = values.set_index(["row", "against"])
    if len(absent):
        label, runs, why = absent[["row", "runs", "note"]].iloc[0]
        return about | {"note": verdict(None, [f"{label} {tidy.why_without(why)}"]), "runs": runs}
    difference = values.loc[(row.label, base.label)]
    relative = claim.unit == "%" and claim.metric != "PCK"
    factor = 100 / values.loc[(base.label, ""), "value"] if relative else 1.0
    value, low, high = (factor * difference[["value", "low", "high"]]).astype(float)
    reasons = [fault for fault in (report.SEEDS_DIVERGE, report.AT_LEVEL) if fault in difference["note"]]
    reasons += [] if difference["over"] else [NOTHING_REPEATED]
    both = values.loc[[(row.label, ""), (base.label, "")]]
    sound = {label: tidy.sound_seeds(note) for (label, _), note in both["note"].items()}
    note = verdict(on_claimed_side(claim.printed, low, high), reasons, bool((both["seeds"] == 1).any()), sound)
    about |= {"note": note, **difference[["over", "runs", "seeds"]]}
    return about | {"value": value, "low": low, "high": high}
