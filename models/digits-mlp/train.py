"""Handwritten digits: two layers on a picture of half the size, for the smallest of devices."""

import pathlib
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from common import baseline, data, export, options, report, training  # noqa: E402

MEAN, STD = 33.4, 78.7
LABELS = [str(digit) for digit in range(10)]


class DigitsMlp(nn.Module):
    """Means of 2x2 pixels, then 196 -> 48 -> 10."""

    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.hidden = nn.Linear(14 * 14, 48)
        self.output = nn.Linear(48, 10)

    def forward(self, image):
        return self.output(F.relu(self.hidden(self.pool(image).flatten(1))))


def normalise(pictures: np.ndarray) -> np.ndarray:
    return ((pictures.astype(np.float32) - MEAN) / STD)[:, None]


def distort(pictures: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Each picture turned, sheared, scaled and moved a little; the border stays black."""
    n = len(pictures)
    turn, shear = random.normal(0, 0.12, n), random.normal(0, 0.1, n)
    wide, high = random.normal(1, 0.08, (2, n))
    grid = np.zeros((n, 2, 3), dtype=np.float32)
    grid[:, 0, 0], grid[:, 0, 1] = wide * np.cos(turn), -np.sin(turn) + shear
    grid[:, 1, 0], grid[:, 1, 1] = np.sin(turn), high * np.cos(turn)
    grid[:, :, 2] = random.uniform(-2, 2, (n, 2)) / 14
    black = -MEAN / STD
    shifted = torch.from_numpy(pictures - np.float32(black))
    places = F.affine_grid(torch.from_numpy(grid), shifted.shape, align_corners=False)
    return (F.grid_sample(shifted, places, align_corners=False) + black).numpy()


def main():
    opts = options.parse("Train digits-mlp on handwritten digits.", HERE, epochs=20)
    torch.set_num_threads(1)
    pictures, labels = data.read_digits(opts.data)
    fitted, validation, tested = data.split_digits(labels, *data.parse_split(opts.split))
    everything = np.concatenate([fitted, validation])

    def fit(picked, checked, epochs):
        torch.manual_seed(opts.seed)
        target = 0.01 + 0.9 * np.eye(10)[labels[picked]]
        watched = None if checked is None else (normalise(pictures[checked]), labels[checked])
        return training.fit(DigitsMlp(), normalise(pictures[picked]), target, watched, opts, epochs,
                            augment=distort, weight_decay=0.01, rate_scale=2.0)

    best = fit(fitted, validation, opts.epochs)
    model = best.model
    if not opts.no_refit:
        model = fit(everything, None, best.epoch).model

    path = opts.out / "model.onnx"
    x = normalise(pictures[tested])
    export.export(model, torch.from_numpy(x[:1]), "image", path,
                  export.image_frontend(28, 28, [MEAN], [STD], LABELS))
    logits = training.predict(model, x)
    error = export.check(path, [row[None] for row in x], logits)
    simple = baseline.picture_baseline(pictures[everything], labels[everything], pictures[tested], labels[tested])
    report.write(opts, HERE, model, best, path, error, simple, pictures[tested].astype(np.float32),
                 labels[tested], logits, LABELS)


if __name__ == "__main__":
    main()
