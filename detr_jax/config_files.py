"""The configuration files that come with the package, ``configs/*.py``, wherever it is installed."""

import runpy
from pathlib import Path

from detr_jax.errors import UserError
from detr_jax.spelling import choices

PACKAGE = Path(__file__).resolve().parent
# pip puts the files into the package; in a checkout they stand beside it.
FOLDER = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)


def names() -> list[str]:
    """The configurations of the package, such as ``finetune``."""
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def words_of(name: str) -> tuple[list[str], list[str]]:
    """The words of a configuration of the package: its models, and what changes them."""
    module = runpy.run_path(str(FOLDER / f"{name}.py"))
    return list(module["MODELS"]), list(module["OTHERS"])


def find_config(given: str) -> Path:
    """The file that ``--config`` names: one of the user's, else ``configs/NAME.py``, ``NAME.py`` or ``NAME`` here.

    Raises UserError when there is none.
    """
    own = Path(given).expanduser()
    for path in (own, own.with_name(f"{own.name}.py")) if own.name else ():
        if path.is_file():
            return path
    name = given.removeprefix("configs/").removesuffix(".py")
    if name not in names():
        raise UserError(
            f"--config={given} is no file and no configuration of the package; {choices(own.stem, names())}"
        )
    return FOLDER / f"{name}.py"
