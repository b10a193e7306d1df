"""The findings of a recording: as text, as JSON, as a figure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.contract import Contract, Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.events import Moved, Recording, Stepped
from robomimic_vae_ext.gradient_flow.fates import Cell, Fates
from robomimic_vae_ext.gradient_flow.targets import is_target
from robomimic_vae_ext.gradient_flow.trace import trace
from robomimic_vae_ext.gradient_flow.verdicts import judge

_LINE_WIDTH = 100


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


OUTSIDE = "(outside)"


@dataclass(frozen=True)
class Report:
    """What was recorded and what it means. `str(report)` is the text.

    Args:
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
    def of(cls, recording: Recording, contract: Contract | None = None) -> Report:
        """Judge a recording.

        Raises:
            AuditError: nothing to judge, or a contract about modules that are not there.
        """
        fates = Fates(recording, contract)
        if not fates.losses:
            raise AuditError(
                "no backward was called in the recorded block",
                "at least one training step inside `with record(...)`",
                "Put the training step, and not only the evaluation, into the block.",
            )
        if contract is not None:
            contract.check_names(recording.modules, recording.optimizers)
        findings = judge(fates, contract)
        return cls(
            recording=recording,
            contract=contract,
            cells=fates.cells,
            losses=tuple(loss.name for loss in fates.losses),
            findings=findings,
            states={m: _state(recording, fates, contract, m) for m in recording.modules},
            movement=_movement(recording),
        )

    @property
    def broken(self) -> tuple[Finding, ...]:
        """Findings that break the contract, or are wrong in any case."""
        return tuple(f for f in self.findings if f.severity is Severity.BROKEN)

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Findings that are odd and harmless."""
        return tuple(f for f in self.findings if f.severity is Severity.NOTE)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    def cell(self, loss: str, module: str) -> Cell | None:
        """What one loss does to one module; None where it does not reach it."""
        return next((c for c in self.cells if c.loss.name == loss and c.module == module), None)

    def __str__(self) -> str:
        kind = "contract" if self.contract else "no contract given: general rules only"
        outcome = "KEPT" if self.ok else f"BROKEN ({len(self.broken)} findings)"
        parts = [
            f"gradient flow: {outcome} [{kind}]",
            _table("loss x module: gradient norm and verdict", self.losses, self._flow_rows()),
            _table("optimizer x module: ownership", self._movers(), self._owner_rows()),
            _table(
                "optimizer x module: movement per step (relative)",
                self._movers(),
                self._movement_rows(),
            ),
        ]
        for title, findings in (("broken", self.broken), ("notes", self.notes)):
            if findings:
                parts.append("\n".join([title, *(_sentence(f) for f in findings)]))
        return "\n\n".join(parts)

    def trace(self) -> str:
        """The recording step by step, one line per event."""
        return trace(self.recording, self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite become null."""
        return {
            "ok": self.ok,
            "contract": self.contract is not None,
            "seconds": round(self.recording.seconds, 3),
            "modules": {m: v.value for m, v in self.states.items()},
            "flow": [_cell_dict(cell) for cell in self.cells],
            "owners": {m: list(self.recording.module_owners(m)) for m in self.recording.modules},
            "movement": [
                {
                    "by": mover,
                    "module": module,
                    "absolute": _finite(m.absolute),
                    "relative": _finite(m.relative),
                    "times": m.times,
                }
                for (mover, module), m in self.movement.items()
            ],
            "findings": [_finding_dict(f) for f in self.findings],
        }

    def save_figure(self, path: str | Path, title: str = "") -> None:
        """Draw the flow; needs matplotlib, which nothing else here does.

        Args:
            path: file to write; the suffix chooses the format.
            title: heading of the figure.
        """
        from robomimic_vae_ext.gradient_flow.figure import draw

        draw(self, path, title)

    # -- tables ---------------------------------------------------------------------------------

    def _movers(self) -> tuple[str, ...]:
        outside = any(mover == OUTSIDE for mover, _ in self.movement)
        return (*self.recording.optimizers, *([OUTSIDE] if outside else []))

    def _flow_rows(self) -> list[tuple[str, list[str]]]:
        rows = []
        for module in self.recording.modules:
            cells = [self.cell(loss, module) for loss in self.losses]
            row = ["." if c is None else f"{c.norm:.2e} {_shout(c.verdict)}" for c in cells]
            rows.append((f"{module} [{self.states[module].value}]", row))
        return rows

    def _owner_rows(self) -> list[tuple[str, list[str]]]:
        rows = []
        for module in self.recording.modules:
            inside = self.recording.of_module(module)
            row = []
            for mover in self._movers():
                count = sum(mover in self.recording.owners.get(i, ()) for i in inside)
                whole = "owns" if count == len(inside) else f"owns {count}/{len(inside)}"
                row.append(whole if count else ".")
            rows.append((module, row))
        return rows

    def _movement_rows(self) -> list[tuple[str, list[str]]]:
        rows = []
        for module in self.recording.modules:
            moves = [self.movement.get((mover, module)) for mover in self._movers()]
            row = ["." if m is None else _travel(m) for m in moves]
            rows.append((module, row))
        return rows


