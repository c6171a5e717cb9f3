"""What libtiff says of a TIFF while Pillow decodes it.

libtiff prints an error and goes on with what it has, and Pillow returns that as the image: a damaged fax is garbage
without a word. Here such errors are heard instead of printed, where Pillow's libtiff can be reached: not on Windows.
"""

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator

from PIL import Image

HARMLESS = b"TIFFFetch"  # the functions that read tags; without those that matter, Pillow raises an error
_lock = threading.Lock()
_thread = threading.local()  # errors: a list while they are heard
_others: list[Callable] = []  # the handler of everybody else, once ours is set


@contextlib.contextmanager
def hear_errors() -> Iterator[list[str]]:
    """Collects where in libtiff this thread meets errors; nothing of them is printed."""
    _set_handler()
    _thread.errors = errors = []
    try:
        yield errors
    finally:
        _thread.errors = None


@ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
def _handle(function: bytes | None, text: bytes | None, values: int | None) -> None:
    errors = getattr(_thread, "errors", None)
    if errors is None:
        _others[0](function, text, values)
    elif not (function or b"").startswith(HARMLESS):
        errors.append((function or b"").decode(errors="replace"))


def _set_handler() -> None:
    """Sets the handler of this process, once. It passes on what nobody here wants to hear."""
    with _lock, contextlib.suppress(OSError, AttributeError):  # a library without this function
        if not _others:
            set_handler = ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler
            set_handler.argtypes, set_handler.restype = [type(_handle)], ctypes.c_void_p
            former = set_handler(_handle)
            _others.append(type(_handle)(former) if former else lambda *said: None)
