"""What one job of a study found, and the measures that tables and figures take from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robomimic_vae_ext.errors import DatasetError
from robomimic_vae_ext.study import jobs, statistics

LAST = 3  # checkpoints whose success is averaged in `success_last3`
PAIRS = 200  # pairs of Q and return kept of a job, for figures
DIGITS = 4  # significant digits of what figures and tables are made from

#: Fields of `ZeroLatent` that are a measure each, `latent_NAME`.
LATENT = ("size", "shift", "spread", "error", "gain")

#: Columns of results.csv after task, arm and seed.
MEASURES = (
    "algo", "steps", "precision", "critic_error_final", "critic_error_best",
    "steps_to_reference", "speed_up", "speed_up_settled", "auc_final", "correlation_final",
    "value_error", "q_start", "return_start", "success_final", "success_last3", "success_max",
    "episodes_final", "failures_final", "length_final", "action_error", "success_zero_latent",
    "gained_by_zero_latent",
    "latent_size", "latent_shift", "latent_spread", "latent_error", "latent_gain",
    "seconds_train", "seconds_measure", "seconds_rollouts", "seconds_zero_latent",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """One checkpoint on held-out data; None where the algorithm has no Q, or one class is missing.

    Args:
        step: gradient steps.
        critic_error: mean of (Q(s, a) - discounted return of the demonstration)^2.
        auc: area under the ROC curve of Q for the demonstration's success, in [0, 1].
        correlation: of Q and return.
    """

    step: int
    critic_error: float | None
    auc: float | None
    correlation: float | None


@dataclass(frozen=True)
class Rollout:
    """The episodes of one checkpoint, in the order of their numbers.

    Args:
        step: gradient steps.
        success: one character an episode, 0 or 1.
        failures: episodes in which the task could no longer succeed; None if it cannot be told.
        mean_length: [steps].
        value_error: mean of (Q(s, a) - discounted return received)^2 over all steps.
        q_start: mean Q at the first step.
        return_start: mean discounted return from the first step.
    """

    step: int
    success: str
    failures: int | None
    mean_length: float | None
    value_error: float | None
    q_start: float | None
    return_start: float | None

    @property
    def outcomes(self) -> np.ndarray:
        """Success of every episode (E,), 0.0 or 1.0."""
        return np.array([float(c) for c in self.success])

    @property
    def rate(self) -> float:
        """Success rate."""
        return float(self.outcomes.mean())


@dataclass(frozen=True)
class ZeroLatent:
    """The final policy of LAPO with z = 0 in place of its actor's z, and what its actor does.

    Args:
        success: rate with z = 0, in the first of the final policy's own episodes; None where only
            the actor was looked at, as in some published results. A rate, not the episodes, since
            older results keep no more: its intervals are over seeds only.
        episodes: how many those were.
        size, shift, spread, error, gain: as `z`, `shift`, ... of `actor_shift.ActorShift`.
    """

    success: float | None
    episodes: int
    size: float
    shift: float
    spread: float
    error: float
    gain: float


@dataclass(frozen=True)
class Record:
    """One job: a task, an arm, a seed.

    Args:
        task, arm, seed: of the job.
        settings: of the job (`jobs.Job.settings`).
        algo: robomimic's name of the algorithm.
        steps: gradient steps of the whole training.
        precision: of the encoder's convolutions in training.
        curve: checkpoints in order.
        rollouts: checkpoints with episodes, in order; the last is the final policy.
        action_error: held-out error of the CVAE's actions, where there is a CVAE that logs it.
        q, returns: Q(s, a) of the final policy and the discounted return it received, (N,) each.
        seconds: wall time of the stages `train`, `measure`, `rollouts`.
        versions: of the software that ran it.
        commit: of the repository that ran it.
        zero_latent: of a LAPO whose study asks for it.
    """

    task: str
    arm: str
    seed: int
    settings: str
    algo: str
    steps: int
    precision: str
    curve: tuple[Point, ...]
    rollouts: tuple[Rollout, ...]
    action_error: float | None
    q: tuple[float, ...]
    returns: tuple[float, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    commit: str | None
    zero_latent: ZeroLatent | None = None

    @property
    def name(self) -> str:
        """As `jobs.Job.name`."""
        return jobs.job_name(*self.key)

    @property
    def key(self) -> tuple[str, str, int]:
        """Task, arm and seed."""
        return self.task, self.arm, self.seed

    @property
    def errors(self) -> tuple[list[int], list[float]]:
        """Steps and held-out critic errors, both empty without a Q."""
        known = [(p.step, p.critic_error) for p in self.curve if p.critic_error is not None]
        return [step for step, _ in known], [error for _, error in known]

    def rollout_at(self, step: int | None) -> Rollout:
        """Episodes of the checkpoint after so many steps; None: of the last one."""
        if step is None:
            return self.rollouts[-1]
        (found,) = [rollout for rollout in self.rollouts if rollout.step == step]
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; `from_dict` reads them back."""
        return asdict(self)


