"""The options by which an operator says which LLM a bundle may call; the same for every command that opens one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from locum.core.errors import UserError

if TYPE_CHECKING:
    from locum.bundle.operator_llm import LlmChoice

LLM_OPTIONS = ("llm_from_bundle", "no_llm", "llm_url", "llm_model", "llm_key_env")
"""Their parameters."""
FromBundle = Annotated[
    bool, typer.Option("--llm-from-bundle", help="Bundle: accept the LLM that it names, though it was not built here.")
]
NoLlm = Annotated[bool, typer.Option("--no-llm", help="Bundle: call no LLM; what would go there is abstained from.")]
LlmUrl = Annotated[str | None, typer.Option(help="Bundle: hand over to the LLM at this OpenAI-compatible URL.")]
LlmModel = Annotated[str | None, typer.Option(help="Bundle: its model's name there, or a local GGUF file.")]
LlmKeyEnv = Annotated[str | None, typer.Option(help="Bundle: environment variable that holds the LLM's key.")]


def llm_choice(
    from_bundle: bool, no_llm: bool, url: str | None, model: str | None, key_env: str | None
) -> LlmChoice | None:
    """What the options say; None when they say nothing about where the LLM is.

    Raises:
        UserError: ``cli-usage``: they contradict each other, or the LLM's URL cannot be one.
    """
    own = url is not None or model is not None
    if from_bundle + no_llm + own > 1 or (no_llm and key_env):
        raise UserError(
            "cli-usage", "--llm-from-bundle, --no-llm and --llm-url exclude each other", fix="name one of them"
        )
    if no_llm:
        return "none"
    if from_bundle:
        return "bundle"
    if not own:
        return None
    if model is None:
        raise UserError("cli-usage", "--llm-url needs the model to ask there", fix="add --llm-model NAME")
    from pydantic import ValidationError

    from locum.schema.task import LlmSpec

    try:
        return LlmSpec(base_url=url, model=model, api_key_env=key_env)
    except ValidationError as error:
        raise UserError("cli-usage", f"--llm-url: {error.errors()[0]['msg']}", fix="give https://HOST/v1") from error
