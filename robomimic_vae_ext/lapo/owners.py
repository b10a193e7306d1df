"""What one LAPO step is meant to do, per owner of the encoder: plain data for the audit."""

from __future__ import annotations

from typing import Any

#: Slow copies follow once per step.
TARGETS = {
    "critic_target": {"of": "critic", "every": 1},
    "actor_vae_target": {"of": "actor_vae", "every": 1},
    "actor_target": {"of": "actor", "every": 1},
}
HEADS = {"critic": "critic", "actor_vae": "actor_vae", "actor": "actor"}
# Every loss is stepped by the same helper: the line or method that calls it tells them apart.
ACTOR = {"drives": ["actor"], "match": "_update_actor"}

CONTRACTS: dict[str, dict[str, Any]] = {
    # The method: the critic's gradient trains the encoder, the others see detached features.
    "critic": {
        "losses": {
            "critic_loss": {"drives": ["critic", "obs_encoder"]},
            "vae_loss": {"drives": ["actor_vae"]},
            "actor_loss": ACTOR,
        },
        "owners": HEADS | {"obs_encoder": "critic"},
        "targets": TARGETS,
    },
    # The bug, kept to compare with. The critic's gradient reaches the encoder as if it were to
    # train it, so the contract asks that it does; the audit then names what discards it.
    "vae": {
        "losses": {
            "critic_loss": {"drives": ["critic", "obs_encoder"]},
            "vae_loss": {"drives": ["actor_vae", "obs_encoder"]},
            "actor_loss": ACTOR,
        },
        "owners": HEADS | {"obs_encoder": "actor_vae"},
        "targets": TARGETS,
    },
    # One backward of the sum, so that both gradients are there when the encoder's owner steps.
    "joint": {
        "losses": {
            "critic_and_vae_loss": {
                "drives": ["critic", "obs_encoder", "actor_vae"],
                "match": "_update_critic_and_vae",
            },
            "actor_loss": ACTOR,
        },
        "owners": HEADS | {"obs_encoder": "critic"},
        "targets": TARGETS,
    },
    # `critic` with algo.encoder.policy_branch: each loss has an encoder, each encoder one loss.
    "policy_branch": {
        "losses": {
            "critic_loss": {"drives": ["critic", "obs_encoder"]},
            "vae_loss": {"drives": ["actor_vae", "policy_encoder"]},
            "actor_loss": ACTOR,
        },
        "owners": HEADS | {"obs_encoder": "critic", "policy_encoder": "actor_vae"},
        "targets": TARGETS,
    },
    "frozen": {
        "losses": {
            "critic_loss": {"drives": ["critic"]},
            "vae_loss": {"drives": ["actor_vae"]},
            "actor_loss": ACTOR,
        },
        "owners": HEADS,
        "targets": TARGETS,
        "frozen": ["obs_encoder"],
    },
}


def contract_data(algo_config: Any) -> dict[str, Any]:
    """The contract of the arm that a config chooses, as plain data.

    Args:
        algo_config: `config.algo` of a LAPO config.

    Returns:
        What `gradient_flow.Contract.from_dict` takes.
    """
    encoder = algo_config.encoder
    contract = CONTRACTS["policy_branch" if encoder.policy_branch else str(encoder.owner)]
    if algo_config.target_tau == 0:  # asked to stand still
        return {key: value for key, value in contract.items() if key != "targets"}
    return contract
