import itertools
import json
import math
import os
import random
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mixste import MixSTE
from mixste.accel import accelerate
from mixste.baselines import PoseFormer, VideoPose3D
from mixste.camera import normalize_screen
from mixste.checkpoints import CheckpointError, export_authors, load_checkpoint, save_checkpoint, transfer
from mixste.data.sources import synthetic
from mixste.data.virtual import film
from mixste.evaluate import evaluate
from mixste.io import weights as weights_module
from mixste.io.weights import bundled, write_sums
from mixste.metrics import mpjpe
from mixste.networks import DSTformer, KTPFormer, MotionAGFormer
from mixste.predict import predict
from mixste.skeleton import human36m, humaneva15, mpi_inf_3dhp
from mixste.study.run import Data
from mixste.train import AUTHORS, train

sys.path.append(str(Path(__file__).parent / "data"))
from licensed import mutations

FRAMES, JOINTS, DIM, DEPTH = 9, 17, 16, 3


def block(name: str, dim: int) -> dict[str, tuple]:
    return {
        f"{name}.norm1": (dim,),
        f"{name}.attn.qkv": (3 * dim, dim),
        f"{name}.attn.proj": (dim, dim),
        f"{name}.norm2": (dim,),
        f"{name}.mlp.fc1": (2 * dim, dim),
        f"{name}.mlp.fc2": (dim, 2 * dim),
    }


def mixste_file(frames=FRAMES, joints=JOINTS, dim=DIM, depth=DEPTH) -> dict[str, torch.Tensor]:
    """The published checkpoints' names and shapes."""
    shapes = {"Spatial_patch_to_embedding": (dim, 2), "Spatial_norm": (dim,), "Temporal_norm": (dim,)}
    for i in range(depth):
        shapes |= block(f"STEblocks.{i}", dim) | block(f"TTEblocks.{i}", dim)
    shapes |= {"head.0": (dim,), "head.1": (3, dim)}
    positions = {"Spatial_pos_embed": (1, joints, dim), "Temporal_pos_embed": (1, frames, dim)}
    return filled(shapes) | {name: torch.randn(shape) for name, shape in positions.items()}


def poseformer_file(frames=FRAMES, joints=JOINTS, dim=DIM, depth=DEPTH) -> dict[str, torch.Tensor]:
    width = joints * dim
    shapes = {"Spatial_patch_to_embedding": (dim, 2), "Spatial_norm": (dim,), "Temporal_norm": (width,)}
    for i in range(depth):
        shapes |= block(f"Spatial_blocks.{i}", dim) | block(f"blocks.{i}", width)
    shapes |= {"head.0": (width,), "head.1": (3 * joints, width)}
    weights = filled(shapes) | {"Spatial_pos_embed": torch.randn(1, joints, dim)}
    weights["Temporal_pos_embed"] = torch.randn(1, frames, width)
    return weights | {"weighted_mean.weight": torch.randn(1, frames, 1), "weighted_mean.bias": torch.randn(1)}


def videopose3d_file(layers=2, joints=JOINTS, channels=DIM) -> dict[str, torch.Tensor]:
    weights = {"expand_conv.weight": torch.randn(channels, 2 * joints, 3)}
    norms = ["expand_bn"]
    for i in range(layers - 1):
        weights[f"layers_conv.{2 * i}.weight"] = torch.randn(channels, channels, 3)
        weights[f"layers_conv.{2 * i + 1}.weight"] = torch.randn(channels, channels, 1)
        norms += [f"layers_bn.{2 * i}", f"layers_bn.{2 * i + 1}"]
    for name in norms:
        weights |= batch_norm(name, channels)
    return weights | {"shrink.weight": torch.randn(3 * joints, channels, 1), "shrink.bias": torch.randn(3 * joints)}


def filled(shapes: dict[str, tuple]) -> dict[str, torch.Tensor]:
    weights = {f"{name}.weight": torch.randn(shape) / math.sqrt(shape[-1]) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}


def batch_norm(name: str, channels: int) -> dict[str, torch.Tensor]:
    weights = {f"{name}.{part}": torch.randn(channels) for part in ("weight", "bias", "running_mean")}
    return weights | {f"{name}.running_var": torch.rand(channels) + 0.5, f"{name}.num_batches_tracked": torch.tensor(7)}


def dstformer_file(frames=FRAMES, joints=JOINTS, dim=DIM, depth=DEPTH, rep_dim=24) -> dict[str, torch.Tensor]:
    shapes = {"joints_embed": (dim, 3), "norm": (dim,), "pre_logits.fc": (rep_dim, dim), "head": (3, rep_dim)}
    for i in range(depth):
        shapes[f"ts_attn.{i}"] = (2, 2 * dim)
        for stream, axis in itertools.product(("blocks_st", "blocks_ts"), "st"):
            for name, shape in block(f"{stream}.{i}", dim).items():
                start, part, *rest = name.rsplit(".", name.count(".") - 1)  # blocks_st.0, attn, qkv
                shapes[".".join([start, f"{part}_{axis}", *rest])] = shape
    positions = {"pos_embed": (1, joints, dim), "temp_embed": (1, frames, 1, dim)}
    return filled(shapes) | {name: torch.randn(shape) for name, shape in positions.items()}


