"""The differences between versions, and errors that travel between processes."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from robomimic_vae_ext import compat, errors
from robomimic_vae_ext.lapo import replay_dataset


def config_with(data: Any) -> Any:
    return SimpleNamespace(train=SimpleNamespace(data=data))


def test_datasets_in_both_notations() -> None:
    assert compat.dataset_paths(config_with("a.hdf5")) == ["a.hdf5"]
    assert compat.dataset_paths(config_with([{"path": "a"}, {"path": "b"}])) == ["a", "b"]


def test_robomimics_dataset_is_untouched_but_for_checks_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, checked = [], []
    monkeypatch.setattr(replay_dataset, "check_datasets", checked.append)
    module: Any = SimpleNamespace(dataset_factory=lambda *args, **kwargs: calls.append(args))
    compat.serve_lapo_dataset(module)
    wrapped = module.dataset_factory
    compat.serve_lapo_dataset(module)
    assert module.dataset_factory is wrapped  # once, however often it is asked for
    bc = SimpleNamespace(algo_name="bc")
    off = SimpleNamespace(
        algo_name="lapo", algo=SimpleNamespace(replay=SimpleNamespace(enabled=False))
    )
    module.dataset_factory(bc, ["x"])
    module.dataset_factory(off, ["x"])
    assert calls == [(bc, ["x"]), (off, ["x"])]
    assert checked == [off]


def test_errors_survive_pickling() -> None:
    error = errors.DatasetError("found this", "that", "Do it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.DatasetError
    assert str(again) == str(error) == "found this; expected that. Do it."
