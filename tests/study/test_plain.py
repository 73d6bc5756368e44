"""The plain network and its plain training, against which speed and digits are measured."""

import torch

from mixste import MixSTE
from mixste.study.plain import reference


def lively(model):
    """Weights that make every part matter: zero position embeddings and unit norms would hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def test_the_reference_equals_the_network_in_double_precision():
    torch.manual_seed(0)
    model = lively(MixSTE(frames=9, joints=17, dim=32, depth=3, heads=4).double())
    twin = reference(model)
    keypoints = torch.randn(2, 9, 17, 2, dtype=torch.float64)
    weights = torch.randn(2, 9, 17, 3, dtype=torch.float64)
    for network in (model, twin):
        (network(keypoints) * weights).sum().backward()
    torch.testing.assert_close(twin(keypoints), model(keypoints), rtol=1e-12, atol=1e-12)
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-10, msg=name)


def test_the_references_stochastic_depth_keeps_the_mean():
    torch.manual_seed(0)
    block = reference(MixSTE(frames=3, dim=8, depth=2, heads=2, drop_path=0.25)).temporal_blocks[1]
    kept = block.dropped(torch.ones(20000, 2, 2))
    assert set(kept.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert (kept == kept[:, :1, :1]).all(), "a sequence is dropped whole or not at all"
    assert abs(kept.mean() - 1) < 0.02
