"""Speed of the network, compared with a reference written as the authors' code is: plain, eager, single precision.

`python tools/bench.py` measures everything on the machine it runs on, side by side, and writes results/bench/: the
table of speeds, and on CUDA scaling.csv (how time and memory grow), accuracy.csv (the cost of low precision) and
study.csv (the study's own speed, see speed.py; `study=5` measures only the five kinds of training with the most steps).
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import speed
import torch
from measuring import hardware, peak_gib, products, rows, seconds
from torch import Tensor

from mixste.accel import accelerate
from mixste.data import load
from mixste.evaluate import evaluate
from mixste.model import MixSTE
from mixste.network import Network
from mixste.networks.poseformer import PoseFormer
from mixste.networks.videopose3d import VideoPose3D
from mixste.skeleton import human36m
from mixste.study.plain import plain_copy, train_plainly
from mixste.train import AUTHORS, Step, Update, even_pieces, loss_of, optimizer_of, replace, train

FRAMES, JOINTS = 243, 17
OUT = Path("results/bench")
# What the networks are compared with, written plainly, and the form of `training_step` that computes it.
REFERENCES = {"float32": "reference", "TF32": "TF32", "bfloat16 autocast": "bfloat16 autocast"}


def batch_of(batch: int, frames: int, device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    keypoints = torch.randn(batch, frames, JOINTS, 2, generator=generator)
    return keypoints.to(device), torch.randn(batch, frames, JOINTS, 3, generator=generator).mul(0.3).to(device)


def training_step(model: Network, batch: int, device, form: str = "fast") -> Callable[[], Tensor]:
    """One optimisation step of the authors' recipe on random data, which returns the loss.

    form: "reference", as they wrote it, in float32 proper; the same in "TF32" or under "bfloat16 autocast"; or "fast".
    A peer, which is written plainly already, learns the MPJPE with the same optimizer.
    """
    keypoints, target = batch_of(batch, model.frames, device)
    recipe = AUTHORS
    if not isinstance(model, MixSTE):
        recipe = replace(AUTHORS, loss=(("mpjpe", 1.0),), scaled_gradient=False)
        target = target[:, :1]
    loss = loss_of(recipe, human36m, device)
    if form == "fast":
        update = Update(optimizer_of(model, recipe))
        pieces = even_pieces(model, batch, target.shape[1])
        gradients = Step(accelerate(model.train()), loss, recipe.scaled_gradient, pieces)

        def step():
            value = gradients(keypoints, target)
            update(recipe.learning_rate)
            return value

        return step
    plain = (plain_copy(model) if isinstance(model, MixSTE) else model).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=4e-5, weight_decay=0.1, foreach=False)

    def step():
        with products(form):
            optimizer.zero_grad()
            with torch.autocast(keypoints.device.type, torch.bfloat16, enabled=form == "bfloat16 autocast"):
                lifted = plain(keypoints)
            value = loss(lifted.float(), target)
            value.backward(value.detach() if recipe.scaled_gradient else None)
            optimizer.step()
        return value.detach()

    return step


def without_gradients(network: Callable, keypoints: Tensor, autocast: bool = False, form="") -> Callable[[], object]:
    def run():
        device = keypoints.device.type
        with torch.no_grad(), products(form), torch.autocast(device, torch.bfloat16, enabled=autocast):
            return network(keypoints)

    return run


def macs_per_frame(model: MixSTE) -> float:
    """Multiply-accumulates of linear layers and attention products (notebook 01 derives them)."""
    dim, frames, joints = model.embed.out_features, model.frames, model.joints
    hidden = model.spatial_blocks[0].mlp.fc1.out_features
    block = dim * (4 * dim + 2 * hidden)
    return joints * (len(model.spatial_blocks) * (2 * block + 2 * dim * (frames + joints)) + 5 * dim)


def matmul_rate(device: torch.device, size: int = 8192) -> float:
    """Multiply-accumulates a second of a large bfloat16 product: the ceiling."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return size**3 / seconds({"": lambda: a @ b}, device, 20)[""]


