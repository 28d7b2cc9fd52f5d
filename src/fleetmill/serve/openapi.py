"""What the gateway answers, as an OpenAPI 3.1 document: `GET /openapi.json`. What engines answer is theirs to word."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version
from typing import Any

import orjson

PATHS = ("/openapi.json", "/v1/openapi.json")  # the second also behind `fleetmill up`, whose own is the first
_TEXT: dict[str, Any] = {"type": "string"}
_WHOLE: dict[str, Any] = {"type": "integer", "minimum": 1}
_MOST = 2**31 - 1
_ASKED: dict[str, Any] = {
    "model": _TEXT,
    "stream": {"type": "boolean"},
    "max_tokens": {**_WHOLE, "maximum": _MOST},
    "n": {**_WHOLE, "maximum": 128},
}
_MESSAGE = {"type": "object", "required": ["role"], "properties": {"role": _TEXT, "content": {}}}
_HEADERS = (
    ("x-fleetmill-label", {"enum": ["open", "attested", "premises", "device"]}, "How confidential it is."),
    ("x-fleetmill-consent", {"enum": ["partner"]}, "This request may go to a partner."),
    ("x-fleetmill-conversation", {"type": "string", "maxLength": 200, "pattern": "^[!-~]*$"}, "Its name."),
    ("x-fleetmill-deadline-ms", {**_WHOLE, "maximum": _MOST}, "First token by then."),
)
_RELAYED: tuple[tuple[str, str, list[str], dict[str, Any]], ...] = (
    ("/v1/chat/completions", "A chat", ["model", "messages"], {"messages": {"type": "array", "items": _MESSAGE}}),
    ("/v1/completions", "A completion", ["model", "prompt"], {"prompt": {}}),
    ("/v1/embeddings", "Embeddings", ["model", "input"], {"input": {}}),
    ("/v1/responses", "A response", ["model", "input"], {"input": {}}),
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message"],
            "properties": {"message": _TEXT, "type": _TEXT, "code": _TEXT, "param": {"type": "null"}},
        }
    },
}
_OIP_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"anyOf": [_TEXT, _ERROR["properties"]["error"]]}},  # type: ignore[index]
}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": _TEXT,
        "datatype": {"enum": [f"{k}{n}" for k, s in (("INT", "8"), ("FP", "16")) for n in (s, "32", "64")] + ["BOOL"]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
    },
}
_NAMED = {"in": "path", "name": "model", "required": True, "schema": _TEXT}
_VERSION = {"in": "path", "name": "version", "required": True, "schema": _TEXT}


@lru_cache(maxsize=4)
def document(address: str) -> bytes:
    """The document of a gateway at that address."""
    paths = {path: _relayed(path, title, required, more) for path, title, required, more in _RELAYED}
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Fleetmill gateway", "version": version("fleetmill")},
            "servers": [{"url": address}],
            "security": [{"key": []}],
            "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
            "paths": {**paths, **_told(), **_inference()},
        }
    )


def _relayed(path: str, title: str, required: list[str], more: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "required": required, "properties": {**_ASKED, **more}}
    parameters = [{"in": "header", "name": n, "schema": s, "description": d} for n, s, d in _HEADERS]
    event = {"type": "object", "required": ["data"], "properties": {"data": _TEXT, "event": _TEXT}}
    answered = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": event}}
    return {
        "post": {
            "summary": f"{title}, from the server that the policy chooses",
            "operationId": path.removeprefix("/v1/").replace("/", "_"),
            "parameters": parameters,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {
                "200": {"description": "The engine's answer, whole or in pieces", "content": answered},
                "400": _wrong("It cannot be asked so; by the gateway or by the engine"),
                "401": _wrong("No such key"),
                "403": _wrong("Its label reaches no server, or a partner lacks consent"),
                "404": _wrong("No server has the model"),
                "413": _wrong("Too long"),
                "422": _wrong("The engine cannot be asked so"),
                "429": _wrong("No room now, or no budget"),
                "431": _wrong("Too many headers"),
                "503": _wrong("Nobody is there, or nobody in time"),
            },
        }
    }


def _told() -> dict[str, Any]:
    models = {
        "type": "object",
        "required": ["object", "data"],
        "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}},
    }
    return {
        "/v1/models": {"get": _get("models", "The models of the pool", models, {"401": _wrong("No such key")})},
        "/health": {"get": {**_get("health", "Is it there?", {"type": "object"}, {}), "security": []}},
        "/metrics": {
            "get": {
                "operationId": "metrics",
                "summary": "Counts, no content",
                "security": [],
                "responses": {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": _TEXT}}}},
            }
        },
    }


def _inference() -> dict[str, Any]:
    """The Open Inference Protocol, version 2."""
    wrong = {"401": _wrong("No such key", _OIP_ERROR), "404": _wrong("Not served", _OIP_ERROR)}
    thing = {"type": "object"}
    body = {
        "type": "object",
        "required": ["inputs"],
        "properties": {"id": _TEXT, "inputs": {"type": "array", "items": _TENSOR}},
    }
    found: dict[str, Any] = {
        "/v2": {"get": _get("server", "The server", thing, wrong)},
        "/v2/health/live": {"get": _get("live", "Is it alive?", thing, wrong)},
        "/v2/health/ready": {"get": _get("ready", "Is it ready?", thing, wrong)},
        "/v2/models": {"get": _get("lines", "The lines that are served", thing, wrong)},
    }
    for end, parameters, mark in (("", [_NAMED], ""), ("/versions/{version}", [_NAMED, _VERSION], "_version")):
        path = f"/v2/models/{{model}}{end}"
        found[path] = {"parameters": parameters, "get": _get(f"line{mark}", "Its ports", thing, wrong)}
        found[f"{path}/ready"] = {"parameters": parameters, "get": _get(f"ready{mark}", "Is it there?", thing, wrong)}
        found[f"{path}/infer"] = {
            "parameters": parameters,
            "post": {
                **_get(f"infer{mark}", "Ask it; the answer says which version spoke", thing, wrong),
                "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            },
        }
        found[f"{path}/infer"]["post"]["responses"]["400"] = _wrong("It cannot be asked so", _OIP_ERROR)
    return found


def _get(name: str, summary: str, schema: dict[str, Any], wrong: dict[str, Any]) -> dict[str, Any]:
    good = {"description": summary, "content": {"application/json": {"schema": schema}}}
    return {"operationId": name, "summary": summary, "responses": {"200": good, **wrong}}


def _wrong(what: str, schema: dict[str, Any] = _ERROR) -> dict[str, Any]:
    return {"description": what, "content": {"application/json": {"schema": schema}}}
