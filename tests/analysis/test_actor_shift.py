"""What the actor does with z: closed forms with a decoder and a critic that are known."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from robomimic_vae_ext.analysis import actor_shift, critic_values
from robomimic_vae_ext.errors import CheckpointError, DatasetError
from robomimic_vae_ext.rollout import stored_policy
from tests.conftest import CAMERAS, run_script


class Known:
    """z is 0.5 of a bound of 2; an action is z / 10; Q is the sum of the action, times 3."""

    device = torch.device("cpu")
    algo_config = SimpleNamespace(actor=SimpleNamespace(max_latent_action=2.0))

    def __init__(self) -> None:
        decoder = SimpleNamespace(decode=lambda features, z: features * z / 10)
        self.nets = {"actor": lambda features: features, "actor_vae": decoder}

    def features_of(self, obs: dict[str, Tensor]) -> Tensor:
        return torch.ones_like(obs["x"])

    def get_state_action_value(self, obs: dict[str, Tensor], actions: Tensor) -> Tensor:
        return 3 * actions.sum(dim=1, keepdim=True)


def test_shift_and_gain_of_a_known_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        critic_values, "process", lambda frames, key, algo: torch.from_numpy(frames)
    )
    monkeypatch.setattr(critic_values, "BATCH", 300)  # the last batch is a shorter one
    count = 1000
    held_out = critic_values.HeldOut(
        obs={"x": np.zeros((count, 3), np.float32)},
        actions=np.full((count, 3), 0.2), rewards=(np.zeros(count),),
    )  # fmt: skip
    found = actor_shift.of_model(Known(), held_out)
    assert found.z == pytest.approx(0.5)
    assert found.shift == pytest.approx(0.1)
    assert found.error == pytest.approx(0.2)
    assert found.gain == pytest.approx(0.9)
    assert found.q == pytest.approx(1.8)
    # E|z| of a standard normal that is cut at 2, a tenth of it.
    normal = torch.distributions.Normal(0.0, 1.0)
    x = torch.linspace(-6, 6, 100_001)
    expected = (normal.log_prob(x).exp() * x.abs().clamp(max=2)).sum() * (x[1] - x[0]) / 10
    assert found.spread == pytest.approx(float(expected), rel=0.03)


def test_a_real_checkpoint_agrees_with_its_own_actions(
    trained_checkpoint: Path, dataset: Path
) -> None:
    algo = critic_values.load_policy(stored_policy.load_checkpoint(trained_checkpoint))
    held_out = critic_values.load_held_out(dataset, list(algo.obs_shapes))
    found = actor_shift.of_model(algo, held_out)
    obs = {key: critic_values.process(frames, key, algo) for key, frames in held_out.obs.items()}
    chosen = algo.get_action(obs)
    with algo.algo_config.unlocked():
        algo.algo_config.actor.extraction = "zero"
    at_zero = algo.get_action(obs)
    assert found.shift == pytest.approx(float((chosen - at_zero).abs().mean()), rel=1e-4)
    gain = algo.get_state_action_value(obs, chosen) - algo.get_state_action_value(obs, at_zero)
    assert found.gain == pytest.approx(float(gain.mean()), rel=1e-3, abs=1e-6)
    assert found.shift > 0 and 0 < found.z <= 1 and found.spread > 0


def test_the_script_prints_and_writes_one_line_a_checkpoint(
    trained_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    written = tmp_path / "made" / "actor.csv"
    flags = ("--csv", written)
    twice = (trained_checkpoint, trained_checkpoint)
    result = run_script("inspect_actor.py", "--agent", *twice, "--dataset", dataset, *flags)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and lines[2] == lines[3]
    assert lines[2].count("|") == lines[1].count("|")
    table = pd.read_csv(written)
    assert len(table) == 2 and table.iloc[0].equals(table.iloc[1])
    assert table.checkpoint[0] == str(trained_checkpoint)
    assert (table[["z", "shift", "spread", "error"]] > 0).all(axis=None)


def test_other_algorithms_are_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Path
) -> None:
    monkeypatch.setattr(stored_policy, "load_checkpoint", lambda *_: {"algo_name": "bc"})
    with pytest.raises(CheckpointError, match="is of 'bc'"):
        actor_shift.of_checkpoints([tmp_path / "model.pth"], dataset)
    monkeypatch.undo()
    words = ("--agent", tmp_path / "none.pth", "--dataset", dataset)
    result = run_script("inspect_actor.py", *words)
    assert result.returncode == 2 and "none.pth" in result.stderr


def test_a_dataset_that_does_not_fit_is_one_message(
    trained_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.hdf5"
    shutil.copy(dataset, other)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            actions = demo["actions"][:, :6]
            del demo["actions"]
            demo["actions"] = actions
    with pytest.raises(CheckpointError, match="actions of size 7; expected 6"):
        actor_shift.of_checkpoints([trained_checkpoint], other)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            pictures = demo[f"obs/{CAMERAS[0]}"][:, :-2]
            del demo[f"obs/{CAMERAS[0]}"]
            demo[f"obs/{CAMERAS[0]}"] = pictures
    with pytest.raises(CheckpointError, match=f"sees {CAMERAS[0]} of shape"):
        actor_shift.of_checkpoints([trained_checkpoint], other)
    with h5py.File(other, "r+") as file:
        for demo in file["data"].values():
            del demo[f"obs/{CAMERAS[0]}"]
    with pytest.raises(DatasetError, match=f"has no observations .'{CAMERAS[0]}'"):
        actor_shift.of_checkpoints([trained_checkpoint], other)


def test_a_mask_of_demonstrations_that_are_gone_is_one_message(
    trained_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.hdf5"
    shutil.copy(dataset, other)
    with h5py.File(other, "r+") as file:
        del file["mask/valid"]
        file["mask/valid"] = np.array([b"demo_99"])
    with pytest.raises(DatasetError, match="demo_99"):
        actor_shift.of_checkpoints([trained_checkpoint], other)


def test_a_policy_that_sees_more_than_is_stored_is_one_message(
    trained_checkpoint: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = stored_policy.load_checkpoint(trained_checkpoint)
    normalised = checkpoint | {"obs_normalization_stats": {"object": {"mean": 1.0}}}
    algo = critic_values.load_policy(checkpoint)
    monkeypatch.setattr(critic_values, "load_policy", lambda *_: algo)
    monkeypatch.setattr(stored_policy, "load_checkpoint", lambda *_: normalised)
    with pytest.raises(CheckpointError, match="normalises its observations"):
        actor_shift.of_checkpoints([trained_checkpoint], dataset)
    monkeypatch.setattr(stored_policy, "load_checkpoint", lambda *_: checkpoint)
    monkeypatch.setattr(algo, "goal_shapes", {"object": [3]})
    with pytest.raises(CheckpointError, match="has goals"):
        actor_shift.of_checkpoints([trained_checkpoint], dataset)
