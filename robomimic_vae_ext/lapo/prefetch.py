"""The next batch, gathered in a thread while this one is trained on.

Stock train.py asks for a batch only when it needs one. But it takes its sampler from the dataset,
and a sampler knows the whole pass beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, get_worker_info

Gather = Callable[[Tensor], dict[str, Any]]


class Prefetcher:
    """Serves batches in an order that was announced, and gathers one ahead.

    Batches that are asked for in another order are right all the same; they are gathered when they
    are asked for. So are all batches in DataLoader's worker processes, which run ahead themselves.
    """

    def __init__(self) -> None:
        self._order: Tensor | None = None
        self._position = 0
        self._pending: Future[dict[str, Any]] | None = None
        self._pending_size = 0
        self._executor: ThreadPoolExecutor | None = None

    def announce(self, order: list[int]) -> None:
        """Say which transitions will be asked for from now on."""
        self._order = torch.tensor(order)
        self.skip(0)

    def skip(self, count: int) -> None:
        """Say that the first transitions of the order will not be asked for."""
        self._position = count
        self._pending = None

    def take(self, index: Tensor, gather: Gather) -> dict[str, Any]:
        """Return a batch, and start with the one after it.

        Args:
            index: (B,) int64.
            gather: makes a batch of an index.
        """
        if self._order is None or get_worker_info() is not None:
            return gather(index)
        end = self._position + len(index)
        if not torch.equal(self._order[self._position : end], index):
            return gather(index)
        ready = self._pending if self._pending_size == len(index) else None
        batch = gather(index) if ready is None else ready.result()
        self._position, self._pending = end, None
        following = self._order[end : end + len(index)]
        if len(following) == len(index):  # else the pass ends here: train.py drops the last ones
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=1)
            self._pending = self._executor.submit(gather, following)
            self._pending_size = len(following)
        return batch

    def __reduce__(self) -> tuple[type[Prefetcher], tuple[()]]:
        # Threads do not travel to spawned workers, which have no use for them.
        return type(self), ()


class AnnouncingSampler(RandomSampler):
    """The sampler that DataLoader's `shuffle` makes, which also tells the prefetcher its order.

    Args:
        dataset: to sample from.
        prefetcher: of that dataset.
    """

    def __init__(self, dataset: Dataset, prefetcher: Prefetcher) -> None:
        super().__init__(dataset)  # type: ignore[arg-type]  # any Dataset with a length
        self._prefetcher = prefetcher

    def __iter__(self) -> Iterator[int]:
        """Draw a pass over the dataset."""
        order = list(super().__iter__())
        self._prefetcher.announce(order)
        return iter(order)

    def skip(self, count: int) -> None:
        """Say that the first transitions of the pass just drawn will be left out."""
        self._prefetcher.skip(count)
