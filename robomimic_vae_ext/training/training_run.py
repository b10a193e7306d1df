"""robomimic's train.py, with checks before it, a folder of its own, and a failure that is one.

Stock train.py catches every exception, prints it and exits 0. Here a failure raises.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import functools
import json
import logging
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import robomimic.scripts.train as stock
import torch

from robomimic_vae_ext import compat, files
from robomimic_vae_ext.data import config_fit, validate
from robomimic_vae_ext.data.conversion.env_args import ROBOMIMIC_ENV_TYPE
from robomimic_vae_ext.data.description import Description
from robomimic_vae_ext.data.simulation import env_available
from robomimic_vae_ext.errors import ConfigError, OutputError, VaeExtError
from robomimic_vae_ext.training import resume_file, run_logs, training_config
from robomimic_vae_ext.training.resumable import SCRATCH, ResumableTraining, Saving, TrainingError

LOGGER: Final = logging.getLogger(__name__)
DEBUG_FOLDER = Path("/tmp/tmp_trained_models")  # where stock train.py's --debug writes
AUTO = "auto"


@dataclass(frozen=True)
class TrainOptions:
    """What to train.

    Args:
        config: path of a config, or name of a shipped one; None: the defaults of `algo`.
        algo: a registered algorithm, read where no config is given.
        settings: key of the config, levels joined by dots, to a value in place of the config's.
        device: torch device name; None: as `train.cuda` says.
        debug: robomimic's few steps of everything, into `DEBUG_FOLDER`.
        resume: folder of a run or an experiment to continue, whose config is then taken; `AUTO`:
            the newest unfinished run of the experiment with this config, else a new one; None: a
            new one.
        saving: when to save the state that a run is continued from, and what to remove.
        skip_non_finite: leave out steps with gradients that are not finite, instead of stopping.
    """

    config: str | None = None
    algo: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    debug: bool = False
    resume: str | None = None
    saving: Saving = field(default_factory=Saving)
    skip_non_finite: bool = False


def train(options: TrainOptions) -> Path:
    """Check config and dataset, then train by robomimic's own `train`.

    Differs from stock train.py: a failure raises; a run can be continued after any end; files are
    written whole or not at all; a number that is not finite ends the run at its step; rollouts in
    robosuite have seeds; a relative `train.output_dir` is relative to the current folder, not to
    the installed robomimic; a run never replaces another one, and gets a folder of its own even
    where several begin at the same time; the last epoch is saved whatever
    `experiment.save.every_n_epochs` is; and with the key `experiment.rollout.num_workers`, which
    stock does not know, worker processes do the rollouts.

    Returns:
        The run's folder, with `models`, `logs` and `videos`.

    Raises:
        ConfigError: unreadable config, unknown key, impossible value.
        DatasetError: a dataset that does not fit the config, or is no longer that of the run.
        CheckpointError: nothing that could be continued.
        SimulationError: rollouts need pictures, and nothing can be rendered.
        OutputError: a checkpoint, the state or a log cannot be written.
        TrainingError: training failed; the original exception is its cause.
    """
    run = resume_file.find(Path(options.resume)) if options.resume not in (None, AUTO) else None
    if run is not None:
        state = resume_file.read(run)
        if state["finished"]:
            print(f"{run} has finished; there is nothing to continue")
            return run
        values, source = json.loads(state["config"]), f"the config of {run}"
    else:
        values, source = training_config.read_values(options.config, options.algo)
        values = training_config.change(values, options.settings, source)
    config = training_config.config_from(values, source)
    device = _device(options.device)
    output = DEBUG_FOLDER if options.debug else training_config.output_folder(config)
    training_config.check_run(config, output)
    _check_dataset(config)
    training_config.normalize_data(values)
    values = _with_absolute_paths(values, config, output)
    if options.resume == AUTO:
        run = resume_file.find_same(output / config.experiment.name, values)
    return _train(options, values, device, run)


def _train(
    options: TrainOptions, values: dict[str, Any], device: torch.device | None, run: Path | None
) -> Path:
    """Train from checked values; `run` is the folder to go on in, or None."""
    workers = training_config.take_workers(plain := deepcopy(values))
    keep_last = training_config.take_keep_last(plain)
    config = training_config.config_from(plain, "the config")
    state = None
    if run is not None:
        state = resume_file.read(run)
        resume_file.check_datasets(state["datasets"], config)
        _warn_of_versions(state["versions"])
    fixed = {
        "config": json.dumps(values),
        "datasets": state["datasets"] if state else resume_file.describe_datasets(config),
        "versions": state["versions"] if state else resume_file.versions(),
    }
    with config.values_unlocked():
        if config.experiment.save.enabled:
            last = {*config.experiment.save.epochs, config.train.num_epochs}
            config.experiment.save.epochs = sorted(last)
        if options.debug:
            _shorten(config)
    saving = dataclasses.replace(options.saving, keep_last=keep_last)
    training = ResumableTraining(fixed, saving, options.skip_non_finite, state)
    with (
        _own_folder(training, run, state),
        _rollouts(workers, config, training) as rollout,
        _own_output(),
        training.patched(rollout),
        _failures(),
    ):
        stock.train(config, device or stock.TorchUtils.get_torch_device(config.train.cuda))
        training.finish()
    assert training.run is not None
    return training.run


def _with_absolute_paths(values: dict[str, Any], config: Any, output: Path) -> dict[str, Any]:
    """A config's values with which the run can be continued from another folder."""
    values = deepcopy(values)
    train = values.setdefault("train", {})
    train["output_dir"] = str(output)
    paths = [os.path.abspath(path) for path in compat.dataset_paths(config)]
    if isinstance(config.train.data, str):
        train["data"] = paths[0]
    else:
        train["data"] = [
            dict(entry) | {"path": path}
            for entry, path in zip(config.train.data, paths, strict=True)
        ]
    return values


