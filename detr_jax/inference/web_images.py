"""Images at web addresses, downloaded to files."""

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from detr_jax import files
from detr_jax.errors import UserError
from detr_jax.images.decoding import LIMITS, Limits, probe

SECONDS = 30.0  # without a byte, after which a server is given up
LONGEST_NAME = 100  # characters of a file's name
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm"}
HANDLERS = (  # no other scheme than these two, even where a server sends us on
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)


def is_web_address(entry: str) -> bool:
    """Whether it starts with http:// or https://."""
    return entry.lower().startswith(("http://", "https://"))


def refuse_web_addresses(entries: list[str]) -> None:
    """Raises UserError when there is a web address among the entries."""
    for entry in entries:
        if is_web_address(entry):
            raise UserError(f"{entry} is a web address, and nothing is downloaded unasked: add --download to fetch it")


def download_images(entries: list[str], folder: Path, limits: Limits = LIMITS) -> tuple[list[str], dict[str, str]]:
    """The entries with a file in ``folder`` in the place of each web address, and which were refused, with the reason.

    A file is called as the address ends, with the suffix of its format. Files of earlier downloads are replaced.

    Args:
      limits: how large an image may be; no more bytes are read.
    """
    local, refused, names = [], {}, set()
    for entry in dict.fromkeys(entries):
        if not is_web_address(entry):
            local.append(entry)
            continue
        try:
            content = fetch_image(entry, limits)
        except ValueError as error:
            refused[entry] = str(error)
            continue
        place = folder / _name_file(entry, SUFFIX[probe(content, limits).format], names)
        with files.replacing(place) as path:
            path.write_bytes(content)
        local.append(str(place))
    return local, refused


def fetch_image(url: str, limits: Limits = LIMITS) -> bytes:
    """The image file at a web address. Raises ValueError, which says why there is none."""
    opener = urllib.request.OpenerDirector()
    for handler in HANDLERS:
        opener.add_handler(handler())
    address = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "detr_jax"})
        with opener.open(request, timeout=SECONDS) as answer:
            stated = answer.headers.get("Content-Length", "")
            content = b"" if stated.isdecimal() and int(stated) > limits.bytes else answer.read(limits.bytes + 1)
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        raise ValueError(f"it cannot be downloaded (the server answers {error.code} {error.reason})") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        reason = getattr(reason, "strerror", None) or reason
        raise ValueError(f"it cannot be downloaded ({str(reason) or type(error).__name__})") from error
    if not content and stated not in ("", "0") or len(content) > limits.bytes:
        raise ValueError(f"it has more bytes than the limit of {limits.bytes:,} (image_limits)")
    try:
        probe(content, limits)
    except ValueError as error:
        raise ValueError(f"what the server sent ({kind}) cannot be used: {error}") from error
    return content


def _name_file(url: str, suffix: str, taken: set[str]) -> str:
    """A name that no other file of this run has, whatever the case; it is added to ``taken``."""
    base = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])
    stem = re.sub(r"[^\w\-. ]", "_", Path(base).stem).strip(" .")[:LONGEST_NAME] or "image"
    name, number = f"{stem}{suffix}", 2
    while name.casefold() in taken:
        name, number = f"{stem}_{number}{suffix}", number + 1
    taken.add(name.casefold())
    return name
