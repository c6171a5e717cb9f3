"""What is wrong with the flags of a command line, in one sentence that names what was meant."""

import re
from collections.abc import Iterable

from absl import flags

from detr_jax.config import Config, settings
from detr_jax.errors import UserError
from detr_jax.spelling import nearest_name
from detr_jax.unknown_settings import describe_unknown_setting


def refuse_unknown_settings(words: Iterable[str]) -> None:
    """Raises UserError for the first ``--config.NAME`` whose setting, or group of settings, does not exist."""
    names = {one.name for one in settings(Config())}
    known = names | {name.rpartition(".")[0] for name in names}
    for word in words:
        if word == "--":
            return
        found = re.match(r"--?(?:no)?config\.([\w.]*)", word)
        if found and found[1] not in known:
            raise UserError(describe_unknown_setting(found[1]))


def describe_flag_error(error: Exception, own: Iterable[str]) -> str:
    """The sentence for what absl, ml_collections or a configuration file raised; ``own``: flags of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, flags.UnrecognizedFlagError):
        return describe_unknown_flag(error.flagname, own)
    message = str(error.args[0]) if error.args else str(error)
    if missing := re.findall(r"Flag (--\w+) must have a value other than None", message):
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; --help has an example"
    if early := re.match(r"Found (--?(?:no)?config\.[\w.]+).* before a value", message):
        return f"write --config=FILE before {early[1]}"
    # What absl reports of an error in a configuration file ends with that error's own words.
    message = message.rpartition("Error: ")[2].replace("\\n", " ").replace("\\'", "'").strip()
    if message[:1] in "'\"" and message[:1] == message[-1:]:
        message = message[1:-1]
    where = "" if message.startswith("flag ") or "--" in message else "--config: "
    return f"{where}{' '.join(message.split())}"


def describe_unknown_flag(name: str, own: Iterable[str]) -> str:
    """The sentence for a flag that does not exist."""
    if name.startswith("config."):
        return f"--{name} changes a setting of --config=FILE, which is missing"
    own = list(own)
    near = nearest_name(name, own) or nearest_name(name.removeprefix("no"), own)
    return f"there is no flag --{name}; " + (f"did you mean --{near}?" if near else "--help lists those that there are")
