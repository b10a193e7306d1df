"""Config of the algorithm `lapo`: every hyperparameter, its default and why.

Source: LAPO (arXiv 2203.08949) for the method; defaults that differ say so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import robomimic.config.base_config as base_config

from robomimic_vae_ext import compat, overrides
from robomimic_vae_ext.errors import ConfigError
from robomimic_vae_ext.lapo.owners import AUXILIARY, OWNERS

NORMS = ("group_norm", "batch_norm", "frozen_batch_norm")
EXTRACTIONS = ("actor", "zero", "best_of_n", "actor_in_best_of_n")
DECODERS = ("online", "slow")
BF16 = ("auto", "on", "off")
CRITIC_LOSSES = ("mse", "hl_gauss")
STORAGES = ("memory", "disk", "auto")
RUN_LENGTHS = ("num_train_batches", "num_epochs")
#: Options of earlier versions that are gone, and the value with which they did nothing.
RETIRED = {
    "algo.encoder.vae_grad_norm": None,
    "algo.encoder.vae_grad_surgery": False,
    "algo.encoder.policy_branch": False,
    "algo.encoder.learning_rate_scale": 1.0,
    "algo.actor.start_step": 0,
}

#: Options that have another name now; configs of earlier versions are read with the old one.
RENAMED = {"algo.actor.rollout_latent": "extraction"}

#: What checkpoints were trained with whose configs lack these keys.
BEFORE = {
    "algo.encoder.owner": "critic",
    "algo.speed.bf16_encoder": "off",
}


class LAPOConfig(base_config.BaseConfig):
    """Config that `config_factory("lapo")` returns. Unknown keys are refused at every level."""

    ALGO_NAME = "lapo"

    def __init__(self, dict_to_load: dict[str, Any] | None = None) -> None:
        super().__init__(dict_to_load)
        if dict_to_load is not None:
            # Configs inside checkpoints lack what was added since, and may hold what is gone. They
            # get the values with which the checkpoint was trained, not today's defaults.
            _drop_retired(self)
            for key, value in BEFORE.items():
                _set_missing(self, key, value)
            _fill_in(self.algo, type(self)().algo)
            # robomimic 0.3 cannot train on what 0.5.0 has trained on, but can roll it out.
            with contextlib.suppress(ConfigError):
                self.train.data = compat.first_readable(self.train.data)

    def train_config(self) -> None:
        """Set robomimic's training defaults where offline RL needs others."""
        super().train_config()
        # One target needs n_step consecutive transitions; keep it equal to algo.n_step.
        self.train.seq_length = 5
        # A padded tail repeats the last transition: losses.n_step_return does not pay it twice.
        self.train.pad_seq_length = True
        self.train.hdf5_load_next_obs = True
        # Only read with algo.replay.enabled = false. "all" would hold every n-step window in
        # memory as a copy of its own, which images do not survive.
        self.train.hdf5_cache_mode = "low_dim"
        self.train.batch_size = 128

    def algo_config(self) -> None:
        """Set the algorithm's defaults; see the module docstring for their source."""
        algo = self.algo

        for name in ("critic", "actor_vae", "actor"):
            params = algo.optim_params[name]
            params.learning_rate.initial = 3e-4  # Adam; `critic_lr` in older notes is critic's
            params.learning_rate.decay_factor = 0.1  # factor at each epoch of the schedule
            params.learning_rate.epoch_schedule = []  # epochs at which the rate decays
            params.regularization.L2 = 0.0  # weight decay; would also shrink the encoder
            params.max_gradient_norm = None  # clips all that this optimizer owns, together
            # As robomimic reads them: adam or adamw; multistep or linear.
            params.optimizer_type = "adam"
            params.learning_rate.scheduler_type = "multistep"
            params.learning_rate.step_every_batch = False  # robomimic 0.5.0; else every epoch

        # ---- the shared observation encoder ----
        # Who trains it. critic: critic optimizer owns it, CVAE and actor see detached features (the
        # fix). joint: critic optimizer owns it, the CVAE's gradient arrives too, times
        # vae_grad_scale; the default, since in studies/README.md it had nearly the fix's held-out
        # values with the bug's success. vae: the CVAE optimizer owns it, and its zero_grad throws
        # the critic's gradient away (the bug, kept as an arm to compare with). frozen: nobody.
        algo.encoder.owner = "joint"
        algo.encoder.vae_grad_scale = 1.0  # joint only; 0 is `critic`, 1 the plain sum
        # Weights of losses that ask the encoder about actions, as part of the critic's loss; 0 is
        # off. Owners critic and joint only. cloning: the action from the features. inverse: the
        # action from the features and those inverse_steps later. dynamics: from the features and
        # the actions of the window, the view of the features after it. reward: n-step reward, end.
        algo.encoder.auxiliary.cloning = 0.0
        algo.encoder.auxiliary.inverse = 0.0
        algo.encoder.auxiliary.dynamics = 0.0
        algo.encoder.auxiliary.reward = 0.0
        # Up to n_step; None: n_step, whose features are computed anyway, others cost an encoding.
        algo.encoder.auxiliary.inverse_steps = None
        algo.encoder.auxiliary.layer_dims = [256]  # of each auxiliary head
        # BatchNorm sees other statistics in rollouts than in the loss, so its layers become
        # GroupNorm. frozen_batch_norm keeps pretrained statistics fixed; batch_norm lets them move.
        algo.encoder.norm = "group_norm"
        # Each head's own Linear + LayerNorm on the wide features (DrQ-v2 does the same): a narrow
        # shared projection owned by the critic loses what precise actions need.
        algo.encoder.trunk_dim = 128

        # ---- targets ----
        algo.discount = 0.99
        algo.n_step = 5  # sparse rewards travel n steps per update; <= train.seq_length
        algo.target_tau = 0.005  # Polyak step of all slow copies, per gradient step

        # ---- twin Q and V ----
        algo.critic.layer_dims = [256, 256]
        algo.critic.doubleq_min = 1.0  # weight of min(Q1, Q2) in min/max mixing
        # (v_min, v_max) clips V's regression target; [0, 1] is exact for a terminal 0/1 reward.
        algo.critic.value_bounds = None
        # mse: Q and V are numbers. hl_gauss: they are means of a distribution over bins of
        # value_bounds, trained by cross-entropy against Gaussian-smeared targets ("Stop
        # Regressing", arXiv 2403.03950), whose gradients do not depend on the scale of the value.
        algo.critic.loss = "mse"
        algo.critic.bins = 51  # hl_gauss only; some of them pad the bounds, see losses.Bins
        # hl_gauss only; std of a smeared target [bin widths]. Below 0.5 the mean starts to round
        # to the nearest bin centre.
        algo.critic.bin_sigma = 0.75

        # ---- CVAE over actions ----
        algo.vae.layer_dims = [256, 256]
        algo.vae.latent_dim = None  # None: 2 x action dimension
        # Weight of the KL term against the summed squared action error. Small values let z encode
        # the noise of the actions, which the actor then uses to exploit Q: on Lift from images its
        # success after 2,000 to 3,000 steps was 0 of 20 at 0.05, but 8 of 8 after 1,000 at 0.5.
        algo.vae.kl_beta = 0.5
        algo.vae.expectile = 0.9  # weight of transitions with positive advantage, else 1 - this

        # ---- latent actor ----
        algo.actor.layer_dims = [256, 256]
        algo.actor.max_latent_action = 1.0  # |z| <= this; LAPO has 2, wide z exploits Q sooner
        algo.actor.target_noise = 0.1  # std of the noise on z in V's target, relative to max z
        algo.actor.target_noise_clip = 0.3  # bound of that noise, relative to max z
        # Weight of -log N(z; 0, 1) against Q/mean|Q|: keeps the actor near the CVAE's prior.
        algo.actor.prior_weight = 0.0
        # Whose z is played. actor: what the latent actor chooses (LAPO). zero: z = 0, which is
        # advantage-weighted behaviour cloning. best_of_n: of N fixed draws from the CVAE's prior
        # the one whose action has the largest min(Q1, Q2). actor_in_best_of_n: the actor's z, too.
        # `lapo evaluate --set algo.actor.extraction=zero` plays a checkpoint with another rule.
        algo.actor.extraction = "actor"
        algo.actor.target_extraction = "actor"  # the same choice in V's target, by the slow copies
        algo.actor.samples = 32  # N; heads only, observations are encoded once
        # Decoder of the actions that are played. LAPO's code takes the slow one, through which its
        # actor is trained; which is better has not been measured by protocol yet.
        algo.actor.decoder = "online"

        # ---- speed ----
        # Ways to compute the same thing; docs/performance.md has what each one gives. First: one
        # kernel for a whole optimizer step.
        algo.speed.fused_optimizers = True
        # Memory layout of pictures inside the encoder: colours of a pixel side by side.
        algo.speed.channels_last = True
        # Convolutions in bfloat16 while training; weights, vectors, features and heads stay
        # float32, as does everything in rollouts and validation. auto: on CPUs with matrix tiles
        # (AMX), where it was measured: a step takes 0.7 of the time. on, off: everywhere.
        algo.speed.bf16_encoder = "auto"

        # ---- the audit ----
        # Every so many gradient steps the gradient-flow audit watches one (metrics audit/...), and
        # warns once when the contract of this owner is broken; 0 switches it off.
        algo.audit.every_n_steps = 500

        # ---- batches ----
        # Images once in memory as uint8, obs and next_obs sharing storage, whole-batch indexing.
        # false: robomimic's SequenceDataset; the same batches, slower.
        algo.replay.enabled = True
        # Where pictures are. memory: refuse datasets that need more than max_gib [GiB]. disk: in a
        # memory-mapped file, written once (uncompressed) and shared by all runs on this machine.
        # auto: memory if they fit, else disk.
        algo.replay.storage = "memory"
        algo.replay.max_gib = 16.0
        algo.replay.folder = None  # of these files; None: beside the dataset

    def lock(self) -> None:
        """Lock, after checking values; stock `train.py` calls this before it builds anything.

        Raises:
            ConfigError: a value is out of range, or two values contradict each other.
        """
        if self.train.data is not None:
            data = compat.readable_data(self.train.data)
            if data != self.train.data:  # a config that is locked already is left alone
                self.train.data = data
        check_values(self)
        super().lock()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Update from a nested mapping as robomimic does, naming an unknown key in full.

        Raises:
            ConfigError: a key that does not exist.
        """
        args = tuple(_without_retired(_without_run_lengths(source)) for source in args)
        kwargs = dict(_without_retired(_without_run_lengths(kwargs)))
        for source in (*args, kwargs):
            _refuse_unknown_keys(self, source, prefix="")
        super().update(*args, **kwargs)


def _without_run_lengths(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop what robomimic 0.5.0 writes into the config of a run, and sets again in every run."""
    algo = source.get("algo")
    optimizers = algo.get("optim_params") if isinstance(algo, Mapping) else None
    if not isinstance(algo, Mapping) or not isinstance(optimizers, Mapping):
        return source
    kept = {
        name: {key: it for key, it in params.items() if key not in RUN_LENGTHS}
        if isinstance(params, Mapping)
        else params
        for name, params in optimizers.items()
    }
    return {**source, "algo": {**algo, "optim_params": kept}}


