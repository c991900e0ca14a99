"""Schemas of what the manifests may use of the Gateway API and its inference extension, from their references
(gateway.networking.k8s.io/v1 and inference.networking.k8s.io/v1); no package brings them.
"""

from typing import Any

Schema = dict[str, Any]


def record(required: str, **fields: Schema) -> Schema:
    return {"type": "object", "required": required.split(), "properties": fields, "additionalProperties": False}


def many(item: Schema, most: int) -> Schema:
    return {"type": "array", "items": item, "minItems": 1, "maxItems": most}


TEXT: Schema = {"type": "string", "minLength": 1, "maxLength": 253}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string", "maxLength": 63}}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}


def manifest(api_version: str, kind: str, spec: Schema) -> Schema:
    metadata = record("name", name=TEXT, namespace=TEXT, labels=LABELS)
    return record(
        "apiVersion kind metadata spec",
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


INFERENCE_POOL = manifest(
    "inference.networking.k8s.io/v1",
    "InferencePool",
    record(
        "selector targetPorts endpointPickerRef",
        selector=record("matchLabels", matchLabels=LABELS),
        targetPorts=many(record("number", number=PORT), 8),
        endpointPickerRef=record(
            "name",
            name=TEXT,
            group={"type": "string"},
            kind=TEXT,
            port=record("number", number=PORT),
            failureMode={"enum": ["FailOpen", "FailClose"]},
        ),
    ),
)
PATH = record(
    "", type={"enum": ["Exact", "PathPrefix", "RegularExpression"]}, value={"type": "string", "pattern": "^/"}
)
BACKEND = record("name", group={"type": "string"}, kind=TEXT, name=TEXT, namespace=TEXT, port=PORT)
HTTP_ROUTE = manifest(
    "gateway.networking.k8s.io/v1",
    "HTTPRoute",
    record(
        "",
        parentRefs=many(record("name", name=TEXT, namespace=TEXT, sectionName=TEXT), 32),
        hostnames=many(TEXT, 16),
        rules=many(
            record(
                "",
                matches=many(record("", path=PATH), 64),
                backendRefs=many(BACKEND, 16),
                timeouts=record("", request=DURATION, backendRequest=DURATION),
            ),
            16,
        ),
    ),
)
SCHEMAS = {"InferencePool": INFERENCE_POOL, "HTTPRoute": HTTP_ROUTE}
