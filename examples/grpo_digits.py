"""Teach the digits network by reinforcement (GRPO) to draw one digit more often: ``python -m examples.grpo_digits``.

The network draws any digit; the reward of a sample is the share that a small classifier gives to the digit wanted. Each
iteration samples a group with DDIM (eta = 1), whose steps have a density, and takes a few steps along the clipped ratio
of PPO, with the group's own mean and deviation in place of a critic (Shao et al. 2024, DeepSeekMath; Liu et al. 2025,
Flow-GRPO). Seeded; minutes on two CPU cores.
"""

import copy
import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import trange

import diffusolve
from diffusolve.denoisers.digits import load_digits_data
from diffusolve.denoisers.digits_network import NO_CLASS, DigitsNetwork, load_digits_network

STEPS = 10
GROUP = 64
LEARNING_RATE = 1e-4
CLIP = 0.02
"""How far a ratio may be from 1: those of densities averaged over the 64 pixels stay near it."""
KL_WEIGHT = 0.02
EVALUATED = 256
CLASSIFIER_EPOCHS = 40


class Rollout(NamedTuple):
    """Samples of a group, and what they were made by.

    Attributes:
        samples: shape (steps, group, 1, 8, 8): before each step that has a density, and after the last of these.
        log_probs: of these steps, shape (steps - 1, group).
        images: what they led to, shape (group, 1, 8, 8).
    """

    samples: Tensor
    log_probs: Tensor
    images: Tensor


def main(
    digit: Annotated[int, typer.Option(min=0, max=9, help="The digit that is rewarded.")] = 3,
    iterations: Annotated[int, typer.Option(min=1, help="Groups of samples to learn from.")] = 16,
    seed: Annotated[int, typer.Option(help="Seeds the classifier and every sample.")] = 0,
    out: Annotated[Path, typer.Option(help="Where the plot goes.")] = Path("grpo-digits.png"),
) -> None:
    """Train, and draw the reward of each iteration and samples before and after."""
    start = time.perf_counter()
    before, after, rewards, divergences = train(digit, iterations, seed)
    classifier = trained_classifier(seed)
    shown = [evaluated(network, classifier, digit) for network in (before, after)]
    plot(out, digit, rewards, divergences, [images for images, _ in shown])
    typer.echo(
        f"{time.perf_counter() - start:.0f} s; reward of the groups {rewards[0]:.3f} -> {rewards[-1]:.3f}; share of "
        f"the digit {digit} in {EVALUATED} samples of DPM++ 2M {shown[0][1]:.3f} -> {shown[1][1]:.3f}; plot in {out}"
    )


def train(digit: int, iterations: int, seed: int) -> tuple[DigitsNetwork, DigitsNetwork, list[float], list[float]]:
    """Return the network before and after, and the mean reward and the divergence from the start of each iteration."""
    classifier, reference = trained_classifier(seed), load_digits_network()
    network = copy.deepcopy(reference)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    rewards, divergences = [], []
    for _ in (progress := trange(iterations, desc="learning", unit="group")):
        rollout = sampled(network, generator)
        reward = share(classifier, rollout.images, digit)
        advantage = (reward - reward.mean()) / (reward.std() + 1e-4)
        divergences.append(learn(network, reference, optimizer, rollout, advantage))
        rewards.append(float(reward.mean()))
        progress.set_postfix(reward=f"{rewards[-1]:.3f}")
    return reference, network, rewards, divergences


def scheduler() -> Any:
    """DDIM over the noise schedule that the network was trained with."""
    made = diffusolve.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    made.set_timesteps(STEPS)
    return made


def any_digit(network: DigitsNetwork, x: Tensor, timestep: Tensor) -> Tensor:
    """The network's output where no digit is asked for."""
    output: Tensor = network(x, timestep.expand(len(x)), torch.full((len(x),), NO_CLASS))
    return output


