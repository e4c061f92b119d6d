"""diffusolve.k_diffusion in place of k-diffusion: the same calls get the same numbers."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import diffusolve.k_diffusion as ours
from diffusolve.errors import UnknownNameError
from tests.tables import for_each

from . import k_diffusion_reference as theirs
from .k_diffusion_reference import IntervalNoise
from .network import SHAPE, StandInNetwork, standard_noise

pytestmark = [
    pytest.mark.filterwarnings("ignore:Should have t"),  # k-diffusion's paths end a rounding error early
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
]
pytest.importorskip("torchsde", reason="the SDE samplers need torchsde, which is not installed")

WITHIN = {torch.float32: 1e-5, torch.float64: 1e-12}
"""What rounding amounts to, in units of the root mean square."""

WITHIN_FROM_ENDS = 1e-4
"""The same for samplers that k-diffusion gives noise levels of single precision of its own."""

STEPS = 6


class Denoiser:
    """Predicts x0 from samples ``x0 + sigma * noise``, in some nonlinear way, and remembers what it was shown."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.network = StandInNetwork(dtype=dtype)
        self.seen: list[dict[str, Tensor]] = []

    def __call__(self, x: Tensor, sigma: Tensor, strength: float = 1.0) -> Tensor:
        self.seen.append({"x": x.clone(), "sigma": sigma.clone()})
        scale = (sigma**2 + 1) ** -0.5
        return 2 * strength * self.network(x * scale[:, None, None, None], 200 * sigma.log1p()).to(x.dtype)


class Case(NamedTuple):
    """A call of a function of `sampling`."""

    name: str
    options: Mapping[str, Any] = MappingProxyType({})


class Walk(NamedTuple):
    """What can be seen of a call."""

    result: Tensor
    seen: list[dict[str, Tensor]]
    told: list[dict[str, Any]]
    generator: Tensor


def walk(sampling: ModuleType, case: Case, dtype: torch.dtype, *levels: Any, **options: Any) -> Walk:
    """Call the function of k-diffusion's module or of ours, from equal states of the global generator."""
    model, told, owned = Denoiser(dtype), [], []

    def callback(info: dict[str, Any]) -> None:
        owned.append(info)
        told.append({key: value.clone() if isinstance(value, Tensor) else value for key, value in info.items()})

    high = max(float(torch.as_tensor(level).max()) for level in levels[:2])
    x = high * standard_noise(dtype=dtype)
    torch.manual_seed(3)
    arguments = {"extra_args": {"strength": 0.9}, "callback": callback, "disable": True, **case.options, **options}
    result = getattr(sampling, case.name)(model, x, *levels, **arguments)
    assert torch.equal(x, high * standard_noise(dtype=dtype)), "the sample given is left as it was"
    for now, then in zip(owned, told, strict=True):
        assert torch.equal(now["x"], then["x"]), "and so is all that a callback may have kept"
        assert torch.equal(now["denoised"], then["denoised"])
    return Walk(result, model.seen, told, torch.get_rng_state())


def levels_to(end: float, dtype: torch.dtype) -> Tensor:
    """Noise levels in single precision, as programs have them, to `end`."""
    levels = theirs.sampling.get_sigmas_karras(STEPS, 0.1, 15.0)
    return (levels if end == 0 else levels[:-1]).to(dtype)


def assert_same(one: Walk, other: Walk, within: float) -> None:
    """The model was shown the same, the callback was told the same, and the result and the generator are the same."""
    assert len(one.seen) == len(other.seen)
    assert len(one.told) == len(other.told)
    pairs = [*zip(one.seen, other.seen, strict=True), *zip(one.told, other.told, strict=True)]
    for a, b in [*pairs, ({"result": one.result}, {"result": other.result})]:
        assert a.keys() == b.keys()
        for key in a:
            assert type(a[key]) is type(b[key]), key
            assert difference(a[key], b[key]) <= within, key
    assert torch.equal(one.generator, other.generator)


def difference(a: Any, b: Any) -> float:
    """The largest difference of any element, in units of the root mean square."""
    if isinstance(a, Tensor):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert torch.isfinite(b).all(), "the reference's own numbers are finite"
        a, b = a.detach(), b.detach()
        return float((a - b).abs().max() / b.square().mean().sqrt().clamp(min=1e-12))
    return abs(a - b) / max(abs(b), 1.0)


def name_of(value: object) -> str:
    name, options = value if isinstance(value, Case) else ("", value)
    shown = {key: "own" if callable(option) else option for key, option in options.items()}  # type: ignore[attr-defined]
    return " ".join([name, *(f"{key}={option}" for key, option in shown.items())]).strip() or "default"


# Functions of a list of noise levels

CHURNS: list[dict[str, Any]] = [
    {"s_churn": 1.5},
    {"s_churn": 40.0, "s_noise": 1.007},
    {"s_churn": 3.0, "s_tmin": 0.3, "s_tmax": 5.0},
    {"s_churn": 3.0, "s_tmin": 20.0},
]
ETAS: list[dict[str, Any]] = [{}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 1.05}, {"eta": 4.0}]
SDE: list[dict[str, Any]] = [{}, {"eta": 0.0}, {"eta": 0.6, "s_noise": 1.05}]