def motionagformer_file(frames=FRAMES, joints=JOINTS, dim=DIM, depth=DEPTH, rep_dim=24) -> dict[str, torch.Tensor]:
    shapes = {"joints_embed": (dim, 3), "norm": (dim,), "rep_logit.fc": (rep_dim, dim), "head": (3, rep_dim)}
    weights = {"pos_embed": torch.randn(1, joints, dim)}
    for i in range(depth):
        shapes[f"layers.{i}.fusion"] = (2, 2 * dim)
        for kind, (axis, nodes) in itertools.product(("att", "graph"), (("spatial", joints), ("temporal", frames))):
            name = f"layers.{i}.{kind}_{axis}"
            shapes |= {f"{name}.norm1": (dim,), f"{name}.norm2": (dim,)}
            shapes |= {f"{name}.mlp.fc1": (4 * dim, dim), f"{name}.mlp.fc2": (dim, 4 * dim)}
            weights |= {f"{name}.layer_scale_{k}": torch.randn(dim) for k in (1, 2)}
            if kind == "att":
                weights[f"{name}.mixer.qkv.weight"] = torch.randn(3 * dim, dim) / math.sqrt(dim)
                shapes[f"{name}.mixer.proj"] = (dim, dim)
            else:
                shapes |= {f"{name}.mixer.U": (dim, dim), f"{name}.mixer.V": (dim, dim)}
                weights |= batch_norm(f"{name}.mixer.batch_norm", nodes)
    return filled(shapes) | weights


def ktpformer_file(frames=FRAMES, joints=JOINTS, dim=DIM, depth=DEPTH) -> dict[str, torch.Tensor]:
    shapes = {"Spatial_norm": (dim,), "Temporal_norm": (dim,), "head.0": (dim,), "head.1": (3, dim)}
    for i in range(depth):
        shapes |= block(f"STEblocks.{i}", dim) | block(f"TTEblocks.{i}", dim)
    weights = {
        "kpattention.attn.Spatial_pos_embed": torch.randn(1, joints, dim),
        "tpattention.attn.Temporal_pos_embed": torch.randn(1, frames, dim),
    }
    for part in ("kpattention", "tpattention"):
        shapes |= {f"{part}.attn.norm1": (dim,), f"{part}.attn.qkv": (3 * dim, dim), f"{part}.attn.proj": (dim, dim)}
        shapes |= {f"{part}.norm2": (dim,), f"{part}.mlp.fc1": (2 * dim, dim), f"{part}.mlp.fc2": (dim, 2 * dim)}
    for step, nodes, inputs in (
        ("kpattention.attn.kpa", joints, 2),
        *((f"tpattention.attn.tpa.gconv{k}", frames, dim) for k in (1, 2)),
    ):
        sizes = {"W": (2, inputs, dim), "M": (nodes, dim), "adj2": (nodes, nodes), "bias": (dim,)}
        weights |= {f"{step}.gconv.{name}": 0.5 * torch.randn(size) for name, size in sizes.items()}
        weights |= batch_norm(f"{step}.bn", dim)
    return filled(shapes) | weights


FILES = {
    MixSTE: mixste_file,
    PoseFormer: poseformer_file,
    VideoPose3D: videopose3d_file,
    DSTformer: dstformer_file,
    MotionAGFormer: motionagformer_file,
    KTPFormer: ktpformer_file,
}
CONTAINERS = dict.fromkeys(FILES, "model_pos") | {MotionAGFormer: "model"}
ALL = pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.__name__)


def write(path, weights, prefix="module.", legacy=False, container="model_pos", **changes) -> Path:
    """What the authors' training scripts save."""
    content = {
        "epoch": 120,
        "lr": 1.2e-5,
        "random_state": np.random.RandomState(1234),
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-5}]},
        container: {prefix + key: value for key, value in weights.items()},
    }
    torch.save(content | changes, path, _use_new_zipfile_serialization=not legacy)
    return path


def linear(weights, name, x):
    return x @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()


def norm(weights, name, x, eps):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + eps).sqrt()
    return x * weights[f"{name}.weight"].double() + weights[f"{name}.bias"].double()


