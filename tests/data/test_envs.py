"""Environments: registration, seeds, resets, pictures."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest

from robomimic_vae_ext.data.simulation import envs
from robomimic_vae_ext.data.simulation.render import simplify_rendering
from robomimic_vae_ext.errors import SimulationError
from tests.data.conftest import SCRIPTS

pytestmark = pytest.mark.simulator


@pytest.fixture(scope="module")
def lift() -> Iterator[Any]:
    """LiftFast with one small camera."""
    env = envs.build_env(envs.EnvSpec("Lift", ("agentview",), 16).env_args())
    yield env
    env.close()


def first_object(env: Any, seed: int) -> np.ndarray:
    envs.reseed(env, seed)
    return np.array(env.reset()["object-state"])


def test_same_seed_same_start(lift: Any) -> None:
    first = first_object(lift, 5)
    lift.step(np.ones(7))
    np.testing.assert_array_equal(first_object(lift, 5), first)
    assert np.abs(first_object(lift, 6) - first).max() > 1e-3


def test_hard_reset_starts_like_a_soft_one(lift: Any) -> None:
    soft = [first_object(lift, seed) for seed in range(3)]
    lift.hard_reset = True
    hard = [first_object(lift, seed) for seed in range(3)]
    lift.hard_reset = False
    np.testing.assert_array_equal(soft, hard)


def test_starts_cover_robosuites_range(lift: Any) -> None:
    starts = np.array([first_object(lift, seed)[:2] for seed in range(60)])
    assert np.abs(starts).max() <= 0.03
    # Uniform in +-3 cm: standard deviation 1.73 cm; 60 draws leave about 10 %.
    np.testing.assert_allclose(starts.std(axis=0), 0.0173, rtol=0.3)


def test_every_process_has_the_same_cube() -> None:
    sizes = [envs.build_env(envs.EnvSpec("Lift").env_args()).cube.size for _ in range(2)]
    np.testing.assert_array_equal(*sizes)


def test_fast_model_differs_only_in_rendering() -> None:
    def xml(rendering: str) -> str:
        env = envs.build_env(envs.EnvSpec("Lift", rendering=rendering).env_args())
        return str(env.model.get_xml())

    full, fast = xml("full"), xml("fast")
    assert full != fast
    root = ElementTree.fromstring(full)
    simplify_rendering(root)
    assert ElementTree.canonicalize(ElementTree.tostring(root), strip_text=True) == (
        ElementTree.canonicalize(fast, strip_text=True)
    )
    assert set(re.findall(r'reflectance="([^"]*)"', fast)) == {"0"}


def test_model_loaded_from_file_renders_the_same(lift: Any, lift_images: Path) -> None:
    with h5py.File(lift_images) as file:
        demo = file["data/demo_0"]
        model, state = demo.attrs["model_file"], demo["states"][0]
        picture = demo["obs/agentview_image"][0]
    lift.reset_from_xml_string(lift.edit_model_xml(model))
    lift.sim.set_state_from_flattened(state)
    lift.sim.forward()
    seen = lift.sim.render(width=16, height=16, camera_name="agentview")[::-1]
    difference = np.abs(seen.astype(int) - picture)
    assert difference.mean() < 1


def test_pictures_survive_other_environments(lift: Any) -> None:
    envs.reseed(lift, 0)
    lift.reset()
    before = lift.sim.render(width=16, height=16, camera_name="agentview")
    assert before.std() > 10
    other = envs.build_env(envs.EnvSpec("Stack", ("frontview",), 16).env_args())
    other.reset()
    np.testing.assert_array_equal(
        lift.sim.render(width=16, height=16, camera_name="agentview"), before
    )
    del other
    gc.collect()  # robosuite's own context would now take ours with it
    np.testing.assert_array_equal(
        lift.sim.render(width=16, height=16, camera_name="agentview"), before
    )


def test_observations_equal_robomimics_rollout(lift_images: Path) -> None:
    from robomimic.utils import env_utils, file_utils, obs_utils

    import robomimic_vae_ext  # noqa: F401  (lets robomimic run on this robosuite)

    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"low_dim": ["object"], "rgb": ["agentview_image"]}}
    )
    meta = file_utils.get_env_metadata_from_dataset(str(lift_images))
    env = env_utils.create_env_from_metadata(meta, use_image_obs=True)
    env.postprocess_visual_obs = False  # 0.3.0 scales pictures to [0, 1] otherwise
    with h5py.File(lift_images) as file:
        demo = file["data/demo_1"]
        envs.reseed(env.env, int(demo.attrs["seed"]))
        obs = env.reset()
        assert set(obs) == set(demo["obs"])
        for step, action in enumerate(demo["actions"]):
            for key, value in obs.items():
                np.testing.assert_array_equal(value, demo[f"obs/{key}"][step], err_msg=key)
                assert value.dtype == demo[f"obs/{key}"].dtype
            obs, reward, _, _ = env.step(action)
            assert reward == demo["rewards"][step]
        for key, value in obs.items():
            np.testing.assert_array_equal(value, demo[f"next_obs/{key}"][-1], err_msg=key)
        assert env.is_success()["task"]


def test_play_lift_rewards_the_red_cube_only() -> None:
    env = envs.build_env(envs.EnvSpec("PlayLift").env_args())
    env.reset()
    for cube, rewarded in ((env.cubeA, True), (env.cubeB, False)):
        env.reset()
        assert not env._check_success() and not envs.has_failed(env)
        pose = env.sim.data.get_joint_qpos(cube.joints[0]).copy()
        pose[2] += 0.05
        env.sim.data.set_joint_qpos(cube.joints[0], pose)
        env.sim.forward()
        assert env._check_success() is rewarded
        assert envs.has_failed(env) is not rewarded
        assert env.reward() == float(rewarded)


def test_unknown_camera_lists_existing_ones() -> None:
    with pytest.raises(SimulationError, match=r"backview.*'agentview'.*--cameras"):
        envs.build_env(envs.EnvSpec("Lift", ("backview",)).env_args())


@pytest.mark.parametrize("visible", ["", "-1", "GPU-9"])
def test_gpus_that_are_hidden_or_have_names_do_not_stop_rendering(visible: str) -> None:
    code = (
        "import os; from robomimic_vae_ext.data.simulation import envs; envs.require_rendering(); "
        "assert 'MUJOCO_EGL_DEVICE_ID' not in os.environ"
    )
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    subprocess.run([sys.executable, "-c", code], env=hidden, check=True)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_renderer_is_one_clear_line(tmp_path: Path, workers: str) -> None:
    command = [sys.executable, str(SCRIPTS / "collect_dataset.py"), "--cameras", "agentview"]
    command += ["--n", "2", "--workers", workers, "--out", str(tmp_path / "x.hdf5")]
    broken = os.environ | {"MUJOCO_EGL_DEVICE_ID": "99"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=broken)
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lapo collect: MuJoCo cannot render offscreen")
    assert "MUJOCO_GL=egl" in last and "libegl1" in last
    assert not (tmp_path / "x.hdf5").exists()
