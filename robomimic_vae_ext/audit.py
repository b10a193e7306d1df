"""Build any robomimic algorithm and a batch as training would, and audit its steps.

It needs no simulator.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import robomimic.algo
import robomimic.config
import robomimic.utils.file_utils as file_utils
import robomimic.utils.obs_utils as obs_utils
import robomimic.utils.train_utils as train_utils
import torch
from torch.utils.data import DataLoader, default_collate

from robomimic_vae_ext import compat, overrides
from robomimic_vae_ext.data import validate
from robomimic_vae_ext.errors import AuditError, VaeExtError
from robomimic_vae_ext.gradient_flow import Contract, Report, Tape, record

# What flows where does not depend on the number of samples; BatchNorm needs more than one.
MAX_BATCH = 16
IMAGE_SIZE = 84  # [pixel], robosuite's and robomimic's usual choice
ACTION_DIM = 7  # one arm with OSC_POSE and a gripper
OTHER_DIM = 7
# Dimensions of robosuite's observations for one arm; `object` is Lift's.
KNOWN_DIMS = {
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
    "robot0_gripper_qvel": 2,
    "robot0_joint_pos": 7,
    "robot0_joint_pos_cos": 7,
    "robot0_joint_pos_sin": 7,
    "robot0_joint_vel": 7,
    "object": 10,
}


class Setup(NamedTuple):
    """A model in training mode, one processed batch, and what was assumed on the way."""

    model: Any
    batch: Any
    contract: Contract | None
    notes: tuple[str, ...]


class AuditResult(NamedTuple):
    """The report on a config, its name, and what was assumed to make a batch."""

    name: str
    report: Report
    notes: tuple[str, ...]


class _Shapes(NamedTuple):
    """`raw`: as a dataset stores them (height, width, channel); `processed`: as networks see."""

    raw: Mapping[str, tuple[int, ...]]
    processed: OrderedDict[str, list[int]]


def audit_config(
    path: Path | None,
    algo: str | None,
    dataset: str | None,
    steps: int,
    settings: Mapping[str, Any] | None = None,
) -> AuditResult:
    """Audit an algorithm from its config, from the file to the verdict.

    Args:
        path: robomimic config in JSON, or None for the algorithm's defaults.
        algo: registered algorithm, where it is not the config's.
        dataset: HDF5 file that gives shapes and batch; None makes both up.
        steps: recorded gradient steps, at least 1.
        settings: key of the config, levels joined by dots, to a value in place of the config's.

    Raises:
        VaeExtError: the config, the dataset or the algorithm cannot be used.
    """
    subject = algo or str(path)
    try:
        config = load_config(path, algo, dataset, settings)
        subject = str(config.algo_name)
        setup = build(config, use_dataset=dataset is not None)
        report = audit(setup, steps).report(setup.contract)
    except VaeExtError:
        raise
    except Exception as error:  # an exit code of 1 would say that the contract is broken
        reason = (str(error).splitlines() or [""])[0]
        raise AuditError(
            f"{subject} fails before it could be audited ({type(error).__name__}: {reason})",
            "a config that trains",
            "Correct it; robomimic's own train.py with --debug fails at the same place.",
        ) from error
    name = path.stem if path is not None and algo is None else str(config.algo_name)
    return AuditResult(name, report, setup.notes)


def load_config(
    path: str | Path | None,
    algo: str | None,
    dataset: str | None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """A locked robomimic config.

    Args:
        path: JSON with what differs from the defaults; None takes the defaults of `algo`.
        algo: algorithm; where it is not the file's, the file gives observations and training
            settings, and the algorithm's own section stays at its defaults.
        dataset: replaces `train.data`.
        settings: key of the config, levels joined by dots, to a value in place of the config's.

    Raises:
        AuditError: no such file or algorithm, or a config that robomimic refuses.
    """
    given: dict[str, Any] = {}
    if path is not None:
        try:
            given = json.loads(Path(path).expanduser().read_text())
        except OSError as error:
            raise AuditError(
                f"{path} cannot be read ({error})", "a robomimic config in JSON", "Check the path."
            ) from error
        except (ValueError, RecursionError) as error:
            raise AuditError(
                f"{path} is not JSON ({error})", "a robomimic config in JSON", "Correct the file."
            ) from error
    _check_section(given, f"{path} holds {given!r:.40}")
    name = algo or given.get("algo_name")
    known = robomimic.algo.algo.REGISTERED_ALGO_FACTORY_FUNCS
    if not isinstance(name, str) or name not in known:
        raise AuditError(
            f"the algorithm is {name!r}", f"one of {', '.join(known)}", "Pass --algo or --config."
        )
    if given.get("algo_name") not in (None, name):
        given = {key: given[key] for key in ("train", "observation") if key in given}
    for key, value in (settings or {}).items():
        overrides.set_nested(given, key, value)
    config = robomimic.config.config_factory(name)
    for key, value in given.items():
        if isinstance(config.get(key), dict):
            _check_section(value, f"{path}: key {key!r} is {value!r:.40}")
    try:
        with config.values_unlocked():
            config.update({k: v for k, v in given.items() if k not in ("algo_name", "meta")})
            config.train.cuda = False
            # Validation steps nothing, so its split need not be there.
            config.experiment.validate = False
            config.train.hdf5_validation_filter_key = None
            config.train.hdf5_cache_mode = None  # one batch is read, not the whole file
            if "audit" in config.algo:
                config.algo.audit.every_n_steps = 0  # this recording is the audit
            if dataset is not None:
                config.train.data = str(dataset)
            # robomimic 0.5.0's train.py turns the path into a list of datasets; 0.3.0 takes it.
            if "action_keys" in config.train and isinstance(config.train.data, str):
                config.train.data = [{"path": config.train.data}]
        config.lock()
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        raise AuditError(
            f"robomimic refuses {path} ({error})", f"a config of {name}", "Correct that entry."
        ) from error
    return config


def _check_section(value: Any, found: str) -> None:
    if not isinstance(value, dict):
        raise AuditError(
            found,
            "a section: keys and values inside braces",
            "Write what differs from the defaults.",
        )


def build(config: Any, use_dataset: bool, max_batch: int = MAX_BATCH) -> Setup:
    """Model and batch as robomimic's train.py makes them, on the CPU.

    Args:
        config: from `load_config`.
        use_dataset: take shapes and batch from `config.train.data`; otherwise invent them.
        max_batch: smaller batches than the config's are enough to see what flows where.

    Raises:
        AuditError: the dataset or the config does not fit.
    """
    torch.manual_seed(config.train.seed)
    obs_utils.initialize_obs_utils_with_config(config)
    notes: list[str] = []
    size = min(config.train.batch_size, max_batch)
    try:
        if use_dataset:
            shapes, action_dim = _shapes_from_dataset(config)
        else:
            shapes, action_dim = _usual_shapes(config, notes), ACTION_DIM
        model = robomimic.algo.algo_factory(
            algo_name=config.algo_name,
            config=config,
            obs_key_shapes=shapes.processed,
            ac_dim=action_dim,
            device=torch.device("cpu"),
        )
        model.set_train()
        raw = _read_batch(config, size) if use_dataset else _invent_batch(config, shapes.raw, size)
        batch = model.process_batch_for_training(raw)
        batch = model.postprocess_batch_for_training(batch, obs_normalization_stats=None)
    except (OSError, KeyError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise AuditError(
            f"robomimic cannot build {config.algo_name} and a batch ({error!r})",
            "a config whose observations fit the dataset and the networks",
            "Correct the config, or pass a dataset that fits with --dataset.",
        ) from error
    notes.append(f"batch of {size} (training uses {config.train.batch_size})")
    return Setup(model, batch, own_contract(config), tuple(notes))


def own_contract(config: Any) -> Contract | None:
    """The contract that this package ships for its own algorithm; None for every other."""
    if config.algo_name != "lapo":
        return None
    from robomimic_vae_ext.lapo.owners import contract_data

    return Contract.from_dict(contract_data(config.algo))


def parts_of(model: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Named modules and optimizers of a model, those of hierarchical ones with a prefix.

    Returns:
        (modules, optimizers), as `record` takes them.
    """
    modules: dict[str, Any] = {}
    optimizers: dict[str, Any] = {}
    for prefix, part in _algorithms(model, ""):
        nets = getattr(part, "nets", None)
        for name, net in nets.items() if nets is not None else ():
            modules[f"{prefix}{name}"] = net
        for name, optimizer in getattr(part, "optimizers", {}).items():
            optimizers[f"{prefix}{name}"] = optimizer
    return modules, optimizers


