"""What is installed, what works, and what to do about the rest: the content of a bug report.

Whatever may crash or hang is tried in a process of its own. This module needs the standard library
only, so that it also works in a broken environment.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from robomimic_vae_ext.provenance import processor

PACKAGE: Final = "robomimic_vae_ext"
TIMEOUT: Final = 60.0  # [s]; on an idle machine the probes need about 5
LOW_SPACE: Final = 5e9  # [byte]; an image dataset and the checkpoints of a run fit
MARK: Final = "@doctor "  # before the probes' lines: the libraries print, too
SETTINGS: Final = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY",
                   "ROBOMIMIC_VAE_EXT_DISABLE", "PYTHONPATH")  # fmt: skip

TOGETHER: Final = "pip install --force-reinstall torch torchvision, both from the same index."
REINSTALL: Final = f"pip install --force-reinstall --no-deps {PACKAGE}, without python -S or -I."

#: What a probe's process runs after `_PRELUDE`. Every `say` is one line, at once: what was said
#: before a crash is known.
_PRELUDE: Final = f"""
import importlib, json, sys
from importlib import metadata
def say(name, **answer):
    print("\\n{MARK}" + json.dumps([name, answer]), flush=True)
def attempt(name, call):
    try:
        say(name, value=str(call()))
    except BaseException as error:
        say(name, error=f"{{type(error).__name__}}: {{error}}")
def version(name):
    module = importlib.import_module(name)
    return getattr(module, "__version__", None) or metadata.version(name)
"""
_PROBES: Final = {
    # robomimic comes first and alone: what it brings along is what a user of it gets.
    "training": """
def plugin():
    import robomimic.algo, robomimic.config
    from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS as algos
    from robomimic.config.base_config import REGISTERED_CONFIGS as configs
    missing = [kind for kind, of in (("algorithm", algos), ("config", configs)) if "lapo" not in of]
    if missing:
        raise LookupError(f"no {' and no '.join(missing)} 'lapo' in robomimic")
    return "robomimic knows lapo"
def gpu():
    import torch
    count = torch.cuda.device_count()
    return ", ".join(torch.cuda.get_device_name(i) for i in range(count)) or "none seen by torch"
attempt("robomimic", lambda: version("robomimic"))
attempt("plugin", plugin)
for name in ("numpy", "h5py", "torch", "torchvision"):
    attempt(name, lambda: version(name))
attempt("GPU", gpu)
""",
    "simulation": """
def rendering():
    from robomimic_vae_ext.data.simulation.render import require_rendering
    require_rendering()
    return "one frame"
for name in ("mujoco", "robosuite"):
    attempt(name, lambda: version(name))
