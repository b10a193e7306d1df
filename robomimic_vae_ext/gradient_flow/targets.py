"""Slow copies: do they move, by Polyak only, once per update, and their buffers too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from robomimic_vae_ext.gradient_flow.contract import (
    Contract,
    Finding,
    Severity,
    Target,
    Verdict,
    covers,
)
from robomimic_vae_ext.gradient_flow.events import (
    NOWHERE,
    BuffersMoved,
    Moved,
    Recording,
    Site,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.fates import Fates

_TARGET_NAME = re.compile(r"_?(?:target|ema|teacher|slow)_?", re.IGNORECASE)


def target_findings(fates: Fates, contract: Contract | None) -> Iterator[Finding]:
    """Findings on targets: those of the contract, else modules that look like one.

    Without a contract a target is a module that no optimizer owns, whose name says so
    (`critic_target`, `ema_model`) and whose source, the name without that word, is there too.
    """
    recording = fates.recording
    declared = contract is not None and bool(contract.targets)
    pairs = (
        _declared(recording, contract.targets) if contract and declared else _inferred(recording)
    )
    for name, (source, target) in pairs.items():
        yield from _by_optimizer(recording, name)
        yield from _too_rarely(recording, name, source, target, declared)
        yield from _twice(recording, name, source)
        yield from _buffers(recording, name, source, declared and target.buffers)


def is_target(recording: Recording, name: str, contract: Contract | None) -> bool:
    """Whether a module is a slow copy, by contract or by the look of it."""
    if contract is not None and contract.targets:
        return name in _declared(recording, contract.targets)
    return name in _inferred(recording)


def _declared(recording: Recording, targets: Mapping[str, Target]) -> dict[str, tuple[str, Target]]:
    found = {}
    for pattern, target in targets.items():
        for name in recording.modules:
            if covers(pattern, name):
                found[name] = (target.of + name[len(pattern) :], target)
    return found


def _inferred(recording: Recording) -> dict[str, tuple[str, Target]]:
    found = {}
    for name in recording.modules:
        source = _TARGET_NAME.sub("", name)
        if source != name and source in recording.modules and not recording.module_owners(name):
            found[name] = (source, Target(of=source))
    return found


def _source_steps(recording: Recording, source: str) -> list[Stepped]:
    """Steps that moved the source; a source unfolded into parts counts as one."""
    inside = {i for m in recording.modules if covers(source, m) for i in recording.of_module(m)}
    return [e for e in recording.events if isinstance(e, Stepped) and inside & e.moved.keys()]


def _moves(recording: Recording, name: str) -> list[Moved]:
    inside = set(recording.of_module(name))
    return [e for e in recording.events if isinstance(e, Moved) and inside & e.moved.keys()]


def _by_optimizer(recording: Recording, name: str) -> Iterator[Finding]:
    inside = set(recording.of_module(name))
    for event in recording.events:
        if isinstance(event, Stepped) and inside & event.moved.keys():
            yield _broken(
                name,
                f"{name} is a target, yet {event.optimizer}.step() at {event.site.where} moves it.",
                event.site,
                event.optimizer,
            )
            return


def _too_rarely(
    recording: Recording, name: str, source: str, target: Target, declared: bool
) -> Iterator[Finding]:
    steps = _source_steps(recording, source)
    moves = [m for m in _moves(recording, name) if steps and m.index > steps[0].index]
    due = len(steps) // (target.every or max(len(steps), 1))
    # A single step is too little to judge code that nobody has described.
    patient = not declared and len(steps) < 2
    if len(moves) >= due or not steps:
        return
    times = "never moves" if not moves else f"moves only {len(moves)} time(s)"
    message = (
        f"{name} {times}, though {source}, which it should follow, steps {len(steps)} times "
        f"(first at {steps[0].site.where})."
    )
    yield Finding(
        Verdict.TARGET,
        Severity.NOTE if patient else Severity.BROKEN,
        name,
        message,
        _last_site(moves, recording.of_module(name)) if moves else steps[0].site,
    )


def _twice(recording: Recording, name: str, source: str) -> Iterator[Finding]:
    """More than one update between two steps of the source."""
    inside = recording.of_module(name)
    steps = [e.index for e in _source_steps(recording, source)]
    if not steps:
        return
    for begin, end in zip(steps, [*steps[1:], len(recording.events)], strict=True):
        moves = [m for m in _moves(recording, name) if begin < m.index < end]
        counts = {i: sum(max(m.times[i], 1) for m in moves if i in m.moved) for i in inside}
        doubled = [i for i, count in counts.items() if count > 1]
        if doubled:
            site = _last_site(moves, doubled)
            yield _broken(
                name,
                f"{name} is updated {max(counts.values())} times for one step of {source} (again "
                f"at {site.trail}): its effective rate is not the tau that was set.",
                site,
            )
            return


def _last_site(moves: list[Moved], parameters: list[int] | tuple[int, ...]) -> Site:
    for move in reversed(moves):
        for i in parameters:
            if move.sites.get(i):
                return move.sites[i][-1]
    return NOWHERE


def _buffers(recording: Recording, name: str, source: str, required: bool) -> Iterator[Finding]:
    moved: set[str] = set()
    for event in recording.events:
        if isinstance(event, BuffersMoved):
            moved |= event.buffers.keys()
    if (
        not any(covers(source, m) for m in moved)
        or name in moved
        or not recording.buffers.get(name)
    ):
        return
    steps = _source_steps(recording, source)
    yield Finding(
        Verdict.TARGET,
        Severity.BROKEN if required else Severity.NOTE,
        name,
        f"the buffers of {name} (BatchNorm statistics) never follow those of {source}: the update "
        f"copies parameters only.",
        steps[0].site if steps else NOWHERE,
        optimizer="buffers",
    )


def _broken(name: str, message: str, site: Site, optimizer: str | None = None) -> Finding:
    return Finding(Verdict.TARGET, Severity.BROKEN, name, message, site, optimizer=optimizer)
