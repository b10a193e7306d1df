"""Exceptions that say what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" where a known word is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


class VaeExtError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        found: what is there, with the name of the file, key or module it is in.
        expected: what should have been there.
        action: what the reader can do about it, as an instruction.
    """

    def __init__(self, found: str, expected: str, action: str) -> None:
        self.found = found
        self.expected = expected
        self.action = action
        super().__init__(_one_line(f"{found}; expected {expected}. {action}"))

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # Worker processes send errors home by pickle, which calls the class with `args`: one
        # string here, where __init__ wants three.
        return type(self), (self.found, self.expected, self.action)


def _one_line(text: str) -> str:
    """Escape what names inside of files may hold: line ends, and bytes that are not UTF-8."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text.encode("utf-8", "backslashreplace").decode()


class ConfigError(VaeExtError):
    """A config key or value that cannot be used."""


class RegistrationError(VaeExtError):
    """An algorithm or config name that somebody else has registered already."""


class DatasetError(VaeExtError):
    """A dataset that is missing, damaged, or not what the config asks for."""


class OutputError(VaeExtError):
    """An output that exists already, or cannot be written."""


class SimulationError(VaeExtError):
    """A simulator or renderer that cannot start, or differs from the dataset's."""


class CheckpointError(VaeExtError):
    """A checkpoint that is missing, damaged, or of another algorithm."""


class OwnershipError(VaeExtError):
    """A trainable parameter with no optimizer, or with more than one."""


class BenchmarkError(VaeExtError):
    """A benchmark that cannot run, or results that do not belong together."""


class AuditError(VaeExtError):
    """A gradient-flow audit that was given something it cannot work with."""


def exit_code(name: str, main: Callable[[], int]) -> int:
    """Run a command's main function; errors that a user can correct become one line.

    Args:
        name: of the script.
        main: returns an exit code.

    Returns:
        That code; 2 after an error of this package or of the file system, 130 after Ctrl-C.
    """
    try:
        return main()
    except (VaeExtError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; the same command starts again", file=sys.stderr)
        return 130
