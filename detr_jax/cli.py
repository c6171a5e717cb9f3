"""How every program starts, and how it tells its user that something is wrong.

A user's mistake is raised as ``UserError`` with one sentence. ``run`` prints the sentence and exits with status 1; the
traceback is for ``--debug``. Programs define their flags when they run, never when they are imported.
"""

import atexit
import sys
import traceback
import warnings
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from detr_jax import crashes, signals
from detr_jax.config import Config
from detr_jax.config_forms import as_flags, from_config_dict
from detr_jax.errors import UserError
from detr_jax.heap import keep_memory


def define_config() -> None:
    """Defines ``--config``."""
    config_flags.DEFINE_config_file("config", None, "configs/FILE.py:WORDS; change a value with --config.a.b=value.")


def config() -> Config:
    """The settings that ``--config`` and its overrides describe. Raises UserError when the file cannot be read."""
    try:
        return from_config_dict(flags.FLAGS.config)
    except OSError as error:  # ml_collections keeps the failure until the flag is looked at
        raise UserError(f"--config cannot be read: {str(error).splitlines()[-1].strip()}") from error


def run(main: Callable[[list[str]], int | None], define_flags: Callable[[], None]) -> None:
    """Defines and parses the flags, runs ``main(argv)`` and exits with its status (None is 0)."""

    def guarded(argv: list[str]) -> int | None:
        keep_memory()
        for stream in (sys.stdout, sys.stderr):  # names are data: what a terminal cannot show does not end a program
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        logging.set_verbosity(logging.FATAL)  # programs print; what libraries log as an error, they raise as well
        warnings.filterwarnings("ignore", module="PIL")  # of odd tags in images that it reads all the same
        with crashes.NativeMessages():
            try:
                with signals.StopSignals() as stop, stop.waiting(), crashes.explain_lost_process():
                    return main(argv)
            except UserError as error:
                if flags.FLAGS.debug:
                    raise
                # At once: a compilation in another thread would hold up the end of the process for minutes.
                signals.leave(1, f"error: {as_flags(str(error))}")
            except signals.Interrupted:
                signals.leave(*signals.stopped_by(stop.received))
            except Exception:
                if not jax.distributed.is_initialized():
                    raise
                traceback.print_exc()
                signals.leave(1)  # at once: an orderly end waits for the other processes, which wait for this one

    flags.DEFINE_bool("debug", False, "Show the full traceback of a user's mistake.")
    define_flags()
    status = 1
    try:
        app.run(guarded, flags_parser=_parse)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        status = end.code or 0
    except Exception:
        traceback.print_exc()
    # Python would take itself apart now, and abort when a thread of native code comes back to it meanwhile.
    atexit._run_exitfuncs()
    signals.leave(status)


def _parse(argv: list[str]) -> list[str]:
    """absl's own parsing; what a configuration file objects to becomes one sentence, too."""
    try:
        return flags.FLAGS(argv)
    except Exception as error:  # a configuration file is a program: anything may go wrong in it
        if "--debug" in argv:
            raise
        message = str(error.args[0]) if error.args else str(error)
    # What absl reports of an error in a configuration file ends with that error's own words.
    message = message.rpartition("Error: ")[2].replace("\\n", " ").replace("\\'", "'").strip()
    if message[:1] in "'\"" and message[:1] == message[-1:]:
        message = message[1:-1]
    where = "" if message.startswith("flag ") or "--" in message else "--config: "
    print(f"error: {where}{' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)
