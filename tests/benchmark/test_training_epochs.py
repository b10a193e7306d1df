"""Whole runs of the training script."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robomimic_vae_ext.benchmark import batch_loading, peers, synthetic_dataset, training_epochs
from robomimic_vae_ext.errors import BenchmarkError

PLAN = training_epochs.EpochsPlan(
    synthetic_dataset.DatasetSize(demos=2, steps=8), epochs=2, steps=2
)
CPU = torch.device("cpu")


@pytest.mark.slow
def test_every_number_is_produced(
    setting: peers.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("lapo, replay", "bcq, stock data")
    monkeypatch.setattr(
        training_epochs, "RUNS", {name: training_epochs.RUNS[name] for name in names}
    )
    found = training_epochs.measure(setting, PLAN, CPU, rounds=1, folder=tmp_path)
    for name in names:
        times = found["runs"][name]
        assert set(times) == set(batch_loading.PHASES)
        # Two epochs, of which the first one warms up.
        assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in times.values())
        assert sum(times[p][0] for p in times if p != "whole") <= 1.01 * times["whole"][0]
        assert found["process"][name][0] > times["whole"][0]


def test_configs_differ_in_what_the_run_says_alone(setting: peers.Setting, tmp_path: Path) -> None:
    made = {
        name: training_epochs.run_config(
            setting, PLAN, CPU, algo, changes, tmp_path / "d", tmp_path / "o"
        )
        for name, (algo, changes) in training_epochs.RUNS.items()
    }
    assert len({str(config["observation"]) for config in made.values()}) == 1
    assert made["lapo, stock data"]["algo"]["replay"] == {"enabled": False}
    assert made["bcq, stock data"]["algo"]["actor"] == {"enabled": True}
    assert not any(config["experiment"]["rollout"]["enabled"] for config in made.values())


@pytest.mark.slow
def test_a_failed_run_is_an_error_with_its_last_line(tmp_path: Path) -> None:
    config = tmp_path / "broken.json"
    config.write_text("{}")
    with pytest.raises(BenchmarkError, match="algo_name"):
        training_epochs.run_training(config, tmp_path / "out")
