#!/usr/bin/env python3
"""Times Kiln against other runtimes: the same models and inputs, one thread, one core, answers checked first.

    pip install -r benches/peers/requirements.txt
    python benches/peers/compare.py                         # the shipped models, with target/release/kiln
    python benches/peers/compare.py some/folder --names 'resnet*,vgg11' --peers onnxruntime
    python benches/peers/compare.py --peer 'old=old/kiln bench {model} --inputs {inputs} --serve {out}'

A folder holds NAME.onnx and NAME.in.npz (keys: names of inputs).

Every runtime is a process of its own, and all of them are alive together. A round gives each in turn about --ms of runs,
beginning with another one each time; the first run of a turn, on caches that another one left, is not counted. Printed is
a runtime's time over Kiln's, taken within each round, then the median over rounds: a slow second of the machine hits all
of them. Above 1, Kiln is faster. Behind it, in brackets, stand the quartiles of the rounds' ratios.

Timed is one call, from inputs in place to outputs in place. Calls from Python cost onnxruntime, OpenVINO and MNN some
microseconds each, which matters for models that take less than a hundred. A runtime may use any instructions of the CPU.
Conversion and loading are not timed.
"""

import argparse
import fnmatch
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILN = "{kiln} bench {model} --inputs {inputs} --serve {out}"
WORKER = f"{shlex.quote(sys.executable)} {shlex.quote(__file__)} --serve-as {{peer}} {{model}} {{inputs}} {{out}}"


# The peers: opened with a model's path, its inputs and a folder for files; `run` is timed, `outputs` is not.

class Onnxruntime:
    """With all its optimisations; inputs and outputs are bound once."""

    def __init__(self, model: str, inputs: dict, _folder: pathlib.Path):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.binding = session.io_binding()
        self.names = [output.name for output in session.get_outputs()]
        self.held = [onnxruntime.OrtValue.ortvalue_from_numpy(inputs[i.name]) for i in session.get_inputs()]
        for place, value in zip(session.get_inputs(), self.held):
            self.binding.bind_ortvalue_input(place.name, value)
        for name in self.names:
            self.binding.bind_output(name)
        self.run = lambda: session.run_with_iobinding(self.binding)

    def outputs(self) -> list:
        return self.binding.copy_outputs_to_cpu()


class Openvino:
    """One stream, for latency, in f32, with the shapes of these inputs."""

    def __init__(self, model: str, inputs: dict, _folder: pathlib.Path):
        import openvino
        core = openvino.Core()
        network = core.read_model(model)
        network.reshape({port: inputs[port.any_name].shape for port in network.inputs})
        options = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                   "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = core.compile_model(network, "CPU", options)
        self.request = self.compiled.create_infer_request()
        for port in self.compiled.inputs:
            self.request.set_tensor(port, openvino.Tensor(inputs[port.any_name]))

    def run(self):
        # Waiting for an asynchronous call makes no Python objects of the outputs, as `infer` does.
        self.request.start_async()
        self.request.wait()

    def outputs(self) -> list:
        return [np.array(self.request.get_output_tensor(i).data) for i in range(len(self.compiled.outputs))]


class Mnn:
    """Converted first, by its own converter, at this level of optimisation; precision high is f32."""

    LEVEL = "1"

    def __init__(self, model: str, inputs: dict, folder: pathlib.Path):
        converted = folder / "model.mnn"
        # Its module converts; the program of that name reports home. In a process of its own, since it prints a lot.
        call = ["mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", str(converted), "--bizCode", "b",
                "--optimizeLevel", self.LEVEL, "--useOriginRNNImpl"]
        done = subprocess.run([sys.executable, "-c", f"import MNN, _tools; _tools.mnnconvert({call!r})"],
                              capture_output=True, text=True)
        if not converted.exists():
            raise ValueError(f"MNN does not convert it: {(done.stdout + done.stderr)[-200:]}")
        import MNN
        names = os.environ["KILN_PEERS_OUTPUTS"].split("\n")
        settings = ({"backend": "CPU", "numThread": 1, "precision": "high"},)
        self.expr, self.runtime = MNN.expr, MNN.nn.create_runtime_manager(settings)
        self.module = MNN.nn.load_module_from_file(str(converted), list(inputs), names, runtime_manager=self.runtime)
        self.fed = [self.variable(array) for array in inputs.values()]

    def variable(self, array: np.ndarray):
        if array.dtype.kind in "ib":
            array = array.astype(np.int32)
        kind = {"f": self.expr.float, "i": self.expr.int, "u": self.expr.uint8}[array.dtype.kind]
        variable = self.expr.placeholder(list(array.shape), self.expr.NCHW, kind)
        variable.write(array)
        return variable

    def run(self):
        self.made = self.module.forward(self.fed)

    def outputs(self) -> list:
        plain = [self.expr.convert(v, self.expr.NCHW) if v.data_format == self.expr.NC4HW4 else v for v in self.made]
        return [np.array(v.read()) for v in plain]