def cuda_table(device: torch.device) -> pd.DataFrame:
    table, rate = [], matmul_rate(device)
    model = MixSTE(drop_path=0.1).to(device)
    ceiling = macs_per_frame(model) / rate  # seconds a frame
    for batch in (32, 1):
        model.eval()
        keypoints, _ = batch_of(batch, FRAMES, device)
        plain = plain_copy(model)
        variants = {
            "reference, float32": without_gradients(plain, keypoints),
            "reference, TF32": without_gradients(plain, keypoints, form="TF32"),
            "reference, bfloat16 autocast": without_gradients(plain, keypoints, autocast=True),
            "model.py, bfloat16 autocast": without_gradients(model, keypoints, autocast=True),
            "fast, bfloat16": without_gradients(accelerate(model), keypoints),
            "fast, float8 queries, keys, values": without_gradients(accelerate(model, float8=True), keypoints),
        }
        times = seconds(variants, device, 10 if batch > 1 else 40)
        peaks = {name: peak_gib(run, device) for name, run in variants.items()}
        times["ceiling, bfloat16 products alone"] = ceiling * batch * FRAMES
        table += rows(device, "inference", batch, batch * FRAMES, times, peaks)
    for batch in (4, 16, 32):
        variants = {f"reference, {kind}": form for kind, form in REFERENCES.items()} | {"fast, bfloat16": "fast"}
        times, peaks = training_times(model, batch, device, variants, 20 if batch == 4 else 8)
        times["ceiling, bfloat16 products alone"] = 3 * ceiling * batch * FRAMES
        table += rows(device, "training step", batch, batch * FRAMES, times, peaks)
        if batch == 4:
            bare = times["fast, bfloat16"]
            loop = epoch_seconds(copy.deepcopy(model))
            table += rows(
                device, "training loop", batch, batch * FRAMES, {"bare step": bare, "data, schedule, logging": loop}, {}
            )
    return pd.DataFrame(table + peers(device))


def training_times(model: Network, batch: int, device, variants: dict[str, str], repeats: int) -> tuple[dict, dict]:
    """Seconds and peak memory of a training step, by variant; their forms are those of `training_step`."""
    times, peaks = {}, {}
    for name, form in variants.items():
        run = training_step(copy.deepcopy(model), batch, device, form)
        peaks[name] = peak_gib(run, device)
        times |= seconds({name: run}, device, repeats)
        del run
        torch.cuda.empty_cache()
    return times, peaks


def epoch_seconds(model: MixSTE, short: int = 40, long: int = 240) -> float:
    """Seconds a step of the whole training loop on the synthetic data, what happens once left out."""
    dataset = load("synthetic")
    recipe = replace(AUTHORS, batch_frames=4 * FRAMES)

    def run(steps: int) -> float:
        start = time.perf_counter()
        train(model, dataset.train, dataset.skeleton, recipe, steps * 4 * FRAMES, seed=0)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    run(2)
    return statistics.median((run(long) - run(short)) / (long - short) for _ in range(3))


def peers(device: torch.device) -> list[dict]:
    """VideoPose3D and PoseFormer: inference, batched, as Figure 1 compares it, and the training steps."""
    table = []
    for what, model, shape, frames in (
        ("inference, VideoPose3D", VideoPose3D(), (8, 2187 + 242, JOINTS, 2), 8 * 2187),
        ("inference, PoseFormer", PoseFormer(), (256, 81, JOINTS, 2), 256),
    ):
        model = model.to(device).eval()
        keypoints = torch.randn(shape, device=device)
        variants = {
            "eager, float32": without_gradients(model, keypoints),
            "eager, TF32": without_gradients(model, keypoints, form="TF32"),
            "eager, bfloat16 autocast": without_gradients(model, keypoints, autocast=True),
            "recorded, bfloat16 autocast": without_gradients(accelerate(model, bfloat16=True), keypoints),
            "compiled, bfloat16 autocast": without_gradients(torch.compile(model), keypoints, autocast=True),
        }
        table += rows(device, what, shape[0], frames, seconds(variants, device, 10), {})
    for what, model, batches in (
        ("training step, PoseFormer", PoseFormer(), (256, 1024)),
        ("training step, VideoPose3D", VideoPose3D(), (1024,)),
    ):
        model = model.to(device)
        for batch in batches:
            variants = {f"eager, {kind}": form for kind, form in REFERENCES.items()} | {"fast, bfloat16": "fast"}
            times, peaks = training_times(model, batch, device, variants, 6)
            table += rows(device, what, batch, batch, times, peaks)
    return table


def scaling(device: torch.device) -> pd.DataFrame:
    """Time and memory against window, depth, width and batch, one at a time from T = 243, depth 8, dim 512, batch 4.

    exponent: of the power of the axis's value with which the quantity grows, between this row and the one before.
    """
    start = {"frames": 243, "depth": 8, "dim": 512, "batch": 4}
    values = {"frames": (27, 81, 243, 729, 2187), "depth": (1, 2, 4, 8, 16), "dim": (128, 256, 512, 1024)}
    table = []
    for axis, points in (values | {"batch": (1, 2, 4, 8, 16, 32)}).items():
        before = {}
        for value in points:
            size = start | {axis: value}
            batch = size.pop("batch")
            model = MixSTE(**size).to(device)
            keypoints, _ = batch_of(batch, model.frames, device)
            step = training_step(model, batch, device)
            peak = peak_gib(step, device)
            times = seconds({"training step": step}, device, 10)
            inference = without_gradients(accelerate(model.eval()), keypoints)
            times |= seconds({"inference": inference}, device, 10)
            measured = {(what, "seconds"): taken for what, taken in times.items()} | {("training step", "GiB"): peak}
            for (what, quantity), amount in measured.items():
                last, past = before.get((what, quantity), (np.nan, np.nan))
                exponent = np.log(amount / past) / np.log(value / last)
                table.append((hardware(device), axis, value, what, quantity, round(amount, 6), round(exponent, 3)))
                before[what, quantity] = (value, amount)
            del model, step, inference, times
            torch.cuda.empty_cache()
    columns = ["hardware", "axis", "value", "what", "quantity", "amount", "exponent"]
    return pd.DataFrame(table, columns=columns)


