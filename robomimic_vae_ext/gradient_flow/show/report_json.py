"""A judgement as plain data, for JSON."""

from __future__ import annotations

import math
from typing import Any

from robomimic_vae_ext.gradient_flow.judge.classified import Cell
from robomimic_vae_ext.gradient_flow.judge.findings import Finding
from robomimic_vae_ext.gradient_flow.judge.judgement import Judgement


def report_data(judgement: Judgement) -> dict[str, Any]:
    """The whole report; numbers that are not finite become None."""
    recording = judgement.recording
    return {
        "ok": judgement.ok,
        "contract": judgement.contract is not None,
        "seconds": round(recording.seconds, 3),
        "steps": recording.step_count,
        "modules": {module: state.value for module, state in judgement.states.items()},
        "flow": [_cell(cell) for cell in judgement.cells],
        "owners": {module: list(recording.module_owners(module)) for module in recording.modules},
        "movement": [
            {
                "by": mover,
                "module": module,
                "absolute": _finite(movement.absolute),
                "relative": _finite(movement.relative),
                "times": movement.times,
            }
            for (mover, module), movement in judgement.movement.items()
        ],
        "findings": [_finding(finding) for finding in judgement.findings],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "loss": cell.loss.name,
        "module": cell.module,
        "norm": _finite(cell.norm),
        "verdict": cell.verdict.value,
        "steps": list(cell.agreeing),
        "where": cell.loss.site.where,
    }


def _finding(finding: Finding) -> dict[str, Any]:
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
