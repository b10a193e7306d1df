"""LAPO policies in files that need neither robomimic nor this package nor a simulator."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any, Final

import robomimic.utils.obs_utils as obs_utils
import torch
from torch import Tensor, nn

from robomimic_vae_ext import files
from robomimic_vae_ext.errors import CheckpointError, ConfigError
from robomimic_vae_ext.plugin import ALGO_NAME
from robomimic_vae_ext.rollout import stored_policy

FORMATS: Final = ("torchscript", "safetensors")
NOTE: Final = "lapo.json"  # in a TorchScript archive: what the policy takes and gives


class ExportedPolicy(nn.Module):
    """Raw observations to actions: robomimic's processing of pictures, then `LAPO.get_action`.

    Args:
        algo: LAPO in eval mode, on the CPU.
    """

    def __init__(self, algo: Any) -> None:
        super().__init__()
        self.nets = algo.nets
        self._algo = [algo]  # in a list: it is no module, and is not to be copied

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Act.

        Args:
            obs: key to (B, ...) as the environment shows it, pictures (B, H, W, C) uint8; with
                frame stacking (B, F, ...).

        Returns:
            (B, A), in [-1, 1].
        """
        algo = self._algo[0]
        ready = {
            key: obs_utils.process_obs(obs[key].clone(), obs_key=key).float()
            for key in algo.obs_shapes
        }
        action: Tensor = algo.get_action(obs_dict=ready)
        return action


def export(checkpoint: Path, kind: str, out: Path, trust: bool = False) -> dict[str, Any]:
    """Write the policy of a checkpoint to a file.

    Args:
        checkpoint: of LAPO.
        kind: one of `FORMATS`. TorchScript holds the whole policy; safetensors the weights of all
            networks, with config and shapes as metadata.
        out: the file.
        trust: for `stored_policy.load_checkpoint`.

    Returns:
        The note that is in the file: `observations` (key to shape of the raw observation), `action`
        (its length) and `config`.

    Raises:
        CheckpointError: of another algorithm, or a policy with goals or normalised observations.
        ConfigError: safetensors is asked for and not installed.
    """
    loaded = stored_policy.load_checkpoint(checkpoint, trust)
    if loaded["algo_name"] != ALGO_NAME:
        raise CheckpointError(
            f"{checkpoint} is of the algorithm '{loaded['algo_name']}'",
            f"a checkpoint of {ALGO_NAME}",
            "Choose one of those.",
        )
    with contextlib.redirect_stdout(io.StringIO()):
        rollout_policy = stored_policy.load_policy(loaded, "cpu")
    algo = rollout_policy.policy
    _check(algo, loaded, checkpoint)
    algo.set_eval()
    note = {
        "observations": {key: _raw_shape(algo, key) for key in algo.obs_shapes},
        "action": algo.ac_dim,
        "config": json.loads(loaded["config"]),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(out) as partial:
        if kind == "safetensors":
            _save_weights(algo, note, partial)
        else:
            _save_script(algo, note, partial)
    return note


def _check(algo: Any, loaded: dict[str, Any], path: Path) -> None:
    """Refuse what an exported policy cannot do.

    Raises:
        CheckpointError: goals or normalised observations.
    """
    has = {
        "goals": len(algo.goal_shapes) > 0,
        "normalised observations": loaded.get("obs_normalization_stats") is not None,
    }
    for what, there in has.items():
        if there:
            raise CheckpointError(
                f"the policy in {path} has {what}",
                "one that acts on observations alone, as they are",
                "Export one that was trained without.",
            )


def _raw_shape(algo: Any, key: str) -> list[int]:
    """Shape of an observation as the environment shows it, without batch."""
    shape = list(algo.obs_shapes[key])
    if obs_utils.OBS_KEYS_TO_MODALITIES[key] in ("rgb", "depth"):
        shape = [*shape[1:], shape[0]]
    return [algo.frame_stack, *shape] if algo.frame_stack > 1 else shape


def example(note: dict[str, Any], batch: int = 1) -> dict[str, Tensor]:
    """Made-up raw observations for a note: uint8 where the environment gives pictures."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for key, shape in note["observations"].items():
        if obs_utils.OBS_KEYS_TO_MODALITIES[key] == "rgb":
            found[key] = torch.randint(256, (batch, *shape), generator=generator, dtype=torch.uint8)
        else:
            found[key] = torch.rand((batch, *shape), generator=generator)
    return found


def _save_script(algo: Any, note: dict[str, Any], path: Path) -> None:
    policy = ExportedPolicy(algo).eval().requires_grad_(False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that the config fixes
        # Two rows: with one, a batch could become a constant.
        script = torch.jit.trace(policy, (example(note, batch=2),), strict=False)
        torch.jit.save(script, str(path), _extra_files={NOTE: json.dumps(note)})


def _save_weights(algo: Any, note: dict[str, Any], path: Path) -> None:
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ConfigError(
            "--format safetensors needs the package safetensors, which is not installed",
            "it, or the format torchscript",
            'Run pip install "robomimic_vae_ext[export]".',
        ) from error
    weights = {name: value.contiguous() for name, value in algo.nets.state_dict().items()}
    save_file(weights, str(path), metadata={NOTE: json.dumps(note)})
