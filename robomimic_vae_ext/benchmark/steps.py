"""Gradient steps per second, and how far they are from the encoder alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from robomimic_vae_ext.benchmark import peers, timing

LIMIT = "encoder_alone"


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits for a device: kernels on a GPU run on after the call that asked for them."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return timing.nothing


def measure(setting: peers.Setting, device: torch.device, rounds: int) -> dict[str, Any]:
    """Time all contenders of one setting.

    Args:
        setting: encoder and batch.
        device: where to train.
        rounds: samples of each contender.

    Returns:
        `batch_size`; `step`: contender to samples of `train_on_batch`; `log`: contender to samples
        of `log_info`; `parameters`: contender to its number of trainable parameters.
    """
    names = (*peers.OURS, *peers.PEERS)
    line_up = [peers.make_peer(setting, name, device) for name in names]
    limit = peers.EncoderAlone(peers.make_peer(setting, peers.OURS[0], device))
    steps = [
        timing.Contender(peer.name, peer.step, peers.MULTIPLES.get(peer.name, 1))
        for peer in line_up
    ]
    steps.append(timing.Contender(LIMIT, limit.step))
    wait = synchronizer(device)
    result = {
        "batch_size": setting.batch_size,
        "step": timing.interleave(steps, rounds, wait, f"steps, {setting.name}"),
        "log": timing.interleave(
            [timing.Contender(peer.name, peer.log) for peer in line_up],
            rounds,
            wait,
            f"log_info, {setting.name}",
        ),
        "parameters": {
            peer.name: sum(p.numel() for p in peer.model.nets.parameters() if p.requires_grad)
            for peer in line_up
        },
    }
    # The next setting's models need the room.
    del line_up, limit, steps
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return result
