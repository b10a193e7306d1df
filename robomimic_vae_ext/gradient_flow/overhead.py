"""What the tape costs: `python -m robomimic_vae_ext.gradient_flow.overhead --config F`."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from robomimic_vae_ext.errors import VaeExtError
from robomimic_vae_ext.gradient_flow.periodic import PeriodicAudit
from robomimic_vae_ext.gradient_flow.tape import record


class Overhead(NamedTuple):
    """Seconds per training step: without the tape, and in each of its forms."""

    plain: float
    traced: float
    untraced: float
    audited: float

    def periodic(self, every_n_steps: int) -> float:
        """Overhead of the periodic audit as a fraction of training time."""
        return (self.audited - self.plain) / (every_n_steps * self.plain)


def measure(step: Callable[[], Any], modules: Any, optimizers: Any, rounds: int) -> Overhead:
    """Time one training step in all forms, round by round, so that other load hits all alike.

    Args:
        step: one training step.
        modules: as for `record`.
        optimizers: as for `record`.
        rounds: repetitions; medians are reported.
    """
    audit = PeriodicAudit(modules, optimizers, every_n_steps=1)

    def taped(trace: bool) -> None:
        with record(modules, optimizers, trace_writes=trace) as tape:
            step()
        tape.report()

    def audited() -> None:
        with audit.step(0):
            step()

    forms: tuple[Callable[[], Any], ...] = (
        step,
        lambda: taped(True),
        lambda: taped(False),
        audited,
    )
    seconds: list[list[float]] = [[] for _ in forms]
    step()  # the first step allocates the optimizers' state
    for _ in range(rounds):
        for times, form in zip(seconds, forms, strict=True):
            started = time.perf_counter()
            form()
            times.append(time.perf_counter() - started)
    return Overhead(*(statistics.median(times) for times in seconds))


def side_by_side(step: Callable[[], Any], audit: PeriodicAudit, every: int, rounds: int) -> float:
    """Time stretches of training with one audit in each against stretches without, in turn.

    Args:
        step: one training step.
        audit: records the first step of every stretch.
        every: steps in a stretch.
        rounds: stretches of each kind.

    Returns:
        Median time with the audit over median time without.
    """
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        for audited in (True, False):
            started = time.perf_counter()
            for number in range(every):
                with audit.step(number) if audited else contextlib.nullcontext():
                    step()
            times[audited].append(time.perf_counter() - started)
    return statistics.median(times[True]) / statistics.median(times[False])


def main() -> int:
    """Measure a robomimic config and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="robomimic config in JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--every", type=int, default=500, help="steps between two audits")
    parser.add_argument(
        "--side-by-side", action="store_true", help="also time whole stretches with and without"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            from robomimic_vae_ext import audit as models

            config = models.load_config(args.config, None, None)
            setup = models.build(config, use_dataset=False, max_batch=config.train.batch_size)
    except VaeExtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    modules, optimizers = models.parts_of(setup.model)
    found = measure(
        lambda: setup.model.train_on_batch(setup.batch, epoch=1), modules, optimizers, args.rounds
    )
    print(f"{args.config}, batch {config.train.batch_size}, {args.threads} thread(s), medians")
    print(f"  plain step               {1e3 * found.plain:8.1f} ms")
    for name, seconds in (
        ("tape with write trace", found.traced),
        ("tape without write trace", found.untraced),
        ("periodic audit's step", found.audited),
    ):
        print(f"  {name:24} {1e3 * seconds:8.1f} ms  x{seconds / found.plain:.2f}")
    print(f"  audit every {args.every} steps: {found.periodic(args.every):+.2%} of training time")
    if args.side_by_side:
        ratio = side_by_side(
            lambda: setup.model.train_on_batch(setup.batch, epoch=1),
            PeriodicAudit(modules, optimizers, args.every),
            args.every,
            args.rounds,
        )
        print(f"  {args.rounds} x {args.every} steps with and without, in turn: {ratio - 1:+.2%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
