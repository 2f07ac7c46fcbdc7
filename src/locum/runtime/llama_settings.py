"""Settings of the llama.cpp engine, and what they mean to the packaged library and to a ``llama-server`` binary.

Notable: one description per setting, under the field. Both ways to start the engine get the same options, so an
answer does not depend on which it was. A request has the whole of ``n_ctx`` whatever its neighbours do: llama.cpp keeps
it where each slot has a cache of its own, and the caller where they share one (``llama_prompt``).
Not here: the process (``llama_process``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from locum.core.cpu import usable_cores
from locum.core.errors import UserError

Pooling = Literal["mean", "last", "cls"]
KvType = Literal["f16", "q8_0", "q4_0"]
FlashAttention = Literal["auto", "on", "off"]

SERVER_VARIABLE = "LOCUM_LLAMA_SERVER"
_CACHE_REUSE_LEAST = 1
_MIB_PER_MB = 1e6 / 2**20


STUDENT_SLOTS = 4
"""Prompts that a student which writes reads at once; each has a cache of its own."""


@dataclass(frozen=True)
class EngineSettings:
    """How llama.cpp serves a GGUF file.

    Attributes:
        n_ctx: context of one request in tokens, prompt and answer together; capped at what the model was trained for.
        slots: requests answered at the same time, in one batch; more wait in line.
        shared_cache: the slots share one cache instead of having one each. Answers being written and prompts being read
            are then computed together, whatever their lengths, which is faster with several clients; but where keys lie
            depends on the neighbours, and with it the last digits: a near tie at temperature 0 may fall either way.
        threads: CPU threads; None takes the cores this process may use.
        batch_tokens: most prompt tokens read in one step; a long prompt holds the other answers up for that long.
        kv_type: how keys and values are kept: f16, or quantised to half (q8_0) or a quarter (q4_0) of the memory.
        flash_attention: auto lets llama.cpp choose; a quantised cache needs it.
        draft: GGUF file of a small model with the same vocabulary that writes ahead (speculative decoding).
        draft_tokens: most tokens that it writes ahead.
        lookup_tokens: most tokens that are copied ahead from where the same words stood before (prompt lookup);
            0 is off.
        lookup_match: how many tokens must match before something is copied.
        prefix_reuse: keep what was read, so that a prompt that starts like an earlier one is read from the difference
            on.
        reuse_chunk: also move kept pieces of at least this many tokens to another place in the prompt; 0 is off,
            because what was read elsewhere is not exactly what would be read here.
        prompt_cache_mb: memory for what was read by requests whose slot another one took; unused with adapters.
        adapters: LoRA adapters (GGUF files) by the name that requests ask for.
        server_binary: a ``llama-server`` to run instead of the packaged library; None takes the one that the
            environment variable LOCUM_LLAMA_SERVER names, if any.
        stream_interval_s: least time between two pieces of a streamed answer: after the first token, what is written
            in between comes together. Telling every token at once takes processor time from the model; 0 does.
        timeout_s: longest time for one answer, waiting in line included.
        idle_s: for how long the engine may tell nobody anything while it is asked something; then its process is
            replaced. It tells how far it is after each step of ``batch_tokens``, so a step must take less.
        load_s: longest time to load the model.
    """

    n_ctx: int = 4096
    slots: int = 4
    shared_cache: bool = False
    threads: int | None = None
    batch_tokens: int = 256
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    draft: Path | None = None
    draft_tokens: int = 4
    lookup_tokens: int = 0
    lookup_match: int = 4
    prefix_reuse: bool = True
    reuse_chunk: int = 0
    prompt_cache_mb: int = 256
    adapters: Mapping[str, Path] = field(default_factory=dict[str, Path])
    server_binary: Path | None = None
    stream_interval_s: float = 0.1
    timeout_s: float = 60.0
    idle_s: float = 30.0
    load_s: float = 120.0

    def __post_init__(self) -> None:
        positive = ("n_ctx", "slots", "batch_tokens", "draft_tokens", "lookup_match", "timeout_s", "idle_s", "load_s")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)!r}")
        for name in ("lookup_tokens", "reuse_chunk", "prompt_cache_mb", "stream_interval_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)!r}")
        if self.kv_type != "f16" and self.flash_attention == "off":
            raise ValueError("a quantised kv_type needs flash_attention")

    @property
    def speculative(self) -> bool:
        """Whether tokens are written ahead and then checked."""
        return self.draft is not None or self.lookup_tokens > 0

    @property
    def kept_prompts_mb(self) -> int:
        """What the store of prompts grows to: llama.cpp's does not know which adapter read them."""
        return self.prompt_cache_mb if self.prefix_reuse and not self.adapters else 0

    def binary(self) -> Path | None:
        """The ``llama-server`` to run, or None for the packaged library.

        Raises:
            UserError: it is named, and is no program.
        """
        named = self.server_binary or os.environ.get(SERVER_VARIABLE) or None
        if named is None:
            return None
        path = Path(named).expanduser()
        if not path.is_file() or not os.access(path, os.X_OK):
            raise UserError(
                "runtime-child-start",
                f"{path} is not a program",
                fix=f"give the path of llama-server, or unset {SERVER_VARIABLE} to use the packaged llama.cpp",
            )
        return path.resolve()


