"""Clips of the test subjects of profile `open`, lifted by two networks of its Table 1, which the site plays.

`python tools/open_clips.py` writes results/open/clips.npz, from the open data and the runs in the store. The file is
committed: where the site is built, there are as a rule neither recordings nor weights of the study. It holds excerpts
of a few seconds, relative to the hip and rounded to millimetres, about a megabyte.
"""

import json
import sys
from collections import defaultdict

import numpy as np

from mixste.accel import accelerate
from mixste.camera import normalize_screen
from mixste.io import DataError
from mixste.io.files import replacing
from mixste.predict import predict
from mixste.study import records, store
from mixste.study.profiles import PROFILES
from mixste.study.tables import TABLES

PROFILE, ROWS = "open", ("mixste-81", "videopose3d-243")  # of Table 1; the takes are chosen by the first one's errors
SECONDS, RATE = 6, 25  # of an excerpt, from the middle of its take, and frames a second in the file
CLIPS = store.ROOT / "results" / PROFILE / "clips.npz"


def chosen(record: records.Record) -> list[tuple[str, tuple[str, str, str]]]:
    """Of each test subject, the takes with the lowest, the median and the highest MPJPE: (which, take).

    A subject with fewer takes has one of them several times.
    """
    errors = record.takes.query("protocol == 'exact' and metric == 'MPJPE'").sort_values("value", kind="stable")
    out = []
    for _, own in errors.groupby("subject"):
        takes = list(own[records.TAKE].itertuples(index=False, name=None))
        out += [("lowest", takes[0]), ("median", takes[len(takes) // 2]), ("highest", takes[-1])]
    return out


def main() -> None:
    """Write the file. RunError if a run is not in the store, DataError without the data."""
    rows = [TABLES["table1"].row(PROFILES[PROFILE], key) for key in ROWS]
    finished = [store.finished(row.runs[0]) for row in rows]
    models = {row.short: accelerate(run.model()) for row, run in zip(rows, finished, strict=True)}
    dataset = PROFILES[PROFILE].detected.load()
    views = defaultdict(list)  # of each take: a take that is shown again is seen by the next camera
    for clip in dataset.test:
        views[clip.subject, clip.action, clip.take].append(clip)
    about = {
        "runs": {row.short: run.id for row, run in zip(rows, finished, strict=True)},
        "skeleton": dataset.skeleton.name,
        "clips": [],
    }
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in ("keypoints", "truth", *models)}
    for which, take in chosen(records.Record.of(finished[0])):
        clip = views[take].pop(0)
        length, step = round(SECONDS * clip.fps), round(clip.fps / RATE)
        start = max(0, (len(clip) - length) // 2)
        clip = clip.part(slice(start, start + length))
        points = normalize_screen(clip.keypoints, *clip.resolution)
        lifted = {name: predict(model, points, skeleton=dataset.skeleton) for name, model in models.items()}
        for name, poses in {"truth": clip.poses, **lifted}.items():
            relative = poses - poses[:, [dataset.skeleton.root]]
            arrays[name].append(np.round(1000 * relative[::step]).astype(np.int16))
        arrays["keypoints"].append(np.round(clip.keypoints[::step]).astype(np.int16))
        names = {name: getattr(clip, name) for name in ("subject", "action", "take", "camera", "resolution")}
        about["clips"].append(names | {"error": which, "frames": len(arrays["truth"][-1]), "fps": clip.fps / step})
        print(clip.name, which, len(clip), "frames", flush=True)
    content = {name: np.concatenate(parts) for name, parts in arrays.items()}
    with replacing(CLIPS) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **content)
    print(f"{store.shown(CLIPS)}: {CLIPS.stat().st_size:,} bytes")


if __name__ == "__main__":
    try:
        main()
    except (store.RunError, DataError) as error:
        sys.exit(str(error))
