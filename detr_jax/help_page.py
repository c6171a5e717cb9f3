"""The page of ``--help``: what a program or a verb does, an example, and its flags, on one screen.

A flag's help may begin with the verbs that it is for, as in "prepare, check: look at the header only"; it may hold
several such sentences. Without, the flag is for every verb.
"""

import re
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence

from absl import flags

from detr_jax import config_files
from detr_jax.config import Config, settings
from detr_jax.invocation import as_typed

ASKING = {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"}
MARGIN = 26  # columns of the flags' names
USUAL = (  # settings that most runs change
    "data.name", "data.dir", "model.backbone_weights", "init_from", "optim.lr", "train.batch_size", "train.epochs",
    "train.steps", "dtype",
)  # fmt: skip
FOOTER = "--helpfull lists the flags of all libraries, too."
Verbs = Mapping[str, Callable]


def is_asked(words: Sequence[str]) -> bool:
    """Whether a command line asks for this page."""
    before = words[: words.index("--")] if "--" in words else words
    return bool(ASKING & set(before))


def help_page(doc: str, own: Sequence[flags.Flag], verbs: Verbs, words: Sequence[str]) -> str:
    """The page of a program, or of its verb that the words name.

    Args:
      doc: what stands at the top of the program's file, with an example of each verb.
      own: the flags of the program, in their order.
    """
    verb = next((word for word in words if word in verbs), None)
    doc = doc.replace("``", "")
    if verbs and not verb:
        return as_typed(f"{doc.strip()}\n\nVERB --help shows the flags of a verb. {FOOTER}")
    if verb:
        examples = re.findall(rf"^ *(python -m \S+ {verb}\b.*)", doc, re.MULTILINE)
        lines = [verbs[verb].__doc__.split("\n\n")[0].replace("``", ""), "", *(f"    {line}" for line in examples)]
    else:
        lines = doc.strip().splitlines()
    lines += ["", "Flags:"]
    configured = not verb or any("--config=" in line for line in lines)
    own = [flag for flag in own if flag.name != "config" or configured]
    for flag in own:
        text = sentences_for(re.sub(r"^<.*?>: |;\s+repeat this option.*", "", flag.help), verbs, verb)
        lines += _entry(flag, text) if text else []
    if any(flag.name == "config" for flag in own):
        lines += ["", *describe_configurations(usual=not verbs)]
    return as_typed("\n".join([*lines, "", FOOTER]))


def sentences_for(text: str, verbs: Verbs, verb: str | None) -> str:
    """What a flag's help says for this verb; empty when the flag is not for it."""
    if not verb:
        return text
    name = "|".join(verbs)
    common, *rest = re.split(rf"(?:^|(?<=\. ))((?:{name})(?:, (?:{name}))*): ", text)
    found = [said for given, said in zip(rest[::2], rest[1::2], strict=True) if verb in given.split(", ")]
    return " ".join(one.strip()[:1].upper() + one.strip()[1:] for one in [common, *found] if one.strip())


def describe_configurations(usual: bool) -> list[str]:
    """What ``--config`` and ``--config.NAME`` may be; ``usual``: with the settings that most runs change."""
    lines = ["Configurations, --config=NAME:WORDS with commas between words, or a file of your own:"]
    for name in config_files.names():
        models, others = config_files.words_of(name)
        lines += _columns(f"  {name}:", f"{', '.join(models)}; with it {', '.join(others)}")
    lines += ["", "Settings, explained in docs/settings.md; lists are written like --config.data.scales='(240,)'"]
    known = {one.name: one.rule.meaning for one in settings(Config())}
    for name in USUAL if usual else ():
        lines += _columns(f"  --config.{name}=...", known[name].split(". ")[0].rstrip(".") + ".", MARGIN + 12)
    return lines


def _entry(flag: flags.Flag, text: str) -> list[str]:
    default = "..." if flag.default in (None, []) else str(flag.default_as_str).strip("'")
    value = "" if flag.boolean else f"={default}"
    kinds = getattr(flag.parser, "enum_values", ())
    missing = [str(kind) for kind in kinds if not re.search(rf"\b{re.escape(str(kind))}\b", text)]
    known = f" One of {', '.join(map(str, kinds))}." if missing else ""
    negated = "no" if flag.boolean and flag.default else ""
    return _columns(f"  --{negated}{flag.name}{value}", f"{text}{known}")


def _columns(left: str, text: str, margin: int = MARGIN) -> list[str]:
    """A name and what it means, in as many lines as the terminal needs."""
    width = min(max(shutil.get_terminal_size((120, 40)).columns, 60), 120) - 1
    left = f"{left:<{margin - 1}} "
    return textwrap.wrap(text, width, initial_indent=left, subsequent_indent=" " * margin, break_on_hyphens=False)
