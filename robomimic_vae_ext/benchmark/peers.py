"""The contenders: LAPO with each owner of the encoder, and robomimic's algorithms, on one batch.

All have the observations, shapes and encoder of the same config file; head sizes and learning rates
are the defaults of each algorithm.
"""

from __future__ import annotations

import contextlib
import io
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import robomimic.algo
import robomimic.utils.obs_utils as obs_utils
import torch

from robomimic_vae_ext import audit
from robomimic_vae_ext.lapo.config import OWNERS

OURS = tuple(f"lapo_{owner}" for owner in OWNERS)
PEERS = ("bcq", "iql", "td3_bc", "bc")

# Changes to a peer's defaults. BCQ's leave out its perturbation actor and its CVAE; TD3-BC's are
# made for low-dimensional observations.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "bcq": {"algo": {"actor": {"enabled": True}, "action_sampler": {"vae": {"enabled": True}}}},
    "td3_bc": {"train": {"hdf5_normalize_obs": False}},
}
# TD3-BC updates its actor every second step.
MULTIPLES = {"td3_bc": 2}


@dataclass(frozen=True)
class Setting:
    """Encoder and batch that all contenders are built for.

    Args:
        name: in the results.
        config: JSON of a lapo config; all contenders get its observations and encoder.
        batch_size: transitions of a gradient step.
        image_size: height and width of the images [pixel].
    """

    name: str
    config: Path
    batch_size: int
    image_size: int = audit.IMAGE_SIZE


@dataclass
class Peer:
    """One algorithm with its batch in its own format, on the device.

    Args:
        name: one of `OURS` and `PEERS`.
        model: robomimic Algo in training mode.
        batch: as `train_on_batch` takes it.
        info: result of the last gradient step.
    """

    name: str
    model: Any
    batch: Any
    info: Any = field(default=None, repr=False)

    def step(self) -> None:
        """One gradient step."""
        self.info = self.model.train_on_batch(self.batch, epoch=1, validate=False)

    def log(self) -> None:
        """Convert the result of the last step to numbers, as training does after every step."""
        self.model.log_info(self.info)


class EncoderAlone:
    """A lower bound for any algorithm with one shared encoder.

    Forward and backward on obs and forward on next_obs, with LAPO's encoder, called as in its
    training step; without heads and optimizer.

    Args:
        peer: one of `OURS`, used for nothing else.
    """

    def __init__(self, peer: Peer) -> None:
        self.model, self.batch = peer.model, peer.batch
        self.parameters = list(self.model.obs_encoder.parameters())
        with torch.no_grad():
            features = self._encode("obs")
        self.gradient = torch.randn_like(features)  # (B, D), in place of the heads' gradient

    def _encode(self, name: str) -> torch.Tensor:
        return self.model.encode(self.batch[name], self.batch["goal_obs"])

    def step(self) -> None:
        """Encode both observations, one of them with its backward pass."""
        for parameter in self.parameters:
            parameter.grad = None
        self._encode("obs").backward(self.gradient)
        with torch.no_grad():
            self._encode("next_obs")


def load_config(setting: Setting, name: str, changes: Mapping[str, Any] | None = None) -> Any:
    """Locked robomimic config of a contender.

    Args:
        setting: its observations and batch size.
        name: one of `OURS` and `PEERS`.
        changes: nested values that override all others.

    Raises:
        AuditError: the config file cannot be read, or robomimic refuses it.
    """
    algo, _, owner = name.partition("_") if name in OURS else (name, "", "")
    config = audit.load_config(setting.config, algo, None)
    with config.values_unlocked():
        config.update(CHANGES.get(name, {}))
        if owner:
            config.algo.encoder.owner = owner
        config.train.batch_size = setting.batch_size
        config.update(changes or {})
    config.lock()
    return config


def announce_observations(config: Any) -> None:
    """Set robomimic's global tables of keys and modalities, without its printing."""
    with contextlib.redirect_stdout(io.StringIO()):
        obs_utils.initialize_obs_utils_with_config(config)


def build(config: Any, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> Any:
    """Build a model in training mode, always with the same seed.

    Args:
        config: from `load_config`.
        shapes: from `raw_shapes`.
        device: of the training.
    """
    announce_observations(config)
    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):  # BCQ's networks print their inputs
        model = robomimic.algo.algo_factory(
            algo_name=config.algo_name,
            config=config,
            obs_key_shapes=processed_shapes(shapes),
            ac_dim=audit.ACTION_DIM,
            device=device,
        )
    model.set_train()
    return model


def raw_shapes(config: Any, image_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of one frame as a dataset stores them: key to (H, W, C) or (D,)."""
    known, other = audit.KNOWN_DIMS, audit.OTHER_DIM
    pictures = set(config.observation.modalities.obs.rgb)
    return {
        key: (image_size, image_size, 3) if key in pictures else (known.get(key, other),)
        for key in sorted(config.all_obs_keys)
    }


def processed_shapes(shapes: Mapping[str, tuple[int, ...]]) -> OrderedDict[str, list[int]]:
    """Shapes of one frame as networks get them: key to [C, H, W] or [D]."""
    modality = obs_utils.OBS_KEYS_TO_MODALITIES
    return OrderedDict(
        (key, list(obs_utils.get_processed_shape(modality[key], list(shape))))
        for key, shape in shapes.items()
    )


def raw_batch(shapes: Mapping[str, tuple[int, ...]], size: int, length: int) -> dict[str, Any]:
    """Random batch as from robomimic's DataLoader.

    Args:
        shapes: from `raw_shapes`.
        size: B, windows.
        length: T, steps of a window; algorithms that need one step use the first.

    Returns:
        `obs`, `next_obs`: key to (B, T, ...), images uint8; `actions`: (B, T, A), in [-1, 1];
        `rewards`, `dones`: (B, T), 0 or 1.
    """
    random = torch.Generator().manual_seed(0)

    def observations() -> dict[str, torch.Tensor]:
        return {
            key: torch.randint(0, 256, (size, length, *shape), dtype=torch.uint8, generator=random)
            if len(shape) == 3
            else torch.randn(size, length, *shape, generator=random)
            for key, shape in shapes.items()
        }

    return {
        "obs": observations(),
        "next_obs": observations(),
        "actions": torch.rand(size, length, audit.ACTION_DIM, generator=random) * 2 - 1,
        "rewards": (torch.rand(size, length, generator=random) < 0.2).float(),
        "dones": (torch.rand(size, length, generator=random) < 0.1).float(),
    }


def make_peer(setting: Setting, name: str, device: torch.device) -> Peer:
    """Build a contender with the setting's batch in its own format."""
    config = load_config(setting, name)
    shapes = raw_shapes(config, setting.image_size)
    model = build(config, shapes, device)
    length = load_config(setting, OURS[0]).train.seq_length
    batch = model.process_batch_for_training(raw_batch(shapes, setting.batch_size, length))
    batch = model.postprocess_batch_for_training(batch, obs_normalization_stats=None)
    return Peer(name, model, batch)