def accuracy(device: torch.device, poses: int = 1_000_000, seeds: int = 3) -> pd.DataFrame:
    """The effect of precision: MPJPE on the synthetic test subjects, for each precision in training and inference.

    training: in float32 by the plain network, or in bfloat16 by the fast path, same seeds. inference: the same weights
    read in float32 and by each fast path. Rows of one training differ by rounding alone; trainings, by seed too.
    """
    dataset = load("synthetic", keypoints="cpn")
    recipe = replace(AUTHORS, batch_frames=8 * 81, schedule="cosine", learning_rate=5e-4)
    table = []
    for seed in range(seeds):
        for training in ("float32", "fast, bfloat16"):
            torch.manual_seed(seed)
            model = MixSTE(frames=81, dim=256, depth=4, drop_path=0.1).to(device)
            if training == "float32":
                train_plainly(model, dataset, recipe, poses, seed)
            else:
                train(model, dataset.train, dataset.skeleton, recipe, poses, seed)
            for inference, network in (
                ("float32", model.eval()),
                ("fast, bfloat16", accelerate(model)),
                ("fast, float8 queries, keys, values", accelerate(model, float8=True)),
            ):
                errors = evaluate(network, dataset.test, "exact", flip=False)
                error = errors[errors.metric == "MPJPE"]
                value = np.average(error.value, weights=error.frames)
                table.append((hardware(device), training, seed, inference, "MPJPE", round(value, 4), "mm"))
    columns = ["hardware", "training", "seed", "inference", "metric", "value", "unit"]
    return pd.DataFrame(table, columns=columns)


def cpu_table() -> pd.DataFrame:
    """Inference of the full network, and the training step of the smallest profile, 1026 frames of 27 at a time."""
    device, table = torch.device("cpu"), []
    for what, model in (("inference", MixSTE()), ("inference, dim 32, depth 4", MixSTE(dim=32, depth=4))):
        model.eval()
        keypoints, _ = batch_of(1, FRAMES, device)
        variants = {
            "reference, float32": without_gradients(plain_copy(model), keypoints),
            "model.py, float32": without_gradients(model, keypoints),
            "fast, float32": without_gradients(accelerate(model), keypoints),
        }
        if what == "inference":
            variants["fast, bfloat16"] = without_gradients(accelerate(model, bfloat16=True), keypoints)
        table += rows(device, what, 1, FRAMES, seconds(variants, device, 9), {})
    model = MixSTE(frames=27, dim=32, depth=4, drop_path=0.1)
    variants = {
        "reference, float32": training_step(model, 38, device, "reference"),
        "fast, float32": training_step(model, 38, device),
    }
    table += rows(device, "training step, dim 32, depth 4, T 27", 38, 38 * 27, seconds(variants, device, 61), {})
    return pd.DataFrame(table)


def main(*parts: str) -> None:
    """Write the tables of this machine to results/bench: speeds, and on CUDA also "scaling", "accuracy" and "study"."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    name = torch.cuda.get_device_name().split()[1].lower() if cuda else "cpu"
    tables = {name: lambda: cuda_table(device) if cuda else cpu_table()}
    wanted = dict(part.split("=") if "=" in part else (part, "") for part in parts)
    if cuda:
        tables |= {"scaling": lambda: scaling(device), "accuracy": lambda: accuracy(device)}
        tables["study"] = lambda: speed.table(device, most=int(wanted.get("study") or 0))
    elif "study" in wanted:
        raise ValueError("part study measures trainings on a GPU, and this machine has none that PyTorch can use")
    if unknown := set(wanted) - set(tables):
        raise ValueError(f"on this machine, parts are {', '.join(tables)}, found {', '.join(sorted(unknown))}")
    OUT.mkdir(parents=True, exist_ok=True)
    for part, make in tables.items():
        if not parts or part in wanted:
            table = make()
            table.to_csv(OUT / f"{part}.csv", index=False)
            print(table.to_string(index=False), flush=True)
            if part == "study":
                print(speed.summary(table))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(f"bench: {error}")
