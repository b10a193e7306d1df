"""A contract holds only if it holds in each recorded step; delayed updates are declared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow import Contract, Loss, PeriodicAudit, Report, Target, Verdict
from tests.gradient_flow import corpus_gradients
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

STEPS = 5


class ActorCritic:
    """Shared encoder, critic that is frozen while the actor's loss passes it, delayed actor."""

    def __init__(
        self,
        freeze: Callable[[nn.Module], None],
        unfreeze: Callable[[nn.Module], None],
        actor_every: int = 1,
    ) -> None:
        self.encoder, self.critic, self.actor = encoder(), Critic(), head()
        self.critic_opt, self.actor_opt = adam(self.critic, self.encoder), adam(self.actor)
        self.freeze, self.unfreeze, self.actor_every = freeze, unfreeze, actor_every
        self.turns = itertools.count()

    def step(self) -> None:
        obs, action, value = batch()
        features = self.encoder(obs)
        self.critic_opt.zero_grad()
        critic_loss = mse_loss(self.critic(features, action), value)
        critic_loss.backward()
        self.critic_opt.step()
        if next(self.turns) % self.actor_every:
            return
        self.freeze(self.critic)
        self.actor_opt.zero_grad()
        features = features.detach()
        actor_loss = -self.critic(features, self.actor(features)).mean()
        actor_loss.backward()
        self.actor_opt.step()
        self.unfreeze(self.critic)

    @property
    def loop(self) -> Loop:
        modules = {"encoder": self.encoder, "critic": self.critic, "actor": self.actor}
        return Loop(modules, {"critic": self.critic_opt, "actor": self.actor_opt}, self.step)


def switch(on: bool) -> Callable[[nn.Module], None]:
    return lambda module: module.requires_grad_(on) and None


def exhausted_switch(module: nn.Module) -> Callable[[nn.Module], None]:
    """Means to switch a module's parameters on; its generator is empty from the second call on."""
    parameters = module.parameters()

    def use(_: nn.Module) -> None:
        for parameter in parameters:
            parameter.requires_grad_(True)

    return use


def nothing(module: nn.Module) -> None:
    return None


def contract(**actor: Any) -> Contract:
    return Contract(
        losses={
            "critic_loss": Loss(drives=("critic", "encoder")),
            "actor_loss": Loss(drives=("actor",), passes=("critic",), **actor),
        },
        owners={"encoder": "critic", "critic": "critic", "actor": "actor"},
    )


def broken(report: Report) -> set[tuple[Verdict, str | None, str]]:
    return {(finding.verdict, finding.loss, finding.module) for finding in report.broken}


def test_frozen_and_unfrozen_again_is_kept() -> None:
    report = record_steps(ActorCritic(switch(False), switch(True)).loop, STEPS).report(contract())
    assert report.ok, str(report)
    assert not report.notes
    cell = report.cell("critic_loss", "critic")
    assert cell is not None
    assert cell.agreeing == (1, 2, 3, 4, 5)


@pytest.mark.parametrize("with_generator", [False, True])
def test_an_unfreeze_that_was_forgotten_is_broken(with_generator: bool) -> None:
    agent = ActorCritic(switch(False), nothing)
    driven = (1,)
    if with_generator:
        agent.unfreeze = exhausted_switch(agent.critic)
        driven = (1, 2)
    report = record_steps(agent.loop, STEPS).report(contract())
    assert broken(report) == {(Verdict.FROZEN, "critic_loss", "critic")}, str(report)
    cell = report.cell("critic_loss", "critic")
    assert cell is not None
    assert cell.agreeing == driven
    assert f"in {STEPS - len(driven)} of {STEPS}" in report.broken[0].message
    assert f"{len(driven)}/{STEPS}" in str(report)  # beside the pair's verdict
    # Without a contract it looks like a delayed update: a note.
    undeclared = record_steps(ActorCritic(switch(False), nothing).loop, STEPS).report()
    assert undeclared.ok
    notes = {(finding.verdict, finding.module) for finding in undeclared.notes}
    assert (Verdict.FROZEN, "critic") in notes


