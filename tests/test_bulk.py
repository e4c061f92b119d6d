"""Jobs of many rows: the same bits for a row however it is made, nothing lost and nothing twice, and bad input."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import diffusolve
from benchmarks.bulk import Simulated
from diffusolve import bulk
from diffusolve.bulk.driver import Drive
from diffusolve.bulk.engine import Engine
from diffusolve.bulk.ids import Hashes
from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.models import load_model
from diffusolve.bulk.recipes import Recipes
from diffusolve.bulk.rows import row_of
from diffusolve.bulk.shards import record_of
from diffusolve.bulk.sources import source_of
from diffusolve.cli.main import main
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser
from diffusolve.denoisers.digits_network import NO_CLASS, load_digits_network
from diffusolve.workers import Died, Failed, with_device
from tests.tables import for_each

SAMPLERS = ("Euler a", "DPM++ 2M Karras", "UniPC", "Heun", "DPM++ 2M SDE Karras", "DDIM", "Euler a CFG++")


def some_rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "id": f"row {index}",
            "seed": index,
            "sampler": rng.choice(SAMPLERS),
            "steps": rng.randrange(2, 6),
            "guidance": rng.choice([1.0, 2.0]),
            "class": rng.randrange(10),
        }
        for index in range(count)
    ]


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def hashes(out: Path) -> dict[str, str]:
    """Id -> a hash of the bits; raises if an id is there twice."""
    found: dict[str, str] = {}
    for record in bulk.read(out):
        assert record.fields["id"] not in found
        found[record.fields["id"]] = hashlib.sha256(record.sample.tobytes() + (record.image or b"")).hexdigest()
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "rows.jsonl", some_rows(90))


@pytest.fixture(scope="module")
def usual(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The hashes of one worker's rows."""
    out = tmp_path_factory.mktemp("usual")
    summary = bulk.generate(rows, "digits", out, shard_size=25)
    assert (summary.rows, summary.made, summary.failed, summary.is_complete) == (90, 90, 0, True)
    return hashes(out)


# The same bits


def test_batch_size_order_shards_and_format_change_no_bits(rows: Path, usual: dict[str, str], tmp_path: Path) -> None:
    wanted = some_rows(90)[:40]
    random.Random(1).shuffle(wanted)
    for name, batch_size in (("few", 1), ("many", 40)):
        bulk.generate(wanted, "digits", tmp_path / name, shard_size=7, batch_size=batch_size, format="webdataset")
        found = hashes(tmp_path / name)
        assert found == {row["id"]: usual[row["id"]] for row in wanted}


def test_processes_change_no_bits_and_a_killed_one_is_replaced(
    rows: Path, usual: dict[str, str], tmp_path: Path
) -> None:
    summary = bulk.generate(rows, KillingModel(tmp_path / "killed"), tmp_path / "out", shard_size=10, workers=2)
    assert summary.deaths == 1
    assert hashes(tmp_path / "out") == usual


