"""The losses of LAPO as pure functions of tensors: training steps them, tests read them.

Every loss returns `(loss, info)`: a scalar to call `backward` on and detached scalars to log.
This file knows torch only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Info = dict[str, Tensor]


#: Bins reach this many standard deviations of a smeared target beyond the bounds of the value.
PADDING = 4.0


@dataclass(frozen=True)
class Bins:
    """The value's axis cut into bins: numbers to histograms, and logits back to numbers.

    The bins cover [low - p, high + p] with p = `PADDING` sigma, so that a target at a bound keeps
    its whole bell. The mean of its histogram then differs from the target by less than 1e-3 bin
    widths (sigma from 0.6 to 3 widths; the mean of a narrower bell rounds to bin centres).

    Args:
        low: least value.
        high: greatest value.
        count: K, more than 2 `PADDING` sigma.
        sigma: std of a smeared target [bin widths].

    Source: HL-Gauss, arXiv 2403.03950, section 3.1. Differs: the padding.
    """

    low: float
    high: float
    count: int
    sigma: float

    @property
    def width(self) -> float:
        """Of one bin, in units of the value."""
        return (self.high - self.low) / (self.count - 2.0 * PADDING * self.sigma)

    def edges(self, like: Tensor) -> Tensor:
        """Edges of the bins (K + 1,), of a tensor's kind."""
        start = self.low - PADDING * self.sigma * self.width
        return start + self.width * torch.arange(self.count + 1, device=like.device).to(like.dtype)

    def histogram(self, values: Tensor) -> Tensor:
        """Mass of N(value, sigma^2) in every bin, renormalised: (...) to (..., K).

        Values beyond the bounds are moved to them.
        """
        values = values.detach().clamp(self.low, self.high)[..., None]
        cdf = torch.special.ndtr((self.edges(values) - values) / (self.sigma * self.width))
        return cdf.diff(dim=-1) / (cdf[..., -1:] - cdf[..., :1])

    def expectation(self, logits: Tensor) -> Tensor:
        """Mean of the distribution over bin centres: (..., K) to (...)."""
        centres = self.edges(logits)[:-1] + self.width / 2.0  # (K,)
        return (logits.softmax(dim=-1) * centres).sum(dim=-1)


class NStep(NamedTuple):
    """Result of `n_step_return`; `last` indexes the transition whose next_obs bootstraps."""

    rewards: Tensor  # (B,) discounted sum
    discounts: Tensor  # (B,) gamma^k (1 - done), to multiply V(next_obs) with
    last: Tensor  # (B,) int64, index into the window


def n_step_return(rewards: Tensor, dones: Tensor, padded: Tensor, discount: float) -> NStep:
    """Sum rewards over a window until its first `done` or its first padded entry.

    A padded tail repeats the last transition, so counting it would pay a terminal reward again.

    Args:
        rewards: (B, N).
        dones: (B, N), 0 or 1.
        padded: (B, N) bool, true where the entry repeats the one before; the first is false.
        discount: gamma per step, in [0, 1].

    Returns:
        Rewards, discounts and last indices, each (B,).
    """
    ended = torch.cat([torch.zeros_like(dones[:, :1]), dones[:, :-1]], dim=1) > 0.5
    alive = (~(ended | padded)).cumprod(dim=1)  # (B, N), 1 up to and with the last real step
    steps = alive.sum(dim=1)  # (B,) >= 1
    gammas = discount ** torch.arange(rewards.shape[1], device=rewards.device)
    last = steps - 1
    done = dones.gather(1, last[:, None]).squeeze(1)
    return NStep(
        rewards=(rewards * alive * gammas).sum(dim=1),
        discounts=(1.0 - done) * discount ** steps.to(rewards.dtype),
        last=last,
    )


def mix_min_max(q: Tensor, doubleq_min: float) -> Tensor:
    """Mix an ensemble's pessimistic and optimistic value: m * min + (1 - m) * max.

    Args:
        q: (E, B), one row per Q network.
        doubleq_min: m, in [0, 1]; 1 is the minimum.

    Returns:
        (B,).
    """
    return doubleq_min * q.amin(dim=0) + (1.0 - doubleq_min) * q.amax(dim=0)


def critic_loss(q: Tensor, v: Tensor, target_q: Tensor, target_v: Tensor) -> tuple[Tensor, Info]:
    """Squared TD error of every Q, plus that of V.

    Args:
        q: (E, B), Q(f, a).
        v: (B,), V(f).
        target_q: (B,), r + (1 - d) gamma^n V(f').
        target_v: (B,), value of the current policy's action under the slow Q.

    Gradient: reaches whatever made `q` and `v`: the critic heads, and the encoder where its
    features are attached. Targets are detached here.
    """
    target_q, target_v = target_q.detach(), target_v.detach()
    loss_q = F.mse_loss(q, target_q.expand_as(q), reduction="none").mean(dim=1).sum()
    loss_v = F.mse_loss(v, target_v)
    return _critic_result(loss_q, loss_v, q, v, target_q)


