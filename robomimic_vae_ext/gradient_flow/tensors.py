"""Norms, copies and comparisons that change nothing and draw no random number."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def norms(tensors: Sequence[torch.Tensor]) -> list[float]:
    """Euclidean norm of each tensor, on whatever device and in whatever layout it lies."""
    if not tensors:
        return []
    with torch.no_grad():
        values = [_real(_dense(t.detach())) for t in tensors]
        results = [torch.linalg.vector_norm(v, dtype=_wide(v)) for v in values]
        devices = {r.device for r in results}
        if len(devices) == 1:
            # One transfer instead of one per parameter, which matters on an accelerator.
            return [float(x) for x in torch.stack([r.double() for r in results]).tolist()]
        return [float(r) for r in results]


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


def _wide(tensor: torch.Tensor) -> torch.dtype:
    # Half precision overflows in a sum of squares.
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
