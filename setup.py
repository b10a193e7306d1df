"""Build of robomimic_vae_ext: dependencies, and the start-up file that robomimic needs."""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
STARTUP = ROOT / "robomimic_vae_ext" / "_startup.py"
CONFIGS = "robomimic_vae_ext.configs"
STARTUP_MODULE = "_robomimic_vae_ext_startup"
# `exec`, since a .pth line is one statement: a half-removed installation must not make every
# Python of the environment complain.
PTH = (
    "import os; os.environ.get('ROBOMIMIC_VAE_EXT_DISABLE', '0') in ('', '0') and "
    f"exec('try:\\n    import {STARTUP_MODULE}\\nexcept ImportError:\\n    pass')\n"
)

# setuptools swallows errors of build_py in editable mode; this one must not be swallowed.
if not STARTUP.is_file():
    raise FileNotFoundError(f"{STARTUP} is missing: the source tree is incomplete")


class BuildWithStartupFile(build_py):
    """Adds the two top-level files that `packages` cannot express.

    robomimic has no plugin discovery, so a `.pth` file waits for it to be imported. `data_files`
    would do for wheels, but goes missing silently in editable installs.
    """

    def run(self) -> None:
        """Build as usual, then write both files where they will be found."""
        super().run()
        target = Path(self.build_lib)
        if self.editable_mode:
            target = Path(self.get_finalized_command("install").install_lib)
        target.mkdir(parents=True, exist_ok=True)
        for path, text in self._startup_files(target).items():
            path.write_text(text)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name the two files too, so that wheels and uninstalling know them."""
        extra = [] if self.editable_mode else list(self._startup_files(Path(self.build_lib)))
        return super().get_outputs(include_bytecode) + [str(path) for path in extra]

    @staticmethod
    def _startup_files(target: Path) -> dict[Path, str]:
        return {
            target / f"{STARTUP_MODULE}.py": STARTUP.read_text(),
            target / "robomimic_vae_ext.pth": PTH,
        }


setup(
    name="robomimic_vae_ext",
    version="0.1.0",
    description="LAPO for robomimic: offline RL from images, a setting owns the shared encoder",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # The configs stay at the top of the repository and are installed inside the package.
    packages=[*find_packages(include=["robomimic_vae_ext", "robomimic_vae_ext.*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},
    package_data={CONFIGS: ["*.json", "**/*.json"]},
    entry_points={"console_scripts": ["lapo = robomimic_vae_ext.cli:main"]},
    cmdclass={"build_py": BuildWithStartupFile},
    install_requires=[
        "robomimic>=0.3",  # 0.3.0 and 0.5.0
        "robosuite>=1.5.2,<1.6",  # composite controllers; 1.6 does not exist yet
        "mujoco>=3.3,<3.10",  # 3.10 changed mj_fullM's arguments, which robosuite 1.5.2 calls
        "torch>=2.6",  # nn.utils.get_total_norm; with torchvision of the same build
        "torchvision",  # imported by robomimic; must come from where torch comes from
        "numpy>=1.26",  # robosuite's mink 0.0.5 asks for < 2, but all works with 2: docs/install.md
        "h5py>=3.10",
        "pandas>=2.2",
        "scipy>=1.11",
        "psutil",
        "imageio",  # rollout videos
        "imageio-ffmpeg",  # carries an ffmpeg binary: no system package needed
        "matplotlib>=3.8",
        "tensorboard",  # reads the logs that robomimic writes with tensorboardX
        "packaging",
        "tqdm",
    ],
    extras_require={
        "cluster": ["ray"],  # studies on several machines (80 MB); anything else goes without
        "export": ["safetensors"],  # lapo export --format safetensors
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "safetensors",
            "ruff",
            "mypy",
            "import-linter",
            "pandas-stubs",
            "ray",
        ],
    },
)
