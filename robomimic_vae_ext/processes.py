"""Child processes that end with their parent, and a SIGTERM that cleans up.

Standard library only: every worker process imports this first.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing.context
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_POLL: Final = 1.0  # [s], where the kernel does not tell
_END_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)

# Loaded here and not between fork and exec, where almost nothing is allowed.
_LIBC: Final[Any] = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, however that ends.

    On Linux by the parent-death signal, elsewhere by a thread that looks every second. The signal
    comes when the *thread* that started this process ends, so processes have to be started by a
    thread that lives as long as they do.

    Args:
        parent: its process number.
    """
    if _LIBC is None:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the signal was asked for
        os._exit(1)


class _EndWithParent:
    """Calls `end_with_parent` where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return end_with_parent, (os.getpid(),)


class EndingProcess(multiprocessing.context.SpawnProcess):
    """A spawned process that ends with its parent, from its first moments on.

    What it is to run is unpickled after that, which can import for many seconds.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _rebuilt, (_EndWithParent(), type(self), self.__dict__)


def _rebuilt(_: None, kind: type[EndingProcess], state: dict[str, Any]) -> EndingProcess:
    process = kind.__new__(kind)
    process.__dict__.update(state)
    return process


class EndingContext(multiprocessing.context.SpawnContext):
    """multiprocessing's context `spawn`, of `EndingProcess`."""

    Process = EndingProcess


#: For all worker processes. Spawned: EGL contexts and torch's threads do not survive a fork.
CONTEXT: Final = EndingContext()


def ending_with_this() -> Callable[[], None] | None:
    """`preexec_fn` for a `subprocess` that is to end with this process; None where it cannot.

    The setting survives `exec`, so the command itself need not know of it.
    """
    if _LIBC is None:
        return None
    parent = os.getpid()

    def set_signal() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal


@contextlib.contextmanager
def cleaning_up_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit while the block lasts, so that `finally` runs.

    Python's own answer to them is to end at once, without removing temporary files. The exit code
    is that of the shell: 128 and the number of the signal. Does nothing outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the cleaning
        sys.exit(128 + number)

    # A command started with nohup ignores SIGHUP and is to go on doing so.
    heeded = [number for number in _END_SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    before = {number: signal.signal(number, leave) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL)
    os._exit(1)
