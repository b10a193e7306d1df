"""See every in-place write to a parameter, `.data` included, with the line that wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robomimic_vae_ext.gradient_flow.callsite import find_site
from robomimic_vae_ext.gradient_flow.events import Site


class Writes(NamedTuple):
    """Writes since the last look: how often, and from where."""

    times: Mapping[int, int]
    sites: Mapping[int, tuple[Site, ...]]


class WriteTrace(TorchDispatchMode):
    """Counts in-place operations on the watched tensors' memory.

    Version counters would be cheaper but miss writes through `.data`, which most Polyak updates
    use, and comparing values cannot tell one update from two in a row.

    Args:
        tensors: the parameters.
        muted: true while an optimizer or the tape itself is at work.
        until: see `find_site`.
    """

    supports_higher_order_operators = True

    def __init__(
        self, tensors: Sequence[torch.Tensor], muted: Callable[[], bool], until: FrameType | None
    ) -> None:
        super().__init__()
        self._tensors = tensors
        self._muted = muted
        self._until = until
        self._by_memory: dict[int, int] = {}
        self._written: dict[Any, tuple[int | str, ...]] = {}
        self._operations: dict[int, Counter[str]] = {}
        self._sites: dict[int, list[Site]] = {}
        self.refresh()

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

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in self._written:
            self._written[func] = _written_arguments(func)
        places = self._written[func]
        if places and not self._muted():
            self._note(func, _tensors_at(places, args, kwargs))
        return result

    def _note(self, func: Any, tensors: Iterator[torch.Tensor]) -> None:
        site: Site | None = None
        for tensor in tensors:
            index = self._by_memory.get(tensor.untyped_storage().data_ptr())
            if index is None:
                continue
            site = site or find_site(self._until)
            self._operations.setdefault(index, Counter())[str(func)] += 1
            self._sites.setdefault(index, []).append(site)


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
