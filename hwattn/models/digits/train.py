"""Train the digits model and write ``model.onnx`` and ``data.npz`` next to this file.

Run as ``python -m hwattn.models.digits.train``. Seeded: on one machine and one version of torch it gives the same
file again.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from hwattn.models.digits.data import (
    CALIBRATION_IMAGES,
    INK_LEVELS,
    Split,
    load_split,
    normalize,
    stroke_labels,
)
from hwattn.models.digits.network import DIGITS, MIXTURE
from hwattn.models.networks.export import export_onnx
from hwattn.models.networks.vit import Gate, MultiTaskViT

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Recipe:
    """How the model is trained.

    Parameters
    ----------
    steps, batch : int
        Optimizer steps, and images per step and task.
    learning_rate, weight_decay, warmup : float, float, int
        AdamW with a linear warm-up of `warmup` steps and cosine decay; biases and norms do not decay.
    label_smoothing : float
        Of the digit's cross entropy.
    balance : float
        Weight of the load-balancing loss (Switch Transformer, arXiv 2101.03961, equation 4).
    gate_noise, gate_margin, gate_margin_weight : float
        Standard deviation of the noise added to the gate scores; the gap between the second and the third score
        that is asked for; and the weight of its hinge loss. They keep routing stable under quantization.
    average_decay : float
        Of the exponential moving average of the weights, which is what gets exported.
    seed : int
        Of everything random.
    """

    steps: int = 4000
    batch: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup: int = 200
    label_smoothing: float = 0.05
    balance: float = 0.02
    gate_noise: float = 0.2
    gate_margin: float = 0.5
    gate_margin_weight: float = 0.02
    average_decay: float = 0.998
    seed: int = 1


@dataclass
class GateMonitor:
    """Adds noise to every gate's scores in training, and collects the losses that shape routing.

    Parameters
    ----------
    recipe : Recipe
        Noise and margin.
    top_k : int
        Experts that a token visits.
    """

    recipe: Recipe
    top_k: int
    balance: list[Tensor] = field(default_factory=list)
    margin: list[Tensor] = field(default_factory=list)

    def attach(self, model: nn.Module) -> None:
        """Watch every `Gate` of `model`."""
        for module in model.modules():
            if isinstance(module, Gate):
                module.register_forward_hook(self._hook)

    def _hook(self, gate: nn.Module, inputs: tuple[Tensor, ...], scores: Tensor) -> Tensor:
        if not gate.training:
            return scores
        noisy = scores + self.recipe.gate_noise * torch.randn_like(scores)
        experts = scores.shape[-1]
        chosen = noisy.topk(self.top_k, dim=-1).indices
        load = functional.one_hot(chosen, experts).float().sum(dim=-2).mean(dim=(0, 1)) / self.top_k
        importance = scores.softmax(dim=-1).mean(dim=(0, 1))
        self.balance.append(experts * (load * importance).sum())
        ordered = scores.topk(self.top_k + 1, dim=-1).values
        gap = ordered[..., self.top_k - 1] - ordered[..., self.top_k]
        self.margin.append(functional.relu(self.recipe.gate_margin - gap).mean())
        return noisy

    def loss(self) -> Tensor:
        """Mean routing loss since the last call."""
        balance, margin = (
            torch.stack(self.balance).mean(),
            torch.stack(self.margin).mean(),
        )
        self.balance.clear()
        self.margin.clear()
        return self.recipe.balance * balance + self.recipe.gate_margin_weight * margin


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate, scale, shear, shift and bend scanned digits, and vary their ink.

    Parameters
    ----------
    pixels : float32 tensor, shape (N, 8, 8)
        Ink of each pixel, 0..16.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    float32 tensor, shape (N, 8, 8)
        Whole numbers 0..16 again, as a scanner would give.
    """
    count, size = pixels.shape[0], pixels.shape[-1]

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(count, *shape, generator=generator) * 2 - 1) * limit

    angle, shear = uniform(0.22), uniform(0.15)
    scale_x, scale_y = 1 + uniform(0.12), 1 + uniform(0.12)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack((cos * scale_x, (shear * cos - sin) * scale_y, uniform(0.2)), dim=-1),
        torch.stack((sin * scale_x, (shear * sin + cos) * scale_y, uniform(0.2)), dim=-1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), [count, 1, size, size], align_corners=False)
    bend = functional.interpolate(
        uniform(0.12, 2, 3, 3), size=(size, size), mode="bicubic", align_corners=True
    )
    image = functional.grid_sample(
        pixels[:, None],
        grid + bend.permute(0, 2, 3, 1),
        mode="bicubic",
        align_corners=False,
    )[:, 0]
    ink = (image / INK_LEVELS).clamp(0, 1) ** torch.exp(uniform(0.25, 1, 1))
    return (ink * INK_LEVELS * (1 + uniform(0.1, 1, 1))).clamp(0, INK_LEVELS).round()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Parameters for AdamW: matrices decay, biases, norms and embeddings do not."""
    decay = [p for name, p in model.named_parameters() if p.ndim >= 2 and "_embed" not in name]
    kept = {id(p) for p in decay}
    rest = [p for p in model.parameters() if id(p) not in kept]
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]


def train(split: Split, recipe: Recipe) -> MultiTaskViT:
    """Train on `split` and return the moving average of the weights."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = MultiTaskViT(DIGITS)
    average = copy.deepcopy(model).eval()
    monitor = GateMonitor(recipe, MIXTURE.top_k)
    monitor.attach(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.weight_decay), lr=recipe.learning_rate)
    pixels = torch.from_numpy(split.pixels.astype(np.float32))
    digit = torch.from_numpy(split.digit)
    started = time.monotonic()
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / recipe.warmup)
        rate = recipe.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pick = torch.randint(len(digit), (2 * recipe.batch,), generator=generator)
        loss = step_loss(model, augment(pixels[pick], generator), digit[pick], recipe) + monitor.loss()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(recipe.average_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.lerp_(fast, 1 - decay)
        if (step + 1) % 250 == 0:
            print(
                f"step {step + 1}: loss {loss.item():.4f}, {time.monotonic() - started:.0f} s",
                flush=True,
            )
    return average


def step_loss(model: MultiTaskViT, pixels: Tensor, digit: Tensor, recipe: Recipe) -> Tensor:
    """Cross entropy of both tasks: the first half of the images serves task 0, the second half task 1."""
    half = len(pixels) // 2
    whole = pixels.numpy().astype(np.int64)
    image, stroke = (
        torch.from_numpy(normalize(whole)),
        torch.from_numpy(stroke_labels(whole[half:])),
    )
    digit_logits = model(image[:half], torch.tensor(0))[0]
    stroke_logits = model(image[half:], torch.tensor(1))[1]
    return functional.cross_entropy(
        digit_logits, digit[:half], label_smoothing=recipe.label_smoothing
    ) + functional.cross_entropy(stroke_logits.flatten(0, 1), stroke.flatten())


def write_data(path: Path, train_split: Split, test_split: Split) -> None:
    """Write calibration and held-out images and labels, as the ONNX expects them."""
    arrays: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    calibration = Split(train_split.pixels[:CALIBRATION_IMAGES], train_split.digit[:CALIBRATION_IMAGES])
    for prefix, split in (("calib", calibration), ("test", test_split)):
        arrays[f"{prefix}_image"] = normalize(split.pixels)
        arrays[f"{prefix}_label_digit"] = split.digit
        arrays[f"{prefix}_label_stroke"] = stroke_labels(split.pixels)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def report(model: MultiTaskViT, split: Split) -> None:
    """Print accuracy of both tasks on `split`, and how often and how clearly each gate picks each expert."""
    image, top_k = torch.from_numpy(normalize(split.pixels)), MIXTURE.top_k
    labels = (split.digit, stroke_labels(split.pixels))
    scores: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _gate, _inputs, output: scores.append(output))
        for module in model.modules()
        if isinstance(module, Gate)
    ]
    for task, (name, label) in enumerate(zip(("digit", "stroke"), labels, strict=True)):
        scores.clear()
        with torch.inference_mode():
            logits = model(image, torch.tensor(task))[task]
        print(f"{name}: accuracy {np.mean(logits.argmax(-1).numpy() == label):.4f}")
        for layer, score in enumerate(scores):
            ordered = score.topk(top_k + 1, dim=-1)
            usage = torch.bincount(ordered.indices[..., :top_k].flatten(), minlength=score.shape[-1])
            gap = ordered.values[..., top_k - 1] - ordered.values[..., top_k]
            shares = " ".join(f"{share:.3f}" for share in (usage / usage.sum()).tolist())
            print(
                f"  gate {layer}: usage {shares}; gaps under 0.05: {(gap < 0.05).float().mean().item():.4f}"
            )
    for hook in hooks:
        hook.remove()


def main() -> None:
    """Train, print the measured figures, export."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(description="Train the bundled digits model.")
    parser.add_argument("--steps", type=int, default=defaults.steps)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for model.onnx and data.npz")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    train_split, test_split = load_split()
    model = train(train_split, Recipe(steps=arguments.steps, seed=arguments.seed))
    report(model, test_split)
    export_onnx(model, arguments.output / "model.onnx")
    write_data(arguments.output / "data.npz", train_split, test_split)


if __name__ == "__main__":
    main()
