"""A GGUF file read once while transformers loads it.

Notable: for most architectures transformers 5 reads the whole header anew for the config and for the weights, and makes
gguf's table of tensor names anew for every submodule (397 times for SmolLM2-135M). Within ``gguf_read_once`` each is
made once, which takes half the time (docs/log.md). Two threads must not be in it at once: it replaces names of a
module. Not here: what is checked before (``runtime.gguf_check``).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

_KEPT = ("GGUFReader", "get_tensor_name_map")


@contextmanager
def gguf_read_once() -> Generator[None, None, None]:
    """For the block, keep what the ``gguf`` package has read of a file, and its tables of names."""
    import gguf

    originals = {name: getattr(gguf, name) for name in _KEPT}
    try:
        for name, original in originals.items():
            setattr(gguf, name, cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)
