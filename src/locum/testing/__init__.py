"""Public fakes and pico models: what Locum's own tests use, for the tests of those who build on it."""

from locum.runtime.fake import FakeClassifier, FakeGenerator, fake_spec
from locum.testing.chunks import ChunkGenerator, ChunkStream
from locum.testing.embedder import FakeEmbedder
from locum.testing.pico import LABELS, pico_embedder, pico_linear, pico_onnx, pico_tagger, pico_tokenizer
from locum.testing.upstream import FakeUpstream, Scripted

__all__ = [
    "LABELS",
    "ChunkGenerator",
    "ChunkStream",
    "FakeClassifier",
    "FakeEmbedder",
    "FakeGenerator",
    "FakeUpstream",
    "Scripted",
    "fake_spec",
    "pico_embedder",
    "pico_linear",
    "pico_onnx",
    "pico_tagger",
    "pico_tokenizer",
]
