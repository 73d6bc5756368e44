"""Muon: the optimizer of all profiles but `paper` (`mixste.study.profiles`)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315), 5  # coefficients and steps of Jordan et al.


class Muon(torch.optim.AdamW):
    """Muon (Jordan et al., 2024) for the weight matrices of a network, AdamW for its other parameters.

    The update of a matrix is its momentum with all singular values set to about 1: every direction of the matrix
    moves by the same amount. With AdamW, a direction that the gradients of all tokens share can grow until all tokens
    are alike, and the network gives one pose for every input (results/bench/collapse.csv).

    Matrices are the weights of `nn.Linear` and `nn.Conv1d`, the latter as (channels out, channels in · width). Updates
    are scaled by 0.2 · √(longer side) (Liu et al., 2025), which gives them about the size of AdamW's, so both share a
    learning rate and weight decay. On CUDA singular values are set in bfloat16, otherwise in the matrix's precision.
    """

    def __init__(self, model: nn.Module, lr: float, weight_decay: float):
        matrices = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv1d)]
        of_matrices = set(map(id, matrices))
        others = [parameter for parameter in model.parameters() if id(parameter) not in of_matrices]
        groups = [{"params": others, "momentum": 0.0}, {"params": matrices, "momentum": MOMENTUM}]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self):
        others, matrices = groups = self.param_groups
        self.param_groups = [others]
        try:
            super().step()
        finally:
            self.param_groups = groups
        by_shape = {}  # matrices of one shape are computed together
        for parameter in matrices["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
        for shape, parameters in by_shape.items():
            gradients, states = zip(
                *((parameter.grad, self.state_of(parameter)) for parameter in parameters), strict=True
            )
            torch._foreach_add_([state["step"] for state in states], 1)
            moments = [state["momentum"] for state in states]
            torch._foreach_lerp_(moments, gradients, 1 - matrices["momentum"])
            directions = torch._foreach_lerp(gradients, moments, matrices["momentum"])  # Nesterov's
            rate = matrices["lr"]  # a number, or a tensor if the step is recorded
            updates = orthogonal(torch.stack(directions).flatten(2)) * (-0.2 * math.sqrt(max(shape)) * rate)
            torch._foreach_mul_(parameters, 1 - rate * matrices["weight_decay"])
            torch._foreach_add_(parameters, list(updates.view(-1, *parameters[0].shape)))

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        state = self.state[parameter]
        if not state:  # AdamW expects that every state counts the steps
            state.update(step=torch.zeros((), device=parameter.device), momentum=torch.zeros_like(parameter))
        return state


def orthogonal(x: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """Matrices with the singular vectors of those given, and singular values of about 1 (0.7 to 1.2).

    A Newton-Schulz iteration, with coefficients by which small singular values grow fast. On CUDA in bfloat16.
    """
    tall = x.shape[1] > x.shape[2]
    ortho = x.bfloat16() if x.is_cuda else x
    ortho = ortho / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7).to(ortho.dtype)
    (a, b, c), steps = NEWTON_SCHULZ
    for _ in range(steps):
        gram = ortho.mT @ ortho if tall else ortho @ ortho.mT  # of the shorter side
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        ortho = torch.baddbmm(ortho, *((ortho, factor) if tall else (factor, ortho)), beta=a)
    return ortho.to(x.dtype)
