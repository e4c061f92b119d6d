"""The emoji: data, network, training, the network as a flow-matching model, the program."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks import emoji, emoji_classifier
from diffusolve import DDIMScheduler, sampler
from diffusolve.denoisers import (
    AsFlow,
    ClassifierFreeGuidance,
    Denoiser,
    GaussianDenoiser,
    Predicting,
    emoji_network,
    load_emoji_data,
)
from diffusolve.denoisers.emoji_network import NO_CLASS, EmojiNetwork, load_emoji_network
from diffusolve.denoisers.load import load_model
from diffusolve.denoisers.named import conditional_denoiser
from diffusolve.errors import SingularPointError, UnknownNameError
from diffusolve.noise import SD15, FlowMatching, VarianceExploding
from diffusolve.sampling import sample, start
from diffusolve.spacing import Sigmas
from examples import emoji_pipeline, train_emoji
from tests.test_cli import run


@pytest.fixture(scope="module")
def network() -> EmojiNetwork:
    """A network with random weights everywhere, also where training begins with zeros."""
    torch.manual_seed(0)
    network = EmojiNetwork().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.05)
    return network


# Data


def test_the_data_are_1026_pictures_on_white_in_65_classes_of_six_categories() -> None:
    data = load_emoji_data()
    assert data.images.shape == (1026, 3, 32, 32)
    assert data.images.dtype == np.float32
    assert data.images.max() == 1.0
    assert data.images.min() == -1.0
    assert (data.images[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] == 1.0).mean() > 0.8, "most corners are white"
    assert len(set(data.names)) == 1026
    assert len(set(data.classes)) == len(data.categories) == len(np.unique(data.labels)) == NO_CLASS == 65
    assert set(data.categories) == set(train_emoji.CATEGORIES)


def test_emoji_are_in_the_classes_that_unicode_has_them_in() -> None:
    data = load_emoji_data()
    of_name = {name: data.classes[label] for name, label in zip(data.names, data.labels, strict=True)}
    expected = {
        "smiley_cat": "cat-face",
        "apple": "food-fruit",
        "doughnut": "food-sweet",
        "bus": "transport-ground",
        "crescent_moon": "sky-weather",
        "soccer": "sport",
    }
    assert {name: of_name[name] for name in expected} == expected


def package(folder: Path) -> Path:
    """An unpacked npm package with two emoji of one category that is used and one of another."""
    pictures = folder / "img" / "google" / "64"
    pictures.mkdir(parents=True)
    half = np.zeros((64, 64, 4), np.uint8)
    half[:, 32:] = (255, 0, 0, 255)
    Image.fromarray(half).save(pictures / "half.png")
    Image.new("RGBA", (64, 64), (0, 0, 255, 255)).save(pictures / "blue.png")
    entries = [
        ("flag", "Flags", "country-flag", "none.png", 0),
        ("red", "Objects", "sky & weather", "half.png", 2),
        ("blue", "Objects", "tool", "blue.png", 1),
    ]
    keys = ("short_name", "category", "subcategory", "image", "sort_order")
    (folder / "emoji.json").write_text(json.dumps([dict(zip(keys, entry, strict=True)) for entry in entries]))
    return folder


def test_a_folder_of_emoji_is_read_in_unicodes_order_and_put_on_white(tmp_path: Path) -> None:
    made = train_emoji.read_images(package(tmp_path))
    assert made["names"].tolist() == ["blue", "red"]
    assert made["classes"].tolist() == ["tool", "sky-weather"]
    assert made["labels"].tolist() == [0, 1]
    assert (made["images"][0] == (0, 0, 255)).all()
    assert (made["images"][1, :, :12] == 255).all()
    assert (made["images"][1, :, 20:] == (255, 0, 0)).all()


@pytest.mark.parametrize("missing", ["emoji.json", "img/google/64/half.png"])
def test_a_folder_without_the_images_is_told_what_it_must_hold(missing: str, tmp_path: Path) -> None:
    (package(tmp_path) / missing).unlink()
    with pytest.raises(typer.BadParameter) as error:
        train_emoji.read_images(tmp_path)
    for words in (f"lacks {missing}", "emoji.json and img/google/64/*.png", "npm pack emoji-datasource-google@16.0.0"):
        assert words in str(error.value)


# Network


def test_the_network_fits_into_five_megabytes_of_float16() -> None:
    assert sum(parameter.numel() for parameter in EmojiNetwork().parameters()) < 2_400_000


def test_a_new_network_predicts_nothing() -> None:
    output = EmojiNetwork()(torch.randn(2, 3, 32, 32), torch.tensor([1.0, 999.0]), torch.tensor([0, NO_CLASS]))
    assert not output.any()


def test_a_sample_does_not_depend_on_its_batch_but_on_its_class_and_timestep(network: EmojiNetwork) -> None:
    x = torch.randn(1, 3, 32, 32).expand(4, -1, -1, -1)
    with torch.no_grad():
        together = network(x, torch.tensor([5.0, 5.0, 700.0, 5.0]), torch.tensor([3, 4, 3, 3]))
        alone = network(x[:1], torch.tensor([5.0]), torch.tensor([3]))
    torch.testing.assert_close(together[[0, 3]], alone.expand(2, -1, -1, -1), atol=1e-5, rtol=0)
    assert (together[1] - alone[0]).abs().max() > 1e-3
    assert (together[2] - alone[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("x", "timestep", "label"),
    [((2, 1, 32, 32), (2,), (2,)), ((2, 3, 32, 32), (), (2,)), ((2, 3, 32, 32), (2,), (3,))],
)
def test_shapes_that_do_not_fit_are_named(
    x: tuple[int, ...], timestep: tuple[int, ...], label: tuple[int, ...], network: EmojiNetwork
) -> None:
    with pytest.raises(ValueError, match=r"expected x \(B, 3, 32, 32\)"):
        network(torch.zeros(x), torch.zeros(timestep), torch.zeros(label, dtype=torch.int64))


def test_weights_come_back_from_a_file(network: EmojiNetwork, tmp_path: Path) -> None:
    save_file({name: tensor.half() for name, tensor in network.state_dict().items()}, tmp_path / "w.safetensors")
    state = torch.random.get_rng_state()
    loaded = load_emoji_network(tmp_path / "w.safetensors")
    assert torch.equal(state, torch.random.get_rng_state()), "loading draws nothing"
    for mine, theirs in zip(loaded.parameters(), network.parameters(), strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs.half().float(), atol=0, rtol=0)


def test_a_checkpoint_of_another_network_is_told_apart(network: EmojiNetwork, tmp_path: Path) -> None:
    state = network.state_dict()
    narrow = {name: tensor[:7] if name == "stem.bias" else tensor.clone() for name, tensor in state.items()}
    extra = {**{name: tensor.clone() for name, tensor in state.items()}, "zero.weight": torch.zeros(2)}
    for name, weights, words in (
        ("narrow", narrow, r"another network: stem.bias is \(7,\), and \(48,\) in the emoji network"),
        ("extra", extra, r"another network: zero.weight is \(2,\), and absent in the emoji network"),
        ("empty", {}, r"another network: .* is missing, and \("),
    ):
        save_file(weights, tmp_path / name)
        with pytest.raises(ValueError, match=words):
            load_emoji_network(tmp_path / name)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ValueError, match="is no safetensors file"):
        load_emoji_network(tmp_path / "text")


# The network as a flow-matching model

TRAINED = np.array([30.0, 100.0, 500.0, 800.0, 930.0])
"""Timesteps of flow matching whose signal-to-noise ratios are among Stable Diffusion's."""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_as_a_flow_a_denoiser_is_the_one_that_flow_matching_has(prediction: str) -> None:
    mean, std = np.array([0.3, -1.0, 0.0]), np.array([0.5, 0.1, 2.0])
    flow = AsFlow(Predicting(GaussianDenoiser(SD15, mean, std), prediction))
    expected = Predicting(GaussianDenoiser(FlowMatching(), mean, std), "flow")
    x = np.random.default_rng(0).normal(size=(len(TRAINED), 3))
    np.testing.assert_allclose(flow(x, TRAINED), expected(x, TRAINED), rtol=1e-9, atol=1e-9)


