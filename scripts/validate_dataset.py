"""The same as `lapo validate`."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["validate", *sys.argv[1:]]))