class KillingModel:
    """The digits, and the end of the process that is the first to ask 8 times."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> bulk.Model:
        import dataclasses

        model, calls = load_model("digits"), 0

        def network(x: Any, timesteps: Any, conditions: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 8:
                try:
                    self.path.touch(exist_ok=False)
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), 9)
            return model.network(x, timesteps, conditions)

        return dataclasses.replace(model, network=network)


def test_ray_changes_no_bits_and_a_killed_actor_is_replaced(
    rows: Path, usual: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    model, out = KillingModel(tmp_path / "killed"), tmp_path / "out"
    summary = bulk.generate(rows, model, out, shard_size=10, workers=2, ray=True)
    assert summary.deaths == 1
    assert hashes(out) == usual
    assert not ray.is_initialized()


def test_a_killed_driver_loses_nothing(rows: Path, usual: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "diffusolve", "generate", rows, "--out", out, "--shard-size", "10"]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL) as driver:
        while not list(out.glob("shard-*")) and driver.poll() is None:
            time.sleep(0.01)
        driver.kill()
    there = {path: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert there
    summary = bulk.generate(rows, "digits", out, shard_size=10)
    assert summary.made_before == 10 * len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert hashes(out) == usual


def test_verifying_finds_rows_that_depend_on_their_company(rows: Path, tmp_path: Path) -> None:
    summary = bulk.generate(rows, "digits", tmp_path / "good", verify=10)
    assert (summary.verified, summary.differing) == (10, ())
    summary = bulk.generate(rows, sociable_model, tmp_path / "bad", verify=5)
    assert (summary.verified, len(summary.differing)) == (5, 5)


def sociable_model() -> bulk.Model:
    """A network that normalises by the batch."""
    import dataclasses

    return dataclasses.replace(
        load_model("digits"), network=lambda x, timesteps, conditions: x / (1 + x.std(0, keepdim=True))
    )


def test_a_row_is_what_sample_makes_of_it(rows: Path, tmp_path: Path) -> None:
    wanted = some_rows(12)
    bulk.generate(wanted, "digits", tmp_path)
    network = Denoiser(load_digits_network(), "v_prediction", diffusolve.SD15)
    for row, record in zip(wanted, bulk.read(tmp_path), strict=True):
        label = torch.tensor([row["class"]])
        guided = ClassifierFreeGuidance(network, label, torch.full_like(label, NO_CLASS), row["guidance"])
        sampler = diffusolve.sampler(row["sampler"])
        x = diffusolve.start(sampler.grid(diffusolve.SD15, row["steps"]), (1, 1, 8, 8), row["seed"])
        made = diffusolve.sample(guided, x, sampler, steps=row["steps"], noise=row["seed"])[0]
        torch.testing.assert_close(torch.from_numpy(record.sample.copy()), made, rtol=1e-3, atol=1e-3)


# What is written


def test_shards_hold_arrays_pictures_and_fields(tmp_path: Path) -> None:
    wanted = some_rows(5)
    for form in ("parquet", "webdataset"):
        bulk.generate(wanted, "digits", tmp_path / form, shard_size=3, format=form)
        for row, record in zip(wanted, bulk.read(tmp_path / form), strict=True):
            assert {name: record.fields[name] for name in row} == row | {"class": str(row["class"])}
            assert record.fields["version"] == diffusolve.__version__
            assert record.sample.shape == (1, 8, 8)
            assert record.image is not None
            pixels = np.asarray(Image.open(io.BytesIO(record.image)))
            np.testing.assert_allclose(pixels / 127.5 - 1, record.sample[0].clip(-1, 1), atol=0.005)
    assert sorted(os.listdir(tmp_path / "parquet")) == ["job", "shard-000000.parquet", "shard-000001.parquet"]
    table = pq.read_table(tmp_path / "parquet" / "shard-000000.parquet")
    assert table.column_names[:5] == ["id", "array", "shape", "dtype", "image"]


def test_pictures_are_png_that_others_read() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (4, 3, 3)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        record = record_of(row_of({"id": "a", "seed": 1}), np.zeros(1), pixels, 1)
        assert record.image is not None
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(record.image))), pixels)


def test_pictures_without_pillow_are_told_before_anything_runs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pictures needs Pillow.*pip install 'diffusolve\[bulk\]'"):
        bulk.generate([{"id": "a", "seed": 1}], "digits", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert bulk.generate([{"id": "a", "seed": 1, "steps": 1}], any_size, tmp_path / "none").made == 1


def test_rows_come_from_json_lines_csv_and_parquet(tmp_path: Path) -> None:
    wanted = [row | {"size": "8x8"} for row in some_rows(30)]
    written(tmp_path / "rows.jsonl", wanted)
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, wanted[0], lineterminator="\r\n")
        table.writeheader()
        table.writerows([row | {"id": f'a "quoted"\nid, {row["id"]}'} for row in wanted])
    pq.write_table(pa.Table.from_pylist(wanted), tmp_path / "rows.parquet", row_group_size=7)
    sources = [source_of(tmp_path / f"rows.{ending}") for ending in ("jsonl", "csv", "parquet")]
    found = [list(source.rows()) for source in sources]
    assert [each.row for each in found[0]] == [each.row for each in found[2]] == [row_of(row) for row in wanted]
    ids = [each.row.id for each in found[1] if isinstance(each.row, bulk.Row)]
    assert ids == [f'a "quoted"\nid, {row["id"]}' for row in wanted]
    for source, rows in zip(sources, found, strict=True):
        for index in (0, 1, 11, 29):
            assert [each.row for each in source.block(rows[index].place, 3)] == [
                each.row for each in rows[index : index + 3]
            ]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    rows = [{"id": np.int64(5), "seed": np.uint32(1), "steps": np.int8(2), "size": np.array([8, 16])}]
    bulk.generate(rows, any_size, tmp_path)
    ((record,),) = [list(bulk.read(tmp_path))]
    assert (record.fields["id"], record.sample.shape) == ("5", (1, 8, 16))
    with pytest.raises(ValueError, match=r"row 0 is .*, which JSON cannot hold: a set"):
        bulk.generate([{"id": {1}, "seed": 1}], any_size, tmp_path)


def test_a_field_that_is_there_twice_is_an_error_and_no_choice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,seed,seed\na,1,2\n")
    (tmp_path / "b.jsonl").write_text('{"id": "a", "seed": 1, "seed": 2}\n')
    pq.write_table(pa.table([["a"], [1], [2]], ["id", "seed", "seed"]), tmp_path / "c.parquet")
    for name, reason in (
        ("a.csv", "two columns 'seed'"),
        ("b.jsonl", "line 1: seed is there twice"),
        ("c.parquet", "two columns 'seed'"),
    ):
        with pytest.raises(ValueError, match=reason):
            bulk.generate(tmp_path / name, any_size, tmp_path / "out")


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    lines = "id,seed,sampler,steps\r\n" + "".join(f"é{i},{i},Euler a,1\r\n" for i in range(5))
    (tmp_path / "rows.csv").write_text(lines, encoding="utf-8-sig")
    assert bulk.generate(tmp_path / "rows.csv", any_size, tmp_path / "out", shard_size=2).made == 5
    assert [record.fields["id"] for record in bulk.read(tmp_path / "out")] == [f"é{i}" for i in range(5)]


# Going on


def test_a_job_goes_on_where_it_was_stopped(
    rows: Path, usual: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    note, notes = Folder.note, 0

    def stopping(self: Folder, *arguments: Any) -> None:
        nonlocal notes
        notes += 1
        if notes % 2:
            note(self, *arguments)
        raise KeyboardInterrupt  # with the shard there, and written down or not

    there = []
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "note", stopping)
        for _ in range(6):
            with pytest.raises(KeyboardInterrupt):
                bulk.generate(rows, "digits", tmp_path, shard_size=10, batch_size=16)
            there.append(len(list(tmp_path.glob("shard-*"))))
    assert there == [2, 2, 2, 4, 4, 4]  # what was begun is made again, until a shard is written down
    summary = bulk.generate(rows, "digits", tmp_path, shard_size=10)
    assert hashes(tmp_path) == usual
    assert (summary.made, summary.made_before) == (90, 40)
    again = bulk.generate(rows, "digits", tmp_path, shard_size=10)
    assert (again.made_before, again.evaluations) == (90, 0)


def test_a_job_whose_own_files_are_damaged_says_which(tmp_path: Path) -> None:
    bulk.generate(some_rows(3), any_class, tmp_path, shard_size=2)
    (tmp_path / "shard-000000.parquet").unlink()
    for name, damage in (("bad", Path.unlink), ("blocks", lambda path: path.write_bytes(b"\x93NUMPY"))):
        damage(tmp_path / "job" / f"{name}.npy")
        with pytest.raises(ValueError, match=f"{name}.npy, which the job in .* needs, is damaged or gone"):
            bulk.generate(some_rows(3), any_class, tmp_path, shard_size=2)
        np.save(tmp_path / "job" / "bad.npy", np.zeros(0, np.int64))
    (tmp_path / "c.parquet").write_bytes(b"hello")
    with pytest.raises(ValueError, match=r"c.parquet is no Parquet file"):
        bulk.generate(tmp_path / "c.parquet", any_class, tmp_path / "out")


def any_class() -> bulk.Model:
    """A network for rows of any class."""
    import dataclasses

    return dataclasses.replace(any_size(), unconditional=0)


def test_a_damaged_shard_is_made_again_and_said_so(rows: Path, usual: dict[str, str], tmp_path: Path) -> None:
    for form in ("parquet", "webdataset"):
        out = tmp_path / form
        bulk.generate(rows, "digits", out, shard_size=30, format=form)
        shards = sorted(out.glob("shard-*"))
        content = shards[0].read_bytes()
        shards[0].write_bytes(content[:200] + b"damage" + content[206:])  # as long as it was
        shards[1].write_bytes(content[: len(content) // 2])
        shards[2].unlink()
        (out / f".{'0' * 32}.partial").write_bytes(b"half")
        summary = bulk.generate(rows, "digits", out, shard_size=30, format=form)
        assert [text.partition(" was")[0] for text in summary.damaged] == [shards[0].name, shards[1].name]
        assert "Rows 30 to 59 were made again" in summary.damaged[1]
        assert hashes(out) == usual
        (out / "job" / "shards.jsonl").unlink()  # as if the driver had been killed before it wrote them down
        shards[1].write_bytes(content[: len(content) // 2])
        summary = bulk.generate(rows, "digits", out, shard_size=30, format=form)
        assert (len(summary.damaged), summary.made_before) == (1, 60)
        assert hashes(out) == usual


def test_a_full_disk_leaves_whole_shards_and_the_job_goes_on(
    rows: Path, usual: dict[str, str], tmp_path: Path, monkeypatch: Any
) -> None:
    with monkeypatch.context() as patched:
        fsync, left = os.fsync, iter(range(8))

        def full(handle: int) -> None:
            if next(left, None) is None:
                raise OSError(28, "No space left on device")
            fsync(handle)

        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            bulk.generate(rows, "digits", tmp_path, shard_size=20)
    assert not list(tmp_path.glob(".*"))
    bulk.generate(rows, "digits", tmp_path, shard_size=20)
    assert hashes(tmp_path) == usual


# What fails


def broken_model() -> bulk.Model:
    """The digits; NaN for class 3, an exception for class 4."""
    import dataclasses

    model = load_model("digits")

    def network(x: Any, timesteps: Any, conditions: Any) -> Any:
        if 4 in conditions:
            raise ZeroDivisionError("four")
        outputs = model.network(x, timesteps, conditions)
        outputs[[condition == 3 for condition in conditions]] = float("nan")
        return outputs

    return dataclasses.replace(model, network=network)


def test_rows_that_fail_are_told_and_others_are_as_they_were(rows: Path, usual: dict[str, str], tmp_path: Path) -> None:
    asked = {row["id"]: row for row in some_rows(90)}
    summary = bulk.generate(rows, broken_model, tmp_path, shard_size=20)
    failed = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in failed] == [row["id"] for row in asked.values() if row["class"] in (3, 4)]
    assert {row["class"]: row["reason"].partition(" at evaluation")[0] for row in failed} == {
        "3": "the network's output holds NaN or infinity",
        "4": "the network failed with ZeroDivisionError: four",
    }
    assert summary.failed == len(failed)
    assert hashes(tmp_path) == {id: bits for id, bits in usual.items() if asked[id]["class"] not in (3, 4)}
    adaptive = [{"id": str(label), "seed": 1, "sampler": "DPM adaptive", "class": label} for label in (2, 3, 4)]
    assert bulk.generate(adaptive, broken_model, tmp_path / "adaptive").failed == 2
    again = bulk.generate(rows, broken_model, tmp_path, shard_size=20)
    assert (again.failed, again.evaluations) == (len(failed), 0)
    assert len((tmp_path / "failed.jsonl").read_text().splitlines()) == len(failed)


BAD_ROWS = {
    "{": "is no JSON object",
    "[1]": "a row is",
    '{"id": "a", "seed": 1, "sede": 1}': "unknown option of a row 'sede': did you mean 'seed'",
    '{"id": "a"}': "seed is missing",
    '{"id": "", "seed": 1}': "id is ''",
    '{"id": "a", "seed": -1}': "seed is -1: expected 0",
    '{"id": "a", "seed": 1, "steps": 0}': "steps is 0: expected 1",
    '{"id": "a", "seed": 1, "guidance": NaN}': "guidance is nan",
    '{"id": "a", "seed": 1, "sampler": "UniPD"}': "unknown sampler 'UniPD': did you mean 'UniPC'",
    '{"id": "a", "seed": 1, "sampler": "Euler", "world": "comfy"}': "unknown world 'comfy': did you mean 'comfyui'",
    '{"id": "a", "seed": 1, "sampler": "no.json"}': "the plan no.json cannot be read",
    '{"id": "a", "seed": 1, "class": 10}': "class 10: the digits model knows the classes 0 to 9",
    '{"id": "a", "seed": 1, "prompt": "a cat"}': "the digits model takes no prompt",
    '{"id": "a", "seed": 1, "size": 16}': "size is 16x16: this model makes samples of 8x8 only",
    '{"id": "good 1", "seed": 1}': "the id 'good 1' is that of line 1 already",
}


@for_each(("line", "reason"), BAD_ROWS.items())
def test_a_bad_row_is_named_with_its_line_before_anything_runs(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": "good 1", "seed": 1}}\n\n{line}\n{{"id": "good 2", "seed": 2}}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="rows that cannot be made") as raised:
        bulk.generate(path, "digits", tmp_path / "out")
    assert f"line 3: {reason}" in str(raised.value).replace("line 3: '{' ", "line 3: ")
    assert not list((tmp_path / "out").glob("shard*"))


def test_bad_rows_are_passed_over_on_request(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(['{"id": "good 1", "seed": 1, "steps": 2}', *BAD_ROWS, '{"id": "good 2", "seed": 2}']))
    summary = bulk.generate(path, "digits", tmp_path / "out", skip_bad=True, shard_size=4)
    assert (summary.made, summary.bad, summary.rows) == (2, len(BAD_ROWS), len(BAD_ROWS) + 2)
    assert list(hashes(tmp_path / "out")) == ["good 1", "good 2"]
    failed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    assert sorted(row["line"] for row in failed) == list(range(2, 2 + len(BAD_ROWS)))


def test_repeated_ids_are_found_among_many(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("diffusolve.bulk.ids.CHUNK", 100)
    with Hashes(tmp_path) as ids:
        for number in range(1000):
            ids.add(str(number))
        assert ids.repeated() == frozenset()
        ids.add("517")
        assert len(ids.repeated()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_job_says_which(rows: Path, tmp_path: Path) -> None:
    first = written(tmp_path / "few.jsonl", some_rows(3))
    out = tmp_path / "out"
    bulk.generate(first, "digits", out)
    with pytest.raises(ValueError, match=r"another job, that of .*few.jsonl with digits: the content of the input"):
        bulk.generate(rows, "digits", out)
    with pytest.raises(ValueError, match="model is 'digits' there, 'exact' here"):
        bulk.generate(first, "exact", out)
    with pytest.raises(ValueError, match="shard_size is 1000 there, 5 here"):
        bulk.generate(first, "digits", out, shard_size=5)
    (tmp_path / "moved.jsonl").write_bytes(first.read_bytes())
    assert bulk.generate(tmp_path / "moved.jsonl", "digits", out).evaluations == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds 'thesis.tex' and no job"):
        bulk.generate(first, "digits", tmp_path / "other")
    with Folder(out).locked(), pytest.raises(BlockingIOError, match="another process works"):
        bulk.generate(first, "digits", out)


def test_what_else_is_wrong_is_said(rows: Path, tmp_path: Path) -> None:
    for arguments, reason in {
        ("rows.txt",): "is no file of rows by its ending: expected one of .jsonl",
        ("rows.jsonl",): "there is no file",
    }.items():
        with pytest.raises((ValueError, OSError), match=reason):
            bulk.generate(tmp_path / arguments[0], "digits", tmp_path / "out")
    for options, reason in (
        ({"workers": 0}, "workers is 0: expected a whole number, at least 1"),
        ({"format": "parkay"}, "unknown format 'parkay': did you mean 'parquet'"),
        ({"model": "digit"}, "unknown model 'digit': did you mean 'digits'"),
        ({"device": "tpu"}, "device is 'tpu', which PyTorch does not have here"),
    ):
        with pytest.raises(ValueError, match=reason):
            bulk.generate(rows, **{"model": "digits", "out": tmp_path / "out", **options})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"cannot be sent to other processes.*at the top of a module"):
        bulk.generate(rows, lambda: load_model("digits"), tmp_path / "out", workers=2)
    with pytest.raises(NotADirectoryError, match="is a file: give a folder"):
        bulk.generate(rows, "digits", rows)


def test_a_plan_for_another_model_makes_no_rows(tmp_path: Path) -> None:
    for schedule, predicts, reason in (
        (diffusolve.SD15, "epsilon", "made for epsilon prediction, but the network predicts v_prediction"),
        ("ddpm", "v_prediction", "made for another noise schedule"),
    ):
        path = tmp_path / "plan.json"
        path.write_text(diffusolve.sampler("Euler Karras").plan(schedule, predicts, 3).to_json(), encoding="utf-8")
        with pytest.raises(ValueError, match=reason):
            bulk.generate([{"id": "a", "seed": 1, "sampler": str(path)}], any_size, tmp_path / "out")


def test_ray_that_is_missing_or_unreachable_is_said(rows: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Ray cluster at {address}"):
            bulk.generate(rows, "digits", tmp_path, ray_address=address)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusolve\[ray\]'"):
        bulk.generate(rows, "digits", tmp_path, ray=True)


# The engine


def test_shapes_samplers_without_plans_and_plan_files_go_together(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    plan = diffusolve.sampler("Heun").plan(diffusolve.SD15, "v_prediction", 3)
    Path("plan.json").write_text(plan.to_json(), encoding="utf-8")
    named = [{"id": str(size), "seed": 1, "size": size, "sampler": "Heun", "steps": 3} for size in (8, 16, 24)]
    files = [{"id": f"plan {size}", "seed": 1, "size": size, "sampler": "plan.json"} for size in (8, 16, 24)]
    adaptive = [{"id": f"adaptive {seed}", "seed": seed, "sampler": "DPM adaptive", "size": 8} for seed in (1, 2)]
    bulk.generate([*named, *files, *adaptive], any_size, "out")
    found = {record.fields["id"]: record.sample for record in bulk.read("out")}
    for size in (8, 16, 24):
        assert found[str(size)].shape == (1, size, size)
        np.testing.assert_array_equal(found[str(size)], found[f"plan {size}"])
    bulk.generate(adaptive[1:], any_size, "alone")
    np.testing.assert_array_equal(next(bulk.read("alone")).sample, found["adaptive 2"])
    Path("plan.json").write_text(plan.to_json(indent=1), encoding="utf-8")
    with pytest.raises(ValueError, match="the content of a plan file"):
        bulk.generate([*named, *files, *adaptive], any_size, "out")


def test_samples_in_half_precision_are_written_as_they_are(tmp_path: Path) -> None:
    import dataclasses

    def model(dtype: torch.dtype) -> Any:
        return lambda: dataclasses.replace(any_size(), like=torch.empty(0, dtype=dtype), decode=lambda samples: samples)

    for dtype, written_as in ((torch.float16, "float16"), (torch.bfloat16, "float32")):
        out = tmp_path / written_as
        summary = bulk.generate(rows_of_noise(3), model(dtype), out, verify=3)
        assert (summary.made, summary.verified, summary.differing) == (3, 3, ())
        for record in bulk.read(out):
            assert (record.fields["dtype"], record.sample.dtype) == (written_as, np.dtype(written_as))
            sample = torch.from_numpy(record.sample.copy())
            assert torch.equal(sample.to(dtype).to(sample.dtype), sample)


def any_size() -> bulk.Model:
    """A network of any size, in calls of three."""
    return bulk.Model(
        network=lambda x, timesteps, conditions: 0.1 * x,
        noise_schedule=diffusolve.SD15,
        prediction="v_prediction",  # type: ignore[arg-type]
        shape=lambda size: (1, *(size or (8, 8))),
        condition=lambda row: None,
        call_size=3,
    )


def test_calls_are_full_as_long_as_there_are_rows() -> None:
    model = load_model("digits")
    engine = Engine(model, Recipes(model, {}), 48)
    waiting = [row_of(row) for row in some_rows(200)]
    over = []
    while waiting or len(engine):
        while waiting and not engine.is_full:
            assert engine.join(waiting.pop(), (0, len(waiting))) is None
        if not waiting and engine.computed:
            break
        over += engine.step(drain=False)
    assert engine.evaluations == engine.computed
    assert over


class Clock:
    """A clock that stands still but for the calls of a network, so that nothing else on the machine counts."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def perf_counter(self) -> float:
        return self.seconds


