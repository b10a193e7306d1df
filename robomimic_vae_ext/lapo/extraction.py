"""Which latent is played: the actor's, zero, or the best of some draws from the prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robomimic_vae_ext.lapo.heads import ActorVAE, Critic


def prior_draws(count: int, latent_dim: int) -> Tensor:
    """Draws from N(0, 1), always the same ones, so that a policy is a function of what it sees.

    Returns:
        (N, Z).
    """
    return torch.randn(count, latent_dim, generator=torch.Generator().manual_seed(0))


def choose_latent(
    rule: str,
    features: Tensor,
    actor: nn.Module,
    vae: ActorVAE,
    critic: Critic,
    draws: Tensor,
) -> Tensor:
    """Latent of every row, by one of the rules of `algo.actor.extraction`.

    Args:
        rule: actor, zero, best_of_n or actor_in_best_of_n.
        features: (B, D).
        actor: features to latents.
        vae: decodes latents.
        critic: judges the decoded actions by min(Q1, Q2).
        draws: (N, Z), of which the best is taken.

    Returns:
        (B, Z).

    Gradient: through the actor's latent only; the choice has none.
    """
    if rule == "actor":
        chosen: Tensor = actor(features)
        return chosen
    batch = len(features)
    if rule == "zero":
        return features.new_zeros(batch, draws.shape[1])
    candidates = draws.to(features.dtype).expand(batch, -1, -1)  # (B, N, Z)
    if rule == "actor_in_best_of_n":
        candidates = torch.cat([actor(features)[:, None], candidates], dim=1)
    with torch.no_grad():
        actions = vae.decode(features, candidates)  # (B, N, A)
        best = critic.q_values(features, actions).amin(dim=0).argmax(dim=1)  # (B,)
    return candidates[torch.arange(batch, device=best.device), best]
