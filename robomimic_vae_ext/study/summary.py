"""The records of a study by task, arm and seed, and estimates over its seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from robomimic_vae_ext.study import records, statistics
from robomimic_vae_ext.study.records import Record
from robomimic_vae_ext.study.statistics import Estimate

# Medians, since some are infinite: steps to what is never reached, and 0 times as fast there.
MEDIANS = {
    "steps_to_reference": statistics.median,
    "speed_up": statistics.median_speed,
    "speed_up_settled": statistics.median_speed,
}
FIX = "critic"  # the arm that the card's claims are about


@dataclass(frozen=True)
class Summary:
    """Finished jobs of a study, and what was planned.

    Args:
        tasks, arms, seeds: planned, in the order of the study's file.
        reference: arm that the others are compared with.
        claims_of: arms that the claims are asked of; empty: the one that can be found.
        references: arms that are compared with another one than `reference`, and with which.
        groups: title to the arms that share a row of panels in the figures; empty: all share one.
        records: of the finished jobs, none twice, none that was not planned.
    """

    tasks: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: str
    records: tuple[Record, ...]
    claims_of: tuple[str, ...] = ()
    references: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def by_key(self) -> dict[tuple[str, str, int], Record]:
        """Task, arm and seed to the job's record."""
        return {record.key: record for record in self.records}

    @cached_property
    def measures(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """Task, arm and seed to the job's measures, in the order of the plan."""
        return {
            key: records.measures(
                self.by_key[key], self.by_key.get((key[0], self.reference_of(key[1]), key[2]))
            )
            for key in self.planned
            if key in self.by_key
        }

    def reference_of(self, arm: str) -> str:
        """The arm that the claims compare this one with; of the reference, itself."""
        return self.references.get(arm, self.reference)

    @property
    def planned(self) -> list[tuple[str, str, int]]:
        """Every job of the plan."""
        return list(itertools.product(self.tasks, self.arms, self.seeds))

    @property
    def missing(self) -> list[tuple[str, str, int]]:
        """Jobs of the plan that are not done."""
        return [key for key in self.planned if key not in self.by_key]

    @property
    def fixes(self) -> tuple[str, ...]:
        """The arms that the claims are asked of.

        Those that the study names; else `critic`; in a study without it, the first arm of the
        reference's algorithm.
        """
        if self.claims_of:
            return self.claims_of
        others = [arm for arm in self.arms if arm != self.reference]
        if FIX in others:
            return (FIX,)
        family = self.algos_of(self.reference)
        return tuple(arm for arm in others if self.algos_of(arm) & family)[:1]

    @property
    def baselines(self) -> list[str]:
        """Arms of other algorithms than the reference's."""
        family = self.algos_of(self.reference)
        return [arm for arm in self.arms if family and self.algos_of(arm) - family]

    def algos_of(self, arm: str) -> set[str]:
        """Algorithms of an arm's finished jobs: one, or none yet."""
        return {record.algo for record in self.records if record.arm == arm}

    def precision(self, task: str, arm: str) -> str:
        """What an arm's convolutions were trained in; on `auto` that depends on the machine."""
        found = {record.precision for record in self.of(task, arm)}
        return " in some jobs and ".join(sorted(found))

    def of(self, task: str, arm: str) -> list[Record]:
        """Finished jobs of a task and arm, by seed."""
        keys = ((task, arm, seed) for seed in self.seeds)
        return [self.by_key[key] for key in keys if key in self.by_key]

    def values(self, task: str, arm: str, measure: str) -> dict[int, float]:
        """Seed to value, where there is one."""
        found = {seed: self.measures.get((task, arm, seed), {}).get(measure) for seed in self.seeds}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def estimate(self, task: str, arm: str, measure: str) -> Estimate | None:
        """Mean over seeds, or median where infinity may occur; None where no seed has a value."""
        values = self.values(task, arm, measure)
        if not values:
            return None
        if measure == "success_final":
            (outcomes,) = self._outcomes(task, (arm,), list(values))
            return statistics.success(outcomes)
        return MEDIANS.get(measure, statistics.mean)(list(values.values()))

    def difference(self, task: str, arm: str, reference: str, measure: str) -> Estimate | None:
        """Mean of arm - reference over the seeds that both have."""
        return self._paired(
            task, (arm, reference), measure, statistics.difference, statistics.success_difference
        )

    def ratio(self, task: str, arm: str, reference: str, measure: str) -> Estimate | None:
        """Mean of the arm over mean of the reference, over the seeds that both have."""
        return self._paired(
            task, (arm, reference), measure, statistics.ratio, statistics.success_ratio
        )

    def _paired(
        self,
        task: str,
        arms: tuple[str, str],
        measure: str,
        of_values: Callable[[Sequence[float], Sequence[float]], Estimate],
        of_outcomes: Callable[[np.ndarray, np.ndarray], Estimate],
    ) -> Estimate | None:
        a, b = (self.values(task, arm, measure) for arm in arms)
        seeds = [seed for seed in self.seeds if seed in a and seed in b]
        if not seeds:
            return None
        if measure == "success_final":
            x, y = self._outcomes(task, arms, seeds)
            return of_outcomes(x, y)
        return of_values([a[seed] for seed in seeds], [b[seed] for seed in seeds])

    def success_difference(self, task: str, arm: str, reference: str, step: int) -> Estimate | None:
        """Success of arm - reference after some gradient steps, over the seeds that both have."""
        played = [
            {r.seed for r in self.of(task, name) if any(x.step == step for x in r.rollouts)}
            for name in (arm, reference)
        ]
        seeds = sorted(set.intersection(*played))
        if not seeds:
            return None
        return statistics.success_difference(*self._outcomes(task, (arm, reference), seeds, step))

    def _outcomes(
        self, task: str, arms: Sequence[str], seeds: Sequence[int], step: int | None = None
    ) -> list[np.ndarray]:
        """Success (S, E) of each arm, cut to the episodes that all of them have played.

        Args:
            step: of the checkpoint; None: the last one.
        """
        rows = [
            [self.by_key[task, arm, seed].rollout_at(step).outcomes for seed in seeds]
            for arm in arms
        ]
        shortest = min(len(row) for arm in rows for row in arm)
        return [np.array([row[:shortest] for row in arm]) for arm in rows]
