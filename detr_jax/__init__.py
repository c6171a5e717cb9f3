"""DETR for JAX: ``detector = detr_jax.load(checkpoint); detections = detector("photo.jpg")``."""

import importlib
import os
import signal
import sys

__version__ = "0.1.0"
__all__ = ["Detections", "UserError", "load"]
_MODULES = {"load": "inference.detector", "Detections": "structures", "UserError": "errors"}

_STARTED = sys.argv[:1] == ["-m"] and any(word.partition(".")[0] == "detr_jax" for word in sys.orig_argv[:9])
if _STARTED or os.path.basename("".join(sys.argv[:1])) == "detr_jax":
    # A program starts (python -m detr_jax.train, detr_jax train): its imports take seconds, which Ctrl-C may end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    importlib.import_module("detr_jax.signals").die_in_one_line()


def __getattr__(name: str):
    # On demand, so that importing one module does not import them all.
    if name in _MODULES:
        return getattr(importlib.import_module(f"detr_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'detr_jax' has no attribute {name!r}")
