"""At how many poses a second files and live input are lifted: results/bench/stream.csv, tables of docs/lift.md.

`python tools/stream.py` times `predict`, as `mixste lift` calls it, and `stream` with all bundled weights on one core.
With a video, as in `python tools/stream.py film.mp4`, it also times `docs/webcam.py` on it, detector included, which
needs the extra `video`; without one, the table has no such row. Speeds are per second of processor time, so that other
programs on the machine matter little.
"""

import runpy
import sys
import time
from collections.abc import Iterable
from itertools import islice, repeat

import numpy as np
import pandas as pd
import torch
from measuring import hardware
from readme import LIFT, fill

from mixste import MixSTE
from mixste.accel import accelerate
from mixste.camera import normalize_screen
from mixste.data import load
from mixste.io.files import replacing
from mixste.io.install import PACKAGE, needs_checkout
from mixste.io.weights import bundled
from mixste.predict import predict
from mixste.study import pages
from mixste.wild.export import stream

RESULT = PACKAGE.parent / "results" / "bench" / "stream.csv"
POSES = 60  # timed, after as many that are not
SETTINGS = (
    {"every": 1, "flip": True, "delay": 5},
    {"every": 1, "flip": False, "delay": 5},
    {"every": 5, "flip": False, "delay": 5},
    {"every": 10, "flip": False, "delay": 5},
)
WEBCAM = SETTINGS[2]  # those of docs/webcam.py


def speed(poses: Iterable, count: int = POSES) -> float:
    """Poses for each second of the processor, in steady state."""
    poses = iter(poses)
    for _ in islice(poses, count):
        pass
    started = time.process_time()
    timed = sum(1 for _ in islice(poses, count))
    return timed / (time.process_time() - started)


def measure(film: str | None) -> pd.DataFrame:
    """A row for each of the bundled weights and settings; with a film, also for the webcam's program."""
    clip = load("synthetic").test[0]
    frames = normalize_screen(np.resize(clip.keypoints, (20 * POSES, 17, 2)), *clip.resolution)
    rows = []
    for name in bundled():
        model = MixSTE.from_pretrained(name)
        whole = (pose for part in repeat(frames) for pose in predict(accelerate(model), part))
        file = {"every": None, "flip": True, "delay": None, "poses_per_second": speed(whole, len(frames))}
        rows.append({"weights": name, "what": "lift"} | file)
        rows += [
            {"weights": name, "what": "stream", **options, "poses_per_second": speed(stream(model, frames, **options))}
            for options in SETTINGS
        ]
        if film is not None:
            webcam = runpy.run_path(str(PACKAGE.parent / "docs" / "webcam.py"))["webcam"]
            poses = stream(model, webcam(film), **WEBCAM)
            rows.append({"weights": name, "what": "webcam.py", **WEBCAM, "poses_per_second": speed(poses)})
    about = {"hardware": hardware(torch.device("cpu")).partition(",")[0], "torch": torch.__version__}
    table = pd.DataFrame(rows).round({"poses_per_second": 1}).assign(**about)
    return table.astype({"every": "Int64", "delay": "Int64"})


def markdown(measurements: pd.DataFrame) -> str:
    """The table of docs/lift.md."""
    lines = [
        {"weights": row.weights, "what": row.what, "`every`": f"{row.every:.0f}", "`flip`": "on" if row.flip else "off"}
        | {"poses a second": f"{row.poses_per_second:.0f}"}
        for row in measurements[measurements["what"] != "lift"].itertuples()
    ]
    [hardware] = measurements["hardware"].unique()
    caption = f"Measured on one core of an {hardware} by `python tools/stream.py`."
    return f"{pages.markdown(pd.DataFrame(lines))}\n\n{caption}"


def main() -> None:
    needs_checkout("timing live input")
    torch.set_num_threads(1)
    measurements = measure(*(sys.argv[1:2] or [None]))
    with replacing(RESULT) as temporary:
        measurements.to_csv(temporary, index=False)
    fill(LIFT, "stream", markdown(measurements))
    print(measurements.to_string(index=False))


if __name__ == "__main__":
    main()
