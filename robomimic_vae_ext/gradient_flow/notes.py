"""Rules for what is odd and harmless: told as notes, never as failures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from robomimic_vae_ext.gradient_flow.contract import Finding, Severity, Verdict
from robomimic_vae_ext.gradient_flow.events import (
    NOWHERE,
    Backward,
    Clipped,
    Recording,
    Site,
    Stepped,
)
from robomimic_vae_ext.gradient_flow.fates import Fates


def note_findings(fates: Fates) -> Iterator[Finding]:
    """Every note; a contract may turn the same fact into a breach elsewhere."""
    for rule in (_transits, _pending, _starved, _standing_still, _empty_clips, _own_hand):
        yield from rule(fates)


def _transits(fates: Fates) -> Iterator[Finding]:
    for cell in fates.cells:
        if Verdict.TRANSIT in cell.fates:
            filled = {item.parameter: None for item in cell.fates[Verdict.TRANSIT]}
            part = fates.recording.describe(filled) if len(cell.fates) > 1 else cell.module
            yield Finding(
                Verdict.TRANSIT,
                Severity.NOTE,
                cell.module,
                f"the backward of {cell.loss.name} at {cell.loss.site.where} also fills "
                f"{part} (norm {cell.norm:.3g}), which it does not train: harmless while "
                f"a zero_grad comes before the next backward, and computed for nothing.",
                cell.loss.site,
                loss=cell.loss.name,
            )


def _pending(fates: Fates) -> Iterator[Finding]:
    for cell in fates.cells:
        if Verdict.PENDING in cell.fates and Verdict.DISCARDED not in cell.fates:
            yield Finding(
                Verdict.PENDING,
                Severity.NOTE,
                cell.module,
                f"the gradient of {cell.loss.name} in {cell.module} (norm {cell.norm:.3g}) still "
                f"waits when the recording ends: accumulated for a later step, or never used. "
                f"Record more steps to tell.",
                cell.loss.site,
                loss=cell.loss.name,
            )


def _starved(fates: Fates) -> Iterator[Finding]:
    recording = fates.recording
    reached = {c.parameter for c in recording.contributions}
    for module in recording.modules:
        owned = [
            i
            for i in recording.of_module(module)
            if recording.owners.get(i) and recording.parameters[i].trainable
        ]
        missing = [i for i in owned if i not in reached]
        if not missing:
            continue
        owners = recording.module_owners(module)
        site = _first_step(recording, owners)
        subject = module if len(missing) == len(owned) else recording.describe(missing)
        yield Finding(
            Verdict.STARVED,
            Severity.NOTE,
            module,
            f"{subject}: owned by {', '.join(owners)}, never reached by any loss in this "
            f"recording.",
            site,
            optimizer=", ".join(owners),
            parameters=recording.names(missing),
        )


def _standing_still(fates: Fates) -> Iterator[Finding]:
    """Owned, but switched off, or stepped with a gradient and not moved."""
    recording = fates.recording
    steps = [e for e in recording.events if isinstance(e, Stepped)]
    moved = {i for e in steps for i in e.moved}
    for module in recording.modules:
        owned = [i for i in recording.of_module(module) if recording.owners.get(i)]
        off = tuple(
            recording.parameters[i].name for i in owned if not recording.parameters[i].trainable
        )
        stuck = [
            i
            for i in owned
            if i not in moved
            and any(e.moved or i in e.with_gradient for e in steps if i in e.owned)
        ]
        owners = recording.module_owners(module)
        site = _first_step(recording, owners)
        if off and not any(i in moved for i in owned):
            message = (
                f"{module}: {len(off)} of {len(owned)} parameters have requires_grad=False though "
                f"{', '.join(owners)} owns them; nothing can train them."
            )
        elif (
            owned
            and len(stuck) == len(owned)
            and any(i in e.with_gradient for e in steps for i in owned)
        ):
            message = (
                f"{module}: {', '.join(owners)} steps with a gradient and moves nothing; is its "
                f"learning rate 0?"
            )
        else:
            continue
        yield Finding(
            Verdict.FROZEN,
            Severity.NOTE,
            module,
            message,
            site,
            optimizer=", ".join(owners),
            parameters=off,
        )


def _empty_clips(fates: Fates) -> Iterator[Finding]:
    for event in fates.recording.events:
        if isinstance(event, Clipped) and not event.norms:
            yield Finding(
                Verdict.FROZEN,
                Severity.NOTE,
                "(none)",
                f"{event.kind} at {event.site.where} was given no gradient to clip: a generator "
                f"that was read before, or a reset that came too early.",
                event.site,
            )


def _own_hand(fates: Fates) -> Iterator[Finding]:
    for event in fates.recording.events:
        if isinstance(event, Backward) and event.by_hand:
            modules = {fates.recording.parameters[i].module for i in event.added}
            for module in sorted(modules):
                yield Finding(
                    Verdict.DRIVEN,
                    Severity.NOTE,
                    module,
                    f"the gradient of {module} was written by hand near {event.site.where}, not "
                    f"by a backward call.",
                    event.site,
                )


def _first_step(recording: Recording, owners: Iterable[str]) -> Site:
    for event in recording.events:
        if isinstance(event, Stepped) and event.optimizer in owners:
            return event.site
    return NOWHERE
