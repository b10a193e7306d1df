"""What training is meant to do, in a few lines of plain data, and the words for what it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.events import NOWHERE, Site


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
    """One thing worth saying, with the line of code that causes it."""

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


@dataclass(frozen=True)
class Loss:
    """What one loss may do.

    Args:
        drives: modules that must move by it.
        passes: modules it may leave an unused gradient in, on its way to those it drives.
        match: text that tells this loss's backward from the others: part of a function's name or
            of a source line on the call stack. Without it: `tape.label(name)`, then the name of
            the variable or function, then the order of first appearance.
    """

    drives: tuple[str, ...]
    passes: tuple[str, ...] = ()
    match: str = ""


@dataclass(frozen=True)
class Target:
    """A slow copy.

    Args:
        of: the module it follows.
        every: steps of the source per update; None allows any number, but at least one update.
        buffers: its buffers must follow as well (BatchNorm statistics).
    """

    of: str
    every: int | None = None
    buffers: bool = False


@dataclass(frozen=True)
class Contract:
    """Which loss drives what, who owns what, what is a target, what stands still.

    A module that a loss reaches and that is neither in its `drives` nor in its `passes` is a leak.
    Names also match what lies inside: `critic` stands for `critic[0]` and `critic.trunk`.

    Args:
        losses: name -> what it may do.
        owners: module -> the one optimizer that owns it.
        targets: module -> what it follows.
        frozen: modules that must not move and that no loss may reach.
    """

    losses: Mapping[str, Loss] = field(default_factory=dict)
    owners: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, Target] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Contract:
        """Build from plain data, as it stands in JSON.

        Args:
            data: `{"losses": {"critic": {"drives": [...], "passes": [...]}}, "owners": {...},
                "targets": {"critic_target": {"of": "critic"}}, "frozen": [...]}`.

        Raises:
            AuditError: a key that no contract has.
        """
        unknown = sorted(set(data) - {"losses", "owners", "targets", "frozen"})
        if unknown:
            raise AuditError(
                f"the contract has {', '.join(unknown)}",
                "losses, owners, targets, frozen",
                "Rename or remove it.",
            )
        try:
            losses = {name: _loss(**spec) for name, spec in data.get("losses", {}).items()}
            targets = {name: Target(**spec) for name, spec in data.get("targets", {}).items()}
        except TypeError as error:
            raise AuditError(
                f"the contract holds a loss or target that cannot be read ({error})",
                "drives, passes, match for a loss; of, every, buffers for a target",
                "Correct that entry.",
            ) from error
        return cls(losses, dict(data.get("owners", {})), targets, tuple(data.get("frozen", ())))

    def check_names(self, modules: Iterable[str], optimizers: Iterable[str]) -> None:
        """Refuse a contract about things that are not there.

        Raises:
            AuditError: a module or optimizer that nobody recorded.
        """
        wanted_modules = {m for loss in self.losses.values() for m in (*loss.drives, *loss.passes)}
        wanted_modules |= {*self.owners, *self.targets, *self.frozen}
        wanted_modules |= {target.of for target in self.targets.values()}
        for kind, wanted, present in (
            ("module", wanted_modules, tuple(modules)),
            ("optimizer", set(self.owners.values()), tuple(optimizers)),
        ):
            missing = sorted(w for w in wanted if not any(covers(w, p) for p in present))
            if missing:
                raise AuditError(
                    f"the contract names the {kind} {', '.join(missing)}",
                    f"one of {', '.join(present) or 'none'}",
                    f"Correct the name, or pass that {kind} to record().",
                )


def _loss(drives: Iterable[str], passes: Iterable[str] = (), match: str = "") -> Loss:
    return Loss(tuple(drives), tuple(passes), match)


#: Between the names of modules that share a parameter, none of which lies inside another.
SHARED = "+"


def covers(pattern: str, name: str) -> bool:
    """Whether a contract's name means this module: itself, or something inside it."""
    return name == pattern or name.startswith((f"{pattern}[", f"{pattern}."))


def covered(patterns: Iterable[str], name: str) -> bool:
    """Whether any of the contract's names means this module, or one of those that share it."""
    return any(covers(pattern, part) for pattern in patterns for part in name.split(SHARED))
