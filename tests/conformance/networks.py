"""What the commands that compare random networks with onnxruntime share: `lengths` and `random`."""

import argparse
import collections
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


class Network:
    """Nodes and constants of a network that is being drawn."""

    def __init__(self, random):
        self.random, self.nodes, self.constants, self.used = random, [], {}, []

    def name(self, of="t"):
        return f"{of}{len(self.nodes)}_{len(self.constants)}"

    def constant(self, value):
        name = self.name("c")
        self.constants[name] = np.asarray(value)
        return name

    def add(self, op, *inputs, outputs=1, **attributes):
        """Adds a node; gives the names of its outputs. An input is a name or the value of a constant."""
        inputs = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        names = [f"{self.name()}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def graph(self, inputs, outputs, opset):
        """The model of inputs and outputs: (name, element type, sizes) each."""
        info = helper.make_tensor_value_info
        constants = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "random", [info(*i) for i in inputs], [info(*o) for o in outputs], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10)
        onnx.checker.check_model(model)
        return model


def reference(model):
    """onnxruntime's session, which computes node by node."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(kiln, file, inputs, answers):
    """Runs an ONNX file or an image, both arrays by name; gives what `kiln compare` exits with, and what it says."""
    np.savez(file.parent / "in.npz", **inputs)
    np.savez(file.parent / "out.npz", **answers)
    command = [kiln, "compare", file, "--inputs", file.parent / "in.npz", "--expected", file.parent / "out.npz"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def run(doc, judge):
    """The command: `judge(kiln, folder, random, seen)` draws a network, counts what comes of it in `seen`, and gives its name and
    what is wrong."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent.parent
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="networks")
    parser.add_argument("--kiln", type=pathlib.Path, default=root / "target/release/kiln")
    parser.add_argument("--only", type=int, help="the network of this number alone")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for networks whose answer is wrong")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    seen = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for number in range(options.count) if options.only is None else [options.only]:
            what, wrong = judge(options.kiln, folder, np.random.default_rng([options.seed, number]), seen)
            for text in wrong:
                print(f"network {number} ({what}): {text}", flush=True)
            if options.keep and (wrong or options.only is not None):
                options.keep.mkdir(parents=True, exist_ok=True)
                for file in folder.iterdir():
                    (options.keep / f"{number}-{file.name}").write_bytes(file.read_bytes())
    print(f"{options.count} networks:", ", ".join(f"{count} {what}" for what, count in sorted(seen.items())))
    sys.exit(seen["wrong"] > 0)
