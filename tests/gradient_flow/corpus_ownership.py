"""Loops whose owners, targets or switches are wrong: double-owned, drift, frozen, target."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.functional import mse_loss

from robomimic_vae_ext.gradient_flow import Contract, Loss, Target, Verdict
from tests.gradient_flow.corpus_base import (
    ACTION,
    FEATURES,
    OBS,
    Case,
    Critic,
    Loop,
    adam,
    batch,
    critic_and_vae,
    encoder,
    head,
    polyak,
)


def two_critic_optimizers_own_one_encoder() -> Loop:
    enc, q1, q2 = encoder(), Critic(), Critic()
    first, second = adam(q1, enc), adam(q2, enc)

    def step() -> None:
        obs, action, value = batch()
        loss = mse_loss(q1(enc(obs), action), value) + mse_loss(q2(enc(obs), action), value)
        first.zero_grad()
        second.zero_grad()
        loss.backward()
        first.step()
        second.step()  # BUG

    return Loop({"encoder": enc, "q1": q1, "q2": q2}, {"q1": first, "q2": second}, step)


def three_owners_masked_by_detach() -> Loop:
    enc, critic, actor, decoder = encoder(), Critic(), head(), nn.Linear(FEATURES, OBS)
    critic_opt, actor_opt, decoder_opt = adam(critic, enc), adam(actor, enc), adam(decoder, enc)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic(enc(obs), action), value).backward()
        critic_opt.step()
        actor_opt.zero_grad()
        mse_loss(actor(enc(obs).detach()), action).backward()
        actor_opt.step()  # BUG
        decoder_opt.zero_grad()
        mse_loss(decoder(enc(obs)), obs).backward()
        decoder_opt.step()

    modules = {"encoder": enc, "critic": critic, "actor": actor, "decoder": decoder}
    optimizers = {"critic": critic_opt, "actor": actor_opt, "decoder": decoder_opt}
    return Loop(modules, optimizers, step)


def two_optimizers_reach_an_unnamed_shared_encoder() -> Loop:
    enc = encoder()
    critic = nn.ModuleDict({"encoder": enc, "head": nn.Linear(FEATURES, 1)})
    actor = nn.ModuleDict({"encoder": enc, "head": nn.Linear(FEATURES, ACTION)})
    critic_opt, actor_opt = adam(critic), adam(actor)
    # Lists, so that the audit sees the two networks and nobody names the encoder for it.
    modules = {"critic": nn.Sequential(*critic.values()), "actor": nn.Sequential(*actor.values())}

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic["head"](enc(obs)), value).backward()
        critic_opt.step()
        actor_opt.zero_grad()
        mse_loss(actor["head"](enc(obs)), action).backward()
        actor_opt.step()  # BUG

    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def frozen_by_accident() -> Loop:
    enc, policy = encoder(), head()
    optimizer = adam(enc, policy)
    enc.requires_grad_(False)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        policy_loss = mse_loss(policy(enc(obs)), action)
        policy_loss.backward()
        optimizer.step()  # BUG

    return Loop({"encoder": enc, "policy": policy}, {"policy": optimizer}, step)


def encoder_cut_off_by_no_grad() -> Loop:
    enc, policy = encoder(), head()
    optimizer = adam(enc, policy)

    def step() -> None:
        obs, action, _ = batch()
        with torch.no_grad():
            features = enc(obs)
        optimizer.zero_grad()
        policy_loss = mse_loss(policy(features), action)
        policy_loss.backward()
        optimizer.step()  # BUG

    return Loop({"encoder": enc, "policy": policy}, {"policy": optimizer}, step)


def momentum_drags_on_zeros() -> Loop:
    warm, policy = nn.Linear(OBS, ACTION), nn.Linear(OBS, ACTION)
    warm_opt, policy_opt = adam(warm), adam(policy)
    obs, action, _ = batch()
    mse_loss(warm(obs), action).backward()
    warm_opt.step()

    def step() -> None:
        obs, action, _ = batch()
        for optimizer in (warm_opt, policy_opt):
            optimizer.zero_grad(set_to_none=False)
        mse_loss(policy(obs) + warm(obs).detach(), action).backward()
        policy_opt.step()
        warm_opt.step()  # BUG

    return Loop({"warm": warm, "policy": policy}, {"warm": warm_opt, "policy": policy_opt}, step)


def weight_decay_shrinks_a_frozen_encoder() -> Loop:
    enc, policy = encoder(), head()
    decay = torch.optim.AdamW(enc.parameters(), weight_decay=0.1)
    optimizer = adam(policy)
    for parameter in enc.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(enc(obs).detach()), action).backward()
        optimizer.step()
        decay.step()  # BUG

    modules = {"encoder": enc, "policy": policy}
    return Loop(modules, {"encoder": decay, "policy": optimizer}, step)


def target_never_updated() -> Loop:
    cnn, q = encoder(), nn.Linear(FEATURES, 1)
    cnn_target, q_target = copy.deepcopy(cnn), copy.deepcopy(q)
    optimizer = adam(cnn, q)

    def step() -> None:
        obs, _, reward = batch()
        with torch.no_grad():
            goal = reward + 0.99 * q_target(cnn_target(obs))
        optimizer.zero_grad()
        mse_loss(q(cnn(obs)), goal).backward()
        optimizer.step()  # BUG
        polyak(q_target, q)

    modules = {"cnn": cnn, "q": q, "cnn_target": cnn_target, "q_target": q_target}
    return Loop(modules, {"q": optimizer}, step)


def target_buffers_never_updated() -> Loop:
    q = nn.Sequential(nn.Linear(OBS, FEATURES), nn.BatchNorm1d(FEATURES), nn.Linear(FEATURES, 1))
    q_target = copy.deepcopy(q).eval()
    optimizer = adam(q)

    def step() -> None:
        obs, _, reward = batch()
        with torch.no_grad():
            goal = reward + 0.99 * q_target(obs)
        optimizer.zero_grad()
        q_loss = mse_loss(q(obs), goal)
        q_loss.backward()
        optimizer.step()  # BUG
        polyak(q_target, q)

    return Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step)


def shared_encoder_averaged_twice() -> Loop:
    enc, critic = encoder(), Critic()
    enc_target, critic_target = copy.deepcopy(enc), copy.deepcopy(critic)
    optimizer = adam(enc, critic)

    def update(target: nn.Module, source: nn.Module) -> None:
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), source.parameters(), strict=True):
                slow.copy_(0.95 * slow + 0.05 * fast)  # BUG

    def step() -> None:
        obs, action, reward = batch()
        optimizer.zero_grad()
        mse_loss(critic(enc(obs), action), reward).backward()
        optimizer.step()
        update(nn.ModuleList([enc_target, critic_target]), nn.ModuleList([enc, critic]))
        update(enc_target, enc)

    modules = {
        "encoder": enc,
        "critic": critic,
        "encoder_target": enc_target,
        "critic_target": critic_target,
    }
    return Loop(modules, {"critic": optimizer}, step)


def averaged_after_either_of_two_steps() -> Loop:
    critic, actor = nn.Linear(OBS, 1), nn.Linear(OBS, ACTION)
    critic_target = copy.deepcopy(critic)
    critic_opt, actor_opt = adam(critic), adam(actor)

    def train(module: nn.Module, goal: torch.Tensor, obs: torch.Tensor) -> None:
        optimizer = critic_opt if module is critic else actor_opt
        optimizer.zero_grad()
        mse_loss(module(obs), goal).backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(critic_target.parameters(), critic.parameters(), strict=True):
                slow.copy_(0.95 * slow + 0.05 * fast)  # BUG

    def step() -> None:
        obs, action, value = batch()
        train(critic, value, obs)
        train(actor, action, obs)

    modules = {"critic": critic, "actor": actor, "critic_target": critic_target}
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def exhausted_generator_stops_the_target() -> Loop:
    q = nn.Linear(OBS, 1)
    q_target = copy.deepcopy(q)
    optimizer = adam(q)
    pairs = zip(q_target.parameters(), q.parameters(), strict=True)

    def step() -> None:
        obs, _, reward = batch()
        optimizer.zero_grad()
        q_loss = mse_loss(q(obs), reward)
        q_loss.backward()
        optimizer.step()
        with torch.no_grad():
            for slow, fast in pairs:  # empty from the second step on
                slow.lerp_(fast, 0.05)  # BUG

    return Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step)


def target_inside_the_optimizer() -> Loop:
    q = nn.Linear(OBS, 1)
    q_target = copy.deepcopy(q)
    optimizer = adam(q, q_target)

    def step() -> None:
        obs, _, reward = batch()
        optimizer.zero_grad()
        q_loss = mse_loss(q(obs), reward + 0.99 * q_target(obs))  # no detach
        q_loss.backward()
        optimizer.step()  # BUG
        polyak(q_target, q)

    return Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step)


def target_trained_and_averaged() -> Loop:
    q = nn.Linear(OBS, 1)
    q_target = copy.deepcopy(q)
    optimizer = torch.optim.Adam([*q.parameters(), *q_target.parameters()])

    def step() -> None:
        obs, _, reward = batch()
        optimizer.zero_grad()
        mse_loss(q(obs), reward + 0.99 * q_target(obs)).backward()  # no detach
        optimizer.step()  # BUG
        polyak(q_target, q)

    return Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step)


def wrong_owner() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic), adam(vae, enc)

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        critic_opt.zero_grad()
        vae_opt.zero_grad()
        critic_loss = mse_loss(critic(features, action), value)
        critic_loss.backward()
        critic_opt.step()
        vae_loss = mse_loss(vae(features.detach()), action)
        vae_loss.backward()
        vae_opt.step()  # BUG

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


POLICY = Contract(losses={"policy": Loss(drives=("encoder", "policy"))})
Q = Contract(losses={"q": Loss(drives=("q",))}, targets={"q_target": Target("q", buffers=True)})
Q_EVERY = Contract(losses={"q": Loss(drives=("q",))}, targets={"q_target": Target("q", every=1)})
Q_LOOSE = Contract(
    losses={"q": Loss(drives=("q",), passes=("q_target",))}, targets={"q_target": Target("q")}
)
OWNERS = Contract(
    losses={"critic": Loss(drives=("critic", "encoder")), "vae": Loss(drives=("vae",))},
    owners={"encoder": "critic", "critic": "critic", "vae": "vae"},
)

CASES = (
    Case(two_critic_optimizers_own_one_encoder, Verdict.DOUBLE_OWNED, "encoder", "LeRobot SAC"),
    Case(three_owners_masked_by_detach, Verdict.DOUBLE_OWNED, "encoder", "SAC-AE"),
    Case(
        two_optimizers_reach_an_unnamed_shared_encoder,
        Verdict.DOUBLE_OWNED,
        "critic+actor",
        "a shared encoder inside two networks",
    ),
    Case(frozen_by_accident, Verdict.FROZEN, "encoder", "requires_grad_(False) left on", POLICY),
    Case(encoder_cut_off_by_no_grad, Verdict.STARVED, "encoder", "no_grad too wide", POLICY),
    Case(momentum_drags_on_zeros, Verdict.DRIFT, "warm", "zero_grad(set_to_none=False)"),
    Case(weight_decay_shrinks_a_frozen_encoder, Verdict.DRIFT, "encoder", "AdamW on zeros"),
    Case(target_never_updated, Verdict.TARGET, "cnn_target", "stable-baselines 854"),
    Case(target_buffers_never_updated, Verdict.TARGET, "q_target", "stable-baselines 854", Q),
    Case(shared_encoder_averaged_twice, Verdict.TARGET, "encoder_target", "stable-baselines3 td3"),
    Case(averaged_after_either_of_two_steps, Verdict.TARGET, "critic_target", "a helper for both"),
    Case(exhausted_generator_stops_the_target, Verdict.TARGET, "q_target", "generators", Q_EVERY),
    Case(target_inside_the_optimizer, Verdict.TARGET, "q_target", "missing detach", Q_LOOSE),
    Case(target_trained_and_averaged, Verdict.TARGET, "q_target", "missing detach, no contract"),
    Case(wrong_owner, Verdict.MISOWNED, "encoder", "the quick card, sidestepped", OWNERS),
)
