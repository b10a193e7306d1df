"""`python -m robomimic_vae_ext VERB ...` is `lapo VERB ...`."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())
