"""The OpenAPI document of the server, with the limits it was started with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .asked import Settings

SEED_ROUTE = "/api/to_back_end/predict"
ERRORS = {
    400: "The body is not JSON.",
    401: "The bearer token is missing or wrong.",
    404: "There is no such page.",
    405: "The path does not know this method.",
    413: "The body is too large.",
    415: "The body's content type is not application/json.",
    422: "A value is missing or out of its limits; `place` names it.",
    429: "The queue is full; try again after `Retry-After` seconds.",
    500: "Scoring raised for the text that `place` names.",
    503: "The server is stopping.",
}


def document(version: str, labels: Sequence[str], settings: Settings, explains: bool) -> dict[str, Any]:
    """The document as JSON has it."""
    body_errors = (400, 413, 415, 422, 429, 500, 503)
    paths: dict[str, Any] = {
        "/v1/score": {
            "post": _operation(
                "score",
                "Score texts",
                "One result a text, in order. A request is answered whole or not at all.",
                {"$ref": "#/components/schemas/Scores"},
                body_errors,
                {"texts": ["Сайн байна уу", "Шинэ startup-ын cash flow"]},
                "ScoreRequest",
            )
        },
        "/v1/model": {
            "get": _operation(
                "model",
                "What this model is",
                "Model card, recipe, where it came from, and the SHA-256 of every file.",
                {"$ref": "#/components/schemas/Model"},
                (),
            )
        },
        SEED_ROUTE: {
            "get": _operation(
                "predict",
                "Score one text, as the server of mn-tweet-bert did",
                "For front ends written for it: open to every origin.",
                {"$ref": "#/components/schemas/Prediction"},
                (422, 429, 500, 503),
            )
            | {
                "parameters": [
                    {
                        "name": "text",
                        "in": "query",
                        "required": True,
                        "schema": _text(settings),
                        "example": "Сайн байна уу",
                    }
                ]
            },
            "post": _operation("predict_post", 'Says "post", as it did', "", {"const": "post"}, ()),
        },
        "/healthz": {"get": _open(_operation("healthz", "Whether the process lives", "", _state("ok"), ()))},
        "/readyz": {
            "get": _open(
                _operation("readyz", "Whether it takes requests", "503 from SIGTERM on.", _state("ready"), (503,))
            )
        },
        "/metrics": {
            "get": _operation("metrics", "Metrics for Prometheus", "", {"type": "string"}, (), content="text/plain")
        },
    }
    if explains:
        paths["/v1/explain"] = {
            "post": _operation(
                "explain",
                "What each token did to the score",
                "By masking it or leaving it out; with attention where the bundle has it.",
                {"$ref": "#/components/schemas/Explanation"},
                body_errors,
                {"text": "Сайн байна уу"},
                "ExplainRequest",
            )
        }
    components: dict[str, Any] = {"schemas": _schemas(labels, settings)}
    result = {
        "openapi": "3.1.0",
        "info": {"title": "jirgee", "version": version, "description": "Scores short texts with one model."},
        "paths": paths,
        "components": components,
    }
    if settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        result["security"] = [{"token": []}]
        for path in paths.values():
            for operation in path.values():
                if "security" not in operation:
                    operation["responses"]["401"] = _error(401)
    return result


def _operation(
    name: str,
    summary: str,
    description: str,
    schema: dict[str, Any],
    errors: Sequence[int],
    example: Any = None,
    body: str = "",
    content: str = "application/json",
) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "description": description}
    if body:
        schema_of_body = {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of_body, "example": example}},
        }
    operation["responses"] = {"200": {"description": "Done.", "content": {content: {"schema": schema}}}}
    operation["responses"] |= {str(status): _error(status) for status in errors}
    return operation


def _error(status: int) -> dict[str, Any]:
    error: dict[str, Any] = {
        "description": ERRORS[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status == 429:
        error["headers"] = {"Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}}}
    return error


def _open(operation: dict[str, Any]) -> dict[str, Any]:
    """Needs no token."""
    return operation | {"security": []}


def _object(properties: dict[str, Any], optional: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def _state(name: str) -> dict[str, Any]:
    return _object({"status": {"const": name}})


def _text(settings: Settings) -> dict[str, Any]:
    return {"type": "string", "maxLength": settings.max_chars}


def _explanation(labels: Sequence[str], share: dict[str, Any]) -> dict[str, Any]:
    whole, probs = {"type": "integer", "minimum": 0}, _object(dict.fromkeys(labels, share))
    token = {
        "text": {"type": "string"},
        "start": whole | {"description": "In Unicode code points."},
        "end": whole,
        "effect": _object({label: {"type": "number"} for label in labels})
        | {"description": "How far the piece moved the log-odds of each label."},
        "without": probs | {"description": "The probabilities without the piece."},
    }
    weights = {"type": "string", "description": "Base64 of uint8 [layers, heads, m, m]; 255 for all."}
    attention = dict.fromkeys(("layers", "heads", "before", "after"), whole) | {"weights": weights}
    return _object(
        {
            "text": {"type": "string"},
            "label": {"enum": list(labels)},
            "probs": probs,
            "truncated": {"type": "boolean"},
            "tokens": {"type": "array", "items": _object(token)},
            "replacement": {"enum": ["mask", "deletion"]},
            "attention": {"oneOf": [_object(attention), {"type": "null"}]},
        }
    )


def _schemas(labels: Sequence[str], settings: Settings) -> dict[str, Any]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    text = _text(settings)
    return {
        "ScoreRequest": _object(
            {"texts": {"type": "array", "items": text, "minItems": 1, "maxItems": settings.max_texts}}
        ),
        "ExplainRequest": _object({"text": text}),
        "Explanation": _explanation(labels, share),
        "Scores": _object({"results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}}}),
        "Result": _object(
            {
                "label": {"enum": list(labels), "description": "The most probable label."},
                "score": share | {"description": "Its probability."},
                "probs": _object(dict.fromkeys(labels, share)),
                "truncated": {
                    "type": "boolean",
                    "description": "The text was longer than the model's limit and was cut.",
                },
                "unknown_share": share | {"description": "Of its pieces, those that the tokenizer does not know."},
                "note": {
                    "enum": ["", "empty", "link-only"],
                    "description": "Why the text says nothing, if it does not.",
                },
            }
        ),
        "Prediction": _object(
            {
                "username": {"enum": list(labels)},
                "score": {"type": "string", "description": "A number between 0 and 1."},
                "req_count": {"type": "integer", "minimum": 1},
            }
        ),
        "Model": _object(
            {
                "name": {"type": "string"},
                "labels": {"type": "array", "items": {"type": "string"}},
                "card": {"type": "string", "description": "Markdown."},
                "recipe": {"type": "string"},
                "max_tokens": {"type": "integer"},
                "temperature": {"type": "number"},
                "ngram_weight": {"type": "number"},
                "tolerance": {"type": "number"},
                "size_bytes": {"type": "integer"},
                "files": {"type": "object", "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]{64}$"}},
                "provenance": {"type": "object"},
                "device": {"type": "string"},
                "threads": {"type": "integer"},
                "limits": _object(
                    {
                        "max_texts": {"type": "integer"},
                        "max_chars": {"type": "integer"},
                        "max_body": {"type": "integer"},
                    }
                ),
                "explains": {"type": "boolean"},
            }
        ),
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": {"type": "string"},
                        "place": {"type": ["string", "null"], "description": "As in `texts[3]`."},
                    }
                )
            }
        ),
    }
