#!/usr/bin/env bash
# transformers and GGUF files: a pre-tokeniser that the file names and transformers does not know is dropped silently.
#
# Guess: ``tokenizer.ggml.pre`` says how text is cut before merges; a reader follows it or says that it cannot.
# Behaviour: for ``llama-bpe`` transformers follows it, for ``smollm`` it cuts text as GPT-2 does, without a warning. So
# 20241 may become one token, where llama.cpp cuts digits apart and reads five. A model tuned on these tokens is served
# with others.
# Versions: transformers 5.23.0, tokenizers 0.23.3, Python 3.11. (``AutoTokenizer.from_pretrained(…, gguf_file=…)`` calls
# the function below; it needs PyTorch to read the file, so the script hands over what a file says.)
# Source: ``transformers/integrations/gguf/gguf_tokenizer_mapping.py``; llama.cpp, ``src/llama-vocab.cpp``, the case
# ``LLAMA_VOCAB_PRE_TYPE_SMOLLM`` with the expression for single digits.
#
# Exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check \
  transformers==5.23.0 tokenizers==0.23.3 || exit 2
"$folder/environment/bin/python" - <<'PYTHON'
from __future__ import annotations

import os
import sys

TEXT = "20241"
MERGES = ["2 0", "2 4", "20 24", "2024 1"]


def show() -> bool:
    """The same vocabulary under three pre-tokenisers, and the cut that ``smollm`` stands for."""
    os.environ["TRANSFORMERS_VERBOSITY"] = "warning"  # what it has to say is shown
    from tokenizers import pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]
    read: dict[str, list[str]] = {}
    backends = {}
    for name in ("gpt-2", "llama-bpe", "smollm"):
        said = {"tokenizer_type": "gpt2", "pre_tokenizer_type": name, "tokens": tokens, "merges": MERGES}
        backends[name], _ = convert_gguf_tokenizer("llama", {**said, "token_type": [1] * len(tokens)})
        read[name] = backends[name].encode(TEXT).tokens
        print(f"tokenizer.ggml.pre = {name:<10} {read[name]}")
    apart = backends["smollm"]
    apart.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    meant = apart.encode(TEXT).tokens
    print(f"what smollm means in llama.cpp  {meant}")
    return read["smollm"] == read["gpt-2"] != meant and read["llama-bpe"] != read["gpt-2"]


as_stated = show()
print("as stated" if as_stated else "CHANGED: the behaviour is not the one that this script's head states")
sys.exit(0 if as_stated else 1)
PYTHON
