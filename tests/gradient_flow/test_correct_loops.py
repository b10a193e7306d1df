"""Loops that do what they should: the audit must raise no alarm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.checkpoint import checkpoint

from robomimic_vae_ext.gradient_flow import Contract, Loss, Target, Verdict, record
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


def shared_encoder_owned_by_the_critic() -> Loop:
    enc, critic, vae, actor = encoder(), Critic(), head(), head()
    critic_target = copy.deepcopy(critic)
    critic_opt, vae_opt, actor_opt = adam(critic, enc), adam(vae), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        critic_opt.zero_grad()
        mse_loss(critic(features, action), value).backward()
        clip_grad_norm_([*critic.parameters(), *enc.parameters()], 1.0)
        critic_opt.step()
        features = features.detach()
        vae_opt.zero_grad()
        mse_loss(vae(features), action).backward()
        vae_opt.step()
        actor_opt.zero_grad()
        (-critic(features, actor(features)).mean()).backward()
        clip_grad_value_(actor.parameters(), 0.1)
        actor_opt.step()
        polyak(critic_target, critic)

    modules = {
        "encoder": enc,
        "critic": critic,
        "vae": vae,
        "actor": actor,
        "critic_target": critic_target,
    }
    optimizers = {"critic": critic_opt, "vae": vae_opt, "actor": actor_opt}
    return Loop(modules, optimizers, step)


def generative_adversarial() -> Loop:
    generator, critic = nn.Linear(FEATURES, OBS), nn.Linear(OBS, 1)
    generator_opt, critic_opt = adam(generator), adam(critic)

    def step() -> None:
        real, _, _ = batch()
        fake = generator(torch.randn(len(real), FEATURES))
        critic.zero_grad()
        (-critic(real).mean()).backward()
        critic(fake.detach()).mean().backward()
        critic_opt.step()
        generator.zero_grad()
        (-critic(fake).mean()).backward()
        generator_opt.step()

    modules = {"generator": generator, "critic": critic}
    return Loop(modules, {"generator": generator_opt, "critic": critic_opt}, step)


def gradient_accumulation() -> Loop:
    policy = head()
    optimizer = adam(policy)

    def step() -> None:
        for _ in range(3):
            mse_loss(policy(torch.randn(4, FEATURES)), torch.zeros(4, ACTION)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def two_losses_summed_by_two_backwards_and_two_optimizers() -> Loop:
    enc, value_head, policy = encoder(), nn.Linear(FEATURES, 1), head()
    enc_opt, head_opt = adam(enc), adam(value_head, policy)

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        enc_opt.zero_grad(set_to_none=False)
        head_opt.zero_grad(set_to_none=False)
        mse_loss(value_head(features), value).backward(retain_graph=True)
        mse_loss(policy(features), action).backward()
        clip_grad_norm_([*enc.parameters(), *value_head.parameters(), *policy.parameters()], 1.0)
        enc_opt.step()
        head_opt.step()

    modules = {"encoder": enc, "value": value_head, "policy": policy}
    return Loop(modules, {"encoder": enc_opt, "heads": head_opt}, step)


def entropy_temperature() -> Loop:
    critic, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    log_alpha = torch.zeros(1, requires_grad=True)
    critic_opt, actor_opt = adam(critic), adam(actor)
    alpha_opt = torch.optim.Adam([log_alpha])

    def step() -> None:
        obs, action, value = batch()
        sampled = actor(obs) + 0.1 * torch.randn(len(obs), ACTION)
        alpha_opt.zero_grad()
        # Not detached: the multiplier's loss fills the actor, which clears it before its own.
        (log_alpha.exp() * (sampled.square().mean() + 1.0)).sum().backward(retain_graph=True)
        alpha_opt.step()
        critic_opt.zero_grad()
        mse_loss(critic(torch.cat([obs, action], -1)), value).backward()
        critic_opt.step()
        actor_opt.zero_grad()
        (-critic(torch.cat([obs, actor(obs)], -1)).mean()).backward()
        actor_opt.step()

    optimizers = {"critic": critic_opt, "actor": actor_opt, "alpha": alpha_opt}
    return Loop({"critic": critic, "actor": actor}, optimizers, step)


def mixed_precision() -> Loop:
    policy = head()
    optimizer = adam(policy)
    scaler = torch.amp.GradScaler("cpu")

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = policy(torch.randn(8, FEATURES)).square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_(policy.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def closure_of_lbfgs() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = torch.optim.LBFGS(policy.parameters(), max_iter=4)

    def step() -> None:
        obs, action, _ = batch()

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = mse_loss(policy(obs), action)
            loss.backward()
            return loss

        optimizer.step(closure)

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def gradients_written_by_hand() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        parameters = list(policy.parameters())
        grads = torch.autograd.grad(mse_loss(policy(obs), action), parameters)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.clamp(-0.1, 0.1)
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def sharpness_aware() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        mse_loss(policy(obs), action).backward()
        with torch.no_grad():
            climbs = [0.05 * p.grad / p.grad.norm() for p in policy.parameters()]
            for parameter, climb in zip(policy.parameters(), climbs, strict=True):
                parameter.add_(climb)
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()
        with torch.no_grad():
            for parameter, climb in zip(policy.parameters(), climbs, strict=True):
                parameter.sub_(climb)
        optimizer.step()
        optimizer.zero_grad()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def reentrant_checkpoint() -> Loop:
    enc, policy = encoder(), head()
    optimizer = adam(enc, policy)

    def step() -> None:
        obs, action, _ = batch()
        features = checkpoint(enc, obs.requires_grad_(), use_reentrant=True)
        optimizer.zero_grad()
        mse_loss(policy(features), action).backward()
        optimizer.step()

    return Loop({"encoder": enc, "policy": policy}, {"policy": optimizer}, step)


def wrapped_optimizer() -> Loop:
    policy = nn.Linear(OBS, ACTION)

    class Wrapper(torch.optim.Optimizer):
        """Steps an inner optimizer over the same parameters."""

        def __init__(self) -> None:
            super().__init__(policy.parameters(), {})
            self.inner = torch.optim.SGD(self.param_groups, lr=0.1)

        def step(self, closure: Callable[[], float] | None = None) -> None:
            self.inner.step()

    optimizer = Wrapper()

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


LOOPS = (
    shared_encoder_owned_by_the_critic,
    generative_adversarial,
    gradient_accumulation,
    two_losses_summed_by_two_backwards_and_two_optimizers,
    entropy_temperature,
    mixed_precision,
    closure_of_lbfgs,
    gradients_written_by_hand,
    sharpness_aware,
    reentrant_checkpoint,
    wrapped_optimizer,
)


@pytest.mark.parametrize("build", LOOPS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("trace_writes", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_no_false_alarm(build: Callable[[], Loop], trace_writes: bool, marked: bool) -> None:
    tape = record_steps(build(), 3, trace_writes, marked)
    report = tape.report()
    assert report.ok, str(report)
    # Every module that an optimizer owns is driven: the loop was seen, and found correct.
    owned = [m for m in report.recording.modules if report.recording.module_owners(m)]
    assert owned
    assert all(report.states[m] is Verdict.DRIVEN for m in owned), str(report)


def test_the_fix_keeps_its_contract_and_names_the_byproduct() -> None:
    loop = shared_encoder_owned_by_the_critic()
    contract = Contract(
        losses={
            "critic": Loss(drives=("critic", "encoder")),
            "vae": Loss(drives=("vae",)),
            "actor": Loss(drives=("actor",), passes=("critic",)),
        },
        owners={"encoder": "critic", "critic": "critic", "vae": "vae", "actor": "actor"},
        targets={"critic_target": Target("critic", every=1)},
    )
    with record(loop.modules, loop.optimizers) as tape:
        loop.step()
        loop.step()
    report = tape.report(contract)
    assert report.ok, str(report)
    assert report.states["critic_target"] is Verdict.TARGET
    assert [(f.verdict, f.loss, f.module) for f in report.notes] == [
        (Verdict.TRANSIT, "actor", "critic")
    ]
