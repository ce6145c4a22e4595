"""What the three text recipes have in common: everything but the network."""

import pathlib

import numpy as np
import torch

from . import baseline, data, embedding, export, options, report, text, training

LABELS = ["rotten", "fresh"]
LENGTH = 48  # words; one snippet in a thousand is longer
WORDS = 6000
WIDTH = 100
SMOOTHING = 0.07


def trimmed(ids: np.ndarray, margin: int) -> np.ndarray:
    """Without the padding that no row needs but `margin`."""
    return np.ascontiguousarray(ids[:, :min(ids.shape[1], int((ids > 0).sum(1).max()) + margin)])


def train(build, folder: pathlib.Path, epochs: int, length: int, margin: int = 0, rate_scale: float = 1.0):
    """Train, export, check and measure a model.

    build        makes the network from the initial word vectors
    length       how many ids the exported model takes; 0: any number
    margin       how much of the padding the network sees
    rate_scale   multiplies the learning rate
    """
    opts = options.parse(f"Train {folder.name} on film reviews.", folder, epochs)
    torch.set_num_threads(1)
    reviews, plots = data.read_reviews(opts.data)
    fitted, validation, tested = data.split_reviews(reviews, *data.parse_split(opts.split))
    everything = fitted + validation
    vocabulary = text.Vocabulary(everything.texts, WORDS)
    # Plots have no class, but words; those of the test films stay out nevertheless.
    read = everything.texts + [plot for film, plot in plots if film not in set(tested.films)]
    words = torch.from_numpy(embedding.table(vocabulary, data.read_vectors(opts.data), read, WIDTH))
    forget = vocabulary.forgetting()

    def augment(ids, random):
        ids = trimmed(ids, margin)
        return np.where((random.random(ids.shape) < forget[ids]) & (ids != text.PAD), text.UNK, ids)

    def fit(reviews, checked, epochs):
        torch.manual_seed(opts.seed)
        x = vocabulary.encode_all(reviews.texts, LENGTH)
        target = SMOOTHING + (1 - 2 * SMOOTHING) * np.eye(2)[reviews.labels]
        watched = checked and (trimmed(vocabulary.encode_all(checked.texts, LENGTH), margin), checked.labels)
        return training.fit(build(words.clone()), x, target, watched, opts, epochs, augment=augment,
                            lengths=(x != text.PAD).sum(1), weight_decay=0.01, rate_scale=rate_scale)

    best = fit(fitted, validation, opts.epochs)
    model = best.model
    if not opts.no_refit:
        model = fit(everything, None, best.epoch).model

    path = opts.out / "model.onnx"
    ids = vocabulary.encode_all(tested.texts, LENGTH)
    rows = [row[None] if length else row[None, row != text.PAD] for row in ids]
    export.export(model, torch.from_numpy(rows[0]), "ids", path,
                  export.text_frontend(vocabulary, length, LABELS), None if length else {1: "seq"})
    logits = training.predict(model, ids)
    error = export.check(path, rows, logits)
    simple = baseline.text_baseline(everything.texts, everything.labels, tested.texts, tested.labels)
    report.write(opts, folder, model, best, path, error, simple, tested.texts, tested.labels, logits, LABELS)
