"""Run a model's test split through the kiln program and compare its figures with PyTorch's.

    python models/evaluate.py text-lstm --kiln target/release/kiln

Adds the figures to the model's metrics.json under "kiln"; fails if they differ from "pytorch" in
the first three digits.
"""

import argparse
import json
import pathlib
import sys

from common import data, kiln, metrics

HERE = pathlib.Path(__file__).resolve().parent


def test_split(name: str, share: tuple[float, float], folder: pathlib.Path):
    """Samples as Kiln takes them (texts, or pictures of pixel values) and their classes."""
    if name.startswith("digits"):
        pictures, labels = data.read_digits(folder)
        tested = data.split_digits(labels, *share)[2]
        return pictures[tested].astype("float32"), labels[tested]
    tested = data.split_reviews(data.read_reviews(folder)[0], *share)[2]
    return tested.texts, tested.labels


def evaluate(folder: pathlib.Path, program: pathlib.Path, cache: pathlib.Path) -> list[str]:
    """Update `folder`/metrics.json; the figures in which kiln and PyTorch differ."""
    file = folder / "metrics.json"
    result = json.loads(file.read_text())
    share = data.parse_split(result["options"]["split"])
    samples, truth = test_split(result["model"], share, cache)
    found = kiln.run(program, folder / "model.onnx", samples)
    result["kiln"] = metrics.classification(truth, found, list(result["pytorch"]["classes"]))
    file.write_text(json.dumps(result, indent=2) + "\n")
    return metrics.differences(result["pytorch"], result["kiln"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a folder beside this program, or any other")
    parser.add_argument("--kiln", type=pathlib.Path, required=True, help="the kiln program")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data-cache"),
                        help="folder for the downloaded packages")
    options = parser.parse_args()
    failed = False
    for name in options.names:
        folder = HERE / name if (HERE / name).is_dir() else pathlib.Path(name)
        differing = evaluate(folder, options.kiln.resolve(), options.data)
        for difference in differing:
            print(f"{name}: pytorch and kiln differ: {difference}")
        if not differing:
            print(f"{name}: kiln's figures are those of PyTorch")
        failed |= bool(differing)
    sys.exit(failed)


if __name__ == "__main__":
    main()
