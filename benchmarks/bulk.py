"""Bulk generation measured: ``python -m benchmarks.bulk experiment``, ``rates``, ``machinery``, ``growth``...

- `experiment`: many rows of the digits network with mixed samplers and steps, by one worker, by two, on a local Ray,
  and by two whose job is interrupted, workers and driver being killed at random times. Rows are compared by hashes.
- `rates`: rows per second of a core in mixed batches, in batches with one sampler and number of steps at a time, and by
  a plain ``map_batches`` of Ray Data, where each batch is divided by sampler and steps; the last two as people write
  them. Of many configurations with few rows each, and of few with many.
- `machinery`: what a row and an evaluation cost besides the network, by one that does nothing.
- `growth`: rows per second and memory by the number of rows, with a model that costs next to nothing.
- `simulation`: the real driver with simulated workers: its work, the size of what it writes down, and what a restart
  takes, for a job of any size. The assumptions are the options.

All share one machine with whatever else it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from diffusolve import SD15, sample, sampler, start
from diffusolve.bulk import Model, generate, load_model, read
from diffusolve.bulk.driver import Drive
from diffusolve.bulk.job import Folder, Job
from diffusolve.bulk.shards import Made
from diffusolve.bulk.worker import AHEAD, Done, Turn
from diffusolve.denoisers import ClassifierFreeGuidance, Denoiser
from diffusolve.workers import Died, Hands

SAMPLERS = ("Euler a", "DPM++ 2M Karras", "UniPC", "Heun", "DPM++ 2M SDE Karras", "DDIM")

app = typer.Typer(no_args_is_help=True, help=__doc__)


def rows_of(count: int, most_steps: int) -> Iterator[dict[str, Any]]:
    """Rows of digits with mixed samplers, steps, guidance and classes."""
    rng = random.Random(0)
    for number in range(count):
        yield {
            "id": f"row-{number}",
            "seed": number,
            "sampler": rng.choice(SAMPLERS),
            "steps": rng.randrange(2, most_steps + 1),
            "guidance": rng.choice((1.0, 1.0, 2.0)),
            "class": rng.randrange(10),
        }


def written(path: Path, count: int, most_steps: int) -> Path:
    """A file of rows."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows_of(count, most_steps):
            file.write(json.dumps(row) + "\n")
    return path


def hashes(out: Path) -> tuple[dict[str, str], int]:
    """Id -> hash of the sample, and how many ids are there more than once."""
    found, twice = dict[str, str](), 0
    for record in read(out):
        twice += record.fields["id"] in found
        found[record.fields["id"]] = hashlib.sha256(record.sample.tobytes()).hexdigest()
    return found, twice


# Interrupted


