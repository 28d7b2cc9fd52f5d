"""Muon for the matrices inside, AdamW for the rest: in half the steps of AdamW alone as far, at these sizes.

Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024 (Newton-Schulz of order 5, Nesterov
momentum 0.95); Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
"""

from __future__ import annotations

from typing import Any

import torch

_MOMENTUM, _BETAS, _EPSILON = 0.95, (0.9, 0.95), 1e-8
_ORDER = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon(torch.optim.Optimizer):
    """For a module. Tables (``embed``, ``lm_head``) and parameters of one axis are AdamW's, at a share of the rate."""

    def __init__(self, module: torch.nn.Module, *, rate: float, decay: float, rest: float = 0.4) -> None:
        inside = [p for name, p in module.named_parameters() if p.ndim == 2 and not _is_table(name)]
        others = [p for name, p in module.named_parameters() if p.ndim != 2 or _is_table(name)]
        groups: list[dict[str, Any]] = [{"params": inside, "share": 1.0}, {"params": others, "share": rest}]
        super().__init__(groups, {"lr": rate, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # noqa: ARG002 - torch's signature
        """Move every parameter by its gradient."""
        for group, move in zip(self.param_groups, (self._matrix, self._other), strict=True):
            rate = group["lr"] * group["share"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - rate * group["decay"])
                    parameter.add_(move(parameter), alpha=-rate)

    def _matrix(self, parameter: torch.Tensor) -> torch.Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        momentum = state.setdefault("momentum", torch.zeros_like(parameter))
        momentum.lerp_(gradient, 1.0 - _MOMENTUM)
        rows, columns = parameter.shape
        move: torch.Tensor = even(gradient.lerp(momentum, _MOMENTUM)) * max(1.0, rows / columns) ** 0.5
        return move

    def _other(self, parameter: torch.Tensor) -> torch.Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        first = state.setdefault("first", torch.zeros_like(parameter))
        second = state.setdefault("second", torch.zeros_like(parameter))
        count = state.setdefault("count", torch.zeros(()))
        count += 1
        first.lerp_(gradient, 1.0 - _BETAS[0])
        second.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1.0 - _BETAS[1])
        whole = (second / (1.0 - _BETAS[1] ** count)).sqrt_() + _EPSILON
        move: torch.Tensor = first / (1.0 - _BETAS[0] ** count) / whole
        return move


def _is_table(name: str) -> bool:
    return "embed" in name or "lm_head" in name


def even(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the orthogonal matrix next to `matrix`: all its directions made about as long."""
    a, b, c = _ORDER
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: torch.Tensor = matrix.T if is_tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
