"""Which backward calls belong to one loss, and what to call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from robomimic_vae_ext.gradient_flow.contract import Contract
from robomimic_vae_ext.gradient_flow.events import Backward, Frame, Recording, Site

_BACKWARD_OF = re.compile(r"(\w+)\s*\.backward\(")
_LOSS_WORD = re.compile(r"\b(\w*loss\w*)\b")


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
    """Put backward calls from the same line, reached by the same callers, under one name.

    Args:
        contract: names the losses it knows; the others are named after their code.

    Returns:
        The losses in order of first appearance.
    """
    calls = _same_loss([event for event in recording.events if isinstance(event, Backward)])
    own = _names_from_code(calls)
    declared = _names_from_contract(calls, own, contract) if contract else [None] * len(calls)
    merged: dict[str, LossCalls] = {}
    for group, code_name, contract_name in zip(calls, own, declared, strict=True):
        name = contract_name or code_name
        known = merged[name].calls if name in merged else ()
        merged[name] = LossCalls(
            name, (known or group)[0].site, (*known, *group), contract_name is not None
        )
    return tuple(merged.values())


def _same_loss(events: Sequence[Backward]) -> list[list[Backward]]:
    """Groups of calls by label, else by the lines on the stack.

    A block that calls `step()` on two lines runs each loss twice; a block that calls one helper
    on two lines may run two losses. What the calls reach tells these apart: where it is the same,
    the outermost line does not count.
    """
    by_lines: dict[object, list[Backward]] = {}
    for event in events:
        lines = tuple(_line(frame) for frame in event.site.frames)
        by_lines.setdefault(event.label or (lines, event.by_hand), []).append(event)
    merged: dict[object, list[Backward]] = {}
    for key, group in by_lines.items():
        site = group[0].site
        if group[0].label is None and site.rooted and len(site.frames) > 1:
            reached = frozenset(module for event in group for module in event.upstream)
            inner = tuple(_line(frame) for frame in site.frames[:-1])
            key = (inner, reached, group[0].by_hand)
        merged.setdefault(key, []).extend(group)
    return list(merged.values())


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
    # What is left over goes by order, where that leaves no doubt.
    open_calls = [i for i, name in enumerate(names) if name is None and calls[i][0].label is None]
    open_losses = [n for n, loss in contract.losses.items() if n not in names and not loss.match]
    if len(open_calls) == len(open_losses):
        for i, name in zip(open_calls, open_losses, strict=True):
            names[i] = name
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
    for i, name in enumerate(names):
        if names.count(name) > 1 and calls[i][0].label is None:
            frames = calls[i][0].site.frames
            if frames:
                frame = frames[told_apart[i]]
                names[i] = f"{frame.function}:{frame.line}"
    return names


def _telling_frame(index: int, calls: Sequence[Sequence[Backward]]) -> int:
    """Depth of the first frame that no other loss shares: past helpers that all of them use."""
    mine = calls[index][0].site.frames
    for depth, frame in enumerate(mine):
        shared = any(
            j != index and len(other[0].site.frames) > depth and _at(other, depth) == _line(frame)
            for j, other in enumerate(calls)
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