DETERMINISTIC = [
    *map(Case, ("sample_euler", "sample_heun", "sample_dpm_2", "sample_dpmpp_2m")),
    *(Case("sample_lms", {"order": order}) for order in (1, 3, 4)),
]
CHURNED = [Case(*made) for made in product(("sample_euler", "sample_heun", "sample_dpm_2"), CHURNS)]
ANCESTRAL = [
    Case(*made)
    for made in product(("sample_euler_ancestral", "sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral"), ETAS)
    # Where nothing of the old noise is left, theirs leaves out the fresh noise too.
    if made != ("sample_dpm_2_ancestral", {"eta": 4.0})
]
ALONG_A_PATH = [
    *(Case(*made) for made in product(("sample_dpmpp_sde", "sample_dpmpp_2m_sde", "sample_dpmpp_3m_sde"), SDE)),
    Case("sample_dpmpp_sde", {"r": 0.3}),
    Case("sample_dpmpp_2m_sde", {"solver_type": "heun"}),
]

to_both_ends = for_each("end", [0, 0.1])
in_both_precisions = for_each("dtype", [torch.float32, torch.float64], ids=str)


@in_both_precisions
@to_both_ends
@for_each("case", [*DETERMINISTIC, *CHURNED, *ANCESTRAL, *ALONG_A_PATH], ids=name_of)
def test_samplers_do_the_same_with_the_noise_that_is_theirs_by_default(
    case: Case, end: float, dtype: torch.dtype
) -> None:
    """The Brownian paths have the same seed, which comes from the global generator."""
    sigmas = levels_to(end, dtype)
    mine, reference = (walk(module, case, dtype, sigmas) for module in (ours.sampling, theirs.sampling))
    assert_same(mine, reference, WITHIN[dtype])


@in_both_precisions
@to_both_ends
@for_each("case", [*ANCESTRAL, *ALONG_A_PATH], ids=name_of)
def test_samplers_ask_a_noise_sampler_of_the_programs_own_for_the_same_intervals(
    case: Case, end: float, dtype: torch.dtype
) -> None:
    sigmas = levels_to(end, dtype)
    walks, intervals = [], []
    for module in (ours.sampling, theirs.sampling):
        noise, asked = IntervalNoise(dtype), []

        def sampler(sigma: Tensor, sigma_next: Tensor, noise: Any = noise, asked: Any = asked) -> Tensor:
            asked.append((sigma, sigma_next))
            return noise.theirs(sigma, sigma_next)

        walks.append(walk(module, case, dtype, sigmas, noise_sampler=sampler))
        intervals.append(asked)
    assert_same(*walks, WITHIN[dtype])
    assert len(intervals[0]) == len(intervals[1])
    for mine, reference in zip(*intervals, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, reference, strict=True)), "to the bit: paths are rough"


@for_each("seed", [5, [5, 6]])
@for_each("case", ALONG_A_PATH, ids=name_of)
def test_brownian_noise_samplers_of_both_are_interchangeable(case: Case, seed: Any) -> None:
    sigmas, like = levels_to(0, torch.float32), torch.zeros(SHAPE)
    walks = []
    for module, source in product((ours.sampling, theirs.sampling), repeat=2):
        sampler = source.BrownianTreeNoiseSampler(like, 0.1, 15.0, seed=seed)
        walks.append(walk(module, case, torch.float32, sigmas, noise_sampler=sampler))
    for other in walks[:-1]:
        assert_same(other, walks[-1], WITHIN[torch.float32])


@for_each("case", DETERMINISTIC, ids=name_of)
def test_deterministic_samplers_also_go_from_data_to_noise(case: Case) -> None:
    sigmas = levels_to(0.1, torch.float64).flip(0)
    mine, reference = (walk(module, case, torch.float64, sigmas) for module in (ours.sampling, theirs.sampling))
    assert float(mine.result.std()) > 2 * float(sigmas[0])
    assert_same(mine, reference, WITHIN[torch.float64])


@pytest.mark.parametrize("case", [Case("sample_euler"), Case("sample_euler_ancestral")], ids=name_of)
@pytest.mark.parametrize("count", [0, 1])
def test_without_a_step_nothing_is_done(case: Case, count: int) -> None:
    x, sigmas = standard_noise(), torch.tensor([2.0])[:count]
    for module in (ours.sampling, theirs.sampling):
        assert getattr(module, case.name)(None, x, sigmas, disable=True) is x


@for_each("dtype", [torch.float16, torch.bfloat16], ids=str)
@for_each("name", ["sample_euler", "sample_heun", "sample_dpmpp_2m", "sample_euler_ancestral"])
def test_half_precision_stays_and_errors_are_no_larger_than_theirs(name: str, dtype: torch.dtype) -> None:
    sigmas, noise = levels_to(0, dtype), standard_noise(4).to(dtype)
    walks = []
    for module, precision in ((ours.sampling, dtype), (theirs.sampling, dtype), (theirs.sampling, torch.float64)):
        drawn = {"noise_sampler": lambda *_, as_=precision: noise.to(as_)} if name == "sample_euler_ancestral" else {}
        walks.append(walk(module, Case(name, drawn), precision, sigmas.to(precision)))
    mine, reference, exact = walks
    assert mine.result.dtype == reference.result.dtype == dtype
    for a, b in zip(mine.seen, reference.seen, strict=True):
        assert [value.dtype for value in a.values()] == [value.dtype for value in b.values()] == [dtype, dtype]
    errors = [float((made.result.double() - exact.result).square().mean()) for made in (mine, reference)]
    assert errors[0] <= 1.1 * errors[1]


