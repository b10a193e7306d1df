"""What training is meant to do, in a few lines of plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from robomimic_vae_ext.errors import AuditError
from robomimic_vae_ext.gradient_flow.recording.events import SHARED


@dataclass(frozen=True)
class Loss:
    """What one loss may do.

    Args:
        drives: modules that it must train in every step that it runs in.
        passes: modules it may leave an unused gradient in, on its way to those it drives.
        match: text that only this loss's backward has: part of a function's name or of a source
            line on the call stack. Without it: `tape.label(name)`, then the name of
            the variable or function, then the order of first appearance.
        every: it runs at least once in this many training steps (a delayed actor: 2).
    """

    drives: tuple[str, ...]
    passes: tuple[str, ...] = ()
    match: str = ""
    every: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise AuditError(
                f"the contract has a loss with every = {self.every!r}",
                "a whole number of training steps, 1 or more",
                "Correct `every`.",
            )


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
    """Which loss drives what, who owns what, what is a target, what does not move.

    A module that a loss reaches and that is neither in its `drives` nor in its `passes` is a leak.
    Names also match what lies inside: `critic` means `critic[0]` and `critic.trunk` too.

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
        """Build from plain data, such as JSON.

        Args:
            data: `{"losses": {"critic": {"drives": [...], "passes": [...], "every": 1}},
                "owners": {...}, "targets": {"critic_target": {"of": "critic"}}, "frozen": [...]}`.

        Raises:
            AuditError: a key that no contract has, or an interval that is not a positive number.
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
                "drives, passes, match, every for a loss; of, every, buffers for a target",
                "Correct that entry.",
            ) from error
        return cls(losses, dict(data.get("owners", {})), targets, tuple(data.get("frozen", ())))

    def check_names(self, modules: Iterable[str], optimizers: Iterable[str]) -> None:
        """Refuse a contract about things that are not there.

        Raises:
            AuditError: a module or optimizer that was not recorded.
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


def _loss(
    drives: Iterable[str], passes: Iterable[str] = (), match: str = "", every: int = 1
) -> Loss:
    return Loss(tuple(drives), tuple(passes), match, every)


def covers(pattern: str, name: str) -> bool:
    """Whether a contract's name means this module: itself, or something inside it."""
    return name == pattern or name.startswith((f"{pattern}[", f"{pattern}."))


def covered(patterns: Iterable[str], name: str) -> bool:
    """Whether any of the contract's names means this module, or one of those that share it."""
    return any(covers(pattern, part) for pattern in patterns for part in name.split(SHARED))