@dataclass(frozen=True)
class ChildSettings:
    """What the child process opens; plain values, sent to it as JSON.

    Attributes:
        n_ctx: context of one slot in tokens.
        pooling: None writes text; otherwise the child gives one embedding a text, pooled so.
        shared_cache: whether the slots share one cache; llama.cpp then chooses the slot of a request.
        adapters: files of the LoRA adapters; a request names one by its place here.
        binary: ``llama-server`` to run; None for the packaged library.
        key: what a request must show; nobody but the parent knows it.
        parent: process id of the parent.
    """

    model: str
    n_ctx: int
    pooling: Pooling | None = None
    threads: int = 1
    parent: int = 0
    slots: int = 1
    shared_cache: bool = False
    batch_tokens: int = 256
    kv_type: KvType = "f16"
    flash_attention: FlashAttention = "auto"
    draft: str | None = None
    draft_tokens: int = 4
    lookup_tokens: int = 0
    lookup_match: int = 4
    prefix_reuse: bool = True
    reuse_chunk: int = 0
    prompt_cache_mb: int = 0
    adapters: tuple[str, ...] = ()
    binary: str | None = None
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the first line that the child reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ChildSettings:
        """The inverse of ``to_json``."""
        fields: dict[str, Any] = {**document, "adapters": tuple(document["adapters"])}
        return cls(**fields)

    @property
    def idle_kept(self) -> bool:
        """Whether what an idle slot has read moves to the prompt cache, so that attention need not step over it."""
        return self.shared_cache and self.prompt_cache_mb > 0

    @property
    def speculation(self) -> list[str]:
        """llama.cpp's names of the ways to write ahead."""
        return ["draft-simple"] * (self.draft is not None) + ["ngram-simple"] * (self.lookup_tokens > 0)


def generation_child(path: Path, settings: EngineSettings, trained_context: int | None) -> ChildSettings:
    """The child's settings for a generator.

    Args:
        path: the GGUF file.
        settings: as the user gave them.
        trained_context: longest context of the model, when its file says.

    Raises:
        UserError: ``server_binary`` is no program.
    """
    binary = settings.binary()
    return ChildSettings(
        model=str(path.resolve()),
        n_ctx=min(settings.n_ctx, trained_context or settings.n_ctx),
        threads=settings.threads or usable_cores(),
        slots=settings.slots,
        shared_cache=settings.shared_cache,
        batch_tokens=settings.batch_tokens,
        kv_type=settings.kv_type,
        flash_attention=settings.flash_attention,
        draft=None if settings.draft is None else str(settings.draft.resolve()),
        draft_tokens=settings.draft_tokens,
        lookup_tokens=settings.lookup_tokens,
        lookup_match=settings.lookup_match,
        prefix_reuse=settings.prefix_reuse,
        reuse_chunk=settings.reuse_chunk,
        prompt_cache_mb=settings.kept_prompts_mb,
        adapters=tuple(str(file.resolve()) for file in settings.adapters.values()),
        binary=None if binary is None else str(binary),
    )