def test_samples_keep_their_precision_with_noise_levels_of_another() -> None:
    """In k-diffusion some samplers then go on in the precision of the noise levels, which a network may refuse."""
    for case in [*DETERMINISTIC, Case("sample_euler_ancestral"), Case("sample_dpmpp_2s_ancestral")]:
        made = walk(ours.sampling, case, torch.float16, levels_to(0, torch.float32))
        assert made.result.dtype == torch.float16
        assert {value.dtype for seen in made.seen for value in seen.values()} == {torch.float16}


# Functions of two noise levels

FAST: list[dict[str, Any]] = [*SDE, {"eta": 1.0, "noise_sampler": IntervalNoise(torch.float32).theirs}]
ENDS = [(0.1, 15.0), (torch.tensor(0.03), torch.tensor(14.6))]


@for_each("ends", ENDS, ids=["numbers", "tensors"])
@for_each("options", FAST, ids=name_of)
@for_each("n", [1, 2, 3, 4, 5, 6, 11])
def test_dpm_fast_does_the_same(n: int, options: dict[str, Any], ends: tuple[Any, Any]) -> None:
    case = Case("sample_dpm_fast", options)
    mine, reference = (walk(module, case, torch.float32, *ends, n) for module in (ours.sampling, theirs.sampling))
    assert_same(mine, reference, WITHIN_FROM_ENDS)


ADAPTIVE: list[dict[str, Any]] = [
    {},
    {"order": 2},
    {"eta": 0.7, "s_noise": 0.9},
    {"eta": 1.0, "noise_sampler": IntervalNoise(torch.float32).theirs},
    {"h_init": 3.0, "rtol": 0.02},
    {"pcoeff": 0.3, "icoeff": 0.7, "dcoeff": 0.1, "accept_safety": 0.95, "h_init": 1.0},
]


