"""MNN and ncnn run files of their own kind: made here by their own converters, kept in a folder, and not timed."""

import hashlib
import importlib.util
import os
import pathlib
import subprocess
import sys

TYPES = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8", "bool": "bool"}


def place(model: pathlib.Path, home: pathlib.Path, kind: str, of: str = "") -> pathlib.Path:
    """Where the converted file stands, without its ending: another place when the model, or the sizes `of` inputs, change."""
    status = model.stat()
    key = hashlib.sha256(f"{model.resolve()} {status.st_size} {status.st_mtime_ns} {of}".encode()).hexdigest()[:12]
    folder = home / "converted" / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{model.stem}-{key}"


def call(command: list, made: pathlib.Path, limit: float):
    """Runs a converter: what it is to make must exist afterwards."""
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=limit, errors="replace")
    except subprocess.TimeoutExpired:
        raise ValueError(f"its converter takes more than {limit:.0f} s") from None
    if done.returncode or not made.exists():
        said = (done.stdout + done.stderr).strip().splitlines() or [f"exit {done.returncode}"]
        told = [line for line in said if any(word in line.lower() for word in ("error", "not support", "unsupport", "can't"))]
        raise ValueError(f"its converter says: {(told or said)[-1].strip()[-150:]}")


def mnn(model: pathlib.Path, home: pathlib.Path, level: int, limit: float) -> pathlib.Path:
    """At this level of optimisation: each gets some models right that the other gets wrong."""
    made = place(model, home, f"mnn{level}").with_suffix(".mnn")
    if not made.exists():
        fresh = made.with_suffix(".new")
        # Its own LSTM and GRU are faster than the loops that it would make of them. The module converts; the program of
        # that name reports home.
        words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(fresh), "--bizCode", "b",
                 "--optimizeLevel", str(level), "--useOriginRNNImpl"]
        call([sys.executable, "-c", f"import MNN, _tools; _tools.mnnconvert({words!r})"], fresh, limit)
        os.replace(fresh, made)
    return made


def ncnn(model: pathlib.Path, home: pathlib.Path, inputs: dict, limit: float) -> pathlib.Path:
    """By pnnx, in f32, for the sizes of these inputs. Beside the made file stand .param, .bin and .ncnn.py."""
    sizes = ",".join(str(list(a.shape)).replace(" ", "") + TYPES.get(str(a.dtype), str(a.dtype)) for a in inputs.values())
    stem = place(model, home, "ncnn", sizes)
    made = pathlib.Path(f"{stem}.ncnn.py")
    if not made.exists():
        program = pathlib.Path(importlib.util.find_spec("pnnx").origin).with_name("pnnx")
        beside = pathlib.Path(f"{stem}.onnx")  # pnnx writes a simplified model beside the one that it reads
        beside.unlink(missing_ok=True)
        beside.symlink_to(model.resolve())
        spare = {"pnnxparam": "p.param", "pnnxbin": "p.bin", "pnnxpy": "p.py", "pnnxonnx": "p.onnx"}
        wanted = {"ncnnparam": "param", "ncnnbin": "bin", "ncnnpy": "ncnn.py"}
        try:
            call([program, beside, f"inputshape={sizes}", "fp16=0"]
                 + [f"{key}={stem}.{ending}" for key, ending in (spare | wanted).items()], made, limit)
        finally:
            for ending in [*spare.values(), "onnx", "pnnxsim.onnx"]:
                pathlib.Path(f"{stem}.{ending}").unlink(missing_ok=True)
    return stem
