"""What the contract asks for beyond what is wrong in any case."""

from __future__ import annotations

from collections.abc import Iterator

from robomimic_vae_ext.gradient_flow.contract import (
    SHARED,
    Contract,
    Finding,
    Loss,
    Severity,
    Verdict,
    covered,
    covers,
)
from robomimic_vae_ext.gradient_flow.events import NOWHERE, Moved, Recording, Site, Stepped
from robomimic_vae_ext.gradient_flow.fates import Cell, Fates


def contract_findings(
    fates: Fates, contract: Contract, already: tuple[Finding, ...]
) -> Iterator[Finding]:
    """Breaches of the contract.

    Args:
        already: findings so far; a pair that is broken already is not reported twice.
    """
    # A gradient that should not be there at all is a leak first, whatever became of it.
    known = {
        (f.loss, f.module)
        for f in already
        if f.severity is Severity.BROKEN and f.verdict is not Verdict.DISCARDED
    }
    broken = {(f.loss, f.module) for f in already if f.severity is Severity.BROKEN}
    stuck = {f.module for f in already if f.severity is Severity.BROKEN and f.loss is None}
    yield from _leaks(fates, contract, known)
    for name, loss in contract.losses.items():
        for module in fates.recording.modules:
            if not _is_to_drive(fates.recording, loss, module):
                continue
            if (name, module) not in broken and module not in stuck:
                yield from _not_driven(fates, name, module)
    yield from _partly_starved(fates, contract)
    yield from _misowned(fates.recording, contract)
    yield from _not_frozen(fates.recording, contract)


def _leaks(
    fates: Fates, contract: Contract, known: set[tuple[str | None, str]]
) -> Iterator[Finding]:
    handed_on = {parameter for _, parameter in fates.handed_on}
    for cell in fates.cells:
        terms = contract.losses.get(cell.loss.name, Loss(drives=()))
        pair = (cell.loss.name, cell.module)
        used = any(item.used for item in cell.fates.get(Verdict.DRIVEN, ()))
        passes = () if used else terms.passes
        if covered((*terms.drives, *passes), cell.module) or pair in known:
            continue
        if all(call.copied for call in cell.loss.calls) and cell.parameters <= handed_on:
            continue  # the losses whose gradients were copied are judged themselves
        allowed = f"allows it {', '.join((*terms.drives, *terms.passes)) or 'nothing'}"
        if used and covered(terms.passes, cell.module):
            allowed = f"lets it pass {cell.module}, but a step of its owner uses this gradient"
        yield Finding(
            Verdict.LEAK,
            Severity.BROKEN,
            cell.module,
            f"{cell.loss.name} reaches {cell.module} (norm {cell.norm:.3g}) by its backward at "
            f"{cell.loss.site.where}; the contract {allowed}.",
            cell.loss.site,
            loss=cell.loss.name,
        )


def _is_to_drive(recording: Recording, loss: Loss, module: str) -> bool:
    # Without weights (an encoder of low-dimensional keys) there is nothing to drive. What two
    # modules share must be driven by a loss that is to drive both.
    parts = all(covered(loss.drives, part) for part in module.split(SHARED))
    return parts and bool(recording.of_module(module))


def _partly_starved(fates: Fates, contract: Contract) -> Iterator[Finding]:
    """Parameters that none of the losses reaches which are to drive their module.

    One branch of an encoder, detached by mistake. A gradient of exact zeros counts as reaching.
    """
    recording = fates.recording
    for module in recording.modules:
        drivers = [n for n, x in contract.losses.items() if _is_to_drive(recording, x, module)]
        calls = {loss.name: loss.calls for loss in fates.losses}
        if not drivers or any(name not in calls for name in drivers):
            continue  # a loss that had no turn is told of as such
        reached = {i for name in drivers for call in calls[name] for i in call.added}
        owned = [i for i in recording.of_module(module) if recording.owners.get(i)]
        missing = [i for i in owned if recording.parameters[i].trainable and i not in reached]
        if not missing or not reached & set(owned):  # nothing at all: `_not_driven` says so
            continue
        yield Finding(
            Verdict.STARVED,
            Severity.BROKEN,
            module,
            f"{' and '.join(drivers)} should drive {module}, but no gradient reaches "
            f"{recording.describe(missing)}.",
            calls[drivers[0]][0].site,
            loss=drivers[0],
            parameters=recording.names(missing),
        )


def _not_driven(fates: Fates, loss: str, module: str) -> Iterator[Finding]:
    cell = next((c for c in fates.cells if c.loss.name == loss and c.module == module), None)
    recording = fates.recording
    if cell is not None and cell.verdict is Verdict.DRIVEN and _has_moved(recording, module):
        passed = {item.parameter: None for item in cell.fates.get(Verdict.TRANSIT, ())}
        if not passed:
            return
        verdict, why = (
            Verdict.DISCARDED,
            f"no step uses its gradient in {recording.describe(passed)}",
        )
    else:
        verdict, why = _instead(recording, module, cell)
    calls = next((x for x in fates.losses if x.name == loss), None)
    site = calls.site if calls else NOWHERE
    owners = recording.module_owners(module)
    if verdict in (Verdict.STARVED, Verdict.FROZEN):
        site = _step_site(recording, owners) or site
    ran = "" if calls else f" {loss} never called backward in this recording."
    yield Finding(
        verdict,
        Severity.BROKEN,
        module,
        f"{loss} should drive {module}, but {why}.{ran}",
        site,
        loss=loss,
    )


def _instead(recording: Recording, module: str, cell: Cell | None) -> tuple[Verdict, str]:
    """What happened instead of `driven`."""
    inside = recording.of_module(module)
    if inside and not any(recording.parameters[i].trainable for i in inside):
        return Verdict.FROZEN, "its parameters have requires_grad=False"
    if cell is not None and cell.verdict is Verdict.DRIVEN:
        return Verdict.FROZEN, "its owner steps and moves nothing"
    if cell is not None:
        return cell.verdict, f"its gradient is {cell.verdict.value}"
    if not recording.module_owners(module):
        return Verdict.STARVED, "no gradient reaches it, and no optimizer owns it"
    return Verdict.STARVED, "no gradient of that loss reaches it"


def _misowned(recording: Recording, contract: Contract) -> Iterator[Finding]:
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
        for found, parameters in foreign.items():
            yield Finding(
                Verdict.MISOWNED,
                Severity.BROKEN,
                module,
                f"{found} owns {recording.describe(parameters)}; the contract gives it to "
                f"{' or '.join(wanted)}.",
                _step_site(recording, (found,)) or NOWHERE,
                optimizer=found,
                parameters=recording.names(parameters),
            )


def _not_frozen(recording: Recording, contract: Contract) -> Iterator[Finding]:
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
                    f"{module} should stand still, but moves at {site.where}.",
                    site,
                )
                break


def _write_site(event: Moved, inside: set[int]) -> Site:
    return next((event.sites[i][-1] for i in inside if event.sites.get(i)), NOWHERE)


def _has_moved(recording: Recording, module: str) -> bool:
    inside = set(recording.of_module(module))
    return any(
        isinstance(e, (Stepped, Moved)) and bool(inside & e.moved.keys()) for e in recording.events
    )


def _step_site(recording: Recording, owners: tuple[str, ...]) -> Site | None:
    for event in recording.events:
        if isinstance(event, Stepped) and event.optimizer in owners:
            return event.site
    return None
