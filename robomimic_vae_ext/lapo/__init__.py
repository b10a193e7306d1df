"""LAPO: a CVAE over actions, a latent actor, twin Q and V, one shared observation encoder."""
