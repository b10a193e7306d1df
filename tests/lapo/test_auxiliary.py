"""Auxiliary losses: who is trained by them, their windows, and that they learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext import gradient_flow
from robomimic_vae_ext.lapo import auxiliary, owners
from robomimic_vae_ext.lapo.owners import AUXILIARY

Make = Callable[..., Any]
EACH = [{name: 1.0} for name in AUXILIARY]
ALL = dict.fromkeys(AUXILIARY, 1.0)


def changes(weights: dict[str, Any]) -> dict[str, Any]:
    encoder = {"auxiliary": {"layer_dims": [16]} | weights}
    return {
        "algo": {
            "encoder": encoder,
            "speed": {"bf16_encoder": "off"},
            "audit": {"every_n_steps": 0},
        }
    }


def encoder_gradient(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    torch.manual_seed(3)
    model.train_on_batch(batch, epoch=1)
    return torch.cat([p.grad.flatten() for p in model.obs_encoder.parameters()])


@pytest.mark.parametrize("owner", ["critic", "joint"])
@pytest.mark.parametrize("weights", [*EACH, ALL], ids=lambda weights: "+".join(weights))
def test_one_owner_and_the_contract_is_kept(
    make_model: Make, make_batch: Make, owner: str, weights: dict[str, float]
) -> None:
    model = make_model(changes(weights), owner=owner)
    groups = {
        name: [group["name"] for group in optimizer.param_groups]
        for name, optimizer in model.optimizers.items()
    }
    assert groups == {
        "critic": ["critic", "obs_encoder", "auxiliary"],
        "actor_vae": ["actor_vae"],
        "actor": ["actor"],
    }
    batch = make_batch(model)
    before = {key: value.clone() for key, value in model.nets.state_dict().items()}
    with gradient_flow.record(model.nets, model.optimizers) as tape:
        for _ in range(2):
            model.train_on_batch(batch, epoch=1)
    report = tape.report(gradient_flow.Contract.from_dict(owners.contract_data(model.algo_config)))
    assert report.ok, str(report)
    now = model.nets.state_dict()
    still = {key for key, value in before.items() if torch.equal(value, now[key])}
    assert not still


@pytest.mark.parametrize("weights", [*EACH, ALL], ids=lambda weights: "+".join(weights))
def test_the_encoder_gets_the_critics_gradient_and_theirs_alone(
    make_model: Make, make_batch: Make, weights: dict[str, float]
) -> None:
    """CVAE and actor stay detached: their loss scaled by 1,000 changes nothing in the encoder."""
    model = make_model(changes(weights))
    batch = make_batch(model)
    found = encoder_gradient(model, batch)
    plain, fresh = make_model(changes({})), make_model(changes(weights))
    torch.manual_seed(3)
    features = plain.encode(batch["obs"])
    with torch.no_grad():
        later = plain.encode(batch["next_obs"])
    extra, _ = auxiliary.auxiliary_loss(
        fresh.nets["auxiliary"],
        fresh.nets["auxiliary_target"],
        batch, features, later, later, weights,
    )  # fmt: skip
    grads = torch.autograd.grad(extra, list(plain.obs_encoder.parameters()))
    expected = encoder_gradient(plain, batch) + torch.cat([grad.flatten() for grad in grads])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    louder = make_model({"algo": changes(weights)["algo"] | {"vae": {"kl_beta": 1000.0}}})
    torch.testing.assert_close(encoder_gradient(louder, batch), found)


def test_without_weights_nothing_is_made(make_model: Make, make_batch: Make) -> None:
    model = make_model(changes({}))
    assert "auxiliary" not in model.nets and "auxiliary_target" not in model.nets
    assert set(make_batch(model)) == {
        "obs", "next_obs", "goal_obs", "actions", "rewards", "discounts",
    }  # fmt: skip


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("steps", [1, 3])
def test_replay_and_sequence_dataset_look_ahead_alike(
    make_model: Make, make_batch: Make, frames: int, steps: int
) -> None:
    weights = {"inverse": 1.0, "dynamics": 1.0, "inverse_steps": steps}
    model = make_model(changes(weights) | {"train": {"frame_stack": frames}})
    ours, stock = (make_batch(model, replay=replay, size=42) for replay in (True, False))
    assert torch.equal(ours["action_valid"], stock["action_valid"])
    assert ours["action_valid"][:, 0].all() and not ours["action_valid"].all()
    seen = ours["action_valid"]
    torch.testing.assert_close(ours["action_window"][seen], stock["action_window"][seen])
    torch.testing.assert_close(ours["action_window"][:, 0], ours["actions"])
    for key, value in ours["later"]["obs"].items():
        torch.testing.assert_close(value, stock["later"]["obs"][key])
    # A window that ends earlier leads to the observation that bootstraps.
    short = seen.sum(dim=1) <= steps
    assert short.any() and not short.all()
    for key, value in ours["later"]["obs"].items():
        torch.testing.assert_close(value[short], ours["next_obs"][key][short])


def test_actions_past_the_end_of_a_window_are_not_read() -> None:
    torch.manual_seed(0)
    heads = auxiliary.Auxiliary(5, 4, 2, [8], ["dynamics"])
    features, actions = torch.randn(3, 5), torch.randn(3, 4, 2)
    valid = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    first = heads.roll_out(features, actions, valid)
    other = torch.where(valid[..., None], actions, torch.full_like(actions, 7.0))
    torch.testing.assert_close(heads.roll_out(features, other, valid), first)
    torch.testing.assert_close(
        heads.roll_out(features[2:], actions[2:, :1], valid[2:, :1]), first[2:]
    )


def test_they_learn(make_model: Make, make_batch: Make) -> None:
    settings = changes(ALL)
    settings["algo"]["optim_params"] = {"critic": {"learning_rate": {"initial": 3e-3}}}
    model = make_model(settings)
    batch = make_batch(model)
    logs = [model.log_info(model.train_on_batch(batch, epoch=1)) for _ in range(60)]
    for name in AUXILIARY:
        assert logs[-1][f"auxiliary/{name}"] < 0.7 * logs[0][f"auxiliary/{name}"], name


def test_save_and_load(make_model: Make, make_batch: Make, tmp_path: Path) -> None:
    model, other = make_model(changes(ALL)), make_model(changes(ALL), seed=1)
    batch = make_batch(model)
    model.train_on_batch(batch, epoch=1)
    torch.save(model.serialize(), tmp_path / "model.pth")
    other.deserialize(torch.load(tmp_path / "model.pth"), load_optimizers=True)
    for trained in (model, other):
        torch.manual_seed(7)
        trained.train_on_batch(batch, epoch=1)
    found = other.nets.state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.nets.state_dict().items())
