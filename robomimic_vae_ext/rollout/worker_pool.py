"""Worker processes that play episodes, are watched, and are replaced when they die or hang."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

import numpy as np

from robomimic_vae_ext import processes
from robomimic_vae_ext.errors import SimulationError
from robomimic_vae_ext.rollout import worker_process

LOGGER: Final = logging.getLogger(__name__)
ATTEMPTS: Final = 3  # times that an episode may fail before all is given up

_TICK: Final = 1.0  # longest wait that counts at once [s]: a stopped parent hangs, not its workers

Act = Callable[[Sequence[dict[str, np.ndarray]]], list[np.ndarray]]


@dataclass(frozen=True)
class Patience:
    """How long a silent worker is waited for.

    Args:
        start: until the first step after imports, or after a policy has been loaded [s].
        step: from one step to the next, a reset between them included [s].
    """

    start: float = 120.0
    step: float = 60.0


class _Worker:
    """A process, its pipe, and a thread that reads from it.

    The thread is there because a worker may stop in the middle of a message.

    Args:
        inbox: where messages go, each with its worker; None is the end of the process.
    """

    def __init__(self, inbox: queue.SimpleQueue[tuple[_Worker, Any]]) -> None:
        self.setup: worker_process.Setup | None = None
        self.task: worker_process.Task | None = None
        self.deadline = 0.0
        self.connection: Connection
        self.connection, theirs = processes.CONTEXT.Pipe()
        self.process = processes.CONTEXT.Process(
            target=worker_process.serve, args=(theirs,), daemon=True
        )
        # Ctrl-C goes to the whole process group and is the parent's business: workers are born
        # with SIGINT blocked. The tracker first, since its own start unblocks it.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._inbox = inbox
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Pass messages on; whatever ends the reading is the end of this worker."""
        try:
            while True:
                self._inbox.put((self, self.connection.recv()))
        except (EOFError, OSError):  # its process has ended
            pass
        except Exception as error:  # a damaged message can make the unpickler raise anything
            LOGGER.warning(
                "a message of rollout process %d cannot be read (%s: %s)",
                self.process.pid, type(error).__name__, error,
            )  # fmt: skip
        finally:
            self._inbox.put((self, None))

    def send(self, message: Any) -> None:
        """Send; that the process is dead will be heard from the reader."""
        with suppress(OSError):
            self.connection.send(message)

    def kill(self) -> None:
        """End the process, stopped or not, and wait until it is gone."""
        self.process.kill()
        self.process.join()
        self._reader.join()
        self.connection.close()


class Pool:
    """Worker processes, started when first needed and kept until the end of the `with` block.

    Args:
        count: of workers.
        patience: with silent workers.
    """

    def __init__(self, count: int, patience: Patience | None = None) -> None:
        self.count = count
        self.patience = patience or Patience()
        self._workers: list[_Worker] = []
        self._inbox: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._clock = 0.0  # [s] spent waiting: what the parent does itself is no worker's fault

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._remove(worker)

    @property
    def process_ids(self) -> list[int]:
        """Process numbers of the workers."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def play(
        self,
        setup: worker_process.Setup,
        tasks: Sequence[worker_process.Task],
        act: Act | None = None,
    ) -> Iterator[worker_process.EpisodeDone]:
        """Play episodes, yielding each as it ends, in any order.

        Args:
            setup: what the workers build.
            tasks: the episodes.
            act: actions for the observations of all workers that wait, where the parent acts.

        Raises:
            SimulationError: an episode has failed `ATTEMPTS` times.
            VaeExtError: a worker met one that no repetition would mend.
        """
        waiting = deque(tasks)
        failures: Counter[int] = Counter()
        try:
            while waiting or self._busy():
                self._assign(setup, waiting)
                requests = []
                for worker, message in self._listen():
                    if worker not in self._workers:  # removed by an earlier message
                        continue
                    worker.deadline = self._clock + self.patience.step
                    if isinstance(message, worker_process.EpisodeDone):
                        worker.task = None
                        yield message
                    elif isinstance(message, worker_process.ActionRequest):
                        requests.append((worker, message.obs))
                    elif isinstance(message, worker_process.WorkerError):
                        if message.error is not None:
                            raise message.error
                        self._repeat(worker, f"raised {message.reason}", waiting, failures)
                    elif message is None:
                        worker.process.kill()  # it may live, if only its message was damaged
                        worker.process.join()
                        code = worker.process.exitcode
                        self._repeat(worker, f"died with exit code {code}", waiting, failures)
                self._answer(requests, act)
                for worker in self._busy():
                    if worker.deadline < self._clock:
                        self._repeat(worker, "gave no sign of life", waiting, failures)
        finally:
            for worker in self._busy():  # interrupted in the middle of episodes
                self._remove(worker)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _assign(self, setup: worker_process.Setup, waiting: deque[worker_process.Task]) -> None:
        """Give every idle worker an episode, starting workers where some are missing."""
        idle = [worker for worker in self._workers if worker.task is None]
        while waiting and (idle or len(self._workers) < self.count):
            if not idle:
                self._workers.append(_Worker(self._inbox))
                idle.append(self._workers[-1])
            worker = idle.pop(0)
            worker.task = waiting.popleft()
            building = worker.setup != setup
            worker.deadline = self._clock + (
                self.patience.start if building else self.patience.step
            )
            worker.setup = setup
            worker.send((setup, worker.task))

    def _listen(self) -> list[tuple[_Worker, Any]]:
        """Wait for messages; return all that are there."""
        begin = time.monotonic()
        messages = []
        with suppress(queue.Empty):
            messages.append(self._inbox.get(timeout=_TICK))
            while True:
                messages.append(self._inbox.get_nowait())
        self._clock += min(time.monotonic() - begin, _TICK)
        return messages

    @staticmethod
    def _answer(requests: list[tuple[_Worker, dict[str, np.ndarray]]], act: Act | None) -> None:
        if not requests:
            return
        assert act is not None
        actions = act([obs for _, obs in requests])
        for (worker, _), action in zip(requests, actions, strict=True):
            worker.send(action)

    def _repeat(
        self,
        worker: _Worker,
        what: str,
        waiting: deque[worker_process.Task],
        failures: Counter[int],
    ) -> None:
        """Remove a worker and put its episode first in the queue.

        Raises:
            SimulationError: the episode has failed too often.
        """
        task, pid = worker.task, worker.process.pid
        self._remove(worker)
        if task is None:  # it died between two episodes; another one will take its place
            return
        failures[task.index] += 1
        if failures[task.index] >= ATTEMPTS:
            raise SimulationError(
                f"episode {task.index} failed {ATTEMPTS} times; at last its process {what}",
                "it to be played to its end",
                "What the process wrote stands above; try fewer workers, or longer timeouts.",
            )
        LOGGER.warning(
            "rollout process %d %s; episode %d begins again in a new one", pid, what, task.index
        )
        waiting.appendleft(task)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.kill()
