"""Configurations are found from any folder, a file of the user's first, in a checkout and where pip installs them."""

import tomllib
from pathlib import Path

import pytest

from detr_jax import config_files
from detr_jax.config_files import FOLDER, find_config
from detr_jax.errors import UserError
from tests.programs import REPOSITORY


@pytest.mark.parametrize("given", ["configs/finetune.py", "finetune.py", "finetune", "configs/finetune"])
def test_a_configuration_of_the_package_is_found_from_any_folder(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    assert find_config(given) == FOLDER / "finetune.py"
    assert (FOLDER / "finetune.py").is_file()


@pytest.mark.parametrize("given", ["configs/finetune.py", "configs/finetune", "configs/mine.py", "configs/mine"])
def test_a_file_of_the_users_wins(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    own = Path(given).with_suffix(".py")
    own.parent.mkdir()
    own.touch()
    assert find_config(given) == own
    assert find_config(str(tmp_path / own)) == tmp_path / own


@pytest.mark.parametrize(
    "given, words",
    [
        ("configs/fintune.py", "did you mean finetune? There are detr, finetune, shapes"),
        ("there/detr.py", "There are detr, finetune, shapes"),
        ("../detr", "There are detr, finetune, shapes"),
        ("", "choose from detr, finetune, shapes"),
    ],
)
def test_an_unknown_one_is_one_sentence_that_lists_them(tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        find_config(given)
    assert str(caught.value).startswith(f"--config={given} is no file") and words in str(caught.value)


def test_pip_installs_every_package_and_the_configurations():
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in (REPOSITORY / "detr_jax").rglob("*.py")}
    packages = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(setuptools["packages"]) == packages | {"detr_jax.configs"}
    assert setuptools["package-dir"] == {"detr_jax.configs": "configs"}
    assert config_files.names() == sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py"))
