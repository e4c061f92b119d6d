"""The page: what is on it, and what happens when something is chosen, pressed or dropped."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr

from diffusolve.catalog import WORLD_NAMES
from diffusolve.denoisers.named import MODELS, classes_of
from diffusolve.errors import UnknownNameError, unknown_name
from diffusolve.lab import show
from diffusolve.lab.choice import OWN, Choice, named, names_of, schedules_of, whole_numbers
from diffusolve.lab.experiment import Experiment, Stopped, configuration_of, plans_of, read_plan
from diffusolve.plan import Plan

__all__ = ["STYLE", "make_page"]

STYLE = Path(__file__).with_name("style.css")

PAUSE = 0.15
"""Seconds between two looks at where an experiment is."""

DEFAULT_SCHEDULE = "default"
SAID = (ValueError, OSError, ImportError, TypeError)
"""Errors that the library says in words to whoever asks for what cannot be."""

ADDRESS = "(query) => { history.replaceState(null, '', location.pathname + (query ? '?' + query : '')); return query; }"
"""Shows the choice in the browser's address bar, from where it can be copied as a link."""

Update = dict[str, Any]


class Lab:
    """The experiments of all who have the page open, by their sessions."""

    def __init__(self, model: str) -> None:
        self.base = Choice(model=model) if model == Choice.model else _choice_of(model)
        # A model of somebody's choice could be one whose weights run code when they are loaded.
        self.models = list(dict.fromkeys([*MODELS, model]))
        self.experiments: dict[str, Experiment] = {}
        self.files = tempfile.TemporaryDirectory(prefix="diffusolve-lab-")

    def stop(self, request: gr.Request) -> None:
        """Stop what a session has begun."""
        experiment = self.experiments.get(str(request.session_hash))
        if experiment is not None:
            experiment.stop()

    def check(self, choice: Choice) -> None:
        """Raise UnknownNameError for a model that is neither the library's own nor the page's."""
        if choice.model not in self.models:
            raise unknown_name("model of this page", choice.model, self.models)

    def leave(self, request: gr.Request) -> None:
        """Stop and forget what a session has begun."""
        self.stop(request)
        self.experiments.pop(str(request.session_hash), None)

    def begin(self, session: str, choice: Choice, plans: dict[str, Plan]) -> Experiment:
        """The experiment that a session begins; the one before it, if it still runs, is stopped."""
        before = self.experiments.get(session)
        if before is not None:
            before.stop()
        self.experiments[session] = experiment = Experiment(choice, plans)
        return experiment

    def written(self, name: str, text: str) -> str:
        """The path of a new file called `name` with `text` in it."""
        path = Path(tempfile.mkdtemp(dir=self.files.name)) / name
        path.write_text(text, encoding="utf-8")
        return str(path)


def _choice_of(model: str) -> Choice:
    """The choice to begin with for a model that the page was started with: no error, which could take long."""
    if model in MODELS:
        return Choice(model=model, guidance=1.0 if model == "gaussian" else Choice.guidance)
    return Choice(model=model, guidance=1.0, steps=(10, 20), num=1, error=False)


def make_page(model: str = Choice.model) -> gr.Blocks:
    """The page, with `model` chosen: a name of ``diffusolve sample --model``, or the path of a pipeline folder."""
    lab = Lab(model)
    page: gr.Blocks
    with gr.Blocks(title="diffusolve lab", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            "<h1>diffusolve lab</h1><p>Samplers side by side, from the same noise.</p>",
            padding=False,
            elem_classes="lab-title",
        )
        plans = gr.State({})
        with gr.Row():
            with gr.Column(scale=0, min_width=370, elem_classes="lab-controls"):
                controls = _controls(lab, plans)
            with gr.Column(scale=1, min_width=640):
                results = _results(lab)
        _connect(page, lab, plans, controls, results)
    return page


class Controls:
    """The left side: `fields` are those of a :class:`Choice`, in its order."""

    fields: list[Any]
    run: Any
    stop: Any
    status: Any
    query: Any
    world: Any
    link: Any


