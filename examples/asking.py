"""What a server makes sure of before a request may ask for a picture; the same for every web framework.

In this order, so that refusing costs little: a token, if the server has one; room in the queue; a body that is small
and comes soon; values that can be served. What is wrong is a :class:`Refused` with the status to answer.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from typing import Any

from diffusolve.errors import check_options, shown
from diffusolve.serving import BatcherClosed, ContinuousBatcher, QueueFull, Request, RequestFailed, RequestTimeout
from examples.picture_model import MODELS, PictureModel, picture_request

MOST_BYTES = 4096
"""The longest body; a request for a picture has some 100 bytes."""

MOST_SECONDS = 5.0
"""The time in which the body has to come."""

KEYS = ("sampler", "steps", "seed", "guidance", "priority")
"""Of a body, beside what is to be in the picture."""

STATUS = {QueueFull: 503, BatcherClosed: 503, RequestTimeout: 504, RequestFailed: 500, ValueError: 422, TypeError: 422}
"""What a client is answered when its request ends without a sample."""


class Refused(Exception):
    """A request that is not served, with the status to answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def status_of(error: Exception) -> int:
    """The status of the answer to a request that ended with `error`."""
    if isinstance(error, Refused):
        return error.status
    return next(status for kind, status in STATUS.items() if isinstance(error, kind))


def headers_of(status: int) -> dict[str, str]:
    """The headers that tell a client what to do about a status."""
    return {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(status, {})


def check_token(headers: Any, token: str | None) -> None:
    """Raise Refused unless `headers` bring the server's token, if it has one."""
    given = headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Refused(401, "this server asks for a token: send the header Authorization: Bearer TOKEN.")


async def asked_request(
    request: Any, batcher: ContinuousBatcher, token: str | None = None, model: str = "digits"
) -> Request:
    """The request for a picture in a request of Starlette, which FastAPI and Ray Serve hand over.

    Raises:
        Refused: no token, no room, or a body that is too long or comes too slowly.
        ValueError, TypeError: the body asks for something that there is not.
    """
    check_token(request.headers, token)
    if batcher.is_full:  # before anything is read
        raise QueueFull(f"{batcher.max_queue} requests wait already: try again.")
    try:
        body = await asyncio.wait_for(body_of(request), MOST_SECONDS)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not come within {MOST_SECONDS:g} seconds.") from None
    asked = asked_values(body, MODELS[model])
    return picture_request(MODELS[model], asked.pop(MODELS[model].key), **asked)


async def body_of(request: Any) -> bytes:
    """The body, read no further than `MOST_BYTES`."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise Refused(413, f"the body is longer than {MOST_BYTES} bytes.")
    return body


def asked_values(body: bytes, model: PictureModel) -> dict[str, Any]:
    """The values in a JSON object, all of whose keys are known."""
    try:
        asked = json.loads(body)
    except RecursionError:
        raise ValueError("the body is nested too deeply: expected a JSON object of numbers and texts.") from None
    except ValueError as error:
        raise ValueError(f"the body is not JSON: {error}.") from None
    if not isinstance(asked, dict) or model.key not in asked:
        example = json.dumps({model.key: model.example})
        raise ValueError(f"the body is {shown(asked)}: expected a JSON object such as {example}.")
    check_options(f"a {model.key}", asked, (model.key, *KEYS))
    return asked
