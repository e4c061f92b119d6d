"""Run a plan with NumPy and nothing else: ``python examples/run_plan.py PLAN.json [NOISE.json]``.

PLAN.json is what ``diffusolve plan "DPM++ 2M Karras" --json PLAN.json`` writes. Without NOISE.json this samples 10,000
numbers from a normal distribution of mean 0.5 and standard deviation 0.3 and prints both. With NOISE.json, a list of
lists of numbers, the first list is the noise to start from, the others are the noise drawn on the way, and the samples
are printed as JSON. Exit status 2: a file is not what it should be, and one line says why.
"""

import json
import sys

import numpy as np


def run(plan, network, x, draw):
    """The sample at the plan's end, from `x` at its start; `draw()` is standard normal noise like `x`."""
    held = {plan["initial"]: x}
    for stage in [plan["opening"], *plan["stages"]]:
        if "sample" in stage:
            x = held[stage["sample"]]
            held["output"], held["unguided"] = network(stage["scale"] * x, stage)
            held[stage["data"]] = stage["a"] * x + stage["b"] * held["output"]
        for name, _, _ in stage["noises"]:
            held[name] = draw()
        for name, terms in stage["writes"]:
            held[name] = sum((c * held[source] for source, c in terms), np.zeros_like(x))
        for name in stage["frees"]:
            del held[name]
    return held[plan["result"]]


def network(scaled, stage):
    """What a perfect network says with guidance, of mean 0.5 and standard deviation 0.3, and what without.

    Only plans of CFG++ samplers read the second one ("unguided"); for others it may be None.
    """
    return perfect(scaled, stage, 0.5, 0.3), perfect(scaled, stage, 0.2, 0.6)


def perfect(scaled, stage, mean, std):
    """What a perfect network says of data with this mean and standard deviation (yours takes stage["timestep"])."""
    x, alpha, sigma = scaled / stage["scale"], stage["alpha"], stage["sigma"]
    data = mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mean)
    return (data - stage["a"] * x) / stage["b"]


# The rest reads and checks files.


class Malformed(Exception):
    """What is wrong with a file."""


def read(path):
    """The content of a JSON file."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file, parse_constant=lambda name: float("nan"))
    except OSError as error:
        raise Malformed(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{path} is not JSON: {error}") from None


def check(plan):
    """Raise Malformed unless `plan` has the form of a plan."""
    require(isinstance(plan, dict) and plan.get("format") == "diffusolve plan", '"format": "diffusolve plan"', "plan")
    require(plan.get("version") == 1, '"version": 1', "plan")
    opening, stages, start = (field(plan, "plan", key, kind) for key, kind in PLAN.items())
    require(len(stages) > 0, "at least one stage", "stages")
    require("sample" not in opening, "no sample, which stages have", "opening")
    for where, update in [("opening", opening), *((f"stages[{i}]", stage) for i, stage in enumerate(stages))]:
        require(isinstance(update, dict), "an object", where)
        noises, writes, frees = (field(update, where, key, list) for key in ("noises", "writes", "frees"))
        require(
            all(is_row(noise, str, float, float) for noise in noises), "[register, sigma, sigma]", f"{where}.noises"
        )
        require(all(is_row(row, str, list) for row in writes), "[register, terms]", f"{where}.writes")
        terms = [term for write in writes for term in write[1]]
        require(all(is_row(row, str, float) for row in terms), "[register, coefficient]", f"{where}.writes")
        require(all(isinstance(name, str) for name in frees), "registers", f"{where}.frees")
    for i, stage in enumerate(stages):
        for key in ("scale", "a", "b", "alpha", "sigma", "timestep"):
            field(stage, f"stages[{i}]", key, float)
        for key in ("sample", "data"):
            field(stage, f"stages[{i}]", key, str)
    for key in ("initial", "result"):
        field(plan, "plan", key, str)
    field(start, "start", "sigma", float)


PLAN = {"opening": dict, "stages": list, "start": dict}
NAMES = {dict: "an object", list: "a list", str: "text", float: "a finite number"}


def field(value, where, key, kind):
    """The entry `key` of an object, of this kind."""
    require(key in value, f"an entry {key!r}", where)
    require(is_a(value[key], kind), NAMES[kind], f"{where}.{key}")
    return value[key]


def is_a(value, kind):
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return isinstance(value, kind)


def is_row(value, *kinds):
    return isinstance(value, list) and len(value) == len(kinds) and all(map(is_a, value, kinds))


def require(condition, expected, where):
    if not condition:
        raise Malformed(f"malformed plan: {where}: expected {expected}")


def noise_from(path):
    """A function that returns the arrays in the file one after the other."""
    arrays = read(path)
    lists = isinstance(arrays, list) and all(isinstance(one, list) for one in arrays)
    if not lists or len({len(one) for one in arrays}) != 1 or not all(is_a(v, float) for one in arrays for v in one):
        raise Malformed(f"malformed noise: {path}: expected lists of numbers, all of one length")
    left = iter(arrays)

    def draw():
        try:
            return np.array(next(left), np.float64)
        except StopIteration:
            raise Malformed(f"malformed noise: {path}: the plan draws more than {len(arrays)} arrays") from None

    return draw


def main():
    if len(sys.argv) not in (2, 3):
        raise Malformed("usage: run_plan.py PLAN.json [NOISE.json]")
    plan = read(sys.argv[1])
    check(plan)
    generator = np.random.default_rng(0)
    draw = noise_from(sys.argv[2]) if len(sys.argv) == 3 else lambda: generator.standard_normal(10_000)
    try:
        x = run(plan, network, plan["start"]["sigma"] * draw(), draw)
    except KeyError as error:
        raise Malformed(f"malformed plan: register {error} is read but holds nothing") from None
    print(json.dumps(x.tolist()) if len(sys.argv) == 3 else f"mean {x.mean():.3f}, standard deviation {x.std():.3f}")


if __name__ == "__main__":
    try:
        main()
    except Malformed as error:
        print(error, file=sys.stderr)
        sys.exit(2)
