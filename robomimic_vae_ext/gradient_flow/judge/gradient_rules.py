"""Rules for what is wrong in any case: gradients that go astray, and weights that move wrongly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from robomimic_vae_ext.gradient_flow.judge.classified import (
    Cell,
    Classified,
    Fate,
    Gradient,
    is_nonfinite,
)
from robomimic_vae_ext.gradient_flow.judge.findings import Finding, Severity, Verdict, in_steps
from robomimic_vae_ext.gradient_flow.recording.call_site import NOWHERE, Site
from robomimic_vae_ext.gradient_flow.recording.events import (
    Backward,
    Cleared,
    Clipped,
    Recording,
    Stepped,
)


def discarded(flow: Classified) -> Iterator[Finding]:
    """Gradients that a reset throws away before the owner has stepped."""
    for cell in flow.cells:
        items = cell.judged(Verdict.DISCARDED)
        if not items:
            continue
        worst = cell.having(Fate.LOST) or cell.having(Fate.WASTED)
        doubtful = _is_doubtful(flow, cell, worst)
        message = _discard_message(flow.recording, cell, worst or items)
        if not worst and items[0].fate is Fate.PROBE:
            message += " Its backward served to move other weights by hand, as SAM does."
        elif not worst:
            message += " Other calls of the same loss do drive it."
        elif worst[0].fate is Fate.WASTED:
            message += f" Every step uses a call of {cell.loss.name} and loses others."
        if doubtful:
            message += " It may be a detach left out on purpose: a contract would decide."
        yield Finding(
            Verdict.DISCARDED,
            Severity.BROKEN if worst and not doubtful else Severity.NOTE,
            cell.module,
            message,
            _reset(flow.recording, (worst or items)[0]),
            loss=cell.loss.name,
            parameters=flow.recording.names(g.source.parameter for g in worst or items),
        )


def _is_doubtful(flow: Classified, cell: Cell, lost: Sequence[Gradient]) -> bool:
    """Whether the loss is as likely as not meant to leave a gradient there.

    In a single number, such as a temperature, that other losses merely use. And in an opponent: a
    module that is itself trained through what this loss drives (the actor through the critic, the
    generator through the discriminator) and whose output was not detached.
    """
    numel = {i: flow.recording.parameters[i].numel for i in cell.parameters}
    if set(numel.values()) == {1} or {numel[g.source.parameter] for g in lost} == {1}:
        return True
    return any(
        cell.module in flow.driven_modules(other.name) and (other.name, module) in flow.transits
        for other in flow.losses
        if other.name != cell.loss.name
        for module in flow.driven_modules(cell.loss.name)
    )


def _discard_message(recording: Recording, cell: Cell, items: Sequence[Gradient]) -> str:
    event = recording.events[items[0].source.cleared or 0]
    by_call = isinstance(event, Cleared) and event.by != "by hand"
    how = f"{event.by}.zero_grad()" if isinstance(event, Cleared) and by_call else "a reset"
    parameters = [gradient.source.parameter for gradient in items]
    owning = {name for i in parameters for name in recording.owners.get(i, ())}
    owners = " and ".join(name for name in recording.optimizers if name in owning)
    steps = tuple(sorted({gradient.step for gradient in items}))
    message = (
        f"the gradient of {cell.loss.name} reaches {recording.describe(parameters)} (norm "
        f"{cell.norm:.3g}) and is thrown away by {how} at "
        f"{_reset(recording, items[0]).where} before {owners}, its owner, has stepped with it"
    )
    undecided = {gradient.step for gradient in cell.judged(Verdict.PENDING)}
    few = len(undecided.union(steps)) < recording.step_count
    message += f", {in_steps(steps, recording.step_count)}." if few else "."
    if any(is_nonfinite(recording, gradient) for gradient in items):
        message += " It holds nan or inf, for which a gradient scaler skips the step."
    return message


def _reset(recording: Recording, gradient: Gradient) -> Site:
    cleared = gradient.source.cleared
    event = None if cleared is None else recording.events[cleared]
    return event.site if isinstance(event, Cleared) else NOWHERE


def orphans(flow: Classified) -> Iterator[Finding]:
    """Gradients in parameters that no optimizer has."""
    for cell in flow.cells:
        items = cell.having(Fate.UNOWNED)
        if not items:
            continue
        swept = all(gradient.source.cleared is not None for gradient in items)
        harmless = swept and (cell.loss.name, cell.module) in flow.transits
        names = flow.recording.names(gradient.source.parameter for gradient in items)
        total = len(flow.recording.of_module(cell.module))
        yield Finding(
            Verdict.ORPHAN,
            Severity.NOTE if harmless else Severity.BROKEN,
            cell.module,
            f"{cell.loss.name} leaves a gradient in {cell.module} (norm {cell.norm:.3g}, "
            f"{len(names)} of {total} parameters) at {cell.loss.site.where}, and no optimizer owns "
            f"it: it {'is cleared' if swept else 'piles up'} and trains nothing.",
            cell.loss.site,
            loss=cell.loss.name,
            parameters=names,
        )


def stale(flow: Classified) -> Iterator[Finding]:
    """Steps and clips that use a left-over."""
    for gradient in flow.gradients:
        if gradient.misuse is None:
            continue
        event, module = gradient.misuse.event, gradient.module
        source = f"a gradient of {gradient.loss}"
        if isinstance(event, Clipped):
            norms = flow.recording.per_module(event.norms)
            total = sum(norm**2 for norm in norms.values()) ** 0.5
            message = (
                f"{event.kind} at {event.site.where} takes {source} in {module} into its norm "
                f"({norms[module]:.3g} of {total:.3g}), though the step that follows does not use "
                f"it: what does step is scaled down by a left-over."
            )
        else:
            who = "it" if gradient.misuse.reused else "another optimizer"
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
            loss=gradient.loss,
            optimizer=event.optimizer if isinstance(event, Stepped) else None,
        )


def double_owned(flow: Classified) -> Iterator[Finding]:
    """Parameters in two optimizers, unless the one was made anew to replace the other."""
    recording = flow.recording
    shared: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for i, owners in recording.owners.items():
        if len(owners) > 1 and not _succeeds(flow, i, owners):
            shared.setdefault((recording.parameters[i].module, owners), []).append(i)
    for (module, owners), parameters in shared.items():
        steps = recording.steps_of(owners)
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
            parameters=recording.names(parameters),
        )


def _succeeds(flow: Classified, parameter: int, owners: Sequence[str]) -> bool:
    """Whether each owner took over for good from the one before: an optimizer made anew.

    The proof is a loss that the old one has stepped with, and, called again, only the new one.
    """
    uses: dict[str, list[tuple[int, int, str]]] = {owner: [] for owner in owners}
    for gradient in flow.gradients:
        source = gradient.source
        if source.parameter == parameter and source.backward >= 0:
            for index in source.used:
                step = flow.recording.events[index]
                assert isinstance(step, Stepped)
                uses[step.optimizer].append((index, source.backward, gradient.loss))
    if not all(uses.values()):
        return False
    for old, new in pairwise(sorted(owners, key=lambda owner: min(uses[owner]))):
        end = max(index for index, _, _ in uses[old])
        served = {loss for _, _, loss in uses[old]}
        again = {loss for _, backward, loss in uses[new] if backward > end}
        if min(uses[new])[0] < end or not served & again:
            return False
    return True


def drift(flow: Classified) -> Iterator[Finding]:
    """Modules that a step moved although no new gradient had come since the last one."""
    recording = flow.recording
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
        moved = {i: distance for i, distance in event.moved.items() if i in event.owned}
        for module, distance in sorted(recording.per_module(moved).items()):
            inside = recording.of_module(module)
            if reached & set(inside) or any((event.index, i) in used for i in inside):
                continue
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
