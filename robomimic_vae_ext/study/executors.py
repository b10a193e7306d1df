"""Where jobs run: child processes of this machine, or the nodes of a Ray cluster.

An executor runs Python with any arguments; it does not depend on the study.
"""

from __future__ import annotations

import abc
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from robomimic_vae_ext import processes
from robomimic_vae_ext.errors import ConfigError

POLL: Final = 0.2  # [s]
GRACE: Final = 10.0  # [s] between asking a child to stop and killing it
RETRIES: Final = 10  # of a job whose node was lost; a job that fails by itself is not retried


@dataclass(frozen=True)
class Command:
    """What to run.

    Args:
        name: of the job.
        words: arguments of Python: of this one, or of the one that Ray runs on a node.
        log: file that output and errors are appended to.
        environment: variables that differ from this process's.
    """

    name: str
    words: tuple[str, ...]
    log: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    name: str
    returncode: int


class Executor(abc.ABC):
    """Runs commands side by side."""

    on_gpu: bool  # whether every command gets a GPU, or a share of one

    @abc.abstractmethod
    def slots(self) -> int:
        """How many commands may run now; a cluster's number changes with its nodes."""

    @abc.abstractmethod
    def submit(self, command: Command) -> None:
        """Start a command."""

    @abc.abstractmethod
    def wait(self, timeout: float) -> Ended | None:
        """Wait until any command has ended, at most `timeout` [s]; None if none has."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End everything that still runs."""


class LocalExecutor(Executor):
    """Child processes of this one.

    Args:
        slots: how many at the same time.
        devices: GPU of every slot, as CUDA_VISIBLE_DEVICES; none without GPUs. (Not empty then:
            robosuite takes the variable for the number of the device that renders.)
    """

    def __init__(self, slots: int, devices: Sequence[str] = ()) -> None:
        self._slots = slots
        self._free = list(devices)
        self.on_gpu = bool(devices)
        self._running: dict[str, tuple[subprocess.Popen[bytes], str]] = {}

    def slots(self) -> int:
        """As given."""
        return self._slots

    def submit(self, command: Command) -> None:
        """Start a child process in a session of its own: Ctrl-C goes to us, and we stop it."""
        device = self._free.pop(0) if self.on_gpu else ""
        visible = {"CUDA_VISIBLE_DEVICES": device} if self.on_gpu else {}
        with command.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command.words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | dict(command.environment) | visible, start_new_session=True,
                preexec_fn=processes.ending_with_this(),
            )  # fmt: skip
        self._running[command.name] = process, device

    def wait(self, timeout: float) -> Ended | None:
        """Look at all children until one has ended."""
        deadline = time.monotonic() + timeout
        while True:
            for name, (process, device) in self._running.items():
                if process.poll() is not None:
                    del self._running[name]
                    if self.on_gpu:
                        self._free.append(device)
                    return Ended(name, process.returncode)
            if time.monotonic() >= deadline:
                return None
            time.sleep(POLL)

    def stop(self) -> None:
        """Ask all children to stop, and kill those that do not."""
        for process, _ in self._running.values():
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process, _ in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()


