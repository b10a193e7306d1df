"""The documents: commands run, links lead somewhere, generated blocks are those of their data."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robomimic_vae_ext import cli
from tests.conftest import REPOSITORY

DOCUMENTS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
README = DOCUMENTS["README.md"]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")

# Run by .ci/run, which starts from nothing, by test_packaging.py, or by `make study-smoke`.
RUN_ELSEWHERE = ("make ", "pip install", "lapo study", "lapo demo", "lapo doctor")

# What makes a command of the README small enough for a test.
# Stock --debug writes to one folder for everybody, and asks if an experiment is there already.
NAME = f"readme_{os.getpid()}"
SMALLER = {
    "--n 200": "--n 10",
    "--n 50": "--n 1 --horizon 5",
    "robomimic.scripts.train": f"robomimic.scripts.train --debug --name {NAME}",
    "lapo train": (
        "lapo train --epochs 2 --set train.batch_size=16 --set experiment.epoch_every_n_steps=2 "
        "--set experiment.validation_epoch_every_n_steps=1 --set experiment.rollout.n=1 "
        "--set experiment.rollout.horizon=5"
    ),
}


def commands(text: str) -> list[str]:
    """Commands in the bash blocks of a document."""
    blocks = [code for language, code in BLOCK.findall(text) if language == "bash"]
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def lapo_commands() -> list[Any]:
    """Every line of a document that begins with `lapo VERB`, in a block or indented."""
    found = []
    for name, text in DOCUMENTS.items():
        for line in re.findall(r"^\s*(?:\$ )?(lapo [a-z].*)$", text, re.MULTILINE):
            command = re.split(r"\s+#|;|\|\|", line)[0].strip()
            found.append(pytest.param(command, id=f"{name}: {command}"))
    return found


@pytest.mark.parametrize("command", lapo_commands())
def test_arguments_of_every_command_exist(command: str) -> None:
    words = shlex.split(command)[1:]
    assert callable(cli.parse(words[0], words[1:]).run)


def prepare(line: str) -> list[str]:
    """A command of the README in small, as arguments of this Python."""
    for text, smaller in SMALLER.items():
        line = line.replace(text, smaller)
    words = shlex.split(line)
    if words[0] == "lapo":
        return ["-m", "robomimic_vae_ext", *words[1:]]
    assert words[0] == "python", line
    return words[1:]


@pytest.mark.simulator
@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path: Path) -> None:
    text = (REPOSITORY / "configs" / "vae_joint.json").read_text()
    (tmp_path / "configs").mkdir()
    small = text.replace('"seed": 0', '"seed": 0, "batch_size": 16')
    (tmp_path / "configs" / "vae_joint.json").write_text(small)
    lines = [line for line in commands(README) if not line.startswith(RUN_ELSEWHERE)]
    assert len(lines) >= 8
    for line in lines:
        result = subprocess.run(
            [sys.executable, *prepare(line)], cwd=tmp_path, capture_output=True,
            text=True, timeout=300, stdin=subprocess.DEVNULL,
            env=dict(os.environ) | {"MUJOCO_GL": "egl"},
        )  # fmt: skip
        assert result.returncode == 0, f"{line}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        if "robomimic.scripts.train" in line:  # exits 0 even if training failed
            assert "finished run successfully!" in result.stdout, result.stdout[-2000:]


def test_the_check_of_the_readme_finds_the_bug(
    make_model: Callable[..., Any], make_batch: Callable[..., Any]
) -> None:
    (snippet,) = [code for language, code in BLOCK.findall(README) if language == "python"]
    algo = make_model()
    exec(snippet, {"algo": algo, "batch": make_batch(algo)})
    broken = make_model(owner="vae")
    with pytest.raises(AssertionError):
        exec(snippet, {"algo": broken, "batch": make_batch(broken)})


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_and_images_exist(name: str) -> None:
    missing = []
    for link in LINK.findall(DOCUMENTS[name]):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        path = (REPOSITORY / name).parent / file if file else REPOSITORY / name
        if not path.exists() or (anchor and anchor not in anchors(path)):
            missing.append(link)
    assert not missing


def test_generated_blocks_are_those_of_their_data() -> None:
    script = runpy.run_path(str(REPOSITORY / "docs" / "make_performance.py"))
    text = DOCUMENTS["docs/performance.md"]
    assert len(script["MARKED"].findall(text)) >= 2
    assert script["fill"](text, REPOSITORY / "docs") == text
    # A number that is changed by hand is noticed.
    spoilt = re.sub(r"\| (\d+\.\d+) \|", "| 99.9 |", text, count=1)
    assert spoilt != text and script["fill"](spoilt, REPOSITORY / "docs") == text


def test_an_unknown_marker_is_named() -> None:
    script = runpy.run_path(str(REPOSITORY / "docs" / "make_performance.py"))
    with pytest.raises(Exception, match="stepps"):
        script["fill"]("<!-- bench_cpu.json: stepps -->\n<!-- end -->", REPOSITORY / "docs")


def test_config_keys_of_the_readme_exist() -> None:
    from robomimic.config import config_factory

    for key in re.findall(r"`(algo\.[\w.]+)", README):
        section: Any = config_factory("lapo")
        for part in key.split("."):
            assert part in section, key
            section = section[part]
