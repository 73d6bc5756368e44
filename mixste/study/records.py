"""Records of runs in the repository, from which all tables and figures that need no weights are drawn.

`results/<profile>/records/<run id>.json` holds a run's settings, where and in what time it was made, its learning
curve, its errors by take (averaged over views, which are not independent evidence) and by take and joint, and how the
errors of its poses are distributed. It has up to some 90 KB. A training that failed has a record too, with the
reason and the curve. Plain JSON, with as many digits as tables show: the same run gives the same bytes.
"""

import contextlib
import functools
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from mixste.io import DataError
from mixste.io.files import replacing
from mixste.skeleton import SKELETONS, Skeleton
from mixste.study import store
from mixste.study.run import Run, read_spec, run_of, spec
from mixste.study.store import Finished

TAKE = ["subject", "action", "take"]
COLUMNS = [*TAKE, "frames", "protocol", "metric", "value", "unit"]  # of errors by take
LIMIT = 1000  # millimetres: errors of poses are counted in bins of 1 mm up to here, and all others in one more
FORMAT = 1


class RecordError(ValueError):
    """A file that is not a record, or a damaged one; the message names it and the fault."""


@dataclass(frozen=True, eq=False)
class Record:
    """The record of one run. content: that of its file; the properties give its parts as tables."""

    content: dict

    @classmethod
    def of(cls, finished: Finished) -> "Record":
        """The record of a run in the store. RunError if one of its files is damaged."""
        run, environment = read_spec(finished.file("spec.json")), finished.environment
        layout = environment.pop("layout", None)
        content = {
            "format": FORMAT,
            "id": finished.id,
            "spec": json.loads(spec(run)),
            "environment": {name: _short(value) for name, value in environment.items()},
            "failed": finished.failed,
            "curve": {name: [_short(x) for x in values.tolist()] for name, values in finished.history.items()},
        }
        if finished.failed:
            return cls(content)
        return cls(content | {"layout": layout or run.data.layout.name} | _errors(finished))

    @property
    def id(self) -> str:
        return self.content["id"]

    @functools.cached_property
    def spec(self) -> Run:
        """The settings. They equal those of a planned run even where data or code have changed since."""
        return run_of(self.content["spec"])

    @property
    def environment(self) -> dict:
        """Where the run was made: device, versions of packages, seconds of training and testing."""
        return self.content["environment"]

    @property
    def failed(self) -> str:
        """Why the training failed; empty if it did not. A failed run has no errors, only a curve."""
        return self.content["failed"]

    @property
    def at_constant_level(self) -> bool:
        """Whether the network is no better than a constant pose, see `mixste.networks.references`."""
        return self.environment.get("at_constant_level", False)

    @property
    def curve(self) -> pd.DataFrame:
        """The learning curve: step, poses, epoch, learning_rate, loss, and test_mpjpe where the run took it."""
        return pd.DataFrame(self.content["curve"])

    @property
    def layout(self) -> Skeleton:
        return SKELETONS[self.content["layout"]]

    @functools.cached_property
    def takes(self) -> pd.DataFrame:
        """Errors by take, in the order of the test clips.

        Columns: `COLUMNS`, with the number of frames that were counted.
        """
        return _unpacked(self.content)

    @functools.cached_property
    def unseen_takes(self) -> pd.DataFrame:
        """The same of takes of the training subjects that were not trained on; empty where none are kept back."""
        packed = self.content.get("unseen_takes")
        return _unpacked(packed) if packed else pd.DataFrame(columns=COLUMNS)

    @functools.cached_property
    def frames(self) -> pd.Series:
        """How many poses of each take `joints` and `histogram` are about: each valid frame of each view, once."""
        exact = self.takes.query("protocol == 'exact' and metric == 'MPJPE'")
        return exact.set_index(TAKE)["frames"]

    @property
    def joints(self) -> pd.DataFrame:
        """(takes, joints), the mean error of each joint in millimetres."""
        return pd.DataFrame(self.content["joints"], self.frames.index, self.layout.joints)

    @functools.cached_property
    def histogram(self) -> pd.DataFrame:
        """(takes, LIMIT + 1), how many poses have an error of 0 to 1 mm, 1 to 2 mm, …, LIMIT and more.

        The error of a pose is the mean over its joints.
        """
        counts = np.zeros((len(self.frames), LIMIT + 1), dtype=int)
        for row, (first, filled) in zip(counts, self.content["histogram"], strict=True):
            row[first : first + len(filled)] = filled
        return pd.DataFrame(counts, self.frames.index)

    def shares(self, threshold: float) -> pd.Series:
        """Of each take, the percentage of poses with an error below a threshold in mm, at most LIMIT.

        Exact at whole millimetres; in between, the poses of a bin count as spread evenly over it.
        """
        below = np.pad(self.histogram.to_numpy()[:, :LIMIT].cumsum(axis=1), ((0, 0), (1, 0)))
        share = [np.interp(threshold, np.arange(LIMIT + 1), take) for take in below]
        return 100 * pd.Series(share, self.frames.index) / self.frames


