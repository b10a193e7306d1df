"""The command `lapo`: one verb a module, `verb_NAME.py`, imported only when that verb is used.

A verb's module has `add_arguments(parser)` and `run(args)`, which returns the exit code. At its top
level it imports the standard library and `robomimic_vae_ext.errors` only, so that help texts and
usage errors come at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from robomimic_vae_ext import errors, processes

#: Verb to its line in `lapo --help`, in the order in which a user needs them.
VERBS: Final = {
    "doctor": "show what is installed and what is missing",
    "demo": "collect, train and evaluate a first policy, in one command",
    "collect": "make a dataset with a scripted expert",
    "convert": "complete or translate a dataset into a new file",
    "validate": "check that a dataset can be trained on",
    "train": "train from a config: robomimic's training, checked before it starts",
    "evaluate": "success rate of a checkpoint over seeded episodes",
    "export": "write a policy to a file that needs neither robomimic nor a simulator",
    "plot": "draw the training curves of runs",
    "compare": "two runs over each other: curves and a table",
    "inspect": "what the critic or the actor of a checkpoint does on a dataset",
    "audit": "which loss trains which module, who owns it, did it move",
    "study": "tasks x arms x seeds as resumable jobs, with intervals and curves",
    "bench": "speed of training, data and rollouts beside robomimic's algorithms",
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and examples as they are written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # Nothing to show for flags and for options that have no default.
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """Parser of `lapo`; only the named verb gets its arguments, and so its module's import."""
    parser = argparse.ArgumentParser(
        prog="lapo",
        description="Offline RL from images for robomimic. `lapo VERB --help` explains a verb.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, line in VERBS.items():
        if name != verb:
            verbs.add_parser(name, help=line, add_help=False)
            continue
        module = importlib.import_module(f"{__name__}.verb_{name}")
        child = verbs.add_parser(
            name, help=line, description=module.__doc__, formatter_class=HelpFormatter
        )
        module.add_arguments(child)
        child.set_defaults(run=module.run, parser=child)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lapo` with these arguments (default: those of the command line).

    Returns:
        The exit code: 0 success, 1 a negative result (a broken contract, a failed job), 2 bad input
        or an error of the file system, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in words if not word.startswith("-")), None)
    parser = build_parser(verb)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        # The parser of the verb shows its own usage; the outer one would show the verbs.
        getattr(args, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.version:
        from robomimic_vae_ext import __version__

        print(f"robomimic_vae_ext {__version__}")
        return 0
    if args.verb is None:
        parser.print_help()
        return 2
    import robomimic_vae_ext.robosuite_advice  # noqa: F401

    with processes.cleaning_up_on_signals():
        return errors.exit_code(f"lapo {args.verb}", lambda: args.run(args))
