"""Batches gathered ahead: in time, in the order that was announced, and right in any other."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from robomimic_vae_ext.lapo import prefetch


def test_the_next_batch_is_made_while_this_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def gather(index: torch.Tensor) -> dict[str, Any]:
        made[int(index[0]) // 2].set()
        return {"index": index}

    ahead = prefetch.Prefetcher()
    ahead.announce(list(range(6)))
    assert ahead.take(torch.tensor([0, 1]), gather)["index"].tolist() == [0, 1]
    assert made[1].wait(timeout=30) and not made[2].is_set()
    # Somebody asks for something else in between, and then for smaller batches.
    assert ahead.take(torch.tensor([5]), gather)["index"].tolist() == [5]
    assert ahead.take(torch.tensor([2]), gather)["index"].tolist() == [2]
    assert ahead.take(torch.tensor([3]), gather)["index"].tolist() == [3]


def test_a_failure_ahead_is_raised_where_the_batch_is_used() -> None:
    def gather(index: torch.Tensor) -> dict[str, Any]:
        if index[0]:
            raise RuntimeError("unreadable")
        return {}

    ahead = prefetch.Prefetcher()
    ahead.announce([0, 1])
    ahead.take(torch.tensor([0]), gather)
    with pytest.raises(RuntimeError, match="unreadable"):
        ahead.take(torch.tensor([1]), gather)