def apply_block(weights, name, x):
    """One sequence of tokens at a time, one head at a time: (tokens, dim)."""
    qkv = linear(weights, f"{name}.attn.qkv", norm(weights, f"{name}.norm1", x, 1e-6))
    dim = x.shape[-1]
    heads = []
    for head in range(8):
        q, k, v = (qkv[:, part * dim + head * dim // 8 : part * dim + (head + 1) * dim // 8] for part in range(3))
        heads.append(torch.softmax(q @ k.T / math.sqrt(dim / 8), dim=-1) @ v)
    x = x + linear(weights, f"{name}.attn.proj", torch.cat(heads, dim=-1))
    hidden = linear(weights, f"{name}.mlp.fc1", norm(weights, f"{name}.norm2", x, 1e-6))
    return x + linear(weights, f"{name}.mlp.fc2", 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))


def mixste_by_hand(weights, keypoints, depth=DEPTH):
    """The network of notebook 13, rows 12–17, in float64 from the authors' names: (frames, joints, 2) → (…, 3)."""
    x = linear(weights, "Spatial_patch_to_embedding", keypoints.double()) + weights["Spatial_pos_embed"][0].double()
    for i in range(depth):
        x = torch.stack([apply_block(weights, f"STEblocks.{i}", x[frame]) for frame in range(len(x))])
        x = norm(weights, "Spatial_norm", x, 1e-6)
        if i == 0:
            x = x + weights["Temporal_pos_embed"][0].double()[:, None]
        x = torch.stack([apply_block(weights, f"TTEblocks.{i}", x[:, joint]) for joint in range(x.shape[1])], dim=1)
        x = norm(weights, "Temporal_norm", x, 1e-6)
    return linear(weights, "head.1", norm(weights, "head.0", x, 1e-5))


def test_the_authors_network_computes_what_its_weights_say(tmp_path):
    weights = mixste_file()
    model = load_checkpoint(write(tmp_path / "a.bin", weights))
    keypoints = torch.rand(1, FRAMES, JOINTS, 2) * 2 - 1
    assert not model.training
    expected = mixste_by_hand(weights, keypoints[0])
    torch.testing.assert_close(model(keypoints)[0].double(), expected, atol=1e-5, rtol=1e-4)


@ALL
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("legacy", [False, True])
def test_published_files(kind, prefix, legacy, tmp_path):
    """In the old and the new format of torch.save, with and without DataParallel's prefix."""
    weights = FILES[kind]()
    model = load_checkpoint(write(tmp_path / "a.bin", weights, prefix, legacy, CONTAINERS[kind]))
    assert type(model) is kind
    numbers = sorted(tuple(value.flatten().tolist()) for value in model.state_dict().values())
    assert numbers == sorted(tuple(value.flatten().tolist()) for value in weights.values())
    assert all(parameter.requires_grad for parameter in model.parameters())
    for name, buffer in model.named_buffers():
        assert buffer.dtype == (torch.int64 if name.endswith("num_batches_tracked") else torch.float32)


@pytest.mark.parametrize("sizes", [(5, 15, 24, 2), (1, 17, 8, 1)])
def test_sizes_are_read_off(sizes):
    for kind in (MixSTE, PoseFormer, DSTformer, MotionAGFormer, KTPFormer):
        options = load(FILES[kind](*sizes)).options
        width = "joint_dim" if kind is PoseFormer else "dim"
        assert tuple(options[name] for name in ("frames", "joints", width, "depth")) == sizes
        assert (options["heads"], options["mlp_ratio"]) == (8, 4 if kind is MotionAGFormer else 2)
        assert options.get("rep_dim", 24) == 24


def test_sizes_of_convolutions():
    model = load(videopose3d_file(layers=4, joints=15, channels=5))
    assert (model.frames, model.joints, model.options["channels"]) == (81, 15, 5)
    assert load(VideoPose3D(1, channels=4).state_dict()).frames == 1


def load(weights):
    path = Path(os.environ["TMPDIR"]) / "a.bin"
    return load_checkpoint(write(path, weights))


@pytest.fixture(autouse=True)
def _scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    torch.manual_seed(0)


@ALL
def test_a_file_with_a_best_error_and_a_name_beside_the_weights(kind, tmp_path):
    """A NumPy scalar under the names of NumPy 1, and a string."""
    beside = {"min_loss": np.float64(41.2), "min_mpjpe": np.float64(40.9), "wandb_id": "a1b2"}
    path = write(tmp_path / "a.bin", FILES[kind](), legacy=True, container=CONTAINERS[kind], **beside)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))
    assert type(load_checkpoint(path)) is kind


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_random_states_of_numpy_1_and_2(core, tmp_path):
    path = write(tmp_path / "a.bin", mixste_file(), legacy=True, lr=np.float64(1e-5))
    data = path.read_bytes()
    assert b"numpy._core" in data
    path.write_bytes(data.replace(b"numpy._core", core))
    assert isinstance(load_checkpoint(path), MixSTE)


class OldRandomState:
    """As NumPy before 1.17 pickled it."""

    def __reduce__(self):
        return getattr(np.random, "__RandomState_ctor"), (), ("MT19937", np.arange(624, dtype=np.uint32), 3, 0, 0.0)


def test_random_states_before_numpy_1_17(tmp_path):
    path = write(tmp_path / "a.bin", mixste_file(), random_state=OldRandomState())
    assert isinstance(load_checkpoint(path), MixSTE)