class Results:
    """The right side."""

    samples: Any
    plots: Any
    plan: Any
    coefficients: Any
    plan_file: Any
    config_file: Any
    note: Any
    panel: Any


def _controls(lab: Lab, plans: Any) -> Controls:
    """Make the left side."""
    base, controls = lab.base, Controls()
    with gr.Group():
        model = gr.Dropdown(lab.models, value=base.model, label="Model", elem_id="model")
        with gr.Row():
            label = gr.Dropdown(
                _class_choices(base.model), value="", label="Class", elem_id="class", allow_custom_value=True
            )
            guidance = gr.Number(base.guidance, label="Guidance", elem_id="guidance", step=0.5)
        prompt = gr.Textbox(label="Prompt", elem_id="prompt", visible=base.model not in MODELS)
    with gr.Group():
        samplers = gr.Dropdown(
            list(base.samplers),
            value=list(base.samplers),
            multiselect=True,
            allow_custom_value=True,
            label="Samplers",
            elem_id="samplers",
        )
        with gr.Row():
            controls.world = gr.Dropdown(
                [OWN, *WORLD_NAMES], value=OWN, label="Names of", elem_id="world", min_width=120
            )
            name = gr.Dropdown(names_of(OWN), value=None, label="Sampler", elem_id="name", min_width=120)
        kinds = [DEFAULT_SCHEDULE, *schedules_of(OWN)]
        schedule = gr.Dropdown(kinds, value=DEFAULT_SCHEDULE, label="Schedule", elem_id="schedule")
    with gr.Row():
        add = gr.Button("Add sampler", elem_id="add", size="sm", min_width=120)
        dropped = gr.UploadButton("Add plan (JSON)", file_types=[".json"], elem_id="drop", size="sm", min_width=120)
    with gr.Group():
        with gr.Row():
            steps = gr.Textbox(_listed(base.steps), label="Steps", elem_id="steps", min_width=110)
            num = gr.Number(base.num, label="Samples", precision=0, elem_id="num", min_width=80)
            seed = gr.Number(base.seed, label="Seed", precision=0, elem_id="seed", min_width=80)
        error = gr.Checkbox(base.error, label="Measure the error (100 more evaluations)", elem_id="error")
    with gr.Row():
        controls.run = gr.Button("Run", variant="primary", elem_id="run", min_width=120)
        controls.stop = gr.Button("Stop", elem_id="stop", interactive=False, min_width=120)
    controls.status = gr.HTML("", padding=False, elem_id="status", elem_classes="lab-status")
    controls.link = gr.HTML("", padding=False, elem_id="link", elem_classes="lab-status")
    controls.query = gr.Textbox(visible=False)
    controls.fields = [model, samplers, steps, num, seed, guidance, label, prompt, error]

    controls.world.change(_names_offered, controls.world, [name, schedule], show_progress="hidden")
    add.click(_added, [samplers, controls.world, name, schedule], [samplers], show_progress="hidden")
    dropped.upload(_dropped, [dropped, plans, samplers], [plans, samplers, controls.status], show_progress="hidden")
    model.change(_model_chosen, model, [label, prompt], show_progress="hidden")
    return controls


def _results(lab: Lab) -> Results:
    """Make the right side."""
    results = Results()
    results.samples = gr.HTML(show.samples(None), padding=False, elem_id="samples-made")
    results.plots = gr.HTML("", padding=False, elem_id="plots", elem_classes="lab-plots")
    with gr.Column(visible=False) as results.panel:
        with gr.Row(elem_classes="lab-plan-row"):
            results.plan = gr.Dropdown([], label="Coefficients of", elem_id="plan", scale=2)
            results.plan_file = gr.DownloadButton("Plan (JSON)", elem_id="plan-file", size="sm", min_width=150)
            results.config_file = gr.DownloadButton(
                "Configuration for diffusers", elem_id="config-file", size="sm", min_width=210
            )
        results.note = gr.HTML("", padding=False, elem_classes="lab-status", elem_id="config-note")
        results.coefficients = gr.HTML("", padding=False, elem_id="coefficients")
    return results


