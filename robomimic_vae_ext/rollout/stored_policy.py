"""Checkpoints of any robomimic algorithm: reading them, and the policies that they hold."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import robomimic.config as config_module
import robomimic.config.base_config as base_config
import robomimic.utils.file_utils as file_utils
import robomimic.utils.torch_utils as torch_utils
import torch

from robomimic_vae_ext import compat
from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.plugin import ALGO_NAME
from robomimic_vae_ext.rollout import batch_policy


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a robomimic checkpoint.

    Raises:
        CheckpointError: missing file, damaged file, not written by robomimic, or of an algorithm
            that nobody has registered.
    """
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder", "a checkpoint", "Pass one of the files in its folder `models`."
        )
    if not path.is_file():
        raise CheckpointError(
            f"there is no file {path}",
            "a checkpoint (*.pth) in the `models` folder of a training run",
            "Check the path.",
        )
    try:
        checkpoint = compat.load_dict_from_checkpoint(path)
    except Exception as error:  # a damaged or foreign file can make the unpickler raise anything
        # Not torch's own words: they advise to load the file without `weights_only`.
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__})",
            "a complete *.pth file written by robomimic",
            "Take another checkpoint of the run; this one may be half-written.",
        ) from error
    if not isinstance(checkpoint, dict):
        checkpoint = {}
    missing = {"model", "config", "algo_name", "env_metadata", "shape_metadata"} - set(checkpoint)
    if missing:
        raise CheckpointError(
            f"{path} lacks {sorted(missing)}",
            "a checkpoint written by robomimic's training script",
            "Pass one of the files in the `models` folder of a run.",
        )
    known = sorted(base_config.REGISTERED_CONFIGS)
    if checkpoint["algo_name"] not in known:
        raise CheckpointError(
            f"{path} is of the algorithm '{checkpoint['algo_name']}'",
            f"one of {known}",
            "Import the package that registers it first.",
        )
    try:
        config = json.loads(checkpoint["config"])
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the config in {path} is not JSON ({error})",
            "the config of the run",
            "Take another checkpoint of the run.",
        ) from error
    if checkpoint["algo_name"] != ALGO_NAME:
        return checkpoint
    # With all keys of today, so that `--set` can name them for checkpoints of any version.
    today = config_module.config_factory(ALGO_NAME, dic=config)
    return checkpoint | {"config": today.dump()}


def load_policy(checkpoint: dict[str, Any], device: str | None) -> Any:
    """Return a checkpoint's policy, the same in every process that is to play its episodes.

    Args:
        checkpoint: from `load_checkpoint`.
        device: torch device name; None takes the GPU if the checkpoint's config asks for one.

    Raises:
        CheckpointError: the network of its config is not the one that its weights are of.
    """
    target = policy_device(checkpoint, device)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            policy, _ = file_utils.policy_from_checkpoint(ckpt_dict=checkpoint, device=target)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"the checkpoint does not fit the networks of its config ({detail})",
            "the networks that were trained",
            "Change with --set only what the policy does with its networks, and no others by hand.",
        ) from error
    return batch_policy.policy_in_parent(policy, wanted=None) or policy


def policy_device(checkpoint: dict[str, Any], device: str | None) -> torch.device:
    """Return the device by its name, or else the one that the checkpoint's config asks for."""
    if device:
        return usable_device(device)
    config = json.loads(checkpoint["config"])
    target: torch.device = torch_utils.get_torch_device(try_to_use_cuda=config["train"]["cuda"])
    return target


def usable_device(name: str) -> torch.device:
    """Return a torch device by name.

    Raises:
        CheckpointError: torch does not know it, or it is not in this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"device '{name}' cannot be used ({str(error).splitlines()[0]})",
            "a torch device of this machine, such as cpu or cuda",
            "Choose another --device.",
        ) from error
    return device
