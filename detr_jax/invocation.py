"""How this program was called: as ``python -m detr_jax.train``, or by the installed command, ``detr_jax train``."""

import os
import re
import shlex
import shutil
import sys

COMMAND = "detr_jax"


def by_command() -> bool:
    """Whether the installed command runs, which pip writes as a file that Python is given."""
    return os.path.basename("".join(sys.orig_argv[1:2])) == COMMAND


def command() -> str:
    """The command line of this program as it was typed, to be typed again."""
    if not by_command():
        return shlex.join(sys.orig_argv)
    script = sys.orig_argv[1]
    return shlex.join([COMMAND if shutil.which(COMMAND) == script else script, *sys.orig_argv[2:]])


def as_typed(text: str) -> str:
    """A text with its ``python -m detr_jax.NAME`` as this program was called."""
    return re.sub(r"python -m detr_jax\.(?=\w)", f"{COMMAND} ", text) if by_command() else text
