"""The estimate of a dry run, held against what the committed ledgers tell that trainings took."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mixste.networks import NETWORKS, MixSTE
from mixste.study import costs, trainer
from mixste.study.costs import Cost
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import distinct

OPEN = ("open", "open-styles")


def test_the_published_sizes():
    """The paper's model costs 606.7 M a pose by hand, and half as deep half as much."""
    full = PROFILES["paper"].full()[0]
    macs, _ = costs.size("mixste", 243, full.options)
    assert macs == pytest.approx(606.7e6, abs=5e4)
    half, _ = costs.size("mixste", 243, (("depth", 4), ("dim", 512), ("heads", 8)))
    assert half == pytest.approx(macs / 2, rel=0.01)


@pytest.mark.parametrize(
    ("name", "others"),
    [("smoke", ("smoke",)), ("open", OPEN[1:]), ("open", OPEN), (OPEN[1], OPEN[:1]), (OPEN[1], OPEN)],
)
def test_the_sum_is_within_a_factor_of_two_of_what_was_recorded(name, others, monkeypatch):
    """By another profile's lines on such a device, of other data and partly other sizes; and with its own.

    By the fit alone: lines on a GPU are older than the speeds in results/bench/study.csv.
    """
    monkeypatch.setattr(costs, "_planned", lambda run: np.nan)
    gpu = PROFILES[name].gpu
    listed, recorded = costs.ledgers(gpu, [name]), costs.ledgers(gpu, others)
    wanted = {cost.id: cost.run for cost in listed}
    recorded = [replace(cost, id="") for cost in recorded]  # so that no line is looked up
    seconds = costs.estimate(PROFILES[name], wanted, [], recorded).seconds
    total = sum(cost.training + cost.testing for cost in listed)
    assert total / 2 < sum(seconds.values()) < total * 2
    trained = [cost for cost in listed if cost.run.poses]  # not the references, which take no time
    ratios = np.array([seconds[cost.id] / (cost.training + cost.testing) for cost in trained])
    pace = np.median(ratios)  # the two were recorded on machines of different speed and load
    assert np.mean((ratios / pace > 0.5) & (ratios / pace < 2)) > 0.7


def test_long_trainings_on_a_gpu_cost_what_the_bench_measured():
    """Where every ledger's are short: the paper's full model, its poses over the frames that the loop does a second."""
    [full], paper = PROFILES["paper"].full(), PROFILES["paper"]
    table = costs.pd.read_csv(costs.RESULTS / "bench" / costs.SPEEDS)
    [speed] = table.loc[table["variant"] == "data, schedule, logging", "frames_per_second"]
    estimated = costs.estimate(paper, {"full": full}, []).seconds["full"]
    assert full.poses / speed / 2 < estimated < full.poses / speed * 2


def test_a_training_of_a_measured_kind_costs_what_its_speed_says(tmp_path, monkeypatch):
    full = PROFILES["open"].mixste(81)[0]
    longer = replace(full, poses=3 * full.poses)
    recorded = costs.ledgers(True)
    speeds = (costs.RESULTS / "bench" / costs.SPEEDS).read_text()
    (tmp_path / "bench").mkdir()
    for name in ("study.csv", costs.SPEEDS):
        text = speeds
        if name == "study.csv":
            text = "hardware,network,frames,joints,options,poses_per_step,optimizer,processes,poses_per_second\n"
            text += "H,mixste,81,17,depth=8 dim=512 heads=8,972,muon,1,50000\n"
            text += "H,mixste,81,17,depth=8 dim=512 heads=8,972,muon,4,60000\n"  # which is what a plan costs
        (tmp_path / "bench" / name).write_text(text)
    monkeypatch.setattr(costs, "RESULTS", tmp_path)
    seconds = costs.estimate(PROFILES["open"], {"full": full, "longer": longer}, [], recorded).seconds
    assert seconds["longer"] - seconds["full"] == pytest.approx(2 * full.poses / 60000)
    assert seconds["full"] < full.poses / 60000 + 10, "others train while one starts"
    assert costs.alone(full) == full.poses / 50000
    assert np.isnan(costs.alone(replace(full, frames=27)))
    assert np.isnan(costs.alone(replace(full, data=replace(full.data, skeleton="humaneva15"))))


