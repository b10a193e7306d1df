"""Correct loops whose lines, rounds or owners are unusual: no false alarm here either."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from robomimic_vae_ext.gradient_flow import Contract, Loss, Verdict, record
from tests.gradient_flow.corpus_base import (
    ACTION,
    FEATURES,
    OBS,
    Critic,
    Loop,
    adam,
    batch,
    encoder,
    head,
    polyak,
    record_steps,
)


def losses_of_one_line() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    optimizers = {"critic": adam(critic, enc), "vae": adam(vae)}

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        losses = {
            "critic": mse_loss(critic(features, action), value),
            "vae": mse_loss(vae(features.detach()), action),
        }
        for name, loss in losses.items():
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()

    return Loop({"encoder": enc, "critic": critic, "vae": vae}, optimizers, step)


def one_loss_over_experts() -> Loop:
    """One line, one loss, now by way of this expert and now of that."""
    router, first, second = encoder(), head(), head()
    optimizer = adam(router, first, second)
    turns = iter(range(100))

    def step() -> None:
        optimizer.zero_grad()
        for expert in (first, second) if next(turns) % 2 else (second, first):
            obs, action, _ = batch()
            mse_loss(expert(router(obs)), action).backward()
        optimizer.step()

    modules = {"router": router, "first": first, "second": second}
    return Loop(modules, {"all": optimizer}, step)


def a_retry_now_and_then() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)
    turns = iter(range(100))

    def step() -> None:
        for _ in range(2 if next(turns) == 1 else 1):
            obs, action, _ = batch()
            optimizer.zero_grad()
            mse_loss(policy(obs), action).backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def encoder_optimizer_steps_last() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    enc_opt, critic_opt, vae_opt = adam(enc), adam(critic), adam(vae)

    def step() -> None:
        obs, action, value = batch()
        for optimizer in (enc_opt, critic_opt, vae_opt):
            optimizer.zero_grad()
        features = enc(obs)
        mse_loss(critic(features, action), value).backward(retain_graph=True)
        critic_opt.step()
        # The critic's gradient waits in the encoder, to be summed with the reconstruction's.
        mse_loss(vae(features), action).backward()
        vae_opt.step()
        enc_opt.step()

    modules = {"encoder": enc, "critic": critic, "vae": vae}
    return Loop(modules, {"encoder": enc_opt, "critic": critic_opt, "vae": vae_opt}, step)


def head_that_starts_at_zero() -> Loop:
    """Its zeros are all that the encoder receives in the first step, and AdamW decays weights."""
    enc, policy = encoder(), nn.Linear(FEATURES, ACTION)
    nn.init.zeros_(policy.weight)
    optimizer = torch.optim.AdamW([*enc.parameters(), *policy.parameters()], lr=1e-2)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(enc(obs)), action).backward()
        optimizer.step()

    return Loop({"encoder": enc, "policy": policy}, {"policy": optimizer}, step)


def hinge_that_is_satisfied() -> Loop:
    policy = nn.Linear(OBS, 1)
    optimizer = adam(policy)
    turns = iter(range(100))

    def step() -> None:
        obs, _, _ = batch()
        optimizer.zero_grad()
        margin = -100.0 if next(turns) % 2 else 100.0  # every second gradient is exactly zero
        torch.relu(margin - policy(obs)).mean().backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def copied_every_ten_steps() -> Loop:
    q = nn.Linear(OBS, 1)
    q_target = copy.deepcopy(q)
    optimizer = adam(q)
    turns = iter(range(1, 100))

    def step() -> None:
        obs, _, reward = batch()
        optimizer.zero_grad()
        mse_loss(q(obs), reward + 0.9 * q_target(obs).detach()).backward()
        optimizer.step()
        if next(turns) % 10 == 0:
            q_target.load_state_dict(q.state_dict())

    return Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step)


def delayed_actor_with_targets_in_every_step() -> Loop:
    critic, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    critic_target, actor_target = copy.deepcopy(critic), copy.deepcopy(actor)
    critic_opt, actor_opt = adam(critic), adam(actor)
    turns = iter(range(100))

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic(torch.cat([obs, action], -1)), value).backward()
        critic_opt.step()
        if next(turns) % 2 == 0:
            actor_opt.zero_grad()
            (-critic(torch.cat([obs, actor(obs)], -1)).mean()).backward()
            actor_opt.step()
        polyak(critic_target, critic)
        polyak(actor_target, actor)

    modules = {
        "critic": critic,
        "actor": actor,
        "critic_target": critic_target,
        "actor_target": actor_target,
    }
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def optimizer_made_anew() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)
    turns = iter(range(100))

    def step() -> None:
        nonlocal optimizer
        if next(turns) == 1:
            optimizer = adam(policy)
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def gradients_added_by_hand() -> Loop:
    """As PCGrad does: one backward for each loss, copies, then one gradient written by hand."""
    enc, value_head, policy = encoder(), nn.Linear(FEATURES, 1), head()
    optimizer = adam(enc, value_head, policy)
    parameters = [*enc.parameters(), *value_head.parameters(), *policy.parameters()]

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        sums = [torch.zeros_like(p) for p in parameters]
        for loss in (mse_loss(value_head(features), value), mse_loss(policy(features), action)):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            for total, parameter in zip(sums, parameters, strict=True):
                if parameter.grad is not None:
                    total += parameter.grad
        optimizer.zero_grad()
        for total, parameter in zip(sums, parameters, strict=True):
            parameter.grad = total
        optimizer.step()

    return Loop({"encoder": enc, "value": value_head, "policy": policy}, {"all": optimizer}, step)


def tied_weights() -> Loop:
    class Decoder(nn.Module):
        def __init__(self, weight: nn.Parameter) -> None:
            super().__init__()
            self.weight, self.bias = weight, nn.Parameter(torch.zeros(OBS))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features @ self.weight + self.bias

    enc = nn.Linear(OBS, FEATURES)
    decoder = Decoder(enc.weight)
    optimizer = torch.optim.Adam([*enc.parameters(), decoder.bias])

    def step() -> None:
        obs, _, _ = batch()
        optimizer.zero_grad()
        mse_loss(decoder(enc(obs)), obs).backward()
        optimizer.step()

    return Loop({"encoder": enc, "decoder": decoder}, {"all": optimizer}, step)


def sharpness_aware_in_the_weights_only() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        mse_loss(policy(obs), action).backward()
        with torch.no_grad():
            assert policy.weight.grad is not None
            climb = 0.05 * policy.weight.grad / policy.weight.grad.norm()
            policy.weight.add_(climb)
        optimizer.zero_grad()  # the bias's gradient goes unused
        mse_loss(policy(obs), action).backward()
        with torch.no_grad():
            policy.weight.sub_(climb)
        optimizer.step()
        optimizer.zero_grad()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


class ActorCritic(nn.Module):
    """Two networks and a temperature in one module, a common way to save them together."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
        self.log_alpha = nn.Parameter(torch.zeros(1))


