"""A web server of handwritten digits, or of emoji, from one mixed batch, and a program that puts it under load.

    pip install "diffusolve[cli]" fastapi uvicorn httpx
    python -m examples.serve_fastapi serve --port 8000
    python -m examples.serve_fastapi load --url http://localhost:8000 --count 200 --rate 20

``POST /generate`` with ``{"digit": 3, "sampler": "UniPC", "steps": 12, "seed": 1, "guidance": 2}`` answers a PNG;
``POST /stream`` a line of JSON after each step, ``{"step": 0, "steps": 12, "png": base64}``; ``GET /metrics`` text for
Prometheus. With ``--model emoji``, for both programs, bodies say ``{"class": "cat-face"}`` instead of a digit. A client
that hangs up frees its place in the batch. With ``--token WORD`` (or the environment variable PICTURES_TOKEN, which no
list of processes shows) clients have to send ``Authorization: Bearer WORD``.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import statistics
import sys
import time
from typing import Any

from diffusolve.denoisers.emoji import load_emoji_classes
from examples.asking import STATUS, Refused, asked_request, check_token, headers_of, status_of
from examples.picture_model import MODELS, batcher_of, png


def make_app(max_batch_size: int = 16, max_queue: int = 256, token: str | None = None, model: str = "digits") -> Any:
    """The FastAPI application of a model of digits or emoji; with a `token` it serves only those who send it."""
    from fastapi import FastAPI, Request
    from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

    batcher = batcher_of(model, max_batch_size, max_queue)
    zoom = MODELS[model].zoom

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        async with batcher:
            yield

    app = FastAPI(title=model, lifespan=lifespan)

    def refused(_: Request, error: Exception) -> Response:
        status = status_of(error)
        return JSONResponse({"error": str(error)}, status, headers_of(status))

    for kind in (Refused, *STATUS):
        app.add_exception_handler(kind, refused)

    @app.post("/generate")
    async def generate(request: Request) -> Response:
        made = asyncio.ensure_future(batcher.generate(await asked_request(request, batcher, token, model)))
        gone = asyncio.ensure_future(hung_up(request))
        try:
            await asyncio.wait({made, gone}, return_when=asyncio.FIRST_COMPLETED)
            return Response(png(await made, zoom), media_type="image/png") if made.done() else Response(status_code=499)
        finally:
            made.cancel()
            gone.cancel()

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        previews = batcher.stream(await asked_request(request, batcher, token, model))
        first = await anext(previews)  # what is wrong with the request is still answered by a status
        return StreamingResponse(lines(first, previews, zoom), media_type="application/x-ndjson")

    @app.get("/metrics")
    async def metrics(request: Request) -> PlainTextResponse:
        check_token(request.headers, token)
        return PlainTextResponse(batcher.metrics(), media_type="text/plain; version=0.0.4")

    return app


async def hung_up(request: Any) -> None:
    """Wait until the client is gone; the body of its request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def lines(first: Any, previews: Any, zoom: int) -> Any:
    """A line for the first preview of a stream and for each that follows."""
    async with contextlib.aclosing(previews):
        yield line(first, zoom)
        async for preview in previews:
            yield line(preview, zoom)


def line(preview: Any, zoom: int) -> str:
    picture = base64.b64encode(png(preview.data, zoom)).decode()
    return json.dumps({"step": preview.step, "steps": preview.steps, "png": picture}) + "\n"


async def load(client: Any, count: int, rate: float, seed: int = 0, model: str = "digits") -> dict[str, Any]:
    """Ask for `count` pictures, `rate` of them in a second at random times; how they were answered and how fast."""
    classes = list(range(10)) if model == "digits" else load_emoji_classes()
    rng, statuses, seconds = random.Random(seed), [], []

    async def one(after: float, asked: dict[str, Any]) -> None:
        await asyncio.sleep(after)
        begun = time.perf_counter()
        answer = await client.post("/generate", json=asked, timeout=120)
        seconds.append(time.perf_counter() - begun)
        statuses.append(answer.status_code)

    samplers = ("DPM++ 2M Karras", "UniPC", "Euler a", "Heun", "DPM++ 2M SDE Karras")
    at, asking = 0.0, []
    for number in range(count):
        at += rng.expovariate(rate)
        steps, sampler = rng.choice((8, 12, 20, 30)), rng.choice(samplers)
        of = {MODELS[model].key: classes[number % len(classes)]}
        asking.append(one(at, {**of, "sampler": sampler, "steps": steps, "seed": number}))
    begun = time.perf_counter()
    await asyncio.gather(*asking)
    took, ordered = time.perf_counter() - begun, sorted(seconds)
    return {
        "answers": {status: statuses.count(status) for status in sorted(set(statuses))},
        "images per second": statuses.count(200) / took,
        "p50": statistics.median(ordered),
        "p95": ordered[min(int(0.95 * count), count - 1)],
    }


async def load_url(url: str, count: int, rate: float, model: str) -> dict[str, Any]:
    import httpx

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits) as client:
        return await load(client, count, rate, model=model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = parser.add_subparsers(dest="program", required=True)
    server = programs.add_parser("serve", help="serve pictures")
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", type=int, default=8000)
    server.add_argument("--max-batch-size", type=int, default=16)
    server.add_argument("--max-queue", type=int, default=256)
    server.add_argument("--token", default=os.environ.get("PICTURES_TOKEN"), help="serve only those who send it")
    loading = programs.add_parser("load", help="put a server under load")
    loading.add_argument("--url", default="http://127.0.0.1:8000")
    loading.add_argument("--count", type=int, default=200)
    loading.add_argument("--rate", type=float, default=20.0, help="requests in a second")
    for program in (server, loading):
        program.add_argument("--model", choices=list(MODELS), default="digits")
    given = parser.parse_args()
    try:
        if given.program == "serve":
            import uvicorn

            connections = 2 * (given.max_batch_size + given.max_queue) + 100
            app = make_app(given.max_batch_size, given.max_queue, given.token, given.model)
            uvicorn.run(app, host=given.host, port=given.port, limit_concurrency=connections)
        else:
            for name, value in asyncio.run(load_url(given.url, given.count, given.rate, given.model)).items():
                print(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    except ImportError as error:
        sys.exit(f"this example needs the package {error.name}: pip install fastapi uvicorn httpx")


if __name__ == "__main__":
    main()
