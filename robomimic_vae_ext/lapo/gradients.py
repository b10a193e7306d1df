"""What a training step does with gradients besides computing them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ScaleGradient(torch.autograd.Function):
    """Identity forward; multiplies the gradient on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        """Return `x`."""
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Scale what flows back to `x`."""
        return grad * ctx.scale, None


def clip(optimizer: torch.optim.Optimizer, limit: float | None) -> dict[str, Tensor]:
    """Clip what the optimizer owns, and nothing else; report norms from before.

    Args:
        optimizer: every parameter group has a name.
        limit: of the norm over all groups together; None clips nothing.

    Returns:
        `grad_norm/<group>` for every group with gradients.
    """
    info = {}
    for group in optimizer.param_groups:
        grads = [p.grad for p in group["params"] if p.grad is not None]
        if grads:
            info[f"grad_norm/{group['name']}"] = nn.utils.get_total_norm(grads)
    if limit is not None:
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(owned, limit)
    return info


@contextmanager
def without_gradient(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a network without leaving any in it."""
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