@for_each("ends", ENDS, ids=["numbers", "tensors"])
@for_each("options", ADAPTIVE, ids=name_of)
def test_dpm_adaptive_does_the_same_but_for_asking_again_after_a_rejected_step(
    options: dict[str, Any], ends: tuple[Any, Any]
) -> None:
    case = Case("sample_dpm_adaptive", {**options, "return_info": True})
    mine, reference = (walk(module, case, torch.float32, *ends) for module in (ours.sampling, theirs.sampling))
    (sample, info), (expected, expected_info) = mine.result, reference.result  # type: ignore[misc]
    rejected = 0
    for told in reference.told:
        told["nfe"], rejected = told["nfe"] - rejected, told["n_reject"]
    expected_info["nfe"] -= expected_info["n_reject"]
    assert info == expected_info
    assert info["nfe"] == len(mine.seen)
    assert difference(sample, expected) <= WITHIN_FROM_ENDS
    assert len(mine.told) == len(reference.told)
    for a, b in zip(mine.told, reference.told, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert type(a[key]) is type(b[key]), key
            # The error is a difference of nearly equal samples, and the steps follow from it.
            within = 0.02 if key in ("error", "h") else 2e-3
            assert difference(a[key], b[key]) <= within or (key == "error" and max(a[key], b[key]) < 1e-4), key
    assert torch.equal(mine.generator, reference.generator)


# What programs rely on besides


def test_every_function_and_class_has_the_same_name_and_signature() -> None:
    absent = {"DPMSolver"}
    for mine, reference in ((ours.sampling, theirs.sampling), (ours.external, theirs.external)):
        public = {
            name
            for name, value in vars(reference).items()
            if getattr(value, "__module__", None) == reference.__name__ and not name.startswith("_")
        }
        assert public - absent == {name for name in public if hasattr(mine, name)}
        for name in public - absent:
            a, b = getattr(mine, name), getattr(reference, name)
            assert arguments(a) == arguments(b), name
            if inspect.isclass(b):
                methods = {key for key, value in vars(b).items() if inspect.isfunction(value) and key[0] != "_"}
                for method in methods - {"sort"}:
                    assert arguments(getattr(a, method)) == arguments(getattr(b, method)), f"{name}.{method}"
    assert arguments(ours.utils.append_dims) == arguments(theirs.sampling.utils.append_dims)
    for name in ours.__all__:
        assert getattr(ours, name) is not None


def arguments(function: Callable[..., object]) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; a function that is a default counts as any other."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, callable if inspect.isfunction(p.default) else p.default) for p in found]


PROGRAM = """
import torch
import k_diffusion as K
from k_diffusion.external import CompVisVDenoiser
from k_diffusion.sampling import sample_dpmpp_2m_sde, get_sigmas_karras, to_d
from k_diffusion.utils import append_dims

class Latent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(4, 4, 3, padding=1)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0))
    def apply_model(self, x, t, cond):
        return torch.tanh(self.layer(x) * cond + append_dims(t / 1000, x.ndim))

class Guided(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.inner_model = model
    def forward(self, x, sigma, cond, uncond, scale):
        a, b = (self.inner_model(x, sigma, cond=c) for c in (cond, uncond))
        return b + scale * (a - b)

torch.manual_seed(0)
model = CompVisVDenoiser(Latent())
guided, args = Guided(model), {"cond": 1.0, "uncond": 0.3, "scale": 2.0}
sigmas = get_sigmas_karras(7, float(model.sigma_min), float(model.sigma_max))
x = torch.randn(2, 4, 8, 8) * sigmas[0]
made = []
for name, options in (("sample_euler", {"s_churn": 2.0}), ("sample_heun", {}), ("sample_dpmpp_2s_ancestral", {})):
    made.append(getattr(K.sampling, name)(guided, x, sigmas, extra_args=args, disable=True, **options))
made.append(sample_dpmpp_2m_sde(guided, x, model.get_sigmas(6), extra_args=args, disable=True))
made.append(to_d(x, sigmas[0], x * 0.5))
"""


def test_a_program_runs_unchanged_with_our_modules_in_place_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("k_diffusion")
    package.sampling, package.external, package.utils = theirs.sampling, theirs.external, theirs.sampling.utils
    results = []
    for module in (ours, package):
        monkeypatch.setitem(sys.modules, "k_diffusion", module)
        for name in ("sampling", "external", "utils"):
            monkeypatch.setitem(sys.modules, f"k_diffusion.{name}", getattr(module, name))
        names: dict[str, Any] = {}
        exec(PROGRAM, names)
        assert names["K"] is module
        results.append(names["made"])
    for mine, reference in zip(*results, strict=True):
        assert difference(mine, reference) <= WITHIN[torch.float32]
    assert len(results[0]) == 5


@pytest.mark.parametrize("name", ["sample_euler", "sample_euler_ancestral", "sample_dpm_fast"])
def test_programs_may_put_their_own_random_numbers_into_the_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As A1111 does, for noise that differs from image to image but not with the batch."""

    class Hijacked:
        def __getattr__(self, attribute: str) -> Any:
            return getattr(torch, attribute)

        def randn_like(self, x: Tensor) -> Tensor:
            return 0.5 + 0 * x

    levels = (levels_to(0, torch.float32),) if name != "sample_dpm_fast" else (0.1, 15.0, STEPS)
    options = {"s_churn": 3.0} if name == "sample_euler" else {"eta": 1.0}
    walks = []
    for module in (ours.sampling, theirs.sampling):
        monkeypatch.setattr(module, "torch", Hijacked())
        walks.append(walk(module, Case(name, options), torch.float32, *levels))
    assert_same(*walks, WITHIN_FROM_ENDS)


@pytest.mark.parametrize("name", ["sample_euler", "sample_dpm_fast", "sample_dpm_adaptive"])
def test_a_progress_bar_is_shown_unless_disabled(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    levels = (levels_to(0, torch.float32),) if name == "sample_euler" else (0.1, 15.0)
    levels = (*levels, STEPS) if name == "sample_dpm_fast" else levels
    shown = []
    for module, disable in product((theirs.sampling, ours.sampling), (True, False)):
        asked = len(walk(module, Case(name), torch.float32, *levels, disable=disable).seen)
        shown.append(capsys.readouterr().err)
    shown.reverse()
    assert shown[1] == shown[3] == ""
    mine, reference = (text.split("\r")[-1].split("[")[0] for text in (shown[0], shown[2]))
    if name == "sample_dpm_adaptive":
        assert mine == f"{asked}it "  # theirs asks again after a rejected step
    else:
        assert mine == reference
        assert "100%" in mine


def test_gradients_are_off_for_the_model_and_what_it_switches_on_stays_its_own() -> None:
    def model(x: Tensor, sigma: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((leaf**2).sum(), leaf)
        return x * 0.3 + 0.01 * gradient

    for name in ("sample_euler", "sample_dpmpp_2m"):
        results = [getattr(m, name)(model, standard_noise(), levels_to(0, torch.float32), disable=True) for m in BOTH]
        assert difference(*results) <= WITHIN[torch.float32]
        assert not results[0].requires_grad


BOTH = (ours.sampling, theirs.sampling)


@for_each("case", [*DETERMINISTIC, *CHURNED[:1], *ANCESTRAL[::4], Case("sample_dpm_fast")], ids=name_of)
def test_nothing_but_the_noise_levels_is_read_back_from_a_device(case: Case) -> None:
    """Fake tensors have no data: any read of a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    levels = (0.1, 15.0, STEPS) if case.name == "sample_dpm_fast" else (levels_to(0, torch.float32),)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.randn(SHAPE)
        made = getattr(ours.sampling, case.name)(
            lambda x, sigma: torch.tanh(x), x, *levels, disable=True, **case.options
        )
    assert made.shape == SHAPE


def test_a_list_of_noise_levels_is_planned_once() -> None:
    from diffusolve.k_diffusion.loop import _plan

    sigmas = levels_to(0, torch.float32) * 1.01
    for hits, options in ((0, {}), (1, {}), (0, {"s_churn": 1.0}), (1, {"s_churn": 1.0})):
        before = _plan.cache_info()
        ours.sample_euler(Denoiser(torch.float32), standard_noise(), sigmas.clone(), disable=True, **options)
        assert _plan.cache_info().hits - before.hits == hits


# The small functions


@for_each(
    ("name", "arguments"),
    [
        *(("get_sigmas_karras", made) for made in ((1, 0.1, 10), (5, 0.03, 14.6), (40, 0.0291675, 14.614642, 5.0))),
        *(("get_sigmas_exponential", made) for made in ((1, 0.1, 10), (5, 0.03, 14.6), (40, 0.0291675, 14.614642))),
        *(("get_sigmas_polyexponential", made) for made in ((1, 0.1, 10), (5, 0.03, 14.6, 1.5), (40, 0.03, 14.6, 0.7))),
        *(("get_sigmas_vp", made) for made in ((1,), (5,), (40, 18.0, 0.2, 1e-2))),
    ],
)
def test_lists_of_noise_levels_are_the_same_to_the_bit(name: str, arguments: tuple[Any, ...]) -> None:
    mine, reference = (getattr(module, name)(*arguments) for module in BOTH)
    assert mine.dtype == reference.dtype
    assert torch.equal(mine, reference)


@for_each("eta", [0.0, 0.5, 1.0, 9.0])
@for_each("ends", [(3.0, 1.0), (3.0, 0.0), (3.0, 3.0)])
@for_each("kind", [float, torch.tensor])
def test_ancestral_steps_are_the_same(ends: tuple[float, float], eta: float, kind: Callable[[float], Any]) -> None:
    mine, reference = (module.get_ancestral_step(*map(kind, ends), eta=eta) for module in BOTH)
    for a, b in zip(mine, reference, strict=True):
        assert type(a) is type(b)
        assert float(a) == pytest.approx(float(b), abs=1e-6)


def test_slopes_and_weights_are_the_same() -> None:
    x, denoised = standard_noise(), standard_noise(1)
    for sigma in (torch.tensor(2.0), torch.tensor([2.0, 3.0])):
        assert torch.equal(*(module.to_d(x, sigma, denoised) for module in BOTH))
    levels = [15.0, 7.0, 4.0, 1.5, 0.4, 0.0]
    for order, i in ((1, 0), (2, 1), (3, 2), (4, 3), (4, 4), (2, 4)):
        for j in range(order):
            mine, reference = (module.linear_multistep_coeff(order, levels, i, j) for module in BOTH)
            assert mine == pytest.approx(reference, rel=1e-4)
    for module in BOTH:
        with pytest.raises(ValueError, match="step 2"):
            module.linear_multistep_coeff(4, levels, 2, 0)
        with pytest.raises(ValueError, match="dim"):
            module.append_dims(torch.ones(2, 2), 1) if module is ours.sampling else module.utils.append_dims(x, 1)
    assert ours.append_dims(torch.ones(3), 4).shape == (3, 1, 1, 1)


@for_each("ends", [(0.1, 15.0), (15.0, 0.1)])
@for_each("seed", [7, [7, 8], None])
def test_brownian_trees_are_the_same(seed: Any, ends: tuple[float, float]) -> None:
    for x in (standard_noise(), standard_noise(dtype=torch.float64)):
        trees = []
        for module in BOTH:
            torch.manual_seed(4)
            trees.append(module.BatchedBrownianTree(x, *ends, seed=seed))
            trees.append(torch.get_rng_state())
        assert torch.equal(trees[1], trees[3])
        for interval in ((3.0, 1.0), (1.0, 3.0), (0.1, 15.0)):
            assert difference(trees[0](*interval), trees[2](*interval)) <= 1e-6
    like = ours.BatchedBrownianTree(standard_noise(), *ends, seed=7, w0=torch.zeros(2, 3))
    assert like(1.0, 2.0).shape == (2, 3)


def test_brownian_noise_may_follow_another_time() -> None:
    x = standard_noise()
    for transform in (lambda sigma: sigma.log(), lambda sigma: -sigma):
        samplers = [module.BrownianTreeNoiseSampler(x, 0.1, 15.0, seed=3, transform=transform) for module in BOTH]
        for interval in ((9.0, 4.0), (torch.tensor(2.0), torch.tensor(0.3))):
            mine, reference = (sampler(*interval) for sampler in samplers)
            assert difference(mine, reference) <= 1e-6
            assert float(mine.std()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("coefficients", [(0.0, 1.0, 0.0), (0.3, 0.7, 0.1)])
@pytest.mark.parametrize("options", [{}, {"order": 3, "accept_safety": 0.9, "eps": 1e-4}])
def test_the_controller_takes_the_same_steps(coefficients: tuple[float, ...], options: dict[str, Any]) -> None:
    mine, reference = (module.PIDStepSizeController(0.1, *coefficients, **options) for module in BOTH)
    for error in (0.5, 3.0, 0.0, 1.2, torch.tensor(0.7), 8.0, 0.1):
        assert mine.propose_step(error) == bool(reference.propose_step(error))
        assert mine.h == pytest.approx(float(reference.h), rel=1e-6)
    assert mine.limiter(3.0) == pytest.approx(reference.limiter(3.0))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("dtype", "tolerances"), [(torch.float32, {}), (torch.float64, {"rtol": 1e-8, "atol": 1e-8})])
def test_the_likelihood_is_the_same(dtype: torch.dtype, tolerances: dict[str, float]) -> None:
    pytest.importorskip("torchdiffeq", reason="the likelihood needs torchdiffeq, which is not installed")
    found = []
    for module in BOTH:
        torch.manual_seed(3)
        model, x = Denoiser(dtype), 0.7 * standard_noise(dtype=dtype)
        likelihood, info = module.log_likelihood(model, x, 0.1, 10.0, extra_args={"strength": 0.2}, **tolerances)
        found.append((likelihood, torch.get_rng_state()))
        assert info["fevals"] == len(model.seen)
        assert not likelihood.requires_grad
    assert difference(found[0][0], found[1][0]) <= tolerances.get("rtol", WITHIN[dtype])
    assert torch.equal(found[0][1], found[1][1])


def test_the_likelihood_of_normal_data_is_known() -> None:
    """The denoiser of data with standard deviation 0.5 shrinks towards their mean of 0."""
    pytest.importorskip("torchdiffeq", reason="the likelihood needs torchdiffeq, which is not installed")

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.25 / (0.25 + sigma**2)).reshape(-1, 1, 1, 1)

    x = 0.6 * standard_noise(dtype=torch.float64)
    found, _ = ours.log_likelihood(model, x, 1e-3, 50.0, rtol=1e-7, atol=1e-7)
    exact = torch.distributions.Normal(0.0, 0.5).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=0)


