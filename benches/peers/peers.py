"""Which runtimes there are, whether they are installed, and by what commands they serve."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import convert

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = pathlib.Path(os.environ.get("KILN_PEERS", ROOT / "target/peers"))
WORKER = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'worker.py'))}"
KILN = "{kiln} bench {model} --inputs {inputs} --threads {threads} --serve {out}"


@dataclass
class Peer:
    """A runtime: its command, to be filled in, and ways to make a file of its own kind, of which the first counts whose
    answers are right."""
    name: str
    command: str
    title: str = ""
    most_threads: int = 1000
    # Each takes the model, the inputs and a limit in seconds, and gives a path.
    ways: list[Callable] = field(default_factory=lambda: [lambda model, inputs, limit: ""])


def python(name: str, title: str, packages: tuple, ways: list | None = None) -> Peer | str:
    """A runtime called from Python, or what it lacks."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            return f"not installed: there is no Python package {package} (benches/peers/setup)"
    peer = Peer(name, f"{WORKER} {name} {{model}} {{inputs}} {{out}} {{threads}} {{converted}}", title)
    peer.ways = ways or peer.ways
    return peer


def rust(name: str, **more) -> Peer | str:
    """A runtime served by a program of rust/, or what it lacks."""
    program = HOME / "bin" / f"serve-{name}"
    if not program.exists():
        return f"not installed: there is no {program} (benches/peers/setup)"
    return Peer(name, f"{shlex.quote(str(program))} {{model}} {{inputs}} {{out}} {{threads}}", name, **more)


def known() -> dict[str, Peer | str]:
    """All peers by name; in place of one that is not installed, why."""
    mnn = [lambda model, _inputs, limit, level=level: convert.mnn(model, HOME, level, limit) for level in (1, 2)]
    ncnn = [lambda model, inputs, limit: convert.ncnn(model, HOME, inputs, limit)]
    return {
        "onnxruntime": python("onnxruntime", "onnxruntime", ("onnxruntime",)),
        "openvino": python("openvino", "OpenVINO", ("openvino",)),
        "mnn": python("mnn", "MNN", ("MNN",), mnn),
        "ncnn": python("ncnn", "ncnn", ("ncnn", "pnnx"), ncnn),
        "rten": rust("rten"),
        "tract": rust("tract", most_threads=1),
    }


def hider() -> pathlib.Path:
    """What, told to the loader as an auditor, hides AVX-512; beside it lies its list."""
    return HOME / "bin/hide-avx512.so"


def without_avx512(peer: Peer) -> Peer:
    """The same, on a CPU that seems to have no AVX-512."""
    return dataclasses.replace(peer, command=f"env LD_AUDIT={shlex.quote(str(hider()))} {peer.command}")


def kiln(isa: str | None, lean: bool = False) -> Peer:
    return Peer("kiln", KILN + (f" --isa {isa}" if isa else "") + (" --lean" if lean else ""), "Kiln")


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name, package in {"onnxruntime": "onnxruntime", "openvino": "openvino", "mnn": "MNN", "ncnn": "ncnn"}.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    lock = (HERE / "rust/Cargo.lock").read_text()
    for name, crate in {"rten": "rten", "tract": "tract-onnx"}.items():
        if not isinstance(known()[name], str) and (pin := re.search(rf'name = "{crate}"\nversion = "([^"]+)"', lock)):
            found[name] = pin[1]
    return found
