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


class RobomimicFinder:
    """Meta-path finder that wraps the loader of the watched modules, and finds nothing itself.

    One of a kind: `marker` tells copies of this file (the installed one and the package's own)
    apart from other people's finders, so that whichever comes second does nothing.
    """

    marker = PLUGIN

    def __init__(self) -> None:
        self._busy: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's ordinary spec with a wrapped loader, or None if it is not watched."""
        if fullname not in WATCHED or fullname in self._busy:
            return None
        # Ask the other finders, so that editable installs and zip imports keep working.
        self._busy.add(fullname)
        try:
            from importlib.util import find_spec

            spec = find_spec(fullname)
        finally:
            self._busy.discard(fullname)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            self._wrap(spec.loader, fullname)
        return spec

    @staticmethod
    def _wrap(loader: Any, fullname: str) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plugin = load_plugin(fullname)
            with plugin.around_import(fullname):
                execute(module)
            plugin.after_import(fullname)

        loader.exec_module = exec_module


def load_plugin(trigger: str) -> Any:
    """Import the plugin; a failure becomes an ImportError of the robomimic module that woke us."""
    try:
        from importlib import import_module

        return import_module(PLUGIN + ".plugin")
    except Exception as error:
        raise ImportError(
            f"{PLUGIN} is installed but cannot be imported ({type(error).__name__}: {error}), so "
            f"{trigger} cannot offer its algorithm. Reinstall it, run `pip uninstall {PLUGIN}`, or "
            "set ROBOMIMIC_VAE_EXT_DISABLE=1 to use robomimic without it."
        ) from error


def install() -> None:
    """Put the finder first on `sys.meta_path`, once."""
    if not any(getattr(finder, "marker", None) == PLUGIN for finder in sys.meta_path):
        sys.meta_path.insert(0, RobomimicFinder())


install()
