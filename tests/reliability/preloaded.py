"""What child processes of these tests have imported before they are forked."""

import robomimic_vae_ext.rollout.in_training
import robomimic_vae_ext.training  # noqa: F401
