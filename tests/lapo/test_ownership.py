"""Who owns, who moves, what is detached: for all four owners, on image observations."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch

from robomimic_vae_ext.errors import OwnershipError
from robomimic_vae_ext.lapo import losses
from robomimic_vae_ext.lapo.owners import HEADS, OWNERS, TARGET_OF


def snapshot(model: Any) -> dict[str, dict[str, torch.Tensor]]:
    return {name: deepcopy(net.state_dict()) for name, net in model.nets.items()}


def moved(before: dict[str, torch.Tensor], net: torch.nn.Module) -> set[str]:
    return {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize("owner", OWNERS)
def test_every_trainable_parameter_has_exactly_one_owner(
    make_model: Callable[..., Any], owner: str
) -> None:
    model = make_model(owner=owner)
    owned = [
        id(parameter)
        for optimizer in model.optimizers.values()
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    trainable = {id(p) for p in model.nets.parameters() if p.requires_grad}
    assert len(owned) == len(set(owned))
    assert set(owned) == trainable
    encoder = {id(p) for p in model.obs_encoder.parameters()}
    home = {"critic": "critic", "vae": "actor_vae", "joint": "critic", "frozen": None}[owner]
    for name, optimizer in model.optimizers.items():
        groups = {group["name"]: group for group in optimizer.param_groups}
        assert ("obs_encoder" in groups) == (name == home)
        if name == home:
            assert {id(p) for p in groups["obs_encoder"]["params"]} == encoder


def test_a_second_owner_is_refused(make_model: Callable[..., Any]) -> None:
    model = make_model()
    model.optimizers["actor"].add_param_group(
        {"params": list(model.obs_encoder.parameters()), "name": "stolen"}
    )
    with pytest.raises(OwnershipError, match=r"obs_encoder.*'critic', 'actor'"):
        model._check_ownership()


@pytest.mark.parametrize("owner", OWNERS)
def test_one_step_moves_what_is_owned_and_nothing_else(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], owner: str
) -> None:
    model = make_model(owner=owner)
    before = snapshot(model)
    model.train_on_batch(make_batch(model), epoch=1)
    for name in HEADS:
        assert moved(before[name], model.nets[name]) == set(before[name]), name
    encoder = moved(before["obs_encoder"], model.obs_encoder)
    assert encoder == (set() if owner == "frozen" else set(before["obs_encoder"]))
    for target, source in TARGET_OF.items():
        tau = model.algo_config.target_tau
        for key, old in before[target].items():
            new = model.nets[source].state_dict()[key]
            torch.testing.assert_close(
                model.nets[target].state_dict()[key], old + tau * (new - old)
            )


@pytest.mark.parametrize("owner", OWNERS)
def test_validation_computes_the_same_losses_and_moves_nothing(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], owner: str
) -> None:
    model = make_model(owner=owner)
    batch = make_batch(model)
    model.set_eval()  # so that crops are the same
    before = snapshot(model)
    torch.manual_seed(1)
    info = model.train_on_batch(batch, epoch=1, validate=True)
    assert all(not moved(before[name], net) for name, net in model.nets.items())
    assert all(p.grad is None for p in model.nets.parameters())
    model.nets.training = True  # only this flag is asserted; modules stay in eval mode
    torch.manual_seed(1)
    trained = model.train_on_batch(batch, epoch=1)
    for key in ("critic/loss", "vae/loss"):
        torch.testing.assert_close(info[key], trained[key], msg=key)


def first_weight(model: Any) -> torch.Tensor:
    return model.obs_encoder.nets.nets["obs"].obs_nets["agentview_image"].nets[0].weight


def encoder_gradient_of_the_vae_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Gradient of the CVAE's loss alone, computed beside the training code."""
    torch.manual_seed(11)
    features = model.encode(batch["obs"])
    with torch.no_grad():
        next_features = model.encode(batch["next_obs"])
        v = model.nets["critic"].value(features)
        targets = model._targets(batch, features, next_features, v)
    reconstruction, mean, log_std = model.actor_vae(features, batch["actions"])
    loss, _ = losses.vae_loss(
        batch["actions"], reconstruction, mean, log_std, targets.weights,
        model.algo_config.vae.kl_beta,
    )  # fmt: skip
    return torch.autograd.grad(loss, first_weight(model))[0]


@pytest.mark.parametrize("owner", OWNERS)
def test_which_losses_reach_the_encoder(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], owner: str
) -> None:
    """Replays the update with a spy on every step: gradients in the encoder when it steps."""
    model = make_model(owner=owner)
    batch = make_batch(model)
    weight = first_weight(model)
    seen: dict[str, torch.Tensor | None] = {}
    for name, optimizer in model.optimizers.items():
        optimizer.register_step_pre_hook(
            lambda *_, name=name: seen.__setitem__(
                name, None if weight.grad is None else weight.grad.clone()
            )
        )
    torch.manual_seed(11)
    model.train_on_batch(batch, epoch=1)
    if owner == "frozen":
        assert seen == {"critic": None, "actor_vae": None, "actor": None}
        return
    assert seen["critic"] is not None and seen["critic"].abs().max() > 0
    if owner == "critic":
        # CVAE and actor saw detached features: not a bit was added after the critic's backward.
        assert torch.equal(seen["actor_vae"], seen["critic"])
        assert torch.equal(seen["actor"], seen["critic"])
    vae_alone = encoder_gradient_of_the_vae_loss(make_model(owner="vae"), batch)
    if owner == "vae":
        # The bug: the critic's gradient was there, and only the CVAE's is when the owner steps.
        torch.testing.assert_close(seen["actor_vae"], vae_alone)
        assert not torch.allclose(seen["critic"], vae_alone)
    if owner == "joint":
        assert torch.equal(seen["actor_vae"], seen["critic"])
        assert not torch.allclose(seen["critic"], vae_alone)


