"""The audit during training: what it measures, when it speaks, and that it changes nothing."""

from __future__ import annotations

import logging

import pytest
import torch

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow import Contract, Loss, PeriodicAudit
from tests.gradient_flow.corpus_base import Loop
from tests.gradient_flow.corpus_gradients import (
    STRICT,
    actor_loss_leaks_into_the_critic,
    encoder_in_the_vae_optimizer,
)
from tests.gradient_flow.test_correct_loops import (
    two_losses_summed_by_two_backwards_and_two_optimizers,
)


def test_records_every_nth_step_only() -> None:
    loop = encoder_in_the_vae_optimizer()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=3)
    recorded = []
    for step in range(7):
        with audit.step(step):
            loop.step()
        recorded.append(bool(audit.metrics()))
    assert recorded == [True, False, False, True, False, False, True]


def test_zero_switches_it_off_and_negative_is_refused() -> None:
    loop = encoder_in_the_vae_optimizer()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=0)
    with audit.step(0):
        loop.step()
    assert audit.metrics() == {}
    with pytest.raises(AuditError, match="every_n_steps is -1"):
        PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=-1)


def test_a_bad_verdict_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = encoder_in_the_vae_optimizer()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=1)
    with caplog.at_level(logging.WARNING):
        for step in range(4):
            with audit.step(step):
                loop.step()
            assert audit.metrics()["broken"] == 1.0
    warnings = [r.getMessage() for r in caplog.records]
    assert len(warnings) == 1
    for name in ("step 0", "discarded", "critic_loss", "encoder"):
        assert name in warnings[0]


def test_a_change_of_verdict_is_counted() -> None:
    loop = actor_loss_leaks_into_the_critic()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=1, contract=STRICT)
    changes = []
    for step in range(4):
        if step == 2:  # the critic's optimizer loses the encoder in the middle of training
            loop.optimizers["critic"].param_groups[0]["params"] = list(
                loop.modules["critic"].parameters()
            )
        with audit.step(step):
            loop.step()
        changes.append(audit.metrics()["verdict_changes"])
    assert changes == [0.0, 0.0, 1.0, 0.0]


def test_cosine_and_norms_are_those_of_the_gradients() -> None:
    loop = two_losses_summed_by_two_backwards_and_two_optimizers()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=1)
    with audit.step(0):
        loop.step()
    metrics = audit.metrics()
    cosines = {k: v for k, v in metrics.items() if k.startswith("cosine/")}
    assert list(cosines) == [k for k in cosines if k.endswith("/encoder")]
    assert len(cosines) == 1
    assert audit.report is not None
    a, b = (v["encoder"] for v in audit.report.recording.vectors.values())
    expected = torch.dot(a, b) / (a.norm() * b.norm())
    assert next(iter(cosines.values())) == pytest.approx(float(expected), rel=1e-5)
    norms = [v for k, v in metrics.items() if k.endswith("/encoder/grad_norm")]
    assert sorted(norms) == pytest.approx(sorted([float(a.norm()), float(b.norm())]), rel=1e-5)
    assert metrics["update_ratio/encoder"] > 0


def test_known_vectors_have_known_cosine() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def step() -> None:
        optimizer.zero_grad()
        first_loss = weight[0]
        first_loss.backward()
        second_loss = weight[0] + weight[1]
        second_loss.backward()
        optimizer.step()

    audit = PeriodicAudit({"w": weight}, optimizer, every_n_steps=1)
    with audit.step(0):
        step()
    assert audit.metrics()["cosine/first_loss~second_loss/w"] == pytest.approx(0.5**0.5)
    assert audit.metrics()["first_loss/w/grad_norm"] == pytest.approx(1.0)
    assert audit.metrics()["second_loss/w/grad_norm"] == pytest.approx(2**0.5)


def test_a_loss_without_its_turn_is_no_breach() -> None:
    loop: Loop = encoder_in_the_vae_optimizer()
    contract = Contract(
        losses={
            "critic_loss": Loss(drives=("critic",), passes=("encoder",)),
            "vae_loss": Loss(drives=("vae", "encoder")),
            "actor_loss": Loss(drives=("vae",), match="a line that never runs"),
        }
    )
    audit = PeriodicAudit(loop.modules, loop.optimizers, 1, contract)
    with audit.step(0):
        loop.step()
    assert audit.report is not None
    assert {f.loss for f in audit.report.broken} == {"critic_loss", "actor_loss"}
    assert audit.metrics()["broken"] == 1.0


def test_a_validation_step_leaves_no_metrics() -> None:
    loop = encoder_in_the_vae_optimizer()
    audit = PeriodicAudit(loop.modules, loop.optimizers, every_n_steps=1)
    with audit.step(0), torch.no_grad():
        loop.modules["critic"](torch.zeros(1, 8), torch.zeros(1, 3))
    assert audit.metrics() == {}
