"""Listen to torch's training calls, and leave torch as it was.

torch is patched once, when the first recording of the process starts, and restored when the last
one ends, in whatever order and in whatever threads recordings start and end in between.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.utils import clip_grad
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


class Listener(Protocol):
    """What a recorder offers; every `on_...` runs the original call exactly once."""

    def hears(self, thread: int) -> bool:
        """Whether calls of this thread (`threading.get_ident()`) belong to the recording."""

    def on_backward(self, roots: Any, call: Callable[[Any], Any]) -> Any:
        """A backward was called; `call` takes the roots, since a generator reads only once."""

    def on_gradients(self, call: Callable[[], Any]) -> Any:
        """`torch.autograd.grad` was called, which fills no `.grad`."""

    def on_zero_grad(self, owner: Optimizer | nn.Module, call: Callable[[], Any]) -> Any:
        """`zero_grad` was called on an optimizer or a module."""

    def on_clip(self, kind: str, parameters: Any, call: Callable[[Any], Any]) -> Any:
        """A clip was called; `call` takes the parameters, since a generator reads only once."""

    def before_step(self, optimizer: Optimizer) -> None:
        """An optimizer is about to step."""

    def after_step(self, optimizer: Optimizer) -> None:
        """An optimizer has stepped."""


_lock = threading.Lock()
_listeners: tuple[Listener, ...] = ()
_patches: _Patches | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Route the calls of the listener's threads through it while the block runs."""
    global _listeners, _patches
    with _lock:
        _patches = _patches or _Patches()
        _listeners = (*_listeners, listener)
    try:
        yield
    finally:
        with _lock:
            _listeners = tuple(other for other in _listeners if other is not listener)
            if not _listeners and _patches is not None:
                _patches.remove()
                _patches = None


class _Patches:
    """Everything that is replaced in torch, from its construction to `remove`."""

    def __init__(self) -> None:
        self._active = True
        self._undo = ExitStack()
        self._replace(torch.autograd, "backward", self._backward)
        self._replace(torch.autograd, "grad", self._grad)
        for owner in (Optimizer, nn.Module):
            self._replace(owner, "zero_grad", self._zero_grad)
        for kind in ("clip_grad_norm_", "clip_grad_value_"):
            self._replace_clip(kind)
        for register, hook in (
            (register_optimizer_step_pre_hook, self._before_step),
            (register_optimizer_step_post_hook, self._after_step),
        ):
            self._undo.callback(register(_never_compiled(hook)).remove)

    def remove(self) -> None:
        """Put torch's own functions back; other people's later patches stay."""
        # Whoever still holds one of our functions gets the original's behaviour from now on.
        self._active = False
        self._undo.close()

    def _listeners_here(self) -> Sequence[Listener]:
        thread = threading.get_ident()
        return [x for x in _listeners if x.hears(thread)] if self._active else ()

    def _replace(self, owner: Any, name: str, wrap: Callable[..., Any]) -> None:
        original = vars(owner)[name]
        ours = _never_compiled(wrap(original))
        setattr(owner, name, ours)

        def restore() -> None:
            if vars(owner)[name] is ours:
                setattr(owner, name, original)

        self._undo.callback(restore)

    def _replace_clip(self, kind: str) -> None:
        """Replace what torch's no_grad wrapper calls: who imported it by name is heard too."""
        public = getattr(clip_grad, kind)
        cell = next(c for c in public.__closure__ if c.cell_contents is public.__wrapped__)
        original = cell.cell_contents
        cell.cell_contents = ours = _never_compiled(self._clip(kind, original))

        def restore() -> None:
            if cell.cell_contents is ours:
                cell.cell_contents = original

        self._undo.callback(restore)

    # -- the functions that take the place of torch's; recordings nest, the last one outermost ---

    def _backward(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            def call(roots: Any) -> Any:
                return original(roots, *args, **kwargs)

            for listener in self._listeners_here():
                call = functools.partial(listener.on_backward, call=call)
            return call(tensors)

        return backward

    def _grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def grad(*args: Any, **kwargs: Any) -> Any:
            call: Callable[[], Any] = functools.partial(original, *args, **kwargs)
            for listener in self._listeners_here():
                call = functools.partial(listener.on_gradients, call)
            return call()

        return grad

    def _zero_grad(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def zero_grad(owner: Any, *args: Any, **kwargs: Any) -> Any:
            call: Callable[[], Any] = functools.partial(original, owner, *args, **kwargs)
            for listener in self._listeners_here():
                call = functools.partial(listener.on_zero_grad, owner, call)
            return call()

        return zero_grad

    def _clip(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            def call(given: Any) -> Any:
                return original(given, *args, **kwargs)

            for listener in self._listeners_here():
                call = functools.partial(listener.on_clip, kind, call=call)
            return call(parameters)

        return clip

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for listener in self._listeners_here():
            listener.before_step(optimizer)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for listener in self._listeners_here():
            listener.after_step(optimizer)


def _never_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled training step calls it as it is: torch.compile cannot trace what it does."""
    return torch.compiler.disable(function)
