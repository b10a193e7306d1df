"""robomimic's train.py, with checks before it and the truth about its end.

Stock train.py catches every exception, prints it and exits 0. Here a failure raises.
"""

from __future__ import annotations

import argparse
import builtins
import contextlib
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import robomimic.config as config_module
import robomimic.scripts.train as stock

from robomimic_vae_ext import compat
from robomimic_vae_ext.data import validate
from robomimic_vae_ext.data.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.errors import ConfigError, VaeExtError
from robomimic_vae_ext.rollout import overrides

WORKERS_KEY = "num_workers"  # in experiment.rollout
DEBUG_FOLDER = Path("/tmp/tmp_trained_models")  # where stock train.py's --debug writes


class TrainingError(VaeExtError):
    """Training stopped before its end."""


def parser() -> argparse.ArgumentParser:
    """The flags of the installed robomimic's train.py."""
    flags = argparse.ArgumentParser(prog="train.py")
    flags.add_argument("--config", help="config JSON")
    flags.add_argument("--algo", help="algorithm, where no config is given")
    flags.add_argument("--name", help="experiment name, instead of the config's")
    flags.add_argument("--dataset", help="dataset, instead of the config's")
    flags.add_argument("--debug", action="store_true", help="a few steps of everything")
    if compat.can_resume():
        flags.add_argument("--resume", action="store_true", help="go on with the only run there")
    return flags


def train(argv: list[str]) -> Path:
    """Check config and dataset, then run stock train.py.

    Differs from stock in three more points: a relative `train.output_dir` is relative to the
    current folder, not to the installed robomimic; where nobody can answer, an existing experiment
    folder is kept and the run goes into a new time-stamped folder inside it; and with the key
    `experiment.rollout.num_workers`, which stock does not know, worker processes do the rollouts.

    Args:
        argv: flags, as `parser` describes them.

    Returns:
        The run's folder, with `models`, `logs` and `videos`.

    Raises:
        ConfigError: unreadable config, unknown key, impossible value.
        DatasetError: a dataset that does not fit the config.
        SimulationError: rollouts need pictures, and nothing can be rendered.
        TrainingError: stock training failed; the original exception is its cause.
    """
    args = parser().parse_args(argv)
    config = read_config(args.config, args.algo)
    with config.unlocked():
        config.train.data = args.dataset or config.train.data
        if config.train.data is None:
            raise ConfigError(
                "train.data is null", "the path of a dataset", "Set it, or pass --dataset."
            )
    if getattr(args, "resume", False):
        _check_resume(Path(config.train.output_dir) / (args.name or config.experiment.name))
    filter_keys = (config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key)
    for path in compat.dataset_paths(config):
        dataset = validate.validate_dataset(
            path,
            obs_keys=config.all_obs_keys,
            filter_keys=[key for key in filter_keys if key],
            need_transitions=config.train.hdf5_load_next_obs,
            rollouts=config.experiment.rollout.enabled,
        )
        _check_crops(config, dataset)
        if config.experiment.rollout.enabled and dataset.env_args["type"] == ROBOMIMIC_ENV_TYPE:
            _check_rollouts(config, dataset)
    with (
        _rollouts_in_workers(args, config),
        _output_dir(config, args.debug) as folder,
        _nobody_answers(),
        _own_output(),
        _recorded() as failures,
    ):
        before = set(folder.glob(f"{args.name or config.experiment.name}/*"))
        stock.main(args)
        if failures:
            raise TrainingError(
                f"training failed with {type(failures[0]).__name__}: {failures[0]}",
                "the run to finish",
                "The traceback stands above; what was saved until then is kept.",
            ) from failures[0]
        found = set(folder.glob(f"{args.name or config.experiment.name}/*"))
    # --resume makes no new folder; it goes on in the one that is there.
    return max(found - before or found, default=folder)


