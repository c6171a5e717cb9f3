"""Which class of a dataset each class of a detector is: by name, never by a name that is not clear."""

import json

import pytest

from detr_jax.class_names import describe_matches, fold, match_classes, read_class_map, require_match
from detr_jax.errors import UserError
from detr_jax.structures import Categories

TWICE = Categories((1, 2, 5), ("cat", "dog", "cat"))
ONCE = Categories((4, 7), ("cat", "dog"))


def table(*names):
    return Categories(tuple(range(10, 10 + len(names))), names)


def matched(own, others, renamed=None):
    """Names of ``others``, for each of ``own``."""
    own, others = table(*own), table(*others)
    names = dict(zip(others.ids, others.names, strict=True)) | {None: None}
    return [names[found] for found in match_classes(own, others, renamed).ids]


def test_names_decide():
    assert match_classes(ONCE, Categories((9, 3), ("dog", "emu"))).ids == [None, 9]
    renamed = {"cat": "emu", "dog": "emu"}
    assert match_classes(ONCE, Categories((9, 3), ("dog", "emu")), renamed).ids == [3, 3]
    with pytest.raises(UserError, match="have no name in common.*--class_map"):
        require_match(match_classes(ONCE, table("emu")), ONCE, table("emu"))


def test_classes_of_one_name_are_told_apart_by_their_ids():
    assert match_classes(TWICE, TWICE).ids == [1, 2, 5]
    assert match_classes(TWICE, Categories((2,), ("dog",))).ids == [None, 2, None]


@pytest.mark.parametrize(
    ("own", "others", "renamed", "words"),
    [
        (TWICE, ONCE, {}, "'cat' is category 1 and 5 of the detector, 'cat' is category 4 of the dataset"),
        (ONCE, TWICE, {}, "'cat' is category 4 of the detector, 'cat' is category 1 and 5 of the dataset"),
        (ONCE, TWICE, {"dog": "cat"}, "'cat' is category 1 and 5 of the dataset"),
        (TWICE, Categories((1, 6), ("cat", "cat")), {}, "1 and 5 of the detector, 'cat' is category 1 and 6"),
    ],
)
def test_classes_of_one_name_that_ids_do_not_tell_apart_are_refused(own, others, renamed, words):
    with pytest.raises(UserError, match=words):
        require_match(match_classes(own, others, renamed), own, others)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"),
        ("cats", "Cat"),
        ("box", "boxes"),
        ("knife", "knives"),
        ("berry", "Berries"),
        ("person", "People"),
        ("fireman", "firemen"),
        ("bus", "buses"),
        ("glass", "glasses"),
        ("traffic light", "Traffic_Lights"),
        ("tvmonitor", "TV-monitor"),
        ("hot dog", "hotdog"),
        ("potted plant", "potted\u2010plant"),
        ("café", "cafe\u0301"),
        ("café", "Cafe"),
        ("Straße", "STRASSE"),
        ("ｃａｔ", "cat"),
        ("cat\u200b", "cat "),
        ("No. 1-1", "no. 1 1"),
    ],
)
def test_spellings_of_one_name(one, other):
    for own, others in ((one, other), (other, one)):
        assert matched([own, "zebra"], ["emu", others]) == [others, None]
        assert match_classes(table(own), table(others)).respelled == [(own, others)]


@pytest.mark.parametrize(
    ("one", "other"),
    [("C++", "C#"), ("1-1", "11"), ("cat", "bat"), ("cat", "cattle"), ("--", "_"), ("", " "), ("glass", "glas"),
     ("か", "が"), ("कुल", "कल"), ("3.5", "35"), ("men", "women")],
)  # fmt: skip
def test_names_that_differ(one, other):
    assert matched([one], [other]) == matched([other], [one]) == [None]


def test_equal_names_come_first():
    assert matched(["cat", "cats", "Cat"], ["cats", "cat"]) == ["cat", "cats", None]
    assert matched(["Cats"], ["cat", "cats", "dog"]) == [None]  # either could be meant


def test_what_is_not_clear_is_said_and_not_matched():
    matches = match_classes(table("Cat", "dog"), table("cat", "cats", "dog"))
    assert matches.ids == [None, 12] and matches.unclear == ["'Cat' (id 10) could be 'cat' (id 10) or 'cats' (id 11)"]
    both = match_classes(table("Cat", "CAT", "dog"), table("cat", "dog"))
    assert both.ids == [None, None, 11] and len(both.unclear) == 2
    assert match_classes(table("Cat"), Categories((1, 2), ("cat", "cat"))).ids == [None]


def test_the_class_map_decides():
    assert matched(["Cat", "dog"], ["cat", "cats"], {"Cat": "cats"}) == ["cats", None]
    assert matched(["Cat", "tom"], ["cat"], {"tom": "cat"}) == [None, "cat"]  # taken
    assert matched(["cat", "dog"], ["cat", "dogs"], {"cat": None}) == [None, "dogs"]


def test_everything_but_equal_names_is_said():
    own, others = table("Cat", "motorbike", "emu"), table("cats", "motorcycle", "sofa")
    said = describe_matches(match_classes(own, others), own, others, "zoo")
    assert said[0] == "classes matched though their names differ: Cat = cats"
    assert "2 of the detector's 3 classes are not in zoo" in said[1] and "motorbike, emu" in said[1]
    assert "2 of the 3 classes of zoo" in said[2] and '{"motorbike": "motorcycle"}' in said[2]
    assert describe_matches(match_classes(ONCE, ONCE), ONCE, ONCE, "zoo") == []


def test_many_names_make_a_short_sentence():
    own, others = table(*map(str, range(1000))), table("0")
    (said,) = describe_matches(match_classes(own, others), own, others, "zoo")
    assert said.endswith("10 and 989 more") and "999 of the detector's 1000" in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat = dog", "cannot be read as JSON"),
        ('["cat"]', "must hold an object"),
        ('{"cat": 3}', "must hold an object"),
        ('{"kat": "dog"}', "'kat', which is no class of the detector"),
        ('{"cat": "hound"}', "'hound', which is no class of the dataset"),
    ],
)
def test_a_class_map_that_cannot_be_meant(text, words, tmp_path):
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(UserError, match=words):
        read_class_map(str(tmp_path / "map.json"), ONCE, ONCE)


def test_a_class_map(tmp_path):
    (tmp_path / "map.json").write_text(json.dumps({"cat": "dog", "dog": None}))
    assert read_class_map(str(tmp_path / "map.json"), ONCE, ONCE) == {"cat": "dog", "dog": None}
    assert read_class_map(None, ONCE, ONCE) == {}


def test_folding_is_stable():
    for name in ("Traffic_Light", "Straße", "ﬁne", "İstanbul", "1 - 1 a 2"):
        assert fold(fold(name)) == fold(name)
