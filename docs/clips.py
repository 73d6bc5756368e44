"""Clips to play on the site: synthetic test people of profile smoke, lifted by the bundled weights."""

from dataclasses import replace
from pathlib import Path

from mixste import MixSTE
from mixste.camera import normalize_screen
from mixste.predict import predict
from mixste.study.profiles import PROFILES
from mixste.wild.viewer import view

SHOWN = 3  # clips, of different actions
WEIGHTS = "open-small"


def write(folder: Path) -> dict[str, str]:
    """A page with a viewer for each clip. Returns the names of the files and what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    model = MixSTE.from_pretrained(WEIGHTS)
    dataset = replace(PROFILES["smoke"].data, stride=2).load()  # 25 frames a second, as the weights know it
    clips = {clip.action: clip for clip in sorted(dataset.test, key=len)}  # the longest of each action
    shown = {}
    for place, (action, clip) in enumerate(list(clips.items())[-SHOWN:]):
        poses = predict(model, normalize_screen(clip.keypoints, *clip.resolution), skeleton=dataset.skeleton)
        view(clip, {WEIGHTS: poses}).save(folder / f"{place}.html")
        shown[f"{place}.html"] = f"{action}, {clip.subject}: {len(clip)} frames at {clip.fps:g} a second"
    return shown
