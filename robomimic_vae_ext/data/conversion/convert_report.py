"""What a conversion added, left out, changed and decided: for each demonstration and in total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robomimic_vae_ext.data.hdf5 import list_names


@dataclass(frozen=True)
class DemoReport:
    """What was done to one demonstration.

    Args:
        name: of the demonstration.
        transitions: of the new file.
        added: names of arrays that were missing.
        changed: what was set to other values.
        clipped: number of action values that were outside [-1, 1].
        dropped: number of transitions without a next observation that were left out.
        surplus: names of arrays whose row after the last transition was left out.
        skipped: names of groups inside obs, which robomimic does not read, left out.
    """

    name: str
    transitions: int
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    clipped: int = 0
    dropped: int = 0
    surplus: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return what was done, without names and numbers that differ between demonstrations."""
        parts = [
            f"added {list_names(self.added)}" if self.added else "",
            *self.changed,
            "actions clipped" if self.clipped else "",
            "last transition left out" if self.dropped else "",
            f"surplus rows of {list_names(self.surplus)} left out" if self.surplus else "",
            f"groups {list_names(self.skipped)} left out" if self.skipped else "",
        ]
        return "; ".join(part for part in parts if part) or "copied as it is"


@dataclass(frozen=True)
class ConvertReport:
    """Result of a conversion.

    Args:
        path: of the new file.
        each: what was done to each demonstration.
        decisions: how it was decided, and by which flag to decide otherwise.
        versions: robosuite version of `env_args` before and after.
    """

    path: Path
    each: tuple[DemoReport, ...]
    decisions: tuple[str, ...]
    versions: tuple[str, str]

    @property
    def demos(self) -> int:
        """Number of demonstrations."""
        return len(self.each)

    @property
    def transitions(self) -> int:
        """Number of transitions of the new file."""
        return sum(demo.transitions for demo in self.each)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the arrays that were missing in at least one demonstration."""
        return tuple(sorted({name for demo in self.each for name in demo.added}))

    @property
    def clipped(self) -> int:
        """Number of action values that were outside [-1, 1]."""
        return sum(demo.clipped for demo in self.each)

    @property
    def dropped(self) -> int:
        """Number of transitions without a next observation that were left out."""
        return sum(demo.dropped for demo in self.each)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of arrays with rows, and of groups, that the new file does not have."""
        return tuple(sorted({name for it in self.each for name in (*it.surplus, *it.skipped)}))

    def describe(self) -> str:
        """Return lines for the terminal: the total, the decisions, and groups of demonstrations."""
        before, after = self.versions
        env_args = f"from robosuite {before} to {after}" if before != after else "as they were"
        lines = [
            f"{self.path}: {self.demos} demonstrations, {self.transitions} transitions, added "
            f"{', '.join(self.added) or 'nothing'}; {self.clipped} action values clipped, "
            f"{self.dropped} final transitions without a next observation left out, everything "
            f"else copied; env_args {env_args}"
        ]
        lines += [f"  decided: {decision}" for decision in self.decisions]
        lines += [f"  {list_names(names)}: {what}" for what, names in _group(self.each).items()]
        return "\n".join(lines)


def _group(each: Sequence[DemoReport]) -> Mapping[str, list[str]]:
    """Demonstrations to which the same was done."""
    groups: dict[str, list[str]] = {}
    for demo in each:
        groups.setdefault(demo.describe(), []).append(demo.name)
    return groups
