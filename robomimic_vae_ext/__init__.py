"""LAPO for robomimic, with one observation encoder that the critic owns.

Importing this package registers the algorithm and config `lapo` with robomimic: at once where
robomimic is imported already, otherwise the moment it is. It needs neither a simulator nor a GPU.
"""

from robomimic_vae_ext.plugin import activate

__version__ = "0.1.0"

activate()
