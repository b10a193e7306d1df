"""Correct loops that lean on torch's library: averaging, parametrizations, compile, RNNs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from robomimic_vae_ext.gradient_flow import Verdict, record
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
    record_steps,
)


def encoder_with_an_optimizer_of_its_own() -> Loop:
    """DrQ-v2's rule: the critic's loss steps encoder and critic, the actor's neither."""
    enc, critic, actor = encoder(), Critic(), head()
    critic_target = copy.deepcopy(critic)
    enc_opt, critic_opt, actor_opt = adam(enc), adam(critic), adam(actor)

    def step() -> None:
        obs, action, reward = batch()
        features = enc(obs)
        with torch.no_grad():
            goal = reward + 0.99 * critic_target(enc(obs), actor(enc(obs)))
        enc_opt.zero_grad(set_to_none=True)
        critic_opt.zero_grad(set_to_none=True)
        mse_loss(critic(features, action), goal).backward()
        critic_opt.step()
        enc_opt.step()
        features = features.detach()
        actor_opt.zero_grad(set_to_none=True)
        (-critic(features, actor(features)).mean()).backward()
        actor_opt.step()
        for fast, slow in zip(critic.parameters(), critic_target.parameters(), strict=True):
            slow.data.copy_(0.01 * fast.data + 0.99 * slow.data)

    modules = {"encoder": enc, "critic": critic, "actor": actor, "critic_target": critic_target}
    return Loop(modules, {"encoder": enc_opt, "critic": critic_opt, "actor": actor_opt}, step)


def exponential_average_with_buffers() -> Loop:
    model = nn.Sequential(nn.Linear(OBS, 8), nn.BatchNorm1d(8), nn.Linear(8, ACTION))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    optimizer = adam(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(model(obs), action).backward()
        optimizer.step()
        average.update_parameters(model)
        schedule.step()

    return Loop({"model": model, "ema_model": average}, {"model": optimizer}, step)


def hard_target_updates_and_clamped_data() -> Loop:
    """The DQN of the tutorials: gradients clamped through `.data`, the target loaded at times."""
    policy = nn.Linear(OBS, 4)
    target = copy.deepcopy(policy)
    optimizer = torch.optim.RMSprop(policy.parameters())

    def step() -> None:
        for _ in range(3):
            obs, _, reward = batch()
            best = target(obs).max(1, keepdim=True)[0].detach()
            loss = mse_loss(policy(obs).max(1, keepdim=True)[0], reward + 0.9 * best)
            optimizer.zero_grad()
            loss.backward()
            for parameter in policy.parameters():
                assert parameter.grad is not None
                parameter.grad.data.clamp_(-0.01, 0.01)
            optimizer.step()
        target.load_state_dict(policy.state_dict())

    return Loop({"policy": policy, "target_policy": target}, optimizer, step)


def parametrized_adversaries() -> Loop:
    generator, critic = weight_norm(nn.Linear(4, OBS)), spectral_norm(nn.Linear(OBS, 1))
    generator_opt, critic_opt = adam(generator), adam(critic)

    def step() -> None:
        real, _, _ = batch()
        fake = generator(torch.randn(len(real), 4))
        critic_opt.zero_grad()
        # The generator's output is not detached: its gradient is cleared below, unused.
        (critic(fake).mean() - critic(real).mean()).backward(retain_graph=True)
        critic_opt.step()
        generator_opt.zero_grad()
        (-critic(fake).mean()).backward()
        generator_opt.step()

    modules = {"generator": generator, "critic": critic}
    return Loop(modules, {"generator": generator_opt, "critic": critic_opt}, step)


def recurrent_actor_and_critic() -> Loop:
    memory, critic = nn.LSTM(OBS, FEATURES, batch_first=True), nn.Linear(FEATURES + ACTION, 1)
    actor = nn.GRU(FEATURES, ACTION, batch_first=True)
    critic_opt, actor_opt = adam(memory, critic), adam(actor)

    def step() -> None:
        obs, action, value = torch.randn(3, 5, OBS), torch.randn(3, 5, ACTION), torch.randn(3, 5, 1)
        critic_opt.zero_grad()
        mse_loss(critic(torch.cat([memory(obs)[0], action], -1)), value).backward()
        critic_opt.step()
        features = memory(obs)[0].detach()
        actor_opt.zero_grad()
        (-critic(torch.cat([features, actor(features)[0]], -1)).mean()).backward()
        actor_opt.step()

    modules = {"memory": memory, "critic": critic, "actor": actor}
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def compiled_policy() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    fast = torch.compile(policy, backend="eager")
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(fast(obs), action).backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def nobody_named_the_optimizer() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    hidden = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        hidden.zero_grad()
        mse_loss(policy(obs), action).backward()
        hidden.step()

    return Loop({"policy": policy}, {}, step)


LOOPS = (
    encoder_with_an_optimizer_of_its_own,
    exponential_average_with_buffers,
    hard_target_updates_and_clamped_data,
    parametrized_adversaries,
    recurrent_actor_and_critic,
    compiled_policy,
    nobody_named_the_optimizer,
)


@pytest.mark.parametrize("build", LOOPS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("trace_writes", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize("marked", [True, False], ids=["marked", "unmarked"])
def test_no_false_alarm(build: Callable[[], Loop], trace_writes: bool, marked: bool) -> None:
    tape = record_steps(build(), 3, trace_writes, marked)
    report = tape.report()
    assert report.ok, str(report)
    targets = {m for m in report.recording.modules if "target" in m or "ema" in m}
    for module in report.recording.modules:
        expected = Verdict.TARGET if module in targets else Verdict.DRIVEN
        assert report.states[module] is expected, str(report)


def test_recordings_nest() -> None:
    loop = encoder_with_an_optimizer_of_its_own()
    with (
        record(loop.modules, loop.optimizers) as outer,
        record({"actor": loop.modules["actor"]}, loop.optimizers) as inner,
    ):
        loop.step()
        loop.step()
    assert outer.report().ok
    assert len(outer.report().losses) == 2
    # Fewer names, the same facts: the actor's loss drives it, twice.
    assert inner.report().states["actor"] is Verdict.DRIVEN
    assert inner.report().movement["actor", "actor"].times == 2