def cross_entropy(logits: Tensor, histogram: Tensor) -> Tensor:
    """-sum_K h log softmax(logits): (..., B, K) and (B, K) to (..., B). Gradient: softmax - h."""
    return -(histogram * logits.log_softmax(dim=-1)).sum(dim=-1)


def categorical_critic_loss(
    q_logits: Tensor, v_logits: Tensor, target_q: Tensor, target_v: Tensor, bins: Bins
) -> tuple[Tensor, Info]:
    """Cross-entropy of every Q, plus that of V, against the targets' histograms.

    It does not fall to zero: its least value is the entropy of a smeared target, three times.

    Args:
        q_logits: (E, B, K).
        v_logits: (B, K).
        target_q: (B,), as in `critic_loss`; beyond the bounds of the bins it is clipped.
        target_v: (B,), likewise.
        bins: of Q and V.

    Gradient: as in `critic_loss`.
    """
    loss_q = cross_entropy(q_logits, bins.histogram(target_q)).mean(dim=1).sum()
    loss_v = cross_entropy(v_logits, bins.histogram(target_v)).mean()
    q, v = bins.expectation(q_logits), bins.expectation(v_logits)
    return _critic_result(loss_q, loss_v, q, v, target_q)


def _critic_result(
    loss_q: Tensor, loss_v: Tensor, q: Tensor, v: Tensor, target_q: Tensor
) -> tuple[Tensor, Info]:
    loss = loss_q + loss_v
    info = {
        "critic/loss": loss,
        "critic/q_loss": loss_q,
        "critic/v_loss": loss_v,
        "critic/q_mean": q.mean(),
        "critic/q_std": q.std(),
        "critic/q_gap": (q[0] - q[-1]).abs().mean(),
        "critic/v_mean": v.mean(),
        "critic/target_q_mean": target_q.mean(),
        "critic/target_q_max": target_q.amax(),
    }
    return loss, {name: value.detach() for name, value in info.items()}


def expectile_weights(advantage: Tensor, expectile: float) -> Tensor:
    """Weight of each transition in the CVAE: expectile if its advantage is positive, else 1 - it.

    Args:
        advantage: (B,).
        expectile: in [0, 1]; 0.5 is plain behaviour cloning.

    Returns:
        (B,), without gradient.
    """
    positive = advantage.detach() > 0
    return torch.where(positive, expectile, 1.0 - expectile).to(advantage.dtype)


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)), summed over the latent dimension: (B, Z) to (B,)."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0 - 2.0 * log_std).sum(dim=-1)


def vae_loss(
    actions: Tensor,
    reconstruction: Tensor,
    mean: Tensor,
    log_std: Tensor,
    weights: Tensor,
    kl_beta: float,
) -> tuple[Tensor, Info]:
    """Advantage-weighted negative ELBO of the actions.

    Args:
        actions: (B, A), in [-1, 1].
        reconstruction: (B, A), in [-1, 1].
        mean: (B, Z), of the posterior.
        log_std: (B, Z), of the posterior.
        weights: (B,), from `expectile_weights`.
        kl_beta: weight of the KL term.

    Gradient: reaches the CVAE, and the encoder only if its features are attached.
    """
    error = (actions - reconstruction).square().sum(dim=-1)  # (B,)
    kl = gaussian_kl(mean, log_std)  # (B,)
    loss = (weights.detach() * (error + kl_beta * kl)).mean()
    info = {
        "vae/loss": loss,
        "vae/reconstruction": error.mean(),
        "vae/action_error": (actions - reconstruction).abs().mean(),
        "vae/kl": kl.mean(),
        "vae/weight_mean": weights.mean(),
    }
    return loss, {name: value.detach() for name, value in info.items()}


def actor_loss(q: Tensor, z: Tensor, prior_weight: float = 0.0) -> tuple[Tensor, Info]:
    """Negative value of the latent actor's decoded action, plus what leaving the prior costs.

    Args:
        q: (B,), Q1(f, decode'(f, z)).
        z: (B, Z), the actor's latent action.
        prior_weight: weight of -log N(z; 0, 1) against Q divided by its mean size; 0 is LAPO.

    Gradient: reaches the actor. The caller keeps it out of critic, decoder and encoder.
    Differs: LAPO bounds z but does not weigh it.
    """
    value = q.mean() / q.detach().abs().mean().clamp(min=1e-6) if prior_weight > 0 else q.mean()
    prior = 0.5 * z.square().sum(dim=-1).mean()
    loss = prior_weight * prior - value
    info = {"actor/loss": loss, "actor/q": q.mean(), "actor/z_abs": z.abs().mean()}
    return loss, {name: value.detach() for name, value in info.items()}
