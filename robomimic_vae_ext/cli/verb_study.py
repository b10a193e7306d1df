"""Run a study: tasks x arms x seeds, each a job that trains, is measured and is rolled out.

    lapo study study/smoke --out runs/study_smoke

FILE is JSON, or the name of a shipped example; docs/own_study.md explains its keys. Jobs are
folders below --out. After Ctrl-C, a crash or a change of machine the same command continues where
it stopped. At the end it writes report.md, results.csv, results.json and figures into --out, of the
jobs that have results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_vae_ext.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's arguments."""
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="study file (JSON)")
    parser.add_argument("--study", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="folder of the study (default: runs/NAME)")
    parser.add_argument("--report", action="store_true", help="run no job, only write the report")
    parser.add_argument(
        "--merge", nargs="+", type=Path, default=[], metavar="RESULTS",
        help="results.json of the same study from other machines; their jobs count as done",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, help="jobs at the same time (default: by cores, threads and GPUs)"
    )
    parser.add_argument("--gpus", help="such as 0,1, or none (default: all that torch finds)")
    parser.add_argument("--per-gpu", type=int, help="jobs on each GPU (default: 1)")
    parser.add_argument(
        "--ray", nargs="?", const="", metavar="ADDRESS",
        help="run on a Ray cluster (default address: RAY_ADDRESS, or this machine's cluster)",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, help="start no job after so many minutes")
    for name, kind in (("task", str), ("arm", str), ("seed", int)):
        parser.add_argument(
            f"--only-{name}", nargs="+", type=kind, default=[], metavar=name.upper(),
            help=f"run the jobs of these {name}s only (default: all)",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the study; 1 if jobs failed, 130 after Ctrl-C."""
    path = args.file or args.study
    if path is None:
        raise ConfigError("no FILE is given", "a study file", "Add it.")
    for name in ("jobs", "per_gpu"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}", "at least 1", "Correct it.")
    if args.minutes is not None and args.minutes < 0:
        raise ConfigError(f"--minutes {args.minutes}", "at least 0", "Correct it.")
    from robomimic_vae_ext import shipped_configs
    from robomimic_vae_ext.study.study_file import read_study

    study = read_study(shipped_configs.find(path))
    out = args.out or Path("runs") / study.name
    from robomimic_vae_ext.study import run_study

    options = run_study.Options(
        jobs=args.jobs,
        gpus=args.gpus,
        per_gpu=args.per_gpu,
        ray=args.ray,
        minutes=args.minutes,
        merge=tuple(args.merge),
        only_tasks=tuple(args.only_task),
        only_arms=tuple(args.only_arm),
        only_seeds=tuple(args.only_seed),
    )
    if args.report:
        return run_study.report_only(study, out, options)
    return run_study.run_study(study, out, options)
