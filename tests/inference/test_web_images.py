"""Images from a web server that runs in this process."""

import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image

from detr_jax.errors import UserError
from detr_jax.images.decoding import Limits
from detr_jax.inference.web_images import download_images, fetch_image, refuse_web_addresses

NOISE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def encode(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(NOISE).save(file, kind)
    return file.getvalue()


class Answers(http.server.BaseHTTPRequestHandler):
    """/jpeg/..., /png/..., /text, /endless, /away; anything else is not found."""

    def do_GET(self):
        kind = self.path.split("/")[1].partition("?")[0]
        if kind in ("jpeg", "png", "text"):
            content = b"<html>" if kind == "text" else encode(kind.upper())
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "text/html" if kind == "text" else f"image/{kind}")
            self.end_headers()
            self.wfile.write(content)
        elif kind == "endless":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encode("JPEG") * 50)
        elif kind == "away":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/a.jpg")
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


def serve_images():
    """Yields the address of a server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


server = pytest.fixture(serve_images, scope="module")


def test_files_take_the_place_of_addresses(server, tmp_path):
    entries = [f"{server}/jpeg/a.jpg", "photos/", f"{server}/png/a.JPG?size=2", f"{server}/jpeg/", f"{server}/nowhere"]
    entries += [f"{server}/jpeg/a.jpg", f"{server}/png/caf\u00e9%20/..%2Fb"]
    local, refused = download_images(entries, tmp_path / "new")
    names = ["a.jpg", "a.png", "image.jpg", "b.png"]
    assert local == [str(tmp_path / "new" / names[0]), "photos/", *(str(tmp_path / "new" / name) for name in names[1:])]
    assert refused == {f"{server}/nowhere": "it cannot be downloaded (the server answers 404 Not Found)"}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new/a.png")), NOISE)


@pytest.mark.parametrize(
    "path, words",
    [
        ("text", r"what the server sent \(text/html\) cannot be used: .*not an image"),
        ("endless", r"more bytes than the limit of 3,000 \(image_limits\)"),
        ("png/a", r"more bytes than the limit"),
        ("away", "cannot be downloaded .*ftp"),
    ],
)
def test_what_is_refused_is_said(server, path, words):
    limits = Limits(bytes=1000 if path.startswith("png") else 3000)
    with pytest.raises(ValueError, match=words):
        fetch_image(f"{server}/{path}", limits)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.jpg", "http://no such host/a.jpg", "http://", "http://[::1/a"])
def test_unreachable_addresses_are_said(url):
    with pytest.raises(ValueError, match="it cannot be downloaded"):
        fetch_image(url)


def test_more_pixels_than_the_limit_are_refused(server):
    with pytest.raises(ValueError, match="30x20 pixels, more than the limit of 500"):
        fetch_image(f"{server}/jpeg/a.jpg", Limits(pixels=500))


def test_nothing_is_downloaded_unasked():
    refuse_web_addresses(["photos/", "http.jpg"])
    with pytest.raises(UserError, match="https://a.b/c.jpg is a web address.*--download"):
        refuse_web_addresses(["photos/", "https://a.b/c.jpg"])