@pytest.mark.parametrize("kind", [KTPFormer, DSTformer, MotionAGFormer], ids=lambda kind: kind.name)
def test_weights_whose_poses_are_not_in_metres_are_known_by_it(kind, tmp_path):
    """Also from our own file of them; a new network of the same kind gives metres."""
    model = load(FILES[kind]())
    save_checkpoint(model, tmp_path / "a.safetensors")
    again = load_checkpoint(tmp_path / "a.safetensors")
    new = kind(3, dim=8, depth=1)
    save_checkpoint(new, tmp_path / "b.safetensors")
    metres = [one.metres for one in (model, again, new, load_checkpoint(tmp_path / "b.safetensors"))]
    assert metres == [kind is KTPFormer, kind is KTPFormer, True, True]


def test_half_precision_becomes_single(tmp_path):
    weights = {key: value.half() for key, value in mixste_file().items()}
    assert {value.dtype for value in load(weights).state_dict().values()} == {torch.float32}


# --- every key counts ------------------------------------------------------------------------------------------


SMALL = {
    MixSTE: lambda: mixste_file(3, 5, 8, 1),
    PoseFormer: lambda: poseformer_file(3, 5, 8, 1),
    VideoPose3D: lambda: videopose3d_file(2, 5, 8),
    DSTformer: lambda: dstformer_file(3, 5, 8, 1, 4),
    MotionAGFormer: lambda: motionagformer_file(3, 15, 8, 1, 4),
    KTPFormer: lambda: ktpformer_file(3, 15, 8, 1),
}


@ALL
def test_each_missing_key_is_named(kind):
    weights = SMALL[kind]()
    for key in weights:
        with pytest.raises(CheckpointError, match=rf"\b{key}\b"):
            load({other: value for other, value in weights.items() if other != key})


@ALL
def test_each_misshapen_key_is_refused(kind):
    weights = SMALL[kind]()
    for key in weights:
        for other in (weights[key][..., None], weights[key][..., :-1] if weights[key].ndim else torch.ones(2)):
            with pytest.raises(CheckpointError, match="expected"):
                load(weights | {key: other})
    with pytest.raises(CheckpointError, match=r"head\.0\.bias of shape \(3,\) instead of \(\d+,\)"):
        load(mixste_file() | {"head.0.bias": torch.ones(3)})


@ALL
def test_surplus_keys_are_named(kind):
    for key in ("extra.weight", "head.2.weight", "STEblocks.7.norm1.weight", "layers_conv.9.weight", ""):
        with pytest.raises(CheckpointError, match=r"surplus|missing"):
            load(SMALL[kind]() | {key: torch.ones(1)})


def test_a_whole_part_missing():
    with pytest.raises(CheckpointError, match=r"STEblocks\.1\.norm1\.weight missing.* and \d+ more"):
        load({key: value for key, value in mixste_file().items() if not key.startswith("STEblocks.1.")})
    with pytest.raises(CheckpointError, match=r"with Temporal_pos_embed, found none"):
        load({key: value for key, value in mixste_file().items() if key != "Temporal_pos_embed"})


def test_other_networks(tmp_path):
    with pytest.raises(CheckpointError, match=r"MixSTE, .*KTPFormer, .* or VideoPose3D, found conv1\.weight"):
        load({"conv1.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match="found none"):
        load({})
    for value in (1, "x", None, [torch.ones(1)]):
        with pytest.raises(CheckpointError, match=r"head\.0\.bias to be a dense tensor, found a"):
            load(mixste_file() | {"head.0.bias": value})
    for value in (torch.ones(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(CheckpointError, match="and nothing else, found the name 'torch"):
            load(mixste_file() | {"head.0.bias": value})
    with pytest.raises(CheckpointError, match="repeats a few numbers"):
        load(mixste_file() | {"Spatial_pos_embed": torch.zeros(1, 1, DIM).expand(1, 10**12, DIM)})
    twice = mixste_file() | {"module.head.0.bias": torch.ones(DIM)}
    path = write(tmp_path / "a.bin", twice, prefix="")
    with pytest.raises(CheckpointError, match="with and without"):
        load_checkpoint(path)


def load_raw(content) -> None:
    path = Path(os.environ["TMPDIR"]) / "a.bin"
    torch.save(content, path)
    load_checkpoint(path)


def test_other_content(tmp_path):
    with pytest.raises(CheckpointError, match="model_pos or model, found a list"):
        load_raw([1, 2])
    with pytest.raises(CheckpointError, match="model_pos or model, found epoch, state_dict"):
        load_raw({"epoch": 1, "state_dict": {}})
    with pytest.raises(CheckpointError, match="model_pos or model, found model_pos"):
        load_raw({"model_pos": [torch.ones(1)]})
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(tmp_path / "none.bin")
    with pytest.raises(CheckpointError, match="expected a checkpoint, found"):
        load_checkpoint(tmp_path)
    endless = struct.pack("<Q", 2**62) + b"{}"
    for content in (b"", b"\x80", b"text", b"PK\x03\x04" + bytes(100), bytes(8) + b"{", endless):
        (tmp_path / "b.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"b\.bin: expected") as caught:
            load_checkpoint(tmp_path / "b.bin")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", r"found one that begins with b'<!DOCTYPE html>"),
        (b"version https://git-lfs.github.com/spec/v1\n", r"found one that begins with b'version https://git-lfs"),
        (b"", "found an empty one"),
    ],
)
def test_a_download_that_is_no_checkpoint(content, message, tmp_path):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"expected a file that torch.save or safetensors wrote, {message}"):
        load_checkpoint(tmp_path / "a.bin")


def test_a_download_that_broke_off(tmp_path):
    path = write(tmp_path / "a.bin", mixste_file())
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="found an archive without its end"):
        load_checkpoint(path)


# --- safety ----------------------------------------------------------------------------------------------------


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["epoch", "random_state", "optimizer", "model_pos", "lr"])
def test_nothing_runs(place, legacy, tmp_path):
    marker = tmp_path / "ran"
    for attack in (
        Runs(os.system, f"touch {marker}"),
        Runs(eval, f"open({str(marker)!r}, 'w')"),
        Runs(open, str(marker), "w"),
        Runs(np.load, str(marker)),
        Runs(np.random.seed, 0),
        random.Random(0),
        os.system,
    ):
        for content in (attack, {"key": attack}):
            path = write(tmp_path / "a.bin", mixste_file(), legacy=legacy, **{place: content})
            with pytest.raises(CheckpointError, match="expected weights and nothing else, found the name"):
                load_checkpoint(path)
    assert not marker.exists()


