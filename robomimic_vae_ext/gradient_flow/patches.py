"""Listen to torch's training calls, and leave torch as it was."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import CellType
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
    """What the tape offers; every `on_...` runs the original call exactly once."""

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


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Route torch's training calls of this thread through `listener` while the block runs.

    The clip functions are caught inside torch's own wrapper, so that code which imported them by
    name is heard as well. Everything is put back on the way out, whatever happened inside.
    """
    thread = threading.get_ident()

    def here() -> bool:
        return threading.get_ident() == thread

    with ExitStack() as stack:
        stack.enter_context(_replaced(torch.autograd, "backward", _backward(listener, here)))
        stack.enter_context(_replaced(torch.autograd, "grad", _grad(listener, here)))
        for owner in (Optimizer, nn.Module):
            stack.enter_context(_replaced(owner, "zero_grad", _zero_grad(listener, here)))
        for kind in ("clip_grad_norm_", "clip_grad_value_"):
            stack.enter_context(_clip_replaced(kind, listener, here))
        for register, listen in (
            (register_optimizer_step_pre_hook, listener.before_step),
            (register_optimizer_step_post_hook, listener.after_step),
        ):
            stack.callback(register(_step_hook(listen, here)).remove)
        yield


def _step_hook(
    listen: Callable[[Optimizer], None], here: Callable[[], bool]
) -> Callable[[Optimizer, Any, Any], None]:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if here():
            listen(optimizer)

    return _never_compiled(hook)


def _never_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled training step calls it as it is: torch.compile cannot trace what the tape does."""
    disable = getattr(getattr(torch, "compiler", None), "disable", None)  # torch 2.0 has none
    return disable(function) if disable is not None else function


Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def _backward(listener: Listener, here: Callable[[], bool]) -> Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if not here():
                return original(tensors, *args, **kwargs)
            return listener.on_backward(tensors, lambda roots: original(roots, *args, **kwargs))

        return backward

    return wrap


def _grad(listener: Listener, here: Callable[[], bool]) -> Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def grad(*args: Any, **kwargs: Any) -> Any:
            if not here():
                return original(*args, **kwargs)
            return listener.on_gradients(lambda: original(*args, **kwargs))

        return grad

    return wrap


def _zero_grad(listener: Listener, here: Callable[[], bool]) -> Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not here():
                return original(self, *args, **kwargs)
            return listener.on_zero_grad(self, lambda: original(self, *args, **kwargs))

        return zero_grad

    return wrap


def _clip(kind: str, listener: Listener, here: Callable[[], bool]) -> Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if not here():
                return original(parameters, *args, **kwargs)
            return listener.on_clip(kind, parameters, lambda p: original(p, *args, **kwargs))

        return clip

    return wrap


@contextmanager
def _replaced(owner: Any, name: str, wrap: Wrap) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, _never_compiled(wrap(original)))
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def _clip_replaced(kind: str, listener: Listener, here: Callable[[], bool]) -> Iterator[None]:
    """Replace what torch's no_grad wrapper calls, or the public names where there is no wrapper."""
    cell = _inner_cell(getattr(clip_grad, kind))
    if cell is not None:
        original = cell.cell_contents
        cell.cell_contents = _never_compiled(_clip(kind, listener, here)(original))
        try:
            yield
        finally:
            cell.cell_contents = original
        return
    with ExitStack() as stack:
        for place in (clip_grad, nn.utils):
            stack.enter_context(_replaced(place, kind, _clip(kind, listener, here)))
        yield


def _inner_cell(function: Any) -> CellType | None:
    inner = getattr(function, "__wrapped__", None)
    for cell in getattr(function, "__closure__", None) or ():
        if inner is not None and cell.cell_contents is inner:
            return cell
    return None