def _warn_of_versions(before: Mapping[str, str]) -> None:
    for name, now in resume_file.versions().items():
        if before.get(name) != now:
            LOGGER.warning(
                "the run began with %s %s and goes on with %s: to the bit it is another run",
                name, before.get(name), now,
            )  # fmt: skip


def _shorten(config: Any) -> None:
    """Apply stock train.py's --debug: two epochs of three steps, two short rollouts after each."""
    config.experiment.epoch_every_n_steps = 3
    config.experiment.validation_epoch_every_n_steps = 3
    config.train.num_epochs = 2
    config.experiment.rollout.rate = 1
    config.experiment.rollout.n = 2
    config.experiment.rollout.horizon = 10


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
    from robomimic_vae_ext.data.simulation import envs

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
def _own_folder(
    training: ResumableTraining, run: Path | None, state: resume_file.State | None
) -> Iterator[None]:
    """Give the run a folder that nobody else has or that it had, print it, and lock it.

    robomimic names runs by the second and asks whether to delete what is there; a relative
    output_dir lies in its site-packages.
    """
    factory = stock.TrainUtils.get_exp_dir
    locks = []

    @functools.wraps(factory)
    def get_exp_dir(config: Any, *args: Any, **kwargs: Any) -> Any:
        folders = _new_folders(factory, config) if run is None else _folders_of(run, config)
        training.run = Path(str(folders[0])).parent
        locks.append(resume_file.lock(training.run))
        if state is not None:
            _tidy(training.run)
            run_logs.cut_back(training.run / "logs", state["logs"])
        print(f"run folder: {training.run}", flush=True)
        return folders

    stock.TrainUtils.get_exp_dir = get_exp_dir
    try:
        yield
    finally:
        stock.TrainUtils.get_exp_dir = factory
        for descriptor in locks:
            os.close(descriptor)


def _new_folders(factory: Callable[..., Any], config: Any) -> Any:
    """Folders of a new run, made by robomimic."""
    ask = builtins.input
    builtins.input = lambda prompt="": "n"  # never delete
    try:
        while True:
            try:
                return factory(config)
            except FileExistsError:  # another run of this name began in the same second
                time.sleep(1.0 + os.getpid() % 100 / 100)
    finally:
        builtins.input = ask


def _folders_of(run: Path, config: Any) -> tuple[str | None, ...]:
    """Folders of a run that is there, as robomimic's `get_exp_dir` returns them."""
    for name in ("logs", "models", "videos"):
        (run / name).mkdir(exist_ok=True)
    models = str(run / "models") if config.experiment.save.enabled else None
    folders = (str(run / "logs"), models, str(run / "videos"))
    return (*folders, str(run)) if compat.has_time_folder() else folders


def _tidy(run: Path) -> None:
    """Remove what a killed process left unfinished."""
    for path in (*run.glob(f"*{files.PARTIAL}"), *run.glob(f"models/*{files.PARTIAL}")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def _rollouts(count: int, config: Any, training: ResumableTraining) -> Iterator[Callable[..., Any]]:
    """The function that plays an epoch's rollouts.

    Args:
        count: of worker processes; 0: robomimic's own loop, with seeds.
        config: of the run.
        training: knows the run's folder, once it has one.

    Raises:
        ConfigError: worker processes, and an environment that is not of robosuite.
    """
    original = stock.TrainUtils.rollout_with_stats
    if not config.experiment.rollout.enabled:
        yield original
        return
    # Only now: it needs a simulator, which training without rollouts does not.
    from robomimic_vae_ext.rollout import in_training

    if count == 0:
        yield functools.partial(in_training.seeded_rollouts, original)
        return
    in_training.require_robosuite(compat.dataset_paths(config))

    def scratch() -> Path:
        assert training.run is not None
        return training.run / SCRATCH

    with in_training.TrainingRollouts(original, count, scratch) as rollouts:
        yield rollouts


@contextlib.contextmanager
def _own_output() -> Iterator[None]:
    """Take stdout and stderr back: stock train.py leaves both in the hands of its log file."""
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Make an exception that is not ours a TrainingError, with its traceback in the log.

    Raises:
        OutputError: a file of robomimic's cannot be written.
        TrainingError: anything else.
    """
    try:
        yield
    except VaeExtError:
        raise
    except OSError as error:
        raise OutputError(
            f"training stopped: {_first_line(error)}", "files that can be written and read",
            "Make space or restore the file, then continue with lapo train --resume.",
        ) from error  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        raise TrainingError(
            f"training failed with {type(error).__name__}: {_first_line(error)}",
            "the run to finish",
            "The traceback is above; what was saved until then is kept.",
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
