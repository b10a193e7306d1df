"""Rules that turn a recording into findings: first what is wrong in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from robomimic_vae_ext.gradient_flow.contract import Contract, Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.discards import discarded
from robomimic_vae_ext.gradient_flow.events import (
    NOWHERE,
    Backward,
    Clipped,
    Contribution,
    Recording,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.fates import Fates
from robomimic_vae_ext.gradient_flow.notes import note_findings
from robomimic_vae_ext.gradient_flow.targets import target_findings
from robomimic_vae_ext.gradient_flow.terms import contract_findings

Rule = Callable[[Fates], Iterable[Finding]]


def judge(fates: Fates, contract: Contract | None) -> tuple[Finding, ...]:
    """Every finding, those that break something first.

    Args:
        fates: what became of every gradient.
        contract: what was meant; without it only what is wrong in any case is called broken.
    """
    found: list[Finding] = []
    for rule in (discarded, _orphans, _stale, _double_owned, _drift):
        found.extend(rule(fates))
    found.extend(target_findings(fates, contract))
    if contract is not None:
        found.extend(contract_findings(fates, contract, tuple(found)))
    found.extend(note_findings(fates))
    return _strongest(found)


def _strongest(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """One finding per (module, loss or optimizer, verdict), the broken one where both exist."""
    leaks = {(f.loss, f.module) for f in findings if f.verdict is Verdict.LEAK}
    weaker = (Verdict.DISCARDED, Verdict.TRANSIT, Verdict.PENDING)
    findings = [f for f in findings if f.verdict not in weaker or (f.loss, f.module) not in leaks]
    kept: dict[tuple[str, ...], Finding] = {}
    for finding in sorted(findings, key=lambda f: f.severity is Severity.NOTE):
        kept.setdefault(finding.key, finding)
    return tuple(kept.values())


def _orphans(fates: Fates) -> Iterator[Finding]:
    for cell in fates.cells:
        items = cell.fates.get(Verdict.ORPHAN, ())
        if not items:
            continue
        swept = all(item.cleared is not None for item in items)
        harmless = swept and (cell.loss.name, cell.module) in fates.transits
        names = fates.recording.names(item.parameter for item in items)
        total = len(fates.recording.of_module(cell.module))
        message = (
            f"{cell.loss.name} leaves a gradient in {cell.module} (norm {cell.norm:.3g}, "
            f"{len(names)} of {total} parameters) at {cell.loss.site.where}, and no optimizer owns "
            f"it: it {'is cleared' if swept else 'piles up'} and trains nothing."
        )
        yield Finding(
            Verdict.ORPHAN,
            Severity.NOTE if harmless else Severity.BROKEN,
            cell.module,
            message,
            cell.loss.site,
            loss=cell.loss.name,
            parameters=names,
        )


def _stale(fates: Fates) -> Iterator[Finding]:
    for use in fates.stale:
        item, event = use.contribution, use.event
        module = fates.recording.parameters[item.parameter].module
        loss = _loss_name(fates, item)
        source = f"a gradient of {loss}"
        if isinstance(event, Clipped):
            share = _share(event, fates.recording, module)
            message = (
                f"{event.kind} at {event.site.where} takes {source} in {module} into its norm "
                f"({share}), though the step that follows does not use it: what does step is "
                f"scaled down by a left-over."
            )
        else:
            who = "it" if use.reused else "another optimizer"
            message = (
                f"{event.optimizer}.step() at {event.site.where} moves {module} by {source} that "
                f"{who} had already used; a zero_grad is missing before the backward."
            )
        yield Finding(
            Verdict.STALE,
            Severity.BROKEN,
            module,
            message,
            event.site,
            loss=loss,
            optimizer=event.optimizer if isinstance(event, Stepped) else None,
        )


def _share(clip: Clipped, recording: Recording, module: str) -> str:
    total = sum(norm**2 for norm in clip.norms.values()) ** 0.5
    inside = set(recording.of_module(module))
    part = sum(norm**2 for i, norm in clip.norms.items() if i in inside) ** 0.5
    return f"{part:.3g} of {total:.3g}"


def _double_owned(fates: Fates) -> Iterator[Finding]:
    recording = fates.recording
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for i, owners in recording.owners.items():
        if len(owners) > 1 and not _succeeds(fates, i, owners):
            parameter = recording.parameters[i]
            shared.setdefault((parameter.module, owners), []).append(parameter.name)
    for (module, owners), names in shared.items():
        steps = [e for e in recording.events if isinstance(e, Stepped) and e.optimizer in owners]
        later = next((e for e in steps if e.optimizer != steps[0].optimizer), None)
        site = (later or steps[0]).site if steps else NOWHERE
        yield Finding(
            Verdict.DOUBLE_OWNED,
            Severity.BROKEN,
            module,
            f"{module} is in {len(owners)} optimizers ({', '.join(owners)}): each keeps its own "
            f"moments and steps with whatever gradient is there (second owner steps at "
            f"{site.where}).",
            site,
            optimizer=" and ".join(owners),
            parameters=tuple(names),
        )


def _succeeds(fates: Fates, parameter: int, owners: Sequence[str]) -> bool:
    """Whether each owner took over for good from the one before: an optimizer made anew.

    The proof is a loss that the old one has stepped with, and, called again, only the new one.
    """
    uses: dict[str, list[tuple[int, int, str]]] = {owner: [] for owner in owners}
    for item in fates.recording.contributions:
        if item.parameter == parameter and item.backward >= 0:
            for index in item.used:
                step = fates.recording.events[index]
                assert isinstance(step, Stepped)
                uses[step.optimizer].append((index, item.backward, _loss_name(fates, item)))
    if not all(uses.values()):
        return False
    reign = sorted(owners, key=lambda owner: min(uses[owner]))
    for old, new in pairwise(reign):
        end = max(index for index, _, _ in uses[old])
        served = {loss for _, _, loss in uses[old]}
        again = {loss for _, backward, loss in uses[new] if backward > end}
        if min(uses[new])[0] < end or not served & again:
            return False
    return True


def _drift(fates: Fates) -> Iterator[Finding]:
    """Modules that a step moved although no new gradient had come since the last one."""
    recording = fates.recording
    used = {(index, c.parameter) for c in recording.contributions for index in c.used}
    zeros: dict[str, set[int]] = {}  # optimizer -> what received exact zeros since its last step
    for event in recording.events:
        if isinstance(event, Backward):
            # A loss that is satisfied, or a head that starts at zero: reached all the same.
            still = {i for i, norm in event.added.items() if norm == 0.0}
            zeros = {name: zeros.get(name, set()) | still for name in recording.optimizers}
        if not isinstance(event, Stepped):
            continue
        reached = zeros.pop(event.optimizer, set())
        moved_modules = {recording.parameters[i].module for i in event.moved if i in event.owned}
        for module in sorted(moved_modules):
            inside = recording.of_module(module)
            if reached & set(inside) or any((event.index, i) in used for i in inside):
                continue
            distance = sum(event.moved.get(i, 0.0) ** 2 for i in inside) ** 0.5
            yield Finding(
                Verdict.DRIFT,
                Severity.BROKEN,
                module,
                f"{event.optimizer}.step() at {event.site.where} moves {module} by {distance:.3g} "
                f"without any gradient: momentum or weight decay acts on gradients that are zero "
                f"instead of None.",
                event.site,
                optimizer=event.optimizer,
            )


def _loss_name(fates: Fates, item: Contribution) -> str:
    for loss in fates.losses:
        if item.backward in loss.indices:
            return loss.name
    return "a backward before the recording"