def test_as_a_flow_the_network_knows_the_same_of_the_image(network: EmojiNetwork) -> None:
    torch.manual_seed(1)
    x = torch.randn(len(TRAINED), 3, 32, 32)
    label, timestep = torch.arange(len(TRAINED)), torch.from_numpy(TRAINED).float()
    sigma = timestep.reshape(-1, 1, 1, 1) / 1000
    flow = AsFlow(Denoiser(network, "v_prediction", SD15))
    with torch.no_grad():
        image = x - sigma * flow(x, timestep, label)
        own = torch.from_numpy(SD15.timestep(TRAINED / (1000 - TRAINED))).float()
        alpha, noise = (torch.as_tensor(v).float().reshape(-1, 1, 1, 1) for v in SD15.alpha_sigma(own.numpy()))
        sample = x * (alpha + noise)
        expected = alpha * sample - noise * network(sample, own, label)
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=1e-4)


def test_as_a_flow_the_end_of_pure_noise_is_finite_and_that_of_no_noise_an_error(network: EmojiNetwork) -> None:
    flow = AsFlow(Denoiser(network, "v_prediction", SD15))
    x, label = torch.randn(1, 3, 32, 32), torch.tensor([0])
    with torch.no_grad():
        assert flow(x, torch.tensor([1000.0]), label).isfinite().all()
    with pytest.raises(SingularPointError, match="timestep 0"):
        flow(x, torch.tensor([0.0]), label)