def test_the_attacks_would_run(tmp_path):
    """The control: PyTorch, told to trust the file, does as it says."""
    path = write(tmp_path / "a.bin", mixste_file(), lr=Runs(os.system, f"touch {tmp_path / 'ran'}"))
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()


def test_what_stands_for_a_random_state_makes_nothing(tmp_path):
    """Its names are let in, but call nothing of NumPy: neither a terabyte of an array, nor a key for the weights."""
    for attack in (Runs(np.ndarray, (2**40,), "f8"), np.dtype("f8,O"), np.zeros(3, "f8,i4")):
        path = write(tmp_path / "a.bin", mixste_file(), random_state=attack)
        with pytest.raises(CheckpointError, match="expected weights and nothing else"):
            load_checkpoint(path)
    path = write(tmp_path / "a.bin", mixste_file() | {"head.0.bias": np.ones(DIM)})
    with pytest.raises(CheckpointError, match=r"head\.0\.bias to be a dense tensor, found a ndarray"):
        load_checkpoint(path)


def rewrite(path, pickled: bytes) -> Path:
    """The same archive with another pickle in it."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, pickled if name.endswith("data.pkl") else data)
    return path


def test_nesting_that_ends_other_readers(tmp_path):
    """A key of many tuples in one another: to hash it overflows the stack of the interpreter."""
    path = rewrite(write(tmp_path / "a.bin", mixste_file()), b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.")
    with pytest.raises(CheckpointError, match="a dictionary key that is a tuple"):
        load_checkpoint(path)


def test_bombs(tmp_path):
    write(tmp_path / "a.bin", mixste_file() | {"head.0.bias": torch.zeros(10_000_000)})
    with zipfile.ZipFile(tmp_path / "a.bin") as large, zipfile.ZipFile(tmp_path / "b.bin", "w") as small:
        for name in large.namelist():
            small.writestr(name, large.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="an archive that unpacks to more"):
        load_checkpoint(tmp_path / "b.bin")


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10**9},
        {"dim": 8 * 10**9},
        {"frames": 10**8},
        {"frames": 10**15},
        {"joints": 10**15},
        {"heads": 0},
        {"depth": "x"},
        {"a": 1},
    ],
)
@pytest.mark.parametrize("kind", [MixSTE, DSTformer, MotionAGFormer, KTPFormer], ids=lambda kind: kind.name)
def test_options_that_would_take_all_the_memory(kind, options, tmp_path):
    model = kind(3, dim=8, depth=1)
    about = {"model": kind.name, "options": json.dumps(model.options | options)}
    save_file(model.state_dict(), tmp_path / "c.safetensors", about)
    with pytest.raises(CheckpointError, match=r"c\.safetensors: expected"):
        load_checkpoint(tmp_path / "c.safetensors")


@pytest.mark.parametrize("kind", ["zip", "legacy", "ours"])
def test_mutated_files(kind, tmp_path):
    """900 damaged checkpoints: each is read, or refused in a sentence."""
    path = tmp_path / "a.bin"
    if kind == "ours":
        save_checkpoint(MixSTE(3, dim=8, depth=1), path)
    else:
        write(path, mixste_file(frames=3, dim=8, depth=1), legacy=kind == "legacy")
    sentences = []
    for damaged in mutations(path, 300):
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            sentences.append(str(error))
    assert len(sentences) > 50
    assert all(sentence.startswith(f"{path}: expected") and "\n" not in sentence for sentence in sentences)


# --- our own files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        lambda: MixSTE(5, 15, 24, 2, 4, 1.5, 0.1, 0.2),
        lambda: MixSTE(5, 17, 8, 1, alternating=False, attention_scale="model", embedding_norm=True),
        lambda: MixSTE(5, 3, 8, 1, separate_joints=False),
        lambda: VideoPose3D(9, 15, 8),
        lambda: PoseFormer(9, 17, 8, 2),
        lambda: PoseFormer(3, 17, 8, 1, heads=2, mlp_ratio=1.0, drop_path=0.0),
        lambda: DSTformer(5, 17, 8, 6, 2, 4),
        lambda: MotionAGFormer(5, 17, 8, 6, 2, 4),
        lambda: KTPFormer(5, 15, 8, 2, 4, 1.0, 0.2),
    ],
)
def test_round_trip(model, tmp_path):
    model = model()
    save_checkpoint(model.to(torch.bfloat16), tmp_path / "a.safetensors")
    again = load_checkpoint(tmp_path / "a.safetensors")
    assert type(again) is type(model)
    assert not again.training
    assert (again.options, again.layout) == (model.options, model.layout)
    for key, value in again.state_dict().items():
        assert value.dtype == (torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        torch.testing.assert_close(value, model.state_dict()[key].to(value.dtype), atol=0, rtol=0)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.safetensors"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, accelerate, lambda model: accelerate(nn.DataParallel(model))]
)
def test_a_network_is_saved_whatever_it_is_wrapped_in(wrap, tmp_path):
    model = MixSTE(3, dim=8, depth=1)
    save_checkpoint(wrap(model), tmp_path / "a.safetensors")
    export_authors(wrap(model), tmp_path / "a.bin")
    for name in ("a.safetensors", "a.bin"):
        again = load_checkpoint(tmp_path / name)
        assert again.options == model.options
        torch.testing.assert_close(again.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_what_is_no_network_is_not_saved(tmp_path):
    for module in (nn.Linear(2, 2), nn.DataParallel(nn.Linear(2, 2))):
        for write_to in (save_checkpoint, export_authors):
            with pytest.raises(CheckpointError, match=rf"of mixste\.network\.Network, found a {type(module).__name__}"):
                write_to(module, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_our_files_key_by_key(tmp_path):
    model, path = MixSTE(3, dim=8, depth=1), tmp_path / "a.safetensors"
    about = {"model": "mixste", "options": json.dumps(model.options)}
    weights = model.state_dict()
    for changed, message in (
        ({key: value for key, value in weights.items() if key != "head.bias"}, r"head\.bias missing"),
        (weights | {"more": torch.ones(1)}, r"more surplus"),
        (weights | {"head.bias": torch.ones(4)}, r"head\.bias of shape \(4,\) instead of \(3,\)"),
    ):
        save_file(changed, path, about)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path)
    others = [{}, {"model": "resnet", "options": "{}"}, {"model": "mixste"}]
    for other in (*others, about | {"options": "[1]"}, about | {"options": "{"}):
        save_file(weights, path, other)
        with pytest.raises(CheckpointError, match=r"a\.safetensors: expected"):
            load_checkpoint(path)


# --- the way back ----------------------------------------------------------------------------------------------


@ALL
def test_export(kind, tmp_path):
    """What their script reads: the keys of their network inside DataParallel, and nothing that has to be trusted."""
    theirs = FILES[kind]()
    model = load(theirs)
    export_authors(model, tmp_path / "out.bin")
    content = torch.load(tmp_path / "out.bin", weights_only=True)
    assert content.keys() == {"epoch", "lr", "random_state", "optimizer", CONTAINERS[kind]}
    written = content[CONTAINERS[kind]]
    assert written.keys() == {f"module.{key}" for key in theirs}
    for key, value in theirs.items():
        torch.testing.assert_close(written[f"module.{key}"], value, atol=0, rtol=0)
    again = load_checkpoint(tmp_path / "out.bin")
    assert again.options.keys() == model.options.keys()
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("heads", 4),
        ("alternating", False),
        ("separate_joints", False),
        ("attention_scale", "model"),
        ("embedding_norm", True),
    ],
)
def test_export_of_variants_is_refused(option, value, tmp_path):
    with pytest.raises(CheckpointError, match=f"expected {option} = .*, found {value}"):
        export_authors(MixSTE(3, dim=8, depth=1, **{option: value}), tmp_path / "out.bin")
    assert not list(tmp_path.iterdir())


# --- to other joints and frames --------------------------------------------------------------------------------


def test_transfer_of_table_4():
    """17 → 15 joints, each by its name; 243 → 43 frames, the central ones."""
    model = MixSTE(243, 17, 8, 1, drop_path=0.1)
    with torch.no_grad():
        model.joint_position.copy_(torch.arange(17.0)[:, None].expand(17, 8))
        model.frame_position.copy_(torch.arange(243.0)[:, None].expand(243, 8))
    moved = transfer(model, 43, human36m, humaneva15)
    assert moved.layout == "humaneva15"
    assert moved.options == model.options | {"frames": 43, "joints": 15}
    assert moved.joint_position[:, 0].tolist() == [0, 8, 11, 12, 13, 14, 15, 16, 4, 5, 6, 1, 2, 3, 10]
    assert moved.frame_position[:, 0].tolist() == list(range(100, 143))  # the middle one, 121, stays in the middle
    for (key, value), (_, before) in zip(moved.state_dict().items(), model.state_dict().items(), strict=True):
        if not key.endswith("_position"):
            assert torch.equal(value, before)
            assert value.data_ptr() != before.data_ptr()
    assert moved(torch.zeros(1, 43, 15, 2)).shape == (1, 43, 15, 3)
    assert all(parameter.requires_grad for parameter in moved.parameters())


def test_transfer_to_the_same_layout_changes_nothing():
    model = MixSTE(5, 17, 8, 2).eval()
    keypoints = torch.rand(2, 5, 17, 2)
    assert torch.equal(transfer(model, 5, human36m, human36m).eval()(keypoints), model(keypoints))


@pytest.mark.parametrize(("frames", "kept"), [(1, [2]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (5, [0, 1, 2, 3, 4])])
def test_transfer_keeps_the_middle(frames, kept):
    model = MixSTE(5, 15, 8, 1)
    with torch.no_grad():
        model.frame_position.copy_(torch.arange(5.0)[:, None].expand(5, 8))
    assert transfer(model, frames, humaneva15, humaneva15).frame_position[:, 0].tolist() == kept


def test_transfer_that_cannot_be():
    with pytest.raises(ValueError, match="frames must be at most the network's 5, found 6"):
        transfer(MixSTE(5, 17, 8, 1), 6, human36m, humaneva15)
    with pytest.raises(ValueError, match="Spine"):
        transfer(MixSTE(5, 15, 8, 1), 5, humaneva15, human36m)
    with pytest.raises(ValueError, match="HeadTop"):
        transfer(MixSTE(5, 17, 8, 1), 5, human36m, mpi_inf_3dhp)
    with pytest.raises(ValueError, match="one sequence a joint"):
        transfer(MixSTE(5, 17, 8, 1, separate_joints=False), 5, human36m, humaneva15)
    with pytest.raises(ValueError, match="only MixSTE can change its frames, found videopose3d of 9 for 3"):
        transfer(VideoPose3D(9, 15, 8), 3, humaneva15, humaneva15)
    with pytest.raises(ValueError, match="change its joints, found poseformer without"):
        transfer(PoseFormer(5, 17, 8, 1), 5, human36m, humaneva15)


def test_a_peer_that_fits_already_is_copied():
    model = VideoPose3D(9, 15, 8).train()
    copy = transfer(model, 9, humaneva15, humaneva15)
    assert copy.training
    for key, value in copy.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
        assert value.data_ptr() != model.state_dict()[key].data_ptr()


# --- bundled weights -------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A package with weights of ours in it instead of its own."""
    monkeypatch.setattr(weights_module, "files", lambda package: tmp_path)
    return tmp_path / "weights"


