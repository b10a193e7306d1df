"""What child processes of these tests have imported before they are forked."""

import contextlib

import robomimic_vae_ext.rollout.in_training
import robomimic_vae_ext.training.training_run  # noqa: F401

with contextlib.suppress(ImportError):  # since robomimic 0.5.0
    import robomimic.utils.lang_utils

    # Environments encode a sentence by a network that is downloaded.
    robomimic.utils.lang_utils.get_lang_emb = lambda lang: None