def quantiles(records: Iterable[Record], percent: Iterable[float]) -> Float[np.ndarray, "percent"]:
    """The error in mm that so many percent of all poses of these runs are below, interpolated within a bin of 1 mm.

    LIMIT where it is that or more.
    """
    counts = sum(record.histogram.sum().to_numpy() for record in records)
    below = counts.cumsum()
    rank = np.maximum(np.asarray(list(percent)) / 100 * below[-1], 1e-9)  # of 0 %: in the first bin that is not empty
    bins = np.searchsorted(below, rank)
    return np.minimum(bins + 1 - (below[bins] - rank) / counts[bins], LIMIT)


def by_take(clips: pd.DataFrame) -> pd.DataFrame:
    """Errors by clip (`mixste.evaluate.evaluate`, with a column protocol) as errors by take: views weigh by frames."""
    return store.over_frames(clips, [*TAKE, "protocol", "metric", "unit"]).reset_index()[COLUMNS]


def _unpacked(content: dict) -> pd.DataFrame:
    """The table of `by_take` from what `_packed` makes of it."""
    tables, frames = [], {}
    for entry in content["errors"]:
        frames[entry["protocol"]] = entry.get("frames", frames.get(entry["protocol"]))
        about = {name: entry[name] for name in ("protocol", "metric", "unit")}
        columns = {"frames": frames[entry["protocol"]], "value": np.array(entry["value"], dtype=float)}
        tables.append(pd.DataFrame(content["takes"], columns=TAKE).assign(**columns, **about))
    return pd.concat(tables, ignore_index=True).dropna(subset="value")[COLUMNS]


def _packed(table: pd.DataFrame) -> dict:
    """Errors by take, in a record: the takes, and for each protocol and metric the values in their order."""
    order = table.query("protocol == 'exact' and metric == 'MPJPE'").set_index(TAKE).index
    entries, frames = [], {}
    for (protocol, metric, unit), group in table.groupby(["protocol", "metric", "unit"], sort=False):
        group = group.set_index(TAKE).reindex(order)
        entry = {"protocol": protocol, "metric": metric, "unit": unit}
        counted = group["frames"].fillna(0).astype(int).tolist()
        if frames.get(protocol) != counted:  # as a rule those of the metric before
            entry["frames"] = frames[protocol] = counted
        entries.append(entry | {"value": [_rounded(value, 3) for value in group["value"]]})
    return {"takes": [list(names) for names in order], "errors": entries}


def _errors(finished: Finished) -> dict:
    """The part of a record's content that a failed run lacks."""
    clips, unseen = finished.clips, finished.unseen_takes
    errors = _packed(by_take(clips)) | ({"unseen_takes": _packed(by_take(unseen))} if len(unseen) else {})
    order = pd.MultiIndex.from_frame(pd.DataFrame(errors["takes"], columns=TAKE))
    views = clips.query("protocol == 'exact' and metric == 'MPJPE'")
    take = np.repeat(order.get_indexer(pd.MultiIndex.from_frame(views[TAKE])), views["frames"])  # of each frame
    of_joints = finished.joint_errors.astype(np.float64)  # (frames, joints)
    joints = np.stack([np.bincount(take, joint) / np.bincount(take) for joint in of_joints.T], axis=1)
    bins = np.minimum(of_joints.mean(axis=1), LIMIT).astype(int)
    counts = np.zeros((len(order), LIMIT + 1), dtype=int)
    np.add.at(counts, (take, bins), 1)
    return errors | {
        "joints": [[_rounded(value, 2) for value in one] for one in joints.tolist()],
        "histogram": [_trimmed(take) for take in counts],  # the first bin that is not empty, and the counts from there
    }


def _trimmed(counts: np.ndarray) -> tuple[int, list[int]]:
    filled = np.flatnonzero(counts)
    return int(filled[0]), counts[filled[0] : filled[-1] + 1].tolist()


def _rounded(value: float, digits: int) -> float | None:
    """None, which JSON can write, where it is not finite."""
    return round(value, digits) if math.isfinite(value) else None


