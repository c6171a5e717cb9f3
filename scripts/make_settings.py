"""Writes docs/settings.md, the reference of every setting: ``python scripts/make_settings.py``.

Run it from the root of the checkout after a change of detr_jax/config.py. ``tests/test_docs.py`` fails while the page
is stale.
"""

from pathlib import Path

from detr_jax.config_forms import as_markdown

if __name__ == "__main__":
    Path("docs/settings.md").write_text(as_markdown())
