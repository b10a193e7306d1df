"""The same as `lapo convert`."""

import sys

from robomimic_vae_ext.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