def _state(recording: Recording, fates: Fates, contract: Contract | None, module: str) -> Verdict:
    """One word for a module: the worst of its cells, else what it does without a gradient."""
    verdicts = [cell.verdict for cell in fates.cells if cell.module == module]
    if Verdict.DRIVEN in verdicts:
        return Verdict.DRIVEN
    if is_target(recording, module, contract):
        return Verdict.TARGET
    for verdict in (Verdict.STALE, Verdict.DISCARDED, Verdict.ORPHAN, *verdicts):
        if verdict in verdicts:
            return verdict
    inside = recording.of_module(module)
    owned = [i for i in inside if recording.owners.get(i)]
    if any(recording.parameters[i].trainable for i in owned):
        return Verdict.STARVED
    return Verdict.FROZEN


def _movement(recording: Recording) -> dict[tuple[str, str], Movement]:
    sums: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for event in recording.events:
        if not isinstance(event, (Stepped, Moved)) or not event.moved:
            continue
        mover = event.optimizer if isinstance(event, Stepped) else OUTSIDE
        squares: dict[str, float] = {}
        for i, distance in event.moved.items():
            module = recording.parameters[i].module
            squares[module] = squares.get(module, 0.0) + distance**2
        for module, square in squares.items():
            size = event.sizes.get(module, 0.0)
            distance = math.sqrt(square)
            relative = distance / size if size else math.inf
            sums.setdefault((mover, module), []).append((distance, relative))
    return {
        key: Movement(
            sum(a for a, _ in pairs) / len(pairs), sum(r for _, r in pairs) / len(pairs), len(pairs)
        )
        for key, pairs in sums.items()
    }


def _travel(movement: Movement) -> str:
    far = math.isfinite(movement.relative)
    relative = f"{movement.relative:.1e}" if far else "from 0"
    return f"{movement.absolute:.1e} ({relative}) x{movement.times}"


def _shout(verdict: Verdict) -> str:
    """Capitals for what is wrong, so that it stands out without colour."""
    wrong = (Verdict.DISCARDED, Verdict.ORPHAN, Verdict.STALE)
    return verdict.value.upper() if verdict in wrong else verdict.value


def _table(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = max(len(name) for name, _ in rows)
    widths = [
        max([len(column), *(len(row[i]) for _, row in rows)]) for i, column in enumerate(columns)
    ]
    lines = [title]
    lines.append(
        "  ".join([" " * head, *(c.ljust(w) for c, w in zip(columns, widths, strict=True))])
    )
    for name, row in rows:
        cells = [cell.ljust(w) for cell, w in zip(row, widths, strict=True)]
        lines.append("  ".join([name.ljust(head), *cells]))
    return "\n".join(line.rstrip() for line in lines)


def _sentence(finding: Finding) -> str:
    text = f"{finding.verdict.value}: {finding.message}"
    if finding.site.frames:
        text += f" [{finding.site.trail}]"
    return textwrap.fill(
        text,
        _LINE_WIDTH,
        initial_indent="  - ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _cell_dict(cell: Cell) -> dict[str, Any]:
    return {
        "loss": cell.loss.name,
        "module": cell.module,
        "norm": _finite(cell.norm),
        "verdict": cell.verdict.value,
        "where": cell.loss.site.where,
    }


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "verdict": finding.verdict.value,
        "severity": finding.severity.value,
        "module": finding.module,
        "loss": finding.loss,
        "optimizer": finding.optimizer,
        "message": finding.message,
        "trail": [f"{f.file}:{f.line} {f.function}" for f in finding.site.frames],
        "parameters": list(finding.parameters),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
