"""``locum serve``: a bundle, or a plain model, behind OpenAI's API on loopback.

Notable: a folder is a bundle when it has a manifest, and else a model folder; anything else is a GGUF file or a name of
the catalogue. A plain model has no policy and no certificate, and its answers say so. What it will need of memory is
worked out first, and it is loaded before the port is opened, so that what cannot be served is an error at once.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from locum.cli.llm_options import LLM_OPTIONS, FromBundle, LlmKeyEnv, LlmModel, LlmUrl, NoLlm, llm_choice
from locum.cli.output import print_json, refuse_given
from locum.core.errors import UserError
from locum.core.text import visible

if TYPE_CHECKING:
    from locum.bundle.operator_llm import LlmChoice
    from locum.gateway.settings import Settings
    from locum.gateway.targets import Target
    from locum.runtime.gguf_check import GgufHeader
    from locum.runtime.llama_settings import EngineSettings
    from locum.runtime.protocol import Embedder, Generator

_Engine = TypeVar("_Engine", bound="Generator | Embedder")
_WRITERS = ("slots", "ctx", "draft", "lookup", "kv_type", "prefix_reuse", "shared_cache", "adapter")
"""Options for a plain model that writes."""
Origins = Annotated[
    list[str] | None,
    typer.Option(
        help="A web page's origin, such as https://app.example.org, whose page may ask; may be repeated. Pages of this "
        "machine may."
    ),
]
SharedCache = Annotated[
    bool,
    typer.Option(
        help="Plain model: one cache for all answers. Off: answers at temperature 0 are always the same, but several "
        "clients at once are slower."
    ),
]
app = typer.Typer(add_completion=False, rich_markup_mode=None)

_TIMEOUT_S = 600.0
"""For one answer of a plain model, waiting in line included: a long answer on a small machine takes minutes."""


@app.command()
def serve(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help="A bundle folder, a GGUF file, or a name that `locum models` lists.")],
    host: Annotated[str, typer.Option(help="Address to listen on; another than loopback needs LOCUM_API_KEY.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all usable cores.", min=1)] = None,
    slots: Annotated[int, typer.Option(help="Plain model: answers written at the same time.", min=1, max=256)] = 4,
    ctx: Annotated[int, typer.Option(help="Plain model: context of one request, in tokens.", min=64)] = 4096,
    draft: Annotated[Path | None, typer.Option(help="Plain model: GGUF file of a small model that writes ahead.")] = (
        None
    ),
    lookup: Annotated[
        int, typer.Option(help="Plain model: tokens to copy ahead from the prompt; 0 is off.", min=0, max=64)
    ] = 0,
    kv_type: Annotated[
        Literal["f16", "q8_0", "q4_0"], typer.Option(help="Plain model: how keys and values are kept.")
    ] = "f16",
    prefix_reuse: Annotated[
        bool, typer.Option(help="Plain model: keep what was read for prompts that start alike.")
    ] = True,
    shared_cache: SharedCache = True,
    adapter: Annotated[
        list[str] | None, typer.Option(help="Plain model: a LoRA adapter as NAME=PATH; may be repeated.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(help="Answer with this engine. Plain model: llamacpp, openvino, or auto, which measures both."),
    ] = None,
    page: Annotated[bool, typer.Option(help="A page at / to try the model in a browser.")] = True,
    review: Annotated[Path | None, typer.Option(help="JSON Lines file for what people say of answers on the page.")] = (
        None
    ),
    llm_from_bundle: FromBundle = False,
    no_llm: NoLlm = False,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    origin: Origins = None,
    openapi: Annotated[bool, typer.Option("--openapi", help="Print the OpenAPI document and stop.")] = False,
) -> None:
    """Serve OpenAI's API under /v1, with /openapi.json, /health, /ready and /metrics. Ctrl-C drains and stops."""
    if openapi:
        from locum.gateway.openapi import openapi_document

        print_json(openapi_document())
        return
    from locum.gateway.serve import serve as run_server

    _refuse_unused(context, target)
    if engine in ("openvino", "auto") and not shared_cache:
        said, fix = "OpenVINO has one cache for all answers", "use --engine llamacpp with --no-shared-cache"
        raise UserError("runtime-unsupported-option", said, fix=fix)
    limits = _limits(page, review)
    opened = open_target(
        target,
        threads=threads,
        engine=engine,
        draft=draft,
        adapters=adapter or (),
        llm=llm_choice(llm_from_bundle, no_llm, llm_url, llm_model, llm_key_env),
        llm_key_env=llm_key_env,
        slots=slots,
        n_ctx=ctx,
        lookup_tokens=lookup,
        kv_type=kv_type,
        prefix_reuse=prefix_reuse,
        shared_cache=shared_cache,
    )
    if opened.describe().get("embeds"):
        with ExitStack() as stack:
            stack.callback(opened.close)
            refuse_given(context, (*_WRITERS, "engine"), "changes nothing for a model that embeds")
            stack.pop_all()
    run_server(opened, host=host, port=port, origins=origin or (), settings=limits)


def _refuse_unused(context: typer.Context, target: str) -> None:
    """Refuse what is for a plain model where a bundle is served, and the other way round."""
    bundle = _is_bundle(Path(target).expanduser())
    what = "bundle" if bundle else "plain model"
    refuse_given(context, _WRITERS if bundle else LLM_OPTIONS, f"changes nothing for a {what}")