@app.command()
def experiment(count: int = 20_000, most_steps: int = 5, kills: int = 5, ray: bool = True, seed: int = 0) -> None:
    """Make the same rows in four ways and compare."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        rows = written(folder / "rows.jsonl", count, most_steps)
        begun = time.perf_counter()
        generate(rows, "digits", folder / "one")
        seconds = time.perf_counter() - begun
        usual, twice = hashes(folder / "one")
        print(
            f"{count} rows; one worker: {seconds:.0f} s, {count / seconds:.0f} rows/s; "
            f"{len(usual)} there, {twice} twice"
        )
        ways: dict[str, Any] = {"two workers, batches of 50": {"workers": 2, "batch_size": 50, "shard_size": 700}}
        if ray:
            ways["two workers on Ray"] = {"workers": 2, "ray": True}
        for name, options in ways.items():
            begun = time.perf_counter()
            generate(rows, "digits", folder / name, **options)
            report(name, time.perf_counter() - begun, usual, folder / name)
        begun = time.perf_counter()
        told = interrupted(rows, folder / "killed", kills, seconds, random.Random(seed))
        report(f"two workers, killed: {', '.join(told)}", time.perf_counter() - begun, usual, folder / "killed")


def report(name: str, seconds: float, usual: dict[str, str], out: Path) -> None:
    """Print what there is and how it differs."""
    found, twice = hashes(out)
    other = sum(found[id] != bits for id, bits in usual.items() if id in found)
    lost = len(usual.keys() - found.keys())
    print(f"{name}: {seconds:.0f} s, {len(usual) / seconds:.0f} rows/s; {other} other bits, {lost} lost, {twice} twice")


def interrupted(rows: Path, out: Path, kills: int, seconds: float, rng: random.Random) -> list[str]:
    """Make the rows by a process that is killed, or whose workers are, at random times; what was done."""
    command = [
        sys.executable,
        "-m",
        "diffusolve",
        "generate",
        rows,
        "--out",
        out,
        "--workers",
        "2",
        "--shard-size",
        "200",
    ]
    told = list[str]()
    victims = ["worker", "driver"] * kills
    while True:
        driver = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(told) < kills:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(rng.uniform(0.05, 0.2) * seconds)
                break
            victim = victims[len(told)]
            workers = workers_of(driver.pid)
            target = driver.pid if victim == "driver" or not workers else rng.choice(workers)
            os.kill(target, signal.SIGKILL)
            told.append(f"{victim} at {len(list(out.glob('shard-*')))} shards")
            if target == driver.pid:
                break
        if driver.wait() == 0:
            return told


def workers_of(driver: int) -> list[int]:
    """The processes that work for `driver`."""
    children = Path(f"/proc/{driver}/task/{driver}/children").read_text().split()
    return [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


# Rows per second


MANY = {"samplers": SAMPLERS, "steps": range(2, 13), "guidance": (1.0, 1.5, 2.0)}
FEW = {"samplers": SAMPLERS[:2], "steps": (8,), "guidance": (2.0,)}


def rows_among(count: int, samplers: Sequence[str], steps: Sequence[int], guidance: Sequence[float]) -> Any:
    """Rows of digits with each of these at random."""
    rng = random.Random(0)
    return [
        {
            "id": f"row-{number}",
            "seed": number,
            "sampler": rng.choice(samplers),
            "steps": rng.choice(steps),
            "guidance": rng.choice(guidance),
            "class": rng.randrange(10),
        }
        for number in range(count)
    ]


@app.command()
def rates(count: int = 300, rounds: int = 2, with_ray: bool = True) -> None:
    """Compare with batches of one sampler, and with Ray Data, by the time of processors that they take."""
    if with_ray:
        import ray

        # the second is for the tasks of Ray Data that write
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)
    for name, mixture in (("many", MANY), ("few", FEW)):
        listed = rows_among(count, **mixture)
        print(f"{count} rows of {len(grouped(listed))} configurations ({name}); digits, calls of 16")
        with TemporaryDirectory() as scratch:
            compare_rates(listed, Path(scratch), rounds, with_ray)


def compare_rates(listed: list[dict[str, Any]], folder: Path, rounds: int, with_ray: bool) -> None:
    """The best of so many rounds of each way, one way after the other."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in listed), encoding="utf-8")
    ways: dict[str, Any] = {
        "mixed batches, one worker": lambda turn: generate(rows, "digits", folder / f"mixed {turn}"),
        "one configuration at a time, one process": lambda turn: one_at_a_time(listed, folder / f"{turn}.parquet"),
    }
    if with_ray:
        ways |= {
            "mixed batches, one Ray actor": lambda turn: generate(rows, "digits", folder / f"ray {turn}", ray=True),
            "map_batches, one Ray actor": lambda turn: mapped(listed, folder / f"mapped {turn}"),
        }
    found = defaultdict[str, list[float]](list)
    for turn in range(rounds):
        for name, way in ways.items():
            found[name].append(processor_seconds(lambda way=way, turn=turn: way(turn), on_ray="Ray" in name))
    for name, spent in found.items():
        print(f"  {name}: {min(spent):.1f} s of a core, {len(listed) / min(spent):.0f} rows a second of it")


def processor_seconds(work: Any, on_ray: bool) -> float:
    """The time of processors that `work` takes; if it is on Ray, with that of all of Ray's processes."""
    begun, before, last = time.process_time(), descendants_ticks(), dict[int, int]()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):  # what a process has taken is gone when it is
            last.update(descendants_ticks())

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch) if on_ray else None
        try:
            work()
        finally:
            over.set()
        if watching is not None:
            watching.result()
    elsewhere = sum(ticks - before.get(pid, 0) for pid, ticks in last.items())
    return time.process_time() - begun + elsewhere / os.sysconf("SC_CLK_TCK")


def descendants_ticks() -> dict[int, int]:
    """The time of processors that the processes below this one have taken."""
    parents, ticks = dict[int, int](), dict[int, int]()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            pid = int(status.parent.name)
            parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    below, count = {os.getpid()}, 0
    while len(below) > count:
        count = len(below)
        below |= {pid for pid, parent in parents.items() if parent in below}
    return {pid: ticks[pid] for pid in below - {os.getpid()}}


