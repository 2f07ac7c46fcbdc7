"""LangChain's standard integration tests, with ``ChatOpenAI`` and ``OpenAIEmbeddings``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest_results

TESTS = """
import os
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests


class TestChat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict:
        return {"model": os.environ["CHAT_MODEL"], "base_url": os.environ["CHAT_URL"], "api_key": "none",
                "max_retries": 0, "temperature": 0, "max_tokens": 600, "stream_usage": True,
                "frequency_penalty": 0.5}  # a small model would repeat one sentence within a string without end

    @property
    def structured_output_kwargs(self) -> dict:
        return {"method": "json_schema"}

    @property
    def has_tool_choice(self) -> bool:
        return True


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return {"model": os.environ["EMBED_MODEL"], "base_url": os.environ["EMBED_URL"], "api_key": "none",
                "check_embedding_ctx_length": False}
"""

BY_DESIGN: dict[str, str] = {}
"""Test → why it is refused."""


def main() -> None:
    """Write the tests' classes down and run pytest over them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test_locum.py"
        path.write_text(TESTS)
        # LangChain keeps one asynchronous client for all; its connections belong to the loop of their first test.
        one_loop = [f"--override-ini=asyncio_default_{what}_loop_scope=session" for what in ("test", "fixture")]
        pytest_results.run([str(path), "--asyncio-mode=auto", *one_loop, *sys.argv[1:]], BY_DESIGN)


if __name__ == "__main__":
    main()
