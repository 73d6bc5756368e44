"""Muon against singular value decompositions in float64, and against AdamW for what is no matrix."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from mixste import MixSTE
from mixste.networks import VideoPose3D
from mixste.optim import MOMENTUM, Muon, orthogonal

RATE, DECAY = 0.01, 0.1


def spectrum(x):
    """Singular vectors in float64, and the matrix between them of what `orthogonal` makes of x."""
    left, _, right = torch.linalg.svd(x.double(), full_matrices=False)
    return left.mT @ orthogonal(x).double() @ right.mT


@pytest.mark.parametrize("shape", [(3, 1, 5), (2, 8, 8), (1, 16, 90), (2, 40, 6)])
def test_singular_vectors_stay_and_singular_values_become_about_one(shape):
    torch.manual_seed(0)
    between = spectrum(torch.randn(shape))
    values = between.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.6
    assert values.max() < 1.25
    assert torch.allclose(between, torch.diag_embed(values), atol=1e-4)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_a_gradient_does_not_count(factor):
    torch.manual_seed(0)
    x = torch.randn(2, 8, 12)
    assert torch.allclose(orthogonal(factor * x), orthogonal(x), atol=1e-5)
    assert (orthogonal(torch.zeros(1, 2, 3)) == 0).all()


def trained(model, optimizer, steps=1):
    """Gradients of a few steps, each with a loss of its own."""
    generator, gradients = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        gradients.append([torch.randn(p.shape, generator=generator) for p in model.parameters()])
        for parameter, gradient in zip(model.parameters(), gradients[-1], strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return gradients


def network():
    torch.manual_seed(0)
    return MixSTE(3, 17, 8, 1, 2)


def test_what_is_no_matrix_follows_adamw_to_the_last_bit():
    muon, adamw = network(), network()
    trained(muon, Muon(muon, RATE, DECAY), 3)
    trained(adamw, torch.optim.AdamW(adamw.parameters(), RATE, weight_decay=DECAY, fused=True), 3)
    compared = 0
    for (name, ours), theirs in zip(muon.named_parameters(), adamw.parameters(), strict=True):
        matrix = name.endswith("weight") and ours.dim() == 2
        assert torch.equal(ours, theirs) != matrix, name
        compared += not matrix
    assert compared == 2 + 2 * 8 + 3 * 2 + 2  # biases at the ends, biases and norms of blocks, norms, positions


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (6, 6)])
def test_steps_of_a_matrix_by_hand(shape):
    """Nesterov's momentum, orthogonal, 0.2 · √(longer side) · rate; and decoupled decay."""
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    expected, moment = model[0].weight.detach().clone(), torch.zeros(shape)
    for [gradient] in trained(model, Muon(model, RATE, DECAY), 3):
        moment = MOMENTUM * moment + (1 - MOMENTUM) * gradient
        direction = MOMENTUM * moment + (1 - MOMENTUM) * gradient
        update = orthogonal(direction[None])[0]
        expected = (1 - RATE * DECAY) * expected - RATE * 0.2 * math.sqrt(max(shape)) * update
    assert torch.allclose(model[0].weight, expected, atol=1e-6)


def test_updates_are_about_as_large_as_adamws():
    """0.2 of the rate an element, whatever the matrix's shape and the gradient."""
    for shape in ((2, 64), (64, 64), (3, 64), (64, 128)):
        model = nn.Sequential(nn.Linear(*shape, bias=False))
        before = model[0].weight.detach().clone()
        trained(model, Muon(model, RATE, 0.0))
        size = (model[0].weight - before).square().mean().sqrt() / RATE
        assert 0.12 < size < 0.25, shape


def test_a_matrix_does_not_depend_on_those_computed_with_it():
    alone, others = nn.Sequential(nn.Linear(8, 4)), nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 4))
    others[0].load_state_dict(alone[0].state_dict())
    for model in (alone, others):
        model.zero_grad()
        model(torch.ones(1, 8)).sum().backward()
    others[0].weight.grad = alone[0].weight.grad.clone()
    for model in (alone, others):
        Muon(model, RATE, DECAY).step()
    assert torch.allclose(alone[0].weight, others[0].weight, atol=1e-7)


def test_convolutions_are_matrices_of_channels_out_by_all_that_they_read():
    torch.manual_seed(0)
    model = VideoPose3D(3, 17, 8)
    layer = model.expand_conv
    before = layer.weight.detach().clone()
    trained(model, Muon(model, RATE, 0.0))
    update = (before - layer.weight).flatten(1) / (RATE * 0.2 * math.sqrt(34 * 3))
    values = torch.linalg.svdvals(update.detach())
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_copy_from_the_state_continues_to_the_last_bit():
    model = network()
    optimizer = Muon(model, RATE, DECAY)
    trained(model, optimizer, 2)
    copy = network()
    copy.load_state_dict(model.state_dict())
    other = Muon(copy, RATE, DECAY)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for one, of in ((model, optimizer), (copy, other)):
        trained(one, of, 2)
    assert all(map(torch.equal, model.parameters(), copy.parameters()))
