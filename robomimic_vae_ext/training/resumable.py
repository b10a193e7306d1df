"""robomimic's `train` made resumable: its loop is its own, its parts are wrapped.

A run's state (`resume_file`) is written before its first step, after every epoch's training and
rollouts, and every few minutes between steps. A continued run replays the epochs before that state
(`journal`), then puts everything into it and goes on: on the CPU to the same bits.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import robomimic.scripts.train as stock
import torch

from robomimic_vae_ext import files, runs
from robomimic_vae_ext.errors import VaeExtError
from robomimic_vae_ext.training import (
    finite,
    journal,
    loader_pass,
    model_state,
    random_state,
    resume_file,
    run_logs,
)

SCRATCH: Final = "rollouts" + files.PARTIAL  # in the run's folder: policies for worker processes
_SCORES: Final = re.compile(r"_([a-zA-Z][\w-]*?_(?:validation|return|success))_")
_PHASES: Final = ("Data_Loading", "Process_Batch", "Train_Batch", "Log_Info")


class TrainingError(VaeExtError):
    """Training stopped before its end."""


@dataclass(frozen=True)
class Saving:
    """When state and checkpoints are saved and removed.

    Args:
        minutes: most time between two states within an epoch.
        steps: most gradient steps between them; None: only `minutes` count.
        keep_last: so many checkpoints stay, besides the best ones; None: all. Of the config, as
            `experiment.save.keep_last`.
    """

    minutes: float = 10.0
    steps: int | None = None
    keep_last: int | None = None


class ResumableTraining:
    """Stands in for parts of `robomimic.scripts.train` while one run is trained.

    Args:
        fixed: what of a state does not change: config, datasets, versions.
        saving: when to save.
        skip_non_finite: leave out steps with gradients that are not finite, instead of stopping.
        state: from which to go on; None for a new run.
    """

    def __init__(
        self,
        fixed: dict[str, Any],
        saving: Saving,
        skip_non_finite: bool,
        state: resume_file.State | None,
    ) -> None:
        self._fixed, self._saving, self._skips = fixed, saving, skip_non_finite
        self._state = state
        self.run: Path | None = None
        self._journal = journal.Journal(state["journal"] if state else [])
        clock = state["clock"] if state else {"times": [], "now": None}
        self._clock = journal.Clock(**clock)
        self._logger: run_logs.SynchronousLogger | None = None
        self._stdout: Any = None
        self._last_saved = time.monotonic()
        self._last_checkpoint: Path | None = None
        self._rollout: Callable[..., Any] = stock.TrainUtils.rollout_with_stats

    # ---- the parts of train.py ----

    @contextlib.contextmanager
    def patched(self, rollout: Callable[..., Any]) -> Iterator[None]:
        """Put the wrapped parts in their places.

        Args:
            rollout: plays the rollouts of an epoch, as robomimic's `rollout_with_stats`.
        """
        utils = stock.TrainUtils
        self._rollout = rollout
        stock_run_epoch, stock_save_model = utils.run_epoch, utils.save_model

        def run_epoch(*args: Any, validate: bool = False, **kwargs: Any) -> Any:
            if validate:
                return self._validate(stock_run_epoch, *args, **kwargs)
            return self._train(*args, **kwargs)

        def save_model(*args: Any, **kwargs: Any) -> None:
            self._save_model(stock_save_model, *args, **kwargs)

        with contextlib.ExitStack() as stack:
            for owner, name, value in (
                (utils, "run_epoch", run_epoch),
                (utils, "save_model", save_model),
                (utils, "rollout_with_stats", self._roll_out),
                (stock, "DataLogger", self._make_logger),
                (stock, "time", self._clock),
            ):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
            stack.callback(self._speak)
            yield

    def _make_logger(self, *args: Any, **kwargs: Any) -> Any:
        self._logger = run_logs.SynchronousLogger(*args, **kwargs)
        return self._logger

    def _train(
        self,
        model: Any,
        data_loader: Any,
        epoch: int,
        num_steps: int | None = None,
        obs_normalization_stats: Any = None,
    ) -> dict[str, Any]:
        """An epoch of training, replayed or made."""
        if self._replaying and not self._journal.at_end:
            return dict(self._replay("train", epoch, model))
        unfinished = self._state and self._state["epoch"]
        training = EpochOfTraining(self, model, data_loader, epoch, obs_normalization_stats)
        if unfinished:
            training.go_on(unfinished)
            self._go_live(model)
        elif not self._journal.entries:  # a new run: it can be continued from here on
            self.save(model, training.position())
        steps = len(data_loader) if num_steps is None else num_steps
        result = training.run(steps, self._skips)
        self._journal.add("train", epoch, result)
        self.save(model, None)
        return result

    def _validate(
        self, run_epoch: Callable[..., Any], model: Any, data_loader: Any, epoch: int, **kwargs: Any
    ) -> Any:
        if self._replaying:
            return dict(self._replay("valid", epoch, model))
        result = run_epoch(model, data_loader, epoch, validate=True, **kwargs)
        self._journal.add("valid", epoch, result)
        return result

    def _roll_out(self, policy: Any, envs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        epoch, model = kwargs["epoch"], policy.policy
        if self._replaying:
            # Videos of epochs that are done were kept or removed then.
            return self._replay("rollouts", epoch, model), {}
        logs, videos = self._rollout(policy, envs, *args, **kwargs)
        self._journal.add("rollouts", epoch, logs)
        self.save(model, None)
        return logs, videos

    def _save_model(self, save_model: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint, whole or not at all, and remove old ones."""
        if self._replaying:
            return
        path = Path(kwargs.pop("ckpt_path"))
        self._refuse_bad_weights(kwargs["model"], f"{path.name} is to be saved")
        try:
            with (
                files.replacing(path) as partial,
                partial.open("wb") as file,
                contextlib.redirect_stdout(io.StringIO()),  # it names the unfinished file
            ):
                save_model(*args, ckpt_path=file, **kwargs)
        except (OSError, RuntimeError) as error:
            raise resume_file.cannot_write(path, error) from error
        print(f"save checkpoint to {path}")
        if path.parent.name == "models":
            self._last_checkpoint = path
            if self._saving.keep_last is not None:
                remove_old(path.parent, self._saving.keep_last)

    # ---- states ----

    def is_due(self, steps: int) -> bool:
        """Whether to save after so many steps since the last time."""
        if self._saving.steps is not None and steps >= self._saving.steps:
            return True
        return time.monotonic() - self._last_saved >= 60 * self._saving.minutes

    def save(self, model: Any, epoch: dict[str, Any] | None) -> None:
        """Write the run's state."""
        assert self.run is not None and self._logger is not None
        self._refuse_bad_weights(model, "its state is to be saved")
        self._logger.flush()
        resume_file.write(
            self.run,
            self._fixed
            | {
                "finished": False,
                "journal": self._journal.entries,
                "epoch": epoch,
                "model": model_state.collect(model),
                "random": random_state.snapshot(),
                "logs": run_logs.sizes(self.run / "logs"),
                "clock": {"times": self._clock.times, "now": self._clock.now()},
            },
        )
        self._last_saved = time.monotonic()

    def finish(self) -> None:
        """Note that the run is complete, which also frees the space of its state."""
        assert self.run is not None
        resume_file.write(self.run, self._fixed | {"finished": True})

    @property
    def _replaying(self) -> bool:
        """Whether the state is still to be reached."""
        return self._state is not None

    def _replay(self, kind: str, epoch: int, model: Any) -> Any:
        assert self._state is not None and self._logger is not None
        if self._stdout is None:  # log.txt has these lines already
            self._stdout, sys.stdout = sys.stdout, io.StringIO()
            self._logger.muted = True
        result = self._journal.replay(kind, epoch)
        if self._journal.at_end and self._state["epoch"] is None:
            self._go_live(model)
        return result

    def _go_live(self, model: Any) -> None:
        """Put the model and all random generators where they were; log again."""
        assert self._state is not None and self._logger is not None
        model_state.load(model, self._state["model"])
        random_state.restore(self._state["random"])
        self._state = None
        self._logger.muted = False
        self._speak()

    def _speak(self) -> None:
        if self._stdout is not None:
            sys.stdout, self._stdout = self._stdout, None

    # ---- numbers ----

    def _refuse_bad_weights(self, model: Any, when: str) -> None:
        name = model_state.first_non_finite(model)
        if name is not None:
            raise self.not_finite(f"{name} is not finite when {when}")

    def not_finite(self, found: str) -> TrainingError:
        """The error for a number that is not finite."""
        good = self._last_checkpoint or _newest_checkpoint(self.run)
        where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
        return TrainingError(
            found,
            "finite losses, gradients and weights",
            f"Nothing after that was saved; {where}. Correct the data (`lapo validate`), lower the "
            "learning rate or set max_gradient_norm, or leave out such steps with --on-nan skip.",
        )