CLOCK = Clock()


def slow_to_call(network: Any, most: int = 1 << 30) -> Any:
    """A factory of models whose network takes a while for each call, however large, and memory for `most` rows."""

    def called(x: Any, timesteps: Any, conditions: Any) -> Any:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        CLOCK.seconds += 0.002
        return network(x)

    def make() -> bulk.Model:
        import dataclasses

        return dataclasses.replace(any_size(), network=called, call_size=4)

    return make


def rows_of_noise(count: int) -> list[dict[str, Any]]:
    return [{"id": str(seed), "seed": seed, "sampler": "Euler a", "steps": 16, "size": 32} for seed in range(count)]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call is made both ways, and timed by :data:`CLOCK`."""
    monkeypatch.setattr("diffusolve.bulk.width.time", CLOCK)
    monkeypatch.setattr("diffusolve.bulk.width.EVERY", 1)


@pytest.mark.usefixtures("eager")
def test_as_many_rows_are_asked_about_at_once_as_are_quicker_and_the_same_bits(tmp_path: Path) -> None:
    by_size = lambda x: 0.1 * x * (1 + 1e-6 * (len(x) > 8))  # noqa: E731 - the bits of 8 rows and more are others
    for name, network, rows_at_once, why in (
        ("same", lambda x: 0.1 * x, 16, ""),
        ("others", by_size, 8, "the bits are others"),
        ("company", lambda x: x / (1 + x.std(0, keepdim=True)), 4, "the bits are others"),
    ):
        found = bulk.generate(rows_of_noise(64), slow_to_call(network), tmp_path / name)
        ((size, reason),) = found.calls.values()
        assert size >= rows_at_once if not why else (size, reason) == (rows_at_once, why)
        if name != "company":
            alone = bulk.generate(rows_of_noise(64), slow_to_call(network), tmp_path / f"{name} alone", batch_size=4)
            assert (alone.call_size, alone.calls) == (4, {(1, 32, 32): (4, "")})
            assert hashes(tmp_path / name) == hashes(tmp_path / f"{name} alone")
        told = json.loads((tmp_path / name / "job" / "calls.json").read_text())
        assert told == {"1x32x32": {"rows": size, "no more": reason}}


@pytest.mark.usefixtures("eager")
def test_memory_that_is_short_halves_calls_before_anything_is_made_and_no_bits_after(tmp_path: Path) -> None:
    network = lambda x: 0.1 * x  # noqa: E731
    found = bulk.generate(rows_of_noise(60), slow_to_call(network, most=9), tmp_path / "a", workers=1)
    assert (found.call_size, found.calls) == (4, {(1, 32, 32): (8, "memory is short")})
    found = bulk.generate(rows_of_noise(9), slow_to_call(network, most=1), tmp_path / "b", shard_size=4)
    assert (found.made, found.call_size) == (9, 1)
    (tmp_path / "b" / "shard-000001.parquet").unlink()
    again = bulk.generate(rows_of_noise(9), slow_to_call(network), tmp_path / "b", shard_size=4)
    assert (again.made_before, again.made, again.call_size) == (5, 9, 1)  # as the job began
    with pytest.raises(MemoryError, match=r"a call of the network on 4 rows was out of memory.* smaller call_size"):
        bulk.generate(rows_of_noise(9), slow_to_call(network, most=1), tmp_path / "c", call_size=4)
    bulk.generate(rows_of_noise(9), slow_to_call(network), tmp_path / "d", shard_size=4)
    (tmp_path / "d" / "shard-000001.parquet").unlink()
    with pytest.raises(MemoryError, match="2 shards were made by such calls, and their bits are those of 4 rows"):
        bulk.generate(rows_of_noise(9), slow_to_call(network, most=1), tmp_path / "d", shard_size=4)


@pytest.mark.usefixtures("eager")
def test_a_size_is_halved_where_memory_gets_short_and_no_row_is_lost(tmp_path: Path) -> None:
    calls = 0

    def network(x: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 30 and len(x) > 4:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate")
        return 0.1 * x

    found = bulk.generate(rows_of_noise(64), slow_to_call(network), tmp_path / "short")
    assert (found.made, found.calls) == (64, {(1, 32, 32): (4, "memory is short")})
    bulk.generate(rows_of_noise(64), slow_to_call(lambda x: 0.1 * x), tmp_path / "usual", batch_size=8)
    assert hashes(tmp_path / "short") == hashes(tmp_path / "usual")


def test_rows_of_many_shapes_fill_their_calls(tmp_path: Path) -> None:
    rows = [row | {"size": 8 * (1 + row["seed"] % 6), "steps": 5} for row in rows_of_noise(300)]
    found = bulk.generate(rows, any_size, tmp_path / "found")
    assert found.occupancy > 0.9
    assert len(found.calls) == 6
    bulk.generate(rows, any_size, tmp_path / "few", batch_size=6)
    assert hashes(tmp_path / "found") == hashes(tmp_path / "few")


def test_workers_take_gpus_in_turn(monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [with_device("cuda", number) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert with_device("cpu", 1) == "cpu"


# The driver


def simulated_job(path: Path) -> tuple[Folder, Job]:
    folder = Folder(path)
    folder.make()
    job = Job("rows", 0, 0, "", 995, 0, 10, "parquet", "m", "", "cpu", 1, 16, "", {})
    folder.begin(job, range(job.blocks), [])
    return folder, job


def test_every_block_is_done_once_however_many_workers_are_lost(tmp_path: Path) -> None:
    folder, job = simulated_job(tmp_path)
    drive = Drive(folder, job, {}, False)
    drive.run(Simulated(job, rate=1.0, mean_life=60.0, turn=3.0), 7)
    assert drive.deaths > 10
    assert sorted(drive.complete) == list(range(100))
    noted = [json.loads(line)["block"] for line in (tmp_path / "job" / "shards.jsonl").read_text().splitlines()]
    assert sorted(noted) == list(range(100))
    assert drive.rows_done == 995


def test_workers_that_die_at_once_or_cannot_go_on_end_the_job(tmp_path: Path) -> None:
    class Saying(Simulated):
        said: Any

        def worked(self, worker: int) -> Any:
            return self.said

    folder, job = simulated_job(tmp_path)
    for said, error in ((Died("was ended by SIGSEGV"), RuntimeError), (Failed(OSError("disk")), OSError)):
        hands = Saying(job, rate=1.0, mean_life=1e9, turn=1.0)
        hands.said = said
        with pytest.raises(error, match=r"5 workers died .* was ended by SIGSEGV, was at blocks|disk"):
            Drive(folder, job, {}, False).run(hands, 2)


# The program


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exited:
        main([str(argument) for argument in arguments])
    return int(exited.value.code or 0)


def test_the_program_says_by_its_status_how_it_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "good.jsonl", some_rows(3))
    assert run("generate", good, "--out", tmp_path / "a") == 0
    assert "3 of 3 rows" in capsys.readouterr().out
    bad = written(tmp_path / "bad.jsonl", [*some_rows(2), {"id": "x", "seed": 1, "sampler": "Oiler"}])
    assert run("generate", bad, "--out", tmp_path / "b") == 2
    assert "line 3: unknown sampler 'Oiler'" in capsys.readouterr().err
    assert run("generate", bad, "--out", tmp_path / "b", "--skip-bad") == 1
    assert "1 rows could not be made" in capsys.readouterr().out


def test_another_programs_name_of_a_field_is_answered_with_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'cfg_scale' is no field of a row: its name here is 'guidance'"):
        bulk.generate([{"id": 1, "seed": 1, "cfg_scale": 4}], "gaussian", tmp_path / "out")
