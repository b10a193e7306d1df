"""Commands side by side: on this machine, and on a Ray cluster that loses a node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.study.executors import Command, Ended, Executor, LocalExecutor, RayExecutor


def command(folder: Path, name: str, code: str, **environment: str) -> Command:
    return Command(name, ("-c", code), folder / f"{name}.log", environment)


def wait_all(executor: Executor, count: int, seconds: float = 60.0) -> list[Ended]:
    deadline, ended = time.monotonic() + seconds, []
    while len(ended) < count:
        assert time.monotonic() < deadline, ended
        one = executor.wait(timeout=1.0)
        ended += [one] if one is not None else []
    return ended


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def started(folder: Path) -> list[int]:
    """Process ids that the jobs below a folder have written down."""
    return [int(pid) for path in folder.glob("*/starts") for pid in path.read_text().split()]


def test_children_run_at_the_same_time_and_report_how_they_ended(tmp_path: Path) -> None:
    executor = LocalExecutor(slots=2)
    # Each waits for the other's file: one after the other would never end.
    code = (
        "import os, pathlib, time\n"
        "me, other = os.environ['ME'], os.environ['OTHER']\n"
        "pathlib.Path(me).touch()\n"
        "while not pathlib.Path(other).exists(): time.sleep(0.01)\n"
        "print('met', flush=True); raise SystemExit(int(os.environ['CODE']))"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    executor.submit(command(tmp_path, "one", code, ME=a, OTHER=b, CODE="0"))
    executor.submit(command(tmp_path, "two", code, ME=b, OTHER=a, CODE="3"))
    ended = wait_all(executor, 2)
    assert set(ended) == {Ended("one", 0), Ended("two", 3)}
    assert (tmp_path / "one.log").read_text() == "met\n"
    assert executor.wait(timeout=0.0) is None


def test_stop_ends_the_children(tmp_path: Path) -> None:
    executor = LocalExecutor(slots=1)
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    executor.submit(command(tmp_path, "sleeper", code))
    until(lambda: pid.exists() and bool(pid.read_text()))
    executor.stop()
    assert not alive(int(pid.read_text()))


def test_every_gpu_has_its_jobs(tmp_path: Path) -> None:
    executor = LocalExecutor(slots=2, devices=["0", "1"])
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for name in ("a", "b"):
        executor.submit(command(tmp_path, name, code))
    wait_all(executor, 2)
    assert {(tmp_path / f"{name}.log").read_text() for name in "ab"} == {"0\n", "1\n"}
    executor.submit(command(tmp_path, "c", code))  # its GPU is free again
    assert wait_all(executor, 1) == [Ended("c", 0)]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of Ray with one CPU each, as processes of this machine."""
    utils = pytest.importorskip("ray.cluster_utils", reason="the extra 'cluster' is not installed")
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
def test_jobs_of_a_node_that_is_lost_end_on_another_one(cluster: Any, tmp_path: Path) -> None:
    lost = cluster.add_node(num_cpus=1)
    executor = RayExecutor(cluster.address, cpus=1)
    assert executor.slots() == 2
    # As the study's jobs: done when its result is there, and stopped when its parent has gone.
    code = (
        "import os, pathlib, time\n"
        "folder, parent = pathlib.Path(os.environ['FOLDER']), os.getppid()\n"
        "with (folder / 'starts').open('a') as file: file.write(f'{os.getpid()}\\n')\n"
        "while not (folder.parent / 'go').exists():\n"
        "    if os.getppid() != parent: raise SystemExit(1)\n"
        "    time.sleep(0.05)\n"
        "(folder / 'result.json').write_text('done')"
    )
    names = [f"job_{index}" for index in range(4)]
    for name in names:
        (tmp_path / name).mkdir()
        executor.submit(command(tmp_path, name, code, FOLDER=str(tmp_path / name)))
    until(lambda: len(started(tmp_path)) == 2)  # one job on either node
    assert executor.wait(timeout=0.1) is None
    cluster.remove_node(lost, allow_graceful=False)
    until(lambda: not all(map(alive, started(tmp_path))))
    (tmp_path / "go").touch()
    ended = wait_all(executor, len(names), seconds=300)
    assert sorted(ended, key=lambda one: one.name) == [Ended(name, 0) for name in names]
    assert all((tmp_path / name / "result.json").exists() for name in names)
    assert len(started(tmp_path)) == len(names) + 1, "the lost node's job was started once more"
    until(lambda: executor.slots() == 1)  # the cluster takes a moment to notice


def test_a_cluster_that_is_not_there_is_one_message() -> None:
    pytest.importorskip("ray", reason="the extra 'cluster' is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with pytest.raises(ConfigError) as caught:
        RayExecutor("nonsense://nowhere")
    assert "no Ray cluster answers" in str(caught.value) and "\n" not in str(caught.value)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="extra 'cluster'"):
        RayExecutor()


def test_children_of_a_killed_scheduler_stop(tmp_path: Path) -> None:
    """Whatever they run; the next `lapo study` starts their jobs again."""
    pid = tmp_path / "pid"
    child = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    parent = (
        "import pathlib, time; from robomimic_vae_ext.study.executors import *\n"
        f"LocalExecutor(1).submit(Command('x', ('-c', {child!r}), pathlib.Path('log'), {{}}))\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    until(lambda: pid.exists() and bool(pid.read_text()))
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not alive(int(pid.read_text())))
