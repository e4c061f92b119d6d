"""The lab's server: the page on an address of this machine, which takes nothing from anywhere else."""

from __future__ import annotations

import os
import socket
from typing import Any

from diffusolve.denoisers.named import check_model

__all__ = ["POLICY", "launch", "serve"]

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; connect-src 'self'; worker-src 'self' blob:"
)
"""The sources that browsers may load from: the page itself, and nothing from elsewhere."""


class _WithPolicy:
    """Sends :data:`POLICY` along with each answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(event: Any) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event["headers"], (b"content-security-policy", POLICY.encode())]
            await send(event)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def serve(model: str = "emoji", host: str = "127.0.0.1", port: int = 7860, *, open_browser: bool = False) -> None:
    """Serve the page until the process is interrupted. Arguments and errors as of :func:`launch`."""
    page, address = launch(model, host, port, open_browser=open_browser)
    print(f"the lab is at {address} (stop it with Ctrl-C)", flush=True)
    page.block_thread()


def launch(
    model: str = "emoji", host: str = "127.0.0.1", port: int = 7860, *, open_browser: bool = False
) -> tuple[Any, str]:
    """Begin to serve the page, and return it (its ``close()`` ends that) with its address.

    Args:
        model: what is chosen at first: a name of ``diffusolve sample --model``, or the path of a pipeline folder.
        host: the address to listen on; "0.0.0.0" lets other machines in.
        port: 0 takes a free one.
        open_browser: show the page in a browser.

    Raises:
        ImportError: gradio is not installed.
        OSError: the port is taken, or there is no such folder.
        UnknownNameError: no such model.
    """
    check_model(model)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ImportError("the lab needs gradio: pip install 'diffusolve[lab]'.") from error
    from starlette.middleware import Middleware

    from diffusolve.lab.page import STYLE, make_page

    theme = gradio.themes.Default(
        primary_hue="indigo",
        neutral_hue="gray",
        radius_size="sm",
        spacing_size="sm",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    page = make_page(model)
    _, address, _ = page.queue(default_concurrency_limit=8).launch(
        server_name=host,
        server_port=_free_port(host, port),
        share=False,
        quiet=True,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        theme=theme,
        css_paths=STYLE,
        ssr_mode=False,
        app_kwargs={"middleware": [Middleware(_WithPolicy)]},
    )
    return page, str(address)


def _free_port(host: str, port: int) -> int:
    """`port` if nobody listens there; a free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"port {port} of {host} cannot be listened on ({error.strerror}): give another.") from error
        return int(probe.getsockname()[1])