def one_at_a_time(listed: list[dict[str, Any]], path: Path) -> None:
    """The rows as a script has them that sorts them and writes one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    model, made = Divided(), list[dict[str, Any]]()
    for kind in grouped(listed).values():
        for first in range(0, len(kind), 16):
            rows = kind[first : first + 16]
            made += [{**row, "array": x.numpy().tobytes()} for row, x in zip(rows, model.alike(rows), strict=True)]
    pq.write_table(pa.Table.from_pylist(made), path)


@app.command()
def machinery(count: int = 500, rounds: int = 3) -> None:
    """Measure what rows and evaluations cost besides the network, with shapes and samplers of the digits."""
    spent = dict[int, float]()
    with TemporaryDirectory() as scratch:
        for steps in (2, 22):
            rows = rows_among(count, SAMPLERS, (steps,), (1.0, 2.0))
            times = list[float]()
            for turn in range(rounds + 1):  # the first makes plans
                begun = time.process_time()
                evaluations = generate(rows, doing_nothing, Path(scratch) / f"{steps} {turn}", **FIXED).evaluations
                times.append(time.process_time() - begun)
            spent[evaluations] = min(times[1:])
    (few, short), (many, long) = sorted(spent.items())
    each = (long - short) / (many - few)
    print(f"{each * 1e6:.0f} us an evaluation, {(short - few * each) / count * 1e6:.0f} us a row, of a core")


FIXED: dict[str, Any] = {"batch_size": 32}
"""Options under which calls are of `call_size` rows."""


def doing_nothing() -> Model:
    """The digits with a network that answers at once."""
    return replace(load_model("digits"), network=lambda x, timesteps, conditions: 0.5 * x)


def configuration(row: dict[str, Any]) -> tuple[Any, ...]:
    """All that rows of a uniform batch have in common."""
    return row["sampler"], row["steps"], row["guidance"]


def grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by their configuration."""
    groups = defaultdict(list)
    for row in rows:
        groups[configuration(row)].append(row)
    return groups


class Divided:
    """The digits network on rows that are divided by configuration, as a script or a class for `map_batches` has it."""

    def __init__(self) -> None:
        import torch

        from diffusolve.denoisers.digits_network import load_digits_network

        torch.set_num_threads(1)
        self.torch = torch
        self.network = Denoiser(load_digits_network(), "v_prediction", SD15)

    def alike(self, rows: Sequence[dict[str, Any]]) -> Any:
        """The samples of rows of one configuration."""
        torch, (name, steps, guidance) = self.torch, configuration(rows[0])
        labels = torch.tensor([int(row["class"]) for row in rows])
        guided = ClassifierFreeGuidance(self.network, labels, torch.full_like(labels, 10), float(guidance))
        recipe, seeds = sampler(str(name)), [int(row["seed"]) for row in rows]
        x = start(recipe.grid(SD15, int(steps)), (len(rows), 1, 8, 8), seeds)
        return sample(guided, x, recipe, steps=int(steps), noise=seeds)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of Ray Data: ids and samples."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        made = {"id": [], "array": []}  # type: ignore[var-annotated]
        for kind in grouped(rows).values():
            made["id"] += [row["id"] for row in kind]
            made["array"] += [x.numpy().tobytes() for x in self.alike(kind)]
        return made


