"""A backward that has not returned yet: which gradients have arrived so far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from robomimic_vae_ext.gradient_flow.recording import tensor_math
from robomimic_vae_ext.gradient_flow.recording.autograd_graph import Reach
from robomimic_vae_ext.gradient_flow.recording.call_site import Site
from robomimic_vae_ext.gradient_flow.recording.events import Backward


class RunningBackward:
    """Copies the gradient of every watched parameter as autograd delivers it.

    An optimizer may step, and clear, while the backward runs (by a hook of the parameter); so the
    ledger takes the gradients piece by piece.

    Args:
        site: line that called backward.
        label: name that the user gave the loss.
        reach: what the graph says about it.
        frozen: indices of the watched parameters with requires_grad=False.
        working: context in which the tape does its own tensor work.
    """

    def __init__(
        self,
        site: Site,
        label: str | None,
        reach: Reach,
        frozen: frozenset[int],
        working: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.reach = reach
        self.index: int | None = None  # of its event, once that is reserved
        self.threads: set[int] = set()  # in which autograd runs the hooks
        self.gradients: dict[int, torch.Tensor] = {}  # taken so far
        self._site, self._label, self._frozen = site, label, frozen
        self._working = working
        self._fresh: dict[int, torch.Tensor] = {}
        self._norms: dict[int, float] = {}
        self._hooks: list[Any] = []

    def listen(self, tensors: Mapping[int, torch.Tensor]) -> None:
        """Copy the gradients of these parameters from now on."""
        self._hooks = [tensor.register_hook(self._hook(i)) for i, tensor in tensors.items()]

    def stop(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def take(self) -> dict[int, float]:
        """Norms of the gradients that have arrived since the last call."""
        fresh, self._fresh = self._fresh, {}
        norms = dict(zip(fresh, tensor_math.norms(list(fresh.values())), strict=True))
        for i, gradient in fresh.items():
            first = i not in self.gradients
            total = gradient if first else self.gradients[i] + gradient
            self.gradients[i] = total
            self._norms[i] = norms[i] if first else tensor_math.norms([total])[0]
        return norms

    def event(self, passed: frozenset[int]) -> Backward:
        """What has been taken so far; `passed`: see `Backward`."""
        assert self.index is not None
        return Backward(
            index=self.index,
            site=self._site,
            label=self._label,
            added=dict(self._norms),
            upstream=self.reach.upstream,
            nonfinite=frozenset(i for i, norm in self._norms.items() if norm - norm != 0.0),
            frozen=self._frozen,
            passed=passed,
        )

    def _hook(self, index: int) -> Callable[[torch.Tensor], None]:
        def keep(grad: torch.Tensor) -> None:
            self.threads.add(threading.get_ident())
            # A copy: autograd may go on to use this very memory as `.grad`.
            with self._working():
                new = tensor_math.copy(grad)
                before = self._fresh.get(index)
                self._fresh[index] = new if before is None else before + new

        return keep
