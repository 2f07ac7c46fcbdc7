"""Locum builds, proves, serves and audits small language models that stand in for a large one.

    import locum
    run = locum.build("task.yaml", out="runs/banking77")
    locum.eval(run.bundle, frame)      # a file, a DataFrame, a list of dicts; locum.certify and locum.predict too
    student = locum.open("runs/banking77/bundle")
    student("My card never arrived")   # Answer(output='card_arrival', confidence=0.97, route='local')

Notable: importing this loads neither PyTorch nor ONNX Runtime; each name is imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from locum.bundle.student import open_bundle as open
    from locum.pipeline.build import build
    from locum.pipeline.given import certify, predict
    from locum.pipeline.given import evaluate as eval
    from locum.schema.certificate import Answer

__version__ = "0.1.0"
__all__ = ["Answer", "__version__", "build", "certify", "eval", "open", "predict"]

_LAZY = {
    "build": "locum.pipeline.build:build",
    "certify": "locum.pipeline.given:certify",
    "eval": "locum.pipeline.given:evaluate",
    "predict": "locum.pipeline.given:predict",
    "open": "locum.bundle.student:open_bundle",
    "Answer": "locum.schema.certificate:Answer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'locum' has no attribute {name!r}")
    import importlib

    module, _, attribute = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
