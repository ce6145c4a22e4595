"""Write inputs and onnxruntime's answers for every shipped model, for Kiln's tests.

    python models/references.py tests/data

For each model NAME.in.npz and NAME.out.npz, keys are tensor names: a text model reads the longest
sentence of data/sentences.txt, digits-* the first picture of data/digits-20.npz.
"""

import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

from common import text

HERE = pathlib.Path(__file__).resolve().parent


def inputs(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    [given] = model.graph.input
    if given.name == "image":
        pixels = np.load(HERE / "data/digits-20.npz")["pictures"][:1, None].astype(np.float32)
        mean, std = (np.float32(metadata[f"kiln.image.{key}"]) for key in ("mean", "std"))
        return {given.name: (pixels - mean) / std}
    known = {word.encode(): i for i, word in enumerate(metadata["kiln.text.vocabulary"].split("\n"))}
    sentence = max((HERE / "data/sentences.txt").read_text().splitlines(), key=lambda line: len(text.tokens(line)))
    ids = [known.get(word, text.UNK) for word in text.tokens(sentence)]
    length = given.type.tensor_type.shape.dim[1].dim_value or len(ids)
    return {given.name: np.array([(ids + [text.PAD] * length)[:length]], dtype=np.int64)}


def main(folder: pathlib.Path):
    for file in sorted(HERE.glob("*/model.onnx")):
        name = file.parent.name
        given = inputs(onnx.load(file))
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        answers = dict(zip([output.name for output in session.get_outputs()], session.run(None, given)))
        np.savez(folder / f"{name}.in.npz", **given)
        np.savez(folder / f"{name}.out.npz", **answers)
        print(name, {key: value.shape for key, value in (given | answers).items()})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
