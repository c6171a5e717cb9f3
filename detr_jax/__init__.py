"""DETR for JAX: ``detector = detr_jax.load(checkpoint); detections = detector("photo.jpg")``."""

import importlib

__version__ = "0.1.0"
__all__ = ["Detections", "UserError", "load"]
_MODULES = {"load": "inference.detector", "Detections": "structures", "UserError": "errors"}


def __getattr__(name: str):
    # On demand, so that importing one module does not import them all.
    if name in _MODULES:
        return getattr(importlib.import_module(f"detr_jax.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'detr_jax' has no attribute {name!r}")