def _check_resume(folder: Path) -> None:
    """Refuse what stock train.py answers with a bare assertion."""
    runs = sorted(path.name for path in folder.expanduser().glob("*") if path.is_dir())
    if len(runs) != 1:
        raise ConfigError(
            f"--resume: {folder} holds {len(runs)} runs",
            "exactly one, with which robomimic goes on",
            "Leave out --resume for a new one, or move all others away.",
        )


def _check_crops(config: Any, dataset: validate.DatasetInfo) -> None:
    """Refuse pictures that are not larger than their crop, as robomimic's crops have to be."""
    for modality, keys in config.observation.modalities.obs.items():
        encoder = config.observation.encoder.get(modality)
        if encoder is None or "CropRandomizer" not in str(encoder.obs_randomizer_class):
            continue
        crop = tuple(encoder.obs_randomizer_kwargs.get(f"crop_{it}") for it in ("height", "width"))
        for key in keys:
            size = dataset.obs_shapes[key][:2]
            if None not in crop and any(c >= s for c, s in zip(crop, size, strict=True)):
                raise ConfigError(
                    f"{key} has {size[0]}x{size[1]} pixels and its crop {crop[0]}x{crop[1]}",
                    "pictures larger than the crop on both sides",
                    f"Change observation.encoder.{modality}.obs_randomizer_kwargs.",
                )


def _check_rollouts(config: Any, dataset: validate.DatasetInfo) -> None:
    """Refuse rollouts in robosuite that cannot be, before an epoch is spent.

    Those with goals that the environment cannot give, and with pictures where nothing renders.
    """
    # Only now: it is a simulator, which training without rollouts does not need. Registers ours.
    from robomimic_vae_ext.data import envs

    own = config.experiment.env or dataset.env_args["env_name"]
    for name in (own, *(config.experiment.additional_envs or ())):
        if config.use_goals and not envs.gives_goals(name):
            raise ConfigError(
                f"observation.modalities.goal has keys, and robosuite's {name} has no _get_goal",
                "an environment that gives goals in rollouts",
                "Set experiment.rollout.enabled to false, or train without goals.",
            )
    pictures = [key for name in ("rgb", "depth") for key in config.observation.modalities.obs[name]]
    if pictures:
        envs.require_rendering(
            "train with experiment.rollout.enabled = false and evaluate elsewhere"
        )
    elif config.experiment.render_video:
        envs.require_rendering("set experiment.render_video = false")


def read_config(path: str | None, algo: str | None) -> Any:
    """Read a config as stock train.py does, with one sentence for each thing that can be wrong.

    Raises:
        ConfigError: missing or unreadable file, unknown algorithm, key or value.
    """
    if path is None:
        if algo is None:
            raise ConfigError("neither --config nor --algo is given", "one of them", "Add it.")
        return _config_of(algo)
    return config_from(_read_json(path), path)


def config_from(values: Any, source: str) -> Any:
    """Make a config of what a JSON file holds; what only `scripts/train.py` knows is left out.

    Args:
        values: of the file; not changed.
        source: what to call it in messages.

    Raises:
        ConfigError: unknown algorithm, key or value.
    """
    if not isinstance(values, dict) or "algo_name" not in values:
        raise ConfigError(f"{source} has no 'algo_name'", "a robomimic config", "Add the key.")
    values = deepcopy(values)
    try:
        _take_workers(values)
        config = _config_of(values["algo_name"])
        with config.values_unlocked():
            config.update(values)
        config.lock()
    except ConfigError as error:  # of those who do not know the source
        raise ConfigError(f"{source}: {error.found}", error.expected, error.action) from error
    except RuntimeError as error:  # robomimic's own configs say it this way
        raise ConfigError(
            f"{source}: {error}",
            f"the keys that config_factory('{values['algo_name']}') has",
            "Correct the spelling of that key, or remove it.",
        ) from error
    return config


def _read_json(path: str) -> Any:
    if not os.path.isfile(path):
        raise ConfigError(f"there is no file {path}", "a config JSON", "Check --config.")
    try:
        with open(path) as file:
            values = json.load(file)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path} is not JSON ({error})", "a config JSON", "Correct the file."
        ) from error
    return values


