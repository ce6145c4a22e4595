"""From a trained PyTorch model to a complete ONNX file, checked against onnxruntime."""

import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch


def text_frontend(vocabulary, length: int, labels: list[str]) -> dict[str, str]:
    """What Kiln needs to turn a text into ids; `length` 0 means as long as the text."""
    return {
        "kiln.frontend": "text",
        "kiln.input": "ids",
        "kiln.output": "logits",
        "kiln.activation": "softmax",
        "kiln.labels": "\n".join(labels),
        "kiln.text.tokenizer": "words-v1",
        "kiln.text.vocabulary": "\n".join(vocabulary.words),
        "kiln.text.length": str(length),
    }


def image_frontend(width: int, height: int, mean: list[float], std: list[float], labels: list[str]) -> dict[str, str]:
    """What Kiln needs to turn pixels of 0..255 into numbers: (pixel - mean) / std, by channel."""
    return {
        "kiln.frontend": "image",
        "kiln.input": "image",
        "kiln.output": "logits",
        "kiln.activation": "softmax",
        "kiln.labels": "\n".join(labels),
        "kiln.image.width": str(width),
        "kiln.image.height": str(height),
        "kiln.image.channels": str(len(mean)),
        "kiln.image.layout": "nchw",
        "kiln.image.mean": ",".join(f"{x:g}" for x in mean),
        "kiln.image.std": ",".join(f"{x:g}" for x in std),
    }


def export(model: torch.nn.Module, example: torch.Tensor, name: str, path: pathlib.Path,
           frontend: dict[str, str], dynamic: dict | None = None):
    """Write `model` to `path`; `dynamic` names the axes of the input that may vary."""
    model.eval()
    with tempfile.TemporaryDirectory() as folder:
        raw = f"{folder}/raw.onnx"
        torch.onnx.export(model, (example,), raw, input_names=[name], output_names=["logits"],
                          dynamic_axes={name: dynamic} if dynamic else None,
                          opset_version=17, dynamo=False)
        # MatMul and Add stay apart: as Gemm they would need a Reshape on both sides.
        graph = onnxslim.slim(onnx.load(raw), skip_fusion_patterns=["FusionGemm"])
    drop_zero_states(graph.graph)
    rename(graph)
    graph.producer_name, graph.producer_version, graph.doc_string = "kiln-models", "1", ""
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, frontend)
    onnx.checker.check_model(graph, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def drop_zero_states(graph: onnx.GraphProto):
    """Initial states of zero are what an LSTM has without any."""
    zero = {x.name for x in graph.initializer if not onnx.numpy_helper.to_array(x).any()}
    for node in graph.node:
        if node.op_type == "LSTM" and zero.issuperset(node.input[5:7]):
            del node.input[4 if not node.input[4] else 5:]
    used = {name for node in graph.node for name in node.input}
    for tensor in [x for x in graph.initializer if x.name not in used]:
        graph.initializer.remove(tensor)


def rename(model: onnx.ModelProto):
    """Short names: a node is its operator with a number, a tensor the node that makes it; a weight
    keeps its name in PyTorch or, if the exporter made it, is named after the node that uses it."""
    graph = model.graph
    names = {x.name: x.name for x in [*graph.input, *graph.output]}
    names |= {x.name: x.name for x in graph.initializer if "." in x.name and not set("/:") & set(x.name)}
    counts = {}
    for node in graph.node:
        kind = node.op_type.lower()
        counts[kind] = counts.get(kind, 0) + 1
        node.name, node.doc_string = f"{kind}_{counts[kind]}", ""
        for i, output in enumerate(node.output):
            if output:
                names.setdefault(output, node.name if i == 0 else f"{node.name}.{i}")
    for node in graph.node:
        for i, used in enumerate(node.input):
            if used:
                names.setdefault(used, f"{node.name}.input{i}")
        for values in (node.input, node.output):
            values[:] = [names[value] if value else "" for value in values]
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    del graph.value_info[:]
    graph.name = "main"


def check(path: pathlib.Path, samples: list[np.ndarray], expected: np.ndarray, tolerance: float = 1e-4) -> float:
    """Largest difference between onnxruntime's logits and the expected ones; an error if above `tolerance`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    worst = 0.0
    for sample, logits in zip(samples, expected):
        worst = max(worst, float(np.abs(session.run(None, {name: sample})[0][0] - logits).max()))
    if worst > tolerance:
        raise ValueError(f"{path} differs from PyTorch by {worst}")
    return worst