def mapped(rows: list[dict[str, Any]], out: Path) -> None:
    """The rows by Ray Data."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    data = ray.data.from_items(rows)
    data.map_batches(Divided, batch_size=16, concurrency=1).write_parquet(str(out))


# Growth


@app.command()
def growth(counts: list[int] = [1_000, 10_000, 100_000]) -> None:  # noqa: B006 - typer's way
    """Measure rows per second and memory with the exact denoiser of independent pixels."""
    with TemporaryDirectory() as scratch:
        for count in counts:
            rows = Path(scratch) / f"{count}.jsonl"
            with rows.open("w", encoding="utf-8") as file:
                for number in range(count):
                    file.write(
                        json.dumps({"id": f"row-{number}", "seed": number, "sampler": "Euler", "steps": 2}) + "\n"
                    )
            arguments = ", ".join(map(repr, (str(rows), "gaussian", f"{rows}-out")))
            code = f"from diffusolve.bulk import generate; print(generate({arguments}))"
            begun = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            print(
                f"{count} rows: {seconds:.1f} s, {count / seconds:.0f} rows/s, {usage.ru_maxrss / 1024:.0f} MiB"
                + (f", status {status}" if status else "")
            )


# Simulation


class Simulated(Hands):
    """Workers in simulated time.

    Args:
        job: whose blocks they make.
        rate: rows a second of each, with a spread of a tenth from block to block.
        mean_life: seconds after which a worker is lost, on average.
        turn: seconds after which it says how far it is.
    """

    def __init__(self, job: Job, rate: float, mean_life: float, turn: float) -> None:
        self.job = job
        self.rate = rate
        self.mean_life = mean_life
        self.turn = turn
        self.now = 0.0
        self.events = 0
        self.rng = random.Random(0)
        self.queue: list[tuple[float, int]] = []
        self.blocks: dict[int, list[list[float]]] = {}
        self.ends: dict[int, float] = {}

    def start(self) -> int:
        number = len(self.ends)
        self.ends[number] = self.now + self.rng.expovariate(1 / self.mean_life)
        self.blocks[number] = []
        return number

    def give(self, worker: int, *given: Any) -> None:
        blocks, _ = given
        for block in blocks:
            rows = len(self.job.rows_in(block))
            self.blocks[worker].append([block, rows / self.rate * max(self.rng.gauss(1, 0.1), 0.5)])
        heapq.heappush(self.queue, (min(self.now + self.turn, self.ends[worker]), worker))

    def wait(self, seconds: float) -> list[tuple[int, Any]]:
        until = self.queue[0][0] + 0.01
        said = list[tuple[int, Any]]()
        while self.queue and self.queue[0][0] <= until:
            self.now, worker = heapq.heappop(self.queue)
            self.events += 1
            said.append((worker, Died("lost") if self.now >= self.ends[worker] else self.worked(worker)))
        return said

    def worked(self, worker: int) -> Turn:
        turn, left, queue = Turn(), self.turn, self.blocks[worker]
        while queue and left > 0:
            spent = min(left, queue[0][1])
            queue[0][1] -= spent
            left -= spent
            if queue[0][1] <= 0:
                block = int(queue.pop(0)[0])
                turn.done.append(Done(block, len(self.job.rows_in(block)), 0, Made(1 << 20, 10**18, "0" * 32)))
        turn.wants = AHEAD - len(queue)
        return turn

    def close(self) -> None:
        """Nothing is to be ended."""


@app.command()
def simulation(
    rows: int = 100_000_000,
    workers: int = 1_000,
    shard_size: int = 1_000,
    rate: float = 10.0,
    mean_life_hours: float = 24.0,
) -> None:
    """Run the real driver over simulated workers, and a restart over the files of so many shards."""
    with TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch) / "out")
        folder.make()
        job = Job("rows", 0, 0, "", rows, 0, shard_size, "parquet", "m", "", "cpu", 1, 16, "", {})
        folder.begin(job, range(job.blocks), [])
        hands = Simulated(job, rate, mean_life_hours * 3600, max(0.5, workers / 200))
        complete = dict[int, int]()
        drive, begun = Drive(folder, job, complete, False), time.process_time()
        drive.run(hands, workers)
        spent = time.process_time() - begun
        ideal = rows / rate / workers
        size = sum(path.stat().st_size for path in folder.inside.iterdir()) / 1e6
        print(f"{rows:,} rows, {workers:,} workers of {rate:g} rows/s, lost after {mean_life_hours:g} h on average")
        print(
            f"simulated {hands.now / 3600:.2f} h, {ideal / hands.now:.1%} of the workers' time used; "
            f"{drive.deaths} lost"
        )
        print(
            f"driver: {spent:.0f} s of a core with the simulation itself, {spent / hands.now:.1%} of the time, ", end=""
        )
        print(f"{spent / rows * 1e6:.2f} us a row, {spent / hands.events * 1e6:.0f} us for each turn of a worker")
        print(f"written down: {size:.1f} MB")
        made = (folder.inside / "shards.jsonl").open("w")
        for block in range(job.blocks):
            path = folder.path / f"shard-{block:06}.parquet"
            path.touch()
            status = path.stat()
            known = {"block": block, "failed": 0, "size": 0, "changed": status.st_mtime_ns, "digest": "0" * 32}
            made.write(json.dumps(known) + "\n")
        made.close()
        begun = time.perf_counter()
        found, damaged = folder.complete(job)
        print(
            f"restart: {len(found):,} shards looked at in {time.perf_counter() - begun:.1f} s, {len(damaged)} damaged"
        )


@app.command()
def checking(count: int = 100_000) -> None:
    """Measure the first pass over the rows, before anything runs."""
    from diffusolve.bulk.generate import _begun
    from diffusolve.bulk.sources import source_of

    with TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch) / "out")
        folder.make()
        rows = written(Path(scratch) / "rows.jsonl", count, 8)
        wanted = {"format": "parquet", "shard_size": 1000, "model": "digits", "identity": "", "device": "cpu"}
        model = load_model("digits")
        begun = time.perf_counter()
        _begun(folder, source_of(rows), model, {**wanted, "threads": 1, "call_size": 16, "version": ""}, False)
        seconds = time.perf_counter() - begun
        print(f"{count} rows looked at in {seconds:.1f} s, {seconds / count * 1e6:.0f} us each")


if __name__ == "__main__":
    app()
