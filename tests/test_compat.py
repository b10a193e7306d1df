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


IS_OLD = not compat.has_time_folder()


@pytest.mark.parametrize(
    "data",
    ["a.hdf5", ["a.hdf5"], {"path": "a.hdf5"}, [{"path": "a.hdf5"}], ("a.hdf5",),
     [{"path": "a.hdf5", "weight": 2.0}]],
)  # fmt: skip
def test_one_dataset_in_every_notation(data: Any) -> None:
    readable = compat.readable_data(data)
    assert compat.dataset_paths(config_with(data)) == ["a.hdf5"]
    assert compat.dataset_paths(config_with(readable)) == ["a.hdf5"]
    if IS_OLD:
        assert readable == "a.hdf5"
    else:
        assert isinstance(data, str) or readable[0]["path"] == "a.hdf5"


@pytest.mark.parametrize("data", [[], 3, [3], [None], {}, [{}], [{"path": 1}], "", [["a"]], True])
def test_what_is_no_dataset(data: Any) -> None:
    with pytest.raises(errors.ConfigError, match=r"train\.data"):
        compat.readable_data(data)


@pytest.mark.parametrize(
    "data", [["a", "b"], [{"path": "a"}, "b"], [{"path": "a", "filter_key": "x"}]]
)
def test_what_only_a_later_robomimic_reads(data: Any) -> None:
    if not IS_OLD:
        assert len(compat.readable_data(data)) == len(data)
        return
    with pytest.raises(errors.ConfigError, match=r"robomimic 0\.3"):
        compat.readable_data(data)


def test_errors_survive_pickling() -> None:
    error = errors.DatasetError("found this", "that", "Do it.")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is errors.DatasetError
    assert str(again) == str(error) == "found this; expected that. Do it."


def test_errors_are_one_line_of_utf8() -> None:
    text = str(errors.DatasetError("two\nlines \udc80 \x1b[2J", "é", "Do."))
    assert text.splitlines() == [text] and "é" in text
    assert text.encode() and "\x1b" not in text
