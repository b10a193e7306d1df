"""The same as `lapo collect`."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["collect", *sys.argv[1:]]))
