"""Runs that are killed with SIGKILL end as those that are not, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.killing import PLACES, Kill, compare, lift_dataset

# Each in what the one before has left to do; `make faults` has more, at random places.
KILLS = [
    Kill("while a file is written", 3),
    Kill("in a step", 8),
    Kill("in a rollout", 5),
    Kill("between steps", 2),
    Kill("at the end of an epoch", 30),
]


@pytest.fixture(scope="module")
def lift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lift_dataset(tmp_path_factory.mktemp("lift") / "lift.hdf5")


@pytest.mark.slow
@pytest.mark.simulator
def test_a_run_killed_five_times(lift: Path, tmp_path: Path) -> None:
    assert {kill.place for kill in KILLS} == set(PLACES)
    outcome = compare(tmp_path, "lapo", lift, rollouts=True, kills=KILLS)
    assert outcome.killed == len(KILLS)
    assert outcome.compared > 1000 and outcome.differing == []


@pytest.mark.slow
def test_a_run_of_another_algorithm(dataset: Path, tmp_path: Path) -> None:
    """CQL counts its steps by itself, and robomimic 0.3.0 saves no optimizer."""
    kills = [Kill("in a step", 14)]
    outcome = compare(tmp_path, "cql", dataset, rollouts=False, kills=kills)
    assert outcome.killed == 1
    assert outcome.compared > 50 and outcome.differing == []