class Mnn2(Mnn):
    """At another level: it gets some models right that the first gets wrong."""

    LEVEL = "2"


PEERS = {"onnxruntime": Onnxruntime, "openvino": Openvino, "MNN": Mnn, "MNN2": Mnn2}
USUAL = ["onnxruntime", "openvino", "MNN"]


def serve(peer: str, model: str, file: str, out: str):
    """A peer's process: what `kiln bench --serve` does, in its words."""
    inputs = {key: np.ascontiguousarray(value) for key, value in np.load(file).items()}
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    opened = PEERS[peer](model, inputs, folder)
    opened.run()
    np.savez(folder / "out.npz", **{str(i): value for i, value in enumerate(opened.outputs())})
    print("ready", flush=True)
    clock, run = time.perf_counter_ns, opened.run
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = clock()
            run()
            times.append(clock() - start)
        print(*times, flush=True)


class Served:
    """A process that answers a line `N` with the times of N runs."""

    def __init__(self, command: str, out: pathlib.Path, outputs: list[str]):
        self.said = tempfile.TemporaryFile("w+")
        env = os.environ | {"OMP_NUM_THREADS": "1", "KILN_PEERS_OUTPUTS": "\n".join(outputs)}
        self.process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.said, text=True, env=env)
        self.answer(lambda words: words[:1] == ["ready"])
        arrays = np.load(out / "out.npz")
        self.names, self.outputs = arrays.files, [arrays[key] for key in arrays.files]

    def answer(self, wanted) -> list[str]:
        for line in self.process.stdout:
            if wanted(line.split()):
                return line.split()
        self.process.wait()
        self.said.seek(0)
        raise ValueError((self.said.read().strip().splitlines() or [f"exit {self.process.returncode}"])[-1][-200:])

    def run(self, runs: int) -> list[int]:
        try:
            print(runs, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # the answer's end says why
        words = self.answer(lambda words: words and all(word.isdigit() for word in words))
        return [int(word) for word in words]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def error(got: list, want: list) -> float:
    """Largest difference, as a share of the largest magnitude of its output; infinite where shapes differ."""
    if [a.size for a in got] != [a.size for a in want]:
        return float("inf")
    worst = 0.0
    for a, b in zip(got, want):
        a, b = np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)
        share = float(np.abs(a - b).max(initial=0.0) / max(np.abs(b).max(initial=0.0), 1e-30))
        worst = share if share > worst or share != share else worst
    return worst


def start(commands: dict, fields: dict, folder: pathlib.Path, tolerance: float) -> tuple[dict, dict]:
    """The processes whose answers are right, Kiln's first, and why the others are not among them."""
    alive, gone = {}, {}
    for name, command in commands.items():
        out = folder / name
        quoted = {key: shlex.quote(str(value)) for key, value in fields.items()}
        try:
            names = alive["kiln"].names if alive else []
            peer = Served(command.format(peer=name, out=shlex.quote(str(out)), **quoted), out, names)
        except (ValueError, OSError) as why:
            if name == "kiln":
                raise ValueError(f"kiln: {why}") from why
            gone[name] = str(why)
            continue
        alive[name] = peer
        worst = error(peer.outputs, alive["kiln"].outputs)
        if not worst <= tolerance:
            gone[name] = f"its answer differs from Kiln's by {worst:.2g} of the largest value"
            alive.pop(name).close()
    return alive, gone


