"""Putting an input inside a prompt, so that it cannot pose as an instruction or as a turn of its own.

Notable: an input is written as one JSON string, so its own quotes and line ends are escaped and it cannot
end early; and what chat templates use as control tokens (``<|im_end|>``, ``[INST]``, ``</s>``) is broken by
escaping its first character, because engines read such tokens inside the text as if the template had
written them. Both are undone by any JSON reader, so nothing is lost. Not here: the words around it.
"""

from __future__ import annotations

import json
import re

_CONTROL_TOKEN = re.compile(
    r"<(?=[|｜])"  # <|im_start|>, <|eot_id|>, <｜User｜>
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think)>)"
    r"|<(?=</?SYS>>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS)\])",
    re.IGNORECASE,
)


def quote(text: str) -> str:
    r"""An input as one JSON string on one line; ``json.loads`` gives it back unchanged.

    Lone surrogates, which no UTF-8 request can carry, are escaped too.
    """
    quoted = json.dumps(text, ensure_ascii=False)
    quoted = "".join(
        f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" or c in "\u2028\u2029\x85\x7f" else c for c in quoted
    )
    return _CONTROL_TOKEN.sub(lambda found: f"\\u{ord(found.group()):04x}", quoted)


def plain(text: str) -> str:
    """An input as it is, but for control tokens: a zero-width space stands after their first character.

    For kinds whose answers repeat parts of their input: there JSON's escapes would end up in the answer.
    """
    return _CONTROL_TOKEN.sub(lambda found: found.group() + "\u200b", text)
