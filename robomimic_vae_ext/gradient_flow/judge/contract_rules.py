"""Rules for what the contract asks beyond what is wrong in any case; in each recorded step."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from robomimic_vae_ext.gradient_flow.judge.classified import Cell, Classified, Fate, is_nonfinite
from robomimic_vae_ext.gradient_flow.judge.contract import (
    Contract,
    Loss,
    covered,
    covers,
)
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Severity, Verdict, in_steps
from robomimic_vae_ext.gradient_flow.judge.loss_calls import LossCalls
from robomimic_vae_ext.gradient_flow.recording.call_site import NOWHERE, Site
from robomimic_vae_ext.gradient_flow.recording.events import SHARED, Moved, Recording, Stepped


def leaks(flow: Classified) -> Iterator[Finding]:
    """Losses that reach what they may not."""
    if flow.contract is None:
        return
    handed_on = {parameter for _, parameter in flow.handed_on}
    for cell in flow.cells:
        terms = flow.contract.losses.get(cell.loss.name, Loss(drives=()))
        used = any(gradient.source.used for gradient in cell.having(Fate.USED))
        passes = () if used else terms.passes
        if covered((*terms.drives, *passes), cell.module):
            continue
        if all(call.copied for call in cell.loss.calls) and cell.parameters <= handed_on:
            continue  # the losses whose gradients were copied are judged themselves
        allowed = f"allows it {', '.join((*terms.drives, *terms.passes)) or 'nothing'}"
        if used and covered(terms.passes, cell.module):
            allowed = f"lets it pass {cell.module}, but a step of its owner uses this gradient"
        few = len(cell.steps) < flow.recording.step_count
        when = f" {in_steps(tuple(cell.steps), flow.recording.step_count)}" if few else ""
        yield Finding(
            Verdict.LEAK,
            Severity.BROKEN,
            cell.module,
            f"{cell.loss.name} reaches {cell.module} (norm {cell.norm:.3g}){when} by its backward "
            f"at {cell.loss.site.where}; the contract {allowed}.",
            cell.loss.site,
            loss=cell.loss.name,
        )


def not_driven(flow: Classified) -> Iterator[Finding]:
    """Losses that do not train what they are to train, in some recorded step or in all."""
    recording = flow.recording
    for name, terms in flow.contract.losses.items() if flow.contract else ():
        calls = flow.loss(name)
        ran = {recording.step_of(call.index) for call in calls.calls} if calls else set()
        due = ran | _missed_turns(terms.every, ran, recording.step_count)
        for module in recording.modules:
            if not _is_to_drive(recording, terms, module):
                continue
            failed = {}
            for step in sorted(due):
                failure = _failure(flow, calls, name, module, step)
                if failure is not None:
                    failed[step] = failure
            if failed:
                yield _not_driven(flow, calls, name, module, failed)


def _missed_turns(every: int, ran: Collection[int], count: int) -> set[int]:
    """Steps of those stretches of `every` steps in which the loss never ran."""
    missed: set[int] = set()
    for begin in range(1, count - every + 2):
        stretch = range(begin, begin + every)
        if not any(step in ran for step in stretch):
            missed.update(stretch)
    return missed


def _failure(
    flow: Classified, calls: LossCalls | None, loss: str, module: str, step: int
) -> tuple[Verdict, str] | None:
    """What happened in one step instead of `driven`; None where the loss did drive the module."""
    recording, cell = flow.recording, flow.cell(loss, module)
    here = [c for c in calls.calls if recording.step_of(c.index) == step] if calls else []
    if not here:
        return Verdict.STARVED, f"{loss} never called backward"
    if cell is not None and Verdict.DRIVEN in cell.steps.values():
        if _is_excused(recording, cell, here, step):
            return None
        if cell.steps.get(step) is Verdict.DRIVEN:
            return _half_driven(recording, cell, step)
    inside = set(recording.of_module(module))
    if inside and all(inside <= call.frozen for call in here):
        return Verdict.FROZEN, "its parameters have requires_grad=False"
    if cell is not None and step in cell.steps:
        return cell.steps[step], f"its gradient is {cell.steps[step].value}"
    if not recording.module_owners(module):
        return Verdict.STARVED, "no gradient reaches it, and no optimizer owns it"
    return Verdict.STARVED, "no gradient of that loss reaches it"


def _is_excused(recording: Recording, cell: Cell, calls: Collection, step: int) -> bool:
    """Whether a loss that drives the module in other steps may be silent in this one.

    Its gradient waits for a later step (accumulation), is exactly zero (a hinge that is
    satisfied), or is not finite, so that a gradient scaler skips the step.
    """
    verdict = cell.steps.get(step)
    if verdict is None:
        inside = recording.of_module(cell.module)
        return any(i in call.added for call in calls for i in inside)
    lost = cell.judged(Verdict.DISCARDED, step)
    overflow = bool(lost) and all(is_nonfinite(recording, gradient) for gradient in lost)
    return verdict is Verdict.PENDING or (verdict is Verdict.DISCARDED and overflow)


def _half_driven(recording: Recording, cell: Cell, step: int) -> tuple[Verdict, str] | None:
    """A driven pair may still leave parameters aside, or have an owner that moves nothing."""
    passed = {gradient.source.parameter: None for gradient in cell.judged(Verdict.TRANSIT, step)}
    if passed:
        return Verdict.DISCARDED, f"no step uses its gradient in {recording.describe(passed)}"
    inside = set(recording.of_module(cell.module))
    moved = any(
        isinstance(e, (Stepped, Moved)) and inside & e.moved.keys() for e in recording.events
    )
    if not moved and not steps_at_rate_zero(recording, cell.module):
        return Verdict.FROZEN, "its owner steps and moves nothing"
    return None


def steps_at_rate_zero(recording: Recording, module: str) -> bool:
    """Whether every step with a gradient of the module was one at a learning rate of 0."""
    inside = set(recording.of_module(module))
    steps = [e for e in recording.steps_of(recording.optimizers) if inside & e.with_gradient]
    return bool(steps) and all(inside & e.with_gradient <= e.zero_rate for e in steps)


def _not_driven(
    flow: Classified,
    calls: LossCalls | None,
    loss: str,
    module: str,
    failed: dict[int, tuple[Verdict, str]],
) -> Finding:
    recording = flow.recording
    step, (verdict, why) = next(iter(failed.items()))
    site = calls.site if calls else NOWHERE
    if verdict in (Verdict.STARVED, Verdict.FROZEN):
        steps = recording.steps_of(recording.module_owners(module))
        now = [event for event in steps if recording.step_of(event.index) == step]
        site = (now or steps)[0].site if steps else site
    when = ""
    if recording.step_count > 1:
        when = f" {in_steps(tuple(failed), recording.step_count)}"
    message = f"{loss} should drive {module}, but{when} {why}."
    if calls and any(reason.endswith("never called backward") for _, reason in failed.values()):
        message += " If it runs less often on purpose, declare it with `every` in the contract."
    return Finding(verdict, Severity.BROKEN, module, message, site, loss=loss)


def _is_to_drive(recording: Recording, loss: Loss, module: str) -> bool:
    # Without weights (an encoder of low-dimensional keys) there is nothing to drive. What two
    # modules share must be driven by a loss that is to drive both.
    parts = all(covered(loss.drives, part) for part in module.split(SHARED))
    return parts and bool(recording.of_module(module))


def partly_starved(flow: Classified) -> Iterator[Finding]:
    """Parameters that none of the losses reaches which are to drive their module.

    One branch of an encoder, detached by mistake, or frozen in some of the steps. A gradient of
    exact zeros counts as reaching.
    """
    if flow.contract is None:
        return
    recording = flow.recording
    for module in recording.modules:
        names = [n for n, x in flow.contract.losses.items() if _is_to_drive(recording, x, module)]
        losses = [loss for name in names if (loss := flow.loss(name)) is not None]
        if not losses or len(losses) < len(names):
            continue  # `not_driven` reports a loss that never ran
        calls = [call for loss in losses for call in loss.calls]
        reached = {i for call in calls for i in call.added}
        owned = set(recording.owned(module))
        if not reached & owned:
            continue  # `not_driven` reports it
        missing = sorted((owned & recording.trainable) - reached)
        if missing:
            yield _partly_starved(flow, Verdict.STARVED, losses, module, missing, "")
        frozen: dict[int, frozenset[int]] = {}  # step -> what is frozen and was not reached in it
        for step in sorted({recording.step_of(call.index) for call in calls}):
            here = [call for call in calls if recording.step_of(call.index) == step]
            off = frozenset.intersection(*(call.frozen for call in here)) & owned & reached
            if off and off != owned:
                frozen[step] = off
        if frozen:
            when = f" {in_steps(tuple(frozen), recording.step_count)}"
            parameters = sorted(frozenset.union(*frozen.values()))
            yield _partly_starved(flow, Verdict.FROZEN, losses, module, parameters, when)


def _partly_starved(
    flow: Classified,
    verdict: Verdict,
    losses: list[LossCalls],
    module: str,
    parameters: list[int],
    when: str,
) -> Finding:
    why = " (requires_grad=False)" if verdict is Verdict.FROZEN else ""
    return Finding(
        verdict,
        Severity.BROKEN,
        module,
        f"{' and '.join(loss.name for loss in losses)} should drive {module}, but no gradient "
        f"reaches {flow.recording.describe(parameters)}{when}{why}.",
        losses[0].site,
        loss=losses[0].name,
        parameters=flow.recording.names(parameters),
    )


def misowned(flow: Classified) -> Iterator[Finding]:
    """Parameters in another optimizer than the contract says, or in none."""
    recording, contract = flow.recording, flow.contract or Contract()
    for module in recording.modules:
        inside = recording.of_module(module)
        wanted = [o for pattern, o in contract.owners.items() if covered((pattern,), module)]
        if not wanted or not inside:
            continue
        foreign: dict[str, list[int]] = {}
        for i in inside:
            owners = recording.owners.get(i, ())
            # Two owners of one parameter are reported as such already.
            if len(owners) == 1 and not any(covers(owner, owners[0]) for owner in wanted):
                foreign.setdefault(owners[0], []).append(i)
        if not recording.module_owners(module):
            foreign["no optimizer"] = list(inside)
        for owner, parameters in foreign.items():
            steps = recording.steps_of([owner])
            yield Finding(
                Verdict.MISOWNED,
                Severity.BROKEN,
                module,
                f"{owner} owns {recording.describe(parameters)}; the contract gives it to "
                f"{' or '.join(wanted)}.",
                steps[0].site if steps else NOWHERE,
                optimizer=owner,
                parameters=recording.names(parameters),
            )


def not_frozen(flow: Classified) -> Iterator[Finding]:
    """Modules that move although the contract says that they do not."""
    recording, contract = flow.recording, flow.contract or Contract()
    for module in recording.modules:
        if not covered(contract.frozen, module):
            continue
        inside = set(recording.of_module(module))
        for event in recording.events:
            if isinstance(event, (Stepped, Moved)) and inside & event.moved.keys():
                site = event.site if isinstance(event, Stepped) else _write_site(event, inside)
                yield Finding(
                    Verdict.DRIFT,
                    Severity.BROKEN,
                    module,
                    f"the contract freezes {module}, but it moves at {site.where}.",
                    site,
                )
                break


def _write_site(event: Moved, inside: set[int]) -> Site:
    return next((event.sites[i][-1] for i in inside if event.sites.get(i)), NOWHERE)
