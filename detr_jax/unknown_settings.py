"""A setting that does not exist: which one was meant."""

from detr_jax.config import Config, settings
from detr_jax.spelling import nearest_name


def nearest_setting(name: str) -> str | None:
    """The setting, or group of settings, that is meant; it may be without its group, in another one, or mistyped."""
    names = [one.name for one in settings(Config())]
    groups = [one.partition(".")[0] for one in names if "." not in name]
    meant = {one: one for one in [*groups, *names]}
    meant |= {one.replace("lr", "learning_rate"): one for one in names}
    meant |= {typed.rpartition(".")[2]: one for typed, one in meant.items() if "." in one}
    last = name.rpartition(".")[2]
    return meant.get(name) or meant.get(last) or meant.get(nearest_name(name, meant))


def describe_unknown_setting(name: str) -> str:
    """The sentence for a setting that does not exist."""
    if near := nearest_setting(name):
        return f"there is no setting {name}; did you mean {near}?"
    names = [one.name for one in settings(Config())]
    group = name.rpartition(".")[0]
    there = [one for one in names if one.rpartition(".")[0] == group]
    if not there or not group:
        there = list(dict.fromkeys(f"{one.partition('.')[0]}.*" if "." in one else one for one in names))
    return f"there is no setting {name}; choose from {', '.join(there)}"
