"""Plans as values: their numbers, their JSON text, and what is no plan."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusolve.backends import Run
from diffusolve.errors import NotPlannableError, PlanFormatError
from diffusolve.noise import SD15, Cosine, FlowMatching, Grid, VarianceExploding, VariancePreserving
from diffusolve.plan import Plan, plan_for, trace
from diffusolve.prediction import EDM, Epsilon, Flow, Prediction
from diffusolve.sampling import Sampler
from diffusolve.solvers import SOLVERS, Solver, dpm_2, dpm_adaptive, dpm_fast, dpmpp_multistep, euler, heun, lms, unipc
from diffusolve.spacing import Karras, Trailing
from tests.interpreter import Interpreter
from tests.strategies import recipes
from tests.tables import for_each

VE = VarianceExploding(0.01, 50.0)
TO_ZERO = Karras().grid(VE, 10)
TO_MIN = Karras(final_sigma="sigma_min").grid(VE, 10)

PLANNABLE = {
    **{name: made for name, made in SOLVERS.items() if not made.adaptive},
    "euler ancestral": euler.with_options(eta=1.0),
    "dpmpp 3M SDE": dpmpp_multistep.with_options(order=3, eta=0.7),
    "unipc 4": unipc.with_options(order=4, variant="bh1"),
    "unip": unipc.with_options(corrector=False),
}
every_solver = for_each("solver", PLANNABLE.values(), ids=PLANNABLE)


# What is known of a sampler without running it


@for_each(
    ("solver", "nfe", "nfe_to_min", "registers"),
    [
        (euler, 10, 10, 1),
        (euler.with_options(eta=1.0), 10, 10, 1),
        (heun, 2 * 10 - 1, 20, 3),  # the second stage remembers the sample and the slope
        (dpm_2, 2 * 10 - 1, 20, 2),  # the second stage keeps the sample that the step began with
        (lms.with_options(order=1), 10, 10, 1),
        (lms.with_options(order=2), 10, 10, 2),  # each order keeps one slope more
        (lms, 10, 10, 4),
        (dpmpp_multistep.with_options(order=1), 10, 10, 1),
        (dpmpp_multistep, 10, 10, 2),  # the last data prediction
        (dpmpp_multistep.with_options(order=3), 10, 10, 3),
        (dpmpp_multistep.with_options(order=3, eta=1.0), 10, 10, 3),
        (unipc.with_options(order=1, corrector=False), 10, 10, 1),
        (unipc.with_options(order=2, corrector=False), 10, 10, 2),
        (unipc.with_options(order=3, corrector=False), 10, 10, 3),
        (unipc.with_options(order=1), 10, 10, 3),  # to correct: where the step began, and the data there
        (unipc, 10, 10, 4),
        (unipc.with_options(order=3), 10, 10, 5),
    ],
    ids=str,
)
def test_evaluations_steps_and_registers_are_those_that_the_algorithm_needs(
    solver: Solver, nfe: int, nfe_to_min: int, registers: int
) -> None:
    to_zero, to_min = trace(solver, TO_ZERO, Epsilon()), trace(solver, TO_MIN, Epsilon())
    assert (to_zero.nfe, to_min.nfe) == (nfe, nfe_to_min)
    assert to_zero.steps == to_min.steps == 10
    assert to_zero.registers == to_min.registers == registers
    assert to_zero.is_stochastic is bool(dict(solver.options).get("eta"))


@every_solver
@for_each("grid", [TO_ZERO, TO_MIN, Trailing().grid(FlowMatching(), 1)], ids=["0", "sigma_min", "1 step"])
def test_no_register_is_read_before_it_is_written_nor_written_in_vain(solver: Solver, grid: Grid) -> None:
    plan = trace(solver, grid, Flow())
    table = Interpreter(plan, lambda x, t: 0.5 * x, lambda x, s, t: np.ones_like(x))
    table.run(np.ones((1, 2)))  # raises on reading what is not there, on writing twice, and on what is never freed
    assert list(plan.live()) == table.held
    read = {plan.result} | {stage.sample for stage in plan.stages}
    for update in (plan.opening, *(stage.update for stage in plan.stages)):
        read |= {source for write in update.writes for source, _ in write.terms}
    for update in (plan.opening, *(stage.update for stage in plan.stages)):
        assert {write.register for write in update.writes} <= read
        assert {noise.register for noise in update.noises} <= read
        assert all(coefficient != 0 for write in update.writes for _, coefficient in write.terms)


@every_solver
def test_the_text_of_a_plan_shows_each_step(solver: Solver) -> None:
    plan = trace(solver, TO_MIN, Epsilon())
    lines = str(plan).splitlines()
    assert solver.name in lines[0]
    steps = 4 if solver is dpm_fast else 10  # it has steps of its own, and 10 evaluations
    rounds = f" in {plan.depth} rounds" if plan.depth < plan.nfe else ""
    assert f"{steps} steps, {plan.nfe} evaluations{rounds}, {plan.registers} register" in lines[0]
    assert ("stochastic" in lines[0]) is plan.is_stochastic
    numbers = [line.split()[0] for line in lines[2:] if not line.startswith(" " * 40)]
    for stage in plan.stages:
        number = f"{stage.step}" if stage.stage == 0 else f"{stage.step}.{stage.stage}"
        (line,) = [line for line in lines[2:] if line.split()[0] == number]
        assert f"{stage.point.sigma:.6g}" in line
        assert f"{stage.point.timestep:.6g}" in line
    assert numbers[-1] == "end"
    for stage in plan.stages:
        for write in stage.update.writes:
            (formula,) = [line for line in lines if f" {write.register} = " in line]
            for source, coefficient in write.terms:
                assert f"{abs(coefficient):.6g} {source}" in formula


def test_a_short_plan_can_be_read_as_a_formula() -> None:
    """Euler from sigma 2 to 1 to 0 where alpha is 1: half of the sample, half of the data; then the data."""
    plan = trace(euler, Grid.from_sigmas(VE, [2.0, 1.0, 0.0]), Epsilon())
    assert [stage.update.writes for stage in plan.stages] == [
        (("x1", (("x0", 0.5), ("data0", 0.5))),),
        (("x2", (("data1", 1.0),)),),
    ]
    assert [(stage.a, stage.b) for stage in plan.stages] == [(1.0, -2.0), (1.0, -1.0)]
    assert (plan.sigmas, plan.timesteps, plan.result) == ((2.0, 1.0, 0.0), (2.0, 1.0), "x2")
    assert "x1 = 0.5 x0 + 0.5 data0" in str(plan)


# Values


@every_solver
def test_plans_are_values(solver: Solver) -> None:
    one, other = trace(solver, TO_ZERO, Flow()), trace(solver, TO_ZERO, Flow())
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    assert {one: "found"}[other] == "found"
    assert one != trace(solver, TO_MIN, Flow())
    assert copy.deepcopy(one) == one
    with pytest.raises(AttributeError):
        one.result = "x0"
    with pytest.raises((AttributeError, TypeError)):
        one.stages[0].update.writes[0].terms = ()


def test_plans_and_grids_sent_to_another_process_are_found_by_their_equals() -> None:
    """Python hashes text differently in each process, so no hash may travel."""
    made = (trace(heun, TO_ZERO, Flow()), TO_ZERO)
    assert {value: i for i, value in enumerate(made)}[made[0]] == 0  # their hashes are known now
    script = (
        "import pickle, sys; from diffusolve.plan import trace; from diffusolve.prediction import Flow; "
        "from diffusolve.solvers import heun; plan, grid = pickle.load(sys.stdin.buffer); "
        "assert trace(heun, grid, Flow()) in {plan}; assert grid[:] in {grid}"
    )
    subprocess.run([sys.executable, "-c", script], input=pickle.dumps(made), check=True, timeout=120)


def test_equal_arguments_give_the_identical_plan() -> None:
    plan = Sampler(heun, Karras()).plan(VarianceExploding(0.01, 50.0), "edm", 12)
    assert Sampler(heun.with_options(), Karras(rho=7)).plan(VarianceExploding(0.01, 50.0), EDM(), 12) is plan
    assert Sampler(heun, Karras(rho=5)).plan(VarianceExploding(0.01, 50.0), EDM(), 12) is not plan
    assert Sampler(heun, Karras()).plan(VarianceExploding(0.01, 50.0), EDM(1.0), 12) is not plan
    assert plan_for(heun, TO_ZERO, Flow()) is plan_for(heun, Karras().grid(VE, 10), Flow())


def test_adaptive_solvers_have_no_plan() -> None:
    with pytest.raises(NotPlannableError, match="dpm_adaptive"):
        Sampler(dpm_adaptive, Karras(final_sigma="sigma_min")).plan(VE, "edm", 3)


# JSON


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, float):
        return isinstance(b, float) and a.hex() == b.hex()
    return type(a) is type(b) and a == b


def fields(plan: Plan) -> tuple[Any, ...]:
    return tuple(vars(plan)[name] for name in type(plan).__dataclass_fields__)


@every_solver
@for_each("indent", [None, 2])
def test_json_is_lossless_for_every_solver(solver: Solver, indent: int | None) -> None:
    sampler = Sampler(solver, Trailing())
    for schedule, prediction in ((VE, "edm"), (SD15, "epsilon"), (FlowMatching(), "flow"), (Cosine(), "v_prediction")):
        plan = sampler.plan(schedule, prediction, 7)
        back = Plan.from_json(plan.to_json(indent))
        assert back == plan
        assert hash(back) == hash(plan)
        assert same_bits(fields(back), fields(plan))


@given(recipes())
def test_json_is_lossless(recipe: tuple[Sampler, VariancePreserving, Prediction, int]) -> None:
    sampler, noise_schedule, prediction, steps = recipe
    plan = sampler.plan(noise_schedule, prediction, steps)
    assert same_bits(fields(Plan.from_json(plan.to_json())), fields(plan))


def test_json_is_standard() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(trace(heun, TO_ZERO, Flow()).to_json(), parse_constant=refuse)
    assert (document["format"], document["version"]) == ("diffusolve plan", 1)


DOCUMENT = trace(dpmpp_multistep.with_options(eta=1.0), Karras().grid(VE, 3), Flow()).to_json()


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads(DOCUMENT)
    change(document)
    return json.dumps(document)


DAMAGES: dict[str, tuple[str, str]] = {
    "nothing": ("", "not JSON"),
    "truncated": (DOCUMENT[: len(DOCUMENT) // 2], "not JSON"),
    "binary": ("\x00\x01", "not JSON"),
    "nested without end": ("[" * 200_000, "not JSON"),
    "a list": ("[]", '"format": "diffusolve plan"'),
    "a number": ("3", '"format": "diffusolve plan"'),
    "another format": (damaged(lambda d: d.update(format="onnx")), '"format": "diffusolve plan"'),
    "no format": (damaged(lambda d: d.pop("format")), '"format": "diffusolve plan"'),
    "another version": (damaged(lambda d: d.update(version=2)), "of version 2, but this release reads version 1"),
    "no version": (damaged(lambda d: d.pop("version")), "of version None"),
    "no stages key": (damaged(lambda d: d.pop("stages")), "stages is missing"),
    "no sigma": (damaged(lambda d: d["start"].pop("sigma")), "start.sigma is missing"),
    "no coefficient": (damaged(lambda d: d["stages"][1].pop("b")), r"stages\[1\].b is missing"),
    "stages of no list": (damaged(lambda d: d.update(stages={})), "stages is {}, expected a list"),
    "no stages": (damaged(lambda d: d.update(stages=[])), "it has no stages"),
    "a stage of text": (damaged(lambda d: d["stages"].append("x")), r"stages\[3\] is 'x', expected an object"),
    "start of no object": (damaged(lambda d: d.update(start=[1, 1, 1])), r"start is \[1, 1, 1\], expected an object"),
    "NaN": (damaged(lambda d: d["stages"][0].update(a=math.nan)), r"stages\[0\].a is nan, expected a finite number"),
    "infinity": (damaged(lambda d: d["end"].update(sigma=math.inf)), "end.sigma is inf, expected a finite number"),
    "beyond float": (
        damaged(lambda d: d["end"].update(sigma=10**400)),
        "end.sigma is 10+.*, expected a finite number",
    ),
    "text for a number": (damaged(lambda d: d["stages"][1].update(scale="1")), r"stages\[1\].scale is '1', expected a"),
    "bool for a number": (damaged(lambda d: d["stages"][1].update(scale=True)), r"stages\[1\].scale is True"),
    "half a step": (damaged(lambda d: d["stages"][1].update(step=0.5)), r"stages\[1\].step is 0.5, expected a whole"),
    "a number for a name": (damaged(lambda d: d.update(result=3)), "result is 3, expected a register's name"),
    "text for a coefficient": (
        damaged(lambda d: d["stages"][0]["writes"][0][1][0].__setitem__(1, "2")),
        r"stages\[0\].* is '2', expected a finite number",
    ),
    "a write without terms": (
        damaged(lambda d: d["stages"][0]["writes"][0].pop()),
        r"stages\[0\].writes\[0\] is \['x1'\], expected a list of 2",
    ),
    "text for terms": (
        damaged(lambda d: d["stages"][0]["writes"][0].__setitem__(1, "")),
        r"stages\[0\].writes\[0\]\[1\] is '', expected a list",
    ),
    "noise of one sigma": (
        damaged(lambda d: d["stages"][0]["noises"][0].pop()),
        r"stages\[0\].noises\[0\] .* a list of 3",
    ),
    "negative sigma": (damaged(lambda d: d["stages"][1].update(sigma=-1.0)), r"stages\[1\].sigma is -1.0, expected"),
    "neither signal nor noise": (damaged(lambda d: d["start"].update(alpha=0, sigma=0)), "start"),
    "unknown sample": (damaged(lambda d: d["stages"][1].update(sample="y")), r"stages\[1\] uses register 'y', which h"),
    "unknown source": (
        damaged(lambda d: d["stages"][1]["writes"][0][1][0].__setitem__(0, "y")),
        r"stages\[1\] uses register 'y', which holds nothing",
    ),
    "a source twice": (
        damaged(lambda d: d["stages"][0]["writes"][0][1].append(["x0", 1.0])),
        r"stages\[0\] names a source of register 'x1' twice",
    ),
    "unknown result": (damaged(lambda d: d.update(result="y")), "result uses register 'y'"),
    "freed register": (
        damaged(lambda d: d["stages"][1]["frees"].append("x2")),
        r"stages\[2\] uses register 'x2', which holds nothing",
    ),
    "freed twice": (damaged(lambda d: d["stages"][1]["frees"].append("x1")), r"stages\[1\] .*'x1'"),
    "written twice": (
        damaged(lambda d: d["stages"][1]["writes"].append(["x2", []])),
        r"stages\[1\] writes register 'x2' a second time",
    ),
    "data over a sample": (damaged(lambda d: d["stages"][1].update(data="x1")), r"writes register 'x1' a second time"),
    "noise over a sample": (
        damaged(lambda d: d["stages"][1]["noises"][0].__setitem__(0, "x1")),
        r"stages\[1\] writes register 'x1' a second time",
    ),
    "the output's name": (damaged(lambda d: d.update(initial="output")), "'output'"),
    "steps that jump": (damaged(lambda d: d["stages"][1].update(step=5)), r"stages\[1\].*step 5"),
    "steps from 1": (damaged(lambda d: [s.update(step=s["step"] + 1) for s in d["stages"]]), r"stages\[0\].*step 1"),
    "no data prediction": (damaged(lambda d: d["stages"][1].update(a=0, b=0.0)), r"stages\[1\] has a = b = 0"),
    "beyond float32": (damaged(lambda d: d["stages"][1].update(a=1e39)), r"stages\[1\].a is 1e\+39, .* at most 1e\+12"),
    "a coefficient beyond float32": (
        damaged(lambda d: d["stages"][0]["writes"][0][1][0].__setitem__(1, -1e39)),
        r"stages\[0\].writes\[0\]\[1\]\[0\]\[1\] is -1e\+39, expected a finite number, at most 1e\+12",
    ),
    "a timestep beyond int64": (
        damaged(lambda d: d["stages"][1].update(timestep=2**64)),
        r"stages\[1\].timestep is 18",
    ),
    "a key nobody knows": (damaged(lambda d: d["stages"][1].update(scael=1)), r"stages\[1\] .*'scael'.*'scale'"),
    "infinity beside it": (damaged(lambda d: d.update(note=[math.inf])), "'note' holds a number that is not finite"),
    "stages that jump": (damaged(lambda d: d["stages"][1].update(stage=1)), r"stages\[1\]"),
}


@for_each(("text", "message"), DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_plan_is_refused_and_the_error_says_why(text: str, message: str) -> None:
    with pytest.raises(PlanFormatError, match=message):
        Plan.from_json(text)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to everything inside a JSON document."""
    inside: Any = {}
    if isinstance(document, dict):
        inside = document
    elif isinstance(document, list):
        inside = dict(enumerate(document))
    found = [] if not path else [path]
    for key, value in inside.items():
        found += places(value, (*path, key))
    return found