# Wrappers of networks


class Network(nn.Module):
    """Small, nonlinear, and in the shapes that the wrappers expect; remembers what it was called with."""

    def __init__(self, learns_variance: bool = False) -> None:
        super().__init__()
        self.stand_in = StandInNetwork()
        self.learns_variance = learns_variance
        self.weight = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("alphas_cumprod", ALPHAS_CUMPROD.clone())
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, **kwargs: Any) -> Tensor:
        self.calls.append((x, t, cond, kwargs))
        output = self.weight * torch.tanh(x + torch.sin(t.float() / 300)[:, None, None, None])
        return torch.cat([output, x], dim=1) if self.learns_variance else output

    apply_model = forward


ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
DIFFUSION = SimpleNamespace(alphas_cumprod=ALPHAS_CUMPROD.double().numpy())

WRAPPERS: dict[str, Callable[[ModuleType, Network], Any]] = {
    "v": lambda module, network: module.VDenoiser(network),
    "discrete epsilon": lambda module, network: module.DiscreteEpsDDPMDenoiser(network, ALPHAS_CUMPROD, False),
    "discrete epsilon, whole": lambda module, network: module.DiscreteEpsDDPMDenoiser(network, ALPHAS_CUMPROD, True),
    "discrete v": lambda module, network: module.DiscreteVDDPMDenoiser(network, ALPHAS_CUMPROD, quantize=False),
    "discrete v, whole": lambda module, network: module.DiscreteVDDPMDenoiser(network, ALPHAS_CUMPROD, quantize=True),
    "CompVis": lambda module, network: module.CompVisDenoiser(network),
    "CompVis, whole": lambda module, network: module.CompVisDenoiser(network, True),
    "CompVis v": lambda module, network: module.CompVisVDenoiser(network, quantize=False, device="cpu"),
    "OpenAI": lambda module, network: module.OpenAIDenoiser(network, DIFFUSION, has_learned_sigmas=False),
}
every_wrapper = pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
EXTERNALS = (ours.external, theirs.external)


