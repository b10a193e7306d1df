"""Auxiliary losses that teach the encoder about actions, as part of the critic's loss.

One sparse reward tells a critic little about what a picture shows. These heads ask the encoder for
the action that was taken, or for what it led to. They are used in training only; CVAE and actor go
on seeing detached features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robomimic_vae_ext.lapo.cores import mlp
from robomimic_vae_ext.lapo.heads import Trunk


class Auxiliary(nn.Module):
    """Heads on a view of their own of the features.

    Args:
        feature_dim: D. trunk_dim: T. action_dim: A. layer_dims: hidden sizes.
        losses: some of `owners.AUXILIARY`.
    """

    def __init__(
        self,
        feature_dim: int,
        trunk_dim: int,
        action_dim: int,
        layer_dims: Sequence[int],
        losses: Sequence[str],
    ) -> None:
        super().__init__()
        self.trunk = Trunk(feature_dim, trunk_dim)
        sizes = {
            "cloning": (trunk_dim, action_dim),
            "inverse": (2 * trunk_dim, action_dim),
            "dynamics": (trunk_dim + action_dim, trunk_dim),
            "reward": (trunk_dim + action_dim, 2),
        }
        self.heads = nn.ModuleDict(
            {name: mlp(sizes[name][0], layer_dims, sizes[name][1]) for name in losses}
        )

    def action_from_now(self, features: Tensor) -> Tensor:
        """Action from the features it was taken in: (B, D) to (B, A), in [-1, 1]."""
        return torch.tanh(self.heads["cloning"](self.trunk(features)))

    def action_between(self, features: Tensor, later: Tensor) -> Tensor:
        """First action on the way from some features to later ones: 2 x (B, D) to (B, A)."""
        both = torch.cat([self.trunk(features), self.trunk(later)], dim=-1)  # (B, 2 T)
        return torch.tanh(self.heads["inverse"](both))

    def roll_out(self, features: Tensor, actions: Tensor, valid: Tensor) -> Tensor:
        """View of the features after some actions.

        Args:
            features: (B, D).
            actions: (B, H, A).
            valid: (B, H) bool; actions that are not valid leave the view as it is.

        Returns:
            (B, T).
        """
        x = self.trunk(features)
        for action, real in zip(actions.unbind(1), valid.unbind(1), strict=True):
            change = self.heads["dynamics"](torch.cat([x, action], dim=-1))
            x = x + change * real[:, None]
        return x

    def reward_and_end(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return n-step reward (B,) and the logit (B,) of no bootstrap, from (B, D) and (B, A)."""
        x = torch.cat([self.trunk(features), actions], dim=-1)
        reward, end = self.heads["reward"](x).unbind(-1)
        return reward, end


def auxiliary_loss(
    heads: Auxiliary,
    slow: Auxiliary,
    batch: Mapping[str, Any],
    features: Tensor,
    later: Tensor,
    next_features: Tensor,
    weights: Mapping[str, float],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the losses that the heads are for.

    Args:
        heads: on the features.
        slow: slow copy of the heads; its trunk makes the target of `dynamics`.
        batch: `actions` (B, A), `rewards`, `discounts` (B,); for `dynamics` also `action_window`
            (B, H, A) and `action_valid` (B, H), which lead to the next features.
        features: (B, D), attached.
        later: (B, D), features that the inverse model sees, without graph.
        next_features: (B, D), of the observation that bootstraps, without graph.
        weights: of each loss.

    Returns:
        The sum, and each loss (detached) as `auxiliary/<name>`.

    Gradient: reaches the heads and whatever made `features`.
    Source: inverse models after ACRO (arXiv 2211.00164), self-prediction after SPR (2007.05929).
    Differs: one view of shared features, no projection of its own; observations are not augmented
    anew.
    """
    found: dict[str, Tensor] = {}
    actions = batch["actions"]
    if "cloning" in heads.heads:
        found["cloning"] = F.mse_loss(heads.action_from_now(features), actions)
    if "inverse" in heads.heads:
        found["inverse"] = F.mse_loss(heads.action_between(features, later.detach()), actions)
    if "dynamics" in heads.heads:
        predicted = heads.roll_out(features, batch["action_window"], batch["action_valid"])
        with torch.no_grad():
            target = slow.trunk(next_features)
        found["dynamics"] = (1.0 - F.cosine_similarity(predicted, target, dim=-1)).mean()
    if "reward" in heads.heads:
        reward, end = heads.reward_and_end(features, actions)
        ended = (batch["discounts"] == 0).to(reward.dtype)
        found["reward"] = F.mse_loss(reward, batch["rewards"]) + F.binary_cross_entropy_with_logits(
            end, ended
        )
    total = torch.stack([weights[name] * loss for name, loss in found.items()]).sum()
    info = {f"auxiliary/{name}": loss.detach() for name, loss in found.items()}
    return total, info | {"auxiliary/loss": total.detach()}
