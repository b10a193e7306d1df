"""The whole judgement of a recording: what the folder `show` prints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.judge.classified import Cell
from robomimic_vae_ext.gradient_flow.judge.classify import classify
from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Verdict
from robomimic_vae_ext.gradient_flow.judge.rules import apply_rules
from robomimic_vae_ext.gradient_flow.recording.events import Moved, Recording, Stepped

J = TypeVar("J", bound="Judgement")  # typing.Self needs Python 3.11

#: Takes the place of an optimizer's name where something else moved a module.
OUTSIDE = "(outside)"


@dataclass(frozen=True)
class Movement:
    """How far one optimizer (or a write outside any) moved one module.

    Args:
        absolute: norm of the change, averaged over the events that moved it.
        relative: that norm divided by the norm of the weights before.
        times: number of those events.
    """

    absolute: float
    relative: float
    times: int


@dataclass(frozen=True)
class Judgement:
    """What was recorded and what it means.

    Args:
        cells: every pair of a loss and a module that it reaches, with its verdict.
        states: module -> the one word for it: driven, target, frozen, starved, ...
        movement: (mover, module) -> how far; the mover is an optimizer or `(outside)`.
    """

    recording: Recording
    contract: Contract | None
    cells: tuple[Cell, ...]
    losses: tuple[str, ...]
    findings: tuple[Finding, ...]
    states: Mapping[str, Verdict]
    movement: Mapping[tuple[str, str], Movement]

    @classmethod
    def of(cls: type[J], recording: Recording, contract: Contract | None = None) -> J:
        """Judge a recording.

        Raises:
            AuditError: nothing to judge, or a contract about modules that are not there.
        """
        flow = classify(recording, contract)
        if not flow.losses:
            raise AuditError(
                "no backward was called in the recorded block",
                "at least one training step inside `with record(...)`",
                "Put the training step, and not only the evaluation, into the block.",
            )
        if contract is not None:
            contract.check_names(recording.modules, recording.optimizers)
        return cls(
            recording=recording,
            contract=contract,
            cells=flow.cells,
            losses=tuple(loss.name for loss in flow.losses),
            findings=apply_rules(flow),
            states={module: flow.state(module) for module in recording.modules},
            movement=_movement(recording),
        )

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Findings that break the contract, or are wrong in any case."""
        return tuple(finding for finding in self.findings if finding.is_broken)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Findings that are odd and harmless."""
        return tuple(finding for finding in self.findings if not finding.is_broken)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    def cell(self, loss: str, module: str) -> Cell | None:
        """What one loss does to one module; None where it does not reach it."""
        return next((c for c in self.cells if c.loss.name == loss and c.module == module), None)


def _movement(recording: Recording) -> dict[tuple[str, str], Movement]:
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in recording.events:
        if isinstance(event, (Stepped, Moved)):
            mover = event.optimizer if isinstance(event, Stepped) else OUTSIDE
            for module, distance in recording.per_module(event.moved).items():
                size = event.sizes.get(module, 0.0)
                relative = distance / size if size else math.inf
                found.setdefault((mover, module), []).append((distance, relative))
    return {
        key: Movement(
            absolute=sum(distance for distance, _ in pairs) / len(pairs),
            relative=sum(relative for _, relative in pairs) / len(pairs),
            times=len(pairs),
        )
        for key, pairs in found.items()
    }