@every_wrapper
def test_wrapped_networks_predict_the_same_and_are_shown_the_same(
    make: Callable[[ModuleType, Network], Any], request: pytest.FixtureRequest
) -> None:
    x, noise = 3 * standard_noise(), standard_noise(1)
    given = {} if "OpenAI" in request.node.name else {"cond": 0.5}
    more = {"more": 1} if "CompVis v" not in request.node.name else {}
    for sigma in (torch.tensor([3.0, 0.7]), torch.tensor([0.001, 100.0]), torch.tensor([0.03, 14.6])):
        networks = Network(), Network()
        wrapped = [make(module, network) for module, network in zip(EXTERNALS, networks, strict=True)]
        mine, reference = (denoiser(x, sigma, **given, **more) for denoiser in wrapped)
        assert difference(mine, reference) <= WITHIN[torch.float32]
        mine, reference = (denoiser.loss(x, noise, sigma, **given, **more) for denoiser in wrapped)
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)
        for a, b in zip(networks[0].calls, networks[1].calls, strict=True):
            assert difference(a[0], b[0]) <= WITHIN[torch.float32]
            assert a[1].dtype == b[1].dtype
            torch.testing.assert_close(a[1], b[1], rtol=1e-6, atol=1e-3)
            assert a[2:] == b[2:]


def test_a_predicted_variance_is_left_out() -> None:
    x, sigma = 3 * standard_noise(), torch.tensor([3.0, 0.7])
    plain = ours.external.OpenAIDenoiser(Network(), DIFFUSION, has_learned_sigmas=False)(x, sigma)
    for module in EXTERNALS:
        assert difference(module.OpenAIDenoiser(Network(True), DIFFUSION)(x, sigma), plain) < 1e-6


