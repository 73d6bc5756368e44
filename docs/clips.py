"""Viewers on the site: clips of test subjects of `open`, from results/open/clips.npz, and the attention on one clip."""

import html
import json
from pathlib import Path

import numpy as np
import pandas as pd

from mixste import MixSTE
from mixste.data import Clip
from mixste.metrics import joint_errors
from mixste.skeleton import SKELETONS
from mixste.study import pages, store
from mixste.study.plots import color_of
from mixste.wild.viewer import view, view_attention

FILE = store.ROOT / "results" / "open" / "clips.npz"  # of tools/open_clips.py
WEIGHTS = "open-small"  # bundled: those of the study are not in the repository
TRUTH = "#2a78d6"  # VideoPose3D has the grey that the viewer would choose
LICENCE = (
    "Motion: HDM05 (M. Müller, T. Röder, M. Clausen, B. Eberhardt, B. Krüger, A. Weber: Documentation Mocap Database "
    "HDM05, 2007; CC BY-SA 3.0, as are its clips here) and CMU (mocap.cs.cmu.edu, created with funding from NSF "
    "EIA-0196217; free to use, not to be resold as data). These are excerpts, relative to the hip and rounded to "
    "millimetres."
)


def read() -> tuple[dict, list[tuple[dict, Clip, dict[str, np.ndarray]]]]:
    """The contents of FILE: what it says about all clips; then, for each clip, what it says about it, the clip, and the
    poses (frames, joints, 3) of each network, metres relative to the hip.
    """
    with np.load(FILE) as content:
        arrays = {name: content[name] for name in content.files}
    about = json.loads(str(arrays.pop("about")))
    ends = np.cumsum([one["frames"] for one in about["clips"]])[:-1]
    parts = {name: np.split(array, ends) for name, array in arrays.items()}
    clips = []
    for place, one in enumerate(about["clips"]):
        keypoints, truth = parts["keypoints"][place].astype(float), parts["truth"][place] / 1000
        names = {name: one[name] for name in ("subject", "action", "take", "camera", "fps")}
        clip = Clip(**names, resolution=tuple(one["resolution"]), keypoints=keypoints, poses=truth)
        clips.append((one, clip, {name: parts[name][place] / 1000 for name in about["runs"]}))
    return about, clips


def write(folder: Path) -> dict[str, str]:
    """A page with a viewer for each clip, and one for the attention, in a folder. Returns the pages that show them."""
    folder.mkdir(parents=True, exist_ok=True)
    about, clips = read()
    rows = []
    for place, (one, clip, lifted) in enumerate(clips):
        colors = {"truth": TRUTH} | {name: color_of(name) for name in lifted}
        view(clip, lifted, skeleton=SKELETONS[about["skeleton"]], colors=colors).save(folder / f"{place}.html")
        errors = {
            f"{name}, mm": f"{1000 * joint_errors(poses, clip.poses).mean():.1f}" for name, poses in lifted.items()
        }
        name = html.escape(f"{clip.action}, {clip.take}, {clip.camera}")
        play = f'<a href="clips/{place}.html" target="viewer">{name}</a>'
        rows.append({"subject": clip.subject, "play": play, "error of its take": one["error"], **errors})
        rows[-1]["seconds"] = f"{len(clip) / clip.fps:.1f}"
    model = MixSTE.from_pretrained(WEIGHTS)
    long = next(clip for _, clip, _ in clips if len(clip) >= model.frames)
    view_attention(model, long, start=(len(long) - model.frames) // 2).save(folder / "attention.html")
    return {
        "clips": _clips(about, pages.markdown(pd.DataFrame(rows))),
        "attention": _attention(f"{long.subject}, {long.action}, {long.take}"),
    }


def _frame(file: str, title: str) -> str:
    return f'<iframe class="viewer" name="viewer" src="clips/{file}" title="{title}"></iframe>'


def _clips(about: dict, table: str) -> str:
    first, *others = about["runs"]
    runs = ", ".join(f"{name} ([{run}](/results/open/records/{run}.json))" for name, run in about["runs"].items())
    text = (
        f"Test subjects of profile `open`, whom no network was trained on: simulated keypoints, the poses of {first} "
        f"and {', '.join(others)}, and the truth, with the error of each frame. Choose a clip below; drag to turn. "
        f"The runs are those of [Table 1](/study/open/02_table1.md), seed 0: {runs}."
    )
    rule = (
        f"Of each subject, the table has the takes with the lowest, the median and the highest error of {first}: at "
        "most six seconds from the middle, at 25 frames a second, seen by the first camera (by other cameras where "
        "there is one take only). Errors are of the excerpts. `python tools/open_clips.py` makes the clips again, "
        "from the data and the runs."
    )
    return "\n\n".join(["# Clips to play", text, _frame("0.html", "A clip"), table, rule, LICENCE]) + "\n"


def _attention(clip: str) -> str:
    text = (
        "What each joint attends to, and each frame: choose layer, head, joint and frame. The network is the bundled "
        f"[{WEIGHTS}](/mixste/weights/{WEIGHTS}.md), the clip one of the [clips to play](clips.md): {clip}. "
        "Discs on the joints show the spatial attention of the chosen joint, the curve its temporal attention; the two "
        "matrices show all rows of both. The attention of the study's networks, averaged, is in Figure 5: "
        "[smoke](/study/smoke/11_figure5_attention.md), [open](/study/open/11_figure5_attention.md)."
    )
    code = (
        "For your own keypoints:\n\n```python\nfrom mixste import MixSTE\nfrom mixste.wild.outputs import Lifted\n"
        "from mixste.wild.viewer import view_attention\n\n"
        f'view_attention(MixSTE.from_pretrained("{WEIGHTS}"), Lifted.read("lifted/clip.npz"))\n```'
    )
    return (
        "\n\n".join(["# Attention, by layer and joint", text, _frame("attention.html", "Attention"), code, LICENCE])
        + "\n"
    )
