"""One training loop for all recipes."""

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

RATES = {"adam": 2e-3, "sgd": 0.05, "gd": 0.2}


@dataclass
class Best:
    """A model, the epoch that it is of, and its accuracy on the validation split."""

    model: nn.Module
    epoch: int
    accuracy: float
    loss: float


class Average:
    """Exponential moving average of a model's weights: smoother than its last step, and better."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.steps = copy.deepcopy(model).eval(), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module):
        # The decay grows from 0, or the random initial weights would stay in for long.
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def loss_of(kind: str, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`target` holds probabilities."""
    if kind == "mse":
        return F.mse_loss(logits.softmax(1), target)
    return F.cross_entropy(logits, target)


@torch.no_grad()
def predict(model: nn.Module, x: np.ndarray, batch: int = 256) -> np.ndarray:
    """Logits of all samples, in evaluation mode."""
    model.eval()
    return np.concatenate([model(torch.from_numpy(x[i:i + batch])).numpy() for i in range(0, len(x), batch)])


def batches(lengths: np.ndarray | None, count: int, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Indices of all samples in random order, cut in batches. Samples of similar length come
    together, so that little padding is computed on: chunks of 16 batches are sorted by length."""
    order = random.permutation(count)
    if lengths is not None:
        chunk = 16 * size
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")]
                                for part in (order[i:i + chunk] for i in range(0, count, chunk))])
    cut = [order[i:i + size] for i in range(0, count, size)]
    return [cut[i] for i in random.permutation(len(cut))]


def fit(model, x, target, validation, options, epochs, *, augment=lambda x, random: x, lengths=None,
        batch=64, decay=0.995, weight_decay=0.0, rate_scale=1.0) -> Best:
    """Train for `options.epochs`, or only for the first `epochs` of them, and return the averaged
    model of the epoch that is best on the validation split; without one, of the last.

    x, target    samples, and probabilities [n, classes]
    validation   (x, labels) or None
    augment      changes a batch of x, given a numpy generator
    lengths      of the samples, if they are sequences
    """
    rate = (options.rate or RATES[options.optimizer]) * rate_scale
    if options.optimizer == "adam":
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay)
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True)
    if options.optimizer == "gd":
        batch = len(x)
    random = np.random.default_rng(options.seed)
    target = torch.from_numpy(target.astype(np.float32))
    average = Average(model, decay)
    steps = options.epochs * -(-len(x) // batch)
    step, best = 0, None
    for epoch in range(1, epochs + 1):
        started, total = time.time(), 0.0
        model.train()
        for picked in batches(lengths, len(x), batch, random):
            # Warm up over the first twentieth, then down to zero along a cosine.
            share = step / steps
            factor = min(1.0, 20 * share + 1e-2) * 0.5 * (1 + np.cos(np.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            logits = model(torch.from_numpy(augment(x[picked], random)))
            loss = loss_of(options.loss, logits, target[picked])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update(model)
            step += 1
            total += loss.item() * len(picked)
        found = Best(average.model, epoch, 0.0, 0.0)
        if validation is not None:
            logits, truth = torch.from_numpy(predict(average.model, validation[0])), torch.from_numpy(validation[1])
            found = Best(copy.deepcopy(average.model), epoch, (logits.argmax(1) == truth).float().mean().item(),
                         F.cross_entropy(logits, truth).item())
        if best is None or (found.accuracy, -found.loss) >= (best.accuracy, -best.loss):
            best = found
        note = f"validation accuracy {found.accuracy:.4f}, loss {found.loss:.4f}, " if validation else ""
        print(f"epoch {epoch}: loss {total / len(x):.4f}, {note}{time.time() - started:.1f} s", flush=True)
    return best