@every_wrapper
def test_wrappers_have_the_same_state_and_numbers(make: Callable[[ModuleType, Network], Any]) -> None:
    mine, reference = (make(module, Network()) for module in EXTERNALS)
    assert list(mine.state_dict()) == list(reference.state_dict())
    mine.load_state_dict(reference.state_dict())
    sigma = torch.tensor([0.03, 0.7, 3.0, 14.0])
    for a, b in zip(mine.get_scalings(sigma), reference.get_scalings(sigma), strict=True):
        torch.testing.assert_close(a, b)
    assert mine.sigma_data == reference.sigma_data
    t = reference.sigma_to_t(sigma)
    assert mine.sigma_to_t(sigma).dtype == t.dtype
    torch.testing.assert_close(mine.sigma_to_t(sigma), t, rtol=1e-6, atol=1e-3)
    torch.testing.assert_close(mine.t_to_sigma(t), reference.t_to_sigma(t))
    if not hasattr(reference, "get_sigmas"):
        return
    assert isinstance(mine, ours.external.DiscreteSchedule)
    assert mine.quantize == reference.quantize
    for n in (None, 1, 7):
        torch.testing.assert_close(mine.get_sigmas(n), reference.get_sigmas(n))
    assert (mine.sigma_min, mine.sigma_max) == (reference.sigma_min, reference.sigma_max)
    outside = torch.tensor([0.0, 0.001, 15.0, 1e4])
    torch.testing.assert_close(mine.sigma_to_t(outside), reference.sigma_to_t(outside))
    for quantize in (True, False):
        scalar = torch.tensor(2.0)
        torch.testing.assert_close(
            mine.sigma_to_t(scalar, quantize=quantize), reference.sigma_to_t(scalar, quantize=quantize)
        )


def test_gradients_reach_the_network_and_the_sample_through_a_wrapper() -> None:
    for module in EXTERNALS:
        network, x = Network(), standard_noise().requires_grad_()
        module.CompVisDenoiser(network)(x, torch.tensor([3.0, 0.7]), cond=None).sum().backward()
        assert network.weight.grad is not None
        assert x.grad is not None


# Lists of sigmas that do not fall all the way, and ends that are not where one expects them

LISTS = {
    "equal": [15.0, 4.0, 4.0, 1.5, 0.3, 0.0],
    "equal at the start": [9.0, 9.0, 4.0, 1.5],
    "rising": [0.3, 1.0, 4.0, 9.0],
    "falling, rising, falling": [15.0, 5.0, 2.0, 3.5, 1.0, 0.0],
}


def test_lists_that_rise_or_have_a_sigma_twice_give_k_diffusions_samples_wherever_these_are_finite() -> None:
    names = [name for name in theirs.sampling.__dict__ if name.startswith("sample_") and "dpm_fast" not in name]
    names.remove("sample_dpm_adaptive")
    compared, differ = set(), []
    for name, (kind, sigmas), eta in product(names, LISTS.items(), (None, 0.5)):
        if name == "sample_dpm_2_ancestral" and "rising" in kind:
            continue  # there it forgets the noise of the steps that rise
        if eta is not None and "eta" not in inspect.signature(getattr(theirs.sampling, name)).parameters:
            continue
        levels = torch.tensor(sigmas, dtype=torch.float64)
        options = {} if eta is None else {"eta": eta}
        x = levels.max() * standard_noise(dtype=torch.float64)
        results = []
        for sampling in (theirs.sampling, ours.sampling):
            torch.manual_seed(3)
            try:
                made = getattr(sampling, name)(Denoiser(torch.float64), x, levels, disable=True, **options)
            except (ValueError, ZeroDivisionError, AssertionError, RuntimeError):
                made = torch.tensor(math.nan)
            results.append((made, torch.get_rng_state()))
        (reference, state), (made, own) = results
        if not bool(torch.isfinite(reference).all()):
            continue
        compared.add((name, kind))
        within = 1e-7 if name == "sample_dpmpp_sde" else 1e-9  # its Brownian path ends a rounding error early
        if made.shape != reference.shape or not difference(made, reference) <= within or not torch.equal(own, state):
            differ.append((name, kind, eta))
    assert not differ
    assert {name for name, kind in compared if kind == "falling, rising, falling"} >= {
        *("sample_euler", "sample_euler_ancestral", "sample_heun", "sample_dpm_2"),
        *("sample_lms", "sample_dpmpp_2s_ancestral", "sample_dpmpp_sde", "sample_dpmpp_2m"),
    }


def test_curves_of_sigma_may_reach_zero_and_rise() -> None:
    for make in ("get_sigmas_karras", "get_sigmas_exponential", "get_sigmas_polyexponential"):
        for ends in ((0.0, 10.0), (10.0, 0.1), (2.0, 2.0)):
            if ends[0] > 0 or make == "get_sigmas_karras":
                assert torch.equal(getattr(ours, make)(6, *ends), getattr(theirs.sampling, make)(6, *ends))
    for eps_s in (0.0, 2.0):
        assert torch.equal(ours.get_sigmas_vp(5, eps_s=eps_s), theirs.sampling.get_sigmas_vp(5, eps_s=eps_s))


# In place of k-diffusion