def _without_retired(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drop options that are gone where they did nothing; a run's own config.json names them all.

    Raises:
        ConfigError: one of them is in use.
    """
    kept = deepcopy({"algo": source["algo"]}) if isinstance(source.get("algo"), Mapping) else {}
    _drop_retired(kept)
    return {**source, **kept}


def _drop_retired(config: Any) -> None:
    for key, new in RENAMED.items():
        *levels, old = key.split(".")
        section = overrides.get_nested(config, *levels)
        if isinstance(section, dict) and old in section:
            section.setdefault(new, section[old])
            del section[old]
    for key, off in RETIRED.items():
        *levels, last = key.split(".")
        section = overrides.get_nested(config, *levels)
        if not isinstance(section, dict) or last not in section:
            continue
        if section[last] != off:
            raise ConfigError(
                f"{key} is {section[last]!r}, an option that is gone",
                f"no such key, or {off!r}, with which it did nothing",
                "Remove it; commit 49d96ed (tag studies-2026-11) is the last version that has it.",
            )
        del section[last]


def _set_missing(config: Any, key: str, value: Any) -> None:
    *levels, last = key.split(".")
    for level in levels:
        config = config[level] if level in config else config.setdefault(level, type(config)())
    if last not in config:
        config[last] = value


def _fill_in(section: Any, defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        if key not in section:
            section[key] = deepcopy(value)
        elif isinstance(value, Mapping) and isinstance(section[key], Mapping):
            _fill_in(section[key], value)


def _refuse_unknown_keys(config: Any, source: Mapping[str, Any], prefix: str) -> None:
    for key, value in source.items():
        name = f"{prefix}{key}"
        if key not in config:
            # do_not_lock_keys marks sections that take anything, such as core_kwargs.
            if config.is_key_locked and config.key_lockable:
                raise ConfigError(
                    f"config key '{name}' does not exist",
                    f"one of {sorted(config)}",
                    "Correct its spelling, or remove it.",
                )
            continue
        section = isinstance(config[key], Mapping)
        if section and not isinstance(value, Mapping):
            raise ConfigError(
                f"config key '{name}' is {value!r}",
                f"a section with the keys {sorted(config[key])}",
                "Write the keys that differ from the defaults inside braces.",
            )
        if section:
            _refuse_unknown_keys(config[key], value, prefix=f"{name}.")


def _require(ok: bool, key: str, value: Any, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{key} is {value!r}", expected, "Change it in the config file.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _look_up(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


INFINITY = float("inf")
NUMBERS = {
    "algo.encoder.vae_grad_scale": (0.0, INFINITY),
    "algo.encoder.auxiliary.cloning": (0.0, INFINITY),
    "algo.encoder.auxiliary.inverse": (0.0, INFINITY),
    "algo.encoder.auxiliary.dynamics": (0.0, INFINITY),
    "algo.encoder.auxiliary.reward": (0.0, INFINITY),
    "algo.discount": (0.0, 1.0),
    "algo.target_tau": (0.0, 1.0),
    "algo.critic.doubleq_min": (0.0, 1.0),
    "algo.critic.bin_sigma": (1e-3, INFINITY),
    "algo.vae.kl_beta": (0.0, INFINITY),
    "algo.vae.expectile": (0.0, 1.0),
    "algo.actor.max_latent_action": (1e-6, INFINITY),
    "algo.actor.target_noise": (0.0, INFINITY),
    "algo.actor.target_noise_clip": (0.0, INFINITY),
    "algo.actor.prior_weight": (0.0, INFINITY),
    "algo.replay.max_gib": (0.0, INFINITY),
}
WHOLE_NUMBERS = {
    "algo.audit.every_n_steps": 0,
    "algo.actor.samples": 1,
    "algo.encoder.trunk_dim": 1,
    "algo.critic.bins": 2,
    "train.seq_length": 1,
    "train.frame_stack": 1,
    "train.batch_size": 1,
}
LAYERS = (
    "algo.encoder.auxiliary.layer_dims",
    "algo.critic.layer_dims",
    "algo.vae.layer_dims",
    "algo.actor.layer_dims",
)
CHOICES = {
    "algo.encoder.owner": tuple(OWNERS),
    "algo.encoder.norm": NORMS,
    "algo.critic.loss": CRITIC_LOSSES,
    "algo.actor.extraction": EXTRACTIONS,
    "algo.actor.target_extraction": EXTRACTIONS,
    "algo.actor.decoder": DECODERS,
    "algo.speed.fused_optimizers": (True, False),
    "algo.speed.channels_last": (True, False),
    "algo.speed.bf16_encoder": BF16,
    "algo.replay.enabled": (True, False),
    "algo.replay.storage": STORAGES,
    "train.goal_mode": (None, "last"),
}


def _check_kinds(config: Any) -> None:
    for key, choices in CHOICES.items():
        _require(_look_up(config, key) in choices, key, _look_up(config, key), f"one of {choices}")
    for key, (low, high) in NUMBERS.items():
        value = _look_up(config, key)
        ok = _is_number(value) and low <= value <= high
        _require(ok, key, value, f"a number from {low:g} to {high:g}")
    for key, low in WHOLE_NUMBERS.items():
        value = _look_up(config, key)
        _require(_is_whole(value) and value >= low, key, value, f"a whole number from {low}")
    for key in LAYERS:
        value = _look_up(config, key)
        ok = isinstance(value, list | tuple) and all(_is_whole(x) and x > 0 for x in value)
        _require(ok, key, value, "a list of layer sizes")


def check_schedule(rate: Any, key: str) -> None:
    """Check that the installed robomimic does what a section learning_rate asks for.

    It ignores a kind of schedule that it does not know as long as epoch_schedule is empty, and the
    rate stays as it is without a message.

    Args:
        rate: the section, of any algorithm.
        key: its name for messages.

    Raises:
        ConfigError: a schedule that would not be followed.
    """
    schedule, factor = rate.get("epoch_schedule", []), rate.get("decay_factor", 1.0)
    kind, every_batch = rate.get("scheduler_type", "multistep"), rate.get("step_every_batch", False)
    ok = isinstance(schedule, list | tuple) and all(_is_whole(x) and x > 0 for x in schedule)
    _require(ok, f"{key}.epoch_schedule", schedule, "a list of epochs")
    _require(_is_number(factor) and factor >= 0, f"{key}.decay_factor", factor, "a number from 0")
    known = compat.schedulers()
    expected = f"one of {known}, which robomimic {compat.robomimic_version()} has"
    _require(isinstance(kind, str) and kind in known, f"{key}.scheduler_type", kind, expected)
    ok = isinstance(every_batch, bool) and (compat.schedules_every_batch() or not every_batch)
    expected = "true or false" if compat.schedules_every_batch() else "false before robomimic 0.5.0"
    _require(ok, f"{key}.step_every_batch", every_batch, expected)
    if kind == "linear":
        expected = "one epoch, at which the rate arrives at decay_factor (scheduler_type linear)"
        _require(len(schedule) == 1, f"{key}.epoch_schedule", schedule, expected)
    if kind == "cosine":
        expected = "true with scheduler_type cosine, which counts batches"
        _require(every_batch, f"{key}.step_every_batch", every_batch, expected)
        expected = "empty with scheduler_type cosine, which ends with the training"
        _require(not schedule, f"{key}.epoch_schedule", schedule, expected)


def _check_optimizers(config: Any) -> None:
    for name, params in config.algo.optim_params.items():
        key = f"algo.optim_params.{name}"
        rate, limit = params.learning_rate.initial, params.max_gradient_norm
        _require(
            _is_number(rate) and rate >= 0, f"{key}.learning_rate.initial", rate, "a number from 0"
        )
        _require(
            params.optimizer_type in ("adam", "adamw"), f"{key}.optimizer_type",
            params.optimizer_type, "'adam' or 'adamw', which robomimic has",
        )  # fmt: skip
        check_schedule(params.learning_rate, f"{key}.learning_rate")
        decay = params.regularization.L2
        ok = _is_number(decay) and decay >= 0
        _require(ok, f"{key}.regularization.L2", decay, "a number from 0")
        ok = limit is None or (_is_number(limit) and limit > 0)
        _require(ok, f"{key}.max_gradient_norm", limit, "null or a positive number")


def _check_encoder(encoder: Any) -> None:
    ok = encoder.vae_grad_scale == 1.0 or encoder.owner == "joint"
    expected = f"1.0 while algo.encoder.owner is {encoder.owner!r}, not 'joint'"
    _require(ok, "algo.encoder.vae_grad_scale", encoder.vae_grad_scale, expected)


def _check_auxiliary(auxiliary: Any, owner: str, n_step: int) -> None:
    for name in AUXILIARY:
        ok = auxiliary[name] == 0 or owner in ("critic", "joint")
        expected = f"0 while algo.encoder.owner is {owner!r}: the critic's loss does not train it"
        _require(ok, f"algo.encoder.auxiliary.{name}", auxiliary[name], expected)
    steps = auxiliary.inverse_steps
    ok = steps is None or (_is_whole(steps) and 1 <= steps <= n_step)
    expected = f"null, or a whole number from 1 to algo.n_step ({n_step})"
    _require(ok, "algo.encoder.auxiliary.inverse_steps", steps, expected)


def _check_critic(critic: Any) -> None:
    bounds = critic.value_bounds
    pair = isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_is_number, bounds))
    ok = bounds is None or (pair and bounds[0] < bounds[1])
    _require(ok, "algo.critic.value_bounds", bounds, "null or two rising numbers")
    if critic.loss == "hl_gauss":
        expected = "two rising numbers, which algo.critic.loss = 'hl_gauss' cuts into bins"
        _require(bounds is not None, "algo.critic.value_bounds", bounds, expected)
        from robomimic_vae_ext.lapo import losses  # torch, which `import robomimic.config` lacks

        padding = 2 * losses.PADDING * critic.bin_sigma
        expected = f"more than {padding:g}, the padding at algo.critic.bin_sigma {critic.bin_sigma}"
        _require(critic.bins > padding, "algo.critic.bins", critic.bins, expected)


def _check_observations(config: Any) -> None:
    keys = [key for keys in config.observation.modalities.obs.values() for key in keys]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    _require(not twice, "observation.modalities.obs", twice, "each key once, under one modality")
    expected = "at least one observation key, such as robot0_eef_pos in low_dim"
    _require(bool(keys), "observation.modalities.obs", keys, expected)
    expected = "'last' with keys in observation.modalities.goal"
    _require(not config.use_goals or config.train.goal_mode, "train.goal_mode", None, expected)
    if config.train.hdf5_normalize_obs:
        expected = "false on this robomimic, whose normalisation fails in the first batch"
        _require(compat.can_normalize(), "train.hdf5_normalize_obs", True, expected)
    limit = config.train.get("max_grad_norm")  # of robomimic 0.5.0, where only BC reads it
    expected = "null: lapo clips by algo.optim_params.*.max_gradient_norm"
    _require(limit is None, "train.max_grad_norm", limit, expected)


def check_values(config: Any) -> None:
    """Check every value that could fail late or silently.

    Args:
        config: a LAPOConfig.

    Raises:
        ConfigError: the first value that is out of range or contradicts another.
    """
    algo, train = config.algo, config.train
    _check_kinds(config)
    _check_optimizers(config)
    latent_dim = algo.vae.latent_dim
    ok = latent_dim is None or (_is_whole(latent_dim) and latent_dim > 0)
    _require(ok, "algo.vae.latent_dim", latent_dim, "null or a positive whole number")
    _require(
        _is_whole(algo.n_step) and 1 <= algo.n_step <= train.seq_length,
        "algo.n_step",
        algo.n_step,
        f"a whole number from 1 to train.seq_length ({train.seq_length})",
    )
    folder = algo.replay.folder
    _require(
        folder is None or isinstance(folder, str), "algo.replay.folder", folder, "null or a folder"
    )
    _check_encoder(algo.encoder)
    _check_auxiliary(algo.encoder.auxiliary, algo.encoder.owner, algo.n_step)
    _check_critic(algo.critic)
    needs = ("actions", "rewards", "dones")
    given = train.dataset_keys
    ok = isinstance(given, list | tuple) and all(key in given for key in needs)
    _require(ok, "train.dataset_keys", given, f"all of {needs}")
    _check_observations(config)
    _require(train.hdf5_load_next_obs, "train.hdf5_load_next_obs", False, "true")
    # Without padding the last states of a demo would bootstrap others, untrained themselves.
    _require(train.pad_seq_length, "train.pad_seq_length", False, "true")
