"""The web page: files in `static/` that use only this server's API."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"


class _Files(StaticFiles):
    """Static files that browsers revalidate, so that a new version takes effect."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def add_page(app: FastAPI) -> None:
    """Add the page at "/" and its files under "/page" to an application with the API."""

    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def icon(request: Request) -> Response:
        return FileResponse(STATIC / "mark.svg", headers={"Cache-Control": "no-cache"})

    app.add_route("/", index, include_in_schema=False)
    app.add_route("/favicon.ico", icon, include_in_schema=False)
    app.mount("/page", _Files(directory=STATIC))
