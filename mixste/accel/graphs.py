"""Recording of GPU work as CUDA graphs: one launch instead of thousands."""

import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MOST_GRAPHS = 16  # per recorder; each has memory of its own


class Recorder:
    """recorder(compute, *inputs) returns compute(*inputs), recorded at the first call and replayed at later ones.

    compute takes and returns tensors and must be the same at each call; what else it reads must stay where it is in
    memory. The result is overwritten by the next call with inputs of the same shapes and types, each of which has a
    graph of its own. On the CPU, it is computed. state: tensors that compute changes besides, such as running means:
    recording runs it more than once, and puts them back.
    """

    def __init__(self, state: Iterable[Tensor] = ()):
        self.state, self.graphs = list(state), {}

    def __call__(self, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if not inputs[0].is_cuda:
            return compute(*inputs)
        kind = tuple((x.shape, x.dtype) for x in inputs)
        if kind not in self.graphs:
            if len(self.graphs) == MOST_GRAPHS:
                del self.graphs[next(iter(self.graphs))]  # the oldest
            before = [x.detach().clone() for x in self.state]
            self.graphs[kind] = record(compute, *inputs)
            for x, value in zip(self.state, before, strict=True):
                x.detach().copy_(value)
        graph, recorded_inputs, result = self.graphs[kind]
        for recorded, x in zip(recorded_inputs, inputs, strict=True):
            recorded.copy_(x)
        graph.replay()
        return result

    def clear(self) -> None:
        """Drop all graphs, after tensors that they read have moved."""
        self.graphs.clear()


def record(compute: Callable[..., Tensor], *inputs: Tensor) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
    """compute(*inputs) as a graph to replay, its inputs to write into, and its result to read."""
    inputs = [x.clone() for x in inputs]
    random, stream = torch.cuda.get_rng_state(), side_stream(torch.cuda.current_device())
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):  # warm-up of libraries and kernels
            compute(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.set_rng_state(random)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute(*inputs)
    return graph, inputs, result


@functools.cache
def side_stream(device: int) -> torch.cuda.Stream:
    """A stream to try things on: one for all, since cuBLAS keeps 32 MiB for each stream that it has ever seen."""
    return torch.cuda.Stream(device)
