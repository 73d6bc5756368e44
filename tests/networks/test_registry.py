"""A network in one place: ten lines in a file of one's own are trained, evaluated, tabulated, exported and reloaded."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from mixste.checkpoints import CheckpointError, export_authors, load_checkpoint, save_checkpoint
from mixste.evaluate import evaluate
from mixste.network import Network, network_class
from mixste.networks import NETWORKS
from mixste.predict import predict
from mixste.study import report
from mixste.study.profiles import PROFILES
from mixste.study.run import Data, Run
from mixste.study.tables import Row, Table
from mixste.study.trainer import make, make_all
from mixste.train import AUTHORS, train
from mixste.wild.export import export_onnx

TOY = """
from torch import nn
from mixste.network import Network

class Toy(Network):
    name = "toy"
    mode = "seq2frame"

    def __init__(self, frames=3, joints=17, width=32):
        super().__init__(frames=frames, joints=joints, width=width)
        self.layers = nn.Sequential(nn.Linear(frames * joints * 2, width), nn.ReLU(), nn.Linear(width, joints * 3))

    def forward(self, keypoints):
        return self.layers(keypoints.flatten(1)).view(-1, 1, self.joints, 3)

def thrice(pred, target):
    return 3 * (pred - target).norm(dim=-1).mean()
"""
DATA = Data("synthetic", subjects=("S1", "S9"), actions=("Walking",), test_cameras=1)
RECIPE = replace(AUTHORS, batch_frames=64, learning_rate=3e-3, scaled_gradient=False, loss=(("mpjpe", 1.0),))
TABLE = Table("toys", "toys", "toys", "a network of one's own", lambda profile: [], metrics=("MPJPE",))


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The class, from a file on the import path that nothing else knows of."""
    (tmp_path / "toys.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MIXSTE_RUNS", str(tmp_path / "runs"))
    importlib.invalidate_caches()
    yield network_class("toys:Toy")
    NETWORKS.pop("toy", None)
    sys.modules.pop("toys", None)


def test_it_is_found_by_its_name_once_it_is_imported(toy):
    assert NETWORKS["toy"] is toy is network_class("toy")


def test_it_is_trained(toy):
    dataset = DATA.load()
    torch.manual_seed(0)
    model = toy()
    curve = train(model, dataset.train, dataset.skeleton, RECIPE, 6000, 0)
    assert curve[-1]["loss"] < 0.7 * curve[0]["loss"]
    poses = predict(model, np.zeros((5, 17, 2)))
    assert poses.shape == (5, 17, 3)


def test_it_is_a_run_and_a_row_of_a_table(toy):
    runs = tuple(Run(DATA, 3, 3000, seed, "toys:Toy", {"width": 16}, RECIPE) for seed in (0, 1))
    assert runs[0].poses_per_step == 64  # centres of windows, not windows
    finished = [make(run) for run in runs]
    network = finished[0].model()
    assert type(network) is toy
    assert network.options == {"frames": 3, "joints": 17, "width": 16}
    errors = evaluate(network, DATA.load().test, "exact")
    recorded = finished[0].clips.query("protocol == 'exact'")
    np.testing.assert_allclose(recorded["value"], errors["value"], atol=0.01)
    table = report.measure(TABLE, PROFILES["smoke"], [Row("ours", runs)]).set_index("column")
    assert table.loc["Avg.", "runs"] == f"{runs[0].id} {runs[1].id}"
    means = [run.clips.query("protocol == 'exact' and metric == 'MPJPE'") for run in finished]
    expected = np.mean([np.average(clips["value"], weights=clips["frames"]) for clips in means])
    assert table.loc["Avg.", "value"] == pytest.approx(expected, abs=0.01)


@pytest.mark.slow
def test_it_is_trained_in_processes_of_their_own(toy):
    """Which import it by the name of its module, and a loss of one's own too."""
    recipes = RECIPE, replace(RECIPE, loss=(("toys:thrice", 1.0),))
    runs = [Run(DATA, 3, 200, seed, "toys:Toy", {"width": 8}, recipe) for seed, recipe in enumerate(recipes)]
    assert make_all(runs, jobs=2) == ""
    first, second = (make(run).model().state_dict() for run in runs)
    assert first.keys() == second.keys()
    assert not any(torch.equal(first[key], second[key]) for key in first)