PLANS = [
    json.loads(trace(made, Karras(final_sigma="sigma_min").grid(VE, 3), Flow()).to_json())
    for made in (heun, dpmpp_multistep.with_options(eta=1.0), unipc)
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from(["x0", "x1", "data0", "kept0", "noise0", "output", ""])
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=600)
@given(st.data(), st.integers(0, len(PLANS) - 1), st.integers(1, 2))
def test_a_changed_document_is_a_plan_that_runs_or_a_plan_format_error(
    data: st.DataObject, which: int, changes: int
) -> None:
    document = copy.deepcopy(PLANS[which])
    for _ in range(changes):
        path = data.draw(st.sampled_from(places(document)))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        match data.draw(st.sampled_from(["delete", "replace", "repeat", "swap"])):
            case "delete":
                del parent[path[-1]]
            case "replace":
                parent[path[-1]] = data.draw(json_values)
            case "repeat" if isinstance(parent, list):
                parent.insert(path[-1], copy.deepcopy(parent[path[-1]]))
            case _:
                other = data.draw(st.sampled_from(list(parent) if isinstance(parent, dict) else range(len(parent))))
                parent[path[-1]], parent[other] = parent[other], parent[path[-1]]
    try:
        plan = Plan.from_json(json.dumps(document))
    except PlanFormatError:
        return
    assert str(plan)
    assert 1 <= plan.steps <= plan.nfe
    assert plan.registers >= 1
    assert len(plan.sigmas) == plan.steps + 1
    assert Plan.from_json(plan.to_json()) == plan
    ones = torch.ones(1, 2)
    for like in (np.ones((1, 2)), ones, ones.bfloat16()):
        for transform in (None, lambda data, stage: data):
            run = Run(plan, lambda x, s, t: x * 0 + 1, transform)
            x = run.begin(like)
            while not run.is_done:
                with np.errstate(all="ignore"):
                    x = run.step(run.model_input(x), x)
            assert x.shape == (1, 2)


