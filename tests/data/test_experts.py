"""Scripted experts: success, no memory, and the laws they steer by."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.data.simulation.experts import (
    CLEAN,
    EXPERTS,
    OPEN,
    QUALITIES,
    RANDOM,
    LiftExpert,
    draw_behaviour,
    funnel,
    straighten,
)
from robomimic_vae_ext.data.simulation.scripted_episode import CollectSettings, run_episode
from robomimic_vae_ext.errors import DatasetError


def raw_observation(cube: tuple[float, float, float], gap: float = 0.08) -> dict[str, Any]:
    """An observation of Lift with the gripper straight above (0, 0) at 0.82 m."""
    return {
        "robot0_eef_pos": np.array([0.0, 0.0, 0.82]),
        "robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0]),
        "robot0_gripper_qpos": np.array([gap / 2, -gap / 2]),
        "cube_pos": np.array(cube),
    }


@pytest.mark.simulator
@pytest.mark.parametrize(
    ("task", "n", "longest"), [("Lift", 8, 60), ("Stack", 4, 120), ("PickPlaceCan", 3, 160)]
)
def test_expert_succeeds(task: str, n: int, longest: int) -> None:
    # Measured over 60 episodes (seed 0): Lift 60, Stack 59, PickPlaceCan 60 succeed.
    settings = CollectSettings(envs.EnvSpec(task), quality="expert", seed=0)
    env = envs.build_env(settings.env.env_args())
    episodes = [run_episode(env, settings, index) for index in range(n)]
    assert sum(episode["attrs"]["success"] for episode in episodes) >= n - 1
    assert np.mean([len(episode["actions"]) for episode in episodes]) <= longest
    for episode in episodes:
        assert np.abs(episode["actions"]).max() <= 1
        assert set(np.unique(episode["actions"][:, 6])) <= {-1.0, 1.0}


@pytest.mark.simulator
def test_pairs_start_alike_and_end_apart() -> None:
    settings = CollectSettings(envs.EnvSpec("PickPlaceCan"), quality="paired", seed=0)
    env = envs.build_env(settings.env.env_args())
    good, bad = (run_episode(env, settings, index) for index in (0, 1))
    assert np.array_equal(good["states"][0], bad["states"][0])
    assert np.array_equal(good["actions"][:20], bad["actions"][:20])
    assert good["attrs"]["success"] and good["rewards"][-1] == good["dones"][-1] == 1
    assert not bad["attrs"]["success"] and bad["rewards"].sum() == 0
    assert bad["dones"][-1] == 1  # the can is out of reach: a terminal state
    assert len(bad["actions"]) < settings.steps


def test_pairs_need_a_task_that_has_them() -> None:
    with pytest.raises(DatasetError, match="PickPlaceCan"):
        CollectSettings(envs.EnvSpec("Lift"), quality="paired")


@pytest.mark.simulator
def test_play_lift_takes_either_cube_and_always_ends() -> None:
    settings = CollectSettings(envs.EnvSpec("PlayLift"), quality="expert", seed=0)
    env = envs.build_env(settings.env.env_args())
    episodes = [run_episode(env, settings, index) for index in range(6)]
    for episode in episodes:
        red = episode["attrs"]["object"] == "cubeA"
        assert episode["attrs"]["success"] == red == bool(episode["rewards"][-1])
        assert episode["dones"][-1] == 1
    assert {episode["attrs"]["object"] for episode in episodes} == {"cubeA", "cubeB"}


def test_clean_expert_has_no_memory() -> None:
    used = LiftExpert(CLEAN, np.random.default_rng(0))
    for height in (0.9, 0.82, 0.85):
        used.act(raw_observation((0.05, 0.0, height)))
    now = raw_observation((0.02, -0.01, 0.82))
    np.testing.assert_array_equal(
        used.act(now), LiftExpert(CLEAN, np.random.default_rng(1)).act(now)
    )


def test_lift_expert_reaches_grasps_and_lifts() -> None:
    expert = LiftExpert(CLEAN, np.random.default_rng(0))
    beside = expert.act(raw_observation((0.06, 0.0, 0.82)))
    assert beside[0] == 1 and beside[2] > 0 and beside[6] == OPEN
    around = expert.act(raw_observation((0.0, 0.0, 0.82)))
    np.testing.assert_allclose(around, [0, 0, 0, 0, 0, 0, 1], atol=1e-12)
    held = expert.act(raw_observation((0.0, 0.0, 0.82), gap=0.044))
    np.testing.assert_allclose(held, [0, 0, 1, 0, 0, 0, 1], atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("angle", [-0.2, 0.1])
def test_straighten_turns_against_a_small_tilt(axis: int, angle: float) -> None:
    # The rotation by `angle` about a world axis, applied to the gripper that points down.
    turn = np.zeros(4)
    turn[axis], turn[3] = np.sin(angle / 2), np.cos(angle / 2)
    down = np.array([1.0, 0.0, 0.0, 0.0])
    x1, y1, z1, w1 = turn
    x2, y2, z2, w2 = down
    tilted = np.array(
        [
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
        ]
    )
    expected = np.zeros(3)
    expected[axis] = -2 * np.sin(angle / 2)  # gain 0.5, 0.5 rad per unit of action
    np.testing.assert_allclose(straighten(tilted), expected, atol=1e-12)
    np.testing.assert_allclose(straighten(-tilted), expected, atol=1e-12)


def test_funnel_is_the_point_itself_when_over_it() -> None:
    point = np.array([0.1, 0.2, 0.82])
    np.testing.assert_array_equal(funnel(point, np.array([0.0, 0.009, -0.1])), point)
    far = funnel(point, np.array([0.3, 0.0, -0.1]))
    np.testing.assert_allclose(far, point + np.array([0, 0, 0.08]))


def test_behaviours_come_as_often_as_stated() -> None:
    for quality, shares in QUALITIES.items():
        assert sum(weight for _, weight in shares) == pytest.approx(1)
        drawn = Counter(
            draw_behaviour(quality, np.random.default_rng(i), i).name for i in range(2000)
        )
        for behaviour, weight in shares:
            assert drawn[behaviour.name] / 2000 == pytest.approx(weight, abs=0.04)


def test_unknown_quality() -> None:
    with pytest.raises(DatasetError, match="quality 'best'"):
        draw_behaviour("best", np.random.default_rng(0), 0)


@pytest.mark.parametrize("task", EXPERTS)
def test_random_behaviour_fills_the_action_space(task: str) -> None:
    expert = EXPERTS[task](RANDOM, np.random.default_rng(0))
    actions = np.array([expert.act({}) for _ in range(500)])
    assert actions.min() < -0.95 and actions.max() > 0.95
    assert np.abs(actions.mean(axis=0)).max() < 0.1
