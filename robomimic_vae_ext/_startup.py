"""Import hook that hands control to the plugin when robomimic is imported.

Installation copies this file into site-packages as `_robomimic_vae_ext_startup.py`, beside a
`.pth` file that imports it in every Python of that environment. It therefore imports nothing but
`sys` (the rest waits until robomimic is used), and knows nothing about the plugin but its name.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing typing at every start of Python would cost more than the hook
    from types import ModuleType
    from typing import Any

PLUGIN = "robomimic_vae_ext"

#: Modules after (and before) whose execution the plugin has something to do.
WATCHED = frozenset(
    {
        "robomimic.algo",
        "robomimic.config",
        "robomimic.envs.env_robosuite",
        "robomimic.utils.train_utils",
    }
)


class WatchedLoader:
    """Wraps a module's own loader for one execution, and then removes itself.

    A delegate rather than a patched loader: zip imports share one loader between modules, frozen
    ones use a class, and some refuse assignment.
    """

    def __init__(self, loader: Any, fullname: str) -> None:
        self._loader = loader
        self._fullname = fullname

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        """Let the module's own loader create it."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module between the plugin's two calls."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with guarded(self._fullname):
            from importlib import import_module

            plugin: Any = import_module(PLUGIN + ".plugin")
            context = plugin.around_import(self._fullname)
        with context:
            self._loader.exec_module(module)
        with guarded(self._fullname):
            plugin.after_import(self._fullname)


class RobomimicFinder:
    """Meta-path finder that puts a `WatchedLoader` before the watched modules' own.

    One of a kind: `marker` tells copies of this file (the installed one and the package's own)
    apart from other people's finders, so that whichever comes second does nothing.
    """

    marker = PLUGIN

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return what the other finders find, or None if the module is not watched."""
        if fullname not in WATCHED:
            return None
        for finder in sys.meta_path:
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    loader: Any = WatchedLoader(spec.loader, fullname)
                    spec.loader = loader
                return spec
        return None


class guarded:
    """Turn a failure of the plugin into an ImportError of the robomimic module that woke it.

    Errors that the plugin raises on purpose say what to do themselves, and pass.
    """

    def __init__(self, trigger: str) -> None:
        self._trigger = trigger

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if not isinstance(error, Exception) or kind.__module__ == PLUGIN + ".errors":
            return
        raise ImportError(
            f"{PLUGIN} is installed but cannot be imported ({kind.__name__}: {error}), so "
            f"{self._trigger} cannot offer its algorithm. Reinstall it, run "
            f"`pip uninstall {PLUGIN}`, or set ROBOMIMIC_VAE_EXT_DISABLE=1 to use robomimic "
            "without it."
        ) from error


def install() -> None:
    """Put the finder first on `sys.meta_path`, once."""
    if not any(getattr(finder, "marker", None) == PLUGIN for finder in sys.meta_path):
        sys.meta_path.insert(0, RobomimicFinder())


install()