def test_bundled_weights_are_stored_in_half_and_read_in_full(folder):
    model = MixSTE(frames=FRAMES, dim=DIM, depth=DEPTH)
    save_checkpoint(model, folder / "tiny.safetensors", torch.float16)
    save_checkpoint(model, folder / "full.safetensors")
    write_sums(folder)
    loaded = MixSTE.from_pretrained("tiny")
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, model.state_dict()[key], rtol=2**-11, atol=1e-7)
    sizes = [(folder / name).stat().st_size for name in ("tiny.safetensors", "full.safetensors")]
    assert sizes[0] < 0.6 * sizes[1]


def test_a_count_of_batches_outlasts_storing_in_half(tmp_path):
    model = VideoPose3D(frames=9, channels=DIM)
    model.expand_bn.num_batches_tracked.fill_(100_001)  # above float16's largest number
    save_checkpoint(model, tmp_path / "half.safetensors", torch.float16)
    assert load_checkpoint(tmp_path / "half.safetensors").expand_bn.num_batches_tracked == 100_001


def test_one_bit_of_the_bundled_weights_is_noticed(folder):
    save_checkpoint(MixSTE(frames=FRAMES, dim=DIM, depth=1), folder / "tiny.safetensors")
    with pytest.raises(CheckpointError, match=r"SHA-256 None of SHA256SUMS"):
        MixSTE.from_pretrained("tiny")
    write_sums(folder)
    MixSTE.from_pretrained("tiny")
    content = bytearray((folder / "tiny.safetensors").read_bytes())
    content[-3] ^= 1  # a number, which the format does not protect
    (folder / "tiny.safetensors").write_bytes(content)
    load_checkpoint(folder / "tiny.safetensors")
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors: expected the file of this release, .*again$"):
        MixSTE.from_pretrained("tiny")


