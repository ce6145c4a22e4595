"""metrics.json, the record of a training run."""

import json
import pathlib

import numpy as np

from . import kiln, metrics


def write(options, folder: pathlib.Path, model, best, path: pathlib.Path, error: float, baseline: dict,
          samples, truth: np.ndarray, logits: np.ndarray, labels: list[str]):
    """Write metrics.json beside the model at `path`; with `--kiln`, with what kiln makes of `samples`."""
    result = {
        "model": folder.name,
        "parameters": sum(weights.numel() for weights in model.parameters()),
        "bytes": path.stat().st_size,
        "options": {"loss": options.loss, "optimizer": options.optimizer, "rate": options.rate,
                    "seed": options.seed, "epochs": options.epochs, "split": options.split,
                    "refit": not options.no_refit},
        "samples": len(truth),
        "majority": round(float(np.bincount(truth).max() / len(truth)), 4),
        "baseline": baseline,
        "validation": {"accuracy": round(best.accuracy, 4), "epoch": best.epoch},
        "onnxruntime_error": float(f"{error:.2g}"),
        "pytorch": metrics.classification(truth, logits.argmax(1), labels),
    }
    if options.kiln:
        found = kiln.run(options.kiln.resolve(), path, samples)
        result["kiln"] = metrics.classification(truth, found, labels)
    (path.parent / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{folder.name}: test accuracy {result['pytorch']['accuracy']}, baseline {baseline['accuracy']}, "
          f"{result['parameters']} parameters, {result['bytes']} bytes")
    for difference in metrics.differences(result["pytorch"], result.get("kiln", result["pytorch"])):
        raise SystemExit(f"pytorch and kiln differ: {difference}")
