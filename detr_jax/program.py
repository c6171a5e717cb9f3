"""How every program of the package starts and how it speaks to its user when something is wrong.

A user's mistake is raised as ``UserError`` with one sentence: what was seen, what to type. ``run`` prints that
sentence and exits with status 1; the traceback is for ``--debug``.
"""

import sys
from collections.abc import Callable

from absl import app, flags, logging

flags.DEFINE_bool("debug", False, "Show the full traceback of a user's mistake.")


class UserError(Exception):
    """Something the user can put right; the message is one sentence that says how."""


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parses the flags, runs ``main(argv)`` and exits with its status (None is 0)."""

    def guarded(argv: list[str]) -> int | None:
        logging.set_verbosity(logging.WARNING)  # libraries speak only when something is wrong; programs print
        try:
            return main(argv)
        except UserError as error:
            if flags.FLAGS.debug:
                raise
            print(f"error: {error}", file=sys.stderr)
            return 1

    app.run(guarded)
