"""What moves Q in a picture, on models and pictures where it is known."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from robomimic_vae_ext.study import saliency, study_plots, tables
from tests.conftest import CAMERAS, IMAGE_SIZE, OBS_DIMS

RED, GREEN = (190, 40, 45), (60, 140, 70)
RED_AT, GREEN_AT = (slice(8, 14), slice(8, 14)), (slice(26, 32), slice(26, 32))


def picture(hidden: bool = False) -> np.ndarray:
    """Two squares on a light table, or the red one alone."""
    found = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 240, dtype=np.uint8)
    found[:6] = 90
    found[RED_AT] = RED
    if not hidden:
        found[GREEN_AT] = GREEN
    return found


@pytest.fixture
def play(tmp_path: Path) -> Path:
    """Four held-out demonstrations; in the last one the green cube is hidden."""
    path = tmp_path / "play.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "PlayLift"})
        for index in range(4):
            demo = file.create_group(f"data/demo_{index}")
            demo["actions"] = np.zeros((3, 7))
            for key, size in OBS_DIMS.items():
                demo[f"obs/{key}"] = np.zeros((3, size))
            for key in CAMERAS:
                demo[f"obs/{key}"] = np.stack([picture(hidden=index == 3)] * 3)
        file["mask/valid"] = [f"demo_{index}".encode() for index in range(4)]
    return path


def test_cubes_are_found_and_nothing_else() -> None:
    red, green = saliency.cubes(picture())
    assert red.sum() == green.sum() == 36
    assert red[RED_AT].all() and green[GREEN_AT].all()
    assert not any(mask.any() for mask in saliency.cubes(np.full((9, 9, 3), 130, np.uint8)))


def test_a_window_reaches_so_many_pixels_further() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 0] = True
    expected = np.zeros((9, 9), dtype=bool)
    expected[2:7, :3] = True
    assert np.array_equal(saliency.widen(mask, 2), expected)


def test_views_show_both_cubes(play: Path, dataset: Path) -> None:
    assert saliency.has_cubes(play) and not saliency.has_cubes(dataset)
    found = saliency.views(play)
    assert len(found) == 3
    shares = found[0].shares(found[0].red.astype(float))
    assert shares == (1.0, 0.0, 0.0)
    assert sum(found[0].shares(np.random.default_rng(0).uniform(size=(44, 44)))) == 1.0


def test_swapping_colours_is_its_own_inverse(play: Path) -> None:
    view = saliency.views(play)[0]
    swapped = view.swapped()
    for key in CAMERAS:
        assert tuple(swapped[key][0, 10, 10]) == (RED[1], RED[0], RED[2])
        assert np.array_equal(swapped[key][0, 40], view.obs[key][0, 40])
    back = saliency.View(swapped, view.action, view.red, view.green).swapped()
    assert np.array_equal(back[CAMERAS[0]], view.obs[CAMERAS[0]])
    assert np.array_equal(swapped["object"], view.obs["object"])


def linear(weights: torch.Tensor) -> Any:
    """A model whose Q is a weighted sum of the first camera's picture (3, H, W)."""

    def mixed_q(obs: dict[str, torch.Tensor], actions: torch.Tensor) -> torch.Tensor:
        return (obs[saliency.CAMERA] * weights).flatten(1).sum(dim=1)

    return SimpleNamespace(
        obs_shapes={saliency.CAMERA: None}, device=torch.device("cpu"), mixed_q=mixed_q
    )


def test_the_gradient_of_a_linear_q_is_its_weights(
    play: Path, make_config: Callable[..., Any]
) -> None:
    make_config()  # robomimic must know which observations are pictures
    view = saliency.views(play)[0]
    weights = torch.zeros(3, IMAGE_SIZE, IMAGE_SIZE)
    weights[0][RED_AT] = -2.0
    found = saliency.gradient(linear(weights), view)
    assert np.allclose(found, weights.abs().sum(dim=0), atol=1e-5)
    assert view.shares(found) == (1.0, 0.0, 0.0)
    red = saliency.value(linear(weights), view.obs, view.action)
    assert red == pytest.approx(-2 * 36 * RED[0] / 255, rel=1e-4)
    assert saliency.value(linear(weights), view.swapped(), view.action) == pytest.approx(
        -2 * 36 * RED[1] / 255, rel=1e-4
    )


