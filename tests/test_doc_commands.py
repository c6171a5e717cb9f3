"""Every command line in the documents is understood: program, verb, flags, settings and words of a configuration."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import PAGES, ROOT

# Parses each command in a fork of its own, for flags are global. Says what is wrong with it, or nothing.
PARSE = """
import contextlib, importlib, io, json, os, sys
from absl import flags
from detr_jax import cli, flag_errors
module, told = importlib.import_module(sys.argv[1]), []
for words in json.load(sys.stdin):
    reader, writer = os.pipe()
    if os.fork() == 0:
        text = ""
        try:
            sys.argv[1:] = words  # where ml_collections looks for settings
            module.define_flags()
            flags.DEFINE_bool("debug", False, "")
            if any(word.startswith("--config") for word in words):
                flag_errors.refuse_unknown_settings(words)
            rest = flags.FLAGS(["program", *words])
            if getattr(module, "VERBS", None):
                _, more = cli.choose_verb(rest, module.VERBS)
                cli.refuse_words([word for word in more if "=" not in word])  # NAME=FILE is one
            else:
                cli.refuse_words(rest[1:])
            if "config" in flags.FLAGS and flags.FLAGS.config is not None:
                cli.config()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode()[:2000])
        os._exit(0)
    os.wait()
    os.close(writer)
    told.append(os.read(reader, 4000).decode())
    os.close(reader)
json.dump(told, sys.stdout)
"""


def blocks_of(page: Path) -> list[str]:
    """The blocks of commands of a page: those that name no language, or a shell."""
    blocks, language = [], None
    for line in page.read_text().replace("\\\n", " ").splitlines():
        fence = re.match(r" *```(\w*)", line)
        if fence and language is None:
            language = fence[1]
            blocks.append("")
        elif fence:
            language = None
        elif language in ("", "bash", "sh"):
            blocks[-1] += line + "\n"
    return blocks


def commands_of(page: Path) -> list[tuple[str, list[str]]]:
    """(program, words) of every command in the blocks of a page."""
    found = []
    for line in "".join(blocks_of(page)).splitlines():
        match = re.search(r"(?:python3? -m detr_jax\.|^ *detr_jax )(\w+)(.*)", line)
        if match:
            lexer = shlex.shlex(match[2], posix=True, punctuation_chars=";&|")
            lexer.whitespace_split = True
            words = list(lexer)
            stop = next((i for i, word in enumerate(words) if word[0] in ";&|"), len(words))
            found.append((match[1], [word for word in words[:stop] if word not in ("...", "--help")]))
    return [(program, words) for program, words in found if words]


COMMANDS = [(page, program, words) for page in PAGES for program, words in commands_of(page)]


def test_there_are_many_commands_on_many_pages():
    assert len(COMMANDS) > 40 and len({page for page, _, _ in COMMANDS}) >= 8


@pytest.mark.parametrize("program", sorted({program for _, program, _ in COMMANDS}))
def test_every_command_is_understood(program):
    own = [(page, words) for page, name, words in COMMANDS if name == program]
    done = subprocess.run(
        [sys.executable, "-c", PARSE, f"detr_jax.{program}"],
        input=json.dumps([words for _, words in own]), capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    wrong = [
        f"{page.name}: {program} {shlex.join(words)}\n    {text}"
        for (page, words), text in zip(own, json.loads(done.stdout), strict=True)
        if text
    ]
    assert not wrong, "\n".join(wrong)
