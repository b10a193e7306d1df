"""One function per difference between versions: what it is, why it is here, when it can go."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.version import Version


def robomimic_version() -> Version:
    """Version of the robomimic that is imported.

    Not the package metadata: a source checkout on PYTHONPATH may come before an installed one.
    """
    import robomimic
    from packaging.version import Version

    return Version(robomimic.__version__)


def _is_older(version: str) -> bool:
    """Whether the robomimic that is imported is older than this version."""
    from packaging.version import Version

    return robomimic_version() < Version(version)


@contextmanager
def mujoco_py_stand_in() -> Iterator[None]:
    """Let robomimic 0.3.0's `env_robosuite` import `mujoco_py` where there is none.

    What: 0.3.0 imports the retired mujoco_py unconditionally, for one exception class. While that
    one module is executed (and what it imports first), `mujoco_py` is a namespace with that class,
    mapped to what today's mujoco raises; before and after, `import mujoco_py` fails as it should.
    Drop when: robomimic 0.3 is no longer supported (0.5.0 guards the import itself).
    """
    needed = _is_older("0.4") and "mujoco_py" not in sys.modules
    if not needed or importlib.util.find_spec("mujoco_py") is not None:
        yield
        return
    import mujoco

    module: Any = ModuleType("mujoco_py")
    module.builder = SimpleNamespace(MujocoException=mujoco.FatalError)
    sys.modules["mujoco_py"] = module
    try:
        yield
    finally:
        sys.modules.pop("mujoco_py", None)


def serve_lapo_dataset(train_utils: ModuleType) -> None:
    """Let stock `train.py` draw batches for `lapo` from our replay, in memory or on disk.

    What: wraps `dataset_factory`. Configs of other algorithms, and ours with
    `algo.replay.enabled = false`, go to robomimic's own SequenceDataset untouched.
    Why: SequenceDataset with n-step windows copies every window of images (n times obs and n times
    next_obs per sample), and `hdf5_cache_mode="all"` keeps all those copies in memory.
    Drop when: robomimic lets a config choose its dataset class.
    """
    stock: Any = train_utils.dataset_factory
    if getattr(stock, "wrapped_for_lapo", False):
        return

    @functools.wraps(stock)
    def dataset_factory(config: Any, obs_keys: Any, *args: Any, **kwargs: Any) -> Any:
        if config.algo_name != "lapo" or not config.algo.replay.enabled:
            return stock(config, obs_keys, *args, **kwargs)
        from robomimic_vae_ext.lapo.replay_dataset import replay_from_config

        return replay_from_config(stock, config, obs_keys, *args, **kwargs)

    dataset_factory.wrapped_for_lapo = True  # type: ignore[attr-defined]
    train_utils.dataset_factory = dataset_factory  # type: ignore[attr-defined]


def let_print_logger_flush(log_utils: ModuleType) -> None:
    """Let the last lines of stock `train.py` arrive in pipes and log files.

    What: robomimic's PrintLogger, which takes the place of `sys.stdout`, gets a `flush`; its own
    does nothing, so that "finished run successfully!" and whatever else Python would have written
    at its exit is lost.
    Drop when: robomimic flushes itself.
    """

    def flush(self: Any) -> None:
        self.terminal.flush()
        self.log_file.flush()

    log_utils.PrintLogger.flush = flush


def load_dict_from_checkpoint(path: Path) -> Any:
    """Read a checkpoint as robomimic's function of this name does, but into main memory.

    What: robomimic reads it onto the GPU that it was trained on, where there is one.
    Why: every worker of an evaluation would hold it there, beside a CUDA context of its own.
    Drop when: robomimic reads into main memory, or lets a caller choose.
    """
    import torch

    # 0.3.0 leaves weights_only to torch, which is true since 2.6; 0.5.0 sets it to false.
    return torch.load(path, map_location="cpu", weights_only=_is_older("0.4"))


def dataset_paths(config: Any) -> list[str]:
    """Paths of the datasets in `config.train.data`.

    What: robomimic 0.5.0 turns the string into `[{"path": ...}]` and allows several datasets.
    Drop when: robomimic 0.3 is no longer supported.
    """
    data = config.train.data
    entries = data if isinstance(data, list | tuple) else [{"path": data}]
    return [os.path.expanduser(str(entry["path"])) for entry in entries]


def can_resume() -> bool:
    """Whether stock train.py has `--resume` (0.5.0 has). Drop with robomimic 0.3."""
    return not _is_older("0.4")


def can_normalize() -> bool:
    """Whether `train.hdf5_normalize_obs` works: on 0.3.0 any algorithm fails in its first batch.

    Drop with robomimic 0.3.
    """
    return not _is_older("0.4")