def test_a_q_that_does_not_see_the_camera_has_no_shares(
    play: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = saliency.views(play)
    nothing = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    some = nothing.copy()
    some[found[0].red] = 1.0
    values = [0.0] * len(found)

    def models(*maps: list[np.ndarray]) -> Any:
        looks = {
            ("vae", seed): saliency.Look(each, values, values, 0.5)
            for seed, each in enumerate(maps)
        }
        return saliency.TaskLook(found, looks)

    task = models([some, nothing, nothing], [nothing] * 3)
    first, second = task.as_dict()["models"]
    assert first["shares"] == [1.0, 0.0, 0.0] and first["flat"] == 2
    assert second["shares"] is None and second["flat"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a division by zero
        study_plots.saliency(models([nothing] * 3), ["vae"], play.parent, "blind")
        row = table_row(task.as_dict())
    assert row == ["`vae`", "2", "1", "0", "0", "0", "0.5", "5 of 6"]
    old = task.as_dict()
    for model in old["models"]:
        del model["dead"], model["flat"]
    assert table_row(old)[-2:] == ["–", "0 of 6"]


def table_row(found: Any) -> list[str]:
    text = tables.saliency(SimpleNamespace(arms=("vae",)), found)  # type: ignore[arg-type]
    (line,) = [line for line in text.splitlines() if line.startswith("| `vae`")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_dead_features_are_those_that_no_picture_changes(
    play: Path, make_model: Callable[..., Any]
) -> None:
    model = make_model()
    model.set_eval()
    rng = np.random.default_rng(0)
    found = [
        saliency.View(
            {**view.obs, saliency.CAMERA: rng.integers(0, 256, view.obs[saliency.CAMERA].shape)
             .astype(np.uint8)}, view.action, view.red, view.green,
        )
        for view in saliency.views(play)
    ]  # fmt: skip
    core = model.obs_encoder.nets.nets["obs"].obs_nets[saliency.CAMERA]
    assert saliency.dead_features(model, found) < 1
    last = [layer for layer in core.modules() if isinstance(layer, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        last.bias[:2] = -10.0  # two of four channels
        last.bias[2:] = 10.0
    assert saliency.dead_features(model, found) == 0.5
    assert not core._forward_hooks


def test_models_of_a_task_in_numbers_and_a_figure(
    play: Path, dataset: Path, make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.image

    model = make_model()
    model.set_eval()
    monkeypatch.setattr(saliency.restore, "load_checkpoint", lambda path: path)
    monkeypatch.setattr(saliency.measure, "load_policy", lambda _: model)
    checkpoints = {("vae", 1): Path("a"), ("vae", 2): Path("b"), ("critic", 1): Path("c")}
    assert saliency.look_at(dataset, checkpoints) is None  # not PlayLift
    found = saliency.look_at(play, checkpoints)
    assert found is not None
    values = found.as_dict()
    assert values["views"] == 3 and len(values["models"]) == 3
    assert values["pixels"][0] == pytest.approx(100 / 44**2, abs=1e-4)  # (6 + 2 * 2)^2
    for entry in values["models"]:
        assert sum(entry["shares"]) == pytest.approx(1.0, abs=1e-3) and entry["swap"] > 0
    assert found.looks["vae", 1].q[0] == pytest.approx(_value(model, found.views[0]), rel=1e-5)
    study_plots.saliency(found, ["critic", "vae"], play.parent, "play")
    name = study_plots.saliency_figure("play").name
    assert matplotlib.image.imread(play.parent / name)[..., :3].std() > 0.05


def _value(model: Any, view: saliency.View) -> float:
    """Q by the algorithm's own networks: the smaller one of both critics."""
    keys = model.obs_shapes
    obs = {key: saliency.measure.process(view.obs[key], key, model)[:, None] for key in keys}
    with torch.no_grad():
        features = model.encode(obs)
        q = model.nets["critic"].q_values(features, torch.from_numpy(view.action).float())
    return float(q.min())
