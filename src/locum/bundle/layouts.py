"""A decoder that writes in the layouts of other tools: a folder for Ollama, a repository for the Hugging Face Hub.

Notable: the weights are the very file that was checked, never converted again. Ollama samples at 0.8 unless told
otherwise; what was checked is greedy, so that is what the folder asks for. On the Hub, the files ``template`` and
``params`` beside a GGUF file say the same to ``ollama run hf.co/…``. Not here: upload, classifiers (a bundle of one is
a repository as it is), how the words of a chat template are found (``turns``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from locum.bundle.turns import Turns, learn_turns
from locum.bundle.verify import verify
from locum.bundle.write import CARD, MANIFEST, MODEL
from locum.core.errors import LocumError, UserError
from locum.core.files import atomic_folder, write_json, write_text
from locum.core.progress import warn
from locum.core.text import visible
from locum.runtime.completion import CompletionRequest
from locum.runtime.gguf_check import check_gguf, require_one_file
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.llamacpp import LlamaGenerator
from locum.runtime.model_files import SPEC_NAME, verify_folder
from locum.runtime.open import open_model, require_purpose
from locum.schema.model import ModelSpec

GGUF_NAME = "model.gguf"
PARITY_NAME = "parity.json"
_CONTEXT = 4096
_RENDER_CONTEXT = 512


@dataclass(frozen=True)
class Writer:
    """A decoder that writes, found and verified.

    Attributes:
        path: its GGUF file.
        spec: its ``model.json``; None for a file alone.
        card: the bundle's model card; None outside a bundle.
        licence: of its base, where a bundle says so.
    """

    path: Path
    spec: ModelSpec | None = None
    card: Path | None = None
    licence: str | None = None

    @property
    def name(self) -> str:
        """As its folder or file is called."""
        return self.spec.name if self.spec else self.path.stem


def find_writer(source: Path) -> Writer:
    """The decoder in a bundle, a model folder, or a GGUF file.

    Raises:
        ModelFileError: the folder or file is refused, or is no model that writes.
        UserError: there is nothing of the kind.
    """
    if source.is_file() and source.suffix == ".gguf":
        require_one_file(source, "a layout for others")
        return Writer(source)
    bundle = (source / MANIFEST).is_file()
    folder = source / MODEL if bundle else source
    if not (folder / SPEC_NAME).is_file():
        raise UserError(
            "bundle-layout",
            f"{source} is no bundle, model folder or GGUF file",
            fix=f"for weights of transformers: locum export {source} --as gguf --out FOLDER",
        )
    manifest = verify(source) if bundle else None
    spec = verify_folder(folder)
    require_purpose(folder, spec, "generate")
    card = source / CARD if bundle else None
    return Writer(folder / spec.weights, spec, card, manifest.licence if manifest else None)


def write_model_folder(writer: Writer, out: Path) -> None:
    """Write the model folder of a bundle by itself, as it is: ``locum serve`` and llama.cpp open its GGUF file.

    Args:
        writer: the decoder, of a bundle or a model folder.
        out: folder; complete or absent, an old one is replaced.

    Raises:
        UserError: it is a GGUF file alone.
    """
    if writer.spec is None:
        raise UserError("bundle-layout", f"{writer.path} is a GGUF file already", fix="copy it")
    with atomic_folder(out) as folder:
        for name in (SPEC_NAME, *writer.spec.files):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(writer.path.parent / name, folder / name)


def write_ollama(writer: Writer, out: Path) -> None:
    """Write ``Modelfile`` and weights: ``ollama create NAME -f Modelfile`` in that folder makes the model.

    Args:
        writer: the decoder.
        out: folder; complete or absent, an old one is replaced.

    Raises:
        LocumError: its chat template has no form in Ollama (``bundle-layout``).
    """
    turns, stops = _how_it_talks(writer)
    lines = [f"FROM ./{GGUF_NAME}", f'TEMPLATE """{turns.go_template()}"""']
    lines += [f"PARAMETER {name} {json.dumps(value)}" for name, value in _parameters(writer, stops)]
    with atomic_folder(out) as folder:
        shutil.copyfile(writer.path, folder / GGUF_NAME)
        write_text(folder / "Modelfile", "\n".join(lines) + "\n")


def write_huggingface(writer: Writer, out: Path) -> None:
    """Write a repository for the Hub: the GGUF file under its format's name, a model card, and Ollama's files.

    Args:
        writer: the decoder.
        out: folder; complete or absent, an old one is replaced.

    Raises:
        LocumError: llama.cpp cannot open the file.
    """
    precision = f"-{writer.spec.precision.upper()}" if writer.spec else ""
    file_name = f"{writer.name.replace('/', '-')}{precision}.gguf"
    with atomic_folder(out) as folder:
        shutil.copyfile(writer.path, folder / file_name)
        _write_for_ollama(writer, folder)
        if writer.card is None:
            write_text(folder / CARD, _card(writer, file_name))
        else:
            shutil.copyfile(writer.card, folder / CARD)
        parity = writer.path.with_name(PARITY_NAME)
        if writer.spec and PARITY_NAME in writer.spec.files:
            shutil.copyfile(parity, folder / PARITY_NAME)


def _write_for_ollama(writer: Writer, folder: Path) -> None:
    """``template`` and ``params``; left out, and said so, when the chat template has no form there."""
    try:
        turns, stops = _how_it_talks(writer)
    except LocumError as problem:
        if problem.code != "bundle-layout":
            raise
        warn(f"without the files for Ollama: {problem.cause}")
        return
    parameters: dict[str, Any] = {}
    for name, value in _parameters(writer, stops):
        parameters[name] = [*parameters.get(name, []), value] if name == "stop" else value
    write_text(folder / "template", turns.go_template())
    write_json(folder / "params", parameters)


def _parameters(writer: Writer, stops: list[str]) -> Iterator[tuple[str, str | int]]:
    yield "temperature", 0
    yield "num_ctx", min(writer.spec.max_tokens if writer.spec else _CONTEXT, _CONTEXT)
    yield from (("stop", stop) for stop in stops)


def _how_it_talks(writer: Writer) -> tuple[Turns, list[str]]:
    """The words around turns, and the texts that end an answer."""
    with _opened(writer.path) as model:
        turns = learn_turns(lambda messages: model.render(CompletionRequest(tuple(messages))), str(writer.path))
        metadata = check_gguf(writer.path).metadata
        ends = {metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")} - {None}
        after = turns.assistant[1] + turns.user[0]
        stops: list[str] = []
        for size in range(1, len(after) + 1):  # the shortest beginning that is one of the tokens
            if model.prompt_tokens(CompletionRequest((), prompt=after[:size]))[-1] in ends:
                stops.append(after[:size].strip())
                break
    return turns, stops


@contextmanager
def _opened(path: Path) -> Generator[LlamaGenerator]:
    model = open_model(path, EngineSettings(n_ctx=_RENDER_CONTEXT, slots=1))
    try:
        yield model
    finally:
        model.close()


def _card(writer: Writer, file_name: str) -> str:
    """A model card from what the folder says; what it does not say is said to be unknown."""
    matter: dict[str, Any] = {
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["locum", "gguf"],
    }
    facts = [f"- parameters: {writer.spec.parameters:,}", f"- format: {writer.spec.precision}"] if writer.spec else []
    parity = writer.path.with_name(PARITY_NAME)
    if writer.spec and PARITY_NAME in writer.spec.files:
        found = json.loads(parity.read_bytes())
        facts.append(
            f"- against the tuned weights in PyTorch, on {found['n']} conversations: a token's log-probability differs "
            f"by {found['mean_gap']:.3f} nats on average, {found['equal_answers']:.0%} of greedy answers are the same"
        )
    facts.append("- licence of the base, training data and quality on a task: not stated in the files it was made from")
    return (
        f"---\n{yaml.safe_dump(matter, sort_keys=False)}---\n\n# {visible(writer.name)}\n\n" + "\n".join(facts) + "\n\n"
        f"## Use\n\n```console\nlocum serve {file_name}\n```\n"
    )