def _take_workers(values: dict[str, Any]) -> int:
    """Take `experiment.rollout.num_workers` out of a config's values; without it 0.

    robomimic's configs are locked, and a run's config.json is to be of use to stock train.py.

    Raises:
        ConfigError: not a number of processes.
    """
    rollout = overrides.at(values, "experiment", "rollout")
    count = rollout.pop(WORKERS_KEY, 0) if isinstance(rollout, dict) else 0
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigError(
            f"experiment.rollout.{WORKERS_KEY} = {count!r}",
            "a number of processes; 0 is robomimic's own loop in this one",
            "Correct it, or remove it.",
        )
    return count


def _config_of(algo: str) -> Any:
    known = sorted(config_module.base_config.REGISTERED_CONFIGS)
    if algo not in known:
        raise ConfigError(f"algorithm '{algo}'", f"one of {known}", "Correct its name.")
    return config_module.config_factory(algo)


@contextlib.contextmanager
def _output_dir(config: Any, debug: bool) -> Iterator[Path]:
    """Make a relative output_dir mean the current folder; robomimic's lies in site-packages."""
    folder = Path(config.train.output_dir).expanduser()
    factory = stock.TrainUtils.get_exp_dir

    @functools.wraps(factory)
    def get_exp_dir(config: Any, *args: Any, **kwargs: Any) -> Any:
        with config.unlocked():
            config.train.output_dir = os.path.abspath(os.path.expanduser(config.train.output_dir))
        return factory(config, *args, **kwargs)

    stock.TrainUtils.get_exp_dir = get_exp_dir
    try:
        yield DEBUG_FOLDER if debug else folder.absolute()
    finally:
        stock.TrainUtils.get_exp_dir = factory


@contextlib.contextmanager
def _rollouts_in_workers(args: argparse.Namespace, config: Any) -> Iterator[None]:
    """Do the rollouts in processes if the config file says so; hide the key from stock train.py.

    Raises:
        ConfigError: the dataset's environment is not of robosuite, so it cannot be seeded.
    """
    if args.config is None:
        yield
        return
    values = _read_json(args.config)
    count = _take_workers(values)
    with tempfile.TemporaryDirectory(prefix="train_") as scratch, contextlib.ExitStack() as stack:
        args.config = os.path.join(scratch, "config.json")
        Path(args.config).write_text(json.dumps(values))
        if count > 0 and config.experiment.rollout.enabled:
            # Only now: it needs a simulator, which training without rollouts does not.
            from robomimic_vae_ext.rollout import in_training

            in_training.require_robosuite(compat.dataset_paths(config))
            original = stock.TrainUtils.rollout_with_stats
            stock.TrainUtils.rollout_with_stats = stack.enter_context(
                in_training.TrainingRollouts(original, count, Path(scratch))
            )
            stack.callback(setattr, stock.TrainUtils, "rollout_with_stats", original)
        yield


@contextlib.contextmanager
def _nobody_answers() -> Iterator[None]:
    """Answer robomimic's question about an existing folder with "n" (keep it) if nobody can."""
    ask = builtins.input
    if not (sys.stdin and sys.stdin.isatty()):

        def answer(prompt: object = "") -> str:
            print(f"{prompt}n (nobody there to ask)")
            return "n"

        builtins.input = answer
    try:
        yield
    finally:
        builtins.input = ask


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Take stdout and stderr back: stock train.py leaves both in the hands of its log file."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextlib.contextmanager
def _recorded() -> Iterator[list[Exception]]:
    """Collect the exception that stock `main` swallows."""
    failures: list[Exception] = []
    original = stock.train

    @functools.wraps(original)
    def recording(*args: Any, **kwargs: Any) -> Any:
        try:
            return original(*args, **kwargs)
        except Exception as error:
            failures.append(error)
            raise

    stock.train = recording
    try:
        yield failures
    finally:
        stock.train = original
