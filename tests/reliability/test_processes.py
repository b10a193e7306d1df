"""No process outlives the command that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from robomimic_vae_ext.rollout import worker_pool

PATIENCE = 5.0  # [s] within which all are gone


def gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def family_of(command: list[str], folder: Path, count: int) -> tuple[subprocess.Popen[bytes], list]:
    """Start a command in a session of its own and wait until it has so many descendants."""
    parent = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
        # Who runs the tests by nohup hands an ignored SIGHUP on.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )  # fmt: skip

    def children() -> list[psutil.Process]:
        return psutil.Process(parent.pid).children(recursive=True)

    assert wait_for(lambda: len(children()) >= count or parent.poll() is not None, 120)
    assert parent.poll() is None
    return parent, children()


CODE = """
import time
from robomimic_vae_ext import processes

class Slow:
    # As a worker whose imports take long.
    def __reduce__(self):
        return time.sleep, (600,)

if __name__ == "__main__":
    with processes.cleaning_up_on_signals():
        one = processes.CONTEXT.Process(target=print, args=(Slow(),), daemon=True)
        one.start()
        import subprocess
        subprocess.Popen(["sleep", "600"], preexec_fn=processes.ending_with_this())
        try:
            time.sleep(600)
        finally:
            open("cleaned", "w").close()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_children_of_any_kind_end_with_their_parent(tmp_path: Path, end: signal.Signals) -> None:
    (tmp_path / "parent.py").write_text(CODE)
    # A worker, a command, and multiprocessing's own tracker.
    parent, family = family_of([sys.executable, "parent.py"], tmp_path, 3)
    time.sleep(0.5)
    os.kill(parent.pid, end)
    assert wait_for(lambda: all(map(gone, family)), PATIENCE), family
    assert parent.wait(10) == (-9 if end == signal.SIGKILL else 128 + end)
    assert (tmp_path / "cleaned").exists() == (end != signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.simulator
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_workers_of_a_collection(tmp_path: Path, end: signal.Signals) -> None:
    command = [
        sys.executable, "-m", "robomimic_vae_ext", "collect", "--env", "Lift", "--quality",
        "expert", "--n", "500", "--workers", "2", "--out", str(tmp_path / "lift.hdf5"),
    ]  # fmt: skip
    parent, family = family_of(command, tmp_path, 3)
    if end == signal.SIGTERM:  # which is heeded between two episodes' ends
        assert wait_for(lambda: any(tmp_path.glob("*.partial/episode_*.hdf5")), 120)
    os.kill(parent.pid, end)
    patience = PATIENCE if end == signal.SIGKILL else 30.0
    assert wait_for(lambda: all(map(gone, family)), patience), family
    assert parent.wait(60) == (-9 if end == signal.SIGKILL else 143)


def explode() -> None:
    raise RuntimeError("no message of ours")


class Unreadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode, ()


def send_nonsense(connection: object) -> None:
    connection.recv()  # type: ignore[attr-defined]
    connection.send(Unreadable())  # type: ignore[attr-defined]
    time.sleep(600)


def test_a_message_that_cannot_be_read_is_a_dead_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its reader must not die silently: the parent would wait for ever."""
    from robomimic_vae_ext.errors import SimulationError
    from robomimic_vae_ext.rollout import worker_process

    monkeypatch.setattr(worker_pool.worker_process, "serve", send_nonsense)
    setup, task = worker_process.Setup(Path("none")), worker_process.Task(0, 0)
    with worker_pool.Pool(1) as pool, pytest.raises(SimulationError, match="failed 3 times"):
        list(pool.play(setup, [task]))
    assert pool.process_ids == []
