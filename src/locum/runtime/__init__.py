"""Models that answer, behind one small protocol: linear, ONNX Runtime, llama.cpp, an OpenAI-compatible URL."""

from locum.runtime.open import open_classifier, open_generator
from locum.runtime.protocol import Classifier, Completion, CompletionRequest, Generator, Message

__all__ = [
    "Classifier",
    "Completion",
    "CompletionRequest",
    "Generator",
    "Message",
    "open_classifier",
    "open_generator",
]