def test_only_a_variance_preserving_denoiser_can_be_a_flow() -> None:
    with pytest.raises(ValueError, match=r"VarianceExploding.*expected a variance preserving one"):
        AsFlow(GaussianDenoiser(VarianceExploding()))


# Training


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network, steps of eight images, and no samples on the way."""
    monkeypatch.setattr(train_emoji, "EmojiNetwork", lambda: EmojiNetwork((8, 32), 16))
    monkeypatch.setattr(train_emoji, "BATCH_SIZE", 8)
    monkeypatch.setattr(train_emoji, "samples", lambda network: np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.usefixtures("small")
def test_training_that_was_stopped_ends_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_emoji, "learning_rate", lambda step, steps: 1e-3)
    train_emoji.main(folder=tmp_path / "once", steps=4, seed=3)
    train_emoji.main(folder=tmp_path / "twice", steps=2, seed=3)
    train_emoji.main(folder=tmp_path / "twice", steps=4, seed=3)
    once, twice = (load_file(tmp_path / name / "emoji.safetensors") for name in ("once", "twice"))
    assert once.keys() == twice.keys()
    for name in once:
        torch.testing.assert_close(once[name], twice[name], atol=0, rtol=0)
    with pytest.raises(typer.BadParameter, match="has seed 3, not 4"):
        train_emoji.main(folder=tmp_path / "once", steps=4, seed=4)
    torch.save({"network": {"weight": torch.zeros(2)}}, tmp_path / "once" / "checkpoint.pt")
    with pytest.raises(typer.BadParameter, match="a checkpoint of another network"):
        train_emoji.main(folder=tmp_path / "once", steps=4, seed=3)


@pytest.mark.usefixtures("small")
def test_the_loss_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_emoji, "CURVE_STEPS", 20)
    monkeypatch.setattr(train_emoji, "WARMUP_STEPS", 1)
    train_emoji.main(folder=tmp_path, steps=40, seed=0)
    (step, loss), curve = train_emoji.Training.resume(tmp_path, 0).curve[-1], tmp_path / "curve.json"
    assert step == 40
    assert json.loads(curve.read_text())["loss"][1] == [40, loss]
    assert loss < 0.9, "a network that predicts nothing has a loss of about 1"


def test_until_the_learning_rate_falls_it_does_not_depend_on_the_number_of_steps() -> None:
    rates = {steps: [train_emoji.learning_rate(step, steps) for step in range(steps)] for steps in (4000, 8000)}
    assert rates[4000][:2800] == rates[8000][:2800]
    for made in rates.values():
        assert max(made) == train_emoji.LEARNING_RATE
        assert made[-1] < 1e-3 * train_emoji.LEARNING_RATE
        assert all(later <= now for now, later in pairwise(made[200:]))


def test_a_draw_has_a_timestep_in_each_part_of_the_schedule_and_every_image_once_in_an_epoch() -> None:
    images, labels = torch.zeros(128, 3, 32, 32), torch.arange(128) % 64
    seen: Counter[int] = Counter()
    for step in (6, 7):
        _, timestep, label, _ = train_emoji.draw(images, labels, 0, step)
        gaps = timestep.sort().values.diff()
        assert gaps.min() >= 15
        assert gaps.max() <= 17
        seen.update(label[label != NO_CLASS].tolist())
    assert max(seen.values()) <= 2


# The weights that ship


def test_samples_look_like_emoji_of_the_class_asked_for() -> None:
    images = torch.from_numpy(load_emoji_data().images)
    every, labels = torch.cat([images, images.flip(-1)]).flatten(1), torch.from_numpy(load_emoji_data().labels)
    asked = emoji.labels_in_turn(24)
    for model in ("emoji", "emoji-flow"):
        samples = emoji.made(conditional_denoiser(model), "DPM++ 2M", 20, 2.0, asked)
        nearest = torch.cdist(samples.flatten(1), every).argmin(1) % len(images)
        assert (labels[nearest] == asked).double().mean() >= 0.7, model


def test_as_a_flow_samples_of_many_steps_are_the_same() -> None:
    """From the noisiest sigma that the network was trained on, which is 0.936 of flow matching."""
    label = torch.tensor([load_emoji_data().classes.index("cat-face")])
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sigmas = np.geomspace(SD15.sigma_max, 0.03, 60)
    results = []
    for model, of_schedule in (("emoji", sigmas), ("emoji-flow", sigmas / (1 + sigmas))):
        denoiser = conditional_denoiser(model)
        recipe = sampler("DPM++ 2M", Sigmas((*of_schedule, 0.0)))
        x = recipe.grid(denoiser.noise_schedule)[0].sigma * noise
        results.append(sample(ClassifierFreeGuidance(denoiser, label, label, 1.0), x, recipe))
    assert (results[0] - results[1]).abs().max() < 1e-2


def test_loading_leaves_the_random_state_alone_and_gives_float32() -> None:
    state = torch.get_rng_state()
    network = load_emoji_network()
    assert torch.equal(state, torch.get_rng_state())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not network.training


def test_the_weights_take_five_megabytes_at_most() -> None:
    path = Path(emoji_network.__file__).parent / "data" / "emoji.safetensors"
    assert path.stat().st_size <= 5_000_000


# The program


def test_the_models_are_sampled_by_name(tmp_path: Path) -> None:
    for model in ("emoji", "emoji-flow"):
        out = tmp_path / f"{model}.png"
        assert run("sample", "--model", model, "--class", "cat-face", "--steps", "4", "--num", "4", "--out", out) == 0
        assert np.asarray(Image.open(out)).shape == (2 * 66 + 2, 2 * 66 + 2, 3)


def test_the_exact_denoiser_draws_emoji_of_the_class_asked_for() -> None:
    data, recipe, seeds = load_emoji_data(), sampler("Euler a"), [0, 1, 2]
    model = load_model("emoji-exact", 3, prompt=None, label="cat-face", guidance=1.0)
    grid = recipe.grid(model.network.noise_schedule, 8)
    made = sample(model.network, start(grid, torch.empty(3, *model.shape), seeds), recipe, steps=8, noise=seeds)
    cats = torch.from_numpy(data.images[data.labels == data.classes.index("cat-face")])
    assert (made.flatten(1)[:, None] - cats.flatten(1)).abs().amax(-1).amin(-1).max() < 1e-2


def test_an_unknown_class_gets_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown class of emoji 'cat': did you mean .*'cat-face'"):
        load_model("emoji-exact", 1, prompt=None, label="cat", guidance=1.0)


def test_a_file_of_weights_is_a_model_with_classes_and_guidance(
    network: EmojiNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = ("sample", "--model", tmp_path / "w.safetensors", "--steps", "2", "--num", "2")
    assert run(*model, "--class", "sport", "--guidance", "2", "--out", tmp_path / "sport.png") == 0
    assert run(*model, "--out", tmp_path / "any.png") == 0
    sport, others = (np.asarray(Image.open(tmp_path / name)) for name in ("sport.png", "any.png"))
    assert sport.shape == (66 + 2, 2 * 66 + 2, 3) == others.shape
    assert (sport != others).any()
    capsys.readouterr()
    assert run(*model, "--class", "sports", "--out", tmp_path / "no.png") == 2
    assert "unknown class of emoji 'sports': did you mean 'sport'" in capsys.readouterr().err
    assert run("sample", "--model", tmp_path / "v.safetensors", "--out", tmp_path / "no.png") == 2
    assert "v.safetensors: expected weights that python -m examples.train_emoji wrote" in capsys.readouterr().err
    save_file({"weight": torch.zeros(2)}, tmp_path / "w.safetensors")
    assert run(*model, "--out", tmp_path / "no.png") == 2
    assert "holds the weights of another network" in capsys.readouterr().err


def test_classes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    data = load_emoji_data()
    assert run("list", "--model", "emoji-exact", "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(data.classes)
    assert run("list", "face", "--model", "emoji-exact") == 0
    said = capsys.readouterr().out
    assert all((name in said) == ("face" in name) for name in data.classes if name != "face-smiling")
    assert run("list", "--model", "gaussian") == 2
    assert "the gaussian model has no classes" in capsys.readouterr().err
    assert run("list", "--model", "emojis") == 2
    assert "did you mean 'emoji'" in capsys.readouterr().err
    assert run("list", "fac", "--model", "digits") == 2
    assert "unknown class of digits 'fac'" in capsys.readouterr().err


# The pipeline folder, and the benchmark


def test_the_pipeline_folder_holds_the_network_and_runs_with_our_schedulers(
    network: EmojiNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    emoji_pipeline.main(tmp_path / "pipeline", tmp_path / "w.safetensors")
    pipe = emoji_pipeline.EmojiPipeline.from_pretrained(tmp_path / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    made = pipe(["cat-face", "heart"], 3, 2.0, torch.Generator().manual_seed(0)).images

    data = load_emoji_data()
    labels = torch.tensor([data.classes.index(name) for name in ("cat-face", "heart")])
    guided = ClassifierFreeGuidance(
        Denoiser(network, "v_prediction", SD15), labels, torch.full_like(labels, NO_CLASS), 2.0
    )
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(3)
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            x = scheduler.step(guided(x, timestep.expand(2)), timestep, x).prev_sample
    expected = ((x.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    for image, pixels in zip(made, expected, strict=True):
        assert np.abs(np.asarray(image, np.float64) - pixels).max() <= 1.0
    with pytest.raises(UnknownNameError, match="did you mean 'cat-face'"):
        pipe("cats-face")
    loaded = load_model(str(tmp_path / "pipeline"), 2, prompt=None, label=3, guidance=1.0)
    x, timestep = torch.randn(2, *loaded.shape), torch.tensor(500)
    with torch.no_grad():
        own = network(x, timestep.expand(2), torch.tensor([3, 3]))
        torch.testing.assert_close(loaded.network(x, timestep), own, rtol=1e-5, atol=1e-5)
    assert run("list", "--model", tmp_path / "pipeline") == 2
    assert "they are numbers from 0 on" in capsys.readouterr().err


def test_the_classifier_is_judged_by_the_way_round_that_it_has_not_seen() -> None:
    seen, unseen, labels = emoji_classifier.two_ways()
    images = torch.from_numpy(load_emoji_data().images)
    as_it_is = (seen == images).flatten(1).all(1)
    assert 400 < int(as_it_is.sum()) < 700, "about half are trained on as they are"
    torch.testing.assert_close(seen, unseen.flip(-1), atol=0, rtol=0)
    assert labels.tolist() == load_emoji_data().labels.tolist()


def test_augmented_images_keep_their_background_nearly_white() -> None:
    torch.manual_seed(0)
    made = emoji_classifier.augmented(torch.ones(64, 3, 32, 32))
    assert (made - 1).abs().mean() < 0.2
    assert made.isfinite().all()


def test_samples_of_the_exact_denoiser_are_among_the_emoji_and_at_no_distance() -> None:
    images = emoji.made(conditional_denoiser("emoji-exact"), "DPM++ 2M", 8, 1.0, emoji.labels_in_turn(4))
    real, distances = emoji.nearest(images)
    assert distances.max() < 2e-2
    classes = load_emoji_data().labels
    every = torch.cat(emoji_classifier.two_ways()[:2])
    found = [int((every == image).flatten(1).all(1).nonzero()[0]) % len(classes) for image in real]
    assert classes[found].tolist() == emoji.labels_in_turn(4).tolist()


def test_the_benchmark_measures_and_draws_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    few = tuple(part[:100] for part in emoji_classifier.two_ways())
    monkeypatch.setattr(emoji, "two_ways", lambda: few)
    torch.manual_seed(0)
    classifier = emoji_classifier.EmojiClassifier().eval()
    network = Denoiser(lambda x, timestep, label: -x, "v_prediction", SD15)
    found = emoji.measure(network, classifier, ["Euler", "DPM++ 2M"], [2, 4], [1.0, 2.0], 70)
    assert [(one.sampler, one.guidance, one.evaluations) for one in found] == [
        (name, scale, number) for name in ("Euler", "DPM++ 2M") for scale in (1.0, 2.0) for number in (2, 4)
    ]
    floor = emoji.floor(classifier, 70)
    assert all(one.frechet > floor for one in found), "noise is further than real emoji"
    assert emoji.picture_of_classes(network, 1.0).width > 5 * 4 * 32


def test_the_benchmark_names_a_model_that_is_not_there() -> None:
    with pytest.raises(
        typer.BadParameter, match="no model 'emojis': expected emoji, emoji-flow, emoji-exact, or a file"
    ):
        emoji.main(model="emojis")
