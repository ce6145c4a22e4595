"""Running a test split through the kiln program."""

import json
import pathlib
import subprocess
import tempfile

import numpy as np


def run(kiln: pathlib.Path, model: pathlib.Path, samples) -> np.ndarray:
    """The classes that `kiln run` gives: for texts (a list of one-line strings) or pictures (an
    array f32 of pixel values, samples along the first axis)."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(samples, list):
            file = pathlib.Path(folder) / "samples.txt"
            file.write_text("".join(text + "\n" for text in samples), encoding="utf-8")
        else:
            file = pathlib.Path(folder) / "samples.npy"
            np.save(file, samples)
        output = subprocess.run([kiln, "run", model, "--each", file, "--json"],
                                check=True, stdout=subprocess.PIPE, text=True).stdout
    classes = [json.loads(line)["index"] for line in output.splitlines() if line.strip()]
    if len(classes) != len(samples):
        raise ValueError(f"kiln gave {len(classes)} answers for {len(samples)} samples")
    return np.array(classes)
