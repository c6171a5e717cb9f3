"""One HTML file that needs nothing else: markup, style and script of a report, its data and its pictures.

A report ``name`` is made of ``pages/name.html``, ``.css`` and ``.js``, after ``pages/page.css`` and ``.js``, which all
reports share. The page may load nothing: its Content-Security-Policy allows no address, and only the style and the
script that stand in it, by their hashes.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "pages"
PICTURE = '<script type="text/plain" id="picture-{key}">data:{kind};base64,{text}</script>'


def build_page(name: str, title: str, data: dict[str, Any], pictures: dict[int, bytes]) -> str:
    """The text of the file.

    Args:
      name: of the report.
      title: of the page; any text.
      data: what the script shows, as plain finite values; any texts.
      pictures: JPEG or WebP files by the number under which the script asks for them.
    """
    style, script = ("\n".join(_read(part, suffix) for part in ("page", name)) for suffix in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "body": _read(name, "html"),
        "data": as_script_text(data),
        "pictures": "\n".join(map(_embed, pictures, pictures.values())),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _read("page", "html"))


def as_script_text(data: dict[str, Any]) -> str:
    """JSON that may stand in a ``script`` element: no text in it can end the element or begin a comment.

    Raises ValueError for NaN and infinity, which are no JSON.
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)  # ASCII: half a surrogate pair is an escape
    return text.replace("<", "\\u003c")


def _embed(key: int, picture: bytes) -> str:
    kind = "image/jpeg" if picture.startswith(b"\xff\xd8") else "image/webp"
    return PICTURE.format(key=key, kind=kind, text=base64.b64encode(picture).decode())


def _read(name: str, suffix: str) -> str:
    return (FOLDER / f"{name}.{suffix}").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
