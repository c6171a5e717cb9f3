"""How every program starts, and how it tells its user that something is wrong.

A user's mistake is raised as ``UserError`` with one sentence. ``run`` prints the sentence and exits with status 1; the
traceback is for ``--debug``. Programs define their flags when they run, never when they are imported.
"""

import atexit
import contextlib
import sys
import traceback
import warnings
from collections.abc import Callable

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from detr_jax import crashes, signals
from detr_jax.config import Config
from detr_jax.config_files import find_config
from detr_jax.config_forms import as_flags, from_config_dict
from detr_jax.errors import UserError
from detr_jax.flag_errors import describe_flag_error, refuse_unknown_settings
from detr_jax.heap import keep_memory
from detr_jax.help_page import Verbs, help_page, is_asked
from detr_jax.invocation import as_typed
from detr_jax.spelling import choices


class _ConfigParser(flags.ArgumentParser):
    """Reads the value of ``--config``, which may name a configuration of the package, by ml_collections' parser."""

    def __init__(self, reader: flags.ArgumentParser):
        self._reader = reader

    def parse(self, argument: str) -> ConfigDict:
        name, colon, words = argument.partition(":")
        return self._reader.parse(f"{find_config(name)}{colon}{words}")


def define_config() -> None:
    """Defines ``--config``."""
    config_flags.DEFINE_config_file("config", None, "Configuration; change a setting of it with --config.NAME=VALUE.")
    flag = flags.FLAGS["config"]
    flag.parser = _ConfigParser(flag.parser)


def config() -> Config:
    """The settings that ``--config`` and its overrides describe. Raises UserError when the file cannot be read."""
    try:
        return from_config_dict(flags.FLAGS.config)
    except OSError as error:  # ml_collections keeps the failure until the flag is looked at
        raise UserError(f"--config cannot be read: {str(error).splitlines()[-1].strip()}") from error


def choose_verb(argv: list[str], verbs: Verbs) -> tuple[Callable, list[str]]:
    """What the verb of a command line runs, and the words after it. Raises UserError when there is no such verb."""
    verb = "".join(argv[1:2])
    if not verb:
        raise UserError(f"a verb is missing; choose from {', '.join(verbs)}")
    if verb not in verbs:
        raise UserError(f"there is no verb {verb!r}; {choices(verb, verbs)}")
    return verbs[verb], argv[2:]


def refuse_words(more: list[str]) -> None:
    """Raises UserError when there are words besides the verb and the flags."""
    if more:
        hint = f"did you mean --{more[0]}?" if more[0] in flags.FLAGS else "values are given as --flag=value"
        raise UserError(f"{more[0]!r} is not understood; {hint}")


def run(main: Callable[[list[str]], int | None], define_flags: Callable[[], None], verbs: Verbs | None = None) -> None:
    """Defines and parses the flags, runs ``main(argv)`` and exits with its status (None is 0).

    What stands at the top of the file of ``main`` is the page of ``--help``; ``verbs``: those of the program.
    """

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
                signals.leave(1, f"error: {as_typed(as_flags(str(error)))}")
            except signals.Interrupted:
                signals.leave(*signals.stopped_by(stop.received))
            except Exception:
                if not jax.distributed.is_initialized():
                    raise
                traceback.print_exc()
                signals.leave(1)  # at once: an orderly end waits for the other processes, which wait for this one

    before = set(flags.FLAGS)
    define_flags()
    flags.DEFINE_bool("debug", False, "Show the full traceback of a user's mistake.")
    own = [name for name in flags.FLAGS if name not in before]
    doc = sys.modules[main.__module__].__doc__ or ""
    status = 1
    try:
        app.run(guarded, flags_parser=lambda argv: _parse(argv, own, doc, verbs or {}))
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        status = end.code or 0
    except Exception:
        traceback.print_exc()
    # Python would take itself apart now, and abort when a thread of native code comes back to it meanwhile.
    atexit._run_exitfuncs()
    signals.leave(status)


def _parse(argv: list[str], own: list[str], doc: str, verbs: Verbs) -> list[str]:
    """absl's own parsing; what is wrong becomes one sentence. ``own``: the flags of this program."""
    if is_asked(argv[1:]):
        with contextlib.suppress(BrokenPipeError):  # of a pager that is left early
            print(help_page(doc, [flags.FLAGS[name] for name in own], verbs, argv[1:]))
        signals.leave(0)
    try:
        if "config" in own:
            refuse_unknown_settings(argv[1:])
        return flags.FLAGS(argv)
    except Exception as error:  # a configuration file is a program: anything may go wrong in it
        if "--debug" in argv:
            raise
        signals.leave(1, f"error: {as_flags(describe_flag_error(error, own))}")
