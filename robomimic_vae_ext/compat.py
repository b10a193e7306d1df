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

from robomimic_vae_ext.errors import ConfigError

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

    What: wraps `dataset_factory`. Configs of other algorithms go to robomimic's own SequenceDataset
    untouched, and ours with `algo.replay.enabled = false` after the same checks of the dataset.
    Why: SequenceDataset with n-step windows copies every window of images (n times obs and n times
    next_obs per sample), and `hdf5_cache_mode="all"` keeps all those copies in memory.
    Drop when: robomimic lets a config choose its dataset class.
    """
    stock: Any = train_utils.dataset_factory
    if getattr(stock, "wrapped_for_lapo", False):
        return

    @functools.wraps(stock)
    def dataset_factory(config: Any, obs_keys: Any, *args: Any, **kwargs: Any) -> Any:
        if config.algo_name != "lapo":
            return stock(config, obs_keys, *args, **kwargs)
        from robomimic_vae_ext.lapo import replay_dataset

        replay_dataset.check_datasets(config)
        if not config.algo.replay.enabled:
            return stock(config, obs_keys, *args, **kwargs)
        return replay_dataset.replay_from_config(stock, config, obs_keys, *args, **kwargs)

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


def load_dict_from_checkpoint(path: Path, trust: bool = False) -> Any:
    """Read a checkpoint as robomimic's function of this name does, but as data, into main memory.

    What: robomimic reads it onto the GPU that it was trained on, where there is one; and 0.5.0 runs
    whatever code a pickle names. Here only tensors, plain types and numpy's numbers are read, which
    is what both versions write.
    Why: every worker of an evaluation would hold it there, beside a CUDA context of its own; and a
    checkpoint may be somebody else's.
    Drop when: robomimic reads into main memory, or lets a caller choose.

    Args:
        path: of the file.
        trust: run the code that the file names.
    """
    import numpy as np
    import torch

    # 0.5.0's best scores are numpy's numbers, which numpy 1 and 2 name differently.
    scalar = np.float64(0).__reduce__()[0]
    kinds = (np.float64, np.float32, np.int64, np.bool_)
    harmless: list[Any] = [np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
    harmless += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals(harmless):
        return torch.load(path, map_location="cpu", weights_only=not trust)


def dataset_entries(config: Any) -> list[dict[str, Any]]:
    """Datasets of `config.train.data`, each with its `path` and what else is said of it.

    What: robomimic 0.3.0 reads a string. 0.5.0 turns it into `[{"path": ...}]`, and allows several.
    Drop when: robomimic 0.3 is no longer supported.

    Raises:
        ConfigError: no dataset, or something else than paths.
    """
    return _entries(config.train.data)


def _entries(data: Any) -> list[dict[str, Any]]:
    if data is None:
        raise ConfigError("train.data is null", "the path of a dataset", "Pass --dataset.")
    found = []
    for entry in data if isinstance(data, list | tuple) else [data]:
        entry = dict(entry) if isinstance(entry, dict) else {"path": entry}
        path = entry.get("path")
        if not isinstance(path, str) or not path:
            raise ConfigError(
                f"train.data holds {entry if 'path' not in entry else path!r}",
                'a path, or a list of paths or of {"path": ...}',
                "Correct train.data, or pass --dataset.",
            )
        found.append(entry | {"path": os.path.expanduser(path)})
    if not found:
        raise ConfigError("train.data is an empty list", "a dataset", "Pass --dataset.")
    return found


def readable_data(data: Any) -> Any:
    """`train.data` as the installed robomimic reads it: one path, or from 0.5.0 on a list.

    Raises:
        ConfigError: several datasets, or settings of one, that robomimic 0.3 cannot read.
    """
    entries = _entries(data)
    if not _is_older("0.4"):
        return data if isinstance(data, str) else entries
    if len(entries) > 1:
        raise ConfigError(
            f"train.data names {len(entries)} datasets",
            f"one, all that robomimic {robomimic_version()} trains on",
            "Merge them into one file, or install robomimic 0.5.0.",
        )
    unread = sorted(entries[0].keys() - {"path", "weight"})  # a single weight weighs nothing
    if unread:
        raise ConfigError(
            f"train.data says {', '.join(map(repr, unread))} of a dataset",
            f"its path alone, all that robomimic {robomimic_version()} reads",
            "Remove that (a filter key belongs into train.hdf5_filter_key), or install robomimic "
            "0.5.0.",
        )
    return data if isinstance(data, str) else entries[0]["path"]


def first_readable(data: Any) -> Any:
    """`readable_data`; of several datasets the first, for what is only rolled out."""
    if data is None:
        return None
    try:
        return readable_data(data)
    except ConfigError:
        return _entries(data)[0]["path"]


def dataset_paths(config: Any) -> list[str]:
    """Paths of the datasets in `config.train.data`; see `dataset_entries`."""
    return [entry["path"] for entry in dataset_entries(config)]


def schedulers() -> tuple[str, ...]:
    """Kinds of learning rate schedules of the installed robomimic. Drop with robomimic 0.3."""
    return ("multistep", "linear") if _is_older("0.4") else ("multistep", "linear", "cosine")


def schedules_every_batch() -> bool:
    """Whether schedules can step after every batch. Drop with robomimic 0.3."""
    return not _is_older("0.4")


def has_time_folder() -> bool:
    """Whether robomimic's `get_exp_dir` also returns the run's folder. Drop with robomimic 0.3."""
    return not _is_older("0.4")


def can_normalize() -> bool:
    """Whether `train.hdf5_normalize_obs` works: on 0.3.0 any algorithm fails in its first batch.

    Drop with robomimic 0.3.
    """
    return not _is_older("0.4")
