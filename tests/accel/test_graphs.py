"""Recording work: what a recorder does around the graphs on any machine, with a stand-in for them; graphs on a GPU."""

import gc

import pytest
import torch
import twins
from twins import OnGPU, network, squared_error

from mixste.accel import accelerate, graphs
from mixste.accel.graphs import Recorder
from mixste.train import Step

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def recordings(monkeypatch):
    """The shapes that were recorded."""
    shapes = []

    def record(compute, *inputs):
        shapes.append([tuple(x.shape) for x in inputs])
        return twins.record(compute, *inputs)

    monkeypatch.setattr(graphs, "record", record)
    return shapes


def given(*shape):
    return torch.randn(shape).as_subclass(OnGPU)


def test_on_a_cpu_nothing_is_recorded(recordings):
    recorder, x = Recorder(), torch.randn(3)
    assert torch.equal(recorder(lambda x: 2 * x, x), 2 * x)
    assert recordings == []


def test_each_shape_is_recorded_once(recordings):
    recorder = Recorder()
    for shape in ((3,), (4,), (3,), (4,), (3,)):
        x, y = given(*shape), given(1)
        assert torch.equal(recorder(lambda x, y: x + y, x, y), x + y)
    assert recordings == [[(3,), (1,)], [(4,), (1,)]]


def test_the_oldest_graphs_make_room(recordings, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    recorder = Recorder()
    for length in (1, 2, 3, 2, 1):
        recorder(lambda x: 2 * x, given(length))
    assert [shape for [(shape,)] in recordings] == [1, 2, 3, 1]
    assert len(recorder.graphs) == 2


def test_trying_out_leaves_the_state_as_one_call_does(recordings):
    """Running means, which each call moves: recording calls more than once."""
    norms = [torch.nn.BatchNorm1d(4) for _ in range(2)]
    x = given(8, 4)
    norms[0](x)
    recorder = Recorder(state=norms[1].buffers())
    recorder(norms[1], x)
    assert all(torch.equal(*pair) for pair in zip(norms[0].buffers(), norms[1].buffers(), strict=True))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_recorded_step_of_an_optimizer_is_one_step(recordings, kind):
    """It changes parameters and moments, which recording puts back."""
    layers = [torch.nn.Linear(3, 2) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    optimizers = [kind(layer.parameters(), lr=0.1) for layer in layers]
    x = given(8, 3)
    for layer, optimizer in zip(layers, optimizers, strict=True):
        layer(x).square().sum().backward()
        optimizer.step()
    moments = [value for state in optimizers[0].state.values() for value in state.values()]
    recorder = Recorder(state=[*layers[0].parameters(), *moments])

    def step(x):
        optimizers[0].step()
        return x

    recorder(step, x)
    optimizers[1].step()
    assert recordings == [[(8, 3)]]
    assert all(map(torch.equal, *(layer.parameters() for layer in layers)))


@needs_cuda
@pytest.mark.gpu
def test_a_replayed_graph_computes_anew_from_what_it_is_given():
    recorder, factor = Recorder(), torch.full((), 2.0, device="cuda")

    def compute(x):
        return factor * x

    for _ in range(3):
        x = torch.randn(5, device="cuda")
        assert torch.equal(recorder(compute, x), factor * x)
        factor.add_(1)  # read where it lies
    assert len(recorder.graphs) == 1


def on_gpu(**options):
    return network(matrices=0.0, frames=81, joints=17, dim=128, heads=8, **options).cuda()


@needs_cuda
@pytest.mark.gpu
def test_a_replayed_step_draws_new_branches_to_drop():
    model = on_gpu(drop_path=0.5).train()
    batch = torch.randn(4, 81, 17, 2, device="cuda"), torch.randn(4, 81, 17, 3, device="cuda")
    step = Step(accelerate(model), squared_error, scaled_gradient=False)
    torch.cuda.manual_seed(0)
    losses = [float(step(*batch)) for _ in range(4)]
    assert len(set(losses)) == 4
    torch.cuda.manual_seed(0)
    assert [float(step(*batch)) for _ in range(4)] == losses


@needs_cuda
@pytest.mark.gpu
def test_graphs_leave_no_memory_behind():
    """Networks of a study are recorded one after another."""
    model, keypoints = on_gpu().train(), torch.randn(4, 81, 17, 2, device="cuda")
    target, left = torch.zeros(4, 81, 17, 3, device="cuda"), []
    for _ in range(6):
        with torch.no_grad():
            accelerate(model.eval())(keypoints)
        Step(accelerate(model.train()), squared_error, scaled_gradient=False)(keypoints, target)
        model.zero_grad()
        gc.collect()
        left.append(torch.cuda.memory_allocated())
    assert len(set(left[1:])) == 1, "the first also sets the libraries up"


@needs_cuda
@pytest.mark.gpu
def test_an_accelerated_network_is_freed_without_the_garbage_collector():
    """Else graphs of networks that nobody holds anymore would fill a GPU."""
    keypoints = torch.randn(4, 81, 17, 2, device="cuda")
    gc.collect()
    gc.disable()
    try:
        model = on_gpu().eval()
        left = []
        for _ in range(3):
            with torch.no_grad():
                accelerate(model)(keypoints)
            left.append(torch.cuda.memory_allocated())
        assert left[1] == left[2]
    finally:
        gc.enable()
