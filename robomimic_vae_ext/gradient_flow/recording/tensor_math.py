"""Norms, copies and comparisons that change nothing and draw no random number."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch


def undispatched() -> AbstractContextManager[object]:
    """No dispatch mode sees the operations inside, which saves most of a trace's cost."""
    return torch._C._DisableTorchDispatch()


def norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Euclidean norm of each tensor, on whatever device and in whatever layout it lies."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    values = [_real(_dense(tensor.detach())) for tensor in tensors]
    for i, value in enumerate(values):
        groups.setdefault((value.device, value.dtype), []).append(i)
    found = [0.0] * len(values)
    with torch.no_grad():
        for indices in groups.values():
            # One transfer for all, which matters on an accelerator.
            results = torch.stack(_group_norms([values[i] for i in indices])).double().tolist()
            for i, result in zip(indices, results, strict=True):
                found[i] = float(result)
    return found


def _group_norms(values: list[torch.Tensor]) -> list[torch.Tensor]:
    if values[0].dtype in (torch.float32, torch.float64):
        return list(torch._foreach_norm(values))
    # Half precision overflows in a sum of squares.
    return [torch.linalg.vector_norm(value, dtype=torch.float32) for value in values]


def copy(tensor: torch.Tensor) -> torch.Tensor:
    """A detached dense copy."""
    return _dense(tensor.detach()).clone()


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors hold the same values; nan counts as equal to nan."""
    if left.shape != right.shape or left.device != right.device or left.dtype != right.dtype:
        return False
    if torch.equal(left, right):
        return True
    return bool(left.is_floating_point()) and torch.allclose(
        left, right, rtol=0.0, atol=0.0, equal_nan=True
    )


def distance(new: torch.Tensor, old: torch.Tensor) -> float:
    """Norm of the change; of the new values where the shape or the device has changed."""
    if new.shape != old.shape or new.device != old.device:
        return norms([new])[0]
    with torch.no_grad():
        return norms([new.detach().to(old.dtype) - old])[0]


def nonfinite(tensor: torch.Tensor) -> bool:
    """Whether a nan or inf is in there."""
    return not bool(torch.isfinite(_dense(tensor.detach())).all())


def flat(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All values in one float32 vector on the CPU."""
    return torch.cat([_dense(t.detach()).reshape(-1).float().cpu() for t in tensors])


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    # Embedding(sparse=True) makes sparse gradients, for which norms and comparisons are missing.
    return tensor.to_dense() if tensor.layout != torch.strided else tensor


def _real(tensor: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
