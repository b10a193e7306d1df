"""Heads of LAPO on the encoder's features: twin Q and V, CVAE, latent actor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_vae_ext.lapo.cores import mlp
from robomimic_vae_ext.lapo.losses import Bins

# log std of the CVAE posterior: std from 0.018 to 54, so that neither KL nor samples overflow.
LOG_STD_MIN, LOG_STD_MAX = -4.0, 4.0


def _beside(x: Tensor, other: Tensor) -> Tensor:
    """Repeat (B, T) to (B, N, T) where the other tensor is (B, N, ...)."""
    return x[:, None].expand(-1, other.shape[1], -1) if other.ndim == 3 else x


class Trunk(nn.Module):
    """A head's own view of the shared features: Linear, LayerNorm, tanh. (B, D) to (B, T)."""

    def __init__(self, feature_dim: int, trunk_dim: int) -> None:
        super().__init__()
        self.nets = nn.Sequential(
            nn.Linear(feature_dim, trunk_dim), nn.LayerNorm(trunk_dim), nn.Tanh()
        )

    def forward(self, features: Tensor) -> Tensor:
        """Project features (B, D) to (B, T), in [-1, 1]."""
        return self.nets(features)


class Critic(nn.Module):
    """Twin Q and V. Each has a trunk of its own, and K outputs: its value, or a logit per bin.

    Args:
        feature_dim: D. trunk_dim: T. action_dim: A. layer_dims: hidden sizes of each MLP.
        bins: of categorical values; None: values are numbers, and K is 1.
    """

    def __init__(
        self,
        feature_dim: int,
        trunk_dim: int,
        action_dim: int,
        layer_dims: Sequence[int],
        bins: Bins | None = None,
    ) -> None:
        super().__init__()
        self.bins = bins
        outputs = 1 if bins is None else bins.count
        self.q_trunk = Trunk(feature_dim, trunk_dim)
        self.q1 = mlp(trunk_dim + action_dim, layer_dims, outputs)
        self.q2 = mlp(trunk_dim + action_dim, layer_dims, outputs)
        self.v_trunk = Trunk(feature_dim, trunk_dim)
        self.v = mlp(trunk_dim, layer_dims, outputs)
        if bins is not None:
            for head in (self.q1, self.q2, self.v):
                start_near_zero(head, bins)

    def q_outputs(self, features: Tensor, actions: Tensor) -> Tensor:
        """Outputs of both Q: (B, D) and (B, A) or (B, N, A) to (2, B, K) or (2, B, N, K)."""
        x = torch.cat([_beside(self.q_trunk(features), actions), actions], dim=-1)
        return torch.cat([self.q1(x), self.q2(x)], dim=-1).unflatten(-1, (2, -1)).movedim(-2, 0)

    def v_outputs(self, features: Tensor) -> Tensor:
        """Outputs of V: (B, D) to (B, K)."""
        return self.v(self.v_trunk(features))

    def to_values(self, outputs: Tensor) -> Tensor:
        """Outputs as values: (..., K) to (...)."""
        return outputs.squeeze(-1) if self.bins is None else self.bins.expectation(outputs)

    def q_values(self, features: Tensor, actions: Tensor) -> Tensor:
        """Both Q values: (B, D) and (B, A) or (B, N, A) to (2, B) or (2, B, N)."""
        return self.to_values(self.q_outputs(features, actions))

    def q1_value(self, features: Tensor, actions: Tensor) -> Tensor:
        """Q1 alone, for the actor: (B, D), (B, A) to (B,)."""
        return self.to_values(self.q1(torch.cat([self.q_trunk(features), actions], dim=-1)))

    def value(self, features: Tensor) -> Tensor:
        """V: (B, D) to (B,)."""
        return self.to_values(self.v_outputs(features))


def start_near_zero(head: nn.Module, bins: Bins, spread: float = 0.02) -> None:
    """Have a categorical head begin where a scalar one does: near zero, or the bound next to it.

    Uniform logits would put every value half-way between the bounds. Where no reward comes, only
    discounting takes that away again.

    Args:
        head: its last linear layer gives the logits.
        bins: of the logits.
        spread: mass that is spread over all bins, so that each can still be reached.
    """
    last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        start = bins.histogram(last.bias.new_zeros(()))  # (K,)
        last.bias.copy_(((1.0 - spread) * start + spread / bins.count).log())


class ActorVAE(nn.Module):
    """Conditional VAE over actions, `actor_vae` in the algorithm.

    Args:
        feature_dim: D. trunk_dim: T. action_dim: A. latent_dim: Z. layer_dims: hidden sizes.
    """

    def __init__(
        self,
        feature_dim: int,
        trunk_dim: int,
        action_dim: int,
        latent_dim: int,
        layer_dims: Sequence[int],
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.trunk = Trunk(feature_dim, trunk_dim)
        self.posterior = mlp(trunk_dim + action_dim, layer_dims, 2 * latent_dim)
        self.decoder = mlp(trunk_dim + latent_dim, layer_dims, action_dim)

    def forward(self, features: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode actions and decode a sample of the posterior.

        Args:
            features: (B, D).
            actions: (B, A), in [-1, 1].

        Returns:
            Reconstruction (B, A), posterior mean (B, Z), posterior log std (B, Z).
        """
        x = self.trunk(features)  # (B, T)
        mean, log_std = self.posterior(torch.cat([x, actions], dim=-1)).chunk(2, dim=-1)
        log_std = log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)
        z = mean + log_std.exp() * torch.randn_like(mean)
        return self._decode(x, z), mean, log_std

    def decode(self, features: Tensor, z: Tensor) -> Tensor:
        """Action of a latent: (B, D) and (B, Z) or (B, N, Z) to (B, A) or (B, N, A), in [-1, 1]."""
        return self._decode(self.trunk(features), z)

    def _decode(self, x: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(self.decoder(torch.cat([_beside(x, z), z], dim=-1)))


class LatentActor(nn.Module):
    """Deterministic policy in the CVAE's latent space.

    Args:
        feature_dim: D. trunk_dim: T. latent_dim: Z. layer_dims: hidden sizes.
        max_latent_action: bound of every component of z; the CVAE's prior is N(0, 1).
    """

    def __init__(
        self,
        feature_dim: int,
        trunk_dim: int,
        latent_dim: int,
        layer_dims: Sequence[int],
        max_latent_action: float,
    ) -> None:
        super().__init__()
        self.max_latent_action = max_latent_action
        self.trunk = Trunk(feature_dim, trunk_dim)
        self.mlp = mlp(trunk_dim, layer_dims, latent_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Latent action: (B, D) to (B, Z), in [-max_latent_action, max_latent_action]."""
        return self.max_latent_action * torch.tanh(self.mlp(self.trunk(features)))


def make_bins(critic_config: Any) -> Bins | None:
    """Bins of categorical values, where `algo.critic` asks for them."""
    if critic_config.loss == "mse":
        return None
    low, high = map(float, critic_config.value_bounds)
    return Bins(low, high, critic_config.bins, critic_config.bin_sigma)
