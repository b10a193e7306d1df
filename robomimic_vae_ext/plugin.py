"""What happens when robomimic is imported: registration, and the repairs of `compat`.

`activate` is called by `import robomimic_vae_ext`; the start-up file calls `around_import` and
`after_import` when robomimic's modules are imported, whoever imports them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from robomimic_vae_ext import _startup, compat
from robomimic_vae_ext.errors import RegistrationError

ALGO_NAME = "lapo"


def activate() -> None:
    """Make robomimic know this package's algorithm, now or as soon as robomimic is imported.

    Calling it again does nothing. Nothing of robomimic is imported here: processes that only
    collect data never pay for torch.
    """
    _startup.install()
    for name in sorted(_startup.WATCHED, key=lambda name: name != "robomimic.config"):
        module = sys.modules.get(name)
        # A module that is being imported right now is finished by the hook that sees it.
        if module is not None and not _is_initializing(module):
            after_import(name)


def around_import(name: str) -> AbstractContextManager[None]:
    """Context in which the robomimic module `name` is executed."""
    if name == "robomimic.envs.env_robosuite":
        return compat.mujoco_py_stand_in()
    return nullcontext()


def after_import(name: str) -> None:
    """Do what is due once the robomimic module `name` has been executed.

    Raises:
        RegistrationError: another package has taken the name `lapo`.
    """
    if name == "robomimic.config":
        _register_config()
    elif name == "robomimic.algo":
        _register_algo()
    elif name == "robomimic.envs.env_robosuite":
        import robomimic_vae_ext.data.simulation.envs  # noqa: F401  (registers with robosuite)
    elif name == "robomimic.utils.train_utils":
        compat.serve_lapo_dataset(sys.modules[name])
        import robomimic.utils.log_utils as log_utils

        compat.let_print_logger_flush(log_utils)


def _register_config() -> None:
    from robomimic.config.base_config import REGISTERED_CONFIGS

    _refuse_foreign("config", REGISTERED_CONFIGS)
    import robomimic_vae_ext.lapo.config  # noqa: F401  (its metaclass registers it)


def _register_algo() -> None:
    # robomimic.algo imports robomimic.config or not, depending on the version; we need both.
    import robomimic.config  # noqa: F401
    from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS, register_algo_factory_func

    _refuse_foreign("algorithm", REGISTERED_ALGO_FACTORY_FUNCS)
    # Now, so that a broken installation fails now. It may be half-way through its own
    # import, which brought robomimic.algo here: so nothing of it is touched before it is used.
    import robomimic_vae_ext.lapo.algo  # noqa: F401

    register_algo_factory_func(ALGO_NAME)(algo_config_to_class)


def algo_config_to_class(algo_config: Any) -> tuple[type, dict[str, Any]]:
    """Factory function of robomimic's registry: the class, and no further arguments."""
    from robomimic_vae_ext.lapo.algo import LAPO

    return LAPO, {}


def _refuse_foreign(kind: str, registry: Mapping[str, Any]) -> None:
    """Raise if somebody else's entry has our name; robomimic itself would replace it."""
    entry = registry.get(ALGO_NAME)
    if entry is not None and not entry.__module__.startswith(f"{__package__}."):
        raise RegistrationError(
            f"robomimic's {kind} '{ALGO_NAME}' is already registered by {entry.__module__}",
            f"the name to be free for {__package__}",
            "Uninstall one of the two packages, or set ROBOMIMIC_VAE_EXT_DISABLE=1.",
        )


def _is_initializing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))
