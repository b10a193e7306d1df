"""A judgement as text: three tables, then the findings."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from robomimic_vae_ext.gradient_flow.judge.classified import Cell
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Verdict
from robomimic_vae_ext.gradient_flow.judge.judgement import OUTSIDE, Judgement, Movement

_LINE_WIDTH = 100
_Rows = list[tuple[str, list[str]]]


def report_text(judgement: Judgement) -> str:
    """The whole report."""
    kind = "contract" if judgement.contract else "no contract given: general rules only"
    outcome = "KEPT" if judgement.ok else f"BROKEN ({len(judgement.broken)} findings)"
    movers = _movers(judgement)
    flow = "loss x module: gradient norm and verdict"
    if judgement.recording.step_count > 1:
        flow += f" (k/{judgement.recording.step_count}: in k of the recorded steps only)"
    parts = [
        f"gradient flow: {outcome} [{kind}]",
        _table(flow, judgement.losses, _flow_rows(judgement)),
        _table("optimizer x module: ownership", movers, _owner_rows(judgement, movers)),
        _table(
            "optimizer x module: movement per step (relative)",
            movers,
            _movement_rows(judgement, movers),
        ),
    ]
    for title, findings in (("broken", judgement.broken), ("notes", judgement.notes)):
        if findings:
            parts.append("\n".join([title, *(_bullet(finding) for finding in findings)]))
    return "\n\n".join(parts)


def _movers(judgement: Judgement) -> tuple[str, ...]:
    outside = any(mover == OUTSIDE for mover, _ in judgement.movement)
    return (*judgement.recording.optimizers, *([OUTSIDE] if outside else []))


def _flow_rows(judgement: Judgement) -> _Rows:
    rows = []
    for module in judgement.recording.modules:
        cells = [judgement.cell(loss, module) for loss in judgement.losses]
        row = [_cell_text(cell, judgement.recording.step_count) for cell in cells]
        rows.append((f"{module} [{judgement.states[module].value}]", row))
    return rows


def _cell_text(cell: Cell | None, step_count: int) -> str:
    if cell is None:
        return "."
    # Capitals for what is wrong, so that it shows without colour.
    wrong = cell.verdict in (Verdict.DISCARDED, Verdict.ORPHAN, Verdict.STALE)
    word = cell.verdict.value.upper() if wrong else cell.verdict.value
    count = len(cell.agreeing)
    return f"{cell.norm:.2e} {word}" + (f" {count}/{step_count}" if count < step_count else "")


def _owner_rows(judgement: Judgement, movers: Sequence[str]) -> _Rows:
    recording = judgement.recording
    rows = []
    for module in recording.modules:
        inside = recording.of_module(module)
        row = []
        for mover in movers:
            count = sum(mover in recording.owners.get(i, ()) for i in inside)
            whole = "owns" if count == len(inside) else f"owns {count}/{len(inside)}"
            row.append(whole if count else ".")
        rows.append((module, row))
    return rows


def _movement_rows(judgement: Judgement, movers: Sequence[str]) -> _Rows:
    rows = []
    for module in judgement.recording.modules:
        moves = [judgement.movement.get((mover, module)) for mover in movers]
        rows.append((module, ["." if move is None else _distance(move) for move in moves]))
    return rows


def _distance(movement: Movement) -> str:
    finite = math.isfinite(movement.relative)
    relative = f"{movement.relative:.1e}" if finite else "from 0"
    return f"{movement.absolute:.1e} ({relative}) x{movement.times}"


def _table(title: str, columns: Sequence[str], rows: _Rows) -> str:
    lines = [["", *columns], *([name, *row] for name, row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return "\n".join([title, *padded])


def _bullet(finding: Finding) -> str:
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
