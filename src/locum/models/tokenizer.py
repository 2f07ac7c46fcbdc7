"""The tokenizer of a base as one ``tokenizer.json``: copied from its folder, or converted from GGUF.

Notable: training reads the very file that serving will read, through the same class
(``runtime.tokenize.TextTokenizer``), so both cut and split a text alike. What transformers converts from GGUF is made
to split as the file says (``gguf_split``). Not here: chat templates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locum.core.errors import ModelFileError
from locum.core.files import write_bytes
from locum.models.base_files import BaseFiles, refuse_pointer
from locum.models.gguf_split import split_as_gguf
from locum.runtime.tokenize import TextTokenizer

TOKENIZER_NAME = "tokenizer.json"


def write_tokenizer(base: BaseFiles, folder: Path) -> Path:
    """Write the base's tokenizer into a folder.

    Returns:
        The path of the ``tokenizer.json`` written.

    Raises:
        ModelFileError: the base has no fast tokenizer, or splits text in a way that is not known here.
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
    tokenizer = convert_gguf_tokenizer(base.root / base.gguf)
    text = tokenizer.backend_tokenizer.to_str()
    write_bytes(target, text.encode())
    return target


def convert_gguf_tokenizer(path: Path) -> Any:
    """Transformers' tokenizer of a GGUF file, which splits text as the file says.

    Raises:
        ModelFileError: it cannot be converted, or splits text in a way that is not known here.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except Exception as error:  # conversion fails with many classes of error; all mean the same to the user
        raise ModelFileError(
            "models-damaged", f"its tokenizer cannot be converted: {error}", where=str(path)
        ) from error
    split_as_gguf(tokenizer.backend_tokenizer, path)
    return tokenizer


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
