"""What moves Q in pictures of PlayLift: gradients by pixel, and the colours of the two cubes.

A gradient says where Q is sensitive to noise, not what it has understood there; so the cubes also
swap their colours, which turns a rewarded step into one that is not.

For LAPO, whose `mixed_q` keeps its graph; other algorithms answer for values without one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from robomimic_vae_ext.data import hdf5
from robomimic_vae_ext.lapo import obs_encoder
from robomimic_vae_ext.rollout import stored_policy
from robomimic_vae_ext.study import measure

ENVIRONMENT: Final = "PlayLift"
CAMERA: Final = "agentview_image"
COPIES: Final = 16  # noisy copies of a picture, whose gradients are averaged
NOISE: Final = 0.05  # standard deviation; pictures are in [0, 1]
MARGIN: Final = 2  # [pixel] around a cube that still counts as the cube: its edges are what is seen
SMALLEST: Final = 20  # [pixel] of a cube, below which it is hidden
PICTURES: Final = 20  # at most


@dataclass(frozen=True)
class View:
    """One held-out step in which both cubes can be seen apart.

    Args:
        obs: key to (1, ...), as stored.
        action: (1, A), of the demonstration.
        red, green: (H, W) bool, windows around the cubes.
    """

    obs: Mapping[str, np.ndarray]
    action: np.ndarray
    red: np.ndarray
    green: np.ndarray

    def swapped(self) -> dict[str, np.ndarray]:
        """The observation with the colours of the cubes swapped in all pictures."""
        obs = dict(self.obs)
        for key in obs:
            if key.endswith("_image"):
                picture = obs[key][0].copy()
                coloured = np.logical_or(*cubes(picture))
                picture[coloured] = picture[coloured][:, [1, 0, 2]]
                obs[key] = picture[None]
        return obs

    @property
    def picture(self) -> np.ndarray:
        """What the camera saw: (H, W, 3) uint8."""
        return self.obs[CAMERA][0]

    def shares(self, weights: np.ndarray) -> tuple[float, float, float]:
        """Shares of weights (H, W), not negative and not all 0: around red, around green, else."""
        total = weights.sum()
        red, green = (float(weights[window].sum() / total) for window in (self.red, self.green))
        return red, green, 1 - red - green


class Look(NamedTuple):
    """What one model makes of every view.

    Args:
        maps: (H, W) each, absolute gradient of Q by the picture.
        q: Q(s, a).
        q_swapped: Q(s, a) once the two cubes have swapped their colours.
        dead: share of the camera's features that are the same for every view.
    """

    maps: list[np.ndarray]
    q: list[float]
    q_swapped: list[float]
    dead: float


@dataclass(frozen=True)
class TaskLook:
    """What all models of a task look at: arm and seed to its look."""

    views: Sequence[View]
    looks: Mapping[tuple[str, int], Look]

    def as_dict(self) -> dict[str, Any]:
        """Numbers of all models, plain types.

        Of each its `shares` (None if no picture moves Q), the number `flat` of pictures that do not
        move Q, `swap`, how far Q moves with the colours, and its `dead` features.
        """
        pixels = [np.ones(view.red.shape) for view in self.views]
        return {
            "views": len(self.views),
            "pixels": _mean_shares(pixels, self.views),
            "models": [
                {
                    "arm": arm,
                    "seed": seed,
                    "shares": _mean_shares(it.maps, self.views),
                    "flat": sum(not weights.any() for weights in it.maps),
                    "swap": round(float(np.mean(np.abs(np.subtract(it.q, it.q_swapped)))), 4),
                    "dead": round(it.dead, 4),
                }
                for (arm, seed), it in self.looks.items()
            ],
        }


def has_cubes(dataset: Path) -> bool:
    """Whether a dataset is of the task with two cubes, seen by the camera."""
    if not dataset.is_file():
        return False
    with hdf5.open_dataset(dataset) as file:
        name = json.loads(file["data"].attrs["env_args"])["env_name"]
        first = next(iter(file["data"].values()))
        return name == ENVIRONMENT and CAMERA in first["obs"]


def views(dataset: Path, mask: str = "valid") -> list[View]:
    """The middle step of each held-out demonstration, where both cubes can be seen apart.

    Args:
        dataset: HDF5 file of PlayLift.
        mask: name of the list of demonstrations below `mask/`.
    """
    found = []
    with hdf5.open_dataset(dataset) as file:
        for name in file[f"mask/{mask}"][()]:
            demo = file[f"data/{name.decode()}"]
            step = len(demo["actions"]) // 2
            obs = {key: values[step : step + 1] for key, values in demo["obs"].items()}
            red, green = cubes(obs[CAMERA][0])
            if min(red.sum(), green.sum()) < SMALLEST:
                continue
            red, green = widen(red, MARGIN), widen(green, MARGIN)
            if not (red & green).any():
                found.append(View(obs, demo["actions"][step : step + 1], red, green))
    return found[:PICTURES]


def cubes(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the red and of the green cube in (H, W, 3) uint8; all else is grey or brown."""
    r, g, b = (picture[..., channel].astype(float) for channel in range(3))
    red = (r > 1.8 * np.maximum(g, b)) & (r > 60)
    green = (g > 1.3 * np.maximum(r, b)) & (g > 40)
    return red, green


