"""VideoPose3D's training on CUDA: on any machine with twins instead of the kernels, in double precision; on a GPU as it
is, and each kernel against its twin."""

import copy

import pytest
import torch
import twins
from twins import error, gradients, squared_error

from mixste.accel import accelerate, videopose3d
from mixste.networks import VideoPose3D
from mixste.train import Step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def network(frames, channels, dropout=0.25, joints=5):
    """Random norms, far from 1 and 0, would hide no mistake; and running statistics that have moved."""
    torch.manual_seed(0)
    model = VideoPose3D(frames, joints, channels, dropout=dropout)
    for norm in (model.expand_bn, *model.layers_bn):
        torch.nn.init.normal_(norm.weight, 1, 0.3)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        norm.running_mean.normal_()
    return model.train()


def errors(monkeypatch, model, step, batch: int) -> dict[str, float]:
    """Of the loss, each parameter's gradient and each buffer, against the model itself, which drops the same.

    Its ReLUs take the same sides too: rounding moves an input near 0 to the other one now and then, which changes a
    gradient by far more than rounding does. step(keypoints, target) returns the loss and leaves the gradients.
    """
    exact, parameter = copy.deepcopy(model), model.shrink.weight
    keypoints = torch.randn(batch, model.frames, model.joints, 2).to(parameter)
    target = torch.randn(batch, 1, model.joints, 3).to(parameter)
    keeps, sides, kernel = videopose3d.draw(model, keypoints), [], videopose3d.kernels.activate

    def recorded(x, statistics, norm, *rest):
        sides.append(kernel(x, statistics, norm, None, 1.0) > 0)
        return kernel(x, statistics, norm, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(videopose3d, "draw", lambda model, keypoints: keeps)
        patch.setattr(videopose3d.kernels, "activate", recorded)
        loss = step(keypoints, target).detach().clone()
    each = iter(zip(keeps, sides[-len(keeps) :], strict=True))  # of the recording, not of what came before it

    def activate(x, norm):
        keep, side = next(each)
        factors = side.to(x.dtype) if keep is None else side * keep.to(x.dtype) / (1 - model.dropout)
        return norm(x) * factors.view(batch, -1, x.shape[1]).transpose(1, 2)

    monkeypatch.setattr(exact, "activate", activate)
    expected = squared_error(exact(keypoints), target)
    expected.backward()
    ours, theirs = (gradients(one) | dict(one.named_buffers()) for one in (model, exact))
    return {"loss": error(loss, expected.detach())} | {name: error(ours[name], theirs[name]) for name in theirs}


# --- with twins --------------------------------------------------------------------------------------------------


@pytest.fixture
def with_twins(monkeypatch):
    monkeypatch.setattr(videopose3d, "LOW", torch.float64)
    monkeypatch.setattr(videopose3d, "kernels", twins)


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("frames", [1, 3, 27])
def test_the_gradient_of_each_parameter_and_running_statistics_are_the_models(monkeypatch, with_twins, frames, dropout):
    model = network(frames, 16, dropout).double()

    def step(keypoints, target):
        loss = squared_error(videopose3d.forward(model, keypoints), target)
        loss.backward()
        return loss

    wrong = errors(monkeypatch, model, step, batch=4)
    assert {name: value for name, value in wrong.items() if not value < 1e-9} == {}


def test_dropout_keeps_its_share_of_every_layer():
    model = network(27, 64)
    keeps = videopose3d.draw(model, torch.zeros(50, 27, 5, 2))
    assert [tuple(keep.shape) for keep in keeps] == [(450, 64), (150, 64), (150, 64), (50, 64), (50, 64)]
    for keep in keeps:
        assert set(keep.unique().tolist()) == {0, 1}
        assert float(keep.float().mean()) == pytest.approx(0.75, abs=5 * (0.75 * 0.25 / keep.numel()) ** 0.5)


def test_keypoints_are_exact_to_a_hundredth_of_a_pixel():
    """Of an image 1000 pixels wide, which screen-normalised is 2."""
    x = torch.rand(100, 30) * 2 - 1
    split = videopose3d.parts(x)
    assert split.dtype == torch.bfloat16
    assert split.shape == (100, 64)
    assert (split[:, :30].double() + split[:, 30:60].double() - x).abs().max() < 2 / 1000 / 100


@pytest.mark.parametrize("change", ["longer", "one window", "eval", "frozen", "average", "12 channels", "gradient"])
def test_what_it_does_not_cover_is_left_to_the_model(monkeypatch, with_twins, change):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    model, keypoints = network(9, 12 if change == "12 channels" else 16), torch.randn(4, 9, 5, 2)
    if change == "longer":
        keypoints = torch.randn(4, 12, 5, 2)
    elif change == "one window":
        keypoints = keypoints[:1]
    elif change == "eval":
        model.eval()
    elif change == "frozen":
        model.layers_bn[1].eval()
    elif change == "average":
        model.expand_bn.momentum = None
    elif change == "gradient":
        keypoints.requires_grad_()
    assert not videopose3d.covers(model, keypoints)
    assert videopose3d.covers(network(9, 16), torch.randn(4, 9, 5, 2))


# --- on a GPU ----------------------------------------------------------------------------------------------------

MOST = 0.03  # of a parameter's gradient


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize(
    ("frames", "channels", "batch"), [(243, 1024, 64), (243, 128, 256), (27, 72, 33), (27, 256, 100), (1, 512, 300)]
)
def test_on_a_gpu_the_gradient_of_each_parameter_is_that_of_float32(monkeypatch, frames, channels, batch, dropout):
    model = network(frames, channels, dropout, joints=17).cuda()
    wrong = errors(monkeypatch, model, Step(accelerate(model), squared_error, scaled_gradient=False), batch)
    assert {name: value for name, value in wrong.items() if not value < MOST} == {}


@needs_cuda
@pytest.mark.gpu
def test_a_replayed_step_drops_anew_and_counts_every_batch():
    model = network(27, 128, joints=17).cuda()
    batch = torch.randn(64, 27, 17, 2, device="cuda"), torch.randn(64, 1, 17, 3, device="cuda")
    step = Step(accelerate(model), squared_error, scaled_gradient=False)
    torch.cuda.manual_seed(0)
    losses = [float(step(*batch)) for _ in range(4)]
    assert len(set(losses)) == 4
    assert [int(norm.num_batches_tracked) for norm in model.layers_bn] == [4] * 4
    torch.cuda.manual_seed(0)
    assert [float(step(*batch)) for _ in range(4)] == losses


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize(("rows", "channels", "stride"), [(8000, 1024, 3), (1000, 136, 3), (2, 128, 1), (513, 72, 3)])
def test_kernels_are_their_definitions(rows, channels, stride, dropped):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm1d(channels, device="cuda")
    torch.nn.init.normal_(norm.weight, 1, 0.3)
    torch.nn.init.normal_(norm.bias, 0, 0.3)
    exact = copy.deepcopy(norm).double()
    x, d_out, skipped = (torch.randn(n, channels, device="cuda").bfloat16() for n in (rows, rows, rows * stride))
    x += 3 * torch.randn(channels, device="cuda").bfloat16()
    keep = torch.randint(0, 2, x.shape, dtype=torch.uint8, device="cuda") if dropped else None
    statistics = videopose3d.kernels.statistics(x, norm)
    assert error(statistics, twins.statistics(x.double(), exact)) < 1e-5
    for ours, theirs in zip(norm.buffers(), exact.buffers(), strict=True):
        assert error(ours, theirs) < 1e-5 or ours.dtype == torch.int64
    for given in (None, skipped):
        ours = videopose3d.kernels.activate(x, statistics, norm, keep, 2.0, given)
        theirs = twins.activate(
            x.double(), statistics.double(), exact, keep, 2.0, None if given is None else given.double()
        )
        assert error(ours, theirs) < 0.005
    ours = videopose3d.kernels.activate_backward(x, statistics, norm, keep, 2.0, d_out)
    theirs = twins.activate_backward(x.double(), statistics.double(), exact, keep, 2.0, d_out.double())
    for one, other in zip(ours, theirs, strict=True):
        assert error(one, other) < 0.005