def test_numbers_at_the_limits_of_float64_make_a_plan_that_prints() -> None:
    def change(document: dict[str, Any]) -> None:
        document["start"].update(alpha=5e-324, sigma=1e300)
        document["stages"][0].update(alpha=1e300, sigma=5e-324, a=10**12)

    plan = Plan.from_json(damaged(change))
    assert plan.start.log_snr == pytest.approx(math.log(5e-324) - math.log(1e300))
    assert str(plan)


def test_registers_that_are_freed_late_or_never_are_freed_where_they_are_read_last() -> None:
    """By other programs' plans: lowering takes apart what a plan's lists say is done with."""
    for plan in (Plan.from_json(json.dumps(document)) for document in PLANS):
        document = json.loads(plan.to_json())
        *early, last = document["stages"]
        last["frees"] = [name for stage in early for name in stage["frees"]] + last["frees"]
        for stage in early:
            stage["frees"] = []
        late = json.dumps(document)
        last["frees"] = []
        assert Plan.from_json(late) == Plan.from_json(json.dumps(document)) == plan


def test_other_keys_stay_with_a_plan_and_have_no_part_in_its_value() -> None:
    plan = Plan.from_json(DOCUMENT)
    provenance = {"model": "digits", "guidance": 4.0, "errors": {"5": [0.0325]}}
    learned = Plan.from_json(json.dumps({**json.loads(DOCUMENT), "provenance": provenance}))
    assert learned.extra == {"provenance": provenance}
    assert learned == plan
    assert hash(learned) == hash(plan)
    again = Plan.from_json(learned.to_json())
    for other in (again, copy.deepcopy(learned), pickle.loads(pickle.dumps(learned)), dataclasses.replace(learned)):
        assert other.extra == learned.extra
        assert other == plan
    with pytest.raises(TypeError):
        learned.extra["model"] = "another"  # type: ignore[index]


def test_what_cannot_be_written_beside_a_plan_is_told() -> None:
    plan = Plan.from_json(DOCUMENT)
    with pytest.raises(ValueError, match="extra has the key 'stages', which is one of the plan's own"):
        dataclasses.replace(plan, extra={"stages": 3}).to_json()
    for value in (math.nan, {1, 2}):
        with pytest.raises(ValueError, match="extra cannot be written as JSON"):
            dataclasses.replace(plan, extra={"note": value}).to_json()


@given(st.text(max_size=30) | st.binary(max_size=30))
def test_any_other_text_is_no_plan(text: str | bytes) -> None:
    with pytest.raises(PlanFormatError):
        Plan.from_json(text)  # type: ignore[arg-type]


@given(st.integers(0, len(DOCUMENT) - 1))
def test_no_beginning_of_a_plan_is_a_plan(length: int) -> None:
    with pytest.raises(PlanFormatError):
        Plan.from_json(DOCUMENT[:length])
