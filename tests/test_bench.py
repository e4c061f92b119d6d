"""The benchmark suite: what is measured is what is said, and it comes out as tables, JSON and plots."""

from __future__ import annotations

import ast
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import diffusolve
from benchmarks import report
from benchmarks.suite import loops, memory, peers, pipeline, set_timesteps, start_up, step
from benchmarks.suite.__main__ import main
from benchmarks.suite.areas import AREAS
from benchmarks.suite.floor import copy_loop, floor_seconds
from benchmarks.suite.machine import machine
from benchmarks.suite.result import Figure, Goal, Result, Table, at_least, at_most
from benchmarks.suite.settings import Settings
from benchmarks.suite.show import cell, figure, markdown
from benchmarks.suite.timing import Effort, Loop, interleaved, repeated, threads
from diffusolve import k_diffusion, solvers
from diffusolve.catalog import CATALOG, sampler
from diffusolve.cli.traffic import bytes_per_element
from diffusolve.noise import SD15, Scaling
from diffusolve.plan import OUTPUT, NoiseTerm, Plan, PlanPoint, Stage, Update, Write
from diffusolve.sampling import Sampler
from diffusolve.schedulers.compatible import KarrasDiffusionSchedulers


def run(*arguments: str | Path) -> int:
    """The exit status of `python -m benchmarks.suite ARGUMENTS`."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


ONCE = Effort(quick=True, seconds=0.0, least=1, most=1)
SMALL = (1, 4, 8, 8)


def only(*names: str) -> Settings:
    return Settings(ONCE, frozenset(names))


@pytest.fixture
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither diffusers nor k-diffusion is installed."""
    for module in (step, set_timesteps, pipeline, start_up, memory, peers):
        monkeypatch.setattr(module, "diffusers", lambda: None)
    monkeypatch.setattr(step, "k_diffusion_sampling", lambda: None)


# Ratios


def test_a_ratio_above_1_says_that_the_other_library_takes_more() -> None:
    made = Figure("Euler", "float32", here=2.0, there=10.0, floor=1.0)
    assert made.ratio == 5.0
    assert made.over_floor == 2.0
    assert cell(made) == "2 5x 2f"
    assert cell(Figure("Euler", "float32", here=1234.5, there=None)) == "1234"
    assert cell(Figure("Euler", "float32", here=None, note="no torchsde")) == "-"


def test_what_takes_longer_is_measured_as_longer() -> None:
    """Sleeping twenty times as long: the ratio is above 2 on the busiest machine."""
    medians, rounds = interleaved(
        {"here": repeated(lambda: time.sleep(0.001), 2), "there": repeated(lambda: time.sleep(0.02), 2)},
        Effort(quick=True, seconds=0.0, least=3, most=3),
    )
    assert rounds == 3
    assert Figure("", "", medians["here"], medians["there"]).ratio > 2.0  # type: ignore[operator]
    assert medians["here"] >= 0.001


def test_contestants_run_in_turn_and_each_begins_a_round() -> None:
    order: list[str] = []

    def loop(name: str) -> Any:
        return lambda: float(order.append(name) is None)

    medians, rounds = interleaved({name: loop(name) for name in "abc"}, Effort(True, 100.0, 3, 3))
    assert rounds == 3
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"  # the first round does not count
    assert medians == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_the_median_is_over_the_rounds_that_count() -> None:
    times = iter([100.0, 1.0, 2.0, 9.0])
    assert interleaved({"a": lambda: next(times)}, Effort(True, 100.0, 3, 3)).medians == {"a": 2.0}


def test_the_number_of_threads_is_given_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


# Goals


def test_goals_are_met_or_missed_by_the_worst() -> None:
    ratios = {"Euler": 4.0, "Heun": 16.0}
    mean, each = at_least("classes", ratios, each=5.0, mean=7.9)
    assert (mean.measured, mean.met) == ("8.00x", True)
    assert (each.measured, each.met) == ("4.00x (Euler), 1 of 2 miss it", False)
    assert at_least("classes", ratios, each=4.0)[0].met is True
    most = at_most("plans", ratios, 15.0, " us")
    assert (most.measured, most.met) == ("16.00 us (Heun), 1 of 2 miss it", False)
    assert at_most("plans", {}, 15.0, " us").met is None
    assert [goal.met for goal in at_least("classes", {}, 1.0, 1.0)] == [None, None]


