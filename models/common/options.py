"""The command line that all recipes share."""

import argparse
import pathlib


def parse(description: str, folder: pathlib.Path, epochs: int) -> argparse.Namespace:
    """Parse the options of the recipe in `folder`; `epochs` is its default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--loss", choices=["cross-entropy", "mse"], default="cross-entropy",
                        help="cross-entropy, or the mean squared error of the probabilities")
    parser.add_argument("--optimizer", choices=["gd", "sgd", "adam"], default="adam",
                        help="adam, sgd with momentum, or gd: one step an epoch, on all samples")
    parser.add_argument("--rate", type=float, help="learning rate, if not the optimizer's own")
    parser.add_argument("--seed", type=int, default=1, help="of initial weights, order and noise")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--split", default="0.8/0.2", metavar="TRAIN/TEST",
                        help="shares of training (a ninth of it for validation) and test")
    parser.add_argument("--no-refit", action="store_true",
                        help="keep the model that is best on the validation split; otherwise train "
                             "again for as many epochs with the validation split as well")
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data-cache"),
                        help="folder for the downloaded packages")
    parser.add_argument("--out", type=pathlib.Path, default=folder,
                        help="folder for model.onnx and metrics.json")
    parser.add_argument("--kiln", type=pathlib.Path,
                        help="the kiln program: run the test split through it as well")
    return parser.parse_args()
