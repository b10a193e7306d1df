"""Slow copies: do they move, by Polyak only, once per update, and their buffers too."""

from __future__ import annotations

import re
from collections import Counter
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

    Without a contract a target is a module whose name says so (`critic_target`, `ema_model`),
    whose source, the name without that word, is there too, and that no optimizer owns or that is
    also written outside optimizers, its source not.
    """
    recording = fates.recording
    declared = contract is not None and bool(contract.targets)
    pairs = (
        _declared(recording, contract.targets) if contract and declared else _inferred(recording)
    )
    moving = {name for name in pairs if _moves(recording, name)}
    for name, (source, target) in pairs.items():
        yield from _by_optimizer(recording, name)
        # A single step is too little to judge code that nobody has described, and where no target
        # moves, a copy every thousand steps may be due after the recording.
        patient = not declared and (len(_source_steps(recording, source)) < 2 or not moving)
        yield from _too_rarely(recording, name, source, target, patient)
        yield from _twice(recording, name, source, target)
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
        if source == name or source not in recording.modules:
            continue
        inside = set(recording.of_module(source))
        followed = any(not inside & move.moved.keys() for move in _moves(recording, name))
        if followed or not recording.module_owners(name):
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
    recording: Recording, name: str, source: str, target: Target, patient: bool
) -> Iterator[Finding]:
    steps = _source_steps(recording, source)
    moves = [m for m in _moves(recording, name) if steps and m.index > steps[0].index]
    due = len(steps) // (target.every or max(len(steps), 1))
    if len(moves) >= due or not steps:
        return
    times = "never moves" if not moves else f"moves only {len(moves)} time(s)"
    message = (
        f"{name} {times}, though {source}, which it should follow, steps {len(steps)} times "
        f"(first at {steps[0].site.where})."
    )
    if patient:
        message += " Its turn may come later: record more steps, or declare it in a contract."
    yield Finding(
        Verdict.TARGET,
        Severity.NOTE if patient else Severity.BROKEN,
        name,
        message,
        _last_site(moves, recording.of_module(name)) if moves else steps[0].site,
    )


def _twice(recording: Recording, name: str, source: str, target: Target) -> Iterator[Finding]:
    """More than one update for one step of the source.

    Where no number of steps is declared, for one step of the busiest optimizer: an actor that
    trains every second step may well have a target that follows in each.
    """
    inside = recording.of_module(name)
    steps = [e.index for e in _source_steps(recording, source)]
    if not steps:
        return
    if target.every is None:
        all_steps = [e for e in recording.events if isinstance(e, Stepped)]
        busiest, times = Counter(e.optimizer for e in all_steps).most_common(1)[0]
        if times > len(steps):
            steps = [e.index for e in all_steps if e.optimizer == busiest]
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
