"""The replay serves what a plain computation from the file gives, whatever the file is like.

FUZZ_EXAMPLES: how many files are tried (`make fuzz`).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

import pytest
import robomimic.algo  # noqa: F401  # registers our cores
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import plain_replay
from tests.fuzz.plain_replay import Example, examples

COUNT = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@pytest.fixture
def config(make_config: Callable[..., Any]) -> Any:
    low_dim = [key for key, shape in plain_replay.KEYS.items() if len(shape) == 1]
    rgb = [key for key, shape in plain_replay.KEYS.items() if len(shape) == 3]
    made: Any = make_config(
        {
            "observation": {
                "modalities": {"obs": {"low_dim": low_dim, "rgb": rgb}},
                "encoder": {"rgb": {"obs_randomizer_class": None, "obs_randomizer_kwargs": {}}},
            }
        }
    )
    return made


def test_batches_are_those_of_a_plain_computation(config: Any) -> None:
    seen = {"files": 0, "transitions": 0}

    @settings(
        max_examples=COUNT,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(example=examples())
    def check(example: Example) -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            seen["transitions"] += plain_replay.check(config, example)
        seen["files"] += 1

    check()
    print(f"FUZZ {seen['files']} files, {seen['transitions']} transitions")
    assert seen["files"] >= COUNT


@settings(max_examples=5, deadline=None, database=None, derandomize=True)
@given(wrong=st.sampled_from(["rewards", "next_obs", "actions"]), example=examples())
def test_the_comparison_finds_a_wrong_transition(wrong: str, example: Example) -> None:
    """The plain computation depends on every column: with another one it differs."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        demos = plain_replay.write(Path(folder) / "x.hdf5", example)
    before = plain_replay.plain(demos, example)
    demo = next(iter(demos.values()))
    name = "next_obs/robot0_eef_pos" if wrong == "next_obs" else wrong
    demo[name] = demo[name].astype("f8") + 1
    after = plain_replay.plain(demos, example)
    assert any(
        (one[key] != two[key]) if key in ("rewards", "discounts") else (one[key] != two[key]).any()
        for one, two in zip(before, after, strict=True)
        for key in one
    )
