"""Trials of recipes on validation subjects, several a card: python tools/trials.py PLAN.json OUT.csv [--per-card 1].

PLAN.json lists trials in order of importance. Each has the keys network, frames, poses and seed, and optionally options
(of the network) and recipe (settings that differ from those of profile `open`). A trial appends a line to OUT.csv: the
settings, whether it held or collapsed, its errors on the validation subjects of `open-people` by the first camera
(means over subjects), and its learning curve. --seconds N begins no trial after N seconds, and stops the running ones.
"""

import argparse
import csv
import json
import multiprocessing
import os
import queue
import time
from pathlib import Path

from mixste import evaluate
from mixste.study import trainer
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.train import TrainingCollapsed, train

DATA = Data("open-people", "cpn", split="validation", test_cameras=1)
COLUMNS = ("network", "frames", "options", "recipe", "poses", "seed", "state", "stopped_at_step", "constant_pose_loss")
METRICS = {"MPJPE": "mpjpe_validation", "P-MPJPE": "p_mpjpe_validation", "MPJVE": "mpjve_validation"}


class OutOfTime(Exception):
    pass


def trial(settings: dict, choice: Data, deadline: float) -> dict:
    """The line of one trial; see the module's docstring."""
    changes = dict(settings.get("recipe", {}))
    if "loss" in changes:
        changes["loss"] = tuple(map(tuple, changes["loss"]))
    recipe, options = PROFILES["open"].recipe(**changes), settings.get("options", {})
    frames, poses, seed = settings["frames"], settings["poses"], settings["seed"]
    data = choice.load()
    model = Run(choice, frames, poses, seed, settings["network"], options, recipe).build().to(trainer.run_device())
    line = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in settings.items()}
    curve, began = [], time.monotonic()

    def at_point(_, row: dict) -> None:
        curve.append((row["step"], row["loss"]))
        if time.monotonic() > deadline:
            raise OutOfTime

    try:
        train(model, data.train, data.skeleton, recipe, poses, seed, at_point=at_point)
        line["state"] = "held"
    except TrainingCollapsed as error:
        line |= {"state": "collapsed", "stopped_at_step": error.step, "constant_pose_loss": error.constant_loss}
    except FloatingPointError:
        line["state"] = "not finite"
    except OutOfTime:
        line["state"] = "unfinished"
    line |= {"seconds_shared_card": round(time.monotonic() - began, 1)}
    line["curve"] = " ".join(f"{step}:{loss:.4g}" for step, loss in curve)
    if line["state"] == "held":
        errors = evaluate.evaluate(trainer.evaluated(model.eval()), data.test, "exact", skeleton=data.skeleton)
        errors = errors[errors["metric"].isin(METRICS)]
        errors = errors.assign(total=errors["value"] * errors["frames"])
        sums = errors.groupby(["metric", "subject"])[["total", "frames"]].sum()
        means = (sums["total"] / sums["frames"]).groupby("metric").mean()
        line |= {column: round(float(means[metric]), 2) for metric, column in METRICS.items()}
    return line


def worker(card: int, waiting, lines, deadline: float) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = str(card)  # in time: CUDA is not in use before the first network
    while time.monotonic() < deadline:
        try:
            lines.put(trial(waiting.get_nowait(), DATA, deadline))
        except queue.Empty:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--per-card", type=int, default=1)
    parser.add_argument("--cards", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    waiting, lines, deadline = context.Queue(), context.Queue(), time.monotonic() + options.seconds
    for settings in json.loads(options.plan.read_text(encoding="utf-8")):
        waiting.put(settings)
    time.sleep(1)  # for the queue to hold them
    cards = [card for _ in range(options.per_card) for card in range(options.cards)]
    workers = [context.Process(target=worker, args=(card, waiting, lines, deadline)) for card in cards]
    for process in workers:
        process.start()
    columns = (*COLUMNS, *METRICS.values(), "seconds_shared_card", "curve")
    new = not options.out.exists()
    with open(options.out, "a", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns)
        if new:
            table.writeheader()
        while any(process.is_alive() for process in workers) or not lines.empty():
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                continue
            table.writerow(line)
            file.flush()
            print({name: value for name, value in line.items() if name != "curve"}, flush=True)


if __name__ == "__main__":
    main()