def actor_and_critic_in_one_module() -> Loop:
    agent = ActorCritic()
    critic_opt, actor_opt = adam(agent.critic), adam(agent.actor)
    alpha_opt = torch.optim.Adam([agent.log_alpha])

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(agent.critic(torch.cat([obs, action], -1)), value).backward()
        critic_opt.step()
        actor_opt.zero_grad()
        acted = agent.actor(obs)
        bonus = agent.log_alpha.exp() * acted.square().mean()  # not detached
        (bonus - agent.critic(torch.cat([obs, acted], -1)).mean()).sum().backward()
        actor_opt.step()
        alpha_opt.zero_grad()
        (agent.log_alpha * (acted.detach().square().mean() - 1.0)).sum().backward()
        alpha_opt.step()

    optimizers = {"critic": critic_opt, "actor": actor_opt, "alpha": alpha_opt}
    return Loop({"agent": agent}, optimizers, step)


CONTRACTS: dict[str, Contract] = {
    "gradients_added_by_hand": Contract(
        losses={"value": Loss(("encoder", "value")), "policy": Loss(("encoder", "policy"))}
    ),
    "tied_weights": Contract(
        losses={"reconstruction": Loss(("encoder", "decoder"))},
        owners={"encoder": "all", "decoder": "all"},
    ),
    "losses_of_one_line": Contract(
        losses={"critic": Loss(("critic", "encoder")), "vae": Loss(("vae",))},
        owners={"encoder": "critic"},
    ),
    "one_loss_over_experts": Contract(losses={"task": Loss(("router", "first", "second"))}),
}

LOOPS = (
    losses_of_one_line,
    one_loss_over_experts,
    a_retry_now_and_then,
    encoder_optimizer_steps_last,
    head_that_starts_at_zero,
    hinge_that_is_satisfied,
    copied_every_ten_steps,
    delayed_actor_with_targets_in_every_step,
    optimizer_made_anew,
    gradients_added_by_hand,
    tied_weights,
    actor_and_critic_in_one_module,
    sharpness_aware_in_the_weights_only,
)


@pytest.mark.parametrize("build", LOOPS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("trace_writes", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_no_false_alarm(build: Callable[[], Loop], trace_writes: bool, marked: bool) -> None:
    tape = record_steps(build(), 3, trace_writes, marked)
    contract = CONTRACTS.get(build.__name__)
    for report in (tape.report(), tape.report(contract)):
        assert report.ok, str(report)
        owned = [m for m in report.recording.modules if report.recording.module_owners(m)]
        assert all(report.states[m] is Verdict.DRIVEN for m in owned), str(report)


def test_losses_of_one_line_are_named_by_what_they_reach() -> None:
    loop = losses_of_one_line()
    with record(loop.modules, loop.optimizers) as tape:
        loop.step()
    assert tape.report().losses == ("step[critic+encoder]", "step[vae]")
