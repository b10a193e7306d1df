"""Exported policies act as the checkpoint does, without robomimic."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robomimic_vae_ext import cli
from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.rollout import exported_policy, stored_policy
from tests.conftest import REPOSITORY
from tests.rollout.conftest import lift_env_args

EXAMPLE = REPOSITORY / "docs" / "examples" / "act_from_export.py"


@pytest.fixture
def image_checkpoint(make_model: Callable[..., Any], tmp_path: Path) -> Path:
    """Pictures that are scaled and cropped, and low-dimensional observations."""
    import robomimic.utils.train_utils as train_utils

    model = make_model()
    shapes = {
        "all_shapes": {key: list(shape) for key, shape in model.obs_shapes.items()},
        "ac_dim": model.ac_dim,
        "use_images": True,
    }
    path = tmp_path / "model_epoch_1.pth"
    train_utils.save_model(model, model.global_config, lift_env_args(), shapes, str(path))
    return path


def action_of(checkpoint: Path, obs: dict[str, np.ndarray]) -> np.ndarray:
    """What robomimic's own policy does."""
    import robomimic.utils.obs_utils as obs_utils

    from robomimic_vae_ext import compat

    policy = stored_policy.load_policy(stored_policy.load_checkpoint(checkpoint), "cpu")
    policy.start_episode()
    if not compat.has_time_folder():  # there the environment processes pictures, not the policy
        obs = {key: obs_utils.process_obs(value, obs_key=key) for key, value in obs.items()}
    return np.asarray(policy(ob=obs))


def raw_observation(note: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        key: rng.integers(0, 256, shape, dtype=np.uint8)
        if len(shape) == 3
        else rng.normal(size=shape).astype(np.float32)
        for key, shape in note["observations"].items()
    }


def test_torchscript_acts_as_the_checkpoint(image_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    note = exported_policy.export(image_checkpoint, "torchscript", out)
    script = torch.jit.load(str(out))
    observations = [raw_observation(note, seed) for seed in range(3)]
    expected = np.stack([action_of(image_checkpoint, dict(obs)) for obs in observations])
    assert np.ptp(expected, axis=0).min() > 0  # it does depend on the observation
    for rows in (1, 3):
        batch = {
            key: torch.from_numpy(np.stack([obs[key] for obs in observations[:rows]]))
            for key in note["observations"]
        }
        kept = {key: value.clone() for key, value in batch.items()}
        found = script(batch).numpy()
        np.testing.assert_allclose(found, expected[:rows], rtol=0, atol=1e-6)
        assert all(torch.equal(kept[key], batch[key]) for key in batch)


def test_the_example_needs_torch_and_numpy_only(image_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "policy.pt"
    assert cli.main(["export", str(image_checkpoint), "--out", str(out)]) == 0
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], "
        "run_name='__main__'); "
        "assert not {'robomimic', 'robomimic_vae_ext', 'robosuite', 'mujoco'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), str(out)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout.removeprefix("action:"))
    note: dict[str, str] = {exported_policy.NOTE: ""}
    torch.jit.load(str(out), _extra_files=note)
    zeros = {
        key: np.zeros(shape, np.uint8 if len(shape) == 3 else np.float32)
        for key, shape in json.loads(note[exported_policy.NOTE])["observations"].items()
    }
    np.testing.assert_allclose(printed, action_of(image_checkpoint, zeros), atol=1e-3)


def test_safetensors_hold_all_weights(image_checkpoint: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    out = tmp_path / "policy.safetensors"
    arguments = ["export", str(image_checkpoint), "--format", "safetensors", "--out", str(out)]
    assert cli.main(arguments) == 0
    nets = stored_policy.load_checkpoint(image_checkpoint)["model"]["nets"]
    with safetensors.safe_open(out, "pt") as file:
        note = json.loads(file.metadata()[exported_policy.NOTE])
        assert set(file.keys()) == set(nets)
        assert all(torch.equal(file.get_tensor(name), nets[name]) for name in nets)
    assert note["action"] == 7 and note["config"]["algo_name"] == "lapo"


def test_other_algorithms_are_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'bc'"):
        exported_policy.export(checkpoint("bc"), "torchscript", tmp_path / "out.pt")
    assert list(tmp_path.iterdir()) == []
