"""The plain network and its plain training, with which speed and digits are compared: they compute what ours do.

They share no code with ours but the batches, the loss and the optimizer.
"""

from dataclasses import replace

import pytest
import torch

from mixste import MixSTE
from mixste.data import load
from mixste.study.plain import plain_copy, train_plainly
from mixste.train import AUTHORS, train


def lively(model):
    """Weights that make every part matter: zero position embeddings and unit norms would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def test_the_plain_network_equals_the_network_in_double_precision():
    torch.manual_seed(0)
    model = lively(MixSTE(frames=9, joints=17, dim=32, depth=3, heads=4).double())
    plain = plain_copy(model)
    keypoints = torch.randn(2, 9, 17, 2, dtype=torch.float64)
    weights = torch.randn(2, 9, 17, 3, dtype=torch.float64)
    for network in (model, plain):
        (network(keypoints) * weights).sum().backward()
    torch.testing.assert_close(plain(keypoints), model(keypoints), rtol=1e-12, atol=1e-12)
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-10, msg=name)


def test_its_stochastic_depth_keeps_the_mean():
    torch.manual_seed(0)
    block = plain_copy(MixSTE(frames=3, dim=8, depth=2, heads=2, drop_path=0.25)).temporal_blocks[1]
    kept = block.dropped(torch.ones(20000, 2, 2))
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert (kept == kept[:, :1, :1]).all(), "a sequence is dropped whole or not at all"
    assert abs(kept.mean() - 1) < 0.02


@pytest.mark.parametrize("options", [{"attention_scale": "model"}, {"embedding_norm": True}, {"alternating": False}])
def test_a_variant_has_no_plain_network(options):
    with pytest.raises(ValueError, match="expected a network of the authors' kind"):
        plain_copy(MixSTE(frames=3, dim=8, depth=1, heads=1, **options))


@pytest.fixture(scope="module")
def dataset():
    dataset = load("synthetic", keypoints="gt")
    return replace(dataset, train=dataset.train[:2])


def trained(loop, dataset, recipe, poses):
    """The weights that a training loop leaves, those it began with being the same."""
    torch.manual_seed(0)
    model = MixSTE(frames=9, dim=16, depth=2, heads=2)
    loop(model, dataset, recipe, poses, 3)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("schedule", ["epochs", "cosine"])
def test_plain_training_is_the_training_of_the_package(dataset, schedule, scaled):
    """The same batches, rates, losses and steps; rounding differs."""
    recipe = replace(
        AUTHORS, batch_frames=36, learning_rate=1e-3, schedule=schedule, scaled_gradient=scaled, drop_path=0.0
    )
    loops = {
        "package": lambda model, data, *rest: train(model, data.train, data.skeleton, *rest),
        "plain loop": train_plainly,
        "plain loop and network": lambda model, *rest: train_plainly(model, *rest, plain=plain_copy(model)),
        "untrained": lambda *_: None,
    }
    expected, *plain, untrained = (trained(loop, dataset, recipe, 300) for loop in loops.values())
    moved = (expected - untrained).norm()
    assert all((weights - expected).norm() / moved < 0.01 for weights in plain)
