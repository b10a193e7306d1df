"""Numbers that are not finite: found at their step, and named with the data that was in it."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from robomimic_vae_ext.training import model_state

LOGGER: Final = logging.getLogger(__name__)
MOST_SKIPS: Final = 10  # in a row; more are no accident of single batches
_DECIDES: Final = re.compile("loss|norm", re.IGNORECASE)
_NAMED: Final = 8  # transitions named in a message


class GradientGuard:
    """Lets an optimizer leave out a step whose gradients are not finite.

    Asks the device before every step of every optimizer, which costs time on a GPU.

    Args:
        algo: an algorithm of robomimic.
    """

    def __init__(self, algo: Any) -> None:
        self.skipped = False  # since this was set to False
        self._names = {id(p): name for name, p in algo.nets.named_parameters()}
        self._hooks = [
            optimizer.register_step_pre_hook(self._before_step)
            for optimizer in model_state.optimizers(algo)
        ]

    def remove(self) -> None:
        """Let all steps be made again."""
        for hook in self._hooks:
            hook.remove()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        there = [p for p in parameters if p.grad is not None]
        if not there:
            return
        largest = torch._foreach_norm([p.grad for p in there], math.inf)
        finite = torch.stack([norm.float() for norm in largest]).isfinite()
        if bool(finite.all()):
            return
        bad = there[int((~finite).nonzero()[0, 0])]
        LOGGER.warning(
            "step left out: gradient of %s is not finite", self._names.get(id(bad), "a weight")
        )
        for parameter in there:
            parameter.grad = None  # which optimizers pass over
        self.skipped = True


def bad_metric(log: Mapping[str, Any]) -> str | None:
    """Name and value of the first loss or norm that is not finite; None without one.

    Other metrics may be: a correlation of constant values is NaN in a healthy training.
    """
    for name, value in log.items():
        if _DECIDES.search(name) and not is_finite(value):
            return f"{name} is {value}"
    return None


def is_finite(value: Any) -> bool:
    """Whether a metric is a finite number, or no number at all."""
    return not isinstance(value, int | float) or math.isfinite(value)


def bad_gradient(algo: Any) -> str | None:
    """Name of the first weight whose gradient is not finite; None without one."""
    for name, parameter in algo.nets.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name}"
    return None


def describe_batch(batch: Any, indices: list[int], dataset: Any) -> str:
    """The tensors of a batch that are not finite, and the transitions that hold them.

    Args:
        batch: nested dictionaries of tensors (B, ...), as the loader made them.
        indices: of its samples in the dataset.
        dataset: our replay, or robomimic's SequenceDataset.

    Returns:
        For instance "actions is not finite at demo_3 step 7"; without such a tensor, which
        transitions the batch held.
    """
    bad = {
        name: rows
        for name, tensor in _tensors(batch)
        if tensor.is_floating_point()
        and (rows := (~tensor.flatten(1).isfinite().all(dim=1)).nonzero()[:, 0].tolist())
    }
    if bad:
        name, rows = next(iter(bad.items()))
        return f"{name} is not finite at " + _listed([indices[row] for row in rows], dataset)
    return "its batch is finite and holds " + _listed(indices, dataset)


def _tensors(batch: Any, prefix: str = "") -> Any:
    for key, value in batch.items():
        if isinstance(value, Mapping):
            yield from _tensors(value, f"{prefix}{key}/")
        elif isinstance(value, Tensor):
            yield f"{prefix}{key}", value[:, None] if value.ndim == 1 else value


def _listed(indices: list[int], dataset: Any) -> str:
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return ", ".join(_transition(index, dataset) for index in indices[:_NAMED]) + more


def _transition(index: int, dataset: Any) -> str:
    """Demonstration and step of a sample, where the dataset knows them."""
    if hasattr(dataset, "first_rows"):  # our replay
        first = dataset.first_rows
        demo = int(first[: index + 1].unique_consecutive().numel()) - 1
        return f"{dataset.sequences.demos[demo]} step {int(dataset.rows[index] - first[index])}"
    if hasattr(dataset, "_index_to_demo_id"):  # robomimic's
        demo = dataset._index_to_demo_id[index]
        return f"{demo} step {index - dataset._demo_id_to_start_indices[demo]}"
    return f"sample {index}"
