"""Compiled blocks: on any machine traced and run by autograd in double precision; on a GPU compiled and recorded."""

import copy
import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from twins import error, gradients, squared_error

from mixste.accel import accelerate, compiled
from mixste.networks import DSTformer, KTPFormer, MotionAGFormer, PoseFormer
from mixste.train import Step

NETWORKS = {
    "dstformer": lambda frames, dim: DSTformer(frames, 17, dim, dim, depth=2, heads=4),
    "ktpformer": lambda frames, dim: KTPFormer(frames, 17, dim, depth=2, heads=4),
    "motionagformer": lambda frames, dim: MotionAGFormer(frames, 17, dim, dim, depth=2, heads=4),
}
# Compiled forward passes: over joints and over frames; in MotionAGFormer each by attention and by graphs.
GRAPHS = {"dstformer": 2, "ktpformer": 2, "motionagformer": 4}


def network(name, frames, dim):
    """Parameters far from where a network starts, at which a fusion or a scale would hide what it multiplies."""
    torch.manual_seed(0)
    model = NETWORKS[name](frames, dim)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.train()


def batch(model):
    keypoints = torch.randn(3, model.frames, model.joints, 2)
    return keypoints, torch.randn(3, model.frames, model.joints, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_gradients_and_running_statistics_are_the_models(monkeypatch, name):
    counter = CompileCounterWithBackend("aot_eager")
    trace = functools.cache(lambda kind: torch.compile(kind.forward, backend=counter, dynamic=False, fullgraph=True))
    monkeypatch.setattr(compiled, "compiled", trace)
    torch._dynamo.reset()
    model = network(name, 6, 16).double()
    exact = copy.deepcopy(model)
    keypoints, target = (x.double() for x in batch(model))
    with compiled.blocks(model):
        loss = squared_error(model(keypoints), target)
    loss.backward()
    expected = squared_error(exact(keypoints), target)
    expected.backward()
    assert error(loss.detach(), expected.detach()) < 1e-12
    ours, theirs = (gradients(one) | dict(one.named_buffers()) for one in (model, exact))
    assert max(error(ours[key], theirs[key]) for key in theirs) < 1e-9
    assert counter.frame_count == GRAPHS[name], "once for all blocks of a kind and shape"


def test_afterwards_the_model_is_as_it_was():
    model = network("motionagformer", 6, 16)

    def changed():
        return sum("forward" in vars(module) for module in model.modules())

    def interrupted():
        with compiled.blocks(model):
            assert changed() == 8
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert changed() == 0


def test_other_networks_are_left_alone():
    assert not compiled.covers(PoseFormer(9, 5, 8, 1, 2))


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_a_recorded_training_step_on_a_gpu(name):
    """Loss and gradients of a replayed graph are the float32 model's up to bfloat16, no worse than autocast's own."""
    model = network(name, 27, 64).cuda()
    model.layout = "human36m"
    exact, plain = copy.deepcopy(model), copy.deepcopy(model)
    assert compiled.covers(model)
    keypoints, target = (x.cuda() for x in batch(model))
    step = Step(accelerate(model), squared_error, scaled_gradient=False)
    for _ in range(2):  # recorded, then replayed
        loss = step(keypoints, target)
    squared_error(exact(keypoints), target).backward()
    with torch.autocast("cuda", torch.bfloat16):
        squared_error(plain(keypoints), target).backward()
    assert torch.isfinite(loss)
    ours, rough, theirs = (torch.cat([g.flatten() for g in gradients(m).values()]) for m in (model, plain, exact))
    assert error(ours, theirs) < 1.5 * error(rough, theirs) + 0.01
