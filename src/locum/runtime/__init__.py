"""Models that answer, behind one small protocol: linear, ONNX Runtime, llama.cpp, an OpenAI-compatible URL."""

from locum.runtime.completion import Chunk, Completion, CompletionRequest
from locum.runtime.open import open_classifier, open_generator
from locum.runtime.protocol import Classifier, CompletionStream, Embedder, Generator, Scorer, TaggedText, Tagger
from locum.schema.message import Message

__all__ = [
    "Chunk",
    "Classifier",
    "Completion",
    "CompletionRequest",
    "CompletionStream",
    "Embedder",
    "Generator",
    "Message",
    "Scorer",
    "TaggedText",
    "Tagger",
    "open_classifier",
    "open_generator",
]