def test_an_unknown_name_lists_those_there_are(folder):
    with pytest.raises(CheckpointError, match="bundled weights, none here, found 'open-small'"):
        MixSTE.from_pretrained("open-small")
    for name in ("b", "a"):
        save_checkpoint(MixSTE(frames=FRAMES, dim=DIM, depth=1), folder / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"bundled weights, a, b, found '\.\./a'"):
        MixSTE.from_pretrained("../a")


@pytest.mark.parametrize("name", bundled())
def test_bundled_weights_lift_unseen_people(name):
    """Every file in the package is small, has its card, and lifts bodies and motions of quite another source."""
    path = bundled()[name]
    assert path.stat().st_size < 20e6
    assert path.with_suffix(".md").exists()
    network = MixSTE.from_pretrained(name)
    for action in ("Walking", "Greeting", "Sitting"):
        world = synthetic.perform("S9", action, "1")[:162]
        clip = film(world, subject="S9", action=action, fps=synthetic.FPS, keypoints="openpose")[1]
        lifted = predict(network, normalize_screen(clip.keypoints, *clip.resolution), flip=False)
        # Metres. Its bodies, cameras and skeleton are those of the recordings; these are others.
        assert mpjpe(lifted - lifted[:, :1], clip.poses - clip.poses[:, :1]) < 0.15