def _algorithms(model: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    yield prefix, model
    # HBC and IRIS hold planner and actor as attributes and have no networks of their own.
    for name, value in vars(model).items():
        if isinstance(value, robomimic.algo.Algo):
            yield from _algorithms(value, f"{prefix}{name}.")


def audit(setup: Setup, steps: int, trace_writes: bool = True) -> Tape:
    """Train for a few steps on the same batch under the tape.

    Args:
        setup: from `build`.
        steps: gradient steps; two show what one step leaves behind for the next.
    """
    modules, optimizers = parts_of(setup.model)
    with record(modules, optimizers, trace_writes=trace_writes) as tape:
        for _ in range(steps):
            with tape.step():
                setup.model.train_on_batch(setup.batch, epoch=1, validate=False)
    return tape


def _obs_keys(config: Any) -> list[str]:
    return sorted(config.all_obs_keys)


def _shapes_from_dataset(config: Any) -> tuple[_Shapes, int]:
    path = Path(compat.dataset_paths(config)[0])
    validate.validate_dataset(
        path, config.all_obs_keys, need_transitions=config.train.hdf5_load_next_obs
    )
    arguments: dict[str, Any] = {"all_obs_keys": config.all_obs_keys}
    if "action_keys" in config.train:  # robomimic 0.5.0
        arguments |= {"dataset_config": config.train.data[0], "action_keys": ["actions"]}
    else:
        arguments |= {"dataset_path": str(path)}
    meta = file_utils.get_shape_metadata_from_dataset(**arguments)
    return _Shapes({}, meta["all_shapes"]), meta["ac_dim"]


def _read_batch(config: Any, size: int) -> Any:
    dataset, _ = train_utils.load_data_for_training(config, obs_keys=_obs_keys(config))
    return next(iter(DataLoader(dataset, batch_size=size, shuffle=True, drop_last=True)))


def _usual_shapes(config: Any, notes: list[str]) -> _Shapes:
    raw: dict[str, tuple[int, ...]] = {}
    guessed = []
    for key in _obs_keys(config):
        modality = obs_utils.OBS_KEYS_TO_MODALITIES[key]
        if modality == "rgb":
            raw[key] = (IMAGE_SIZE, IMAGE_SIZE, 3)
        elif modality == "depth":
            raw[key] = (IMAGE_SIZE, IMAGE_SIZE, 1)
        else:
            raw[key] = (KNOWN_DIMS.get(key, OTHER_DIM),)
            if key not in KNOWN_DIMS:
                guessed.append(key)
    notes.append("synthetic batch of the config's shapes (no --dataset)")
    if guessed:
        notes.append(f"{', '.join(guessed)}: dimension unknown, {OTHER_DIM} assumed")
    processed = OrderedDict(
        (key, obs_utils.get_processed_shape(obs_utils.OBS_KEYS_TO_MODALITIES[key], shape))
        for key, shape in raw.items()
    )
    return _Shapes(raw, processed)


def _invent_batch(config: Any, shapes: Mapping[str, tuple[int, ...]], size: int) -> Any:
    """What robomimic's SequenceDataset would give, with random content."""
    generator = torch.Generator().manual_seed(config.train.seed)
    length = config.train.frame_stack - 1 + config.train.seq_length

    def sample() -> dict[str, Any]:
        item: dict[str, Any] = {
            "actions": torch.rand(length, ACTION_DIM, generator=generator) * 2 - 1,
            "rewards": (torch.rand(length, generator=generator) < 0.2).float(),
            "dones": (torch.rand(length, generator=generator) < 0.1).float(),
            "obs": {k: _observation(k, (length, *s), generator) for k, s in shapes.items()},
            "next_obs": {k: _observation(k, (length, *s), generator) for k, s in shapes.items()},
        }
        if config.train.goal_mode is not None:
            item["goal_obs"] = {k: _observation(k, s, generator) for k, s in shapes.items()}
        return item

    return default_collate([sample() for _ in range(size)])


def _observation(key: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if obs_utils.OBS_KEYS_TO_MODALITIES[key] == "rgb":
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(shape, generator=generator)
