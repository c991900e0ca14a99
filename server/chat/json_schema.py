"""The grammar of JSON texts that follow a schema."""

import json
from collections.abc import Mapping
from typing import Any


def json_schema_grammar(schema: Mapping[str, Any]) -> str:
    return f"start: %json {json.dumps(schema)}"
