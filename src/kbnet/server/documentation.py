"""The API documentation at /docs: a page generated from OpenAPI that loads nothing from other sites."""

from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from kbnet.server.page import STATIC

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>kbnet API {version}</title>
<link rel="stylesheet" href="docs.css">
</head>
<body>
<main>
<h1>kbnet API <small>{version}</small></h1>
<p>Send an image, get the restored image. Machine-readable schema: <a href="openapi.json">openapi.json</a>.</p>
<pre>curl --data-binary @noisy.png "{base}v1/restore?task=denoise" -o clean.png</pre>
{key}
{operations}
</main>
</body>
</html>
"""
_KEY = "<p>This server requires an API key: add <code>-H 'Authorization: Bearer KEY'</code>.</p>"


def add_documentation(app: FastAPI) -> None:
    """Serve the page at /docs."""

    async def docs(request: Request) -> Response:
        return HTMLResponse(render(app.openapi(), str(request.base_url)))

    async def style(request: Request) -> Response:
        return FileResponse(STATIC / "docs.css", headers={"Cache-Control": "no-cache"})

    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/docs.css", style, include_in_schema=False)


def render(schema: dict[str, Any], base: str) -> str:
    """Render the page for an OpenAPI schema. `base` is the server's URL with a trailing slash."""
    operations = [
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    locked = "security" in schema
    return _PAGE.format(
        version=escape(schema["info"]["version"]),
        base=escape(base),
        key=_KEY if locked else "",
        operations="\n".join(operations),
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>", f"<p>{escape(operation['summary'])}.</p>"]
    if parameters := operation.get("parameters"):
        rows = [(_code(one["name"]), _meaning(one)) for one in parameters]
        parts.append(_table("parameter", "meaning", rows))
    headers = operation["responses"].get("200", {}).get("headers", {})
    if headers:
        rows = [(_code(name), escape(header["description"])) for name, header in headers.items()]
        parts.append(_table("response header", "meaning", rows))
    rows = [(escape(status), escape(one["description"])) for status, one in sorted(operation["responses"].items())]
    parts.append(_table("status", "when", rows))
    return f"<section>{''.join(parts)}</section>"


def _meaning(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    text = escape(
        parameter.get("description")
        or schema.get("description")
        or "the token passed as `progress`, or received as Kbnet-Result"
    )
    if "enum" in schema:
        text += ": " + ", ".join(map(_code, schema["enum"]))
    if "minimum" in schema:
        text += f"; {schema['minimum']:g} to {schema['maximum']:g}"
    if schema.get("default") is not None:
        text += f"; default {_code(schema['default'])}"
    return text


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>"


def _table(left: str, right: str, rows: list[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td>{a}</td><td>{b}</td></tr>" for a, b in rows)
    return f"<table><thead><tr><th>{left}</th><th>{right}</th></tr></thead><tbody>{body}</tbody></table>"
