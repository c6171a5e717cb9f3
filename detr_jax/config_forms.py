"""Settings in their other forms: dictionaries for JSON, ``ml_collections``, the flags of a message, documentation."""

import dataclasses
import re
import textwrap
import types
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from detr_jax.config import Config, settings
from detr_jax.errors import UserError
from detr_jax.structures import Bucket
from detr_jax.unknown_settings import describe_unknown_setting


def to_dict(config: Any) -> dict:
    """A ``Config`` or one of its groups as nested plain values, which JSON can hold."""

    def plain(value):
        if dataclasses.is_dataclass(value):
            return to_dict(value)
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(values: Mapping, group: Any = Config, prefix: str = "") -> Any:
    """The ``Config`` (or the group of that class) with these values; what is missing has its default.

    Raises UserError for a name that does not exist or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(group)}
    for name in values:
        if name not in fields:
            raise UserError(describe_unknown_setting(prefix + name))
    typed = {}
    for name, value in values.items():
        kind = fields[name].type
        if dataclasses.is_dataclass(kind):
            typed[name] = from_dict(value, kind, f"{prefix}{name}.")
        else:
            typed[name] = _typed(value, kind, prefix + name)
    return group(**typed)


AUTO = "auto"  # canvases that are chosen from the images; in a ``Config`` there are none then
_NUMBERS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def _typed(value: Any, kind: Any, name: str) -> Any:
    """The value as its setting wants it. Raises UserError when it is something else."""
    if isinstance(kind, types.UnionType):  # str | None
        return None if value is None else _typed(value, get_args(kind)[0], name)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if item is Bucket and value in (AUTO, (AUTO,), [AUTO]):
            return ()
        if not isinstance(value, list | tuple):
            raise UserError(f'{name}={value!r} is not a list: write it as {name}="({value!r},)"')
        return tuple(_bucket(one, name) if item is Bucket else _typed(one, item, name) for one in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        return float(value)
    if not isinstance(value, kind) or (kind is int and not number):
        raise UserError(f"{name}={value!r} is not {_NUMBERS[kind]}")
    return value


def _bucket(row: Any, name: str) -> Bucket:
    if not isinstance(row, list | tuple) or len(row) != 3 or any(not isinstance(n, int) or n < 1 for n in row):
        raise UserError(f"{name} has the row {row}; each row is (height, width, target slots), all 1 or more")
    return Bucket(*row)


def to_config_dict(config: Config) -> ConfigDict:
    """The same settings for configs/*.py and the command line. An optional text without a value is a placeholder."""
    nested: dict = {}
    for one in settings(config):
        *groups, name = one.name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        value = tuple(map(tuple, one.value)) if one.kind == tuple[Bucket, ...] else one.value
        place[name] = placeholder(str) if value is None else value
    return ConfigDict(nested)


def from_config_dict(config: ConfigDict) -> Config:
    """The typed settings of a ``ConfigDict``. Raises UserError as ``from_dict``."""
    return from_dict(config.to_dict())


def as_flags(message: str) -> str:
    """A message with the flag in place of each setting that it names: ``--config.optim.lr=2`` for ``optim.lr=2``."""
    names = [one.name for one in settings(Config())]
    grouped = "|".join(re.escape(name) for name in names if "." in name)
    single = "|".join(name for name in names if "." not in name)
    return re.sub(rf"(?<![\w./-])((?:{grouped})\b|(?:{single})(?==))", r"--config.\1", message)


def _shown(value: Any) -> str:
    """A default as the command line takes it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, tuple):
        return str(tuple(map(tuple, value)) if value and isinstance(value[0], Bucket) else value)
    return str(value)


def as_markdown() -> str:
    """The reference of all settings, ``docs/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Change a setting with `--config.NAME=VALUE`, for example `--config.optim.lr=5e-5`. Lists are written like",
        '`--config.data.scales="(240,)"`. The defaults are the published recipe of DETR with a ResNet-50; the words of',
        "`configs/*.py` change some of them. When a run is started again, only settings marked *resumable* may differ.",
        "",
        "This page is made by `python scripts/make_settings.py` from `detr_jax/config.py`.",
    ]
    groups = {"": [Config, "The run as a whole"]}
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.type):
            groups[f"{field.name}."] = [field.type, field.type.__doc__.splitlines()[0].rstrip(".")]
    for prefix, (_, title) in groups.items():
        lines += ["", f"## {prefix.rstrip('.') or 'general'}", "", f"{title}.", ""]
        for one in settings(Config()):
            if one.name.startswith(prefix) and one.name.count(".") == prefix.count("."):
                lines += _entry(one.name, one.kind, one.rule, one.value)
    return "\n".join(lines) + "\n"


def _entry(name: str, kind: Any, rule: Any, default: Any) -> list[str]:
    known = []
    if rule.choices:
        known.append(f"one of {', '.join(choice or 'none' for choice in rule.choices)}")
    if rule.least is not None:
        known.append(f"{rule.least} or more" if rule.most is None else f"{rule.least} to {rule.most}")
    if rule.resumable:
        known.append("*resumable*")
    if rule.length:
        known.append("*resumable* unless the schedule is cosine")
    facts = "; ".join([f"default `{_shown(default)}`", *known])
    return textwrap.wrap(f"- **`{name}`** {rule.meaning} ({facts})", 119, subsequent_indent="  ")
