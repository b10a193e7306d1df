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


#: Below this a gradient counts as zero: dividing by its norm would make noise of it.
TINY = 1e-12


def combine_gradients(
    critic_grad: Tensor, vae_grad: Tensor, scale: float, norm_ratio: float | None, surgery: bool
) -> Tensor:
    """Gradient that a shared encoder gets from two losses: g_c + P(s g_v).

    s is `scale`, or norm_ratio |g_c| / |g_v|. With surgery, P takes the part that opposes the
    critic's out of the CVAE's gradient, P(g) = g - min(<g, g_c>, 0) / |g_c|^2 g_c, and is the
    identity otherwise. Norms and products are over the whole batch. Scaling comes first: where
    the two oppose each other, what surgery leaves must not be blown up to the full norm.

    Args:
        critic_grad: g_c (B, D).
        vae_grad: g_v (B, D).
        scale: factor of g_v; not read with a ratio.
        norm_ratio: |s g_v| / |g_c|, or None.
        surgery: whether g_v may oppose g_c.

    Returns:
        (B, D); g_c where g_v is zero.

    Source: the projection is PCGrad's (Yu et al. 2020, arXiv 2001.06782). Differs: one way only,
    the critic's gradient stays as it is; at the features, not at the weights.
    """
    if norm_ratio is not None:
        vae_grad = vae_grad * (norm_ratio * critic_grad.norm() / vae_grad.norm().clamp(min=TINY))
    else:
        vae_grad = vae_grad * scale
    if surgery:
        opposed = (vae_grad * critic_grad).sum().clamp(max=0.0)
        vae_grad = vae_grad - opposed / critic_grad.square().sum().clamp(min=TINY**2) * critic_grad
    return critic_grad + vae_grad


class CombineGradients(torch.autograd.Function):
    """Identity to two readers; what they send back goes through `combine_gradients`.

    autograd waits for both readers, so that one backward of the sum of the losses has each one's
    gradient at the features apart, and walks through the encoder once.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: float, norm_ratio: float | None, surgery: bool
    ) -> tuple[Tensor, Tensor]:
        """Return `x` for the critic and `x` for the CVAE."""
        ctx.rule = (scale, norm_ratio, surgery)
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(
        ctx: Any, critic_grad: Tensor, vae_grad: Tensor
    ) -> tuple[Tensor, None, None, None]:
        """Combine what flows back to `x`."""
        return combine_gradients(critic_grad, vae_grad, *ctx.rule), None, None, None


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
