"""Show which loss trains which module, which optimizer owns it, and whether it moved.

For any algorithm of robomimic; docs/gradient_flow.md shows it for any PyTorch loop.

    lapo audit --config vae_fixed
    lapo audit --algo bcq --figure bcq.png

Exit code 0: the contract is kept. 1: it is broken. 2: not tested, the input cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from robomimic_vae_ext.errors import AuditError

if TYPE_CHECKING:
    from robomimic_vae_ext.gradient_flow import Report

_FIGURES = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--config", help="robomimic config: a file, or a shipped one's name")
    parser.add_argument("--algo", help="any registered algorithm: bc, bcq, cql, iql, ...")
    parser.add_argument("--dataset", help="HDF5 file; without it a batch of random data is made")
    parser.add_argument("--steps", type=int, default=2, help="recorded training steps")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="another value of the config, such as algo.encoder.owner=vae; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", "--json", type=Path, help="JSON file for the report")
    parser.add_argument("--figure", type=Path, help="file for the figure: .png, .pdf or .svg")
    parser.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    parser.add_argument("--trace", action="store_true", help="also print every event in order")


def run(args: argparse.Namespace) -> int:
    """Audit one algorithm; 0 contract kept, 1 broken."""
    started = time.perf_counter()
    _check(args)
    from robomimic_vae_ext import files

    for flag in ("out", "figure"):
        if getattr(args, flag) is not None:
            files.check_output(getattr(args, flag), args.overwrite, f"--{flag}")
    # robomimic prints its own banners; the report alone belongs on standard output.
    with contextlib.redirect_stdout(sys.stderr):
        from robomimic_vae_ext import audit, overrides, shipped_configs

        config = None if args.config is None else shipped_configs.find(args.config)
        settings = overrides.parse(args.set)
        result = audit.audit_config(config, args.algo, args.dataset, args.steps, settings)
    report = result.report
    print(f"{result.name}: {args.steps} training steps, {'; '.join(result.notes)}")
    print(report)
    if args.trace:
        print(f"\nevent by event\n{report.trace()}")
    if args.out is not None:
        files.write_json(args.out, {"name": result.name} | report.to_dict())
    if args.figure is not None:
        _save_figure(report, args.figure, result.name)
        print(f"figure: {args.figure}")
    code = 0 if report.ok else 1
    print(f"\nexit {code} after {time.perf_counter() - started:.1f} s")
    return code


def _save_figure(report: Report, path: Path, title: str) -> None:
    """Write the figure whole or not at all."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        report.save_figure(partial, title)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _check(args: argparse.Namespace) -> None:
    if args.config is None and args.algo is None:
        raise AuditError(
            "neither --config nor --algo is given", "what to audit",
            "For instance: lapo audit --config vae_fixed",
        )  # fmt: skip
    if args.steps < 1:
        raise AuditError(
            f"--steps is {args.steps}", "1 or more", "Two show what one step leaves to the next."
        )
    if args.figure is not None and args.figure.suffix not in _FIGURES:
        raise AuditError(
            f"--figure is {args.figure}", f"a name that ends in {', '.join(_FIGURES)}", "Rename it."
        )
