"""Switches that make a training step faster and leave what it computes alone."""

from __future__ import annotations

import torch


def wants_bf16(choice: str, device: torch.device) -> bool:
    """Whether convolutions run in bfloat16.

    Args:
        choice: "on", "off", or "auto": on a CPU that has AMX. Other CPUs emulate bfloat16 and are
            slower with it; a GPU waits for the host either way (docs/performance.md).
        device: where the model trains.
    """
    if choice == "auto":
        return device.type == "cpu" and has_amx()
    return choice == "on"


def has_amx() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in tiles, as far as torch can tell."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and bool(supported())


def set_fused(optimizer: torch.optim.Optimizer, fused: bool) -> None:
    """Have an optimizer take its step in one kernel, or as torch decides.

    Set on parameter groups, since robomimic makes the optimizers. The state has the same layout
    either way, so checkpoints go from one to the other.

    Args:
        optimizer: Adam or AdamW.
        fused: false leaves the choice of kernel to torch.
    """
    # None is torch's own default; False would also forbid its other fast path.
    for group in (optimizer.defaults, *optimizer.param_groups):
        group["fused"] = True if fused else None
