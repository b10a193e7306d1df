"""The command `lapo`: quick help, usage errors, and the errors of verbs as exit codes."""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from robomimic_vae_ext import cli
from robomimic_vae_ext.cli import main
from tests.conftest import REPOSITORY

HEAVY = {"torch", "numpy", "h5py", "robomimic", "robosuite", "mujoco", "matplotlib", "pandas"}


def loaded_by(words: list[str]) -> set[str]:
    """Top-level modules that a call of `lapo` has imported when it ends."""
    code = (
        "import sys\nfrom robomimic_vae_ext.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "LOADED" in result.stdout, result.stderr
    return set(result.stdout.split("LOADED")[1].split())


@pytest.mark.parametrize("words", [["--help"], ["nonsense"], ["train", "--nonsense"], ["evaluate"]])
def test_help_and_usage_errors_import_nothing_heavy(words: list[str]) -> None:
    assert not loaded_by(words) & HEAVY


def test_no_verb_imports_anything_heavy_before_it_runs() -> None:
    for verb in cli.VERBS:
        path = REPOSITORY / "robomimic_vae_ext" / "cli" / f"verb_{verb}.py"
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                light = name.startswith(("robomimic_vae_ext.errors", "robomimic_vae_ext.files"))
                assert top in sys.stdlib_module_names or light, f"{path}: {name}"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert f"lapo {verb}" in capsys.readouterr().out.split("options:")[0].split("\n\n", 1)[1]


def test_the_names_of_the_verbs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"\n  {verb} " in listed for verb in cli.VERBS)


def test_a_mistyped_verb_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "'train'" in capsys.readouterr().err


@pytest.mark.parametrize("order", [0, 1, 2])
def test_options_may_come_anywhere(order: int) -> None:
    words = ["critic", "--dataset", "d.hdf5", "run"]
    words = [words, [*words[1:3], "critic", "run"], ["critic", "run", *words[1:3]]][order]
    args = cli.parse("inspect", words)
    assert (args.what, [str(path) for path in args.checkpoints]) == ("critic", ["run"])


def test_an_unknown_flag_shows_the_usage_of_its_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--confg", "x"])
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "usage: lapo train" in message and "--confg" in message


def bad_calls(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Arguments, and what the error message must name."""
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    config = ["train", "--config", "vae_joint_low_dim"]
    evaluate = ["evaluate", str(folder / "file")]
    return {
        "no config": (["train"], "--config"),
        "config and algo": (["train", "--config", "vae_joint", "--algo", "bcq"], "--algo bcq"),
        "debug elsewhere": ([*config, "--debug", "--output", str(folder / "out")], "--debug"),
        "unknown config": (["train", "--config", "vae_jiont"], "vae_joint"),
        "no dataset": ([*config, "--dataset", str(folder / "none.hdf5")], "none.hdf5"),
        "output is a file": ([*config, "--output", str(folder / "file")], "is a file"),
        "no name": ([*config, "--name", "../out"], "'../out'"),
        "epochs": ([*config, "--epochs", "0"], "train.num_epochs is 0"),
        "seed": ([*config, "--seed", "-1"], "train.seed is -1"),
        "unknown key": ([*config, "--set", "algo.encodr.owner=vae"], "algo.encodr.owner"),
        "unknown value": ([*config, "--set", "algo.encoder.owner=me"], "'me'"),
        "kind of a value": ([*config, "--set", "train.batch_size=many"], "'many'"),
        "given twice": ([*config, "--set", "train.seed=1", "--seed", "2"], "train.seed"),
        "device": ([*config, "--device", "cuda:77"], "cuda:77"),
        "no checkpoint": (["evaluate"], "lapo evaluate"),
        "no run": (["evaluate", str(folder / "empty")], f"{folder}/empty/*/models"),
        "no such path": (["evaluate", str(folder / "none")], "none"),
        "no episodes": ([*evaluate, "--n", "0"], "--n 0"),
        "output exists": ([*evaluate, "--out", str(folder / "file")], "--overwrite"),
        "output is a folder": ([*evaluate, "--out", str(folder)], "is a folder"),
        "kind of video": ([*evaluate, "--video", "a.avi"], "a.avi"),
        "nearly a config": (["train", "--config", "vae_fixd"], "'vae_fixed'"),
    }


@pytest.mark.parametrize("kind", bad_calls(Path(tempfile.mkdtemp())))
def test_bad_input_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    words, named = bad_calls(tmp_path)[kind]
    before = sorted(tmp_path.rglob("*"))
    assert main(words) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"lapo {words[0]}: ") and named in message, message
    assert "; expected " in message
    assert sorted(tmp_path.rglob("*")) == before