def _connect(page: gr.Blocks, lab: Lab, plans: Any, controls: Controls, results: Results) -> None:
    """Say what happens when the page is opened, run, stopped, and when a plan is looked at."""
    shown = [results.samples, results.plots, results.panel, results.plan]

    def run(plans: dict[str, Plan], request: gr.Request, *fields: Any) -> Iterator[tuple[Any, ...]]:
        yield from _run(lab, str(request.session_hash), plans, fields)

    controls.run.click(
        run,
        [plans, *controls.fields],
        [controls.status, controls.run, controls.stop, *shown],
        show_progress="hidden",
        concurrency_limit=4,
    )
    controls.run.click(_query, controls.fields, [controls.query, controls.link], show_progress="hidden").then(
        None, controls.query, controls.query, js=ADDRESS
    )
    controls.stop.click(lab.stop, None, None, queue=False)

    def look(name: str | None, request: gr.Request) -> tuple[Any, ...]:
        return _look(lab, str(request.session_hash), name)

    looked = [results.coefficients, results.plan_file, results.config_file, results.note]
    results.plan.change(look, results.plan, looked, show_progress="hidden")

    def restore(request: gr.Request) -> list[Any]:
        return _restored(lab, dict(request.query_params))

    page.load(restore, None, [*controls.fields, controls.status, controls.link], show_progress="hidden")
    page.unload(lab.leave)


