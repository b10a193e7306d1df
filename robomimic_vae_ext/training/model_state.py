"""All that an algorithm of robomimic needs to go on training, as plain data.

robomimic's own `serialize` is not enough: 0.3.0 leaves the optimizers out, and both versions leave
out what algorithms count themselves (the steps of CQL, the delayed actor of TD3-BC).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import robomimic.algo.algo as algo_module
import torch

from robomimic_vae_ext.errors import CheckpointError


def collect(algo: Any) -> dict[str, Any]:
    """Networks, optimizers, schedulers and counters of an algorithm.

    Whatever has a `state_dict` is found in the algorithm's attributes, in lists and dictionaries
    there, and in algorithms inside it (hierarchical ones). Not found, and so lost: state of objects
    without a `state_dict`.

    Returns:
        `parts`: path of the object to its `state_dict`; `plain`: path to number or tensor.
    """
    parts, plain = {}, {}
    for path, value in _walk(algo):
        if hasattr(value, "state_dict"):
            parts[path] = value.state_dict()
        else:
            plain[path] = value
    return {"parts": parts, "plain": plain}


def load(algo: Any, state: dict[str, Any]) -> None:
    """Put an algorithm into a state from `collect`.

    Raises:
        CheckpointError: the algorithm is built otherwise.
    """
    there = {path: value for path, value in _walk(algo) if hasattr(value, "state_dict")}
    if set(there) != set(state["parts"]):
        raise CheckpointError(
            f"the saved state has the parts {sorted(state['parts'])}",
            f"those of this algorithm, {sorted(there)}",
            "Continue with the versions of robomimic and of this package that began the run.",
        )
    for path, value in there.items():
        try:
            value.load_state_dict(state["parts"][path])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the saved state of {path} does not fit ({str(error).splitlines()[-1].strip()})",
                "the sizes of the run's own config",
                "Continue with the versions of robomimic and of this package that began the run.",
            ) from error
    for path, value in state["plain"].items():
        *owners, name = path.split(".")
        owner = algo
        for step in owners:
            owner = getattr(owner, step)
        if isinstance(value, torch.Tensor):  # in place: an optimizer may hold it
            getattr(owner, name).data.copy_(value)
        else:
            setattr(owner, name, value)


def optimizers(algo: Any) -> list[torch.optim.Optimizer]:
    """All optimizers of an algorithm."""
    return [value for _, value in _walk(algo) if isinstance(value, torch.optim.Optimizer)]


def first_non_finite(algo: Any) -> str | None:
    """Name of a weight or buffer that holds NaN or infinity; None without one.

    Asks the device once.
    """
    tensors = {
        f"{path}.{name}": tensor
        for path, value in _walk(algo)
        if isinstance(value, torch.nn.Module)
        for name, tensor in value.state_dict().items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    }
    if not tensors:
        return None
    good = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
    return next((name for name, ok in zip(tensors, good.tolist(), strict=True) if not ok), None)


def _walk(algo: Any) -> Iterator[tuple[str, Any]]:
    """Path and value of everything that changes in training, each object once."""
    seen: set[int] = set()

    def inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
        if id(value) in seen:
            return
        if isinstance(value, algo_module.Algo):
            seen.add(id(value))
            for name, attribute in vars(value).items():
                child = f"{path}.{name}" if path else name
                if type(attribute) in (bool, int, float) or isinstance(attribute, torch.Tensor):
                    yield child, attribute
                else:
                    yield from inside(child, attribute)
        elif hasattr(type(value), "load_state_dict"):  # of the type: configs refuse unknown names
            seen.add(id(value))
            yield path, value
        # Not their subclasses: a config is a dictionary too.
        elif type(value) in (dict, OrderedDict):
            for key, item in value.items():
                yield from inside(f"{path}.{key}", item)
        elif type(value) in (list, tuple):
            for index, item in enumerate(value):
                yield from inside(f"{path}.{index}", item)

    yield from inside("", algo)
