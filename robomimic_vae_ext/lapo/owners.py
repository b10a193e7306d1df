"""Who trains the shared encoder: everything in which the four owners differ, in one place.

`algo.encoder.owner` names one of `OWNERS`. The algorithm asks it three things (which optimizer
holds the encoder, what the CVAE's loss sees of the features, one backward or two), and the audit
asks it for the contract that one training step must keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # the config reads the names of the owners, and must not import torch
    from torch import Tensor

#: Slow copies and what they copy. The encoder has none: V, and so its features, are online.
TARGET_OF: Final = {
    "critic_target": "critic",
    "actor_vae_target": "actor_vae",
    "actor_target": "actor",
}
AUXILIARY_TARGET_OF: Final = {"auxiliary_target": "auxiliary"}  # with auxiliary losses only
HEADS: Final = ("critic", "actor_vae", "actor")
#: Losses below `algo.encoder.auxiliary`, see auxiliary.py.
AUXILIARY: Final = ("cloning", "inverse", "dynamics", "reward")


@dataclass(frozen=True)
class Owner:
    """One answer to "who trains the encoder?".

    Args:
        optimizer: that holds the encoder's weights; None: they are never trained.
        vae_trains: whether the gradient of the CVAE's loss reaches the encoder.
        one_backward: whether critic and CVAE share one backward, so that both gradients are in the
            encoder when its optimizer steps.
    """

    optimizer: str | None
    vae_trains: bool = False
    one_backward: bool = False

    @property
    def trains_encoder(self) -> bool:
        """Whether anybody does."""
        return self.optimizer is not None

    @property
    def keeps_graph(self) -> bool:
        """Whether the CVAE's backward walks through the encoder's graph after the critic's did."""
        return self.vae_trains and not self.one_backward

    def features_for_vae(self, features: Tensor, scale: float) -> Tensor:
        """What the CVAE's loss sees of the features.

        Args:
            features: (B, D), with their graph.
            scale: `algo.encoder.vae_grad_scale`, read where both losses train the encoder.

        Returns:
            The same numbers: attached, attached with a scaled gradient, or detached.
        """
        if not self.vae_trains:
            return features.detach()
        if not self.one_backward:
            return features
        from robomimic_vae_ext.lapo.gradients import ScaleGradient

        scaled: Tensor = ScaleGradient.apply(features, scale)
        return scaled

    def contract(self, slow_copies_move: bool = True, auxiliary: bool = False) -> dict[str, Any]:
        """What one training step is meant to do, as `gradient_flow.Contract.from_dict` takes it.

        Args:
            slow_copies_move: false for `algo.target_tau` = 0.
            auxiliary: whether auxiliary losses are part of the critic's.
        """
        encoder = ["obs_encoder"] if self.trains_encoder else []
        extra = ["auxiliary"] if auxiliary else []
        # For the owner `vae` the critic's gradient reaches the encoder as if it were to train it.
        # The contract asks that it does; the audit then names what discards it.
        drives = {
            "critic": ["critic", *encoder, *extra],
            "vae": ["actor_vae", *(encoder if self.vae_trains else [])],
        }
        # Every loss is stepped by the same helper: the method that calls it tells them apart.
        losses: dict[str, Any] = {"actor_loss": {"drives": ["actor"], "match": "_update_actor"}}
        if self.one_backward:
            both = list(dict.fromkeys(drives["critic"] + drives["vae"]))
            losses["critic_and_vae_loss"] = {"drives": both, "match": "_update_critic_and_vae"}
        else:
            losses |= {f"{name}_loss": {"drives": modules} for name, modules in drives.items()}
        contract: dict[str, Any] = {
            "losses": losses,
            "owners": {head: head for head in HEADS}
            | ({"obs_encoder": self.optimizer} if self.trains_encoder else {})
            | dict.fromkeys(extra, "critic"),
        }
        if slow_copies_move:
            copies = TARGET_OF | (AUXILIARY_TARGET_OF if auxiliary else {})
            contract["targets"] = {
                copy: {"of": source, "every": 1} for copy, source in copies.items()
            }
        if not self.trains_encoder:
            contract["frozen"] = ["obs_encoder"]
        return contract


#: The settings of `algo.encoder.owner`. They differ in nothing else, so that they can be compared.
OWNERS: Final = {
    # The fix: the critic's loss trains the encoder, CVAE and actor see detached features.
    "critic": Owner(optimizer="critic"),
    # The critic's optimizer owns it, and the CVAE's gradient arrives there too.
    "joint": Owner(optimizer="critic", vae_trains=True, one_backward=True),
    # The bug, kept to compare with: the critic's gradient reaches the encoder and is thrown away by
    # the zero_grad of the CVAE's optimizer, which owns it.
    "vae": Owner(optimizer="actor_vae", vae_trains=True),
    "frozen": Owner(optimizer=None),
}


def active_auxiliary(weights: Any) -> tuple[str, ...]:
    """Losses that `algo.encoder.auxiliary` asks for."""
    return tuple(name for name in AUXILIARY if weights[name] > 0)


def contract_data(algo_config: Any) -> dict[str, Any]:
    """The contract of a config's owner, as plain data.

    Args:
        algo_config: `config.algo` of a LAPO config.

    Returns:
        What `gradient_flow.Contract.from_dict` takes.
    """
    weights = algo_config.encoder.auxiliary
    return OWNERS[str(algo_config.encoder.owner)].contract(
        slow_copies_move=algo_config.target_tau != 0,
        auxiliary=bool(active_auxiliary(weights)),
    )