def test_installed_our_modules_are_k_diffusion_until_they_are_put_away() -> None:
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "k_diffusion"}
    with ours.install():
        import k_diffusion
        import k_diffusion.external
        import k_diffusion.noise
        from k_diffusion.sampling import sample_euler

        assert k_diffusion is ours
        assert k_diffusion.sampling is sys.modules["diffusolve.k_diffusion.sampling"]
        assert k_diffusion.external.DiscreteSchedule is ours.external.DiscreteSchedule
        assert k_diffusion.noise.BrownianTreeNoiseSampler is ours.BrownianTreeNoiseSampler, "loaded once"
        assert sample_euler is ours.sampling.sample_euler
        with pytest.raises(ModuleNotFoundError, match="evaluation"):
            import k_diffusion.evaluation
        with ours.install():
            pass
        assert sys.modules["k_diffusion"] is ours, "the outer one still holds"
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "k_diffusion"}
    assert after == before
    with pytest.raises(RuntimeError, match=r"not installed as k_diffusion: call install\(\)"):
        ours.uninstall()
    ours.install()
    ours.uninstall()


# Bad input


def test_noise_levels_that_make_no_sense_are_refused() -> None:
    x, model = standard_noise(), Denoiser(torch.float32)

    def of(sigmas: Any, name: str = "sample_euler", **options: Any) -> Callable[[], object]:
        return lambda: getattr(ours.sampling, name)(model, x, sigmas, disable=True, **options)

    for attempt, message in (
        (of(torch.tensor([[3.0, 1.0]])), r"shape \(1, 2\): expected \(steps \+ 1,\)"),
        (of(torch.tensor([3.0, math.nan, 0.0])), r"sigmas\[1\] is nan"),
        (of(torch.tensor([math.inf, 1.0])), r"sigmas\[0\] is inf"),
        (of(torch.tensor([3.0, -1.0])), r"sigmas\[1\] is -1"),
        (of(torch.tensor([0.0, 1.0])), r"sigmas\[0\] is 0: .*\(0 only at the end\)"),
        (of(torch.tensor([1.0, 2.0]), "sample_dpmpp_2m_sde"), r"1 and sigmas\[1\] is 2: .* sigmas that do not rise"),
        (of(torch.tensor([1.0, 2.0]), "sample_dpmpp_3m_sde"), r"sigmas that do not rise"),
        (of(torch.tensor([3.0, 2.0, 3.0, 1.0]), "sample_lms"), r"lms extrapolates .* come back to one"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(TypeError, match="sigmas is a list: expected a tensor"):
        of([3.0, 1.0])()


def test_options_that_make_no_sense_are_refused() -> None:
    x, model, sigmas = standard_noise(), Denoiser(torch.float32), levels_to(0, torch.float32)
    K = ours.sampling
    for attempt, message in (
        (lambda: K.sample_euler(model, x, sigmas, s_churn=-1.0), "s_churn is -1: expected at least 0"),
        (lambda: K.sample_heun(model, x, sigmas, s_churn=math.nan), "s_churn is nan"),
        (lambda: K.sample_dpm_2(model, x, sigmas, s_tmin=2.0, s_tmax=1.0), "s_tmin is 2 and s_tmax 1"),
        (lambda: K.sample_euler_ancestral(model, x, sigmas, eta=-1.0), "eta is -1"),
        (lambda: K.sample_dpmpp_sde(model, x, sigmas, r=1.5), r"r is 1.5: expected a part of the step"),
        (lambda: K.sample_lms(model, x, sigmas, order=0), "order is 0"),
        (lambda: K.sample_dpm_fast(model, x, 0.0, 15.0, 5), "expected 0 < sigma_min < sigma_max, got sigma_min 0"),
        (lambda: K.sample_dpm_fast(model, x, 20.0, 15.0, 5), "expected 0 < sigma_min < sigma_max"),
        (lambda: K.sample_dpm_fast(model, x, 0.1, 15.0, 0), "steps is 0: expected at least 1"),
        (lambda: K.sample_dpm_adaptive(model, x, -0.1, 15.0), "expected 0 < sigma_min < sigma_max"),
        (lambda: K.sample_dpm_adaptive(model, x, 0.1, 15.0, order=4), "order is 4: expected 2 or 3"),
        (lambda: K.get_sigmas_karras(0, 0.1, 10.0), "n is 0: expected at least 1"),
        (lambda: K.get_sigmas_karras(5, -0.1, 10.0), "sigma_min is -0.1: expected a finite number from 0 up"),
        (lambda: K.get_sigmas_exponential(5, 0.0, 10.0), "sigma_min is 0: expected a finite number above 0"),
        (lambda: K.get_sigmas_polyexponential(5, 0.1, math.inf), "sigma_max is inf"),
        (lambda: K.get_sigmas_vp(5, eps_s=-1.0), "eps_s is -1"),
        (lambda: K.log_likelihood(model, x, 2.0, 1.0), "expected 0 < sigma_min < sigma_max, got 2 and 1"),
        (lambda: K.BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=[1, 2, 3])(5.0, 1.0), "3 seeds for a batch of 2"),
        (lambda: K.BrownianTreeNoiseSampler(x, 0.1, 10.0)(50.0, 1.0), "sigma 50 is outside this Brownian path"),
        (lambda: K.sample_euler(lambda x, sigma: x[:1], x, sigmas, disable=True), "output has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            attempt()
    with pytest.raises(UnknownNameError, match="did you mean 'midpoint'"):
        K.sample_dpmpp_2m_sde(model, x, sigmas, solver_type="midpiont")
    with pytest.raises(UnknownNameError, match="option of BatchedBrownianTree 'tolerance'"):
        K.BatchedBrownianTree(x, 0.1, 10.0, tolerance=1e-6)