def test_frozen_in_the_first_step_only_is_broken() -> None:
    agent = ActorCritic(nothing, switch(True))
    agent.encoder.requires_grad_(False)
    step = agent.step

    def unfreezes_late() -> None:
        step()
        agent.encoder.requires_grad_(True)

    tape = record_steps(agent.loop._replace(step=unfreezes_late), STEPS)
    report = tape.report(contract())
    assert broken(report) == {(Verdict.FROZEN, "critic_loss", "encoder")}, str(report)
    assert f"in 1 of {STEPS}" in report.broken[0].message
    assert report.states["encoder"] is Verdict.DRIVEN


def test_one_layer_frozen_in_some_steps_is_broken() -> None:
    agent = ActorCritic(nothing, nothing)
    step, turns = agent.step, itertools.count()

    def freezes_a_layer() -> None:
        agent.critic.net[0].requires_grad_(next(turns) < 3)
        step()

    tape = record_steps(agent.loop._replace(step=freezes_a_layer), STEPS)
    report = tape.report(contract())
    assert broken(report) == {(Verdict.FROZEN, "critic_loss", "critic")}, str(report)
    assert report.broken[0].parameters == ("net.0.weight", "net.0.bias")


def test_without_marks_the_recording_is_one_step() -> None:
    tape = record_steps(ActorCritic(switch(False), nothing).loop, STEPS, marked=False)
    assert tape.recording.step_count == 1
    assert tape.report(contract()).ok


@pytest.mark.parametrize(("actor_every", "declared"), [(2, 2), (3, 3), (2, 3), (1, 2)])
def test_a_delayed_update_that_is_declared_is_kept(actor_every: int, declared: int) -> None:
    agent = ActorCritic(switch(False), switch(True), actor_every)
    report = record_steps(agent.loop, STEPS).report(contract(every=declared))
    assert report.ok, str(report)


@pytest.mark.parametrize(("actor_every", "declared"), [(2, 1), (3, 2)])
def test_an_update_that_comes_too_rarely_is_broken(actor_every: int, declared: int) -> None:
    agent = ActorCritic(switch(False), switch(True), actor_every)
    tape = record_steps(agent.loop, STEPS)
    assert tape.report().ok
    report = tape.report(contract(every=declared))
    assert broken(report) == {(Verdict.STARVED, "actor_loss", "actor")}, str(report)


def test_a_loss_that_could_not_have_had_its_turn_is_a_note() -> None:
    agent = ActorCritic(switch(False), switch(True), 3)
    next(agent.turns)
    report = record_steps(agent.loop, 2).report(contract(every=3))
    assert report.ok, str(report)
    assert [(f.verdict, f.loss) for f in report.notes if f.loss == "actor_loss"] == [
        (Verdict.STARVED, "actor_loss")
    ]
    audit = PeriodicAudit(agent.loop.modules, agent.loop.optimizers, 1, contract(every=3))
    with audit.step(0):  # the actor's turn
        agent.step()
    assert audit.metrics()["broken"] == 0


def td3(actor_every: int) -> Loop:
    """TD3: the targets follow with the actor."""
    critic, actor = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    critic_target, actor_target = nn.Linear(OBS + ACTION, 1), nn.Linear(OBS, ACTION)
    critic_opt, actor_opt = adam(critic), adam(actor)
    turns = itertools.count()

    def step() -> None:
        obs, action, reward = batch()
        with torch.no_grad():
            acted = actor_target(obs)
            goal = reward + 0.9 * critic_target(torch.cat([obs, acted], -1))
        critic_opt.zero_grad()
        critic_loss = mse_loss(critic(torch.cat([obs, action], -1)), goal)
        critic_loss.backward()
        critic_opt.step()
        if next(turns) % actor_every == 0:
            actor_opt.zero_grad()
            actor_loss = -critic(torch.cat([obs, actor(obs)], -1)).mean()
            actor_loss.backward()
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


def test_td3_keeps_its_contract() -> None:
    terms = Contract.from_dict(
        {
            "losses": {
                "critic_loss": {"drives": ["critic"]},
                "actor_loss": {"drives": ["actor"], "passes": ["critic"], "every": 2},
            },
            "targets": {
                "critic_target": {"of": "critic", "every": 2},
                "actor_target": {"of": "actor", "every": 1},
            },
        }
    )
    report = record_steps(td3(2), 4).report(terms)
    assert report.ok, str(report)
    assert not record_steps(td3(4), 4).report(terms).ok


@pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
def test_an_interval_that_is_none_is_refused(every: Any) -> None:
    with pytest.raises(AuditError, match="every"):
        Contract.from_dict({"losses": {"actor": {"drives": ["actor"], "every": every}}})


