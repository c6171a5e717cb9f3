"""Which class of one table each class of another is: by name, also where the names are written differently.

Names that are equal decide first. Of what is left, two names are the same when they differ in nothing but case,
separators (``traffic_light``, ``traffic-light``, ``trafficlight``), accents, the form of their characters, or singular
and plural; and only when neither of them could be another class as well.
"""

import difflib
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from detr_jax.errors import UserError
from detr_jax.structures import Categories

SEPARATORS = ("Zs", "Pd", "Pc", "Cc", "Cf")  # kinds of characters: blanks, dashes, underscores, invisible ones
ACCENTS = re.compile("[\u0300-\u036f]")  # of Latin, Greek and Cyrillic; the marks of other scripts are letters
IRREGULAR = {"person": "people", "man": "men", "child": "children", "mouse": "mice", "goose": "geese"}
IRREGULAR |= {"tooth": "teeth", "foot": "feet", "y": "ies", "f": "ves", "fe": "ves"}  # by their ends
LISTED = 10  # names that a sentence lists

Renamed = Mapping[str, str | None]  # {the detector's name: the dataset's, or None where it has no such class}


class ClassMatches(NamedTuple):
    """What each class of a detector is in a dataset."""

    ids: list[int | None]  # the dataset's category id of each label; None where it has no such class
    respelled: list[tuple[str, str]]  # the detector's name and the dataset's, where they differ
    repeated: list[str]  # names of several classes that ids do not tell apart, in words; they match nothing
    unclear: list[str]  # names that could be several others, in words; they match nothing


def match_classes(own: Categories, others: Categories, renamed: Renamed | None = None) -> ClassMatches:
    """Matches the classes of a detector (``own``) with those of a dataset (``others``).

    What ``renamed`` says comes before everything else. Classes of one name are told apart by their ids, which then must
    be the same in both tables.
    """
    renamed = renamed or {}
    ids: list[int | None] = []
    repeated: dict[str, None] = {}
    for category_id, name in zip(own.ids, own.names, strict=True):
        wanted = renamed.get(name, name)
        ours, theirs = own.ids_of_name(name), [] if wanted is None else others.ids_of_name(wanted)
        if not theirs or (len(theirs) == 1 >= len(ours)):
            ids.append(theirs[0] if theirs else None)
        elif wanted == name and ours == theirs:
            ids.append(category_id)
        else:
            ids.append(None)
            there = f"{wanted!r} is category {_and(theirs)} of the dataset"
            repeated[f"{name!r} is category {_and(ours)} of the detector, {there}"] = None
    pairs, unclear = _match_spellings(own, others, renamed)
    for label, other in pairs:
        ids[label] = others.ids[other]
    respelled = [(own.names[label], others.names[other]) for label, other in pairs]
    return ClassMatches(ids, respelled, list(repeated), unclear)


def _match_spellings(own: Categories, others: Categories, renamed: Renamed) -> tuple[list[tuple[int, int]], list[str]]:
    """(row of ``own``, row of ``others``) that are clearly one class, and in words those of which it is not clear."""
    left = [k for k, name in enumerate(own.names) if name not in renamed and name not in others.names]
    taken = {*own.names, *renamed.values()} - {own.names[k] for k in left}
    free = [k for k, name in enumerate(others.names) if name not in taken]
    by_form: dict[str, set[int]] = {}
    by_plural: dict[str, set[int]] = {}
    for k in free:
        form = fold(others.names[k])
        by_form.setdefault(form, set()).add(k)
        for plural in _plurals(form):
            by_plural.setdefault(plural, set()).add(k)
    candidates: dict[int, list[int]] = {}
    rivals: dict[int, int] = {}
    for k in left:
        if form := fold(own.names[k]):
            found = by_form.get(form, set()) | by_plural.get(form, set())
            found = found.union(*(by_form.get(plural, set()) for plural in _plurals(form)))
            candidates[k] = sorted(found)
            for other in found:
                rivals[other] = rivals.get(other, 0) + 1
    clear = [k for k, found in candidates.items() if len(found) == 1 == rivals[found[0]]]
    unclear = [k for k in candidates if candidates[k] and k not in clear]
    described = {k: " or ".join(f"{others.names[o]!r} (id {others.ids[o]})" for o in candidates[k]) for k in unclear}
    words = [f"{own.names[k]!r} (id {own.ids[k]}) could be {described[k]}" for k in unclear]
    return [(k, candidates[k][0]) for k in clear], words


