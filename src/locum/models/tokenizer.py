"""The tokenizer of a base as one ``tokenizer.json``: copied from its folder, or converted from GGUF.

Notable: training reads the very file that serving will read, through the same class
(``runtime.tokenize.TextTokenizer``), so both cut and split a text alike. Not here: chat templates.
"""

from __future__ import annotations

from pathlib import Path

from locum.core.errors import ModelFileError
from locum.core.files import write_bytes
from locum.models.base_files import BaseFiles, refuse_pointer
from locum.runtime.tokenize import TextTokenizer

TOKENIZER_NAME = "tokenizer.json"


def write_tokenizer(base: BaseFiles, folder: Path) -> Path:
    """Write the base's tokenizer into a folder.

    Returns:
        The path of the ``tokenizer.json`` written.

    Raises:
        ModelFileError: the base has no fast tokenizer.
    """
    target = folder / TOKENIZER_NAME
    if base.gguf is None:
        source = base.root / TOKENIZER_NAME
        if not source.is_file():
            raise ModelFileError(
                "models-file-missing",
                f"{TOKENIZER_NAME} is missing",
                where=str(base.root),
                fix="save the base again with a fast tokenizer",
            )
        refuse_pointer(source)
        write_bytes(target, source.read_bytes())
        return target
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.root, gguf_file=base.gguf, local_files_only=True)
        text = tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # conversion fails with many classes of error; all mean the same to the user
        raise ModelFileError(
            "models-damaged", f"its tokenizer cannot be converted: {error}", where=str(base.root / base.gguf)
        ) from error
    write_bytes(target, text.encode())
    return target


def open_tokenizer(path: Path, max_tokens: int, vocabulary: int) -> TextTokenizer:
    """Open a ``tokenizer.json`` and check that it fits the embeddings.

    Args:
        path: the file.
        max_tokens: longer texts are cut there.
        vocabulary: rows of the model's token embedding.

    Raises:
        ModelFileError: unreadable, or it can produce ids that the model has no embedding for.
    """
    tokenizer = TextTokenizer(path, max_tokens)
    if tokenizer.largest_id >= vocabulary:
        raise ModelFileError(
            "models-tokenizer-mismatch",
            f"the tokenizer gives ids up to {tokenizer.largest_id}, the model has {vocabulary} embeddings",
            where=str(path),
            fix="use the tokenizer that came with this model",
        )
    return tokenizer
