"""Lists of images as people and other programs write them."""

import pytest

from detr_jax.errors import UserError
from detr_jax.inference.image_lists import read_image_list


def test_lines_start_from_the_list_or_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    for name in ("lists/a b.jpg", "c.jpg", "d.jpg", "lists/d.jpg"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    lines = ["a b.jpg", "", "  c.jpg ", "d.jpg", "*.jpg", "nowhere.jpg", str(tmp_path / "c.jpg"), "https://a.b/c.jpg"]
    (tmp_path / "lists/one.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    assert read_image_list("lists/one.txt") == [
        "lists/a b.jpg", "c.jpg", "lists/d.jpg", "lists/*.jpg", "nowhere.jpg", str(tmp_path / "c.jpg"),
        "https://a.b/c.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize("content, words", [(b"\n \n", "is empty"), (b"\x89PNG\0\0", "no text"), (None, "cannot be")])
def test_what_is_no_list_is_said(tmp_path, content, words):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_image_list(tmp_path / "list.txt")
