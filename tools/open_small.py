"""The bundled weights: `MixSTE.from_pretrained("open-small")`, and the errors on their card.

`python tools/open_small.py` trains them on five subjects of open-people and evaluates them, skipping what is in
`runs/open-small/` already, then writes them and the table of their card into the package. It takes some minutes on a
GPU and resumes after an interruption.
"""

import pandas as pd
import torch
from readme import between

from mixste import MixSTE, checkpoints
from mixste.accel import accelerate
from mixste.data import Clip, load
from mixste.data.splits import thinned
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
# Users have other bodies, cameras and detectors than any clip here.
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
TRAINED, TESTED = ("hdm_bd", "hdm_bk", "hdm_dg", "cmu_01", "cmu_02"), ("hdm_mm", "hdm_tr", "cmu_03")
KEYPOINTS = ("gt", *DETECTORS)
BUNDLED = PACKAGE / "weights" / "open-small.safetensors"


def training_clips() -> list[Clip]:
    """All takes of the `TRAINED` subjects, with the keypoints of each detector, at 50 and 25 frames/s."""
    data = [load("open-people", keypoints=keypoints).select(TRAINED) for keypoints in KEYPOINTS]
    return [clip for stride in (1, 2) for dataset in data for clip in thinned(dataset, stride).clips]


def errors(model: MixSTE) -> pd.DataFrame:
    """Errors on test clips by source, detector, frame rate and subject, each frame counted once: tidy rows.

    Of open-people, the `TESTED` subjects. Of open-styles and synthetic, which were not trained on, every fourth clip of
    one camera at 50 frames/s.
    """
    conditions = [("open-people", 0, keypoints, slower) for keypoints in KEYPOINTS for slower in (False, True)]
    conditions += [
        (source, 1, keypoints, False) for source in ("open-styles", "synthetic") for keypoints in ("gt", "openpose")
    ]
    tables = []
    for source, cameras, keypoints, slower in conditions:
        tested = TESTED if source == "open-people" else ()
        data = Data(source, keypoints, subjects=tested, test_cameras=cameras, stride=2 if slower else 1).load()
        table = evaluate(model, data.test[:: 4 if cameras else 1], "exact")
        table["value"] *= table["frames"]
        sums = table.groupby(["subject", "metric", "unit"])[["value", "frames"]].sum()
        sums["value"] = (sums["value"] / sums["frames"]).round(2)
        about = {"source": source, "keypoints": keypoints, "fps": 25 if slower else 50}
        tables.append(sums.reset_index().assign(**about))
    return pd.concat(tables, ignore_index=True)


def table(measured: pd.DataFrame) -> str:
    """The card's table in Markdown: MPJPE and P-MPJPE in mm, averaged over frames."""
    measured = measured.assign(value=measured["value"] * measured["frames"])
    sums = measured.groupby(["source", "keypoints", "fps", "metric"], sort=False)[["value", "frames"]].sum()
    wide = (sums["value"] / sums["frames"]).unstack("metric", sort=False)[["MPJPE", "P-MPJPE"]]
    lines = ["| source | keypoints | frames a second | MPJPE, mm | P-MPJPE, mm |", "| --- | --- | --- | --- | --- |"]
    for (source, keypoints, fps), row in wide.iterrows():
        lines.append(f"| {source} | {keypoints} | {fps} | {row['MPJPE']:.1f} | {row['P-MPJPE']:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, evaluate and write into the package, skipping what is done already."""
    needs_checkout("making the bundled weights")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = store.store() / "open-small"
    folder.mkdir(parents=True, exist_ok=True)
    weights, errors_file = folder / "weights.safetensors", folder / "errors.csv"
    if not weights.exists():
        torch.manual_seed(0)
        model = MixSTE(**SIZES).to(device)
        history = train(model, training_clips(), human36m, RECIPE, POSES, 0, folder, title="open-small")
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
        checkpoints.save_checkpoint(model, weights)
    model = checkpoints.load_checkpoint(weights)
    checkpoints.save_checkpoint(model, BUNDLED, torch.float16)
    write_sums(BUNDLED.parent)
    if not errors_file.exists():
        errors(accelerate(MixSTE.from_pretrained("open-small").to(device))).to_csv(errors_file, index=False)
    measured = pd.read_csv(errors_file)
    measured.to_csv(BUNDLED.with_suffix(".csv"), index=False)
    card = BUNDLED.with_suffix(".md")
    text = between(card.read_text(encoding="utf-8"), "errors", table(measured))
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
