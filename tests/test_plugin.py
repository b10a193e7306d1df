"""How robomimic finds us: in fresh interpreters, as users start them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

STARTUP_MODULE = "_robomimic_vae_ext_startup"


def python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in a folder without the repository in sight."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_stock_robomimic_finds_config_and_algorithm(tmp_path: Path) -> None:
    result = python(
        """
        from robomimic.config import config_factory
        from robomimic.algo import algo_name_to_factory_func
        import sys
        assert config_factory("lapo").algo_name == "lapo"
        print(algo_name_to_factory_func("lapo")(None)[0].__name__, "robosuite" in sys.modules)
        """,
        tmp_path,
    )
    assert result.stdout.split()[-2:] == ["LAPO", "False"], result.stderr


@pytest.mark.slow
def test_the_last_lines_of_stock_train_py_arrive_in_pipes(tmp_path: Path) -> None:
    """It ends with robomimic's PrintLogger in the place of sys.stdout."""
    result = python(
        """
        import sys
        import robomimic.utils.train_utils
        from robomimic.utils.log_utils import PrintLogger
        sys.stdout = PrintLogger("log.txt")
        print("finished run successfully!")
        """,
        tmp_path,
        PYTHONUNBUFFERED="",
    )
    assert result.stdout.splitlines()[-1:] == ["finished run successfully!"], result.stderr
    assert "finished run successfully!" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import robomimic.algo",
        "import robomimic.utils.file_utils",
        "import robomimic_vae_ext.lapo.algo",
        "import robomimic_vae_ext.lapo.config",
        "import robomimic_vae_ext.lapo.replay_dataset",
    ],
)
def test_any_import_may_come_first(tmp_path: Path, first: str) -> None:
    result = python(
        f"""
        {first}
        import robomimic_vae_ext
        import robomimic.utils.train_utils as train_utils
        from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS as algos
        from robomimic.config.base_config import REGISTERED_CONFIGS as configs
        print("lapo" in algos, "lapo" in configs, train_utils.dataset_factory.wrapped_for_lapo)
        """,
        tmp_path,
    )
    assert result.stdout.split()[-3:] == ["True", "True", "True"], result.stderr


@pytest.mark.slow
def test_registering_twice_is_harmless(tmp_path: Path) -> None:
    result = python(
        """
        import sys
        import robomimic.algo, robomimic_vae_ext
        from robomimic_vae_ext import plugin
        plugin.activate(); plugin.activate()
        print(sum(getattr(f, "marker", "") == "robomimic_vae_ext" for f in sys.meta_path))
        """,
        tmp_path,
    )
    assert result.stdout.split()[-1] == "1", result.stderr


