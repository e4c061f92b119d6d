"""Handwritten digits, or emoji, from Ray Serve, one mixed batch in each replica.

    pip install "diffusolve[cli]" "ray[serve]"
    serve run examples.serve_ray:app
    python -m examples.serve_fastapi load --url http://localhost:8000 --count 200 --rate 20
    curl -X POST localhost:8000 -d '{"digit": 3, "sampler": "UniPC", "steps": 12}' --output three.png

With MODEL=emoji in the environment it serves emoji, ``{"class": "cat-face"}``.

Ray's own batches (``@serve.batch``) hold requests that begin together and end together, so that all of one batch must
have the same sampler and steps. Here a replica takes many requests at once, and its batcher lets them join and leave
between steps: Ray routes and scales, the batch is mixed. `max_ongoing_requests` should be what the batcher can have
under way and waiting; more requests wait with Ray. ``POST /stream`` answers a line of JSON after each step, any other
path a PNG, ``GET /metrics`` the figures of the replica that happens to answer; each says in ``x-version`` who did.

**A rolling update** is Ray's. With another VERSION (of the weights, say) `serve run` again: new replicas start and take
what comes, old ones end when their requests are done, for which they have PATIENCE; previews stream on.
"""

import os
from typing import Any

from examples.asking import STATUS, Refused, asked_request, check_token, headers_of, status_of
from examples.picture_model import MODELS, batcher_of, png
from examples.serve_fastapi import lines

MAX_BATCH_SIZE, MAX_QUEUE = 16, 64

PATIENCE = 120.0
"""Seconds that a replica has to end what it has begun when another version takes over; a request may take 60."""

MODEL = os.environ.get("MODEL", "digits")

VERSION = os.environ.get("VERSION", "1")
"""What is deployed. Ray replaces replicas if it changes, as it does if this file does."""

TOKEN = os.environ.get("PICTURES_TOKEN")
"""The token that clients have to send, if there is one."""


def make_app(replicas: int = 1, version: str = VERSION) -> Any:
    """The Ray Serve application; `replicas` may also be "auto"."""
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

    zoom = MODELS[MODEL].zoom

    @serve.deployment(
        num_replicas=replicas,
        max_ongoing_requests=MAX_BATCH_SIZE + MAX_QUEUE,
        graceful_shutdown_timeout_s=PATIENCE,
    )
    class Pictures:
        async def __init__(self, version: str) -> None:
            self.version = version
            # In the event loop that the replica's requests run in, to which the batcher then belongs.
            self.batcher = await batcher_of(MODEL, MAX_BATCH_SIZE, MAX_QUEUE).__aenter__()

        async def __call__(self, request: Request) -> Response:
            answer = await self.answer(request)
            answer.headers["x-version"] = self.version
            return answer

        async def answer(self, request: Request) -> Response:
            try:
                if request.url.path.endswith("/metrics"):
                    check_token(request.headers, TOKEN)
                    return PlainTextResponse(self.batcher.metrics())
                asked = await asked_request(request, self.batcher, TOKEN, MODEL)
                if request.url.path.endswith("/stream"):
                    previews = self.batcher.stream(asked)
                    first = await anext(previews)  # what is wrong with the request is still answered by a status
                    return StreamingResponse(lines(first, previews, zoom), media_type="application/x-ndjson")
                sample = await self.batcher.generate(asked)  # cancelled if the client hangs up
            except (Refused, *STATUS) as error:
                status = status_of(error)
                return JSONResponse({"error": str(error)}, status, headers_of(status))
            return Response(png(sample, zoom), media_type="image/png")

    return Pictures.bind(version)


def __getattr__(name: str) -> Any:
    if name == "app":  # what `serve run` imports; made here so that this file can be read without Ray
        return make_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
