"""EvaluationResult: statistics, seeds, bad checkpoints, and real episodes of a real checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext import overrides
from robomimic_vae_ext.errors import CheckpointError, ConfigError, SimulationError
from robomimic_vae_ext.rollout import seeded_episode, stored_policy
from robomimic_vae_ext.rollout.evaluate import EvaluationResult, evaluate, wilson_interval
from tests.conftest import run_script


def test_wilson_interval_of_known_cases() -> None:
    assert wilson_interval(10, 20) == (
        pytest.approx(0.2993, abs=1e-4),
        pytest.approx(0.7007, abs=1e-4),
    )
    low, high = wilson_interval(20, 20)
    assert (low, high) == (pytest.approx(0.8389, abs=1e-4), pytest.approx(1.0))
    assert wilson_interval(0, 20)[0] == 0.0


def test_episode_seeds_differ_and_depend_on_both_numbers() -> None:
    seeds = {seeded_episode.episode_seed(seed, index) for seed in range(5) for index in range(100)}
    assert len(seeds) == 500
    assert seeded_episode.episode_seed(3, 7) == seeded_episode.episode_seed(3, 7)


def test_the_sentence_says_what_was_measured() -> None:
    played = tuple(seeded_episode.Episode(i, i, i < 3, 10, float(i < 3), 0.1) for i in range(4))
    line = EvaluationResult("a.pth", "Lift", 5, 80, played).one_line()
    assert "3/4 = 75%" in line and "95 % interval" in line and "seed 5" in line
    changed = EvaluationResult("a.pth", "Lift", 5, 80, played, {"algo.actor.extraction": "zero"})
    assert changed.one_line() == line + ", algo.actor.extraction = zero"
    assert changed.summary()["settings"] == {"algo.actor.extraction": "zero"}


@pytest.mark.parametrize(
    "kind",
    ["missing", "folder", "garbage", "text", "truncated", "foreign", "number", "other", "config"],
)
def test_bad_checkpoints_are_one_line(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.pth"
    if kind == "folder":
        path.mkdir()
    if kind == "number":
        torch.save(3, path)
    if kind == "garbage":
        path.write_bytes(b"not a checkpoint")
    if kind == "truncated":
        torch.save({"model": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:500])
    if kind == "text":
        path.write_text("hello world\n")
    if kind in ("other", "config"):
        names = ("model", "config", "env_metadata", "shape_metadata")
        algo = "gpt" if kind == "other" else "bc"
        torch.save(dict.fromkeys(names, "{") | {"algo_name": algo}, path)
    if kind == "foreign":
        torch.save({"state_dict": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError) as caught:
        stored_policy.load_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert stored_policy.usable_device("cpu").type == "cpu"
    for name in ("cuda:99", "gpu"):
        with pytest.raises(CheckpointError, match=f"device '{name}' cannot be used"):
            stored_policy.usable_device(name)


def test_the_script_exits_with_2_and_one_line(tmp_path: Path) -> None:
    result = run_script("evaluate.py", "--agent", tmp_path / "none.pth", "--n", 1)
    assert result.returncode == 2
    assert [line for line in result.stderr.splitlines() if line.startswith("lapo evaluate: ")]
    assert "Traceback" not in result.stderr


def test_settings_of_the_command_line_are_json_or_strings() -> None:
    texts = ["a.b=zero", "a.c=3", "a.d=[0, 1]", "a.e=null", "a.f=x=y"]
    assert overrides.parse(texts) == {
        "a.b": "zero", "a.c": 3, "a.d": [0, 1], "a.e": None, "a.f": "x=y",
    }  # fmt: skip
    for wrong in (["a.b"], ["=3"], ["a=1", "a=2"]):
        with pytest.raises(ConfigError, match="--set"):
            overrides.parse(wrong)


def test_settings_replace_values_of_the_config_only() -> None:
    checkpoint = {"model": object(), "config": json.dumps({"algo": {"actor": {"z": 1}, "n": 2}})}
    other = overrides.apply(checkpoint, {"algo.actor.z": 0})
    assert json.loads(other["config"]) == {"algo": {"actor": {"z": 0}, "n": 2}}
    assert other["model"] is checkpoint["model"]
    assert json.loads(checkpoint["config"])["algo"]["actor"] == {"z": 1}
    for key in ("algo.actor.y", "algo.actor", "algo.n.z", "z", "algo.actor.z.x"):
        with pytest.raises(CheckpointError, match=f"no value '{key}'"):
            overrides.apply(checkpoint, {key: 1})


@pytest.mark.parametrize("value", ["False", 1, [True]])
def test_a_setting_of_another_kind_is_refused(value: Any) -> None:
    checkpoint = {"config": json.dumps({"algo": {"gmm": False, "rate": 1, "bounds": None}})}
    with pytest.raises(ConfigError, match="expected a truth value, as the False"):
        overrides.apply(checkpoint, {"algo.gmm": value})
    for key, fine in {"algo.gmm": True, "algo.rate": 0.5, "algo.bounds": [0, 1]}.items():
        assert (
            fine in json.loads(overrides.apply(checkpoint, {key: fine})["config"])["algo"].values()
        )


def load_with(checkpoint: Path, key: str, value: Any) -> Any:
    return stored_policy.load_policy(
        overrides.apply(stored_policy.load_checkpoint(checkpoint), {key: value}), "cpu"
    ).policy


def test_a_setting_reaches_the_policy(checkpoint: Callable[[str], Path]) -> None:
    key = "algo.actor.extraction"
    assert load_with(checkpoint("lapo"), key, "zero").algo_config.actor.extraction == "zero"
    with pytest.raises(ConfigError, match=key):
        load_with(checkpoint("lapo"), key, "mean")


@pytest.mark.parametrize(
    ("algo", "key", "value"),
    [("lapo", "algo.encoder.trunk_dim", 7), ("bc", "algo.actor_layer_dims", [7, 7])],
)
def test_settings_that_change_a_network_are_one_line(
    checkpoint: Callable[[str], Path], algo: str, key: str, value: Any
) -> None:
    with pytest.raises(CheckpointError, match="does not fit the networks"):
        load_with(checkpoint(algo), key, value)


@pytest.mark.simulator
@pytest.mark.parametrize("kind", ["unknown environment", "other shape", "no such key", "horizon"])
def test_environments_that_do_not_fit_are_one_line(
    checkpoint: Callable[[str], Path], kind: str
) -> None:
    values = deepcopy(stored_policy.load_checkpoint(checkpoint("bc")))
    if kind == "unknown environment":
        values["env_metadata"]["env_name"] = "FooBar"
        with pytest.raises(SimulationError, match="'FooBar' of the checkpoint cannot be made"):
            seeded_episode.Runner(values, device="cpu")
        return
    if kind == "horizon":
        values = overrides.apply(values, {"experiment.rollout.horizon": 0})
        with pytest.raises(ConfigError, match=r"rollout\.horizon is 0"):
            seeded_episode.Runner(values, device="cpu")
        return
    runner = seeded_episode.Runner(values, device="cpu", horizon=1)
    assert runner.play(0, 0).length == 1
    key = "robot0_eef_pos"
    runner._shapes = {key: [9]} if kind == "other shape" else {"nokey": [3]}
    with pytest.raises(CheckpointError, match=r"of shape \(3,\); expected|shows no nokey"):
        runner.play(0, 0)


@pytest.mark.simulator
def test_settings_act_in_workers_as_without_them(checkpoint: Callable[[str], Path]) -> None:
    zero = {"algo.actor.extraction": "zero"}

    def rewards(changes: dict[str, Any], **how: Any) -> list[float]:
        result = evaluate(checkpoint("lapo"), n=2, seed=4, device="cpu", settings=changes, **how)
        return [episode.total_reward for episode in result.episodes]

    alone = rewards(zero)
    assert alone == rewards(zero, num_workers=2)
    assert alone == rewards(zero, num_workers=2, one_policy=True)
    assert alone != rewards({})


@pytest.mark.simulator
def test_one_and_two_workers_give_the_same_outcomes(
    trained_checkpoint: Path, tmp_path: Path
) -> None:
    def outcomes(**settings: Any) -> list[tuple[int, bool, int, float]]:
        result = evaluate(trained_checkpoint, n=3, seed=4, horizon=12, device="cpu", **settings)
        return [(e.seed, e.success, e.length, e.total_reward) for e in result.episodes]

    alone = outcomes(num_workers=1)
    assert alone == outcomes(num_workers=2)
    assert alone == outcomes(num_workers=2, one_policy=True)
    video = tmp_path / "video.mp4"
    assert alone == outcomes(num_workers=1, video=video, video_episodes=2)
    assert video.stat().st_size > 1000
    assert len({seed for seed, *_ in alone}) == 3


@pytest.mark.simulator
def test_the_seed_sets_the_initial_state(trained_checkpoint: Path) -> None:
    runner = seeded_episode.Runner(stored_policy.load_checkpoint(trained_checkpoint), 1, "cpu")

    def start(seed: int) -> Any:
        runner.play(0, seed)
        return seeded_episode.base_env(runner.env).sim.data.qpos.copy()

    first, other, again = start(1), start(2), start(1)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.simulator
def test_json_holds_every_episode(trained_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    words = ("--agent", trained_checkpoint, "--n", 2, "--horizon", 5, "--json", out)
    result = run_script("evaluate.py", *words)
    assert result.returncode == 0, result.stderr
    summary = json.loads(out.read_text())
    assert [episode["index"] for episode in summary["episodes"]] == [0, 1]
    assert summary["horizon"] == 5 and len(summary["success_rate_95"]) == 2
    assert result.stdout.splitlines()[-1].startswith("LiftFast: success")
