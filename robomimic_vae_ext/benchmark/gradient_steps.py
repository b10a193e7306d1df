"""Gradient steps per second, and their distance from the encoder alone."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from robomimic_vae_ext.benchmark import bench_results, peers, timing


def synchronizer(device: torch.device) -> Callable[[], None]:
    """Return the function that waits for a device: GPU kernels are asynchronous."""
    if device.type == "cuda":
        return partial(torch.cuda.synchronize, device)
    return timing.nothing


def measure(setting: peers.Setting, device: torch.device, rounds: int) -> dict[str, Any]:
    """Time all contenders of one setting.

    Args:
        setting: encoder and batch.
        device: of the training.
        rounds: samples of each contender.

    Returns:
        `batch_size`; `step`: contender to samples of `train_on_batch`; `log`: contender to samples
        of `log_info`; `parameters`: contender to its number of trainable parameters.
    """
    line_up = [peers.make_peer(setting, name, device) for name in (*peers.OURS, *peers.PEERS)]
    limit = peers.EncoderAlone(peers.make_peer(setting, peers.OURS[0], device))
    steps = [timing.Contender(p.name, p.step, peers.MULTIPLES.get(p.name, 1)) for p in line_up]
    steps.append(timing.Contender(bench_results.LIMIT, limit.step))
    logs = [timing.Contender(peer.name, peer.log) for peer in line_up]
    wait = synchronizer(device)
    result = {
        "batch_size": setting.batch_size,
        "step": timing.interleave(steps, rounds, wait, f"steps, {setting.name}"),
        "log": timing.interleave(logs, rounds, wait, f"log_info, {setting.name}"),
        "parameters": {
            peer.name: sum(p.numel() for p in peer.model.nets.parameters() if p.requires_grad)
            for peer in line_up
        },
    }
    del line_up, limit, steps, logs  # memory for the models of the next setting
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return result
