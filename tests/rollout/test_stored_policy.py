"""Checkpoints are data: what else a file holds is refused, before anything of it runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext.errors import CheckpointError
from robomimic_vae_ext.rollout import stored_policy


@pytest.fixture(scope="module")
def good(checkpoint: Callable[[str], Path]) -> dict[str, Any]:
    return stored_policy.load_checkpoint(checkpoint("lapo"))


SHAPES: dict[str, Any] = {"all_shapes": {"object": [10]}, "ac_dim": 7, "use_images": False}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", None), ("model", {}), ("model", 3),
        ("config", None), ("config", "{"), ("config", "7"), ("config", '{"algo_name": "bc"}'),
        ("algo_name", None), ("algo_name", "bc"), ("algo_name", "lapoo"), ("algo_name", ["lapo"]),
        ("env_metadata", {}), ("env_metadata", None), ("env_metadata", 5), ("env_metadata", []),
        ("env_metadata", {"type": "1", "env_name": "Lift", "env_kwargs": {}}),
        ("env_metadata", {"type": 1, "env_name": None, "env_kwargs": {}}),
        ("env_metadata", {"type": 1, "env_name": "Lift", "env_kwargs": 3}),
        ("shape_metadata", {}), ("shape_metadata", None), ("shape_metadata", 1),
        ("shape_metadata", SHAPES | {"all_shapes": {}}),
        ("shape_metadata", SHAPES | {"all_shapes": {"object": 10}}),
        ("shape_metadata", SHAPES | {"all_shapes": {"object": [-10]}}),
        ("shape_metadata", SHAPES | {"ac_dim": None}),
        ("shape_metadata", SHAPES | {"use_images": None}),
    ],
)  # fmt: skip
def test_wrong_metadata_is_one_message(
    good: dict[str, Any], tmp_path: Path, key: str, value: Any
) -> None:
    path = tmp_path / "bad.pth"
    torch.save(good | {key: value}, path)
    with pytest.raises(CheckpointError, match=str(path)) as caught:
        stored_policy.load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, 5, [], {}, {"model": {}}])
def test_other_contents_are_one_message(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "bad.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="lacks"):
        stored_policy.load_checkpoint(path)


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_code_in_a_checkpoint_runs_only_if_it_is_trusted(
    good: dict[str, Any], tmp_path: Path
) -> None:
    path, trace = tmp_path / "bomb.pth", tmp_path / "trace"
    torch.save(good | {"note": Bomb(trace)}, path)
    with pytest.raises(CheckpointError, match="--trust"):
        stored_policy.load_checkpoint(path)
    assert not trace.exists()
    loaded = stored_policy.load_checkpoint(path, trust=True)  # as the message says
    assert trace.exists() and loaded["algo_name"] == "lapo"


def test_numbers_of_numpy_are_data(good: dict[str, Any], tmp_path: Path) -> None:
    """robomimic 0.5.0 writes the best scores of a run as such."""
    import numpy as np

    path = tmp_path / "scores.pth"
    torch.save(good | {"variable_state": {"best_return": {"Lift": np.float64(0.5)}}}, path)
    loaded = stored_policy.load_checkpoint(path)
    assert loaded["variable_state"]["best_return"] == {"Lift": 0.5}


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_bit_that_has_changed_is_found(
    checkpoint: Callable[[str], Path], tmp_path: Path, place: float
) -> None:
    path = tmp_path / "flipped.pth"
    content = bytearray(checkpoint("lapo").read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    before = stored_policy.load_checkpoint(checkpoint("lapo"))["model"]["nets"]
    try:
        after = stored_policy.load_checkpoint(path)["model"]["nets"]
    except CheckpointError as error:
        assert "damaged" in error.action
    else:  # the bit was in the padding between two tensors
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_good_file_and_a_cut_one(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.pth"
    path.write_bytes(checkpoint("lapo").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged or half-written"):
        stored_policy.load_checkpoint(path)
    assert json.loads(stored_policy.load_checkpoint(checkpoint("lapo"))["config"])
