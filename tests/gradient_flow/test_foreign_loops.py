"""A loop that nobody here wrote: stable-baselines3's SAC on pixels, unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robomimic_vae_ext.gradient_flow import Contract, Loss, Target, Verdict, record

REASON = "needs stable-baselines3 and gymnasium, which this package does not: pip install them"
gymnasium = pytest.importorskip("gymnasium", reason=REASON)
stable_baselines3 = pytest.importorskip("stable_baselines3", reason=REASON)


def make_pixels() -> Any:
    class Pixels(gymnasium.Env):  # type: ignore[name-defined, misc]
        observation_space = gymnasium.spaces.Box(0, 255, (3, 36, 36), np.uint8)
        action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
            return self.observation_space.sample(), float(-abs(action).sum()), False, False, {}

    return Pixels()


def audit_sac(share: bool) -> Any:
    agent = stable_baselines3.SAC(
        "CnnPolicy",
        make_pixels(),
        learning_starts=20,
        buffer_size=200,
        batch_size=8,
        seed=0,
        device="cpu",
        policy_kwargs={"share_features_extractor": share},
    )
    agent.learn(21)
    modules = {
        "features": agent.actor.features_extractor,
        "actor": agent.actor,
        "critic": agent.critic,
        "critic_target": agent.critic_target,
    }
    optimizers = {
        "actor": agent.actor.optimizer,
        "critic": agent.critic.optimizer,
        "entropy": agent.ent_coef_optimizer,
    }
    with record(modules, optimizers) as tape:
        agent.train(gradient_steps=3, batch_size=8)
    return tape


@pytest.mark.parametrize("share", [False, True])
def test_sac_on_pixels_raises_no_false_alarm(share: bool) -> None:
    report = audit_sac(share).report()
    assert report.ok, str(report)
    assert report.losses == ("ent_coef_loss", "critic_loss", "actor_loss")
    assert report.states["critic_target"] is Verdict.TARGET
    # Its answer to "which loss trains my encoder": with a shared extractor, the policy's alone.
    assert report.cell("actor_loss", "features").verdict is Verdict.DRIVEN
    assert report.cell("critic_loss", "features") is None


def test_sac_keeps_a_contract() -> None:
    contract = Contract(
        losses={
            "ent_coef_loss": Loss(drives=("entropy:own tensors",)),
            "critic_loss": Loss(drives=("critic",)),
            "actor_loss": Loss(drives=("actor", "features"), passes=("critic",)),
        },
        owners={"features": "actor", "actor": "actor", "critic": "critic"},
        targets={"critic_target": Target("critic", every=1)},
    )
    report = audit_sac(share=True).report(contract)
    assert report.ok, str(report)
