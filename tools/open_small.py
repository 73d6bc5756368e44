"""The bundled weights: `MixSTE.from_pretrained("open-small")`, and the errors on their card.

`python tools/open_small.py` trains them on open-subjects and measures them, each where it is missing in
`runs/open-small/`, then puts them and their card's table into the package. It wants a GPU for some minutes, and goes on
where it was stopped.
"""

from dataclasses import replace

import pandas as pd
import torch
from readme import between

from mixste import MixSTE, checkpoints
from mixste.accel import accelerate
from mixste.data import Clip, load
from mixste.data.virtual import DETECTORS
from mixste.evaluate import evaluate
from mixste.io.files import replacing
from mixste.io.install import PACKAGE, needs_checkout
from mixste.io.weights import write_sums
from mixste.skeleton import human36m
from mixste.study import store
from mixste.study.run import Data
from mixste.train import Recipe, train

SIZES = {"frames": 81, "dim": 128, "depth": 8}
POSES = 40_552_424
# Whoever uses these weights has another body, another camera and another detector than any clip here.
RECIPE = Recipe(
    scaled_gradient=False,
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="cosine",
    batch_frames=128 * 81,
    drop_path=0.0,
    body_shapes=True,
    new_cameras=True,
)
KEYPOINTS = ("gt", *DETECTORS)
SHIPPED = PACKAGE / "weights" / "open-small.safetensors"


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


def errors(model: MixSTE) -> pd.DataFrame:
    """Errors on test clips by source, detector, frame rate and person, each frame once: tidy rows.

    Of open-styles and synthetic, which nothing was trained on, every fourth clip of one camera at 50 frames a second.
    """
    wanted = [("open-subjects", 0, keypoints, slower) for keypoints in KEYPOINTS for slower in (False, True)]
    wanted += [
        (source, 1, keypoints, False) for source in ("open-styles", "synthetic") for keypoints in ("gt", "openpose")
    ]
    tables = []
    for source, cameras, keypoints, slower in wanted:
        clips = Data(source, keypoints, test_cameras=cameras).load().test[:: 4 if cameras else 1]
        table = evaluate(model, [half_rate(clip) for clip in clips] if slower else clips, "exact")
        table["value"] *= table["frames"]
        sums = table.groupby(["subject", "metric", "unit"])[["value", "frames"]].sum()
        sums["value"] = (sums["value"] / sums["frames"]).round(2)
        about = {"source": source, "keypoints": keypoints, "fps": 25 if slower else 50}
        tables.append(sums.reset_index().assign(**about))
    return pd.concat(tables, ignore_index=True)


def table(found: pd.DataFrame) -> str:
    """The card's table: MPJPE and P-MPJPE in mm, on average over frames; Markdown."""
    found = found.assign(value=found["value"] * found["frames"])
    sums = found.groupby(["source", "keypoints", "fps", "metric"], sort=False)[["value", "frames"]].sum()
    wide = (sums["value"] / sums["frames"]).unstack("metric", sort=False)[["MPJPE", "P-MPJPE"]]
    lines = ["| source | keypoints | frames a second | MPJPE, mm | P-MPJPE, mm |", "| --- | --- | --- | --- | --- |"]
    for (source, keypoints, fps), row in wide.iterrows():
        lines.append(f"| {source} | {keypoints} | {fps} | {row['MPJPE']:.1f} | {row['P-MPJPE']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure, ship; what is there already is kept."""
    needs_checkout("making the bundled weights")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = store.store() / "open-small"
    folder.mkdir(parents=True, exist_ok=True)
    weights, measured = folder / "weights.safetensors", folder / "errors.csv"
    if not weights.exists():
        torch.manual_seed(0)
        model = MixSTE(**SIZES).to(device)
        history = train(model, training_clips(), human36m, RECIPE, POSES, 0, folder, title="open-small")
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        checkpoints.save_checkpoint(model, weights)
    model = checkpoints.load_checkpoint(weights)
    checkpoints.save_checkpoint(model, SHIPPED, torch.float16)
    write_sums(SHIPPED.parent)
    if not measured.exists():
        found = errors(accelerate(MixSTE.from_pretrained("open-small").to(device)))
        found.to_csv(measured, index=False)
    found = pd.read_csv(measured)
    found.to_csv(SHIPPED.with_suffix(".csv"), index=False)
    card = SHIPPED.with_suffix(".md")
    text = between(card.read_text(encoding="utf-8"), "errors", table(found))
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