def fold(name: str) -> str:
    """The name without what spellings differ in, but for the plural; blanks stay between digits, as in ``1 1``."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    text = unicodedata.normalize("NFC", ACCENTS.sub("", text))
    text = "".join(" " if unicodedata.category(sign) in SEPARATORS else sign for sign in text).strip()
    return re.sub(r"(?<!\d) +| +(?!\d)", "", re.sub(" +", " ", text))


def _plurals(form: str) -> set[str]:
    """How the plural of a folded name may be written."""
    ends = {f"{form[: -len(one)]}{many}" for one, many in IRREGULAR.items() if form.endswith(one)}
    hissing = form.endswith(("s", "x", "z", "ch", "sh", "o"))
    return ends | ({f"{form}es"} if hissing else set()) | ({f"{form}s"} if not form.endswith("s") else set())


def read_class_map(path: str | None, own: Categories, others: Categories) -> Renamed:
    """The file of ``class_map``: {the detector's name: the dataset's name, or null where it has no such class}.

    Raises UserError when it cannot be read, or names a class that does not exist: a typo would cost AP unnoticed.
    """
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--class_map={path} cannot be read as JSON: {error}") from error
    if not isinstance(table, dict) or not all(name is None or isinstance(name, str) for name in table.values()):
        raise UserError(f'--class_map={path} must hold an object like {{"detector\'s name": "dataset\'s name"}}')
    names = [(name, own, "detector") for name in table] + [(name, others, "dataset") for name in table.values()]
    for name, known, whose in names:
        if name is not None and name not in known.names:
            raise UserError(f"--class_map names {name!r}, which is no class of the {whose} ({_some(known.names, '')})")
    return table


def require_match(matches: ClassMatches, own: Categories, others: Categories) -> None:
    """Raises UserError when nothing matches, or when ids do not tell classes of one name apart."""
    if matches.repeated:
        raise UserError(
            f"classes cannot be matched by name: {matches.repeated[0]}; give the dataset's classes names of their own"
        )
    if all(category_id is None for category_id in matches.ids):
        raise UserError(
            f"the detector's classes ({_some(own.names, '')}) and the dataset's ({_some(others.names, '')}) have no "
            "name in common; " + _advise(own.names, others.names)
        )


def describe_matches(matches: ClassMatches, own: Categories, others: Categories, dataset: str) -> list[str]:
    """Sentences about everything but equal names."""
    said = []
    if matches.respelled:
        pairs = [f"{one} = {other}" for one, other in matches.respelled]
        said.append(f"classes matched though their names differ: {_some(pairs)}")
    if matches.unclear:
        said.append(f"not clear, so not matched: {_some(matches.unclear)}; say which in --class_map=FILE.json")
    strange = [name for name, found in zip(own.names, matches.ids, strict=True) if found is None]
    if strange:
        said.append(
            f"{len(strange)} of the detector's {len(own.ids)} classes are not in {dataset}, and their detections do "
            f"not count: {_some(strange)}"
        )
    known = {*matches.ids}
    unknown = [name for category_id, name in zip(others.ids, others.names, strict=True) if category_id not in known]
    if unknown:
        advice = f"; {_advise(strange, unknown)}" if strange else ""
        said.append(
            f"{len(unknown)} of the {len(others.ids)} classes of {dataset} are not among the detector's, and their "
            f"objects count as missed: {_some(unknown)}{advice}"
        )
    return said


def _advise(own: tuple | list, others: tuple | list) -> str:
    """What to type, with the names that look most alike."""
    alike = {}
    for name in own:
        close = difflib.get_close_matches(name.casefold(), [other.casefold() for other in others], n=1)
        alike |= {name: next(other for other in others if other.casefold() == close[0])} if close else {}
    example = dict(list(alike.items())[:3]) or {own[0]: others[0]}
    return f"if some are the same, pass --class_map=FILE.json such as {json.dumps(example, ensure_ascii=False)}"


def _some(names: tuple | list, more: str = "and {} more") -> str:
    shown = ", ".join(map(str, names[:LISTED]))
    rest = len(names) - LISTED
    return shown + ((f" {more.format(rest)}" if more else ", ...") if rest > 0 else "")


def _and(ids: list[int]) -> str:
    return " and ".join(map(str, ids))