def test_it_is_saved_and_reloaded(toy, tmp_path):
    torch.manual_seed(0)
    model = toy(width=8)
    model.layout = "mpi_inf_3dhp"
    save_checkpoint(model, tmp_path / "toy.safetensors")
    again = load_checkpoint(tmp_path / "toy.safetensors")
    assert type(again) is toy
    assert (again.options, again.layout) == (model.options, "mpi_inf_3dhp")
    for key, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    with pytest.raises(CheckpointError, match="authors published a format, found toy"):
        export_authors(model, tmp_path / "toy.bin")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_it_is_exported(toy, tmp_path):
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra onnx is not installed")
    assert export_onnx(toy(), tmp_path / "toy.onnx") < 1e-4


def test_a_checkpoint_imports_nothing(toy, tmp_path):
    """Not even a module whose name is in it: a file says which network it is for, the reader must have it."""
    marker = tmp_path / "imported"
    model = toy()
    save_checkpoint(model, tmp_path / "toy.safetensors")
    (tmp_path / "toys.py").write_text(f"{TOY}\nopen({str(marker)!r}, 'w')")
    toy.name = "toys:Toy"
    save_checkpoint(model, tmp_path / "named.safetensors")
    code = "import sys; from mixste.checkpoints import load_checkpoint; load_checkpoint(sys.argv[1])"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    for name in ("toy", "named"):
        command = [sys.executable, "-c", code, str(tmp_path / f"{name}.safetensors")]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
        assert "CheckpointError" in done.stderr
        assert "import the module of a network of your own" in done.stderr
    assert not marker.exists()


def test_constants_and_shared_weights_come_back(tmp_path):
    """A buffer that no checkpoint holds, one tensor under two keys, and a depth of one tensor each."""

    class Shared(Network):
        name = "shared"

        def __init__(self, frames=2, joints=5, depth=3):
            super().__init__(frames=frames, joints=joints, depth=depth)
            self.layers = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(depth - 1))
            self.layers.append(self.layers[0])
            self.register_buffer("ones", torch.ones(3), persistent=False)

        def forward(self, keypoints):
            for layer in self.layers:
                keypoints = layer(keypoints)
            return keypoints[..., :1] * self.ones

    try:
        model, keypoints = Shared(), torch.randn(1, 2, 5, 2)
        save_checkpoint(model, tmp_path / "a.safetensors")
        random = torch.get_rng_state()
        again = load_checkpoint(tmp_path / "a.safetensors")
        assert torch.equal(torch.get_rng_state(), random)
        torch.testing.assert_close(again(keypoints), model(keypoints))
    finally:
        NETWORKS.pop("shared")


def test_names_are_unique_but_a_class_in_a_notebook_may_be_defined_again():
    def define(name="toy", mode="seq2seq", module="__main__"):
        return type("Defined", (Network,), {"name": name, "mode": mode, "__module__": module})

    try:
        define()
        assert define() is NETWORKS["toy"]
        assert define(module="toys") is NETWORKS["toy"]
        with pytest.raises(ValueError, match=r"network 'toy' is toys\.Defined: choose another name"):
            define(module="others")
        with pytest.raises(ValueError, match=r"network 'mixste' is mixste\.model\.MixSTE: choose another name"):
            define("mixste")
        with pytest.raises(ValueError, match="mode must be one of seq2seq, seq2frame, convolution, found 'seq2one'"):
            define("other", "seq2one")
        assert "other" not in NETWORKS
    finally:
        NETWORKS.pop("toy", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", "network must be one of mixste, .*, or module:Class, found 'resnet'"),
        ("nowhere:Net", "expected a module nowhere on Python's import path"),
        ("torch.nn:Linear", "expected a subclass of mixste.network.Network with a name"),
        ("torch.nn:Nothing", "with a name, found None"),
        ("mixste.network:Network", "with a name"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(ValueError, match=message):
        network_class(name)
    with pytest.raises(ValueError, match=message):
        Run(DATA, 3, 1, 0, name).build()


def test_windows_of_each_mode():
    """The frames of a clip of 5 that a window of 3 reads and lifts."""

    class Windows(Network):
        def __init__(self, mode):
            super().__init__(frames=3, joints=17)
            self.layers = nn.Identity()
            type(self).mode = mode

    around = [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]
    for mode, read, lifted, starts, poses in (
        ("seq2seq", [[0, 1, 2], [2, 3, 4]], [[0, 1, 2], [2, 3, 4]], [0, 3], 3),
        ("seq2frame", around, [[0], [1], [2], [3], [4]], [-1, 0, 1, 2, 3], 1),
        ("convolution", [[0, 0, 1, 2, 3, 4, 4]], [[0, 1, 2, 3, 4]], [-1, 0, 1, 2, 3], 1),
    ):
        network = Windows(mode)
        assert [windows.tolist() for windows in network.windows(5)] == [read, lifted]
        assert network.training_starts(5).tolist() == starts
        assert network.poses_per_window(3) == poses
