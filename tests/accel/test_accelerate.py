"""`accelerate`: what it returns is the model, computed by what suits the device, with the latest weights."""

import copy
import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import twins
from twins import VARIANTS, OnGPU, error, network

from mixste.accel import accelerate, covers, cpu, cuda, graphs
from mixste.baselines import PoseFormer, VideoPose3D
from mixste.checkpoints import load_checkpoint, save_checkpoint
from mixste.predict import predict

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@torch.no_grad()
def poses_of(network, keypoints):
    return network(keypoints)


# --- what it is --------------------------------------------------------------------------------------------------


def test_it_has_the_models_parameters_attributes_and_mode():
    model = network().eval()
    fast = accelerate(model)
    assert [id(p) for p in fast.parameters()] == [id(p) for p in model.parameters()]
    assert (fast.frames, fast.joints, fast.options, fast.layout) == (6, 5, model.options, model.layout)
    assert fast.mode == "seq2seq"
    assert fast.windows(7)[0].shape == (2, 6)
    with pytest.raises(AttributeError, match="'MixSTE' object has no attribute 'wings'"):
        fast.wings  # noqa: B018
    for mode in (True, False):
        assert fast.train(mode) is fast
        assert fast.training is model.training is mode
        model.train(not mode)
        assert fast.training is not mode


def test_its_checkpoint_is_the_models(tmp_path):
    fast = accelerate(network())
    fast.layout = "mpi_inf_3dhp"
    assert fast.model.layout == "mpi_inf_3dhp"
    fast.layout = None  # of 5 joints
    save_checkpoint(fast, tmp_path / "a.safetensors")
    again = load_checkpoint(tmp_path / "a.safetensors")
    assert type(again) is type(fast.model)
    for key, value in fast.model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value.float(), rtol=0, atol=0)
    fast.load_state_dict({key: 0 * value for key, value in again.state_dict().items()})
    assert not any(parameter.any() for parameter in fast.model.parameters())


def test_an_accelerated_network_is_accelerated_once():
    model = network()
    fast = accelerate(model)
    assert accelerate(fast) is fast
    assert accelerate(fast, bfloat16=True).model is model


def test_nothing_holds_on_to_it():
    """Its graphs fill a GPU: they must go with it, not when garbage is collected."""
    fast = accelerate(network().eval())
    poses_of(fast, torch.randn(1, 6, 5, 2))
    reference = weakref.ref(fast)
    gc.disable()
    try:
        del fast
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_on_a_cpu_poses_are_the_models(options):
    model = network(**options).double().eval()
    keypoints = torch.randn(2, 6, 5, 2, dtype=torch.float64)
    torch.testing.assert_close(poses_of(accelerate(model), keypoints), poses_of(model, keypoints))


@pytest.mark.parametrize("model", [PoseFormer(9, 5, 8, 1, 2, drop_path=0.0), VideoPose3D(9, 5, 8, dropout=0.0)])
def test_other_networks_are_called_as_they_are(model):
    assert not covers(model)
    keypoints = torch.randn(2, 9, 5, 2)
    for mode in (True, False):
        copied = copy.deepcopy(model).train(mode)  # running means move
        assert torch.equal(accelerate(copy.deepcopy(copied))(keypoints), copied(keypoints))


def test_dropout_is_left_to_the_model():
    model = network(dropout=0.5)
    assert not covers(model.train())
    assert covers(model.eval())
    model.train()
    keypoints = torch.randn(2, 6, 5, 2)
    torch.manual_seed(0)
    expected = model(keypoints)
    torch.manual_seed(0)
    assert torch.equal(accelerate(model)(keypoints), expected)


def test_a_wrong_shape_is_refused_as_the_model_refuses_it():
    with pytest.raises(ValueError, match=r"keypoints must be \(batch, 6, 5, 2\), found \(2, 7, 5, 2\)"):
        accelerate(network())(torch.randn(2, 7, 5, 2))


def test_in_bfloat16_a_cpu_lifts_to_a_percent():
    model = network().eval()
    keypoints = torch.randn(2, 6, 5, 2)
    exact = poses_of(model, keypoints)
    assert torch.equal(poses_of(accelerate(model), keypoints), poses_of(lambda x: cpu.forward(model, x), keypoints))
    rough = poses_of(accelerate(model, bfloat16=True), keypoints)
    assert 0 < error(rough, exact) < 0.03
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_several_threads_may_lift(bfloat16):
    """From the first call on, in which an accelerated network prepares its weights."""
    model, keypoints = network().eval(), torch.randn(24, 2, 6, 5, 2)
    expected = [poses_of(accelerate(model, bfloat16=bfloat16), one) for one in keypoints]
    fast = accelerate(model, bfloat16=bfloat16)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: poses_of(fast, one), keypoints))
    assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
    assert len(list(fast.parameters())) == len(list(model.parameters()))


# --- the latest weights ------------------------------------------------------------------------------------------