def _run(lab: Lab, session: str, plans: dict[str, Plan], fields: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The page's updates while an experiment runs, and when it has ended."""
    nothing = [gr.skip()] * 4
    try:
        choice = _choice(fields)
        lab.check(choice)
    except SAID as error:
        yield show.message(str(error), "error"), gr.skip(), gr.skip(), *nothing
        return
    experiment = lab.begin(session, choice, plans)
    wrong: list[Exception] = []

    def work() -> None:
        try:
            experiment.run()
        except Exception as error:
            wrong.append(error)

    thread = Thread(target=work, daemon=True)
    begun = time.perf_counter()
    thread.start()
    running, idle = gr.update(interactive=False), gr.update(interactive=True)
    yield show.progress(experiment), running, idle, *nothing
    seen = 0
    while thread.is_alive():
        thread.join(PAUSE)
        count = sum(map(len, experiment.cells.values()))
        samples = show.samples(experiment) if count > seen else gr.skip()
        seen = count
        yield show.progress(experiment), gr.skip(), gr.skip(), samples, *nothing[1:]
    status = _ended(experiment, wrong, time.perf_counter() - begun)
    yield status, idle, running, *_outcome(experiment)


def _ended(experiment: Experiment, wrong: list[Exception], seconds: float) -> str:
    """The line for an experiment that has ended."""
    count = sum(map(len, experiment.cells.values()))
    if not wrong:
        return show.message(f"Done: {count} runs in {seconds:.1f} s.")
    error = wrong[0]
    if isinstance(error, Stopped):
        return show.message(f"Stopped; {count} runs were finished.")
    if isinstance(error, SAID):
        return show.message(str(error), "error")
    return show.message(f"{type(error).__name__}: {error}", "error")


def _outcome(experiment: Experiment) -> tuple[Any, ...]:
    """Samples, plots, and the plans to look at."""
    names = [name for name, _ in plans_of(experiment)] if experiment.cells else []
    return (
        show.samples(experiment),
        show.plots(experiment),
        gr.update(visible=bool(names)),
        gr.update(choices=names, value=names[0] if names else None),
    )


def _look(lab: Lab, session: str, name: str | None) -> tuple[Any, ...]:
    """A plan's coefficients, its file, and the configuration of diffusers for its sampler."""
    experiment = lab.experiments.get(session)
    plan = dict(plans_of(experiment)).get(name) if experiment is not None and name else None
    if plan is None or name is None:
        return "", gr.update(value=None), gr.update(value=None, interactive=False), ""
    plan_file = lab.written("plan.json", plan.to_json(indent=2))
    sampler = name.rpartition(",")[0]
    try:
        text, differences = configuration_of(sampler)
    except ValueError as error:
        no_file = gr.update(value=None, interactive=False)
        return show.coefficients(plan), gr.update(value=plan_file), no_file, show.message(str(error))
    told = show.message(f"In diffusers: {'; '.join(differences)}.") if differences else ""
    config_file = gr.update(value=lab.written("scheduler_config.json", text), interactive=True)
    return show.coefficients(plan), gr.update(value=plan_file), config_file, told


def _choice(fields: tuple[Any, ...]) -> Choice:
    """The choice in the fields of the page. Raises ValueError for one that holds nothing of its kind."""
    model, samplers, steps, num, seed, guidance, label, prompt, error = fields
    for what, value in {"samples": num, "seed": seed, "guidance": guidance}.items():
        if value is None:
            raise ValueError(f"{what} is empty: expected a number.")
    return Choice(
        model=str(model or ""),
        samplers=tuple(samplers or ()),
        steps=whole_numbers("steps", steps or ""),
        num=int(num),
        seed=int(seed),
        guidance=float(guidance),
        label=str(label or ""),
        prompt=str(prompt or ""),
        error=bool(error),
    )


def _query(*fields: Any) -> tuple[str, str]:
    """The query of a link to a choice, and the link; nothing where it is no choice."""
    try:
        query = _choice(fields).query()
    except SAID:
        return "", ""
    return query, _link(query)


def _link(query: str) -> str:
    return f'<p><a href="?{escape(query)}">Link to this choice</a></p>'


def _restored(lab: Lab, query: dict[str, str]) -> list[Any]:
    """The fields for the query of a link, what is wrong with it, and the link."""
    try:
        choice, wrong = Choice.from_query(query, lab.base), ""
        lab.check(choice)
    except ValueError as error:
        choice, wrong = lab.base, show.message(str(error), "error")
    samplers = list(choice.samplers)
    return [
        choice.model,
        gr.update(value=samplers, choices=samplers),
        _listed(choice.steps),
        choice.num,
        choice.seed,
        choice.guidance,
        gr.update(value=choice.label, choices=_class_choices(choice.model)),
        gr.update(value=choice.prompt, visible=choice.model not in MODELS),
        choice.error,
        wrong,
        _link(choice.query()),
    ]


def _names_offered(world: str) -> tuple[Update, Update]:
    kinds = [DEFAULT_SCHEDULE, *schedules_of(world)]
    return gr.update(choices=names_of(world), value=None), gr.update(choices=kinds, value=DEFAULT_SCHEDULE)


def _added(samplers: list[str] | None, world: str, name: str | None, schedule: str) -> Any:
    chosen = list(samplers or [])
    if not name:
        return gr.skip()
    added = named(world, name, None if schedule == DEFAULT_SCHEDULE else schedule)
    chosen += [added] * (added not in chosen)
    return gr.update(value=chosen, choices=chosen)


def _dropped(path: str, plans: dict[str, Plan], samplers: list[str] | None) -> tuple[Any, Any, str]:
    """The plans and samplers with the plan in a file that was dropped in, or what is wrong with the file."""
    try:
        name, plan = read_plan(path)
    except (ValueError, OSError) as error:
        return gr.skip(), gr.skip(), show.message(str(error), "error")
    chosen = list(dict.fromkeys([*(samplers or []), name]))
    said = show.message(f"{name.removeprefix('plan: ')}: {plan.steps} steps, {plan.nfe} evaluations.")
    return {**plans, name: plan}, gr.update(value=chosen, choices=chosen), said


def _model_chosen(model: str) -> tuple[Update, Update]:
    return gr.update(choices=_class_choices(model), value=""), gr.update(visible=model not in MODELS)


def _class_choices(model: str) -> list[tuple[str, str]]:
    """The classes of a model as a list to choose from; those of a pipeline have no names."""
    try:
        names = classes_of(model)
    except UnknownNameError:
        names = ()
    return [("all in turn" if names else "none", ""), *((name, name) for name in names)]


def _listed(steps: tuple[int, ...]) -> str:
    return ", ".join(map(str, steps))
