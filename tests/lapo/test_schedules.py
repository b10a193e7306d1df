"""Learning rate schedules: what the installed robomimic does, and all else refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robomimic_vae_ext import compat
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.training import training_config

Make = Callable[..., Any]
IS_OLD = not compat.schedules_every_batch()


def rate(**changes: Any) -> dict[str, Any]:
    learning_rate = {"initial": 1.0, "decay_factor": 0.1} | changes
    return {"algo": {"optim_params": {"critic": {"learning_rate": learning_rate}}}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "typo": ({"scheduler_type": "multistpe"}, "scheduler_type"),
    "typo with schedule": ({"scheduler_type": "Linear", "epoch_schedule": [3]}, "scheduler_type"),
    "null": ({"scheduler_type": None}, "scheduler_type"),
    "list": ({"scheduler_type": ["linear"]}, "scheduler_type"),
    "linear without": ({"scheduler_type": "linear"}, "epoch_schedule"),
    "linear with two": ({"scheduler_type": "linear", "epoch_schedule": [2, 4]}, "epoch_schedule"),
    "cosine by epochs": ({"scheduler_type": "cosine"}, "cosine"),
    "not epochs": ({"epoch_schedule": [0.5]}, "epoch_schedule"),
    "every batch of what": ({"step_every_batch": "yes"}, "step_every_batch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_schedule_that_would_not_be_followed(make_config: Make, case: str) -> None:
    changes, named = REFUSED[case]
    with pytest.raises(ConfigError, match=named):
        make_config(rate(**changes))


@pytest.mark.parametrize("case", ["typo", "linear without", "linear with two"])
def test_the_same_for_other_algorithms(case: str, tmp_path: Path) -> None:
    changes, named = REFUSED[case]
    values = {
        "algo_name": "bc",
        "algo": {"optim_params": {"policy": {"learning_rate": changes}}},
    }
    with pytest.raises(ConfigError, match=f"algo.optim_params.policy.*{named}"):
        training_config.check_run(training_config.config_from(values, "test"), tmp_path)
    for name in ("bc", "hbc", "iris", "iql"):
        training_config.check_run(training_config.config_from({"algo_name": name}, "t"), tmp_path)


@pytest.mark.skipif(not IS_OLD, reason="robomimic 0.5.0 has both")
@pytest.mark.parametrize(
    "changes", [{"scheduler_type": "cosine", "step_every_batch": True}, {"step_every_batch": True}]
)
def test_what_came_with_a_later_robomimic(make_config: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"robomimic 0\.[35]"):
        make_config(rate(**changes))


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1.0] * 5),
        ({"epoch_schedule": [2, 4]}, [1.0, 1.0, 0.1, 0.1, 0.01]),
        ({"scheduler_type": "linear", "epoch_schedule": [3]}, [1.0, 0.7, 0.4, 0.1, 0.1]),
    ],
)
def test_schedules_that_are_followed(
    make_model: Make, changes: dict[str, Any], rates: list[float]
) -> None:
    model = make_model(rate(**changes))
    found = []
    for epoch in range(1, 6):
        found.append(model.optimizers["critic"].param_groups[0]["lr"])
        model.optimizers["critic"].step()
        model.on_epoch_end(epoch)
    torch.testing.assert_close(found, rates)
