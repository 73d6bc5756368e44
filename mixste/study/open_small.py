"""The weights in the box: `MixSTE.from_pretrained("open-small")`, and the numbers on its card.

`python -m mixste.study.open_small` trains them on open-subjects and writes `weights.safetensors`, `history.csv` and
`errors.csv` into `runs/open-small/`. It wants a GPU for some minutes, and goes on where it was stopped.
"""

from dataclasses import replace

import pandas as pd
import torch

from mixste import MixSTE, checkpoints
from mixste.data import Clip, load
from mixste.data.virtual import DETECTORS
from mixste.evaluate import evaluate
from mixste.study import runs
from mixste.train import Recipe, train

SIZES = {"frames": 81, "dim": 128, "depth": 8}
POSES = 60_000_000
# Whoever uses these weights has another body, another camera and another detector than any clip here.
RECIPE = Recipe(
    scaled_gradient=False,
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="cosine",
    batch_frames=32 * 81,
    drop_path=0.0,
    body_shapes=True,
    new_cameras=True,
)
KEYPOINTS = ("gt", *DETECTORS)


def half_rate(clip: Clip) -> Clip:
    """Every second frame: people's cameras film at 25 or 30 frames a second."""
    return replace(clip, fps=clip.fps / 2, keypoints=clip.keypoints[::2], poses=clip.poses[::2])


def training_clips() -> list[Clip]:
    """All but the test people of open-subjects, as each detector sees them, at 50 and 25 frames a second."""
    clips = []
    for keypoints in KEYPOINTS:
        dataset = load("open-subjects", keypoints=keypoints)
        clips += dataset.train + dataset.validation
    return clips + [half_rate(clip) for clip in clips]


def errors(model: MixSTE, source: str, rig: str | None = None, test_cameras: int = 0) -> pd.DataFrame:
    """Errors on a source's test clips by detector, frame rate and person, each frame once: tidy rows."""
    tables = []
    for keypoints in KEYPOINTS:
        clips = runs.Data(source, keypoints, rig, test_cameras=test_cameras).load().test
        for rate in (clips, [half_rate(clip) for clip in clips]):
            table = evaluate(model, rate, "exact")
            weighted = table.assign(value=table["value"] * table["frames"])
            sums = weighted.groupby(["subject", "metric", "unit"])[["value", "frames"]].sum()
            mean = (sums["value"] / sums["frames"]).round(2).rename("value").reset_index()
            tables.append(mean.assign(source=source, keypoints=keypoints, fps=rate[0].fps))
    return pd.concat(tables)


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = runs.store() / "open-small"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = MixSTE(**SIZES).to(device)
    clips = training_clips()
    history = train(model, clips, load("synthetic").skeleton, RECIPE, POSES, 0, folder, title="open-small")
    checkpoints.save_checkpoint(model, folder / "weights.safetensors")
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    errors(model, "open-subjects").to_csv(folder / "errors.csv", index=False)


if __name__ == "__main__":
    main()
