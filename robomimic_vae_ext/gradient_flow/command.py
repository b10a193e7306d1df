"""The command behind scripts/test_gradient_flow.py: audit a config, say what was found."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from robomimic_vae_ext.errors import AuditError, VaeExtError
from robomimic_vae_ext.gradient_flow.report import Report

KEPT, BROKEN, UNUSABLE = 0, 1, 2


def run(
    config: str | None,
    algo: str | None = None,
    dataset: str | None = None,
    json_path: str | None = None,
    figure_path: str | None = None,
    steps: int = 2,
    trace: bool = False,
    out: TextIO | None = None,
) -> int:
    """Audit one algorithm.

    Args:
        config: robomimic config in JSON, or None for the algorithm's defaults.
        algo: registered algorithm, where it is not the config's.
        dataset: HDF5 file that gives shapes and batch; None invents both.
        json_path: file for the report as JSON.
        figure_path: file for the picture.
        steps: recorded gradient steps, at least 1.
        trace: also print every event in its order.
        out: where the report goes; standard output by default.

    Returns:
        0 contract kept, 1 broken, 2 unusable input.
    """
    out = out or sys.stdout
    started = time.perf_counter()
    try:
        report, notes, name = _audit(config, algo, dataset, steps)
        _save(report, json_path, figure_path, name)
    except VaeExtError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    print(f"{name}: {steps} training steps, {'; '.join(notes)}", file=out)
    print(report, file=out)
    if trace:
        print(f"\nstep by step\n{report.trace()}", file=out)
    print(
        f"\nexit {KEPT if report.ok else BROKEN} after {time.perf_counter() - started:.1f} s",
        file=out,
    )
    return KEPT if report.ok else BROKEN


def _audit(
    config_path: str | None, algo: str | None, dataset: str | None, steps: int
) -> tuple[Report, Sequence[str], str]:
    if steps < 1:
        raise AuditError(f"--steps is {steps}", "1 or more", "Two show what a step leaves behind.")
    # robomimic prints its own banners; the report alone belongs on standard output.
    with contextlib.redirect_stdout(sys.stderr):
        from robomimic_vae_ext import audit

        subject = algo or str(config_path)
        try:
            config = audit.load_config(config_path, algo, dataset)
            subject = str(config.algo_name)
            setup = audit.build(config, use_dataset=dataset is not None)
            tape = audit.audit(setup, steps)
        except VaeExtError:
            raise
        except Exception as error:  # exit 1 would say that the contract is broken
            reason = (str(error).splitlines() or [""])[0]
            raise AuditError(
                f"{subject} fails before it could be audited ({type(error).__name__}: {reason})",
                "a config that trains",
                "Correct it; robomimic's own train.py with --debug fails at the same place.",
            ) from error
    name = Path(config_path).stem if config_path and not algo else str(config.algo_name)
    return tape.report(setup.contract), setup.notes, name


def _save(report: Report, json_path: str | None, figure_path: str | None, name: str) -> None:
    try:
        if json_path:
            data: dict[str, Any] = {"name": name} | report.to_dict()
            Path(json_path).write_text(json.dumps(data, indent=2) + "\n")
        if figure_path:
            report.save_figure(figure_path, title=name)
    except (OSError, ValueError) as error:  # matplotlib reports an unknown suffix as ValueError
        raise AuditError(
            f"the report cannot be written ({error})",
            "a folder that exists, and .png, .pdf or .svg for a figure",
            "Choose another path.",
        ) from error