# The floor


def stage(index: int, *writes: Write, frees: tuple[str, ...], scale: float = 1.0, b: float = 0.5) -> Stage:
    noises = tuple(
        NoiseTerm(source, 1.0, 0.5) for write in writes for source, _ in write.terms if source.startswith("noise")
    )
    point = PlanPoint(0.0, 1.0, 1.0)
    return Stage(index, 0, point, scale, 1.0, b, f"x{index}", f"data{index}", Update(noises, writes, frees))


def plan_of(*stages: Stage) -> Plan:
    point = PlanPoint(0.0, 1.0, 1.0)
    return Plan("made up", "epsilon", point, point, Update(), stages, f"x{len(stages)}")


def test_the_floor_counts_each_array_of_a_known_plan_once() -> None:
    plan = plan_of(
        # data0 is kept, temp is not: reads x0, output; writes x1, data0
        stage(
            0,
            Write("temp", (("data0", 2.0), ("x0", 1.0))),
            Write("x1", (("temp", 1.0), ("x0", 1.0))),
            frees=("temp", "x0"),
        ),
        # reads x1, output, data0, noise; writes x2; a network's input of its own: reads x1, writes it
        stage(
            1,
            Write("x2", (("data1", 1.0), ("data0", 1.0), ("noise0", 1.0))),
            frees=("x1", "data0", "data1", "noise0"),
            scale=0.5,
        ),
    )
    assert bytes_per_element(plan, sample=4, output=4, shown=4) == (4 + 5 + 2) * 4 / 2
    in_half = (2 + 2 + 2 + 4) + (2 + 2 + 4 + 2 + 2) + (2 + 2)
    assert bytes_per_element(plan, sample=2, output=2, shown=2) == in_half / 2


def test_an_output_that_nothing_depends_on_is_not_read() -> None:
    plan = plan_of(stage(0, Write("x1", (("data0", 1.0),)), frees=("x0", "data0"), b=0.0))
    assert bytes_per_element(plan, sample=4, output=4, shown=4) == 2 * 4


def test_the_floor_of_samplers_is_that_of_their_formulas() -> None:
    """DDIM: sample and output to the next sample. DPM++ 2M: and from the data before, and with those for the next."""
    ddim = sampler("DDIM").plan(SD15, "epsilon", 5)
    assert {source for one in ddim.stages for source in (one.sample, OUTPUT)} == {OUTPUT, *(f"x{i}" for i in range(5))}
    assert bytes_per_element(ddim, sample=4, output=4, shown=4) == 3 * 4
    second = sampler("DPM++ 2M", lower_order_final=True).plan(SD15, "epsilon", 4)
    assert bytes_per_element(second, sample=4, output=4, shown=4) == (4 + 5 + 4 + 3) * 4 / 4
    euler = Sampler(solvers.euler, scaling=Scaling.VARIANCE_EXPLODING).plan(SD15, "epsilon", 4)  # whose input is scaled
    assert bytes_per_element(euler, sample=4, output=4, shown=4) == 5 * 4
    assert bytes_per_element(ddim, sample=4, output=2, shown=2) == (4 + 2 + 4) + (4 + 2)


def test_the_floor_remembers_what_one_later_sum_reads_as_one_array() -> None:
    """UniPC of order 3: in the middle sample, output, two data and a sum, to the data, a sum and the next sample."""
    plan = Sampler(solvers.unipc.with_options(order=3)).plan(SD15, "epsilon", 6)
    assert bytes_per_element(plan, sample=4, output=4, shown=4) == (4 + 7 + 8 + 8 + 5 + 3) * 4 / 6


