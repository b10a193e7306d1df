"""Loading: every way serves batches, and memory is counted right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robomimic_vae_ext.benchmark import (
    batch_loading,
    bench_results,
    peers,
    synthetic_dataset,
    timing,
)
from tests.conftest import IMAGE_SIZE


def test_every_number_is_produced(
    setting: peers.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "WARM_UP_SECONDS", 0.0)
    plan = batch_loading.LoadingPlan(
        synthetic_dataset.DatasetSize(demos=3, steps=20), batch_size=8, epoch_steps=2
    )
    found = batch_loading.measure((setting,), plan, torch.device("cpu"), rounds=2, folder=tmp_path)
    assert set(found["batch"]) == set(found["memory"]) == set(batch_loading.WAYS)
    raw = 3 * 20 * 2 * IMAGE_SIZE * IMAGE_SIZE * 3
    assert found["raw_image_bytes"] == raw
    assert found["memory"]["replay"] < 1.2 * raw  # one more frame a demonstration, and the rest
    assert found["memory"]["replay_disk"] < 0.2 * raw
    assert found["memory"]["stock_low_dim_cache"] < 0.2 * raw
    assert found["memory"]["stock_full_cache"] > 8 * raw  # windows of five, obs and next_obs
    for times in found["epochs"]["tiny"].values():
        assert set(times) == set(batch_loading.PHASES)
        assert all(len(seconds) == 2 for seconds in times.values())
        share = bench_results.wait_share(times)
        quotients = [d / w for d, w in zip(times["data"], times["whole"], strict=True)]
        assert share.value == timing.median(quotients)
        assert 0 < share.value < 1


def test_shared_memory_is_counted_once() -> None:
    array = np.zeros(1000, dtype=np.uint8)
    tensor = torch.zeros(500, dtype=torch.uint8)
    views = {"a": array, "b": [array[10:], torch.from_numpy(array)], "c": (tensor, tensor[3:])}
    assert batch_loading.held_bytes(views) == 1500


def test_mapped_files_are_not_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(1000))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="c")
    assert batch_loading.held_bytes([mapped, np.zeros(10, dtype=np.uint8)]) == 10