def by_optimizer(model):
    """The fused one leaves the versions of parameters as they are."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=True).step()


def by_loading(model):
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})


@torch.no_grad()
def in_place(model):
    model.head.bias.add_(1)
    model.temporal_blocks[1].mlp.fc2.weight.mul_(2)


def to_another_place(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5


CHANGES = [by_optimizer, by_loading, in_place, to_another_place]


@pytest.mark.parametrize("change", CHANGES)
def test_weights_in_bfloat16_follow_the_models(change):
    model, keypoints = network().eval(), torch.randn(2, 6, 5, 2)
    fast = accelerate(model, bfloat16=True)
    before = poses_of(fast, keypoints)
    change(model)
    expected = poses_of(accelerate(model, bfloat16=True), keypoints)
    assert not torch.equal(before, expected)
    assert torch.equal(poses_of(fast, keypoints), expected)


def test_a_write_that_cannot_be_seen_needs_a_refresh():
    model, keypoints = network().eval(), torch.randn(2, 6, 5, 2)
    fast = accelerate(model, bfloat16=True)
    before = poses_of(fast, keypoints)
    model.spatial_blocks[0].mlp.fc1.weight.data.mul_(2)
    assert torch.equal(poses_of(fast, keypoints), before)
    fast.refresh()
    assert torch.equal(poses_of(fast, keypoints), poses_of(accelerate(model, bfloat16=True), keypoints))


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What an accelerated network does on a GPU, by twins of its kernels and graphs; returns what was prepared and
    recorded, in order."""
    events = []

    def record(compute, *inputs):
        events.append(f"record {len(inputs[0])}")
        return twins.record(compute, *inputs)

    def prepared(model, float8, prepare=cuda.prepared):
        events.append("prepare")
        return prepare(model, float8)

    for module, name, twin in (
        *((cuda, "LOW", torch.float64), (cuda, "kernels", twins), (cuda, "cublaslt", twins)),
        *((cuda, "covers", lambda model: True), (cuda, "prepared", prepared), (graphs, "record", record)),
    ):
        monkeypatch.setattr(module, name, twin)
    monkeypatch.setattr(twins, "APPROXIMATE", "none")
    return events


def batch(size):
    return torch.randn(size, 6, 5, 2, dtype=torch.float64).as_subclass(OnGPU)


@pytest.mark.parametrize("change", CHANGES)
def test_graphs_read_the_latest_weights(as_on_a_gpu, change):
    """They are recorded once for each size of batch, and again only where parameters have moved."""
    model = network().double().eval()
    fast = accelerate(model)

    def check(size):
        keypoints = batch(size)
        torch.testing.assert_close(poses_of(fast, keypoints), poses_of(model, keypoints), rtol=1e-10, atol=1e-10)

    for size in (2, 3, 2, 3):
        check(size)
    assert as_on_a_gpu == ["prepare", "record 2", "record 3"]
    change(model)
    for size in (2, 3, 2):
        check(size)
    moved = change is to_another_place
    assert as_on_a_gpu[3:] == ["prepare", *(["record 2", "record 3"] if moved else [])]


def test_inference_mode_and_no_grad_may_alternate(as_on_a_gpu):
    model = network().double().eval()
    for options, keypoints in (({}, batch(2)), ({"bfloat16": True}, batch(2).as_subclass(torch.Tensor).float())):
        fast = accelerate(model.to(keypoints.dtype), **options)
        for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with mode():
                given = keypoints.clone()
                assert error(fast(given), model(given)) < 0.03
            by_optimizer(model)


def test_poses_are_not_overwritten_by_the_next_batch(as_on_a_gpu):
    fast = accelerate(network().double().eval())
    first = poses_of(fast, batch(2))
    before = first.clone()
    poses_of(fast, batch(2))
    assert torch.equal(first, before)


def test_training_and_evaluation_alternate(as_on_a_gpu):
    """Gradients are of the weights as they are, and poses of those that the last step left."""
    torch.manual_seed(0)
    model = network().double()
    exact, fast = copy.deepcopy(model), accelerate(model)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=0.01, fused=True) for one in (model, exact)]
    for _ in range(3):
        keypoints = batch(2)
        for one, optimizer in zip((fast, exact), optimizers, strict=True):
            optimizer.zero_grad()
            one.train()(keypoints).square().mean().backward()
            optimizer.step()
        assert error(poses_of(fast.eval(), keypoints), poses_of(exact.eval(), keypoints)) < 1e-5
    assert as_on_a_gpu == ["prepare", "record 2", "prepare", "prepare"]


# --- on a GPU ----------------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("float8", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_on_a_gpu_graphs_read_the_latest_weights(change, float8):
    model = network(matrices=0.0, frames=27, joints=17, dim=128, heads=8).cuda().eval()
    fast = accelerate(model, float8=float8)
    for size in (2, 3):
        poses_of(fast, torch.randn(size, 27, 17, 2, device="cuda"))
    change(model)
    for size in (2, 3):
        keypoints = torch.randn(size, 27, 17, 2, device="cuda")
        assert torch.equal(poses_of(fast, keypoints), poses_of(accelerate(model, float8=float8), keypoints))


@needs_cuda
@pytest.mark.gpu
def test_on_a_gpu_peers_are_exact_or_recorded_in_bfloat16():
    model, keypoints = PoseFormer(9, 17, 8, 1, 2).cuda().eval(), torch.randn(4, 9, 17, 2, device="cuda")
    exact = poses_of(model, keypoints)
    assert torch.equal(poses_of(accelerate(model), keypoints), exact)
    assert 0 < error(poses_of(accelerate(model, bfloat16=True), keypoints), exact) < 0.03


@needs_cuda
@pytest.mark.gpu
def test_predicting_on_a_gpu_agrees_with_the_cpu():
    model = network(matrices=0.0, frames=27, joints=17, dim=128, heads=8).eval()
    keypoints = torch.randn(100, 17, 2)
    expected = predict(model, keypoints)
    poses = predict(accelerate(model.cuda()), keypoints.cuda())
    assert error(poses.cpu(), expected) < 0.02
