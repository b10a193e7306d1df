"""Errors of Q on demonstrations that were trained on and on others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robomimic_vae_ext.analysis import critic_errors, critic_values
from robomimic_vae_ext.cli import main
from robomimic_vae_ext.errors import CheckpointError, DatasetError
from robomimic_vae_ext.rollout import stored_policy
from tests.conftest import CAMERAS, damage, run_script


def demonstrations(*rewards: list[float]) -> critic_values.HeldOut:
    count = sum(map(len, rewards))
    return critic_values.HeldOut({}, np.zeros((count, 1)), tuple(map(np.array, rewards)))


def test_errors_of_known_values() -> None:
    both = demonstrations([0.0, 1.0], [0.0, 0.0])  # returns 0.5, 1; 0, 0
    found = critic_errors.of_values("valid", np.array([0.5, 0.8, 0.6, 0.0]), both, discount=0.5)
    assert found.error == pytest.approx((0.2**2 + 0.6**2) / 4)
    assert found.bias == pytest.approx((-0.2 + 0.6) / 4)
    assert found.error_of_successes == pytest.approx(0.2**2 / 2)
    assert found.error_of_failures == pytest.approx(0.6**2 / 2)
    assert found.auc == pytest.approx(0.75)  # of four pairs one is the wrong way round
    won = critic_errors.of_values("valid", np.ones(1), demonstrations([1.0]), discount=0.5)
    assert (won.error, won.error_of_failures, won.auc) == (0.0, None, None)
    lost = critic_errors.of_values("valid", np.ones(1), demonstrations([0.0]), discount=0.5)
    assert (lost.error, lost.bias, lost.error_of_successes, lost.auc) == (1.0, 1.0, None, None)


def test_a_real_checkpoint_agrees_with_the_studys_measure(
    trained_checkpoint: Path, dataset: Path
) -> None:
    table = critic_errors.of_checkpoints([trained_checkpoint], dataset).set_index("mask")
    train, valid = table.loc["train"], table.loc["valid"]
    algo = critic_values.load_policy(stored_policy.load_checkpoint(trained_checkpoint))
    for mask, found in (("train", train), ("valid", valid)):
        held_out = critic_values.load_held_out(dataset, list(algo.obs_shapes), mask)
        q = critic_values.held_out_values(algo, held_out)
        assert q is not None
        returns = held_out.returns(algo.algo_config.discount)
        expected = critic_values.critic_measures(q, returns, held_out.succeeds())
        assert found.error == expected["critic_error"]
        assert found.auc == expected["auc"] or (np.isnan(found.auc) and expected["auc"] is None)
    assert train.error != valid.error


def test_fewer_demonstrations_are_evenly_spaced(trained_checkpoint: Path, dataset: Path) -> None:
    keys = ["robot0_eef_pos"]
    every = critic_values.load_held_out(dataset, keys, "train").rewards
    some = critic_values.load_held_out(dataset, keys, "train", most=2).rewards
    assert [len(rewards) for rewards in every] == [12, 9, 3, 7, 11]
    assert [len(rewards) for rewards in some] == [12, 11]
    few = critic_errors.of_checkpoints([trained_checkpoint], dataset, most=2)
    all_of_them = critic_errors.of_checkpoints([trained_checkpoint], dataset)
    assert few.error[0] != all_of_them.error[0]


def test_the_script_prints_and_writes_a_line_for_each_mask(
    trained_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    written = tmp_path / "made" / "critic.csv"
    words = ("--agent", trained_checkpoint, "--dataset", dataset, "--csv", written)
    result = run_script("inspect_critic.py", *words)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[1] for line in lines[2:]] == ["train", "valid"]
    assert {line.count("|") for line in lines} == {8}
    expected = critic_errors.of_checkpoints([trained_checkpoint], dataset)
    pd.testing.assert_frame_equal(pd.read_csv(written), expected, rtol=1e-5, check_dtype=False)
    again = run_script("inspect_critic.py", *words)
    assert again.returncode == 2 and str(written) in again.stderr


def test_a_run_means_its_newest_checkpoint(
    trained_checkpoint: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (trained_checkpoint.parents[1], trained_checkpoint.parents[2]):
        words = ["inspect", "critic", str(path), "--dataset", str(dataset), "--most", "1"]
        assert main(words) == 0
        assert str(trained_checkpoint) in capsys.readouterr().out


def test_an_algorithm_without_q_is_one_message(
    trained_checkpoint: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(critic_values, "value_function", lambda algo: None)
        with pytest.raises(CheckpointError, match="is of 'lapo'; expected an algorithm with a"):
            critic_errors.of_checkpoints([trained_checkpoint], dataset / "never read")
    words = ("--dataset", dataset, "--agent")
    result = run_script("inspect_critic.py", *words, "none.pth")
    assert result.returncode == 2 and "none.pth" in result.stderr
    result = run_script("inspect_critic.py", *words, trained_checkpoint, "--most", 0)
    assert result.returncode == 2 and "--most 0" in result.stderr


@pytest.mark.parametrize(
    ("key", "message"), [(None, "trained on every demonstration"), ("clean", "on mask/clean;")]
)
def test_what_was_trained_on_is_not_called_held_out(
    trained_checkpoint: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
    message: str,
) -> None:
    algo = critic_values.load_policy(stored_policy.load_checkpoint(trained_checkpoint))
    with algo.global_config.unlocked():
        algo.global_config.train.hdf5_filter_key = key
    monkeypatch.setattr(critic_values, "load_policy", lambda *_: algo)
    with pytest.raises(CheckpointError, match=message):
        critic_errors.of_checkpoints([trained_checkpoint], dataset)


def test_damaged_pictures_are_named(
    trained_checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copy(dataset, tmp_path / "other.hdf5"))
    damage(other, f"data/demo_0/obs/{CAMERAS[0]}")
    with pytest.raises(DatasetError, match=f"data/demo_0/obs/{CAMERAS[0]} cannot be read"):
        critic_errors.of_checkpoints([trained_checkpoint], other)