def from_dict(values: Mapping[str, Any]) -> Record:
    """Read back what `Record.as_dict` wrote."""
    points = tuple(Point(**point) for point in values["curve"])
    rollouts = tuple(Rollout(**rollout) for rollout in values["rollouts"])
    pairs = {name: tuple(values[name]) for name in ("q", "returns")}
    zero = values.get("zero_latent")  # absent in files that are older than it
    latent = {"zero_latent": ZeroLatent(**zero) if zero else None}
    return Record(**{**values, "curve": points, "rollouts": rollouts, **pairs, **latent})


def read_result(path: Path) -> Record:
    """Read the `result.json` of a finished job.

    Raises:
        DatasetError: damaged, or written by something else.
    """
    values = load(path)
    try:
        return _from_result(values)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def merged(known: Mapping[str, Record], new: Mapping[str, Record]) -> dict[str, Record]:
    """Records of two sittings by name, the new ones winning.

    What the known one of the same job tells of z = 0 stays where the new one does not: some
    results got it afterwards.
    """
    found = dict(known)
    for name, record in new.items():
        before = known.get(name)
        if record.zero_latent is None and before is not None:
            record = replace(record, zero_latent=before.zero_latent)
        found[name] = record
    return found


def load(path: Path) -> dict[str, Any]:
    """What stands in a `result.json`.

    Raises:
        DatasetError: damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DatasetError:
    return DatasetError(
        f"{path} cannot be read ({type(error).__name__}: {error})",
        "the result of a job of this study",
        "Delete the file and run the study again: only that job's last stage is repeated.",
    )


def _from_result(result: Mapping[str, Any]) -> Record:
    pairs = result.get("value_pairs") or {"q": [], "return": []}
    thinned = (_thinned(pairs["q"]), _thinned(pairs["return"]))
    if len(thinned[0]) != len(thinned[1]):
        raise ValueError("value_pairs differ in length")
    return Record(
        task=str(result["task"]),
        arm=str(result["arm"]),
        seed=int(result["seed"]),
        settings=str(result["settings"]),
        algo=str(result["algo"]),
        steps=int(result["steps"]),
        precision=str(result["precision"]),
        curve=tuple(_point(point) for point in result["curve"]),
        rollouts=tuple(_rollout(rollout) for rollout in result["rollouts"]),
        action_error=rounded(result.get("action_error")),
        q=thinned[0],
        returns=thinned[1],
        seconds={name: round(float(s), 1) for name, s in result["seconds"].items()},
        versions=dict(result["versions"]),
        commit=result.get("commit"),
        zero_latent=_zero_latent(result.get("zero_latent")),
    )


def _zero_latent(values: Mapping[str, Any] | None) -> ZeroLatent | None:
    if values is None:
        return None
    names = {"size": "z", "shift": "shift", "spread": "spread", "error": "error", "gain": "gain"}
    return ZeroLatent(
        success=float(np.mean(values["success"])),
        episodes=len(values["success"]),
        **{ours: _rounded(values[its]) for ours, its in names.items()},
    )


def _point(values: Mapping[str, Any]) -> Point:
    return Point(
        step=int(values["step"]),
        critic_error=_error(values["critic_error"]),
        auc=rounded(values["auc"]),
        correlation=rounded(values["correlation"]),
    )


def _rollout(values: Mapping[str, Any]) -> Rollout:
    success = values["success"]
    if not success or sum(map(bool, success)) != values["successes"]:
        raise ValueError(f"successes {values['successes']} do not fit the list of episodes")
    names = ("mean_length", "q_start", "return_start")
    return Rollout(
        step=int(values["step"]),
        success="".join(str(int(bool(s))) for s in success),
        failures=values["failures"],
        value_error=_error(values["value_error"]),
        **{name: rounded(values[name]) for name in names},
    )


def rounded(value: Any) -> float | None:
    """A number rounded to `DIGITS` significant digits, or None."""
    return None if value is None else _rounded(value)


def _rounded(value: Any) -> float:
    return float(f"{float(value):.{DIGITS}g}")


def _error(value: Any) -> float | None:
    """An error; that of a critic which has become NaN is infinite, not unknown."""
    number = rounded(value)
    return math.inf if number is not None and math.isnan(number) else number


def _thinned(values: Sequence[float]) -> tuple[float, ...]:
    """At most `PAIRS` values, evenly picked."""
    picked = statistics.evenly(len(values), PAIRS)
    return tuple(round(float(values[i]), DIGITS - 1) for i in picked)


def measures(record: Record, reference: Record | None) -> dict[str, Any]:
    """Everything that `MEASURES` names.

    Args:
        record: of a job.
        reference: the reference arm's job of the same task and seed, if it is done.

    Returns:
        Measure to its value; None where the algorithm has none or it cannot be known yet.
    """
    last = record.rollouts[-1] if record.rollouts else None
    rates = [rollout.rate for rollout in record.rollouts]
    found: dict[str, Any] = {
        "algo": record.algo,
        "steps": record.steps,
        "precision": record.precision,
        "success_last3": float(np.mean(rates[-LAST:])) if len(rates) >= LAST else None,
        "success_max": max(rates[-LAST:], default=None),
        "action_error": record.action_error,
        **{f"seconds_{stage}": seconds for stage, seconds in record.seconds.items()},
        **_of_the_critic(record, reference),
    }
    if record.zero_latent is not None:
        zero = asdict(record.zero_latent)
        found["success_zero_latent"] = zero["success"]
        found |= {f"latent_{name}": zero[name] for name in LATENT}
        if last is not None and zero["success"] is not None:
            same = last.outcomes[: zero["episodes"]]
            found["gained_by_zero_latent"] = zero["success"] - float(same.mean())
    if last is not None:
        found |= {
            "success_final": last.rate,
            "episodes_final": len(last.success),
            "failures_final": last.failures,
            "length_final": last.mean_length,
            "value_error": last.value_error,
            "q_start": last.q_start,
            "return_start": last.return_start,
        }
    return {name: found.get(name) for name in MEASURES}


def _of_the_critic(record: Record, reference: Record | None) -> dict[str, Any]:
    steps, errors = record.errors
    if not errors:
        return {}
    final = record.curve[-1]
    found: dict[str, Any] = {
        "critic_error_final": errors[-1],
        "critic_error_best": min(errors),
        "auc_final": final.auc,
        "correlation_final": final.correlation,
    }
    # With fewer checkpoints nothing can stay at a level, so nothing is known of it.
    curves = (errors, reference.errors[1] if reference is not None else [])
    if reference is not None and min(map(len, curves)) >= statistics.STAY:
        level = statistics.best(*reference.errors)
        same = record.key == reference.key
        reached = float(level.step) if same else statistics.steps_to(steps, errors, level.error)
        both = statistics.settled(reference.errors[1])
        own, its = (statistics.steps_to(*r.errors, both) for r in (record, reference))
        found |= {
            "steps_to_reference": reached,
            "speed_up": level.step / reached,
            "speed_up_settled": its / own,
        }
    return found