@torch.no_grad()
def sampled(network: DigitsNetwork, generator: torch.Generator) -> Rollout:
    """A group of samples. The step to the data adds no noise, and has no density."""
    ddim, x = scheduler(), torch.randn(GROUP, 1, 8, 8, generator=generator)
    samples, log_probs = [x], []
    *noisy, last = ddim.timesteps
    for timestep in noisy:
        step = ddim.step_log_prob(any_digit(network, x, timestep), timestep, x, eta=1.0, generator=generator)
        x = step.prev_sample
        samples.append(x)
        log_probs.append(step.log_prob)
    images = ddim.step(any_digit(network, x, last), last, x).prev_sample
    return Rollout(torch.stack(samples), torch.stack(log_probs), images)


def learn(
    network: DigitsNetwork,
    reference: DigitsNetwork,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    advantage: Tensor,
) -> float:
    """Take a step for each part of the way, and return the divergence from the reference per pixel and step."""
    ddim, divergences = scheduler(), []
    for index, timestep in enumerate(ddim.timesteps[:-1]):
        x, following = rollout.samples[index], rollout.samples[index + 1]
        step = ddim.step_log_prob(any_digit(network, x, timestep), timestep, x, following, eta=1.0)
        ratio = (step.log_prob - rollout.log_probs[index]).exp()
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
        with torch.no_grad():
            there = ddim.step_log_prob(any_digit(reference, x, timestep), timestep, x, following, eta=1.0).mean
        divergence = ((step.mean - there) ** 2 / (2 * step.std**2)).mean()
        optimizer.zero_grad()
        (KL_WEIGHT * divergence - gain).backward()
        optimizer.step()
        divergences.append(float(divergence.detach()))
    return sum(divergences) / len(divergences)


def trained_classifier(seed: int) -> nn.Module:
    """A classifier of digits, trained in a few seconds on the real ones with some noise."""
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(array) for array in load_digits_data())
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for _ in range(CLASSIFIER_EPOCHS):
        for batch in torch.randperm(len(images)).split(128):
            noisy = images[batch] + 0.2 * torch.randn_like(images[batch])
            loss = functional.cross_entropy(classifier(noisy), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def share(classifier: nn.Module, images: Tensor, digit: int) -> Tensor:
    """The share that the classifier gives to `digit`, shape (batch,)."""
    return classifier(images.clamp(-1, 1)).softmax(dim=1)[:, digit]


@torch.no_grad()
def evaluated(network: DigitsNetwork, classifier: nn.Module, digit: int) -> tuple[Tensor, float]:
    """Samples of DPM++ 2M, without noise between the steps, from noise that no training saw; the share of `digit`."""
    x = torch.randn(EVALUATED, 1, 8, 8, generator=torch.Generator().manual_seed(1_000_000))
    images = diffusolve.sample(
        lambda x, timestep: any_digit(network, x, timestep),
        x,
        diffusolve.sampler("DPM++ 2M Karras"),
        steps=20,
        noise_schedule=diffusolve.SD15,
        prediction_type="v_prediction",
    )
    return images, float(share(classifier, images, digit).mean())


def plot(out: Path, digit: int, rewards: list[float], divergences: list[float], images: list[Tensor]) -> None:
    """Draw the reward and the divergence of each iteration, and samples before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    curves, *pictures = figure.subplots(1, 3, width_ratios=(1.6, 1, 1))
    curves.plot(rewards, color="C0")
    curves.set(xlabel="group", ylabel=f"reward: share of the digit {digit}", ylim=(0, 1))
    other = curves.twinx()
    other.plot(divergences, color="C1", linestyle="--")
    other.set(ylabel="divergence (dashed)", ylim=(0, None))
    for axes, shown, title in zip(pictures, images, ("before", "after"), strict=True):
        framed = functional.pad(shown[:36, 0], (1, 1, 1, 1), value=0.0)
        rows = framed.reshape(6, 6, 10, 10).permute(0, 2, 1, 3).reshape(60, 60)
        axes.imshow(rows, cmap="gray", vmin=-1, vmax=1)
        axes.set(title=f"DPM++ 2M {title}", xticks=[], yticks=[])
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    typer.run(main)
