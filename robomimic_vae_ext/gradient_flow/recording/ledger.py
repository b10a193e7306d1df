"""Follows every gradient from the backward that made it to the step or reset that ended it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from robomimic_vae_ext.gradient_flow.recording.events import Contribution
from robomimic_vae_ext.gradient_flow.recording.tensor_math import norms


class Changes(NamedTuple):
    """Gradients that changed since the last look, without an event that says so."""

    cleared: frozenset[int]
    edited: frozenset[int]
    appeared: dict[int, float]


@dataclass
class _Open:
    """A contribution whose gradient still lies in `.grad`."""

    backward: int
    norm: float
    used: list[int] = field(default_factory=list)
    by_hand: bool = False
    clips: list[int] = field(default_factory=list)


class Ledger:
    """One account per parameter.

    Args:
        tensors: the parameters; their order gives the indices used everywhere else.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors
        self._open: list[list[_Open]] = [[] for _ in tensors]
        self._closed: list[Contribution] = []
        self._norms: list[float | None] = [None] * len(tensors)
        for index, norm in self._current_norms(range(len(tensors))).items():
            self._norms[index] = norm
            if norm:
                self._open[index].append(_Open(backward=-1, norm=norm))

    def look(self) -> Changes:
        """Compare every gradient with what the ledger expects and book the difference."""
        cleared: set[int] = set()
        edited: set[int] = set()
        appeared: dict[int, float] = {}
        now = self._current_norms(range(len(self._tensors)))
        for i, before in enumerate(self._norms):
            norm = now.get(i)
            if _equal(norm, before):
                continue
            if not norm:
                if self._open[i]:
                    cleared.add(i)
            elif not self._open[i]:
                appeared[i] = norm
            else:
                edited.add(i)
            self._norms[i] = norm
        return Changes(frozenset(cleared), frozenset(edited), appeared)

    def add(self, backward: int, added: dict[int, float]) -> None:
        """A backward added these norms."""
        for i, norm in added.items():
            if norm != 0.0:
                self._open[i].append(_Open(backward, norm))
        self._refresh(added)

    def clear(
        self, event: int, parameters: Iterable[int], stepping: bool = False
    ) -> frozenset[int]:
        """Close the accounts of those parameters whose gradient is gone.

        Args:
            stepping: the reset came from inside an optimizer's own step (a closure), which has
                used the gradient even though the step has not ended.

        Returns:
            The parameters that lost a gradient.
        """
        lost = set()
        now = self._current_norms(parameters)
        for i in parameters:
            self._norms[i] = now.get(i)
            if now.get(i) or not self._open[i]:
                continue
            lost.add(i)
            for item in self._open[i]:
                if stepping and not item.used:
                    item.by_hand = True
                self._closed.append(_closed(item, i, event))
            self._open[i] = []
        return frozenset(lost)

    def clip(self, event: int, parameters: Iterable[int]) -> None:
        """These gradients went into a clip's norm and may have been scaled."""
        parameters = list(parameters)
        for i in parameters:
            for item in self._open[i]:
                item.clips.append(event)
        self._refresh(parameters)

    def use(self, event: int, parameters: Iterable[int]) -> None:
        """An optimizer that owns these parameters stepped with whatever they hold."""
        for i in parameters:
            for item in self._open[i]:
                item.used.append(event)

    def has_unused(self, parameters: Iterable[int]) -> bool:
        """Whether a gradient of this recording is pending there that no step has used."""
        return any(
            not item.used and item.backward >= 0 for i in parameters for item in self._open[i]
        )

    def use_by_hand(self, parameters: Iterable[int]) -> None:
        """These parameters were written while a gradient was pending, as SAM's ascent does."""
        for i in parameters:
            for item in self._open[i]:
                item.by_hand = True

    def gradient_norms(self, parameters: Iterable[int]) -> dict[int, float]:
        """Norms of the gradients that are there now."""
        return self._current_norms(parameters)

    def contributions(self) -> tuple[Contribution, ...]:
        """Every contribution, those still pending last."""
        pending = [_closed(item, i, None) for i, items in enumerate(self._open) for item in items]
        return (*self._closed, *pending)

    def _refresh(self, parameters: Iterable[int]) -> None:
        parameters = list(parameters)
        now = self._current_norms(parameters)
        for i in parameters:
            self._norms[i] = now.get(i)

    def _current_norms(self, parameters: Iterable[int]) -> dict[int, float]:
        grads = {i: g for i in parameters if (g := self._tensors[i].grad) is not None}
        return dict(zip(grads, norms(list(grads.values())), strict=True))


def _equal(norm: float | None, before: float | None) -> bool:
    if norm is None or before is None:
        return norm is before
    if math.isnan(norm) or math.isnan(before):
        return math.isnan(norm) and math.isnan(before)
    return norm == before


def _closed(item: _Open, parameter: int, event: int | None) -> Contribution:
    return Contribution(
        backward=item.backward,
        parameter=parameter,
        norm=item.norm,
        used=tuple(item.used),
        by_hand=item.by_hand,
        cleared=event,
        clips=tuple(item.clips),
    )
