"""Any text in REPORT.md means only itself."""

import pytest

from detr_jax.evaluation.run_markdown import escape


@pytest.mark.parametrize(
    "text, written",
    [
        ("a | b", "a \\| b"), ("<b>&", "&lt;b&gt;&amp;"), ("$x$", "\\$x\\$"), ("one_two", "one_two"),
        ("_one_", "\\_one\\_"), ("*a* `b`", "\\*a\\* \\`b\\`"), ("[a](b)", "\\[a\\](b)"), ("a\nb\t c", "a b c"),
        ("größe 猫", "größe 猫"), ("# no title", "\\# no title"), ("~~a~~", "\\~\\~a\\~\\~"), ("\\", "\\\\"),
    ],
)  # fmt: skip
def test_markup_is_escaped(text, written):
    assert escape(text) == written
