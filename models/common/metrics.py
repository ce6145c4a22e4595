"""Figures of a classifier on a test split."""

import numpy as np


def classification(truth: np.ndarray, predicted: np.ndarray, labels: list[str]) -> dict:
    """Accuracy, per-class precision, recall and F1, macro F1 and the confusion matrix
    (rows: the true class)."""
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (truth, predicted), 1)
    classes = {}
    for i, label in enumerate(labels):
        hit = confusion[i, i]
        precision = hit / max(1, confusion[:, i].sum())
        recall = hit / max(1, confusion[i].sum())
        f1 = 2 * precision * recall / max(1e-12, precision + recall)
        classes[label] = {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}
    return {
        "accuracy": round(float((truth == predicted).mean()), 4),
        "macro_f1": round(float(np.mean([c["f1"] for c in classes.values()])), 4),
        "classes": classes,
        "confusion": confusion.tolist(),
        "samples": len(truth),
    }


def differences(a: dict, b: dict, digits: int = 3) -> list[str]:
    """The figures in which two results of `classification` differ once rounded."""
    pairs = [(key, a[key], b[key]) for key in ("accuracy", "macro_f1")]
    pairs += [(f"{label} {key}", figures[key], b["classes"][label][key])
              for label, figures in a["classes"].items() for key in figures]
    return [f"{name}: {x:.4f} and {y:.4f}" for name, x, y in pairs if round(float(x), digits) != round(float(y), digits)]
