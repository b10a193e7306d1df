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


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Parser of one verb's arguments; imports that verb's module."""
    module = importlib.import_module(f"{__name__}.verb_{verb}")
    parser = argparse.ArgumentParser(
        prog=f"lapo {verb}", description=module.__doc__, formatter_class=HelpFormatter
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def parse(verb: str, words: Sequence[str]) -> argparse.Namespace:
    """Parse a verb's arguments; options may come before, after and between the others."""
    return verb_parser(verb).parse_intermixed_args(list(words))


def main_parser() -> argparse.ArgumentParser:
    """Parser of what comes before a verb; its help lists the verbs."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:{width}}  {line}" for name, line in VERBS.items())
    parser = argparse.ArgumentParser(
        prog="lapo",
        usage="lapo VERB ...",
        description="Offline RL from images for robomimic. `lapo VERB --help` explains a verb.\n\n"
        f"verbs:\n{verbs}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `lapo` with these arguments (default: those of the command line).

    Returns:
        The exit code: 0 success, 1 a negative result (a broken contract, a failed job), 2 bad input
        or an error of the file system, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in VERBS:
        verb, args = words[0], parse(words[0], words[1:])
        import robomimic_vae_ext.robosuite_advice  # noqa: F401

        with processes.cleaning_up_on_signals():
            return errors.exit_code(f"lapo {verb}", lambda: args.run(args))
    parser = main_parser()
    if words and not words[0].startswith("-"):
        parser.error(f"there is no verb '{words[0]}'{errors.did_you_mean(words[0], VERBS)}")
    args = parser.parse_args(words)
    if args.version:
        from robomimic_vae_ext import __version__

        print(f"robomimic_vae_ext {__version__}")
        return 0
    parser.print_help()
    return 2