def test_the_floor_is_the_time_of_so_many_bytes_in_copies() -> None:
    assert floor_seconds(20.0, copy_seconds=3.0, itemsize=4) == 7.5
    like = torch.empty(1, 4, 64, 64)
    assert 1e-8 < copy_loop(like, 1)() < 1.0


# Loops


def drawing_loops(paths: bool) -> list[Loop]:
    """Of both libraries and k-diffusion, those that draw their noise along a Brownian path or those that do not."""
    pytest.importorskip("diffusers")
    pytest.importorskip("torchsde")
    classes = ["DPMSolverSDEScheduler"] if paths else ["DDPMScheduler", "EulerAncestralDiscreteScheduler"]
    functions = ["sample_dpmpp_2m_sde", "sample_dpmpp_sde"] if paths else ["sample_euler_ancestral", "sample_heun"]
    x, output = loops.noise_and_output(SMALL, torch.float32)
    made = [
        loops.scheduler_loop(loops.configured(getattr(library, name)), x, output, 4)
        for library in (diffusolve, peers.diffusers())
        for name in classes
    ]
    theirs = peers.k_diffusion_sampling()
    libraries = [library for library in (k_diffusion, theirs) if library is not None]
    return made + [
        loops.function_loop(getattr(library, name), x, output, 4) for library in libraries for name in functions
    ]


def test_no_noise_is_drawn_where_none_is_to_be() -> None:
    noise = loops.fixed_noise(SMALL, torch.float32)
    before = noise.clone()
    with torch.no_grad(), peers.quiet():
        for loop in drawing_loops(paths=False):
            state = torch.get_rng_state()
            with loops.without_drawing():
                loop()
            assert torch.equal(torch.get_rng_state(), state)
            loop()
            assert not torch.equal(torch.get_rng_state(), state)
    assert torch.equal(noise, before), "somebody wrote to the noise that is given to all"


