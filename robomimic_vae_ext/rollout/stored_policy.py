"""Checkpoints of any robomimic algorithm: reading them, and the policies that they hold."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import zipfile
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


def load_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """Read a robomimic checkpoint as data, without running code that it may hold.

    Args:
        path: of the file.
        trust: also read files that hold other things than tensors and plain types. That runs
            whatever code the file names.

    Raises:
        CheckpointError: missing file, damaged file, not written by robomimic, with metadata that is
            not a checkpoint's, or of an algorithm that nobody has registered.
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
    _check_bytes(path)
    try:
        checkpoint = compat.load_dict_from_checkpoint(path, trust)
    except pickle.UnpicklingError as error:  # of a whole archive, see above
        raise CheckpointError(
            f"{path} holds other things than tensors, numbers and texts",
            "a checkpoint that is data alone",
            "If you trust its author, add --trust: reading it then runs the code that it names.",
        ) from error
    except Exception as error:  # a foreign file can make the unpickler raise anything
        # Not torch's own words: they advise to load the file without `weights_only`.
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({type(error).__name__})",
            "a complete *.pth file written by robomimic",
            "Take another checkpoint of the run; this one may be half-written.",
        ) from error
    check_metadata(checkpoint, path)
    if checkpoint["algo_name"] != ALGO_NAME:
        return dict(checkpoint)
    # With all keys of today, so that `--set` can name them for checkpoints of any version.
    try:
        today = config_module.config_factory(ALGO_NAME, dic=json.loads(checkpoint["config"]))
    except RuntimeError as error:  # a key that no version had
        raise CheckpointError(
            f"the config in {path} is not of this algorithm ({error})",
            "the config of the run",
            "Take another checkpoint of the run.",
        ) from error
    return checkpoint | {"config": today.dump()}


def _check_bytes(path: Path) -> None:
    """Compare a checkpoint's checksums, which torch writes and does not read.

    Raises:
        CheckpointError: a file that is cut off, or in which a bit has changed.
    """
    if not zipfile.is_zipfile(path):
        damaged: str | None = "no complete archive of torch"
    else:
        try:
            with zipfile.ZipFile(path) as archive:
                name = archive.testzip()
            damaged = None if name is None else f"the checksum of its part {name} is wrong"
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
            damaged = type(error).__name__
    if damaged:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({damaged})",
            "a complete *.pth file written by robomimic",
            "Take another checkpoint of the run; this one is damaged or half-written.",
        )


def check_metadata(checkpoint: Any, path: Path) -> None:
    """Check that what was read has the form of a checkpoint.

    Raises:
        CheckpointError: it has not; the message names the part.
    """
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
    wrong = _wrong_part(checkpoint)
    if wrong is not None:
        raise CheckpointError(
            f"{path}: {wrong[0]}", wrong[1], "Take another checkpoint of the run."
        )


def _wrong_part(checkpoint: dict[str, Any]) -> tuple[str, str] | None:
    """What is wrong with the parts of a checkpoint, and what is expected; None if nothing is."""
    try:
        config = json.loads(checkpoint["config"])
    except (TypeError, ValueError) as error:
        return f"its config is not JSON ({error})", "the config of the run"
    algo = config.get("algo_name") if isinstance(config, dict) else None
    if algo != checkpoint["algo_name"]:
        return f"its config is of {algo!r}", f"that of its algorithm, '{checkpoint['algo_name']}'"
    if not isinstance(checkpoint["model"], dict) or not checkpoint["model"]:
        return f"its model is {_short(checkpoint['model'])}", "a dictionary of weights"
    env, shapes = checkpoint["env_metadata"], checkpoint["shape_metadata"]
    # Several datasets have several (robomimic 0.5.0).
    for one in env if isinstance(env, list) and env else [env]:
        if not isinstance(one, dict) or not isinstance(one.get("type"), int):
            return f"its env_metadata is {_short(one)}", "env_name, type and env_kwargs"
        if not isinstance(one.get("env_name"), str) or not isinstance(one.get("env_kwargs"), dict):
            return f"its env_metadata is {_short(one)}", "env_name, type and env_kwargs"
    for one in shapes if isinstance(shapes, list) and shapes else [shapes]:
        there = one.get("all_shapes") if isinstance(one, dict) else None
        if not isinstance(there, dict) or not there or not _is_count(one.get("ac_dim")):
            return f"its shape_metadata is {_short(one)}", "all_shapes and ac_dim"
        for key, shape in there.items():
            if not isinstance(shape, list | tuple) or not shape or not all(map(_is_count, shape)):
                return f"its shape of '{key}' is {_short(shape)}", "a list of whole numbers"
        if not isinstance(one.get("use_images"), bool):
            return f"its use_images is {_short(one.get('use_images'))}", "true or false"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


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