attempt("rendering", rendering)
""",
}

#: What to do where a probe's item fails.
_REMEDIES: Final = {
    "numpy": "pip install numpy",
    "h5py": "pip install h5py",
    "torch": TOGETHER,
    "torchvision": TOGETHER,
    "robomimic": "pip install robomimic",
    "mujoco": "pip install the version that docs/install.md names.",
    "robosuite": 'pip install "robosuite>=1.5.2,<1.6"',
    "GPU": "Check the driver with nvidia-smi; training also runs without a GPU.",
    "plugin": "See the error: reinstall what it names, or this package.",
    "rendering": "Install the system package libegl1 and set MUJOCO_GL=egl.",
}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Literal["ok", "note", "problem"]  # a problem makes the exit code 1
    value: str
    action: str = ""  # what to do about it


def examine(folder: Path, timeout: float = TIMEOUT) -> list[Check]:
    """Make all checks.

    Args:
        folder: where output would go; it need not exist.
        timeout: for the checks that run in processes of their own, together [s].
    """
    checks = [
        Check("platform", "ok", f"{platform.platform()}, {os.cpu_count()} x {processor()}"),
        Check("python", "ok", f"{platform.python_version()} ({sys.executable})"),
        *(Check(name, "ok", os.environ[name]) for name in SETTINGS if name in os.environ),
    ]
    answers = probe(timeout)
    checks += _judge(answers)
    others: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("torch build", lambda: check_builds(answers)),
        ("requirements", check_requirements),
        ("import hook", check_hook),
        ("output folder", lambda: check_folder(folder)),
    )
    for name, check in others:
        try:
            checks += check()
        except Exception as error:  # a check that fails says so, and the others go on
            action = "Report this together with the other lines."
            checks.append(Check(name, "problem", f"{type(error).__name__}: {error}", action))
    return checks


def probe(timeout: float) -> dict[str, dict[str, str]]:
    """Run the probes side by side; what each item answered: its `value`, or its `error`."""
    end = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as empty:  # no folder of the user's shadows a package
        running = {
            name: subprocess.Popen(
                [sys.executable, "-c", _PRELUDE + code], cwd=empty, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            )
            for name, code in _PROBES.items()
        }  # fmt: skip
        answers: dict[str, dict[str, str]] = {}
        for name, process in running.items():
            answers |= _answers(process, _PROBES[name], end - time.monotonic(), timeout)
    return answers


def _answers(
    process: subprocess.Popen[str], code: str, remaining: float, timeout: float
) -> dict[str, dict[str, str]]:
    try:
        output, _ = process.communicate(timeout=max(0.1, remaining))
        ending, slow = _ending(process.returncode), ""
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        ending = f"no answer within {timeout:g} s"
        slow = "Try again on a machine that is less busy, or with a longer --timeout."
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    said = dict(json.loads(line.removeprefix(MARK)) for line in lines)
    expected = [name for name in _REMEDIES if f'"{name}"' in code]
    silent = {"error": ending} | ({"action": slow} if slow else {})
    return {name: said.get(name, silent) for name in expected}


def _ending(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code} before it answered"


def _judge(answers: dict[str, dict[str, str]]) -> Iterator[Check]:
    for name in _REMEDIES:
        answer = answers[name]
        if "error" not in answer:
            yield Check(name, "ok", answer["value"])
            continue
        lines = answer["error"].strip().splitlines() or [""]
        # A missing GPU is no problem; one that torch cannot talk to is worth a line.
        status: Literal["note", "problem"] = "note" if name == "GPU" else "problem"
        yield Check(name, status, lines[0], answer.get("action", _REMEDIES[name]))


def check_builds(answers: dict[str, dict[str, str]]) -> Iterator[Check]:
    """Check that torch and torchvision come from one build, and that torch can use the driver."""
    torch, vision = (answers[name].get("value", "") for name in ("torch", "torchvision"))
    builds = {version.partition("+")[2] for version in (torch, vision) if "+" in version}
    if torch and vision and len(builds) > 1:
        yield Check("torch build", "problem", f"torch {torch}, torchvision {vision}", TOGETHER)
    driver = Path("/proc/driver/nvidia/version").exists()
    if driver and answers["GPU"].get("value", "").startswith("none"):
        yield Check("GPU driver", "note", "there is one, but torch sees no GPU", _REMEDIES["GPU"])


def check_requirements() -> Iterator[Check]:
    """Compare what is installed with what this package and torchvision ask for."""
    from packaging.requirements import Requirement

    try:
        texts = metadata.requires(PACKAGE) or []
        origin = f"{metadata.version(PACKAGE)} in {Path(__file__).parent}"
        yield Check(PACKAGE, "ok", origin)
    except metadata.PackageNotFoundError:
        found = f"not installed, used from {Path(__file__).parent}"
        yield Check(PACKAGE, "note", found, "pip install it, so that robomimic finds it.")
        return
    for text in [*texts, *_torchvision_needs()]:
        needed = Requirement(text)
        # Who else provides robomimic gives it another name: the probe has imported it.
        if needed.name == "robomimic" or (needed.marker and not needed.marker.evaluate()):
            continue
        wanted, action = f"{needed.name}{needed.specifier}", f'pip install "{text.split(";")[0]}"'
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            yield Check(needed.name, "problem", f"not installed; needed: {wanted}", action)
            continue
        if not needed.specifier.contains(version, prereleases=True):
            yield Check(needed.name, "problem", f"{version} is installed; needed: {wanted}", action)


def _torchvision_needs() -> list[str]:
    try:
        texts = metadata.requires("torchvision") or []
    except metadata.PackageNotFoundError:
        return []
    return [text for text in texts if re.match(r"torch\W", text)]


def check_hook() -> Iterator[Check]:
    """Check that the start-up file, which waits for robomimic, is active in this Python."""
    name = f"_{PACKAGE}_startup"
    module: Any = sys.modules.get(name)
    if module is not None:
        yield Check("import hook", "ok", str(module.__file__))
    elif os.environ.get("ROBOMIMIC_VAE_EXT_DISABLE", "0") not in ("", "0"):
        action = "Unset ROBOMIMIC_VAE_EXT_DISABLE."
        yield Check("import hook", "problem", "switched off by its variable", action)
    else:
        yield Check("import hook", "problem", f"{name} was not imported at start-up", REINSTALL)


def check_folder(folder: Path) -> Iterator[Check]:
    """Check that files can be made in the folder, or where it would be made, and how many."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        yield Check("output folder", "problem", f"{there}: {error}", "Choose another --folder.")
        return
    free = shutil.disk_usage(there).free
    made = "" if there == folder.absolute() else f" (to be made in {there})"
    value = f"{folder.absolute()}{made}, {free / 1e9:.1f} GB free"
    if free < LOW_SPACE:
        yield Check("output folder", "note", value, "An image dataset takes several GB.")
    else:
        yield Check("output folder", "ok", value)


def describe(checks: list[Check]) -> str:
    """All checks as text; below each problem what to do."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:8}{check.name:{width}}  {check.value}")
        if check.action:
            lines.append(f"{'':8}{'':{width}}  -> {check.action}")
    problems = sum(check.status == "problem" for check in checks)
    summary = "everything needed is installed and works"
    if problems:
        summary = f"{problems} problem{'s' if problems > 1 else ''}"
    lines.append(summary)
    return "\n".join(lines)


def as_json(checks: list[Check]) -> dict[str, Any]:
    """The same as plain types."""
    ok = all(check.status != "problem" for check in checks)
    return {"ok": ok, "checks": [asdict(check) for check in checks]}
