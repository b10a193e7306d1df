"""The audit during training: every N steps, as metrics and one warning."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Verdict
from robomimic_vae_ext.gradient_flow.judge.judgement import OUTSIDE
from robomimic_vae_ext.gradient_flow.recording.events import Backward
from robomimic_vae_ext.gradient_flow.show.flow_report import Report
from robomimic_vae_ext.gradient_flow.tape import record

logger = logging.getLogger(__name__)


class PeriodicAudit:
    """Records one training step in N.

    A step that is not recorded costs one comparison. A recorded one is bit-identical to an
    unrecorded one.

    Args:
        modules: as for `record`.
        optimizers: as for `record`.
        every_n_steps: record steps whose number is a multiple of this; 0 records none.
        contract: what training should do; without it the general rules apply.

    Raises:
        AuditError: a negative interval.
    """

    def __init__(
        self, modules: Any, optimizers: Any, every_n_steps: int, contract: Contract | None = None
    ) -> None:
        if every_n_steps < 0:
            raise AuditError(
                f"every_n_steps is {every_n_steps}", "0 (never) or a positive number", "Change it."
            )
        self._modules = modules
        self._optimizers = optimizers
        self._every = every_n_steps
        self._contract = contract
        self._metrics: dict[str, float] = {}
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._warned: set[tuple[str, str, str]] = set()
        self.report: Report | None = None

    def step(self, step: int) -> AbstractContextManager[None]:
        """Context for one training step; records every n-th.

        Args:
            step: number of the gradient step, from 0.
        """
        self._metrics = {}
        if self._every == 0 or step % self._every:
            return nullcontext()
        return self._recorded(step)

    def metrics(self) -> dict[str, float]:
        """What the step just taken showed; empty where it was not recorded.

        Returns:
            `<loss>/<module>/grad_norm`, `cosine/<loss>~<loss>/<module>` for losses that reach the
            same module by separate backward calls, `update_ratio/<module>` (norm of the update
            over norm of the weights), `broken` and `verdict_changes` (counts).
        """
        return dict(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        """What later metrics depend on, in plain types, for a training that is continued."""
        return {"verdicts": [[*pair, verdict.value] for pair, verdict in self._verdicts.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._verdicts = {(loss, module): Verdict(v) for loss, module, v in state["verdicts"]}

    @contextmanager
    def _recorded(self, step: int) -> Iterator[None]:
        # Tracing single writes costs most and adds least here.
        with record(self._modules, self._optimizers, keep_vectors=True, trace_writes=False) as tape:
            yield
        if not any(isinstance(event, Backward) for event in tape.recording.events):
            return
        self.report = report = tape.report(self._contract)
        broken = self._broken(report)
        self._metrics = _norms(report) | _cosines(report) | _ratios(report)
        self._metrics["broken"] = float(len(broken))
        self._metrics["verdict_changes"] = float(self._changes(report))
        self._warn(step, broken)

    def _broken(self, report: Report) -> list[Finding]:
        """Breaches, without losses that did not run in this step (a delayed actor's)."""
        return [f for f in report.broken if f.loss is None or f.loss in report.losses]

    def _changes(self, report: Report) -> int:
        """Pairs of loss and module whose verdict differs from when they were last seen."""
        now = {(cell.loss.name, cell.module): cell.verdict for cell in report.cells}
        changed = sum(
            self._verdicts.get(pair, verdict) is not verdict for pair, verdict in now.items()
        )
        self._verdicts |= now
        return changed

    def _warn(self, step: int, broken: list[Finding]) -> None:
        for finding in broken:
            if finding.key not in self._warned:
                self._warned.add(finding.key)
                logger.warning(
                    "GRADIENT FLOW BROKEN at step %d: %s: %s",
                    step,
                    finding.verdict.value,
                    finding.message,
                )


def _norms(report: Report) -> dict[str, float]:
    return {
        f"{cell.loss.name}/{cell.module}/grad_norm": cell.norm
        for cell in report.cells
        if math.isfinite(cell.norm)
    }


def _cosines(report: Report) -> dict[str, float]:
    """Cosine between the gradients that two losses bring to one module."""
    sums: dict[tuple[str, str], torch.Tensor] = {}
    for cell in report.cells:
        vectors = [
            vector
            for call in cell.loss.calls
            if (vector := report.recording.vectors.get(call.index, {}).get(cell.module)) is not None
        ]
        if vectors:
            sums[cell.loss.name, cell.module] = torch.stack(vectors).sum(dim=0)
    found = {}
    for (a, b), module in itertools.product(
        itertools.combinations(report.losses, 2), report.recording.modules
    ):
        left, right = sums.get((a, module)), sums.get((b, module))
        if left is not None and right is not None:
            cosine = float(torch.nn.functional.cosine_similarity(left, right, dim=0))
            if math.isfinite(cosine):
                found[f"cosine/{a}~{b}/{module}"] = cosine
    return found


def _ratios(report: Report) -> dict[str, float]:
    return {
        f"update_ratio/{module}": movement.relative
        for (mover, module), movement in report.movement.items()
        if mover != OUTSIDE and math.isfinite(movement.relative)
    }