def _short(value):
    """A float with six significant digits, None where it is not finite; anything else as it is."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write(record: Record, folder: Path) -> Path:
    """<run id>.json in a folder; one line for each part, for readable differences."""
    path = folder / f"{record.id}.json"
    parts = (
        f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False)}"
        for name, value in record.content.items()
    )
    with replacing(path) as temporary:
        temporary.write_text("{" + ",\n".join(parts) + "}\n", encoding="utf-8")
    return path


def read(path: Path) -> Record:
    """A record from its file. RecordError if it holds something else, or is damaged."""
    try:
        record = Record(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse))
        _check(record, path.stem)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error or type(error).__name__
        raise RecordError(f"expected the record of a run in {path}, found {what}") from None
    return record


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant}, which `write` writes for no number")


def _check(record: Record, name: str) -> None:
    """Raise unless all parts can be read and are consistent."""
    if not isinstance(record.content, dict) or record.content.get("format") != FORMAT:
        raise ValueError(f"another format than {FORMAT}")
    if record.id != name:
        raise ValueError(f"that of run {record.id}")
    if not (isinstance(record.failed, str) and isinstance(record.environment, dict)):
        raise ValueError("no text as the reason of a failure, or no table as the environment")
    hash(record.spec), record.curve  # which raise what is wrong
    if record.failed:
        return
    takes, joints = record.takes, record.joints.to_numpy()
    if not (len(takes) and np.isfinite(joints.astype(float)).all() and (record.frames > 0).all()):
        raise ValueError("errors that are no numbers, or none at all")
    if (record.histogram.sum(axis=1) != record.frames).any():
        raise ValueError("a histogram of other poses than its frames")
    if takes.duplicated([*TAKE, "protocol", "metric"]).any():
        raise ValueError("a take or a metric twice")
    counts = takes[takes["metric"] == "MPJPE"]["protocol"].value_counts()
    if not (counts.get("authors") == counts.get("exact") and (takes["value"] >= 0).all()):
        raise ValueError("no MPJPE of some takes by one of the protocols, or an error below zero")


def folder(profile: str) -> Path:
    """Where the published records of a profile are."""
    return store.ROOT / "results" / profile / "records"


def find(wanted: Iterable[Run], profile: str) -> dict[Run, Record]:
    """The records of these runs; those that have none are left out.

    The record of a run that is in the store is made from it. For any other run it is the published record with the same
    settings, even where data or code have changed since; the data need not be here. A failed training has a record too.
    RecordError if two published records have the same settings: neither is preferred.
    """
    wanted = list(wanted)
    stored, published = _settings_in_store(), _published(folder(profile))
    records = {run: _of_store(run, stored) or published.get(run) for run in wanted}
    return {run: record for run, record in records.items() if record is not None}


def of_id(name: str, profile: str) -> Record | None:
    """The record of the run of this id, in the store or published; None if there is none, or it is damaged."""
    path, published = store.store() / name, folder(profile) / f"{name}.json"
    if store.is_whole(path):
        with contextlib.suppress(store.RunError):
            return _of(path, (path / "manifest.json").stat().st_mtime_ns)
    return _read(published, published.stat().st_mtime_ns) if published.exists() else None


def publish(wanted: Iterable[Run], profile: str) -> list[Path]:
    """Write the records of these runs into the repository, and remove those of others. Returns the files written."""
    kept = find(wanted, profile).values()
    # First, so that there are never two of equal settings.
    for path in set(folder(profile).glob("*.json")) - {folder(profile) / f"{record.id}.json" for record in kept}:
        path.unlink()
    return [write(record, folder(profile)) for record in kept]


def _settings_in_store() -> set[Run]:
    """The settings of all that is in the store, whole or not: the id of no other run is asked for, which reads data."""
    settings = set()
    for path in store.store().glob("*/spec.json"):
        if store.NAME.fullmatch(path.parent.name):
            with contextlib.suppress(OSError, ValueError):
                settings.add(read_spec(path))
    return settings


def _of_store(run: Run, stored: set[Run]) -> Record | None:
    """The record of a run in the store, or of one that cannot be trained because the run it starts from failed."""
    if not (run in stored or (run.start and run.start in stored)):
        return None
    with contextlib.suppress(DataError):  # without the data, the id of the run cannot be computed
        path = store.store() / run.id
        if store.is_whole(path):
            return _of(path, (path / "manifest.json").stat().st_mtime_ns)
        if why := store.failure(run):
            content = {"format": FORMAT, "id": run.id, "spec": json.loads(spec(run)), "environment": {}}
            return Record(content | {"failed": why, "curve": {}})
    return None


@functools.lru_cache(maxsize=1024)
def _of(path: Path, sealed: int) -> Record:
    return Record.of(Finished(path))


def _published(folder: Path) -> dict[Run, Record]:
    paths = sorted(path for path in folder.glob("*.json") if path.is_file())
    published: dict[Run, Record] = {}
    for record in filter(None, (_read(path, path.stat().st_mtime_ns) for path in paths)):
        if other := published.get(record.spec):
            raise RecordError(
                f"expected one record of each training in {store.shown(folder)}, found {other.id}.json and "
                f"{record.id}.json with the same settings: remove the one that no table names"
            )
        published[record.spec] = record
    return published


@functools.lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> Record | None:
    """`read`, but None for a file that is no record, after a sentence that says so."""
    try:
        return read(path)
    except RecordError as error:
        print(f"{store.shown(path)} is left out: {error}", flush=True)
        return None