@pytest.mark.parametrize("marked", [True, False])
def test_gradients_that_are_accumulated_over_steps_are_kept(marked: bool) -> None:
    policy, turns = nn.Linear(OBS, ACTION), itertools.count(1)
    optimizer = adam(policy)

    def step() -> None:
        obs, action, _ = batch()
        policy_loss = mse_loss(policy(obs), action)
        policy_loss.backward()
        if next(turns) % 2 == 0:
            optimizer.step()
            optimizer.zero_grad()

    tape = record_steps(Loop({"policy": policy}, {"policy": optimizer}, step), 5, marked=marked)
    report = tape.report(Contract(losses={"policy_loss": Loss(("policy",))}))
    assert report.ok, str(report)


def test_exact_zeros_and_overflows_now_and_then_are_kept() -> None:
    policy, turns = nn.Linear(OBS, 1), itertools.count()
    optimizer = adam(policy)

    def step() -> None:
        obs, _, _ = batch()
        factor = (1.0, 0.0, float("inf"))[next(turns) % 3]
        optimizer.zero_grad()
        policy_loss = (factor * policy(obs)).square().mean()
        policy_loss.backward()
        assert policy.weight.grad is not None
        if torch.isfinite(policy.weight.grad).all():  # what a gradient scaler does
            optimizer.step()

    tape = record_steps(Loop({"policy": policy}, {"policy": optimizer}, step), STEPS)
    report = tape.report(Contract(losses={"policy_loss": Loss(("policy",))}))
    assert report.ok, str(report)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("tensor_rate", [True, False])
def test_a_learning_rate_of_zero_is_a_note(marked: bool, tensor_rate: bool) -> None:
    agent = ActorCritic(switch(False), switch(True))
    for group in agent.critic_opt.param_groups:
        group["lr"] = torch.tensor(0.0) if tensor_rate else 0.0
    report = record_steps(agent.loop, 3, marked=marked).report(contract())
    assert report.ok, str(report)
    notes = {(f.verdict, f.module) for f in report.notes}
    assert {(Verdict.FROZEN, "critic"), (Verdict.FROZEN, "encoder")} <= notes
    # And an owner that steps at another rate and moves nothing is broken.
    stuck = ActorCritic(switch(False), switch(True))
    for group in stuck.critic_opt.param_groups:
        group["lr"] = 1e-30
    report = record_steps(stuck.loop, 3, marked=marked).report(contract())
    assert {(f.verdict, f.module) for f in report.broken} == {
        (Verdict.FROZEN, "critic"),
        (Verdict.FROZEN, "encoder"),
    }


def test_a_rate_that_warms_up_from_zero_is_kept() -> None:
    agent = ActorCritic(switch(False), switch(True))
    step, turns = agent.step, itertools.count()

    def warms_up() -> None:
        agent.critic_opt.param_groups[0]["lr"] = 1e-3 * next(turns)
        step()

    report = record_steps(agent.loop._replace(step=warms_up), STEPS).report(contract())
    assert report.ok, str(report)


def test_every_target_update_belongs_to_the_step_that_made_it() -> None:
    q, q_target = nn.Linear(FEATURES, 1), nn.Linear(FEATURES, 1)
    optimizer = adam(q)

    def step() -> None:
        optimizer.zero_grad()
        q_loss = q(torch.randn(4, FEATURES)).square().mean()
        q_loss.backward()
        optimizer.step()
        polyak(q_target, q)

    tape = record_steps(Loop({"q": q, "q_target": q_target}, {"q": optimizer}, step), STEPS)
    terms = Contract(losses={"q_loss": Loss(("q",))}, targets={"q_target": Target("q", every=1)})
    report = tape.report(terms)
    assert report.ok, str(report)
    assert report.movement["(outside)", "q_target"].times == STEPS


def test_a_gradient_that_waits_at_the_end_does_not_count_against_the_steps() -> None:
    # The last step's gradient would be cleared by the next step.
    report = record_steps(corpus_gradients.step_forgotten(), 3).report()
    (finding,) = report.broken
    assert (finding.verdict, finding.module) == (Verdict.DISCARDED, "policy")
    assert "of 3" not in finding.message
    assert [cell.agreeing for cell in report.cells] == [(1, 2, 3), (1, 2, 3)]