# --- the joint layout ------------------------------------------------------------------------------------------

# Of mpi_inf_3dhp: arms 2–4 and 5–7, legs 8–10 and 11–13.
SIDES_3DHP = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 14, 15, 16]


def test_a_network_trained_on_3dhp_is_mirrored_with_its_own_pairs(tmp_path):
    """Also once it has been saved and loaded, and although it has Human3.6M's number of joints."""
    dataset = Data("synthetic", skeleton="mpi_inf_3dhp", subjects=("S1", "S9"), actions=("Walking",)).load()
    model = MixSTE(5, 17, 8, 1)
    train(model, dataset.train[:1], dataset.skeleton, replace(AUTHORS, batch_frames=50, learning_rate=0.01), 500, 0)
    save_checkpoint(model, tmp_path / "a.safetensors")
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    keypoints = np.random.default_rng(0).uniform(-1, 1, (5, 17, 2)).astype(np.float32)
    with torch.no_grad():
        plain = loaded(torch.from_numpy(keypoints[None]))[0].numpy()
        reflected = loaded(torch.from_numpy(keypoints[None][:, :, SIDES_3DHP] * np.float32([-1, 1])))[0].numpy()
    expected = (plain + reflected[:, SIDES_3DHP] * np.float32([-1, 1, 1])) / 2
    for network in (model, loaded):
        np.testing.assert_allclose(predict(network, keypoints), expected, atol=1e-5)
    assert np.abs(predict(loaded, keypoints, skeleton=human36m) - expected).max() > 1e-3
    errors = evaluate(loaded, dataset.test[:1])  # of its own joints: relative to joint 14, and with PCK
    assert set(errors["metric"]) >= {"PCK", "AUC"}


@pytest.mark.parametrize("kind", ["authors", "without metadata"])
def test_two_layouts_have_17_joints_and_a_file_that_does_not_tell_is_asked_about(kind, tmp_path):
    if kind == "authors":
        path = write(tmp_path / "a.bin", mixste_file())
    else:
        model, path = MixSTE(FRAMES, dim=8, depth=1), tmp_path / "a.safetensors"
        save_file(model.state_dict(), path, {"model": "mixste", "options": json.dumps(model.options)})
    model, keypoints = load_checkpoint(path), np.zeros((FRAMES, 17, 2))
    question = r"17 joints \(human36m or mpi_inf_3dhp\): give skeleton= or .*--network-layout human36m, or --network-la"
    with pytest.raises(ValueError, match=question):
        predict(model, keypoints)
    with pytest.raises(ValueError, match=question):
        evaluate(model, [])
    predict(model, keypoints, flip=False)
    given = predict(model, keypoints, skeleton=mpi_inf_3dhp)
    model.layout = "mpi_inf_3dhp"
    np.testing.assert_array_equal(predict(model, keypoints), given)


def test_one_layout_has_15_joints():
    model = load(mixste_file(joints=15))
    assert model.skeleton is humaneva15


def test_a_layout_of_other_joints_is_none():
    model = MixSTE(3, 5, 8, 1)
    with pytest.raises(ValueError, match=r"5 joints \(as in no layout here\): give skeleton="):
        predict(model, np.zeros((3, 5, 2)))
    model = MixSTE(3, 17, 8, 1)
    model.layout = "humaneva15"
    with pytest.raises(ValueError, match=r"17 joints \(humaneva15\)"):
        predict(model, np.zeros((3, 17, 2)))