def test_what_is_finished_here_sets_the_pace(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    run = Run(Data("synthetic", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1), 9, 300, 0)
    run = replace(run, options=(("depth", 1), ("dim", 8), ("heads", 2)))
    done = trainer.make(run).environment
    longer = replace(run, poses=3000)
    wanted, seconds = {run.id: run, "longer": longer}, {}
    for finished in ([], [run.id]):
        estimated = costs.estimate(PROFILES["smoke"], wanted, finished)
        seconds[len(finished)] = estimated.seconds
    assert estimated.basis == f"1 trainings in the store, on {done['device']}"
    assert seconds[1][run.id] == pytest.approx(done["training_seconds"] + done["testing_seconds"])
    assert seconds[1]["longer"] / seconds[0]["longer"] == pytest.approx(seconds[1][run.id] / seconds[0][run.id])


def test_a_reference_sets_no_pace(tmp_path, monkeypatch):
    """It is solved for in no time, of which the start may be most."""
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path))
    data = Data("synthetic", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1)
    reference = Run(data, 1, 0, 0, "constant_pose")
    trainer.make(reference)
    wanted = {reference.id: reference, "training": Run(data, 9, 3000, 0, options=(("depth", 1), ("dim", 8)))}
    first, later = (costs.estimate(PROFILES["smoke"], wanted, finished) for finished in ([], [reference.id]))
    assert later == first


def test_a_run_that_shared_its_gpu_costs_its_part(tmp_path, monkeypatch):
    """In the ledger and in the store. Lines of a CPU core, and older ones, have no number there."""
    line = costs.pd.read_csv(costs.RESULTS / "open" / "runs.csv").query("poses > 0").head(1)
    (tmp_path / "open").mkdir()
    seconds = {}
    for sharing in (None, np.nan, 1, 4):
        table = line if sharing is None else line.assign(sharing=sharing)
        table.to_csv(tmp_path / "open" / "runs.csv", index=False)
        with monkeypatch.context() as patch:
            patch.setattr(costs, "RESULTS", tmp_path)
            [cost] = costs.ledgers(True, ["open"])
        seconds[sharing] = cost.training + cost.testing
    assert len({seconds[name] for name in (None, 1)}) == 1
    assert set(seconds.values()) == {seconds[1], seconds[4]}
    assert seconds[4] == pytest.approx(seconds[1] / 4)

    about = {"device": "NVIDIA X", "training_seconds": 30.0, "testing_seconds": 10.0, "resumed_at": 0.25, "sharing": 2}
    monkeypatch.setattr(costs, "Finished", lambda path: SimpleNamespace(environment=about))
    [cost] = costs.measured({"a": None}, ["a"], gpu=True)
    assert (cost.training, cost.testing) == (20.0, 5.0)
    monkeypatch.setattr(costs, "RESULTS", tmp_path)
    line = line.assign(**about | {"device": "NVIDIA H200"})
    line.to_csv(tmp_path / "open" / "runs.csv", index=False)
    [cost] = costs.ledgers(True, ["open"])
    assert (cost.training, cost.testing) == (20.0, 5.0), "resumed after a quarter"
    line.assign(resumed_at=0.75).to_csv(tmp_path / "open" / "runs.csv", index=False)
    assert costs.ledgers(True, ["open"]) == []


def test_a_line_of_the_ledger_is_what_the_same_run_costs():
    recorded = costs.ledgers(False)
    line: Cost = recorded[0]
    estimated = costs.estimate(PROFILES["smoke"], {line.id: line.run}, [], recorded).seconds[line.id]
    assert estimated == pytest.approx(line.training + line.testing)


def test_a_network_of_ones_own_is_estimated_too():
    class Mine(MixSTE):
        name = "mine"

    wanted = {name: Run(Data("synthetic"), 27, 10**6, 0, name, (("dim", 64),)) for name in ("mixste", "mine")}
    seconds = costs.estimate(PROFILES["smoke"], wanted, []).seconds
    del NETWORKS["mine"]
    assert seconds["mine"] == pytest.approx(seconds["mixste"])


def test_a_network_that_was_not_measured_costs_what_those_without_kernels_of_their_own_do(monkeypatch):
    """Within a factor of four of what was measured of three such networks."""
    profile = PROFILES["open"]
    runs = {name: profile.peer(name, 243)[0] for name in ("dstformer", "motionagformer", "ktpformer")}
    measured = {name: costs.alone(run) for name, run in runs.items()}
    monkeypatch.setattr(costs, "_speeds", lambda path, of_kind: {})
    estimated = costs.estimate(profile, runs, []).seconds
    for name, seconds in measured.items():
        assert seconds / 4 < estimated[name] < 4 * seconds


def test_the_plan_of_open_costs_what_the_speeds_of_its_kinds_say():
    """Kind by kind, in results/bench/study.csv: the start of a training adds nothing, and its tests less than 10 %."""
    speeds = costs.pd.read_csv(costs.RESULTS / "bench" / "study.csv")
    profile = PROFILES["open"]
    runs = {str(place): run for place, run in enumerate(distinct(profile)) if run.poses}
    known = {name: run for name, run in runs.items() if not np.isnan(costs.alone(run))}
    assert len(known) > 200
    seconds = costs.estimate(profile, known, []).seconds
    least = sum(run.poses for run in known.values()) / speeds["poses_per_second"].max()
    by_speed = sum(costs.alone(run) for run in known.values())
    assert least < by_speed < sum(seconds.values()) < 1.1 * by_speed
