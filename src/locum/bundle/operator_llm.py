"""Which LLM a bundle may call: one that its operator chose, never one that only the bundle names.

Notable: a bundle may come from anywhere, and its task file names a URL and an environment variable whose value goes
there. So they are used only where this user built the bundle's task here, which a record in his own state folder says,
or accepts them. A variable that holds no LLM's key is sent nowhere. Not here: asking the LLM (``runtime``).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from locum.core.errors import DeviceError, UserError
from locum.core.files import disk_errors, write_json
from locum.core.progress import warn
from locum.core.text import one_line
from locum.schema.task import LlmSpec, Task

LlmChoice = LlmSpec | Literal["bundle", "none"]
"""Where an LLM of the operator's own is; ``bundle``: the one that the bundle names; ``none``: none at all."""

_VENDORS = (
    "OPENAI|ANTHROPIC|MISTRAL|GROQ|TOGETHER|TOGETHERAI|OPENROUTER|DEEPSEEK|FIREWORKS|COHERE|GEMINI|XAI|CEREBRAS|"
    "PERPLEXITY|REPLICATE|HF|HUGGINGFACE|HUGGING_FACE|HUGGINGFACEHUB|NVIDIA|VLLM|OLLAMA|LITELLM|LLM|LLAMA|QWEN|"
    "DASHSCOPE|MOONSHOT|ZHIPU|NEBIUS|SAMBANOVA|ANYSCALE|AZURE_OPENAI|DEEPINFRA|NOVITA|HYPERBOLIC|SCALEWAY_AI"
)
_LLM_KEY = re.compile(rf"([A-Z0-9_]+_)?({_VENDORS})(_[A-Z0-9]+)*_(KEY|TOKEN)|[A-Z0-9_]*_API_KEY")
_OTHER_SECRET = re.compile(
    r"(.*_)?(AWS|AMAZON|AZURE(?!_OPENAI)|GCP|GCLOUD|GOOGLE_(APPLICATION|CLOUD)|ALIBABA|ALIYUN|DIGITALOCEAN|LINODE|HEROKU|"
    r"CLOUDFLARE|GITHUB|GH|GITLAB|CI|NPM|PYPI|TWINE|UV|DOCKER|SLACK|STRIPE|PAYPAL|TWILIO|SENDGRID|MAILGUN|DATADOG|DD|"
    r"SENTRY|PAGERDUTY|NEW_RELIC|VAULT|CONSUL|KUBE|SSH|GPG|JWT|DATABASE|DB|PG|POSTGRES|MYSQL|REDIS|LOCUM|"
    r"SECRET|ACCESS|PRIVATE|PASSWORD|PASSWD|CREDENTIALS?|SESSION|SIGNING|ENCRYPTION|MASTER)(_.*)?"
)


def remember_built(task_hash: str, llm: LlmSpec | None) -> None:
    """Record that this user built a task here, so that its bundle may call the LLM that the task names.

    A record that cannot be written is a warning: the bundle is whole, and its LLM can be accepted by name.
    """
    if llm is None or llm.base_url is None:
        return
    path = _record(task_hash)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_json(path, {"base_url": llm.base_url, "model": llm.model, "api_key_env": llm.api_key_env})
    except (DeviceError, OSError) as error:
        warn(f"it cannot be recorded that the bundle was built here, so it needs --llm-from-bundle: {error}")


def operator_llm(
    task: Task, task_hash: str, choice: LlmChoice | None, key_variable: str | None = None
) -> LlmSpec | None:
    """The LLM that may be called for a bundle.

    Args:
        task: the bundle's.
        task_hash: of its task file, from its verified manifest.
        choice: the operator's; None takes the LLM that the task names where he built it here.
        key_variable: an environment variable that the operator names for the key, instead of the bundle's.

    Raises:
        UserError: ``bundle-llm``: it was not built here, and nobody accepted its LLM; ``bundle-llm-key``: the variable
            that it names holds no LLM's key.
    """
    if choice == "none":
        return None
    if isinstance(choice, LlmSpec):
        return choice
    llm = task.llm
    if llm is None or llm.base_url is None:
        return llm  # nothing, or a file on this machine: nothing is sent anywhere
    built_here = _record(task_hash).is_file()
    if choice is None and not built_here:
        raise UserError(
            "bundle-llm",
            f"the bundle names an LLM, and was not built here: {said(llm)}; nothing is sent to it",
            fix="accept it with --llm-from-bundle, name your own with --llm-url and --llm-model, or none with --no-llm",
        )
    if key_variable is not None:
        return llm.model_copy(update={"api_key_env": key_variable})
    name = llm.api_key_env
    if name is not None and (_OTHER_SECRET.fullmatch(name.upper()) or not (built_here or _LLM_KEY.fullmatch(name))):
        raise UserError(
            "bundle-llm-key",
            f"the bundle asks for {one_line(name, 60)}, which does not look like an LLM's key: {said(llm)}",
            fix="if it is one, say so with --llm-key-env and its name; --no-llm serves without the LLM",
        )
    return llm


def said(llm: LlmSpec) -> str:
    """An LLM in words: its name, where it is, and which variable's value goes there."""
    if llm.base_url is None:
        return f"{one_line(llm.model, 80)} on this machine"
    try:
        host = urlsplit(llm.base_url).netloc.rpartition("@")[2]
    except ValueError:
        host = llm.base_url
    key = f"with the key in {one_line(llm.api_key_env, 60)}" if llm.api_key_env else "without a key"
    return f"{one_line(llm.model, 80)} at {one_line(host, 80)}, {key}"


def _record(task_hash: str) -> Path:
    """Where it is recorded that a task was built here: below ``LOCUM_STATE``, else the user's state folder."""
    chosen = os.environ.get("LOCUM_STATE")
    if chosen:
        state = Path(chosen).expanduser()
    else:
        from platformdirs import user_state_dir

        state = Path(user_state_dir("locum"))
    return state / "built" / f"{task_hash}.json"
