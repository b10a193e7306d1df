"""The words of a judgement: verdicts, and findings with the line of code that causes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from robomimic_vae_ext.gradient_flow.recording.call_site import NOWHERE, Site


class Verdict(Enum):
    """What one loss does to one module, or what became of a module."""

    DRIVEN = "driven"  # gradient, then a step of its owner
    DISCARDED = "discarded"  # gradient, cleared before its owner stepped
    STARVED = "starved"  # owned, never reached
    ORPHAN = "orphan"  # gradient, no owner
    LEAK = "leak"  # reached by a loss that the contract forbids
    DOUBLE_OWNED = "double-owned"  # in two optimizers
    STALE = "stale"  # stepped or clipped with another loss's left-over
    DRIFT = "drift"  # moved without a gradient: momentum, weight decay
    FROZEN = "frozen"  # does not move
    TARGET = "target"  # moves by Polyak only, once, its buffers too
    TRANSIT = "transit"  # gradient left behind on the way to a module that the loss drives
    PENDING = "pending"  # gradient that still waits when the recording ends
    MISOWNED = "misowned"  # in another optimizer than the contract says


class Severity(Enum):
    """Whether a finding breaks the contract or is only worth knowing."""

    NOTE = "note"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing to report, with the line of code that causes it.

    Args:
        loss: the loss that it is about, if one.
        optimizer: the optimizer that it is about, if one.
        parameters: names of the parameters of the module that it is about; empty means all.
    """

    verdict: Verdict
    severity: Severity
    module: str
    message: str
    site: Site = NOWHERE
    loss: str | None = None
    optimizer: str | None = None
    parameters: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Equal for the same finding in two recordings."""
        return self.verdict.value, self.module, self.loss or self.optimizer or ""

    @property
    def is_broken(self) -> bool:
        """Whether it breaks the contract, or is wrong in any case."""
        return self.severity is Severity.BROKEN


def in_steps(steps: tuple[int, ...], of: int) -> str:
    """`in 2 of 5 recorded steps (steps 1, 4)`."""
    listed = ", ".join(str(step) for step in steps[:8]) + (", ..." if len(steps) > 8 else "")
    return f"in {len(steps)} of {of} recorded steps (step{'s' * (len(steps) > 1)} {listed})"
