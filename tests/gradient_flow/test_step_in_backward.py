"""Optimizers that step inside backward, by hooks: their gradients drive, and nothing is odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from robomimic_vae_ext.gradient_flow import Contract, Loss, Verdict, record
from tests.gradient_flow.corpus_base import (
    ACTION,
    OBS,
    Loop,
    batch,
    encoder,
    head,
    record_steps,
)


def clear_by_call(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    optimizer.zero_grad()


def clear_by_hand(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> None:
    parameter.grad = None


Clear = Callable[[torch.optim.Optimizer, torch.Tensor], None]


def build(clear: Clear, kind: type[torch.optim.Optimizer] = torch.optim.Adam) -> Loop:
    """An optimizer for each parameter, as torch's tutorial on memory has it."""
    enc, policy = encoder(), head()
    modules = {"encoder": enc, "policy": policy}
    optimizers = {
        f"{name}.{inner}": kind([parameter], lr=1e-2)  # type: ignore[call-arg]
        for name, module in modules.items()
        for inner, parameter in module.named_parameters()
    }
    by_parameter = {id(o.param_groups[0]["params"][0]): o for o in optimizers.values()}

    def hook(parameter: torch.Tensor) -> None:
        by_parameter[id(parameter)].step()
        clear(by_parameter[id(parameter)], parameter)

    for module in modules.values():
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(hook)

    def step() -> None:
        obs, action, _ = batch()
        policy_loss = mse_loss(policy(enc(obs)), action)
        policy_loss.backward()

    return Loop(modules, optimizers, step)


CONTRACT = Contract(losses={"policy_loss": Loss(("policy", "encoder"))})


@pytest.mark.parametrize("clear", [clear_by_call, clear_by_hand])
@pytest.mark.parametrize("marked", [True, False])
def test_the_weights_are_driven_and_nothing_is_noted(clear: Clear, marked: bool) -> None:
    tape = record_steps(build(clear), 3, marked=marked)
    for report in (tape.report(), tape.report(CONTRACT)):
        assert report.ok, str(report)
        assert not report.notes, str(report)
        assert report.losses == ("policy_loss",)
        assert set(report.states.values()) == {Verdict.DRIVEN}
        for cell in report.cells:
            assert {gradient.fate.verdict for gradient in cell.gradients} == {Verdict.DRIVEN}
            assert cell.parameters == set(report.recording.of_module(cell.module))
    times = {by: m.times for (by, _), m in tape.report().movement.items()}
    assert times == dict.fromkeys(times, 3)
    assert len(times) == 6  # two layers of the policy, one of the encoder: weight and bias each


def test_the_norms_are_the_true_ones() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def hook(parameter: torch.Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    weight.register_post_accumulate_grad_hook(hook)
    with record({"w": weight}, {"sgd": optimizer}, keep_vectors=True) as tape:
        (weight * torch.tensor([6.0, 8.0])).sum().backward()
    report = tape.report()
    assert report.cells[0].norm == pytest.approx(10.0)  # |(6, 8)|
    assert report.movement["sgd", "w"].absolute == pytest.approx(5.0)
    (vectors,) = report.recording.vectors.values()
    assert torch.equal(vectors["w"], torch.tensor([6.0, 8.0]))


def test_a_gradient_that_is_cleared_in_its_hook_without_a_step_is_discarded() -> None:
    policy, other = nn.Linear(OBS, ACTION), nn.Linear(OBS, ACTION)
    optimizer = torch.optim.SGD([*policy.parameters(), *other.parameters()], lr=0.1)
    policy.weight.register_post_accumulate_grad_hook(lambda parameter: optimizer.zero_grad())

    def step() -> None:
        obs, action, _ = batch()
        policy_loss = mse_loss(policy(obs), action)
        policy_loss.backward()

    loop = Loop({"policy": policy}, {"policy": optimizer}, step)
    report = record_steps(loop, 2).report(Contract(losses={"policy_loss": Loss(("policy",))}))
    assert (Verdict.DISCARDED, "policy") in {(f.verdict, f.module) for f in report.broken}


def test_bit_identical() -> None:
    def trained(recorded: bool) -> list[Any]:
        torch.manual_seed(3)
        loop = build(clear_by_call)
        if recorded:
            record_steps(loop, 3)
        else:
            for _ in range(3):
                loop.step()
        return [p.detach().clone() for m in loop.modules.values() for p in m.parameters()]

    for before, after in zip(trained(False), trained(True), strict=True):
        assert torch.equal(before, after)


def test_an_exception_inside_backward_leaves_what_was_done_until_then() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.5)

    def hook(parameter: torch.Tensor) -> None:
        optimizer.step()
        raise RuntimeError("after the step")

    weight.register_post_accumulate_grad_hook(hook)
    failure = pytest.raises(RuntimeError, match="after the step")
    with record({"w": weight}, {"sgd": optimizer}) as tape, failure:
        weight.sum().backward()
    report = tape.report()
    assert report.cells[0].verdict is Verdict.DRIVEN
    assert report.movement["sgd", "w"].times == 1