class RayExecutor(Executor):
    """Tasks of a Ray cluster, which runs the same child processes on its nodes.

    All nodes must see the study's folder under the same path and have this package installed. The
    jobs of a lost node are started again on another one.

    Args:
        address: of the cluster; empty takes RAY_ADDRESS, or the cluster of this machine, or starts
            one here.
        cpus: of a job.
        gpus: of a job; a fraction shares a GPU.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers there.
    """

    def __init__(self, address: str = "", cpus: int = 1, gpus: float = 0.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"Ray cannot be imported ({error})",
                "the extra 'cluster'",
                'Run pip install "robomimic_vae_ext[cluster]", or omit --ray.',
            ) from error
        self._ray: Any = ray
        # A cluster started from here sends no usage statistics.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            if not ray.is_initialized():
                ray.init(address=address or None, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"no Ray cluster answers at '{address}' ({str(error).splitlines()[0]})",
                "the address of a head node, such as 10.0.0.1:6379",
                "Start one with `ray start --head`, or correct --ray.",
            ) from error
        self._cpus, self._gpus, self.on_gpu = cpus, gpus, gpus > 0
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(run_command)
        self._running: dict[Any, str] = {}

    def slots(self) -> int:
        """As many jobs as the CPUs and GPUs of the nodes that are alive allow."""
        found = self._ray.cluster_resources()
        fits = int(found.get("CPU", 0) // self._cpus)
        if self._gpus:
            fits = min(fits, int(found.get("GPU", 0) / self._gpus))
        return max(1, fits)

    def submit(self, command: Command) -> None:
        """Submit a command to the cluster."""
        reference = self._task.remote(command.words, str(command.log), dict(command.environment))
        self._running[reference] = command.name

    def wait(self, timeout: float) -> Ended | None:
        """Wait for any task."""
        if not self._running:
            return None
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout)
        if not done:
            return None
        name = self._running.pop(done[0])
        try:
            return Ended(name, self._ray.get(done[0]))
        except self._ray.exceptions.RayError:  # lost more often than RETRIES, or not startable
            return Ended(name, -1)

    def stop(self) -> None:
        """Cancel all tasks."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()


def run_command(words: Sequence[str], log: str, environment: Mapping[str, str]) -> int:
    """Run Python to its end on the machine that this is called on, and return its exit code.

    Args:
        words: arguments of Python.
        log: file that output and errors are appended to.
        environment: variables that differ from this process's.
    """
    with open(log, "ab") as file:
        return subprocess.run(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            env=os.environ | dict(environment), preexec_fn=processes.ending_with_this(),
        ).returncode  # fmt: skip


def make_executor(
    threads: int,
    jobs: int | None = None,
    gpus: str | None = None,
    per_gpu: int | None = None,
    ray: str | None = None,
) -> Executor:
    """The executor that options of `lapo study` ask for.

    Args:
        threads: of a job.
        jobs: at the same time; None: as many as cores or GPUs allow.
        gpus: comma-separated, `none`, or None for all that torch finds.
        per_gpu: jobs on each GPU; None: one, and with Ray no GPU at all.
        ray: address of a Ray cluster, empty for the one of this machine; None: child processes.

    Raises:
        ConfigError: options that exclude each other, an unknown GPU, or no Ray.
    """
    if ray is not None:
        if jobs is not None or gpus is not None:
            raise ConfigError(
                "--ray with --jobs or --gpus",
                "one or the other, since Ray decides how many jobs its nodes can run",
                "Leave --jobs and --gpus out; --per-gpu says how many jobs share a GPU.",
            )
        return RayExecutor(ray, threads, 1.0 / per_gpu if per_gpu else 0.0)
    devices = _gpus(gpus)
    if devices:
        slots = [gpu for _ in range(per_gpu or 1) for gpu in devices]
        slots = slots[: jobs or len(slots)]
        return LocalExecutor(len(slots), slots)
    return LocalExecutor(jobs or max(1, cores() // threads))


def _gpus(wanted: str | None) -> list[str]:
    """GPUs as CUDA_VISIBLE_DEVICES names them, which a batch system may have set already.

    Raises:
        ConfigError: one that torch does not find.
    """
    if wanted == "none":
        return []
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = visible.split(",") if visible else map(str, range(count))
    available = [name.strip() for name in names][:count]
    if wanted is None:
        return available
    chosen = [name.strip() for name in wanted.split(",")]
    if any(name not in available for name in chosen):
        raise ConfigError(
            f"--gpus {wanted!r}",
            f"some of {','.join(available)}, separated by commas"
            if available
            else "'none': torch finds no GPU",
            "Correct it, or leave it out for all that torch finds.",
        )
    return chosen


def cores() -> int:
    """Cores that this process may use; a container or a batch system may allow fewer than all."""
    return len(os.sched_getaffinity(0))
