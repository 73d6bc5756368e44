"""Muon: the optimizer of all profiles but `paper` (`mixste.study.profiles`)."""

import math
from collections import defaultdict

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
        parameters = [parameter for parameter in matrices["params"] if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                step = torch.zeros((), device=parameter.device)
                self.state[parameter].update(step=step, momentum=torch.zeros_like(parameter))
        torch._foreach_add_([self.state[parameter]["step"] for parameter in parameters], 1)
        moments = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(moments, gradients, 1 - matrices["momentum"])
        directions = torch._foreach_lerp(gradients, moments, matrices["momentum"])  # Nesterov's

        by_shape = defaultdict(list)  # matrices of one shape are computed together
        for parameter, direction in zip(parameters, directions, strict=True):
            by_shape[parameter.flatten(1).shape].append((parameter, direction.flatten(1)))
        torch._foreach_mul_(parameters, 1 - matrices["lr"] * matrices["weight_decay"])
        for shape, members in by_shape.items():
            updates = orthogonal(torch.stack([direction for _, direction in members]))
            rate = matrices["lr"] * 0.2 * math.sqrt(max(shape))
            torch._foreach_add_([parameter.flatten(1) for parameter, _ in members], list(updates), alpha=-rate)


def orthogonal(x: Float[Tensor, "batch rows columns"]) -> Float[Tensor, "batch rows columns"]:
    """Matrices with the singular vectors of those given, and singular values of about 1 (0.7 to 1.2).

    A Newton-Schulz iteration, with coefficients by which small singular values grow fast. On CUDA in bfloat16.
    """
    tall = x.shape[1] > x.shape[2]
    ortho = x.mT if tall else x
    ortho = ortho / ortho.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    ortho = ortho.bfloat16() if x.is_cuda else ortho
    (a, b, c), steps = NEWTON_SCHULZ
    for _ in range(steps):
        gram = ortho @ ortho.mT
        ortho = torch.baddbmm(ortho, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), ortho, beta=a)
    return (ortho.mT if tall else ortho).to(x.dtype).contiguous()
