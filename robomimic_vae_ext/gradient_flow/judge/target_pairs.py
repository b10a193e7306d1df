"""Which modules are slow copies, and of what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.judge.contract import Contract, Target, covers
from robomimic_vae_ext.gradient_flow.recording.events import Moved, Recording, Stepped

_TARGET_NAME = re.compile(r"_?(?:target|ema|teacher|slow)_?", re.IGNORECASE)


class TargetPair(NamedTuple):
    """A slow copy of `source`. `declared`: by the contract, not by its name."""

    source: str
    terms: Target
    declared: bool


def find_targets(recording: Recording, contract: Contract | None) -> dict[str, TargetPair]:
    """Name of each target -> its source: those of the contract, else modules that look like one.

    Without a contract a target is a module whose name says so (`critic_target`, `ema_model`),
    whose source, the name without that word, is there too, and that no optimizer owns or that is
    also written outside optimizers, its source not.
    """
    if contract is not None and contract.targets:
        return _declared(recording, contract.targets)
    return _inferred(recording)


def steps_of_source(recording: Recording, source: str) -> list[Stepped]:
    """Steps that moved the source; a source unfolded into parts counts as one."""
    inside = {i for m in recording.modules if covers(source, m) for i in recording.of_module(m)}
    return [e for e in recording.events if isinstance(e, Stepped) and inside & e.moved.keys()]


def moves_outside(recording: Recording, name: str) -> list[Moved]:
    """Writes to the module outside any optimizer."""
    inside = set(recording.of_module(name))
    return [e for e in recording.events if isinstance(e, Moved) and inside & e.moved.keys()]


def _declared(recording: Recording, targets: Mapping[str, Target]) -> dict[str, TargetPair]:
    found = {}
    for pattern, target in targets.items():
        for name in recording.modules:
            if covers(pattern, name):
                found[name] = TargetPair(target.of + name[len(pattern) :], target, True)
    return found


def _inferred(recording: Recording) -> dict[str, TargetPair]:
    found = {}
    for name in recording.modules:
        source = _TARGET_NAME.sub("", name)
        if source == name or source not in recording.modules:
            continue
        inside = set(recording.of_module(source))
        moves = moves_outside(recording, name)
        followed = any(not inside & move.moved.keys() for move in moves)
        if followed or not recording.module_owners(name):
            found[name] = TargetPair(source, Target(of=source), False)
    return found
