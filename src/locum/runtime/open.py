"""Opens a model by what its folder or task file says; no caller names an engine.

Notable: engines are loaded only when a model needs them. A folder is verified, hash by hash, before an
engine sees a byte of it. Not here: bundles, which hold such a folder (``bundle``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from locum.core.errors import ModelFileError, UserError
from locum.core.registry import Registry
from locum.runtime.engines import require_runnable
from locum.runtime.llama_settings import EngineSettings
from locum.runtime.model_files import verify_folder
from locum.runtime.protocol import Classifier, Embedder, Generator, Tagger
from locum.schema.model import EngineName, ModelSpec, Purpose
from locum.schema.task import LlmSpec

if TYPE_CHECKING:
    from locum.runtime.llamacpp import LlamaGenerator

ENGINES = Registry(
    "engine",
    {
        "linear": "locum.runtime.linear:LinearClassifier",
        "onnx": "locum.runtime.onnx:OnnxClassifier",
        "llamacpp": "locum.runtime.llama_embed:LlamaClassifier",
        "openvino": "locum.runtime.openvino:OpenVinoClassifier",
    },
)


TEXT_ENGINES: tuple[EngineName, ...] = ("llamacpp", "openvino")
"""Engines that write text from a GGUF file, the default first."""


def open_classifier(folder: Path, *, threads: int | None = None, engine: str | None = None) -> Classifier:
    """Open a model folder.

    Args:
        folder: holds ``model.json`` and the files it names.
        threads: CPU threads; None takes the cores this process may use.
        engine: who is to run it; None takes the one that its ``model.json`` names.

    Returns:
        The classifier; ``close`` it when done.

    Raises:
        ModelFileError: the folder is refused (a hash differs, a file is missing, unsafe, damaged or
            unsupported, parts do not fit), or is no classifier.
        UserError: the engine cannot run it, or is not installed.
    """
    spec = verify_folder(folder)
    require_purpose(folder, spec, "classify")
    chosen = spec.engine if engine is None else require_runnable(spec, engine)
    return ENGINES.load(chosen)(folder, spec, threads=threads)


def open_onnx_embedder(folder: Path, *, threads: int | None = None) -> Embedder:
    """Open an embedding model folder, as ``locum export NAME --as embedder`` writes it.

    Raises:
        ModelFileError: the folder is refused, or is no embedding model.
    """
    from locum.runtime.onnx_embedder import OnnxEmbedder

    spec = verify_folder(folder)
    require_purpose(folder, spec, "embed")
    return OnnxEmbedder(folder, spec, threads=threads)


def open_tagger(folder: Path, *, threads: int | None = None) -> Tagger:
    """Open the folder of a token classifier.

    Raises:
        ModelFileError: the folder is refused, or is no token classifier.
    """
    from locum.runtime.onnx_tagger import OnnxTagger

    spec = verify_folder(folder)
    require_purpose(folder, spec, "tag")
    return OnnxTagger(folder, spec, threads=threads)


def require_purpose(folder: Path, spec: ModelSpec, purpose: Purpose) -> None:
    """Refuse a model that is for something else.

    Raises:
        ModelFileError: ``runtime-purpose``.
    """
    if spec.purpose != purpose:
        raise ModelFileError(
            "runtime-purpose", f"{spec.name} is there to {spec.purpose}, not to {purpose}", where=str(folder)
        )


def open_embedder(path: Path, *, threads: int | None = None) -> Embedder:
    """Open an embedding model: a GGUF file, or a folder as ``open_onnx_embedder`` takes it.

    Raises:
        ModelFileError: the file or folder is refused.
    """
    if path.suffix != ".gguf":
        return open_onnx_embedder(path, threads=threads)
    from locum.runtime.llama_embed import LlamaEmbedder

    return LlamaEmbedder(path, settings=EngineSettings(threads=threads))


def open_model(path: Path, settings: EngineSettings | None = None) -> LlamaGenerator:
    """Open a GGUF file that writes text: a ``Generator`` that is a ``Scorer`` too.

    Args:
        path: the file.
        settings: how llama.cpp serves it.

    Returns:
        The model; ``close`` it when done. Its process starts with the first request, or with ``start``.

    Raises:
        ModelFileError: the file is damaged, hostile or unsupported.
        UserError: ``settings.server_binary`` is no program.
    """
    from locum.runtime.llamacpp import LlamaGenerator

    return LlamaGenerator(path, settings)


def open_text(path: Path, settings: EngineSettings, engine: str | None = None) -> Generator:
    """Open a GGUF file that writes text, with an engine by its name.

    Args:
        path: the file.
        settings: how to serve it.
        engine: llamacpp, which None stands for, or openvino.

    Returns:
        The generator; ``close`` it when done. Its process starts with the first request.

    Raises:
        ModelFileError: the file is damaged, hostile or unsupported.
        UserError: the engine cannot run it, is not installed, or has not what the settings ask for.
    """
    if engine in (None, "llamacpp"):
        return open_model(path, settings)
    _require_able(engine, TEXT_ENGINES, "a GGUF file")
    from locum.runtime.openvino_generator import OpenVinoGenerator

    return OpenVinoGenerator(path, settings)


def _require_able(engine: str | None, able: tuple[str, ...], what: str) -> None:
    if engine is not None and engine not in able:
        fix = f"it can be run by: {', '.join(able)}"
        raise UserError("runtime-engine", f"engine {engine!r} cannot run {what}", fix=fix)


def open_generator(
    llm: LlmSpec,
    *,
    threads: int | None = None,
    n_ctx: int | None = None,
    settings: EngineSettings | None = None,
    engine: str | None = None,
) -> Generator:
    """Open the LLM of a task: behind its URL, or a local GGUF file.

    Args:
        llm: the ``llm`` section of a task file; without ``base_url``, ``model`` is a GGUF file or a catalogue name,
            which is downloaded when it is not here.
        threads: CPU threads for a local file; None takes those of ``settings``, or the cores this process may use.
        n_ctx: context of a local file, in tokens; None takes that of ``settings``.
        settings: how llama.cpp serves a local file; its ``timeout_s`` is the task's.
        engine: who runs it: llamacpp (a local file's default), openvino (local files), or openai (URLs).

    Returns:
        The generator; ``close`` it when done. Nothing is sent, and no process started, before it is asked.

    Raises:
        UpstreamError: the URL may not be used, or the key's environment variable is not set.
        ModelFileError: the GGUF file is damaged, hostile or unsupported.
        SourceError: there is neither a URL nor such a file.
        UserError: the engine cannot run it, or is not installed.
    """
    if llm.base_url is None:
        _require_able(engine, TEXT_ENGINES, "a GGUF file")
    else:
        _require_able(engine, ("openai",), "a model behind a URL")
        from locum.runtime.openai import OpenAiGenerator

        return OpenAiGenerator(llm)
    from locum.sources.bases import ensure_base

    path = ensure_base(Path(llm.model).expanduser() if Path(llm.model).suffix == ".gguf" else llm.model, format="gguf")
    if not path.is_file():
        raise UserError(
            "source-not-a-base",
            f"llm.model {llm.model!r} is not one GGUF file, and there is no llm.base_url",
            fix="give llm.base_url, the path of a GGUF file, or a name that `locum models` lists with gguf",
        )
    settings = settings or EngineSettings()
    settings = replace(
        settings, threads=threads or settings.threads, n_ctx=n_ctx or settings.n_ctx, timeout_s=llm.timeout_s
    )
    return open_text(path, settings, engine)