def _limits(page: bool, review: Path | None) -> Settings:
    """The gateway's settings; what cannot be is said before a model is loaded."""
    from locum.gateway.review import check_review_file
    from locum.gateway.settings import Settings

    if review is not None and not page:
        raise UserError("cli-usage", "--review is what the page is asked to keep, and --no-page takes it away")
    if review is not None:
        check_review_file(review)
    return Settings(page=page, review=review)


def open_target(
    target: str,
    *,
    threads: int | None,
    engine: str | None,
    draft: Path | None,
    adapters: tuple[str, ...] | list[str],
    llm: LlmChoice | None = None,
    llm_key_env: str | None = None,
    **settings: Any,
) -> Target:
    """What a name or path stands for, opened.

    Args:
        target: a bundle folder, a model folder, a GGUF file or a catalogue name.
        threads: CPU threads; None takes the cores this process may use.
        engine: instead of a bundle's own, or of llama.cpp for a plain model; ``auto`` measures.
        draft: model that writes ahead.
        adapters: each ``NAME=PATH``.
        llm: which LLM a bundle may call, as for ``open_bundle``.
        llm_key_env: environment variable with its key, instead of the one that the bundle names.
        **settings: further fields of ``EngineSettings``.

    Raises:
        LocumError: there is no such thing, or it is refused.
    """
    folder = Path(target).expanduser()
    if _is_bundle(folder):
        from locum.bundle.student import open_bundle
        from locum.gateway.bundle_target import BundleTarget

        own = None if engine == "auto" else engine  # a bundle's engine was measured when it was built
        student = open_bundle(folder, llm, threads=threads, engine=own, llm_key_env=llm_key_env)
        if about := student.llm_said or student.llm_problem:
            typer.echo(f"{visible(student.name)}: {visible(about)}", err=True)
        return BundleTarget(student)
    from locum.gateway.targets import ModelTarget
    from locum.runtime.model_files import read_spec
    from locum.runtime.open import open_embedder

    if folder.is_dir() and read_spec(folder).purpose != "generate":
        return ModelTarget(folder.resolve().name, embedder=open_embedder(folder, threads=threads))
    from locum.runtime.gguf_check import check_gguf
    from locum.runtime.llama_settings import EngineSettings
    from locum.sources.bases import ensure_base

    path, name = _text_model(folder, target)
    header = check_gguf(path)
    facts: dict[str, Any] = {
        "file": path.name,
        "architecture": header.architecture,
        "parameters": header.parameters,
    }
    if f"{header.architecture}.pooling_type" in header.metadata:
        return ModelTarget(name, embedder=_loaded(open_embedder(path, threads=threads)), facts=facts)
    drafting = None if draft is None else ensure_base(draft, format="gguf")
    chosen = EngineSettings(
        threads=threads, draft=drafting, adapters=_adapters(adapters), timeout_s=_TIMEOUT_S, **settings
    )
    _require_memory(path, header, chosen)
    writer, generator = _open_text(path, chosen, engine)
    facts |= {"engine": writer, "context": chosen.n_ctx, "slots": chosen.slots}
    return ModelTarget(name, generator, facts=facts)


def _is_bundle(folder: Path) -> bool:
    return folder.is_dir() and not (folder / "model.json").is_file()


def _text_model(folder: Path, target: str) -> tuple[Path, str]:
    """The GGUF file of a model folder, a path or a catalogue name, and what it is called."""
    if folder.is_dir():
        from locum.runtime.model_files import verify_folder

        return folder / verify_folder(folder).weights, folder.resolve().name
    from locum.sources.bases import ensure_base

    is_file = folder.suffix == ".gguf"
    path = ensure_base(folder if is_file else target, format="gguf")
    return path, path.stem if is_file else target


def _open_text(path: Path, settings: EngineSettings, engine: str | None) -> tuple[str, Generator]:
    """Who writes, by name, and opened."""
    if engine == "auto":
        from locum.evaluate.text_engines import choose_text_engine

        choice, generator = choose_text_engine(path, settings)
        return choice.engine, _loaded(generator)
    from locum.runtime.open import open_text

    return engine or "llamacpp", _loaded(open_text(path, settings, engine))


def _require_memory(path: Path, header: GgufHeader, settings: EngineSettings) -> None:
    """Refuse what this machine has no memory for, before anything of it is loaded."""
    from locum.fit.device import profile_device
    from locum.fit.memory import free_mb, require_memory
    from locum.fit.text_memory import text_memory

    fix = (
        "make --ctx or --slots smaller, keep keys and values with --kv-type q8_0, keep no earlier prompts with "
        "--no-prefix-reuse, or take a smaller file"
    )
    require_memory(text_memory(path, header, settings), free_mb(profile_device()), fix=fix)


def _loaded(engine: _Engine) -> _Engine:
    """The engine with its model loaded; closed, if that cannot be."""
    from locum.runtime.protocol import Loading

    if isinstance(engine, Loading):
        try:
            engine.start()
        except BaseException:
            engine.close()
            raise
    return engine


def _adapters(given: tuple[str, ...] | list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not (name and equals and path) or name in found:
            raise UserError("cli-usage", f"--adapter {each!r} is not NAME=PATH, or its name is taken")
        if not Path(path).expanduser().is_file():
            raise UserError("source-missing", "there is no such adapter file", where=path)
        found[name] = Path(path).expanduser()
    return found