def test_no_path_is_followed_where_no_noise_is_to_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    made = drawing_loops(paths=True)
    import torchsde

    def follow(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a path was followed")

    monkeypatch.setattr(torchsde.BrownianInterval, "__call__", follow)
    with torch.no_grad(), peers.quiet():
        for loop in made:
            with loops.without_drawing():
                loop()
            with pytest.raises(RuntimeError, match="a path was followed"):
                loop()


def test_loops_count_the_evaluations_that_there_are() -> None:
    output = torch.zeros(SMALL)
    network = loops.FreeNetwork(output)
    plan = sampler("Heun").plan(SD15, "epsilon", 5)
    diffusolve.sample(network, torch.ones(SMALL), plan)
    assert network.asked == plan.nfe == 9
    for loop in (
        loops.run_loop(plan, torch.ones(SMALL), output),
        loops.sample_loop(plan, torch.ones(SMALL), output, None),
        loops.sample_loop(sampler("DPM adaptive"), torch.ones(SMALL), output, None),
        loops.function_loop(k_diffusion.sample_dpm_fast, torch.ones(SMALL), output, 5),
        loops.function_loop(k_diffusion.sample_dpm_adaptive, torch.ones(SMALL), output, 5),
    ):
        assert 0.0 < loop() < 60.0


def test_clearing_the_caches_clears_the_plans() -> None:
    recipe = sampler("DPM++ 2M Karras")
    plan = recipe.plan(SD15, "epsilon", 7)
    assert recipe.plan(SD15, "epsilon", 7) is plan
    set_timesteps.clear_caches()
    again = recipe.plan(SD15, "epsilon", 7)
    assert again is not plan
    assert again == plan


@pytest.mark.parametrize(
    ("name", "expected"),
    [("DPM++ 2M", True), ("UniPC", True), ("SA-Solver PECE", True), ("Euler", False), ("Heun", False)],
)
def test_multistep_samplers_are_those_that_remember(name: str, expected: bool) -> None:
    assert set_timesteps.is_multistep(sampler(name).plan(SD15, "epsilon", 6)) is expected


# Memory


class Hoarder:
    """Keeps every output that it has seen, or a copy, and makes a tensor of twice the size on the way."""

    def __init__(self, copies: bool) -> None:
        self.copies = copies
        self.timesteps: list[int] = []
        self.held: list[torch.Tensor] = []

    def set_timesteps(self, steps: int) -> None:
        self.timesteps, self.held = list(range(steps)), []

    def scale_model_input(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
        return sample

    def step(self, output: torch.Tensor, timestep: int, sample: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.held.append(output.clone() if self.copies else output)
        torch.cat([sample, output])
        return (sample + 1.0,)


def test_the_memory_of_a_run_is_what_it_allocates() -> None:
    """After two steps 2 outputs are held while the network runs; in the last, 3, and twice the sample on the way.

    The last output counts as the caller's where it is no copy.
    """
    assert memory.extra_memory(Hoarder(copies=True), (1, 4, 64, 64), 3) == memory.Memory(peak=5.0, kept=2.0)
    assert memory.extra_memory(Hoarder(copies=False), (1, 4, 64, 64), 3) == memory.Memory(peak=4.0, kept=2.0)


def test_the_memory_of_a_run_is_at_least_that_of_its_plan() -> None:
    scheduler = loops.configured(diffusolve.DPMSolverMultistepScheduler)
    measured = memory.extra_memory(scheduler, (1, 4, 64, 64), 6)
    assert measured.kept == scheduler.plan.registers - 1 == 1.0
    assert measured.peak >= 2.0


# Areas


def test_every_class_function_and_sampler_is_measured() -> None:
    classes = [kind.name for kind in KarrasDiffusionSchedulers]
    for area in ("step", "set_timesteps", "pipeline", "memory"):
        assert set(classes) <= set(AREAS[area].names())
    assert set(CATALOG) <= set(AREAS["step"].names())
    functions = {name for name in k_diffusion.__all__ if name.startswith("sample_")}
    assert functions <= set(AREAS["step"].names())
    assert len(functions) == 13
    columns = {loops.label(shape, dtype) for shape in step.SHAPES for dtype in step.DTYPES}
    assert len(columns) == 8
    assert {"1x4x64x64 float32", "1x16x21x90x160 bfloat16"} <= columns


def check(result: Result) -> None:
    """What is true of every result."""
    assert Result.from_json(result.to_json()) == result
    assert result.machine == machine()
    for table in result.tables:
        places = [(one.row, one.column) for one in table.figures]
        assert len(set(places)) == len(places)
        for one in table.figures:
            assert one.here is None or one.here >= 0.0


def test_steps_are_measured_against_peers_and_floor() -> None:
    pytest.importorskip("diffusers")
    result = step.measure(only("EulerAncestralDiscreteScheduler", "sample_euler", "DPM++ 2M"))
    check(result)
    by_name = {table.name: table for table in result.tables}
    assert list(by_name) == ["classes", "classes-drawing", "functions", "samplers"]
    assert by_name["classes"].peer == by_name["samplers"].peer == "diffusers"
    for name in ("classes", "functions", "samplers"):
        for one in by_name[name].figures:
            assert one.here is not None
            assert one.floor is not None
            assert one.there is not None or by_name[name].peer is None
            assert one.details["threads"] == (1 if one.column.startswith("1x4x64x64") else torch.get_num_threads())
    assert all(one.floor is None for one in by_name["classes-drawing"].figures)
    assert not any(one.note for table in result.tables for one in table.figures)
    assert {goal.met for goal in result.goals} <= {True, False, None}
    assert any("stochastic classes" in goal.what and goal.met is not None for goal in result.goals)
    assert any("deterministic classes" in goal.what and goal.met is None for goal in result.goals)


def test_classes_of_flow_models_are_measured_in_their_loop_beside_diffusers() -> None:
    pytest.importorskip("diffusers")
    names = "FlowMatchEulerDiscreteScheduler", "LTXEulerAncestralRFScheduler"
    assert {*names, "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler"} <= set(AREAS["step"].names())
    assert set(step.FLOW_SHAPES) == {(1, 16, 128, 128), (1, 16, 21, 90, 160)} <= set(step.SHAPES)
    result = step.measure(only(*names))
    check(result)
    (table,) = result.tables
    assert (table.name, table.peer, table.rows) == ("flow", "diffusers", names)
    assert all(one.ratio is not None and one.floor is not None and not one.note for one in table.figures)
    assert [goal.what.split(", ")[-1] for goal in result.goals] == ["geometric mean", "each"]


@pytest.mark.usefixtures("_alone")
def test_without_peers_the_floor_stays_and_it_is_said() -> None:
    result = step.measure(only("EulerDiscreteScheduler", "sample_euler"))
    check(result)
    assert result.notes == (peers.missing("diffusers"), peers.missing("k-diffusion"))
    for table in result.tables:
        assert table.peer is None
        assert all(one.there is None and one.ratio is None and one.floor is not None for one in table.figures)
    assert all(goal.met is None for goal in result.goals)
    assert pipeline.measure(only("EulerDiscreteScheduler")).tables == ()
    assert set_timesteps.measure(only("EulerDiscreteScheduler")).notes == (peers.missing("diffusers"),)


def test_set_timesteps_is_measured_cold_and_again() -> None:
    result = set_timesteps.measure(only("EulerDiscreteScheduler", "DPM++ 2M", "Euler"))
    check(result)
    by_name = {table.name: table for table in result.tables}
    assert list(by_name) == ["cold", "cached", "constructed", "planning"]
    assert by_name["cold"].columns == ("default", "karras", "exponential", "beta")
    assert by_name["planning"].rows == ("DPM++ 2M", "Euler")
    (cached,) = [goal for goal in result.goals if goal.what.startswith("cached plans")]
    assert "DPM++ 2M" in cached.measured  # Euler is no multistep sampler
    assert "Euler" not in cached.measured


def test_memory_is_measured() -> None:
    result = memory.measure(only("EulerDiscreteScheduler"))
    check(result)
    (table,) = result.tables
    assert {one.column: one.here for one in table.figures} == {"peak": 1.0, "kept": 1.0}


def test_an_import_is_measured_in_a_new_interpreter() -> None:
    assert 0.0 < start_up.fresh_import("pass", "import diffusolve")() < 60.0
    assert start_up.fresh_import("import time", "time.sleep(0.05)")() >= 0.05
    assert start_up.fresh_import("import time; time.sleep(0.3)", "pass")() < 0.3
    with pytest.raises(ImportError, match="No module named 'diffusolv'"):
        start_up.fresh_import("pass", "import diffusolv")()


def test_a_pipeline_with_an_idle_scheduler_is_the_floor() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    result = pipeline.measure(only("HeunDiscreteScheduler"))
    check(result)
    ((one,),) = [table.figures for table in result.tables]
    assert one.here is not None
    assert one.there is not None
    assert one.floor is not None


def test_a_library_that_cannot_do_it_is_a_note() -> None:
    def make() -> Any:
        raise RuntimeError("not on Tuesdays\nsecond line")

    x, output = loops.noise_and_output(SMALL, torch.float32)
    case = step.Case(
        lambda: loops.run_loop(sampler("DDIM").plan(SD15, "epsilon", 3), x, output), make, None, 3, SMALL, torch.float32
    )
    made = step.measured("DDIM", case, ONCE)
    assert made.here is not None
    assert made.there is None
    assert made.note == "fails there: RuntimeError: not on Tuesdays"


def test_what_is_missing_here_is_a_note() -> None:
    def make() -> Any:
        raise ImportError("it needs torchsde")

    made = step.measured("X", step.Case(make, None, None, 3, SMALL, torch.float32), ONCE)
    assert (made.here, made.note) == (None, "it needs torchsde")


def test_the_machine_is_described_without_its_name() -> None:
    described = machine()
    assert described["torch"] == torch.__version__
    assert described["threads"] == torch.get_num_threads()
    assert described["processor"]
    assert platform.node() not in described.values()


# The command and the page


def result_of(area: str, quick: bool = False) -> Result:
    figures = (
        Figure("Euler", "1x4x64x64 float32", 2.0, 10.0, 1.0, rounds=7),
        Figure("Heun", "1x4x64x64 float32", None, note="it needs torchsde"),
    )
    table = Table("classes", "Steps", "us", "diffusers", figures)
    goals = (Goal("each", "at least 6x", "5.00x (Euler)", False),)
    return Result(area, quick, machine(), (table,), goals, ("a note",))


def test_the_command_writes_numbers_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "results"
    assert run("memory", "--quick", "--only", "eulerdiscretescheduler", "--json", folder) == 0
    said = capsys.readouterr()
    assert "EulerDiscreteScheduler" in said.out
    assert "memory of a run, each class" in said.out
    assert "memory: EulerDiscreteScheduler" in said.err
    made = json.loads((folder / "memory.json").read_text())
    assert made["format"] == "diffusolve benchmarks"
    assert made["quick"] is True
    (table,) = made["tables"]
    for one in table["figures"]:
        assert one["ratio"] == pytest.approx(one["there"] / one["here"])
    assert Result.from_json((folder / "memory.json").read_text()).area == "memory"
    assert Image.open(folder / "memory.png").width > 500


def test_areas_without_what_is_asked_for_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "memory", "--quick", "--only", "PNDMScheduler") == 0
    assert "import diffusolve" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["memry"], "unknown area 'memry': did you mean 'memory'"),
        (["memory", "--only", "EulerDiscreetScheduler"], "did you mean 'EulerDiscreteScheduler'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_found_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert run("memory", "--json", file) == 2
    assert "file" in capsys.readouterr().err


def test_the_areas_are_the_modules_that_there_are() -> None:
    source = Path(step.__file__).parent
    for area in AREAS.values():
        path = source / f"{area.module.rpartition('.')[2]}.py"
        functions = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert {"measure", "names"} <= functions


def test_asking_for_an_unknown_area_does_not_load_torch() -> None:
    script = (
        "import sys\nfrom benchmarks.suite.__main__ import main\n"
        "try:\n    main(['x'])\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout.strip() == "False"


def test_a_page_has_tables_goals_and_notes() -> None:
    page = markdown(result_of("step", quick=True))
    assert "| Euler | 2 5x 2f |" in page
    assert "| Heun | - |" in page
    assert "| each | at least 6x | 5.00x (Euler) | **missed** |" in page
    assert "Heun, 1x4x64x64 float32: it needs torchsde" in page
    assert "a note" in page
    assert "not to be quoted" in page
    assert "not to be quoted" not in markdown(result_of("step"))


def test_a_plot_has_a_panel_for_the_ratios_and_one_for_the_floor() -> None:
    ratios, floors = figure(result_of("step")).axes
    assert list(ratios.lines[0].get_xdata()) == [5.0]
    assert list(floors.lines[0].get_xdata()) == [2.0]
    assert ratios.get_xlabel() == "times as much in diffusers as here"


def test_the_report_goes_between_the_comments_of_its_area(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results"
    page.write_text(report.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    results.mkdir()
    with pytest.raises(FileNotFoundError, match=r"python -m benchmarks\.suite --json"):
        report.main(results, page)
    (results / "memory.json").write_text(result_of("memory").to_json())
    report.main(results, page)
    text = page.read_text(encoding="utf-8")
    inside = text.split("<!-- begin memory -->")[1].split("<!-- end memory -->")[0]
    assert "| Euler | 2 5x 2f |" in inside
    before = report.PAGE.read_text(encoding="utf-8")
    assert text.split("<!-- begin memory -->")[0] == before.split("<!-- begin memory -->")[0]
    (results / "step.json").write_text('{"format": "something else"}')
    with pytest.raises(ValueError, match=r"step\.json: this is no result"):
        report.main(results, page)


def test_the_page_has_a_place_for_every_area() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    for area in AREAS:
        assert text.count(f"<!-- begin {area} -->") == text.count(f"<!-- end {area} -->") == 1


pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
