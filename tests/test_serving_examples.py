"""The servers of digits, and the code on the page about serving."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import diffusolve
from diffusolve.batching import BatchRun, coefficients, slots_of
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.plan import Plan
from examples import picture_model, serve_fastapi, serve_ray

PAGE = Path(__file__).parent.parent / "docs" / "serving.md"
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


DIGITS = picture_model.MODELS["digits"]


# The page


def test_the_pages_code_runs_in_the_order_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for code in CODE:
        exec(compile(code, str(PAGE), "exec"), names)
    assert [image.shape for image in names["images"]] == [(1, 8, 8)] * 3
    printed = capsys.readouterr().out
    assert "20 torch.Size([1, 8, 8])" in printed
    assert 'diffusolve_requests_total{outcome="completed"} 4' in printed
    assert printed.count("torch.Size([1, 8, 8])") == 21 + 3
    assert "('slot0', 'sample')" in printed


def test_the_pages_engine_makes_the_samples_that_a_batch_makes() -> None:
    names: dict[str, Any] = {"torch": torch}
    (code,) = (code for code in CODE if "def evaluation(" in code)
    exec(compile(code, str(PAGE), "exec"), names)
    plans = [
        diffusolve.sampler(name).plan(diffusolve.SD15, "v_prediction", 6)
        for name in ("UniPC", "Heun", "Euler a", "LMS")
    ]
    shape, like = (len(plans), 2, 3), torch.empty(len(plans), 2, 3, dtype=torch.float64)
    x = torch.stack([diffusolve.start(plan, like[:1], seed)[0] for seed, plan in enumerate(plans)])

    def network(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return x / (1 + abs(x)) + 0.001 * timesteps.reshape(-1, 1, 1)

    def draws() -> Any:
        generator = torch.Generator().manual_seed(0)
        return lambda *_: torch.randn(1, *shape[1:], dtype=torch.float64, generator=generator)

    state = {f"slot{k}": torch.zeros_like(x) for k in range(max(map(slots_of, plans)))} | {"sample": x.clone()}
    noise, nfe = draws(), [plan.nfe for plan in plans]
    finished: dict[int, torch.Tensor] = {}
    for done in range(max(nfe)):
        positions = [(plan, min(done, plan.nfe - 1)) for plan in plans]  # those that are done go on for nothing
        names["evaluation"](coefficients(positions), state, network, lambda row: noise()[0])
        finished |= {row: state["sample"][row].clone() for row, count in enumerate(nfe) if count == done + 1}
    batch = BatchRun()
    rows = [batch.join(plan, start, noise=draws()) for plan, start in zip(plans, x, strict=True)]
    while len(batch):
        for inputs in batch.inputs():
            batch.advance(inputs, network(inputs.x, inputs.timesteps))
    for index, row in enumerate(rows):
        torch.testing.assert_close(finished[index], row.result, rtol=1e-9, atol=1e-9)


# The model of digits


def test_the_model_of_digits_guides_each_request_as_it_asks() -> None:
    requests = [
        picture_model.picture_request(DIGITS, digit, "UniPC", 6, seed=digit, guidance=g)
        for digit, g in ((3, 1.0), (5, 2.0), (7, 4.0))
    ]

    async def work() -> list[torch.Tensor]:
        async with picture_model.batcher_of() as batcher:
            return await asyncio.gather(*map(batcher.generate, requests))

    network = Denoiser(load_digits_network(), "v_prediction", diffusolve.SD15)
    for request, sample in zip(requests, asyncio.run(work()), strict=True):
        label = torch.tensor([request.condition])
        guided = ClassifierFreeGuidance(network, label, torch.full_like(label, NO_CLASS), request.guidance_scale)
        x = diffusolve.start(plan_of(request), torch.empty(1, 1, 8, 8), request.seed)
        direct = diffusolve.sample(guided, x, diffusolve.sampler("UniPC"), steps=6)[0]
        torch.testing.assert_close(sample, direct, rtol=1e-3, atol=1e-3)


def plan_of(request: Any) -> Plan:
    return diffusolve.sampler(request.sampler).plan(diffusolve.SD15, "v_prediction", request.steps)


def test_a_picture_is_black_where_the_sample_is_minus_one() -> None:
    sample = torch.linspace(-1.5, 1.5, 64).reshape(1, 8, 8)
    with Image.open(io.BytesIO(picture_model.png(sample, zoom=2))) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (16, 16)
    assert (pixels[0, 0], pixels[-1, -1]) == (0, 255)
    assert (np.diff(pixels[::2, ::2].astype(int).ravel()) >= 0).all()


def test_a_server_of_emoji_answers_in_colour() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    with TestClient(serve_fastapi.make_app(max_batch_size=4, max_queue=2, model="emoji")) as opened:
        answer = opened.post("/generate", json={"class": "heart", "steps": 12, "seed": 1})
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert (picture.mode, picture.size) == ("RGB", (128, 128))
        red, _, blue = np.asarray(picture).reshape(-1, 3).astype(int).T
    assert abs(red - blue).max() > 30  # no grey


def test_there_are_ten_digits() -> None:
    with pytest.raises(ValueError, match="digit is 10: expected 0 to 9"):
        picture_model.picture_request(DIGITS, 10)


# The web server


@pytest.fixture
def client() -> Any:
    pytest.importorskip("fastapi")
    pytest.importorskip("httpx")
    from fastapi.testclient import TestClient

    with TestClient(serve_fastapi.make_app(max_batch_size=4, max_queue=2)) as opened:
        yield opened


def test_the_web_server_answers_pictures(client: Any) -> None:
    asked = {"digit": 3, "sampler": "UniPC", "steps": 5, "seed": 1}
    answers = [client.post("/generate", json=asked) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].headers["content-type"] == "image/png"
    assert answers[0].content == answers[1].content
    with Image.open(io.BytesIO(answers[0].content)) as picture:
        assert picture.size == (128, 128)
    assert 'outcome="completed"} 2' in client.get("/metrics").text


def test_the_web_server_streams_previews_and_ends_with_the_picture(client: Any) -> None:
    asked = {"digit": 3, "sampler": "Heun", "steps": 4, "seed": 1}
    lines = [json.loads(line) for line in client.post("/stream", json=asked).text.splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert base64.b64decode(lines[-1]["png"]) == client.post("/generate", json=asked).content


@pytest.mark.parametrize("path", ["/generate", "/stream"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"steps": 0}, "steps is 0: expected at least 1"),
        ({"steps": 201}, "steps is 201: expected at most 200"),
        ({"sampler": "UniPD"}, "unknown sampler 'UniPD': did you mean 'UniPC'"),
        ({"digit": 12}, "digit is 12: expected 0 to 9"),
    ],
    ids=["steps", "many steps", "sampler", "digit"],
)
def test_the_web_server_says_what_is_wrong_with_a_request(
    client: Any, path: str, changes: dict[str, Any], reason: str
) -> None:
    answer = client.post(path, json={"digit": 1, **changes})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(reason)


def test_the_load_program_counts_the_answers() -> None:
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")

    async def work() -> dict[str, Any]:
        app = serve_fastapi.make_app(max_batch_size=2, max_queue=2)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app=app)
            async with httpx.AsyncClient(transport=transport, base_url="http://digits") as asking:
                return await serve_fastapi.load(asking, count=12, rate=1e6)

    figures = asyncio.run(work())
    assert sum(figures["answers"].values()) == 12
    assert set(figures["answers"]) == {200, 503}  # more came at once than may wait
    assert figures["images per second"] > 0
    assert 0 < figures["p50"] <= figures["p95"]


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of Ray Serve, which has one application of two replicas."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("grpc") is None:
        pytest.skip("Ray Serve is not installed: pip install 'ray[serve]'")
    import ray
    from ray import serve

    here = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), *sys.path]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        environment = {"env_vars": {"PYTHONPATH": here}}
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=environment)
        try:
            serve.start(http_options={"port": port})
            serve.run(serve_ray.make_app(replicas=2))
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def test_ray_serves_pictures_previews_and_refusals_from_two_replicas(served: str) -> None:
    import httpx

    asked = {"digit": 3, "sampler": "Heun", "steps": 4, "seed": 1}

    async def work() -> tuple[Any, ...]:
        async with httpx.AsyncClient(base_url=served, timeout=60) as asking:
            picture = await asking.post("/", json=asked)
            lines = (await asking.post("/stream", json=asked)).text.splitlines()
            refused = await asking.post("/", json=asked | {"sampler": "Hoin"})
            figures = await serve_fastapi.load(asking, count=20, rate=100)
            return picture, [json.loads(line) for line in lines], refused, figures

    picture, lines, refused, figures = asyncio.run(work())
    assert picture.headers["content-type"] == "image/png"
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert len(base64.b64decode(lines[-1]["png"])) > 50
    assert (refused.status_code, "unknown sampler 'Hoin'" in refused.text) == (422, True)
    assert figures["answers"] == {200: 20}


def test_another_version_takes_over_while_requests_run_and_streams_go_on(served: str) -> None:
    import httpx
    from ray import serve

    asked = {"digit": 3, "sampler": "Euler", "steps": 12, "seed": 1, "guidance": 1}
    pictures: list[Any] = []
    streams: list[tuple[str, list[int]]] = []

    async def ask(asking: Any, update: asyncio.Task[Any]) -> None:
        while not update.done():
            pictures.append(await asking.post("/", json=asked))
        pictures.append(await asking.post("/", json=asked))

    async def watch(asking: Any, update: asyncio.Task[Any]) -> None:
        """Streams, one after the other, as long as the update takes."""
        while not update.done():
            async with asking.stream("POST", "/stream", json=asked | {"steps": 100}) as answer:
                steps = [json.loads(line)["step"] async for line in answer.aiter_lines()]
            streams.append((answer.headers["x-version"], steps))

    async def work() -> None:
        async with httpx.AsyncClient(base_url=served, timeout=60) as asking:
            await asking.post("/", json=asked)
            update = asyncio.create_task(asyncio.to_thread(serve.run, serve_ray.make_app(version="2")))
            await asyncio.gather(*(asked_for(asking, update) for asked_for in (ask, ask, watch, watch)))

    asyncio.run(work())
    assert {picture.status_code for picture in pictures} == {200}
    assert len({picture.content for picture in pictures}) == 1
    versions = [picture.headers["x-version"] for picture in pictures]
    assert (versions[0], versions[-1]) == ("1", "2")
    assert [steps for _, steps in streams] == [list(range(101))] * len(streams)
    assert streams[0][0] == "1"


def test_what_is_not_in_the_ray_example_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'application'"):
        _ = serve_ray.application
