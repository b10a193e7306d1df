"""Loops whose gradients go astray: discarded, leaking, orphaned, stale."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.utils import clip_grad_norm_

from robomimic_vae_ext.gradient_flow import Contract, Loss, Verdict
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
)

SHARED = Contract(
    losses={
        "critic": Loss(drives=("critic", "encoder")),
        "actor": Loss(drives=("actor",), passes=("critic",)),
    }
)
STRICT = Contract(
    losses={"critic": Loss(drives=("critic", "encoder")), "actor": Loss(drives=("actor",))}
)


def encoder_in_the_vae_optimizer() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic), adam(vae, enc)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        vae_opt.zero_grad()  # BUG
        vae_loss = mse_loss(vae(enc(obs)), action)
        vae_loss.backward()
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def encoder_in_the_vae_optimizer_zeros_kept() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic), adam(vae, enc)

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        critic_opt.zero_grad(set_to_none=False)
        mse_loss(critic(features, action), value).backward(retain_graph=True)
        critic_opt.step()
        vae_opt.zero_grad(set_to_none=False)  # BUG
        mse_loss(vae(features), action).backward()
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def actor_loss_leaks_into_the_critic() -> Loop:
    enc, critic, actor = encoder(), Critic(), head()
    critic_opt, actor_opt = adam(critic, enc), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        features = enc(obs).detach()
        actor_opt.zero_grad()
        actor_loss = -critic(features, actor(features)).mean()
        actor_loss.backward()  # BUG
        actor_opt.step()

    modules = {"encoder": enc, "critic": critic, "actor": actor}
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def only_the_image_branch_is_detached() -> Loop:
    image, state = encoder(), encoder()
    critic, actor = nn.Linear(2 * FEATURES, 1), nn.Linear(2 * FEATURES, ACTION)
    critic_opt, actor_opt = adam(critic, image, state), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(torch.cat([image(obs), state(obs)], -1)), value)
        critic_loss.backward()
        critic_opt.step()
        actor_opt.zero_grad()
        actor_loss = mse_loss(actor(torch.cat([image(obs).detach(), state(obs)], -1)), action)
        actor_loss.backward()  # BUG
        actor_opt.step()

    modules = {"image": image, "state": state, "critic": critic, "actor": actor}
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def detach_forgotten() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic, enc), adam(vae)

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(features, action), value)
        critic_loss.backward(retain_graph=True)
        critic_opt.step()
        vae_opt.zero_grad()
        vae_loss = mse_loss(vae(enc(obs)), action)
        vae_loss.backward()  # BUG
        vae_opt.step()
        critic_opt.zero_grad()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def exhausted_generator_freezes_nothing() -> Loop:
    q1, q2, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    q_parameters = itertools.chain(q1.parameters(), q2.parameters())
    critic_opt, actor_opt = torch.optim.Adam(q_parameters), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        pair = torch.cat([obs, action], -1)
        critic_opt.zero_grad()
        critic_loss = mse_loss(q1(pair), value) + mse_loss(q2(pair), value)
        critic_loss.backward()
        critic_opt.step()
        for parameter in q_parameters:
            parameter.requires_grad_(False)
        actor_opt.zero_grad()
        actor_loss = -q1(torch.cat([obs, actor(obs)], -1)).mean()
        actor_loss.backward()  # BUG
        actor_opt.step()
        for parameter in q_parameters:
            parameter.requires_grad_(True)

    return Loop({"q1": q1, "q2": q2, "actor": actor}, {"q": critic_opt, "actor": actor_opt}, step)


def clip_over_the_shared_encoders_leftover() -> Loop:
    enc, critic, actor = encoder(), Critic(), head()
    critic_opt, actor_opt = adam(critic, enc), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic(enc(obs), action), value).backward()
        critic_opt.step()
        actor_opt.zero_grad()
        mse_loss(actor(enc(obs).detach()), action).backward()
        clip_grad_norm_([*enc.parameters(), *actor.parameters()], 0.5)  # BUG
        actor_opt.step()

    modules = {"encoder": enc, "critic": critic, "actor": actor}
    return Loop(modules, {"critic": critic_opt, "actor": actor_opt}, step)


def clip_over_a_foreign_module() -> Loop:
    critic, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    model = nn.ModuleDict({"critic": critic, "actor": actor})
    critic_opt, actor_opt = adam(critic), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic(torch.cat([obs, action], -1)), value).backward()
        critic_opt.step()
        model.zero_grad()
        (-critic(torch.cat([obs, actor(obs)], -1)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # BUG
        actor_opt.step()

    return Loop(model, {"critic": critic_opt, "actor": actor_opt}, step)


def actor_gradient_mixed_into_the_critics() -> Loop:
    critic, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    critic_opt, actor_opt = adam(critic), adam(actor)

    def step() -> None:
        obs, action, value = batch()
        mse_loss(critic(torch.cat([obs, action], -1)), value).backward()
        critic_opt.step()  # BUG
        critic_opt.zero_grad()
        (-critic(torch.cat([obs, actor(obs)], -1)).mean()).backward()
        actor_opt.step()
        actor_opt.zero_grad()

    return Loop(
        {"critic": critic, "actor": actor}, {"critic": critic_opt, "actor": actor_opt}, step
    )


def zero_grad_missing() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        mse_loss(policy(obs), action).backward()
        optimizer.step()  # BUG

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def one_backward_two_steps() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()
        optimizer.step()
        optimizer.step()  # BUG

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def zero_grad_between_backward_and_step() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        mse_loss(policy(obs), action).backward()
        optimizer.zero_grad()  # BUG
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def step_forgotten() -> Loop:
    critic, policy = nn.Linear(OBS, 1), nn.Linear(OBS, ACTION)
    critic_opt, policy_opt = adam(critic), adam(policy)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        mse_loss(critic(obs), value).backward()
        critic_opt.step()
        policy_opt.zero_grad()  # BUG
        mse_loss(policy(obs), action).backward()
        # policy_opt.step() is missing.

    modules = {"critic": critic, "policy": policy}
    return Loop(modules, {"critic": critic_opt, "policy": policy_opt}, step)


def amp_scaler_skips_every_step() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)
    scaler = torch.amp.GradScaler("cpu")

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()  # BUG
        prediction = policy(obs)
        # The root of an exact zero has no finite gradient, whatever the scale comes down to.
        smooth = (prediction - prediction.detach()).square().sum().sqrt()
        scaler.scale(mse_loss(prediction, action) + smooth).backward()
        scaler.step(optimizer)
        scaler.update()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def optimizer_over_a_copied_module() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(copy.deepcopy(policy))

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()  # BUG
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def optimizer_built_before_to() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)
    # What `.to(device)` does on backends that cannot swap storage: new parameter objects.
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    policy.to(torch.float64)
    torch.__future__.set_overwrite_module_params_on_conversion(before)

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs.double()), action.double()).backward()  # BUG
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def target_decoder_collects_for_ever() -> Loop:
    actor, decoder = nn.Linear(OBS, FEATURES), nn.Linear(FEATURES, ACTION)
    decoder_target = copy.deepcopy(decoder)
    actor_opt, vae_opt = adam(actor), adam(decoder)

    def step() -> None:
        obs, action, _ = batch()
        vae_opt.zero_grad()
        mse_loss(decoder(torch.randn(len(obs), FEATURES)), action).backward()
        vae_opt.step()
        actor_opt.zero_grad()
        decoder_target(actor(obs)).square().mean().backward()  # BUG
        actor_opt.step()
        with torch.no_grad():
            for slow, fast in zip(decoder_target.parameters(), decoder.parameters(), strict=True):
                slow.lerp_(fast, 0.05)

    modules = {"actor": actor, "decoder": decoder, "decoder_target": decoder_target}
    return Loop(modules, {"actor": actor_opt, "vae": vae_opt}, step)


def submodule_left_out_of_the_optimizer() -> Loop:
    policy = nn.Sequential(nn.Linear(OBS, FEATURES), nn.Tanh(), nn.Linear(FEATURES, ACTION))
    optimizer = torch.optim.Adam(policy[2].parameters())

    def step() -> None:
        obs, action, _ = batch()
        optimizer.zero_grad()
        mse_loss(policy(obs), action).backward()  # BUG
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


NO_Q = Contract(losses={"critic": Loss(("q1", "q2")), "actor": Loss(("actor",))})
TWO_BRANCHES = Contract(
    losses={"critic": Loss(("critic", "image", "state")), "actor": Loss(("actor",))}
)
VAE = Contract(losses={"critic": Loss(("critic", "encoder")), "vae": Loss(("vae",))})

CASES = (
    Case(encoder_in_the_vae_optimizer, Verdict.DISCARDED, "encoder", "the quick card"),
    Case(encoder_in_the_vae_optimizer_zeros_kept, Verdict.DISCARDED, "encoder", "the quick card"),
    Case(actor_loss_leaks_into_the_critic, Verdict.LEAK, "critic", "RLlib PR 65125", STRICT),
    Case(only_the_image_branch_is_detached, Verdict.LEAK, "state", "LeRobot SAC", TWO_BRANCHES),
    Case(detach_forgotten, Verdict.LEAK, "encoder", "shared encoders in general", VAE),
    Case(exhausted_generator_freezes_nothing, Verdict.LEAK, "q1", "SpinningUp PR 320", NO_Q),
    Case(clip_over_the_shared_encoders_leftover, Verdict.STALE, "encoder", "LeRobot SAC"),
    Case(clip_over_a_foreign_module, Verdict.STALE, "critic", "clip over model.parameters()"),
    Case(actor_gradient_mixed_into_the_critics, Verdict.STALE, "critic", "TorchRL 1187"),
    Case(zero_grad_missing, Verdict.STALE, "policy", "beginners' loops"),
    Case(one_backward_two_steps, Verdict.STALE, "policy", "beginners' loops"),
    Case(zero_grad_between_backward_and_step, Verdict.DISCARDED, "policy", "beginners' loops"),
    Case(step_forgotten, Verdict.DISCARDED, "policy", "beginners' loops"),
    Case(amp_scaler_skips_every_step, Verdict.DISCARDED, "policy", "mixed precision"),
    Case(optimizer_over_a_copied_module, Verdict.ORPHAN, "policy", "deepcopy before training"),
    Case(optimizer_built_before_to, Verdict.ORPHAN, "policy", "torch's own warning on .to()"),
    Case(target_decoder_collects_for_ever, Verdict.ORPHAN, "decoder_target", "LAPO's original"),
    Case(submodule_left_out_of_the_optimizer, Verdict.ORPHAN, "policy", "fine-tuning heads"),
)
