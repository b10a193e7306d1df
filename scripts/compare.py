"""Compare two robomimic runs, or run a whole study: tasks x arms x seeds.

python scripts/compare.py RUN_A RUN_B --out figures
python scripts/compare.py --study configs/study/smoke.json --out runs/study_smoke
"""

import argparse
import logging
import sys
from pathlib import Path

import robomimic_vae_ext.errors as errors

# robosuite's advice on its settings, once in every process; spawned workers run this line too.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="two run folders")
    flags.add_argument("--out", type=Path, help="folder for results (default: runs/NAME)")
    flags.add_argument("--study", type=Path, help="JSON file of a study")
    flags.add_argument("--report", action="store_true", help="only write the results, of all jobs")
    flags.add_argument("--docs", type=Path, help="folder of results.md (default: OUT/docs)")
    flags.add_argument("--merge", nargs="+", type=Path, default=[], help="results.json of others")
    flags.add_argument("--jobs", type=int, help="at the same time (default: what fits)")
    flags.add_argument("--gpus", help="such as 0,1, or none (default: all that torch finds)")
    flags.add_argument("--per-gpu", type=int, help="jobs on each GPU")
    flags.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="on a Ray cluster")
    flags.add_argument("--minutes", type=float, help="start no job after so many minutes")
    flags.add_argument("--only-task", nargs="+", default=[])
    flags.add_argument("--only-arm", nargs="+", default=[])
    flags.add_argument("--only-seed", nargs="+", type=int, default=[])
    return flags


def main() -> int:
    args = parser().parse_args()
    if (args.study is None) == (not args.runs) or len(args.runs) not in (0, 2):
        parser().error("give two run folders, or --study")
    if any(n is not None and n < 1 for n in (args.jobs, args.per_gpu)) or (args.minutes or 0) < 0:
        parser().error("--jobs and --per-gpu must be at least 1, --minutes not negative")
    if args.study is None:
        from robomimic_vae_ext.study import two_runs

        print(two_runs.compare_runs(*args.runs, args.out or Path("runs/comparison")))
        return 0
    from robomimic_vae_ext.study.protocol import read_protocol

    study = read_protocol(args.study)
    out = args.out or Path("runs") / study.name
    docs = args.docs or out / "docs"
    if args.report:
        from robomimic_vae_ext.study import results

        print(results.write_results(study, out, docs, args.merge))
        return 0
    from robomimic_vae_ext.study.runner import Options, run_study

    options = Options(
        args.jobs, args.gpus, args.per_gpu, args.ray, args.minutes, tuple(args.merge),
        tuple(args.only_task), tuple(args.only_arm), tuple(args.only_seed),
    )  # fmt: skip
    return run_study(study, out, docs, options)


if __name__ == "__main__":
    sys.exit(errors.exit_code("compare.py", main))
