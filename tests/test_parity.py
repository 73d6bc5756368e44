"""The authors' published code beside ours, where MIXSTE_AUTHORS names a checkout of it at the commit the study reads.

`git clone https://github.com/JinluZhang1126/MixSTE authors && git -C authors checkout 72a36be`, then
`MIXSTE_AUTHORS=authors pytest tests/test_parity.py`. Their network needs einops; what
else they import is not used by it, and is replaced by nothing.
"""

import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from mixste import MixSTE, losses, metrics
from mixste.checkpoints import export_authors
from mixste.skeleton import human36m
from mixste.train import AUTHORS

COMMIT = "72a36be"
UNUSED = {
    "timm": (),
    "timm.data": ("IMAGENET_DEFAULT_MEAN", "IMAGENET_DEFAULT_STD"),
    "timm.models": (),
    "timm.models.helpers": ("load_pretrained",),
    "timm.models.layers": ("to_2tuple", "trunc_normal_"),
    "timm.models.registry": ("register_model",),
    "common.rela": ("RectifiedLinearAttention",),
    "common.routing_transformer": ("KmeansAttention",),
    "common.linearattention": ("LinearMultiheadAttention",),
}


@pytest.fixture(scope="module")
def authors():
    """Their modules: `network` and `loss`."""
    folder = os.environ.get("MIXSTE_AUTHORS")
    if not folder:
        pytest.skip("MIXSTE_AUTHORS names no checkout of the authors' code")
    pytest.importorskip("einops")
    head = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    if not head.startswith(COMMIT):
        pytest.skip(f"expected the authors' code at {COMMIT} in {folder}, found {head.strip()[:7] or 'no commit'}")
    before = dict(sys.modules)
    for name, attributes in UNUSED.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(dict.fromkeys(attributes))
    sys.modules["timm.models.layers"].DropPath = lambda rate: nn.Identity()
    sys.path.insert(0, str(Path(folder).resolve()))
    try:
        yield types.SimpleNamespace(
            network=importlib.import_module("common.model_cross"), loss=importlib.import_module("common.loss")
        )
    finally:
        sys.path.pop(0)
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 9, 17, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_network_and_gradients(authors, pair, tmp_path):
    """From one file of weights: the same poses, and by the authors' loss the same gradient of every parameter."""
    torch.manual_seed(0)
    ours = MixSTE(frames=9, dim=32, depth=3, heads=8).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(parameter.float() + 0.2 * torch.randn(parameter.shape))  # what single precision can hold
    export_authors(ours, tmp_path / "weights.bin")
    state = torch.load(tmp_path / "weights.bin", weights_only=True)["model_pos"]
    theirs = authors.network.MixSTE2(
        num_frame=9, num_joints=17, in_chans=2, embed_dim_ratio=32, depth=3, num_heads=8, drop_path_rate=0.1
    ).double()
    theirs.load_state_dict({name.removeprefix("module."): weight for name, weight in state.items()})

    keypoints, target = torch.randn(2, 9, 17, 2, dtype=torch.float64), pair[1]
    weights = torch.tensor(human36m.weights("authors"), dtype=torch.float64)
    poses = ours(keypoints)
    losses.total_loss(poses, target, dict(AUTHORS.loss), weights).backward()
    expected = theirs(keypoints)
    steps = expected[:, 1:] - expected[:, :-1]
    motion = 0.5 * (weights[:, None] * steps.square()).mean()
    motion = motion + 2 * authors.loss.mean_velocity_error_train(expected, target, axis=1)
    (authors.loss.weighted_mpjpe(expected, target, weights) + motion).backward()

    torch.testing.assert_close(poses, expected, rtol=1e-10, atol=1e-10)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    names = [name.removeprefix("module.") for name in state]
    for (name, mine), other in zip(ours.named_parameters(), names, strict=True):
        torch.testing.assert_close(mine.grad, gradients[other].view_as(mine), rtol=1e-8, atol=1e-10, msg=name)


def test_metrics(authors, pair):
    pred, target = pair
    one = [x[0] for x in pair]
    assert metrics.mpjpe(pred, target) == pytest.approx(authors.loss.mpjpe(pred, target).item(), rel=1e-12)
    assert metrics.n_mpjpe(pred, target) == pytest.approx(authors.loss.n_mpjpe(pred, target).item(), rel=1e-12)
    aligned = authors.loss.p_mpjpe(*(x.numpy().copy() for x in one))
    assert metrics.p_mpjpe(*one) == pytest.approx(aligned, rel=1e-10)
    velocity = authors.loss.mean_velocity_error(*(x.numpy() for x in one))
    assert metrics.mpjve(*one) == pytest.approx(velocity, rel=1e-12)


def test_losses(authors, pair):
    pred, target = pair
    weights = torch.tensor(human36m.weights("authors"), dtype=torch.float64)
    ours = losses.weighted_mpjpe(pred, target, weights)
    torch.testing.assert_close(ours, authors.loss.weighted_mpjpe(pred, target, weights), rtol=1e-12, atol=0)
    ours = losses.velocity_loss(pred, target)
    torch.testing.assert_close(ours, authors.loss.mean_velocity_error_train(pred, target, axis=1), rtol=1e-12, atol=0)
