"""robomimic's train.py, with checks before it, a folder of its own, and a failure that is one.

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
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import robomimic.scripts.train as stock
import torch

from robomimic_vae_ext import compat, training_config
from robomimic_vae_ext.data import config_fit, env_available, validate
from robomimic_vae_ext.data.description import Description
from robomimic_vae_ext.data.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.errors import ConfigError, VaeExtError

DEBUG_FOLDER = Path("/tmp/tmp_trained_models")  # where stock train.py's --debug writes


class TrainingError(VaeExtError):
    """Training stopped before its end."""


@dataclass(frozen=True)
class TrainOptions:
    """What to train.

    Args:
        config: path of a config, or name of a shipped one; None: the defaults of `algo`.
        algo: a registered algorithm, read where no config is given.
        settings: key of the config, levels joined by dots, to a value in place of the config's.
        device: torch device name; None: as `train.cuda` says.
        debug: robomimic's few steps of everything, into `DEBUG_FOLDER`.
        resume: go on with the only run of the experiment (robomimic 0.5.0).
    """

    config: str | None = None
    algo: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    debug: bool = False
    resume: bool = False


def train(options: TrainOptions) -> Path:
    """Check config and dataset, then run stock train.py.

    Differs from stock in more points: a relative `train.output_dir` is relative to the current
    folder, not to the installed robomimic; a run never replaces another one, and gets a folder of
    its own even where several begin at the same time; the last epoch is saved whatever
    `experiment.save.every_n_epochs` is; and with the key `experiment.rollout.num_workers`, which
    stock does not know, worker processes do the rollouts.

    Returns:
        The run's folder, with `models`, `logs` and `videos`.

    Raises:
        ConfigError: unreadable config, unknown key, impossible value.
        DatasetError: a dataset that does not fit the config.
        SimulationError: rollouts need pictures, and nothing can be rendered.
        TrainingError: stock training failed; the original exception is its cause.
    """
    values, source = training_config.read_values(options.config, options.algo)
    values = training_config.change(values, options.settings, source)
    config = training_config.config_from(values, source)
    device = _device(options.device)
    output = DEBUG_FOLDER if options.debug else training_config.output_folder(config)
    training_config.check_run(config, output)
    if options.resume:
        training_config.check_resume(output / config.experiment.name)
    _check_dataset(config)
    training_config.normalize_data(values)
    if config.experiment.save.enabled:
        last = sorted({*config.experiment.save.epochs, config.train.num_epochs})
        values.setdefault("experiment", {}).setdefault("save", {})["epochs"] = last
    with (
        tempfile.TemporaryDirectory(prefix="train_") as scratch,
        _rollouts_in_workers(training_config.take_workers(values), config, Path(scratch)),
        _on_device(device),
        _own_folder() as folders,
        _own_output(),
        _recorded() as failures,
    ):
        path = Path(scratch) / "config.json"
        path.write_text(json.dumps(values))
        arguments = argparse.Namespace(config=str(path), algo=None, name=None, dataset=None)
        stock.main(
            argparse.Namespace(**vars(arguments), debug=options.debug, resume=options.resume)
        )
        if failures:
            raise TrainingError(
                f"training failed with {type(failures[0]).__name__}: {failures[0]}",
                "the run to finish",
                "The traceback is above; what was saved until then is kept.",
            ) from failures[0]
    return folders[0]


def _check_dataset(config: Any) -> None:
    """Check the dataset against the config, and what rollouts of its environment need."""
    rollouts = config.experiment.rollout.enabled
    for entry in compat.dataset_entries(config):
        dataset = config_fit.check_dataset(config, entry["path"], entry.get("filter_key"))
        if rollouts:
            names = _environments(config, dataset)
            env_available.require_environment(dataset.env_args, names)
        validate.check_version(dataset.env_args, dataset.path, strict=False, rollouts=rollouts)
        if rollouts and dataset.env_args["type"] == ROBOMIMIC_ENV_TYPE:
            _check_rollouts(config, dataset)


def _environments(config: Any, dataset: Description) -> list[str]:
    """Names of the environments that rollouts are done in."""
    own = config.experiment.env or dataset.env_args["env_name"]
    return [own, *(config.experiment.additional_envs or ())]


def _check_rollouts(config: Any, dataset: Description) -> None:
    """Refuse rollouts in robosuite that cannot be, before an epoch is spent.

    Those with goals that the environment cannot give, and with pictures where nothing renders.
    """
    # Only now: it is a simulator, which training without rollouts does not need. Registers ours.
    from robomimic_vae_ext.data import envs

    for name in _environments(config, dataset):
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


def _device(name: str | None) -> torch.device | None:
    """Return the device by its name, before anything is read.

    Raises:
        ConfigError: torch does not know it, or it is not in this machine.
    """
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} cannot be used ({str(error).splitlines()[0]})",
            "a torch device of this machine, such as cpu or cuda:0",
            "Choose another --device; `lapo doctor` shows whether torch sees a GPU.",
        ) from error
    return device


@contextlib.contextmanager
def _on_device(device: torch.device | None) -> Iterator[None]:
    """Let stock train.py take this device, where one is given."""
    original = stock.TorchUtils.get_torch_device
    if device is not None:
        stock.TorchUtils.get_torch_device = lambda try_to_use_cuda: device
    try:
        yield
    finally:
        stock.TorchUtils.get_torch_device = original


@contextlib.contextmanager
def _own_folder() -> Iterator[list[Path]]:
    """Give the run a folder that nobody else has, print it, and keep all earlier runs.

    robomimic names runs by the second and asks whether to delete what is there; a relative
    output_dir lies in its site-packages.
    """
    factory, ask = stock.TrainUtils.get_exp_dir, builtins.input
    folders: list[Path] = []

    @functools.wraps(factory)
    def get_exp_dir(config: Any, *args: Any, **kwargs: Any) -> Any:
        with config.unlocked():
            config.train.output_dir = os.path.abspath(os.path.expanduser(config.train.output_dir))
        builtins.input = lambda prompt="": "n"  # never delete
        try:
            while True:
                try:
                    result = factory(config, *args, **kwargs)
                    break
                except FileExistsError:  # another run of this name began in the same second
                    time.sleep(1.0 + os.getpid() % 100 / 100)
        finally:
            builtins.input = ask
        folders.append(Path(result[0]).parent)
        print(f"run folder: {folders[-1]}", flush=True)
        return result

    stock.TrainUtils.get_exp_dir = get_exp_dir
    try:
        yield folders
    finally:
        stock.TrainUtils.get_exp_dir = factory


@contextlib.contextmanager
def _rollouts_in_workers(count: int, config: Any, scratch: Path) -> Iterator[None]:
    """Do the rollouts in this many processes; 0: as robomimic does them.

    Raises:
        ConfigError: the dataset's environment is not of robosuite, so it cannot be seeded.
    """
    if count == 0 or not config.experiment.rollout.enabled:
        yield
        return
    # Only now: it needs a simulator, which training without rollouts does not.
    from robomimic_vae_ext.rollout import in_training

    in_training.require_robosuite(compat.dataset_paths(config))
    original = stock.TrainUtils.rollout_with_stats
    with in_training.TrainingRollouts(original, count, scratch) as rollouts:
        stock.TrainUtils.rollout_with_stats = rollouts
        try:
            yield
        finally:
            stock.TrainUtils.rollout_with_stats = original


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
