"""Which backward calls belong to one loss, and what to call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.judge.contract import Contract
from robomimic_vae_ext.gradient_flow.recording.call_site import Frame, Site
from robomimic_vae_ext.gradient_flow.recording.events import Backward, Recording

_BACKWARD_OF = re.compile(r"(\w+)\s*\.backward\(")
_LOSS_WORD = re.compile(r"\b(\w*loss\w*)\b")
_NUMBER = re.compile(r"\[\d+\]")


class LossCalls(NamedTuple):
    """One loss: all its backward calls in the recording. `declared`: it is in the contract."""

    name: str
    site: Site
    calls: tuple[Backward, ...]
    declared: bool

    @property
    def indices(self) -> frozenset[int]:
        """Event numbers of the calls."""
        return frozenset(call.index for call in self.calls)


def group_losses(recording: Recording, contract: Contract | None) -> tuple[LossCalls, ...]:
    """Put backward calls from the same line that reach the same modules under one name.

    Args:
        contract: names the losses it knows; the others are named after their code.

    Returns:
        The losses in order of first appearance.
    """
    calls = _same_loss([event for event in recording.events if isinstance(event, Backward)])
    own = _names_from_code(calls)
    declared = _names_from_contract(calls, own, contract) if contract else [None] * len(calls)
    own = _told_apart_by_reach(calls, own)
    merged: dict[str, LossCalls] = {}
    for group, code_name, contract_name in zip(calls, own, declared, strict=True):
        name = contract_name or code_name
        known = merged[name].calls if name in merged else ()
        merged[name] = LossCalls(
            name, (known or group)[0].site, (*known, *group), contract_name is not None
        )
    return tuple(merged.values())


def _same_loss(events: Sequence[Backward]) -> list[list[Backward]]:
    """Groups of calls by label, else by the lines on the stack and by what they reach.

    `for name, loss in losses.items(): ...; loss.backward()` runs several losses on one line; they
    reach different modules. A block that calls `step()` on two lines runs each loss twice; a block
    that calls one helper on two lines may run two losses. Here, too, what the calls reach
    distinguishes them: where it is the same, the outermost line does not count.
    """
    by_lines: dict[object, list[Backward]] = {}
    for event in events:
        by_lines.setdefault(event.label or (_place(event), _families(event)), []).append(event)
    merged: dict[object, list[Backward]] = {}
    for key, group in by_lines.items():
        site = group[0].site
        if group[0].label is None and site.rooted and len(site.frames) > 1:
            reached = frozenset(module for event in group for module in event.upstream)
            inner = tuple(_line(frame) for frame in site.frames[:-1])
            key = (inner, reached, group[0].by_hand)
        merged.setdefault(key, []).extend(group)
    return list(merged.values())


def _place(call: Backward) -> object:
    return tuple(_line(frame) for frame in call.site.frames), call.by_hand


def _families(call: Backward) -> frozenset[str]:
    """Modules that the call reaches; the members of an ensemble, `critic[0]` and on, are one."""
    return frozenset(_NUMBER.sub("", module) for module in call.upstream)


def _names_from_contract(
    calls: Sequence[Sequence[Backward]], own: Sequence[str], contract: Contract
) -> list[str | None]:
    names: list[str | None] = []
    for group, code_name in zip(calls, own, strict=True):
        label = group[0].label
        fitting = [
            name
            for name, loss in contract.losses.items()
            if label == name
            or (label is None and loss.match and _mentions(group[0].site, loss.match))
            or (label is None and not loss.match and code_name in (name, f"{name}_loss"))
        ]
        names.append(fitting[0] if fitting else None)
    # What is left over goes by order, where that leaves no doubt: one by one, or, where a loss
    # reaches now this and now that (a router of experts), by the place in the code.
    unnamed = [i for i, name in enumerate(names) if name is None and calls[i][0].label is None]
    originals = [i for i in unnamed if not calls[i][0].copied]
    open_losses = [n for n, loss in contract.losses.items() if n not in names and not loss.match]
    by_place: list[object] = [_place(group[0]) for group in calls]
    for keys in ([*range(len(calls))], by_place):
        for chosen in (unnamed, originals):
            order = list(dict.fromkeys(keys[i] for i in chosen))
            if len(order) == len(open_losses):
                for i in chosen:
                    names[i] = open_losses[order.index(keys[i])]
                return names
    return names


def _mentions(site: Site, text: str) -> bool:
    return any(text in frame.function or text in frame.text for frame in site.frames)


def _names_from_code(calls: Sequence[Sequence[Backward]]) -> list[str]:
    # Calls from the same lines that reach different modules share every frame but the outermost.
    told_apart = [_telling_frame(i, calls) for i in range(len(calls))]
    names = [
        group[0].label or _name_of(group[0], depth)
        for group, depth in zip(calls, told_apart, strict=True)
    ]
    places = [_place(group[0]) for group in calls]
    for i, name in enumerate(names):
        clash = any(name == names[j] and places[i] != places[j] for j in range(len(calls)))
        if clash and calls[i][0].label is None:
            frames = calls[i][0].site.frames
            if frames:
                frame = frames[told_apart[i]]
                names[i] = f"{frame.function}:{frame.line}"
    return names


def _told_apart_by_reach(calls: Sequence[Sequence[Backward]], names: Sequence[str]) -> list[str]:
    """Losses of one line share a name: `loss[critic]` and `loss[vae]` say what each reaches."""
    found = []
    for group, name in zip(calls, names, strict=True):
        namesakes = [_families(g[0]) for g, n in zip(calls, names, strict=True) if n == name]
        common = frozenset.intersection(*namesakes)
        reached = _families(group[0])
        telling = "+".join(sorted(reached - common or reached))
        found.append(name if len(namesakes) == 1 else f"{name}[{telling}]")
    return found


def _telling_frame(index: int, calls: Sequence[Sequence[Backward]]) -> int:
    """Depth of the first frame that no other loss shares: past helpers that all of them use."""
    mine = calls[index][0].site.frames
    # Losses of the very same line share every frame; no depth can distinguish them.
    others = [g for g in calls if _place(g[0]) != _place(calls[index][0])]
    for depth, frame in enumerate(mine):
        shared = any(
            len(other[0].site.frames) > depth and _at(other, depth) == _line(frame)
            for other in others
        )
        if not shared:
            return depth
    return 0


def _at(group: Sequence[Backward], depth: int) -> tuple[str, int]:
    return _line(group[0].site.frames[depth])


def _line(frame: Frame) -> tuple[str, int]:
    return frame.file, frame.line


def _name_of(call: Backward, depth: int) -> str:
    frames = call.site.frames
    if not frames:
        return "unknown loss"
    if call.by_hand:
        return f"by hand at {frames[0].where}"
    frame = frames[depth]
    direct = _BACKWARD_OF.search(frame.text)
    if direct and direct.group(1) not in ("loss", "self", "torch", "autograd"):
        return direct.group(1)
    helper = frames[depth - 1].function if depth else ""
    words = [w for w in _LOSS_WORD.findall(frame.text) if w not in (helper, "loss")]
    # On the backward's own line such a word is the library's (mse_loss(...).backward()).
    if words and ".backward(" not in frame.text:
        return words[0]
    if frame.function != "<module>":
        return frame.function
    return "loss"
