"""DETR for JAX: ``detector = detr_jax.load(checkpoint); detections = detector("photo.jpg")``."""

import importlib

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str):
    # On demand, so that importing one module does not import them all.
    if name == "load":
        return importlib.import_module("detr_jax.inference.detector").load
    raise AttributeError(f"module 'detr_jax' has no attribute {name!r}")