class EpochOfTraining:
    """robomimic's `run_epoch` for training, which can begin in its middle.

    Differs: see `LoaderPass`; and a loss that is not finite ends it at that step.

    Args:
        training: the run.
        model: robomimic's algorithm.
        loader: of the training data.
        epoch: its number.
        stats: for the normalisation of observations, or None.
    """

    def __init__(
        self, training: ResumableTraining, model: Any, loader: Any, epoch: int, stats: Any
    ) -> None:
        self._training, self._model, self._loader = training, model, loader
        self._epoch, self._stats = epoch, stats
        self._step, self._saved_step, self._skips_in_a_row = 0, 0, 0
        self._logs: dict[str, list[Any]] = defaultdict(list)
        self._seconds: dict[str, list[float]] = {phase: [] for phase in _PHASES}
        self._begin = time.time()
        self._pass: loader_pass.LoaderPass | None = None

    def position(self) -> dict[str, Any]:
        """Where the epoch is; None in `pass` before its first step."""
        return {
            "step": self._step,
            "pass": self._pass and self._pass.position(),
            # np.mean sees the same arrays afterwards, to the bit.
            "logs": {k: torch.from_numpy(np.asarray(v)) for k, v in self._logs.items()},
            "seconds": {k: float(np.sum(v)) for k, v in self._seconds.items()},
            "elapsed": time.time() - self._begin,
        }

    def go_on(self, position: dict[str, Any]) -> None:
        """Begin at a position; afterwards the random state is the caller's to restore."""
        self._step = self._saved_step = position["step"]
        self._logs.update({k: list(v.numpy()) for k, v in position["logs"].items()})
        self._seconds = {k: [v] for k, v in position["seconds"].items()}
        self._begin = time.time() - position["elapsed"]
        if position["pass"] is not None:
            self._pass = loader_pass.LoaderPass(self._loader, position["pass"])

    def run(self, steps: int, skips: bool) -> dict[str, Any]:
        """Make the steps that are left.

        Args:
            steps: of the whole epoch.
            skips: leave out steps with gradients that are not finite.

        Returns:
            Metric to its mean over the epoch, and times [min].
        """
        self._model.set_train()
        self._pass = self._pass or loader_pass.LoaderPass(self._loader)
        guard = finite.GradientGuard(self._model) if skips else None
        todo = range(self._step, steps)
        try:
            for _ in stock.TrainUtils.LogUtils.custom_tqdm(todo, initial=self._step, total=steps):
                self._one_step(guard)
                if self._step < steps and self._training.is_due(self._step - self._saved_step):
                    self._training.save(self._model, self.position())
                    self._saved_step = self._step
        finally:
            if guard is not None:
                guard.remove()
        result = {name: float(np.mean(values)) for name, values in self._logs.items()}
        for phase, seconds in self._seconds.items():
            result[f"Time_{phase}"] = float(np.sum(seconds)) / 60
        result["Time_Epoch"] = (time.time() - self._begin) / 60
        return result

    def _one_step(self, guard: finite.GradientGuard | None) -> None:
        model = self._model
        assert self._pass is not None
        with self._timed("Data_Loading"):
            batch = self._pass.next_batch()
        with self._timed("Process_Batch"):
            ready = model.process_batch_for_training(batch)
            ready = model.postprocess_batch_for_training(ready, obs_normalization_stats=self._stats)
        with self._timed("Train_Batch"):
            info = model.train_on_batch(ready, self._epoch, validate=False)
        if hasattr(model, "on_gradient_step"):  # since robomimic 0.5.0
            model.on_gradient_step()
        with self._timed("Log_Info"):
            log = model.log_info(info)
        self._step += 1
        if guard is not None and guard.skipped:
            guard.skipped = False
            self._skips_in_a_row += 1
            self._check_after_skip(batch)
            log = {k: v for k, v in log.items() if finite.is_finite(v)}
        elif (bad := finite.bad_metric(log)) is not None:
            gradient = finite.bad_gradient(model)
            raise self._training.not_finite(
                f"{bad} at step {self._step} of epoch {self._epoch}"
                + (f" (first such tensor: {gradient})" if gradient else "")
                + f"; {self._describe(batch)}"
            )
        else:
            self._skips_in_a_row = 0
        for name, value in log.items():
            self._logs[name].append(value)

    def _check_after_skip(self, batch: Any) -> None:
        bad = model_state.first_non_finite(self._model)
        if bad is None and self._skips_in_a_row < finite.MOST_SKIPS:
            return
        what = f"{bad} is not finite" if bad else f"{self._skips_in_a_row} steps were left out"
        raise self._training.not_finite(
            f"{what} at step {self._step} of epoch {self._epoch}; {self._describe(batch)}"
        )

    def _describe(self, batch: Any) -> str:
        assert self._pass is not None
        return finite.describe_batch(batch, self._pass.indices, self._loader.dataset)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.time()
        yield
        self._seconds[phase].append(time.time() - begin)


def remove_old(models: Path, keep_last: int) -> None:
    """Remove checkpoints but the last ones and the best ones.

    robomimic names a checkpoint after the best score that it was saved for: the newest of each such
    name is the best.

    Args:
        models: folder of the checkpoints.
        keep_last: number of the newest to keep.
    """
    names = {path: m for path in models.glob("*.pth") if (m := runs.EPOCH.match(path.name))}
    ordered = sorted(names, key=lambda path: int(names[path][1]))
    kept = set(ordered[-keep_last:])
    best: dict[str, Path] = {}
    for path in ordered:
        for score in _SCORES.findall(path.name[names[path].end() :]):
            best[score] = path
    for path in set(ordered) - kept - set(best.values()):
        os.unlink(path)


def _newest_checkpoint(run: Path | None) -> Path | None:
    found = list(run.glob("models/model_epoch_*.pth")) if run else []
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
