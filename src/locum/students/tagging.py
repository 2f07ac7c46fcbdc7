"""``TaggingStudent``: a token classifier that answers with spans.

Notable: a text of any length is read in windows (``runtime.windows``), and the answer is the JSON list of
``tasks.tag``. An answer is right when all of its spans are and none is missing, so its features look at the weakest
place: the least sure span, the least margin of a token, and how probable a span is where none was found. Not here:
how tags become spans (``tasks.bio``), the confidence (``students.confidence``).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from locum.core.errors import ModelFileError
from locum.runtime.onnx_tagger import OnnxTagger
from locum.runtime.protocol import TaggedText, Tagger
from locum.runtime.windows import tag_whole
from locum.schema.model import ModelSpec
from locum.schema.task import Task
from locum.students.protocol import Draft, Drafter
from locum.tasks import open_kind
from locum.tasks.bio import BioTags, Reading
from locum.tasks.protocol import TaskKind
from locum.tasks.tag import write_spans


def open_tagging(folder: Path, spec: ModelSpec, task: Task, threads: int) -> Drafter:
    """Open a token classifier of a folder that was verified.

    Raises:
        ModelFileError: the file is damaged, or does not fit its tokenizer or tags; the tags are no BIO tags.
    """
    try:
        tags = BioTags(spec.labels)
    except ValueError as problem:
        raise ModelFileError("runtime-mismatch", str(problem), where=str(folder), fix="export it again") from problem
    return TaggingStudent(OnnxTagger(folder, spec, threads=threads), tags, open_kind(task, spec.labels))


class TaggingStudent:
    """A token classifier.

    Args:
        tagger: the engine, open; the student closes it.
        tags: its tags, in the order of its scores.
        kind: the task.
    """

    def __init__(self, tagger: Tagger, tags: BioTags, kind: TaskKind) -> None:
        self._tagger = tagger
        self._tags = tags
        self._kind = kind

    @property
    def spec(self) -> ModelSpec:
        """What is served."""
        return self._tagger.spec

    def draft(self, texts: Sequence[str]) -> list[Draft]:
        """Spans of each text in order; no answer where the scores are no numbers.

        Raises:
            LocumError: the model is closed, or the engine failed.
        """
        start_s = time.perf_counter()
        drafts = [self._one(text, tagged) for text, tagged in zip(texts, tag_whole(self._tagger, texts), strict=True)]
        each_s = (time.perf_counter() - start_s) / max(1, len(texts))
        return [replace(draft, seconds=each_s) for draft in drafts]

    def close(self) -> None:
        """Close the engine."""
        self._tagger.close()

    def _one(self, text: str, tagged: TaggedText) -> Draft:
        tokens = len(tagged.spans)
        if not np.isfinite(tagged.logits).all():
            return Draft(None, input_tokens=tokens)
        reading = self._tags.read(text, tagged.spans, tagged.logits)
        output = write_spans(found.span for found in reading.spans)
        features = {**reading_features(reading, self._tags), **self._kind.features(text, output)}
        features |= {"truncated": float(tagged.truncated)}
        return Draft(output, features, input_tokens=tokens, truncated_tokens=tagged.dropped)


def reading_features(reading: Reading, tags: BioTags) -> dict[str, float]:
    """Numbers about an answer for its confidence; without a span, or a token, nothing is doubtful there.

    Returns:
        ``span_min``, ``span_mean``: of the spans' probabilities; ``logprob``: of the whole sequence of tags, natural
        logarithm; ``margin_min``: least lead of a token's tag over the next; ``entropy_max``: of a token's tags, nats;
        ``doubt_max``, ``doubt_sum``: probability of anything else where a token is outside; ``tokens_log``.
    """
    chances, tokens = reading.probabilities, len(reading.tags)
    features = {"tokens_log": float(np.log1p(tokens)), "span_min": 1.0, "span_mean": 1.0, "logprob": 0.0}
    features |= {"margin_min": 1.0, "entropy_max": 0.0, "doubt_max": 0.0, "doubt_sum": 0.0}
    if reading.spans:
        sure = [found.probability for found in reading.spans]
        features |= {"span_min": min(sure), "span_mean": float(np.mean(sure))}
    if tokens:
        chosen = chances[np.arange(tokens), reading.tags]
        others = chances.copy()
        others[np.arange(tokens), reading.tags] = 0.0
        logs = np.log(np.maximum(chances, 1e-30))
        doubt = np.where(reading.tags == tags.outside, 1 - chosen, 0.0)
        features |= {
            "logprob": float(np.log(np.maximum(chosen, 1e-30)).sum()),
            "margin_min": float((chosen - others.max(axis=1)).min()),
            "entropy_max": float(-(chances * logs).sum(axis=1).min()),
            "doubt_max": float(doubt.max()),
            "doubt_sum": float(doubt.sum()),
        }
    return features