def rounds(alive: dict, number: int, ms: float) -> list[dict]:
    """Median nanoseconds of each, per round."""
    names = list(alive)
    counts = {}
    for name in names:
        once = statistics.median(alive[name].run(5)[1:])
        counts[name] = min(max(round(ms * 1e6 / max(once, 1)), 3), 100_000) + 1
    found = []
    for i in range(number):
        turn = i % len(names)
        found.append({name: statistics.median(alive[name].run(counts[name])[1:]) for name in names[turn:] + names[:turn]})
    return found


def models(options) -> dict:
    """Name: (model, inputs)."""
    if options.folder:
        found = {file.stem: (file, file.with_suffix(".in.npz")) for file in sorted(options.folder.glob("*.onnx"))}
    else:
        files = sorted(ROOT.glob("models/*/model.onnx"))
        found = {file.parent.name: (file, ROOT / f"tests/data/{file.parent.name}.in.npz") for file in files}
    patterns = options.names.split(",")
    return {name: both for name, both in found.items() if both[1].exists() and any(fnmatch.fnmatch(name, p) for p in patterns)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="of models; absent: those that Kiln ships")
    parser.add_argument("--names", default="*", help="patterns, with commas between")
    parser.add_argument("--kiln", type=pathlib.Path, default=ROOT / "target/release/kiln", help="the program")
    parser.add_argument("--peers", default=",".join(USUAL), metavar="NAMES",
                        help=f"of {', '.join(PEERS)}, with commas between; absent: %(default)s")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="any other program that serves")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ms", type=float, default=40, help="of runs, per turn")
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)), help="the core that all run on")
    parser.add_argument("--tolerance", type=float, default=2e-3, help="allowed difference, as a share of the largest value")
    parser.add_argument("--serve-as", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := [name for name in options.peers.split(",") if name and name not in PEERS]:
        parser.error(f"no peer {', '.join(unknown)}: there are {', '.join(PEERS)}; --peer adds others")
    if not all("=" in other for other in options.peer):
        parser.error("--peer wants NAME=COMMAND")
    if not options.serve_as and not options.kiln.exists():
        parser.error(f"there is no {options.kiln}: build it (cargo build --release) or say where it is (--kiln)")
    return options


def main() -> int:
    options = arguments()
    if options.serve_as:
        serve(*options.serve_as)
        return 0
    os.sched_setaffinity(0, {options.cpu})
    commands = {"kiln": KILN} | {name: WORKER for name in options.peers.split(",") if name}
    commands |= dict(other.split("=", 1) for other in options.peer)
    chosen = models(options)
    if not chosen:
        print("no model with inputs there (NAME.onnx, NAME.in.npz)", file=sys.stderr)
        return 2
    peers = [name for name in commands if name != "kiln"]
    print(f"{'':20}{'kiln':>12}" + "".join(f"{name:>20}" for name in peers), flush=True)
    failed = False
    for name, (model, inputs) in chosen.items():
        fields = {"kiln": options.kiln, "model": model, "inputs": inputs}
        with tempfile.TemporaryDirectory() as folder:
            try:
                alive, gone = start(commands, fields, pathlib.Path(folder), options.tolerance)
                found = rounds(alive, options.rounds, options.ms)
            except ValueError as why:
                print(f"{name:20}{why}", flush=True)
                failed = True
                continue
            for peer in alive.values():
                peer.close()
        cells = []
        for peer in peers:
            if peer in alive:
                low, middle, high = statistics.quantiles((r[peer] / r["kiln"] for r in found), n=4)
                cells.append(f"{middle:.2f} ({low:.2f}-{high:.2f})")
            else:
                cells.append("-")
        time_us = statistics.median(r["kiln"] for r in found) / 1e3
        print(f"{name:20}{time_us:>9.1f} us" + "".join(f"{cell:>20}" for cell in cells), flush=True)
        for peer, why in gone.items():
            print(f"  {peer}: {why}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
