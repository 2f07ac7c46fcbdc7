#!/usr/bin/env bash
# Open Responses' types: a response that repeats the schema it was asked for is not valid, one that leaves it out is.
#
# Guess: an answer gives back the settings of its request, so ``text.format`` of an answer to a JSON schema holds that
# schema, as answers of OpenAI's API do.
# Behaviour: in the types made from the specification, the request's format takes an object as ``schema``; the answer's
# format takes null and nothing else, though the field is required. A client that validates refuses the full answer.
# Versions: openresponses-types 2.4.0, Python 3.11.
# Source: ``JsonSchemaResponseFormat`` and ``JsonSchemaResponseFormatParam`` in the package, made from the OpenAPI document of
# github.com/openresponses/openresponses.
#
# Exit status: 0 as stated, 1 changed, 2 the packages could not be installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/environment"
"$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check openresponses-types==2.4.0 || exit 2
"$folder/environment/bin/python" - <<'PYTHON'
from __future__ import annotations

import sys

import openresponses_types as types
from pydantic import ValidationError

asked = {"type": "json_schema", "name": "city", "schema": {"type": "object"}, "strict": True}


def valid(kind: type, document: dict[str, object]) -> bool:
    """Whether the document is one of this kind."""
    try:
        kind.model_validate(document)
    except ValidationError as error:
        print(f"  {kind.__name__}: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}")
        return False
    return True


request = valid(types.JsonSchemaResponseFormatParam, asked)
repeated = valid(types.JsonSchemaResponseFormat, {**asked, "description": None})
emptied = valid(types.JsonSchemaResponseFormat, {**asked, "description": None, "schema": None})
print(f"request with the schema: {request}; answer that repeats it: {repeated}; answer with null: {emptied}")
sys.exit(0 if (request, repeated, emptied) == (True, False, True) else 1)
PYTHON
