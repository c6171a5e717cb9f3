"""Writes docs/settings.md, the reference of every setting: ``python scripts/make_settings.py``.

Run it after a change of detr_jax/config.py; ``tests/test_docs.py`` fails while the page is stale.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detr_jax.config_forms import as_markdown  # noqa: E402

if __name__ == "__main__":
    (ROOT / "docs/settings.md").write_text(as_markdown(), encoding="utf-8")
