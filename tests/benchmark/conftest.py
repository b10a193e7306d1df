"""A setting small enough for tests, and results whose ratios are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.benchmark import peers
from tests.conftest import IMAGE_SIZE, image_settings


@pytest.fixture
def setting(tmp_path: Path) -> peers.Setting:
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"algo_name": "lapo"} | image_settings()))
    return peers.Setting("tiny", path, batch_size=2, image_size=IMAGE_SIZE)


def samples(*seconds: float) -> dict[str, Any]:
    return {"seconds": list(seconds), "calls": 1}


def phases(data: float, whole: float) -> dict[str, list[float]]:
    rest = {"process": [0.1], "train": [whole - data - 0.2], "log": [0.1]}
    return {"data": [data], **rest, "whole": [whole]}


def workers(*times: tuple[int, float, float]) -> dict[str, Any]:
    return {
        "few": 2, "many": 12, "few_frames": 200, "many_frames": 1200, "same_outcomes": True,
        "workers": {
            str(count): {"few_seconds": [few], "many_seconds": [many]}
            for count, few, many in times
        },
    }  # fmt: skip


@pytest.fixture
def parts() -> dict[str, Any]:
    """Parts with round numbers: every ratio can be worked out by hand."""
    step = {
        "lapo_critic": samples(1.0, 2.0, 3.0),
        "lapo_vae": samples(2.0, 2.0, 2.0),
        "bcq": samples(12.0, 12.0, 12.0),
        "iql": samples(8.0, 6.0, 3.0),
        "encoder_alone": samples(1.0, 1.6, 2.0),
    }
    ours = [name for name in step if name != "encoder_alone"]
    headline = {
        "batch_size": 64,
        "step": step,
        "log": {name: samples(0.01, 0.01, 0.01) for name in ours},
        "parameters": dict.fromkeys(ours, 1000),
    }
    other = headline | {"step": step | {"bcq": samples(99.0, 99.0, 99.0)}}
    return {
        "steps": {"settings": {"small": other, "resnet18": headline}},
        "data": {
            "batch_size": 256, "transitions": 2000, "raw_image_bytes": 1000,
            "batch": {"replay": samples(0.01), "stock_low_dim_cache": samples(1.0)},
            "memory": {"replay": 1010, "stock_low_dim_cache": 5},
            "epochs": {
                "small": {"replay": phases(0.2, 5.0), "stock_low_dim_cache": phases(9.0, 10.0)},
                "resnet18": {"replay": phases(0.1, 10.0)},
            },
        },
        "train": {
            "setting": "small", "batch_size": 128, "epoch_steps": 10,
            "runs": {"lapo, replay": phases(0.1, 2.0)}, "process": {"lapo, replay": [9.0]},
        },
        "rollouts": workers((1, 5.0, 45.0), (2, 10.0, 30.0)) | {"horizon": 100},
        "collect": workers((1, 5.0, 45.0), (2, 10.0, 9.0)),
    }  # fmt: skip