def test_importing_the_package_imports_neither_torch_nor_simulator(tmp_path: Path) -> None:
    result = python(
        """
        import sys, robomimic_vae_ext
        heavy = {"torch", "robosuite", "mujoco", "robomimic", "h5py", "matplotlib"}
        print(sorted(heavy & set(sys.modules)))
        """,
        tmp_path,
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_a_plain_python_loads_only_the_startup_file(tmp_path: Path) -> None:
    result = python(
        """
        import sys
        print(sorted(m for m in sys.modules if "robomimic" in m and "editable" not in m))
        """,
        tmp_path,
    )
    assert result.stdout.strip() == f"['{STARTUP_MODULE}']", result.stderr


def test_the_startup_file_imports_nothing_new(tmp_path: Path) -> None:
    """Its cost is the reading of one small file: it must not pull in other modules."""
    result = python(
        f"""
        import sys
        del sys.modules["{STARTUP_MODULE}"]
        before = set(sys.modules)
        import {STARTUP_MODULE}
        print(sorted(set(sys.modules) - before))
        """,
        tmp_path,
    )
    assert result.stdout.strip() == f"['{STARTUP_MODULE}']", result.stderr


def test_the_installed_startup_file_is_the_packages_own(tmp_path: Path) -> None:
    result = python(f"import {STARTUP_MODULE} as m; print(m.__file__)", tmp_path)
    installed = Path(result.stdout.strip())
    assert installed.read_text() == (REPOSITORY / "robomimic_vae_ext/_startup.py").read_text()


@pytest.mark.slow
def test_off_switch(tmp_path: Path) -> None:
    result = python(
        """
        import sys
        from robomimic.config.base_config import REGISTERED_CONFIGS
        import robomimic.algo
        ours = [m for m in sys.modules if "vae_ext" in m and "editable" not in m]
        print("lapo" in REGISTERED_CONFIGS, ours)
        """,
        tmp_path,
        ROBOMIMIC_VAE_EXT_DISABLE="1",
    )
    assert result.stdout.splitlines()[-1] == "False []", result.stderr


def test_a_broken_plugin_fails_loudly_when_robomimic_is_used(tmp_path: Path) -> None:
    broken = tmp_path / "robomimic_vae_ext"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('disk full of sand')\n")
    result = python("import json; print('fine'); import robomimic.algo", tmp_path)
    assert result.stdout.startswith("fine")
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError")
    assert "disk full of sand" in message and "ROBOMIMIC_VAE_EXT_DISABLE=1" in message


def copy_with(tmp_path: Path, name: str, text: str) -> None:
    """A copy of the package, first on the path, with one file replaced."""
    shutil.copytree(REPOSITORY / "robomimic_vae_ext", tmp_path / "robomimic_vae_ext")
    (tmp_path / "robomimic_vae_ext" / name).write_text(text)


@pytest.mark.slow
def test_a_failure_deep_inside_is_the_same_import_error(tmp_path: Path) -> None:
    copy_with(tmp_path, "lapo/obs_encoder.py", "import json\njson.no_such_thing\n")
    result = python("import robomimic.algo", tmp_path)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError") and "no_such_thing" in message
    assert "ROBOMIMIC_VAE_EXT_DISABLE=1" in message


def test_loaders_that_are_shared_or_refuse_assignment(tmp_path: Path) -> None:
    """A zip file's modules share one loader, which must not be changed."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "host.zip", "w") as archive:
        archive.writestr("toy_host/__init__.py", "")
        for name in ("watched", "other"):
            archive.writestr(f"toy_host/{name}.py", f"value = {name!r}")
    result = python(
        """
        import sys
        sys.path.insert(0, "host.zip")
        import robomimic_vae_ext._startup as startup
        calls = []
        class Plugin:
            def around_import(self, name):
                import contextlib
                calls.append(("around", name))
                return contextlib.nullcontext()
            def after_import(self, name):
                calls.append(("after", name))
        sys.modules["robomimic_vae_ext.plugin"] = Plugin()
        finder = next(f for f in sys.meta_path if getattr(f, "marker", None))
        type(finder).find_spec.__globals__["WATCHED"] = {"toy_host.watched"}
        import toy_host.watched, toy_host.other, importlib
        importlib.reload(toy_host.watched)
        print(calls, toy_host.watched.__loader__ is toy_host.watched.__spec__.loader,
              type(toy_host.watched.__loader__).__name__)
        """,
        tmp_path,
    )
    pair = "('around', 'toy_host.watched'), ('after', 'toy_host.watched')"
    assert result.stdout.splitlines()[-1] == f"[{pair}, {pair}] True zipimporter", result.stderr


@pytest.mark.slow
def test_a_taken_name_is_an_error(tmp_path: Path) -> None:
    for kind, code in {
        "config": """
            import robomimic.config.base_config as base
            """,
        "algorithm": "",
    }.items():
        result = python(
            f"""
            import os, sys
            sys.meta_path[:] = [f for f in sys.meta_path if not hasattr(f, "marker")]
            {code.strip()}
            from robomimic.config.base_config import BaseConfig
            from robomimic.algo.algo import register_algo_factory_func
            if {kind!r} == "config":
                class Other(BaseConfig):
                    ALGO_NAME = "lapo"
            else:
                register_algo_factory_func("lapo")(lambda config: None)
            import robomimic_vae_ext
            """,
            tmp_path,
        )
        assert result.returncode == 1, kind
        message = result.stderr.splitlines()[-1]
        assert f"{kind} 'lapo' is already registered by __main__" in message


@pytest.mark.slow
def test_processes_of_every_start_method_find_us(tmp_path: Path) -> None:
    script = tmp_path / "spawned.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing
            def probe(_):
                from robomimic.config import config_factory
                return config_factory("lapo").algo_name
            if __name__ == "__main__":
                for method in ("fork", "spawn", "forkserver"):
                    with multiprocessing.get_context(method).Pool(1) as pool:
                        print(method, pool.map(probe, [0]))
            """
        )
    )
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=180
    )
    assert result.stdout.count("['lapo']") == 3, result.stderr


@pytest.mark.slow
def test_mujoco_py_stand_in_is_visible_to_robomimic_alone(tmp_path: Path) -> None:
    result = python(
        """
        import importlib.util
        import robomimic.envs.env_robosuite as env_robosuite
        import mujoco, sys
        from robosuite.environments.base import REGISTERED_ENVS
        print("mujoco_py" in sys.modules, importlib.util.find_spec("mujoco_py"),
              "LiftFast" in REGISTERED_ENVS)
        """,
        tmp_path,
    )
    assert result.stdout.splitlines()[-1] == "False None True", result.stderr