def test_joint_is_critic_plus_scaled_vae_gradient(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    def encoder_gradient(owner: str, scale: float = 1.0) -> torch.Tensor:
        # Sums are exact to float noise only where nothing is rounded to bfloat16.
        exact = {"bf16_encoder": "off"}
        changes = {"algo": {"encoder": {"vae_grad_scale": scale}, "speed": exact}}
        model = make_model(changes, owner=owner)
        torch.manual_seed(3)
        model.train_on_batch(make_batch(model), epoch=1)
        grads = [p.grad for p in model.obs_encoder.parameters()]
        return torch.cat([grad.flatten() for grad in grads])

    critic, vae = encoder_gradient("critic"), encoder_gradient("vae")
    torch.testing.assert_close(encoder_gradient("joint", 0.0), critic)
    torch.testing.assert_close(encoder_gradient("joint", 1.0), critic + vae)
    torch.testing.assert_close(encoder_gradient("joint", 0.1), critic + 0.1 * vae)


def test_the_arms_differ_only_in_the_encoder(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    """After one step from the same weights, heads agree whoever owns the encoder."""
    states = {}
    for owner in OWNERS:
        model = make_model(owner=owner)
        torch.manual_seed(5)
        model.train_on_batch(make_batch(model), epoch=1)
        states[owner] = snapshot(model)
    for owner in ("vae", "joint", "frozen"):
        for name in HEADS:
            for key, value in states["critic"][name].items():
                torch.testing.assert_close(states[owner][name][key], value, msg=f"{owner} {key}")


def test_the_actor_leaves_no_gradient_in_critic_or_decoder(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    model = make_model()
    batch = make_batch(model)
    for parameter in model.nets.parameters():
        parameter.grad = None
    with torch.no_grad():
        features = model.encode(batch["obs"])
    model._update_actor(features, validate=False)
    for name in ("critic", "actor_vae", "obs_encoder", *TARGET_OF):
        assert all(p.grad is None for p in model.nets[name].parameters()), name
    assert all(p.requires_grad for p in model.nets["critic"].parameters())


def test_tau_zero_keeps_targets_and_tau_one_copies(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    for tau in (0.0, 1.0):
        model = make_model({"algo": {"target_tau": tau}})
        before = snapshot(model)
        model.train_on_batch(make_batch(model), epoch=1)
        for target, source in TARGET_OF.items():
            expected = before[target] if tau == 0.0 else model.nets[source].state_dict()
            for key, value in model.nets[target].state_dict().items():
                torch.testing.assert_close(value, expected[key])


def test_learning_rate_zero_moves_nothing(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    zero = {"learning_rate": {"initial": 0.0}}
    model = make_model({"algo": {"optim_params": {name: zero for name in HEADS}}})
    before = snapshot(model)
    model.train_on_batch(make_batch(model), epoch=1)
    for name in (*HEADS, "obs_encoder"):
        assert not moved(before[name], model.nets[name]), name


def test_clipping_counts_only_what_the_optimizer_owns(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    limit = 1e-3
    model = make_model({"algo": {"optim_params": {"critic": {"max_gradient_norm": limit}}}})
    norms: dict[str, float] = {}

    def measure(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        norms["critic"] = torch.nn.utils.get_total_norm(grads).item()

    model.critic_optimizer.register_step_pre_hook(measure)
    info = model.log_info(model.train_on_batch(make_batch(model), epoch=1))
    assert norms["critic"] == pytest.approx(limit, rel=1e-3)
    assert info["grad_norm/critic"] > 10 * limit  # reported before clipping
    assert info["grad_norm/actor_vae"] > 10 * limit  # and untouched elsewhere


@pytest.mark.parametrize("owner", OWNERS)
def test_training_lowers_the_losses(
    make_model: Callable[..., Any], make_batch: Callable[..., Any], owner: str
) -> None:
    rate = {"learning_rate": {"initial": 3e-3}}
    model = make_model({"algo": {"optim_params": {name: rate for name in HEADS}}}, owner=owner)
    batch = make_batch(model)
    infos = [model.log_info(model.train_on_batch(batch, epoch=1)) for _ in range(40)]
    assert infos[-1]["vae/reconstruction"] < 0.8 * infos[0]["vae/reconstruction"]
    assert infos[-1]["critic/q_loss"] < 0.8 * infos[0]["critic/q_loss"]
    assert all(value == value for value in infos[-1].values())
