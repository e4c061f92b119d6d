"""Hostile requests to the servers of digits: each is answered with what is wrong, briefly, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

import diffusolve
from diffusolve.serving import ContinuousBatcher, QueueFull, Request
from examples import asking
from examples.asking import Refused, asked_request, status_of
from examples.picture_model import batcher_of
from tests.tables import for_each


class Sent:
    """What a framework hands over: headers, and a body that comes in parts, `pause` seconds apart."""

    def __init__(self, *parts: bytes, pause: float = 0.0, **headers: str) -> None:
        self.parts, self.pause, self.headers = parts, pause, headers
        self.read = 0

    async def stream(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            await asyncio.sleep(self.pause)
            self.read += len(part)
            yield part


def answer(sent: Sent, token: str | None = None, model: str = "digits") -> tuple[int, str]:
    """The status and the text that a server answers; 200 where it has a picture."""

    async def work() -> tuple[int, str]:
        async with batcher_of(model, max_batch_size=2, max_queue=2) as batcher:
            try:
                await batcher.generate(await asked_request(sent, batcher, token, model))
            except (Refused, *asking.STATUS) as error:
                return status_of(error), str(error)
            return 200, ""

    return asyncio.run(work())


def body(**changes: Any) -> bytes:
    return json.dumps({"digit": 3, "steps": 2, "seed": 1, **changes}).encode()


@for_each(
    ("sent", "status", "reason"),
    [
        (body(), 200, ""),
        (body(guidance=0), 200, ""),
        (b"", 422, "the body is not JSON"),
        (b"\xff\xfe", 422, "the body is not JSON"),
        (b"[" * 4000, 422, "the body is nested too deeply"),
        (b'{"digit": ' + b"9" * 4000 + b"}", 422, "digit is a value of int that cannot be shown|digit is 999"),
        (b"3", 422, "the body is 3: expected a JSON object"),
        (b"{}", 422, "the body is {}: expected a JSON object"),
        (body(digit=True), 422, "digit is True: expected a whole number"),
        (body(digit=3.0), 422, "digit is 3.0: expected a whole number"),
        (body(digit=[1]), 422, r"digit is \[1\]: expected a whole number"),
        (body(digit=-1), 422, "digit is -1: expected 0 to 9"),
        (body(sampler=None), 422, "sampler is None: expected a name"),
        (body(sampler="E" * 3000), 422, r"sampler is 'EEE.*EEE' \(3002 characters\): expected a name of at most 100"),
        (body(sampler="Eulr"), 422, "unknown sampler 'Eulr': did you mean 'Euler'"),
        (body(sampler="DPM adaptive"), 422, "dpm_adaptive chooses its steps"),
        (body(steps=None), 422, "steps is None: expected a whole number"),
        (body(steps=0), 422, "steps is 0: expected at least 1"),
        (body(steps=2.0), 422, "steps is 2.0: expected a whole number"),
        (body(steps=10**300), 422, r"steps is 1000.*0000 \(301 characters\): expected at most 200"),
        (body(guidance=1e308), 422, r"guidance is 1e\+308: expected a number from 0 to 100"),
        (b'{"digit": 3, "guidance": NaN}', 422, "guidance is nan: expected a number from 0 to 100"),
        (b'{"digit": 3, "guidance": -Infinity}', 422, "guidance is -inf: expected a number from 0 to 100"),
        (body(guidance=10**400), 422, r"guidance is 1000.*: expected a number from 0 to 100"),
        (body(guidance="2"), 422, "guidance is '2': expected a number"),
        (body(priority=10**12), 422, "priority is 1000000000000: expected -3 to 3"),
        (body(priority="1"), 422, "priority is '1': expected a whole number"),
        (body(seed=-1), 422, "seed is -1: expected at least 0"),
        (body(seed=2**64), 200, ""),
        (body(seed="x" * 3000), 422, r"seed is 'xxx.*xxx' \(3002 characters\): expected a whole number"),
        (body(**{"k" * 3000: 1}), 422, r"unknown option of a digit 'kkk.*kkk' \(3002 characters\)"),
        (body(shape=[9]), 422, "unknown option of a digit 'shape'"),
        (body(timeout=1e9), 422, "unknown option of a digit 'timeout'"),
    ],
)
def test_each_body_is_answered_with_what_is_wrong_with_it(sent: bytes, status: int, reason: str) -> None:
    got, text = answer(Sent(sent))
    assert got == status, text
    assert re.match(reason, text), text
    assert len(text) < 600


@for_each(
    ("sent", "status", "reason"),
    [
        (b'{"class": "cat-face", "steps": 2}', 200, ""),
        (b'{"class": "cat-fase"}', 422, "unknown class of emoji 'cat-fase': did you mean 'cat-face'"),
        (b'{"class": 3}', 422, "class is 3: expected a name such as 'cat-face'"),
        (b'{"class": "' + b"c" * 3000 + b'"}', 422, "class is 'ccc.*expected a name such as"),
        (b'{"digit": 3}', 422, r"the body is {'digit': 3}: expected a JSON object such as {\"class\": \"cat-face\"}"),
    ],
)
def test_a_server_of_emoji_is_asked_by_names_of_classes(sent: bytes, status: int, reason: str) -> None:
    got, text = answer(Sent(sent), model="emoji")
    assert got == status, text
    assert re.match(reason, text), text


def test_a_body_is_read_no_further_than_it_may_be_long() -> None:
    endless = Sent(*[b"x" * 1000] * 1000)
    assert answer(endless) == (413, "the body is longer than 4096 bytes.")
    assert endless.read == 5000


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_SECONDS", 0.05)
    assert answer(Sent(*[b" "] * 1000, pause=0.01)) == (408, "the body did not come within 0.05 seconds.")


@for_each(
    ("headers", "status"),
    [
        ({"authorization": "Bearer secret"}, 200),
        ({"authorization": "Bearer secret "}, 401),
        ({"authorization": "secret"}, 401),
        ({"authorization": "Bearer s\xe9cret"}, 401),
        ({}, 401),
    ],
)
def test_a_server_with_a_token_serves_those_who_send_it(headers: dict[str, str], status: int) -> None:
    sent = Sent(body(), **headers)
    assert answer(sent, "secret")[0] == status
    assert sent.read == (len(body()) if status == 200 else 0)
    assert "secret" not in answer(Sent(body()), "secret")[1]


def test_a_full_server_refuses_before_it_reads() -> None:
    async def work() -> None:
        async with batcher_of(max_batch_size=1, max_queue=1) as batcher:
            asked = await asked_request(Sent(body(steps=50)), batcher)
            made = [asyncio.ensure_future(batcher.generate(asked)) for _ in range(2)]
            await asyncio.sleep(0)
            sent = Sent(body())
            with pytest.raises(QueueFull) as caught:
                await asked_request(sent, batcher)
            assert (status_of(caught.value), sent.read) == (503, 0)
            await asyncio.gather(*made)

    asyncio.run(work())


def test_a_request_that_is_slow_to_plan_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, planned = ContinuousBatcher._plan, []

    def slowly(self: ContinuousBatcher, wanted: Any, steps: int | None) -> Any:
        planned.append(steps)
        time.sleep(0.5 if steps == 9 else 0.0)
        return plan(self, wanted, steps)

    monkeypatch.setattr(ContinuousBatcher, "_plan", slowly)
    ended = []

    def model(x: Any, timesteps: Any, requests: Any) -> Any:
        return x.tanh()

    async def one(batcher: ContinuousBatcher, steps: int) -> None:
        await batcher.generate(Request(sampler="Euler", steps=steps, shape=(1, 2, 2), seed=1))
        ended.append(steps)

    async def work() -> None:
        async with ContinuousBatcher(model, noise_schedule=diffusolve.SD15, prediction_type="epsilon") as batcher:
            slow = [asyncio.ensure_future(one(batcher, 9)) for _ in range(3)]
            await asyncio.sleep(0.05)
            await asyncio.gather(*[one(batcher, steps) for steps in (1, 2, 3)])
            assert not any(task.done() for task in slow)
            await asyncio.gather(*slow)

    asyncio.run(work())
    assert sorted(ended) == [1, 2, 3, 9, 9, 9]
    assert planned.count(9) == 1
