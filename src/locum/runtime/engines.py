"""The engines of this installation: what each runs, whether it is here, in which version and build, and why not.

Notable: nothing heavy is imported to find out. What llama.cpp's package was compiled for is asked of the package
itself, in a process of its own, because a build for another processor dies of an illegal instruction when it is
loaded. Not here: which engine is the fastest (``evaluate.engines``), what the processor is (``fit.device``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from locum.core.environment import without_secrets
from locum.core.errors import UserError
from locum.core.extras import install_command
from locum.core.registry import nearest
from locum.runtime.llama_settings import SERVER_VARIABLE
from locum.schema.model import EngineName, ModelSpec

_ASK_S = 10.0
_ASK_LLAMA = "import xllamacpp; print(xllamacpp.get_system_info())"

# instruction set → the word for it in llama.cpp's build flags
_LLAMA_FLAGS = {
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "avx_vnni": "AVX_VNNI",
    "amx_int8": "AMX_INT8",
}

_PACKAGES: dict[EngineName, str] = {
    "linear": "numpy",
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "llamacpp": "xllamacpp",
}
# engines that can run an artefact made for another; the artefact's own comes first
_ALSO: dict[EngineName, tuple[EngineName, ...]] = {"onnx": ("openvino",), "openvino": ("onnx",)}


@dataclass(frozen=True)
class EngineStatus:
    """One engine.

    Attributes:
        runs: what it is for.
        needed: whether a base install must have it.
        available: whether it can be used now.
        reason: why not, or a remark.
        version: of its package; None when it is not installed.
        build: flags that it was compiled with, as far as it says.
        advice: what would make it faster here.
    """

    name: str
    runs: str
    needed: bool
    available: bool
    reason: str = ""
    version: str | None = None
    build: tuple[str, ...] = ()
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**asdict(self), "build": list(self.build)}


def engine_statuses(instructions: Collection[str] | None = None) -> list[EngineStatus]:
    """Every engine that Locum knows, in a second or so.

    Args:
        instructions: instruction sets of the processor, for advice; None when they are not known.
    """
    return [
        _packaged("linear", "scikit-learn's linear models, in NumPy", "numpy", needed=True),
        _packaged(
            "onnx", "encoders and classifying decoders (ONNX): labels, tags, vectors", "onnxruntime", needed=True
        ),
        _llamacpp(instructions or ()),
        _openvino(),
        _packaged("openai", "the LLM, or any model behind a URL", "httpx", needed=True),
    ]


def engines_for(spec: ModelSpec) -> tuple[EngineName, ...]:
    """Engines that can run a model folder, its own first; whether they are installed is not asked."""
    return (spec.engine, *(_ALSO.get(spec.engine, ()) if spec.purpose == "classify" else ()))


def is_installed(engine: EngineName) -> bool:
    """Whether an engine's package is here."""
    return util.find_spec(_PACKAGES[engine]) is not None


def version_of(engine: EngineName) -> str | None:
    """The version of an engine's package; None when it is not installed."""
    return _version(_PACKAGES[engine])


def text_version_of(engine: EngineName) -> str | None:
    """The version of what writes text for an engine; a ``llama-server`` is known by its path, size and date."""
    server = os.environ.get(SERVER_VARIABLE) if engine == "llamacpp" else None
    found = shutil.which(server) if server else None
    if found is not None:
        facts = Path(found).stat()
        return f"{found} {facts.st_size} {facts.st_mtime_ns}"
    return _version("openvino-genai") if engine == "openvino" else version_of(engine)


def require_runnable(spec: ModelSpec, engine: str) -> EngineName:
    """Refuse an engine that cannot run a model folder.

    Raises:
        UserError: ``runtime-engine``.
    """
    able = engines_for(spec)
    for name in able:
        if name == engine:
            return name
    close = nearest(engine, able)
    known = f"did you mean {close!r}?" if close else f"it can be run by: {', '.join(able)}"
    raise UserError("runtime-engine", f"engine {engine!r} cannot run {spec.name}, a model for {spec.engine}", fix=known)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _packaged(name: str, runs: str, package: str, *, needed: bool) -> EngineStatus:
    version = _version(package)
    reason = "" if version else f"{package} is not installed; {install_command()}"
    return EngineStatus(name, runs, needed, version is not None, reason, version)


def _openvino() -> EngineStatus:
    runs = "the same ONNX folders, and GGUF files where asked (--engine openvino or auto)"
    version, genai = _version("openvino"), _version("openvino-genai")
    if version is None:
        return EngineStatus("openvino", runs, False, False, f"optional; {install_command('openvino')}")
    reason = "" if genai else "openvino-genai is not installed, so it classifies and does not write text"
    build = () if genai is None else (f"genai {genai}",)
    return EngineStatus("openvino", runs, False, True, reason, version, build)


def _llamacpp(instructions: Collection[str]) -> EngineStatus:
    runs = "decoders (GGUF): text, scores, vectors"
    server = os.environ.get(SERVER_VARIABLE)
    version = _version("xllamacpp")
    if server:
        found = shutil.which(server)
        reason = f"{SERVER_VARIABLE}={server}" + ("" if found else " is not a program that can be run")
        return EngineStatus("llamacpp", runs, True, found is not None, reason, version)
    if version is None:
        return EngineStatus("llamacpp", runs, True, False, f"xllamacpp is not installed; {install_command()}")
    flags, problem = _llama_flags()
    if problem:
        return EngineStatus("llamacpp", runs, True, False, problem, version)
    unused = [name for name, flag in _LLAMA_FLAGS.items() if name in instructions and flag not in flags]
    advice = ""
    if unused:
        advice = (
            f"this processor has {', '.join(unused)}, which the packaged llama.cpp build does not use; "
            f"set {SERVER_VARIABLE} to a llama-server built for this processor"
        )
    return EngineStatus("llamacpp", runs, True, True, "", version, flags, advice)


def _llama_flags() -> tuple[tuple[str, ...], str]:
    """Build flags of the packaged llama.cpp that are on, and what is wrong with it, if anything."""
    command = [sys.executable, "-I", "-c", _ASK_LLAMA]
    try:
        environment = without_secrets(os.environ)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_ASK_S, check=False)
    except subprocess.TimeoutExpired:
        return (), f"it did not load within {_ASK_S:g} s"
    if done.returncode < 0:
        return (), f"it dies of signal {-done.returncode} when it is loaded: it was built for another processor"
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return (), f"it cannot be loaded: {last[0]}"
    words = done.stdout.partition(":")[2].split("|")
    pairs = [word.partition("=") for word in words]
    return tuple(name.strip() for name, _, value in pairs if value.strip() == "1"), ""
