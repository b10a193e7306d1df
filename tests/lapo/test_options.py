"""Options of the method: the categorical critic."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.lapo import owners

EXACT = {"bf16_encoder": "off"}
HL_GAUSS = {"loss": "hl_gauss"}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "hl": ("critic", {"critic": HL_GAUSS}),
    "joint_hl": ("joint", {"critic": HL_GAUSS}),
}
STOCK_NETS = [
    "obs_encoder", "critic", "actor_vae", "actor",
    "critic_target", "actor_vae_target", "actor_target",
]  # fmt: skip


@pytest.fixture
def make_option(make_model: Callable[..., Any]) -> Callable[..., Any]:
    """Model with one of `OPTIONS`."""

    def make(name: str, seed: int = 0, **algo: Any) -> Any:
        owner, changes = OPTIONS[name]
        return make_model({"algo": changes | {"speed": EXACT} | algo}, owner=owner, seed=seed)

    return make


def rollout_obs(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.rand(3, *s, generator=generator) for key, s in model.obs_shapes.items()}


# ---- all options ----


@pytest.mark.parametrize("name", OPTIONS)
def test_one_owner_everybody_moves_and_the_contract_is_kept(
    make_option: Callable[..., Any], make_batch: Callable[..., Any], name: str
) -> None:
    model = make_option(name, audit={"every_n_steps": 0})
    owned = [
        id(parameter)
        for optimizer in model.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in model.nets.parameters() if p.requires_grad}
    before = deepcopy(model.nets.state_dict())
    batch = make_batch(model)
    with gradient_flow.record(model.nets, model.optimizers) as tape:
        for _ in range(2):
            model.train_on_batch(batch, epoch=1)
    contract = gradient_flow.Contract.from_dict(owners.contract_data(model.algo_config))
    report = tape.report(contract)
    assert report.ok, str(report)
    now = model.nets.state_dict()
    assert all(not torch.equal(value, now[key]) for key, value in before.items())


@pytest.mark.parametrize("name", OPTIONS)
def test_save_and_load_gives_the_same_training(
    make_option: Callable[..., Any], make_batch: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    model, other = make_option(name), make_option(name, seed=1)
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    torch.save(model.serialize(), tmp_path / "model.pth")
    other.deserialize(torch.load(tmp_path / "model.pth"), load_optimizers=True)
    for trained in (model, other):
        torch.manual_seed(7)
        trained.train_on_batch(batch, epoch=1)
        trained.set_eval()
    found = other.nets.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.nets.state_dict().items())
    obs = rollout_obs(model)
    action = model.get_action(obs)
    assert torch.equal(action, other.get_action(obs))
    assert torch.equal(
        model.get_state_action_value(obs, action), other.get_state_action_value(obs, action)
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_validation_computes_the_same_losses_and_moves_nothing(
    make_option: Callable[..., Any], make_batch: Callable[..., Any], name: str
) -> None:
    model = make_option(name)
    batch = make_batch(model)
    model.set_eval()  # so that crops are the same
    before = deepcopy(model.nets.state_dict())
    torch.manual_seed(1)
    info = model.train_on_batch(batch, epoch=1, validate=True)
    now = model.nets.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in before.items())
    assert all(p.grad is None for p in model.nets.parameters())
    model.nets.training = True  # only this flag is asserted; modules stay in eval mode
    torch.manual_seed(1)
    trained = model.train_on_batch(batch, epoch=1)
    for key in ("critic/loss", "vae/loss"):
        torch.testing.assert_close(info[key], trained[key], msg=key)


# ---- algo.critic.loss ----


def test_categorical_values_are_numbers_that_start_near_zero(
    make_option: Callable[..., Any],
) -> None:
    model = make_option("hl")
    critic, bins = model.nets["critic"], model.nets["critic"].bins
    features, actions = torch.randn(64, model.obs_encoder.output_dim), torch.rand(64, 7)
    assert critic.q_outputs(features, actions).shape == (2, 64, 51)
    q, v = critic.q_values(features, actions), critic.value(features)
    assert q.shape == (2, 64) and v.shape == (64,)
    torch.testing.assert_close(critic.q1_value(features, actions), q[0])
    probabilities = critic.v_outputs(features).softmax(dim=-1)
    centres = -2.5 * bins.width + bins.width * torch.arange(51)
    torch.testing.assert_close(v, probabilities @ centres)
    assert max(q.abs().max(), v.abs().max()) < 0.1


def test_the_categorical_step_is_cross_entropy_of_the_same_targets(
    make_option: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_option("hl", actor={"target_noise": 0.0, "layer_dims": [16]})
    batch, critic = make_batch(model), model.nets["critic"]
    model.set_eval()
    found = model.train_on_batch(batch, epoch=1, validate=True)
    with torch.no_grad():
        now, later = (model.encode(batch[key]) for key in ("obs", "next_obs"))
        targets = model._targets(batch, now, later, critic.value(now))
        outputs = (*critic.q_outputs(now, batch["actions"]), critic.v_outputs(now))
        expected = [
            F.cross_entropy(logits, critic.bins.histogram(target))
            for logits, target in zip(outputs, (targets.q, targets.q, targets.v), strict=True)
        ]
    torch.testing.assert_close(found["critic/q_loss"], expected[0] + expected[1])
    torch.testing.assert_close(found["critic/v_loss"], expected[2])


def test_the_categorical_critic_learns_its_targets(
    make_option: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    """With a discount of zero Q is the reward: 1 at the end of a success, else 0."""
    rate = {"learning_rate": {"initial": 3e-3}}
    model = make_option("hl", discount=0.0, n_step=1, optim_params={"critic": rate})
    batch = make_batch(model, size=16)
    assert set(batch["rewards"].tolist()) == {0.0, 1.0}
    for _ in range(200):
        model.train_on_batch(batch, epoch=1)
    with torch.no_grad():
        q = model.nets["critic"].q_values(model.encode(batch["obs"]), batch["actions"])
    assert (q - batch["rewards"]).abs().max() < 0.25
