"""See every in-place write to a parameter, `.data` included, with the line that wrote it."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robomimic_vae_ext.gradient_flow.recording.call_site import Site, find_site


class Writes(NamedTuple):
    """Writes since the last look: how often, and from where."""

    times: Mapping[int, int]
    sites: Mapping[int, tuple[Site, ...]]


class WriteTrace:
    """Counts in-place operations on the watched tensors' memory.

    Version counters would be cheaper but miss writes through `.data`, which most Polyak updates
    use, and comparing values cannot distinguish one update from two in a row.

    Args:
        tensors: the parameters.
        muted: true while an optimizer or the tape itself is at work.
        until: see `find_site`.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], muted: Callable[[], bool], until: FrameType | None
    ) -> None:
        self._tensors = tensors
        self._muted = muted
        self._until = until
        self._by_memory: dict[int, int] = {}
        self._operations: dict[int, Counter[str]] = {}
        self._sites: dict[int, list[Site]] = {}
        self.refresh()

    @contextmanager
    def running(self) -> Iterator[None]:
        """See the writes of this thread while the block runs."""
        mode = getattr(_of_thread, "mode", None)
        if mode is None:
            mode = _of_thread.mode = _DispatchMode()
            mode.__enter__()
        mode.traces = (*mode.traces, self)
        try:
            yield
        finally:
            mode.traces = tuple(trace for trace in mode.traces if trace is not self)
            if not mode.traces:
                _of_thread.mode = None
                mode.__exit__(None, None, None)

    def refresh(self) -> None:
        """Learn where the parameters lie now; assigning to `.data` moves them."""
        self._by_memory = {
            tensor.untyped_storage().data_ptr(): i
            for i, tensor in enumerate(self._tensors)
            if tensor.layout == torch.strided and tensor.numel()
        }

    def take(self) -> Writes:
        """The writes since the last call.

        A Polyak update is `copy_`, or `lerp_`, or `mul_` then `add_`: the most frequent operation
        says how many updates there were.
        """
        taken = Writes(
            times={i: max(counts.values()) for i, counts in self._operations.items()},
            sites={i: tuple(sites) for i, sites in self._sites.items()},
        )
        self._operations, self._sites = {}, {}
        return taken

    def note(self, operation: str, tensors: Sequence[torch.Tensor]) -> None:
        """An operation has written to these tensors."""
        if self._muted():
            return
        site: Site | None = None
        for tensor in tensors:
            index = self._by_memory.get(tensor.untyped_storage().data_ptr())
            if index is not None:
                site = site or find_site(self._until)
                self._operations.setdefault(index, Counter())[operation] += 1
                self._sites.setdefault(index, []).append(site)


class _DispatchMode(TorchDispatchMode):
    """One for all traces of a thread: torch's modes must end in the reverse order of their start.

    Recordings need not.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.traces: tuple[WriteTrace, ...] = ()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        places = _written_arguments(func)
        if places:
            tensors = list(_tensors_at(places, args, kwargs))
            for trace in self.traces:
                trace.note(str(func), tensors)
        return result


_of_thread = threading.local()


@functools.lru_cache(maxsize=4096)
def _written_arguments(func: Any) -> tuple[int | str, ...]:
    """Positions (names, where keyword-only) of the arguments that an operation writes to."""
    schema = getattr(func, "_schema", None)  # higher-order operators have none, and write nothing
    return tuple(
        argument.name if argument.kwarg_only else position
        for position, argument in enumerate(schema.arguments if schema else ())
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _tensors_at(
    places: tuple[int | str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[torch.Tensor]:
    for place in places:
        value = kwargs.get(place) if isinstance(place, str) else None
        if isinstance(place, int) and place < len(args):
            value = args[place]
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor) and item.layout == torch.strided:
                yield item