def library_parameters(child: ChildSettings, library: Any) -> Any:
    """Xllamacpp's ``CommonParams`` for a child.

    Args:
        child: what to open.
        library: the module ``xllamacpp``.
    """
    params = library.CommonParams()
    params.model.path = child.model
    params.n_ctx = child.n_ctx * child.slots
    params.n_parallel = child.slots
    params.kv_unified = child.shared_cache
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = child.threads
    params.n_threads_http = child.slots + 2
    params.warmup = params.fit_params = False  # the context is what was asked, or an error
    params.n_batch = params.n_ubatch = child.n_ctx if child.pooling else child.batch_tokens
    params.cache_type_k = params.cache_type_v = getattr(library.ggml_type, f"GGML_TYPE_{child.kv_type.upper()}")
    flash = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[child.flash_attention]
    params.flash_attn_type = getattr(library.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{flash}")
    params.cache_prompt = child.prefix_reuse and child.pooling is None
    params.n_cache_reuse = child.reuse_chunk
    params.cache_ram_mib = round(child.prompt_cache_mb * _MIB_PER_MB)
    params.cache_idle_slots = child.idle_kept
    params.lora_adapters = [library.CommonAdapterLoraInfo(path, 0.0) for path in child.adapters]
    params.use_jinja = True
    params.reasoning_format = library.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    params.api_keys = [child.key]
    params.ui = params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.verbosity = 1  # errors only: prompts must not reach a log
    if child.speculation:
        kinds = library.common_speculative_type
        names = [f"COMMON_SPECULATIVE_TYPE_{name.upper().replace('-', '_')}" for name in child.speculation]
        params.speculative.types = [getattr(kinds, name) for name in names]
        params.speculative.ngram_simple.size_n = child.lookup_match
        params.speculative.ngram_simple.size_m = max(1, child.lookup_tokens)
    if child.draft is not None:
        draft = params.speculative.draft
        draft.mparams.path, draft.n_max = child.draft, child.draft_tokens
        draft.cpuparams.n_threads = draft.cpuparams_batch.n_threads = child.threads
        draft.cache_type_k = draft.cache_type_v = params.cache_type_k
    if child.pooling is not None:
        params.embedding = True
        params.pooling_type = getattr(library.llama_pooling_type, f"LLAMA_POOLING_TYPE_{child.pooling.upper()}")
    return params


def server_arguments(child: ChildSettings) -> list[str]:
    """The same as arguments of ``llama-server``; the key is not among them, for anybody may read those."""
    batch = str(child.n_ctx if child.pooling else child.batch_tokens)
    arguments = ["--host", "127.0.0.1", "--port", "0", "--no-ui", "--no-slots", "--offline", "--no-warmup"]
    arguments += ["-m", child.model, "-c", str(child.n_ctx * child.slots), "-np", str(child.slots)]
    arguments += ["-kvu" if child.shared_cache else "-no-kvu"]
    arguments += ["-t", str(child.threads), "-tb", str(child.threads), "--threads-http", str(child.slots + 2)]
    arguments += ["-b", batch, "-ub", batch, "--fit", "off", "-fa", child.flash_attention]
    arguments += ["-ctk", child.kv_type, "-ctv", child.kv_type]
    reuse = child.prefix_reuse and child.pooling is None
    arguments += ["--cache-prompt" if reuse else "--no-cache-prompt", "--cache-reuse", str(child.reuse_chunk)]
    arguments += ["-cram", str(round(child.prompt_cache_mb * _MIB_PER_MB))]
    arguments += ["--cache-idle-slots" if child.idle_kept else "--no-cache-idle-slots"]
    arguments += ["--jinja", "--reasoning-format", "none", "-lv", "3"]  # level 3 says where it listens
    for path in child.adapters:
        arguments += ["--lora-scaled", f"{path}:0"]
    if child.speculation:
        arguments += ["--spec-type", ",".join(child.speculation)]
    if child.lookup_tokens:
        arguments += ["--spec-ngram-simple-size-n", str(child.lookup_match)]
        arguments += ["--spec-ngram-simple-size-m", str(child.lookup_tokens)]
    if child.draft is not None:
        arguments += ["--spec-draft-model", child.draft, "--spec-draft-n-max", str(child.draft_tokens)]
        arguments += ["--spec-draft-type-k", child.kv_type, "--spec-draft-type-v", child.kv_type]
        arguments += ["--spec-draft-threads", str(child.threads)]
    if child.pooling is not None:
        arguments += ["--embedding", "--pooling", child.pooling]
    return arguments
