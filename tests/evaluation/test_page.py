"""A page is one file that asks for nothing, and any text in it stays text."""

import json
import re

import pytest

from detr_jax.evaluation import page
from detr_jax.evaluation.page import as_script_text, build_page

ODD = ["</script><script>alert(1)</script>", "<!--<script>", "{{data}}", "größe 猫 \u2028", "\ud800", '"\\']


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.S)[1])


@pytest.mark.parametrize("odd", ODD)
def test_any_text_comes_back_and_ends_no_element(odd):
    text = as_script_text({odd: [odd, 1.5, None]})
    assert json.loads(text) == {odd: [odd, 1.5, None]} and "<" not in text and text.isascii()


def test_what_is_no_json_is_refused():
    with pytest.raises(ValueError):
        as_script_text({"value": float("nan")})


def test_the_file_holds_everything_and_asks_for_nothing():
    text = build_page("errors", f"a title {ODD[0]}", {"names": ODD, "notes": []}, {3: b"\xff\xd8 a photo", 5: b"RIFF"})
    assert data_of(text)["names"] == ODD
    assert text.count("<script") == 4 and "data:image/jpeg;base64," in text and "data:image/webp;base64," in text
    assert "<title>a title &lt;/script&gt;" in text
    assert "{{" not in re.sub(r'<script[^>]*id="data".*?</script>', "", text, flags=re.S)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text) and "@import" not in text
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_pages_are_part_of_the_package():
    assert {path.suffix for path in page.FOLDER.iterdir()} == {".html", ".css", ".js"}