def widen(mask: np.ndarray, by: int) -> np.ndarray:
    """Every pixel that is at most `by` rows and columns from one of the mask."""
    height, width = mask.shape
    padded = np.pad(mask, by)
    shifts = range(2 * by + 1)
    return np.any([padded[y : y + height, x : x + width] for y in shifts for x in shifts], axis=0)


def gradient(algo: Any, view: View) -> np.ndarray:
    """Absolute gradient of Q(s, a) by the picture: (H, W), summed over colours.

    Averaged over noisy copies before its absolute value is taken.

    Args:
        algo: LAPO in eval mode, without frame stacking.
        view: what it sees.

    Source: SmoothGrad, arXiv 1706.03825.
    """
    obs = {key: measure.process(view.obs[key], key, algo) for key in algo.obs_shapes}
    generator = torch.Generator().manual_seed(0)  # the same noise for every model
    shape = (COPIES, *obs[CAMERA].shape[1:])
    noise = NOISE * torch.randn(shape, generator=generator).to(algo.device)
    copies = {key: value.expand(COPIES, *value.shape[1:]) for key, value in obs.items()}
    picture = (copies[CAMERA] + noise).requires_grad_()
    copies[CAMERA] = picture
    actions = torch.from_numpy(view.action).float().to(algo.device).expand(COPIES, -1)
    (found,) = torch.autograd.grad(algo.mixed_q(copies, actions).sum(), picture)
    return found.mean(dim=0).abs().sum(dim=0).cpu().numpy().astype(np.float64)


def value(algo: Any, obs: Mapping[str, np.ndarray], action: np.ndarray) -> float:
    """Q of one observation as stored, and an action (1, A)."""
    tensors = {key: measure.process(obs[key], key, algo) for key in algo.obs_shapes}
    with torch.no_grad():
        return float(algo.mixed_q(tensors, torch.from_numpy(action).float().to(algo.device)))


def look(checkpoint: Path, found: Sequence[View]) -> Look | None:
    """What one model makes of some views; None where it stacks frames or lacks the camera."""
    algo = measure.load_policy(stored_policy.load_checkpoint(checkpoint))
    if algo.global_config.train.frame_stack > 1 or CAMERA not in algo.obs_shapes:
        return None
    algo.set_eval()
    return Look(
        maps=[gradient(algo, view) for view in found],
        q=[value(algo, view.obs, view.action) for view in found],
        q_swapped=[value(algo, view.swapped(), view.action) for view in found],
        dead=dead_features(algo, found),
    )


def dead_features(algo: Any, found: Sequence[View]) -> float:
    """Share of the features that the critic's encoder makes of the camera and that never change.

    A ReLU that is negative for every picture is one, and gets no gradient to leave that.

    Args:
        algo: LAPO in eval mode, without frame stacking.
        found: at least two views.
    """
    core = algo.obs_encoder.nets.nets["obs"].obs_nets[CAMERA]
    outputs = []
    handle = core.register_forward_hook(lambda core, inputs, output: outputs.append(output))
    try:
        for view in found:
            value(algo, view.obs, view.action)
    finally:
        handle.remove()
    return float(obs_encoder.dead_share(torch.cat(outputs)))  # of (views, D)


def look_at(dataset: Path, checkpoints: Mapping[tuple[str, int], Path]) -> TaskLook | None:
    """What the models of a task look at.

    Args:
        dataset: of the task.
        checkpoints: arm and seed to a checkpoint of LAPO.

    Returns:
        None for another task than PlayLift, or where nothing can be seen.
    """
    found = views(dataset) if has_cubes(dataset) else []
    if not found:
        return None
    looks = {key: look(path, found) for key, path in checkpoints.items()}
    kept = {key: it for key, it in looks.items() if it is not None}
    return TaskLook(found, kept) if kept else None


def _mean_shares(weights: Sequence[np.ndarray], found: Sequence[View]) -> list[float] | None:
    """Mean over views of where the weights of each lie: red, green, elsewhere.

    A view whose weights are all 0 has no shares; None if every one is such.
    """
    rows = [view.shares(w) for view, w in zip(found, weights, strict=True) if w.any()]
    return [round(float(share), 4) for share in np.mean(rows, axis=0)] if rows else None
