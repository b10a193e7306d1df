"""Rules for what is odd and harmless: notes, never failures."""

from __future__ import annotations

from collections.abc import Iterator

from robomimic_vae_ext.gradient_flow.judge.classified import Classified
from robomimic_vae_ext.gradient_flow.judge.contract_rules import steps_at_rate_zero
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Severity, Verdict, in_steps
from robomimic_vae_ext.gradient_flow.recording.call_site import NOWHERE, Site
from robomimic_vae_ext.gradient_flow.recording.events import Backward, Clipped, Recording


def transits(flow: Classified) -> Iterator[Finding]:
    """Gradients left behind on the way."""
    for cell in flow.cells:
        items = cell.judged(Verdict.TRANSIT)
        if items:
            part = cell.module
            if len(items) < len(cell.gradients):
                part = flow.recording.describe(gradient.source.parameter for gradient in items)
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


def pending(flow: Classified) -> Iterator[Finding]:
    """Gradients that no step has used yet."""
    for cell in flow.cells:
        if cell.judged(Verdict.PENDING) and not cell.judged(Verdict.DISCARDED):
            yield Finding(
                Verdict.PENDING,
                Severity.NOTE,
                cell.module,
                f"the gradient of {cell.loss.name} in {cell.module} (norm {cell.norm:.3g}) still "
                f"waits when the recording ends: accumulated for a later step, or never used. "
                f"Record more steps to decide.",
                cell.loss.site,
                loss=cell.loss.name,
            )


def starved(flow: Classified) -> Iterator[Finding]:
    """Owned parameters that no loss reaches."""
    recording = flow.recording
    reached = {contribution.parameter for contribution in recording.contributions}
    for module in recording.modules:
        owned = [i for i in recording.owned(module) if i in recording.trainable]
        missing = [i for i in owned if i not in reached]
        if missing:
            subject = module if len(missing) == len(owned) else recording.describe(missing)
            yield _about_owner(
                recording,
                Verdict.STARVED,
                module,
                f"{subject}: owned by {_owners(recording, module)}, never reached by any loss in "
                f"this recording.",
                recording.names(missing),
            )


def not_moving(flow: Classified) -> Iterator[Finding]:
    """Owned modules that are switched off, or stepped with a gradient and not moved."""
    recording = flow.recording
    steps = recording.steps_of(recording.optimizers)
    moved = {i for event in steps for i in event.moved}
    for module in recording.modules:
        owned = recording.owned(module)
        if not owned or moved.intersection(owned):
            continue
        off = tuple(recording.parameters[i].name for i in owned if i not in recording.trainable)
        owners = _owners(recording, module)
        if off:
            message = (
                f"{module}: {len(off)} of {len(owned)} parameters have requires_grad=False though "
                f"{owners} owns them; nothing can train them."
            )
        elif not any(event.with_gradient.intersection(owned) for event in steps):
            continue
        elif steps_at_rate_zero(recording, module):
            message = (
                f"{module}: {owners} steps with a learning rate of 0, which moves nothing, as "
                f"such a rate asks."
            )
        else:
            message = f"{module}: {owners} steps with a gradient and moves nothing."
        yield _about_owner(recording, Verdict.FROZEN, module, message, off)


def moving_in_some_steps(flow: Classified) -> Iterator[Finding]:
    """Owned modules that their optimizer moves in some recorded steps and not in others."""
    recording = flow.recording
    for module in recording.modules:
        inside = set(recording.owned(module))
        steps = recording.steps_of(recording.module_owners(module))
        moved = {recording.step_of(event.index) for event in steps if inside & event.moved.keys()}
        if 0 < len(moved) < recording.step_count:
            yield _about_owner(
                recording,
                Verdict.FROZEN,
                module,
                f"{module} is moved by {_owners(recording, module)} "
                f"{in_steps(tuple(sorted(moved)), recording.step_count)} only. A delayed update "
                f"looks like this, and so does a module that stays frozen by mistake; a contract "
                f"decides.",
                (),
            )


def untested_losses(flow: Classified) -> Iterator[Finding]:
    """Losses of the contract that may run less often than the recording is long."""
    recording = flow.recording
    for name, terms in flow.contract.losses.items() if flow.contract else ():
        if flow.loss(name) is None and terms.every > recording.step_count:
            yield Finding(
                Verdict.STARVED,
                Severity.NOTE,
                ", ".join(terms.drives) or "(none)",
                f"{name} runs once in {terms.every} steps and did not run in the "
                f"{recording.step_count} recorded: record at least {terms.every} to test it.",
                loss=name,
            )


def empty_clips(flow: Classified) -> Iterator[Finding]:
    """Clips that were given nothing to clip."""
    for event in flow.recording.events:
        if isinstance(event, Clipped) and not event.norms:
            yield Finding(
                Verdict.FROZEN,
                Severity.NOTE,
                "(none)",
                f"{event.kind} at {event.site.where} was given no gradient to clip: a generator "
                f"that was read before, or a reset that came too early.",
                event.site,
            )


def written_by_hand(flow: Classified) -> Iterator[Finding]:
    """Gradients that no backward call explains."""
    for event in flow.recording.events:
        if isinstance(event, Backward) and event.by_hand:
            for module in sorted({flow.recording.parameters[i].module for i in event.added}):
                yield Finding(
                    Verdict.DRIVEN,
                    Severity.NOTE,
                    module,
                    f"the gradient of {module} was written by hand near {event.site.where}, not "
                    f"by a backward call.",
                    event.site,
                )


def _owners(recording: Recording, module: str) -> str:
    return ", ".join(recording.module_owners(module))


def _about_owner(
    recording: Recording, verdict: Verdict, module: str, message: str, parameters: tuple[str, ...]
) -> Finding:
    steps = recording.steps_of(recording.module_owners(module))
    site: Site = steps[0].site if steps else NOWHERE
    return Finding(
        verdict,
        Severity.NOTE,
        module,
        message,
        site,
        optimizer=_owners(recording, module),
        parameters=parameters,
    )
