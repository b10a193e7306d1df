"""Bugs in a part: of a module's parameters, of the losses of one line, of a round's calls."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import mse_loss

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


def half_of_the_encoder_in_the_vae_optimizer() -> Loop:
    enc, critic, vae = nn.Sequential(encoder(), nn.Linear(FEATURES, FEATURES)), Critic(), head()
    critic_opt, vae_opt = adam(critic, enc[1]), adam(vae, enc[0])

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        vae_opt.zero_grad()  # BUG
        vae_loss = mse_loss(vae(enc(obs).detach()), action)
        vae_loss.backward()
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def half_of_the_encoder_has_another_owner() -> Loop:
    enc, critic, vae = nn.Sequential(encoder(), nn.Linear(FEATURES, FEATURES)), Critic(), head()
    critic_opt, vae_opt = adam(critic, enc[1]), adam(vae, enc[0])

    def step() -> None:
        obs, action, value = batch()
        features = enc(obs)
        critic_opt.zero_grad()
        vae_opt.zero_grad()
        critic_loss = mse_loss(critic(features, action), value)
        critic_loss.backward()
        vae_loss = mse_loss(vae(features.detach()), action)
        vae_loss.backward()
        critic_opt.step()
        vae_opt.step()  # BUG

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def last_layer_of_the_encoder_in_the_vae_optimizer() -> Loop:
    enc, critic, vae = nn.Sequential(encoder(), nn.Linear(FEATURES, FEATURES)), Critic(), head()
    critic_opt, vae_opt = adam(critic, enc[0]), adam(vae, enc[1])

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()  # BUG
        critic_opt.step()
        vae_opt.zero_grad()
        vae_loss = mse_loss(vae(enc(obs).detach()), action)
        vae_loss.backward()
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def left_over_that_the_owner_adds_to_its_own() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic, enc), adam(vae)

    def step() -> None:
        obs, action, value = batch()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        critic_opt.zero_grad()
        vae_loss = mse_loss(vae(enc(obs)), action)  # no detach
        vae_loss.backward()  # BUG
        vae_opt.step()
        vae_opt.zero_grad()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


def encoder_in_the_vae_optimizer_weights_normalized() -> Loop:
    enc, critic, vae = nn.Sequential(nn.Linear(OBS, FEATURES)), Critic(), head()
    critic_opt, vae_opt = adam(critic), adam(vae, enc)

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        with torch.no_grad():  # while the critic's gradient waits, but not by it
            enc[0].weight.div_(enc[0].weight.norm(dim=1, keepdim=True))
        vae_opt.zero_grad()  # BUG
        vae_loss = mse_loss(vae(enc(obs)), action)
        vae_loss.backward()
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


class TwoBranches(nn.Module):
    """An encoder whose image branch is cut off inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.state = nn.Linear(OBS, FEATURES), nn.Linear(OBS, FEATURES)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.image(obs).detach(), self.state(obs)], -1)


def one_branch_is_detached_inside_the_encoder() -> Loop:
    enc, critic = TwoBranches(), nn.Linear(2 * FEATURES, 1)
    optimizer = adam(critic, enc)

    def step() -> None:
        obs, _, value = batch()
        optimizer.zero_grad()
        critic_loss = mse_loss(critic(enc(obs)), value)
        critic_loss.backward()  # BUG
        optimizer.step()

    return Loop({"encoder": enc, "critic": critic}, {"critic": optimizer}, step)


def losses_of_one_line() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    optimizers = {"critic": adam(critic), "vae": adam(vae, enc)}

    def step() -> None:
        obs, action, value = batch()
        losses = {
            "critic": mse_loss(critic(enc(obs), action), value),
            "vae": mse_loss(vae(enc(obs)), action),
        }
        for name, loss in losses.items():
            optimizers[name].zero_grad()  # BUG
            loss.backward()
            optimizers[name].step()

    return Loop({"encoder": enc, "critic": critic, "vae": vae}, optimizers, step)


def the_first_critic_of_two_owns_the_encoder() -> Loop:
    enc, critics = encoder(), [Critic(), Critic()]
    optimizers = [adam(critics[0], enc), adam(critics[1])]

    def step() -> None:
        obs, action, value = batch()
        for critic, optimizer in zip(critics, optimizers, strict=True):
            optimizer.zero_grad()  # BUG
            mse_loss(critic(enc(obs), action), value).backward()
            optimizer.step()

    return Loop({"encoder": enc, "critic": critics}, {"critic": optimizers}, step)


def zero_grad_before_every_micro_batch() -> Loop:
    policy = nn.Linear(OBS, ACTION)
    optimizer = adam(policy)

    def step() -> None:
        for _ in range(4):
            obs, action, _ = batch()
            optimizer.zero_grad()  # BUG
            mse_loss(policy(obs), action).backward()
        optimizer.step()

    return Loop({"policy": policy}, {"policy": optimizer}, step)


def reconstruction_gradient_written_by_hand() -> Loop:
    enc, critic, vae = encoder(), Critic(), head()
    critic_opt, vae_opt = adam(critic), adam(vae, enc)
    parameters = [*enc.parameters(), *vae.parameters()]

    def step() -> None:
        obs, action, value = batch()
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(enc(obs), action), value)
        critic_loss.backward()
        critic_opt.step()
        vae_opt.zero_grad()  # BUG
        gradients = torch.autograd.grad(mse_loss(vae(enc(obs)), action), parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clamp(-0.1, 0.1)
        vae_opt.step()

    return critic_and_vae(enc, critic, vae, critic_opt, vae_opt, step)


OWNERS = Contract(
    losses={"critic": Loss(("critic", "encoder")), "vae": Loss(("vae",))},
    owners={"encoder": "critic", "critic": "critic", "vae": "vae"},
)
DRIVES = Contract(losses=OWNERS.losses)
PASSES = Contract(losses={**OWNERS.losses, "vae": Loss(("vae",), passes=("encoder",))})
CRITIC = Contract(losses={"critic": Loss(("critic", "encoder"))})

CASES = (
    Case(half_of_the_encoder_in_the_vae_optimizer, Verdict.DISCARDED, "encoder", "the quick card"),
    Case(
        encoder_in_the_vae_optimizer_weights_normalized,
        Verdict.DISCARDED,
        "encoder",
        "the quick card, with unit rows",
    ),
    Case(
        last_layer_of_the_encoder_in_the_vae_optimizer,
        Verdict.DISCARDED,
        "encoder",
        "the quick card, in part",
        DRIVES,
    ),
    Case(left_over_that_the_owner_adds_to_its_own, Verdict.LEAK, "encoder", "TorchRL", PASSES),
    Case(half_of_the_encoder_has_another_owner, Verdict.MISOWNED, "encoder", "split", OWNERS),
    Case(
        one_branch_is_detached_inside_the_encoder,
        Verdict.STARVED,
        "encoder",
        "detach",
        CRITIC,
    ),
    Case(losses_of_one_line, Verdict.DISCARDED, "encoder", "the quick card, in a loop"),
    Case(the_first_critic_of_two_owns_the_encoder, Verdict.DISCARDED, "encoder", "ensembles"),
    Case(reconstruction_gradient_written_by_hand, Verdict.DISCARDED, "encoder", "the quick card"),
    Case(zero_grad_before_every_micro_batch, Verdict.DISCARDED, "policy", "beginners' loops"),
)
