"""The web page: Gradio draws the controls, `static/page.js` sends pictures to the API and shows what comes back.

No picture goes through Gradio: it would write each to disk, and hand results out at 8 bits. So it is left without
functions to call, and what it answers besides the page itself (uploads, proxies, files, queues) is closed.
"""

import os
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from kbnet.imaging import FORMATS
from kbnet.server.api import Desk
from kbnet.server.replies import Refused

_STATIC = Path(__file__).parent / "static"
_HEAD = """
<title>kbnet</title>
<meta name="description" content="Restores photographs on this machine">
<link rel="stylesheet" href="page/page.css">
<script type="module" src="page/page.js"></script>
"""
_LABELS = {
    "denoise": "Noise",
    "denoise-gaussian": "Gaussian noise",
    "derain": "Rain",
    "deblur": "Blur",
}
_GRADIO_FILES = ("/assets/", "/static/", "/svelte/")
_GRADIO_PATHS = ("/", "/config", "/theme.css", "/favicon.ico", "/gradio_api/startup-events")


class _Fence:
    """Lets through to Gradio only what draws the page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        drawn = path in _GRADIO_PATHS or path.startswith(_GRADIO_FILES)
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or not drawn or ".." in path:
            raise Refused(404, "there is nothing at this address; see /openapi.json for what there is")
        await self._app(scope, receive, send)


def add_page(app: FastAPI, desk: Desk, *, locked: bool) -> None:
    """Put the page at "/" of an application that has the API.

    Args:
        app: the application; every path that it does not know is the page's from now on.
        desk: whose models are offered.
        locked: whether to ask for an API key.

    Raises:
        ModuleNotFoundError: gradio is not installed.
    """
    # read by gradio when it is imported; it would report each start, ask for newer releases, and load fonts from afar
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import gradio as gr

    inner = FastAPI(openapi_url=None)
    plain = gr.themes.Default(
        primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    dark_enough = {"button_primary_background_fill": "*primary_700", "block_info_text_color": "*body_text_color"}
    plain.set(**dark_enough, block_title_text_color="*body_text_color")
    gr.mount_gradio_app(
        inner,
        _blocks(gr, desk, locked=locked),
        path="/",
        ssr_mode=False,
        show_error=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        theme=plain,
        head=_HEAD,
    )
    app.mount("/page", StaticFiles(directory=_STATIC))
    app.mount("/", _Fence(inner))


def _blocks(gr: Any, desk: Desk, *, locked: bool) -> Any:
    tasks = sorted({entry.task for entry in desk.models if entry.default}, key=list(_LABELS).index)
    examples = [task for task in tasks if (_STATIC / f"example-{task}.jpg").is_file()]
    with gr.Blocks(title="kbnet", analytics_enabled=False, fill_width=False) as blocks:
        gr.HTML(_part("top").replace("EXAMPLES", " ".join(examples)), padding=False)
        with gr.Row(elem_id="kb-options"):
            task = gr.Radio(
                [(_LABELS[name], name) for name in tasks], value=desk.usual, label="What to remove", elem_id="kb-task"
            )
            strength = gr.Slider(
                0, 1, 1, step=0.05, label="Strength", info="1 restored, 0 as it was", elem_id="kb-strength"
            )
            format = gr.Dropdown(
                [("as it was", ""), *((name.upper(), name) for name in FORMATS)],
                value="",
                label="Format of the result",
                elem_id="kb-format",
            )
        key = gr.Textbox(type="password", label="API key of this server", visible=locked, elem_id="kb-key")
        restore = gr.Button("Restore", variant="primary", elem_id="kb-restore")
        gr.HTML(_part("result"), padding=False)
        # in the browser alone: no function of this process stands behind it
        restore.click(
            None, [task, strength, format, key], None, js="(...options) => { window.kbnetRestore(...options); }"
        )
    return blocks


def _part(name: str) -> str:
    return (_STATIC / f"{name}.html").read_text(encoding="utf-8")
