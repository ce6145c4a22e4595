"""The stack that each kind of op takes on a Cortex-M4F, by painting it under QEMU.

    stacks.py           writes src/certificate/stacks.rs, from which certificates have it
    stacks.py check     fails if an op takes more than that says

Small models of every kind of op, in the variants that take different ways through its kernels, are compiled, and run op by op by a
firmware that paints its stack anew before each (src/bin/stacks.rs). It has the general entry of each kind and all activations. A
kind's figure is the most that any of its ops took, the session's loop over ops among it, rounded up. Needs the program `kiln`
(compile-images builds it). Standard library, cargo, QEMU.
"""
import os
import pathlib
import re
import subprocess
import sys

from onnx import DOUBLE, FLOAT, INT64, model, node

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
IMAGES = HERE / "images/stacks"
ELF = TARGET / "cortex-m/thumbv7em-none-eabihf/small/stacks"
TABLE = ROOT / "src/certificate/stacks.rs"
ROUND = 32  # bytes that figures are multiples of: other compilations of the same code differ by a few words


def weights(n):
    return [((7 * i) % 11 - 5) / 16 for i in range(n)]


def one(kind, sizes, *constants, dtype=FLOAT, out=None, **attributes):
    """A node of one input `x`, more inputs that are constants (sizes, data, type), and outputs of these types (else one of the
    input's)."""
    names = [f"c{i}" for i in range(len(constants))]
    results = [(f"y{i}", of) for i, of in enumerate(out or [dtype])]
    inputs = ["x"] + ["" if c is None else name for name, c in zip(names, constants)]
    given = [(name, *c) for name, c in zip(names, constants) if c is not None]
    return model([node(kind, inputs, [name for name, _ in results], **attributes)], [("x", sizes, dtype)], results, given)


def floats(*sizes):
    n = 1
    for size in sizes:
        n *= size
    return sizes, weights(n), FLOAT


def ints(*data):
    return (len(data),), list(data), INT64


def then(kind, base, **attributes):
    """Convolution or product with this activation behind it, which is fused."""
    first, sizes, constants, more = base
    names = [f"c{i}" for i in range(len(constants))]
    nodes = [node(first, ["x"] + names, ["h"], **more), node(kind, ["h"], ["y"], **attributes)]
    return model(nodes, [("x", sizes, FLOAT)], [("y", FLOAT)], [(n, *c) for n, c in zip(names, constants)])


def two(kind, a, b, dtype=FLOAT, **attributes):
    """A node of two inputs that are no constants."""
    return model([node(kind, ["a", "b"], ["y"], **attributes)], [("a", a, dtype), ("b", b, dtype)], [("y", dtype)], [])


def recurrent(kind, gates, **attributes):
    w, r, b = floats(1, gates * 6, 5), floats(1, gates * 6, 6), floats(1, 2 * gates * 6)
    return one(kind, (4, 1, 5), w, r, b, out=[FLOAT, FLOAT], hidden_size=6, **attributes)


def models():
    """Names and bytes of ONNX files."""
    conv = {
        "3x3": ("Conv", (1, 8, 9, 7), [floats(20, 8, 3, 3), floats(20)], dict(pads=[1, 1, 1, 1])),
        "wide": ("Conv", (1, 17, 6, 6), [floats(5, 17, 3, 3)], dict(pads=[1, 1, 1, 1], strides=[2, 2])),
        "dilated": ("Conv", (1, 17, 9, 9), [floats(6, 17, 3, 2), floats(6)], dict(dilations=[2, 2])),
        "pointwise": ("Conv", (1, 12, 5, 5), [floats(18, 12, 1, 1), floats(18)], {}),
        "grouped": ("Conv", (1, 8, 6, 6), [floats(8, 4, 3, 3), floats(8)], dict(group=2, pads=[1, 1, 1, 1])),
        "large": ("Conv", (1, 3, 9, 9), [floats(4, 3, 7, 7), floats(4)], dict(pads=[3, 3, 3, 3])),
        "depthwise": ("Conv", (1, 10, 6, 6), [floats(10, 1, 3, 3), floats(10)], dict(group=10, pads=[1, 1, 1, 1])),
        "depthwise-2": ("Conv", (1, 10, 7, 7), [floats(10, 1, 3, 3), floats(10)], dict(group=10, strides=[2, 2], pads=[1, 1, 1, 1])),
        "depthwise-5": ("Conv", (1, 6, 7, 7), [floats(6, 1, 5, 5), floats(6)], dict(group=6, pads=[2, 2, 2, 2])),
    }
    product = ("MatMul", (1, 40), [floats(40, 30)], {})
    rows = ("MatMul", (5, 40), [floats(40, 30)], {})
    activations = [("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("HardSwish", {}), ("Elu", {}), ("Softplus", {}), ("Mish", {})]
    for name, base in [*conv.items(), ("product", product), ("rows", rows)]:
        yield name, one(base[0], base[1], *base[2], **base[3])
        for kind, attributes in activations:
            yield f"{name}-{kind}", then(kind, base, **attributes)
    yield "two", two("MatMul", (3, 20), (20, 7))
    yield "two-many", two("MatMul", (2, 30, 300), (2, 300, 9))
    yield "two-turned", model([node("Transpose", ["a"], ["t"], perm=[1, 0]), node("MatMul", ["t", "b"], ["y"])],
                              [("a", (20, 30), FLOAT), ("b", (20, 18), FLOAT)], [("y", FLOAT)], [])
    pool = dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    yield "max-pool", one("MaxPool", (1, 9, 8, 8), **pool)
    yield "average-pool", one("AveragePool", (1, 9, 8, 8), **pool)
    yield "average-pool-padded", one("AveragePool", (1, 9, 8, 8), count_include_pad=1, **pool)
    for kind in ["Exp", "Log", "Sqrt", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Erf",
                 "Tanh", "Sigmoid", "Softplus", "Floor", "Ceil", "Round", "Reciprocal", "Abs", "Neg", "Sign", "Mish", "Softsign"]:
        yield f"map-{kind}", one(kind, (3, 50))
        if kind not in ("Erf", "Sigmoid", "Softplus", "Mish", "Softsign"):
            yield f"map-double-{kind}", one(kind, (3, 50), dtype=DOUBLE)
    for kind in ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod"]:
        fmod = dict(fmod=1) if kind == "Mod" else {}
        yield f"map-{kind}", two(kind, (2, 3, 40), (3, 1), **fmod)
        yield f"map-double-{kind}", two(kind, (2, 3, 40), (3, 1), DOUBLE, **fmod)
        yield f"map-int-{kind}", two(kind, (2, 3, 40), (3, 1), INT64)
    yield "map-where", model([node("Greater", ["a", "b"], ["c"]), node("Where", ["c", "a", "b"], ["y"])],
                             [("a", (3, 1, 5), FLOAT), ("b", (4, 5), FLOAT)], [("y", FLOAT)], [])
    yield "map-cast", one("Cast", (5, 7), to=INT64, out=[INT64])
    yield "transpose", one("Transpose", (3, 40, 5), perm=[2, 0, 1])
    yield "transpose-planes", one("Transpose", (1, 3, 20, 20), perm=[0, 2, 3, 1])
    yield "transpose-4", one("Transpose", (2, 3, 4, 5), perm=[3, 1, 0, 2])
    yield "transpose-8", one("Transpose", (2, 3, 2, 2, 3, 2, 2, 2), perm=[7, 6, 5, 4, 3, 2, 1, 0])
    yield "transpose-8-double", one("Transpose", (2, 3, 2, 2, 3, 2, 2, 2), perm=[7, 6, 5, 4, 3, 2, 1, 0], dtype=DOUBLE)
    yield "transpose-long", one("Transpose", (3, 4, 5), perm=[2, 1, 0], dtype=INT64)
    yield "pad", one("Pad", (3, 5), ints(1, 2, 0, 1))
    yield "slice", one("Slice", (6, 9), ints(1, 1), ints(5, 8), ints(0, 1), ints(2, 3))
    yield "concat", two("Concat", (3, 4), (3, 5), axis=1)
    yield "gather", model([node("Gather", ["t", "x"], ["y"])], [("x", (4,), INT64)], [("y", FLOAT)], [("t", *floats(9, 6))])
    for kind in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceLogSum",
                 "ReduceSumSquare"]:
        for axis in (1, 2):
            yield f"{kind}-{axis}", one(kind, (2, 70, 30), ints(axis))
    for kind in ["ReduceSum", "ReduceMax", "ReduceProd"]:
        yield f"{kind}-int", one(kind, (2, 7, 3), ints(1), dtype=INT64)
        yield f"{kind}-double", one(kind, (2, 7, 3), ints(1), dtype=DOUBLE)
    for kind in ["Softmax", "LogSoftmax"]:
        yield kind, one(kind, (3, 70), axis=1)
        yield f"{kind}-middle", one(kind, (2, 7, 30), axis=1)
    yield "norm", one("LayerNormalization", (4, 30), floats(30), floats(30), axis=-1)
    yield "norm-instance", one("InstanceNormalization", (1, 4, 5, 5), floats(4), floats(4))
    attention = [node("Transpose", ["k"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["q", "t"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1),
                 node("MatMul", ["p", "v"], ["y"])]
    yield "attention", model(attention, [(name, (1, 2, 20, 8), FLOAT) for name in "qkv"], [("y", FLOAT)], [])
    yield "lstm", recurrent("LSTM", 4)
    yield "lstm-relu", recurrent("LSTM", 4, clip=3.0)
    yield "gru", recurrent("GRU", 3)
    yield "gru-reset", recurrent("GRU", 3, linear_before_reset=1)
    yield "arg-max", one("ArgMax", (3, 9, 4), axis=1, out=[INT64])
    yield "arg-min-int", one("ArgMin", (3, 9, 4), axis=1, dtype=INT64, out=[INT64])
    yield "top-k", one("TopK", (3, 20), ints(4), out=[FLOAT, INT64])
    yield "top-k-int", one("TopK", (3, 20), ints(4), out=[INT64, INT64], dtype=INT64)
    yield "gather-nd", model([node("GatherND", ["t", "x"], ["y"])], [("x", (3, 2), INT64)], [("y", FLOAT)], [("t", *floats(9, 6, 4))])
    yield "scatter-nd", model([node("ScatterND", ["t", "i", "x"], ["y"])], [("t", (9, 6), FLOAT), ("i", (3, 1), INT64), ("x", (3, 6), FLOAT)],
                              [("y", FLOAT)], [])
    yield "scatter-elements", model([node("ScatterElements", ["t", "i", "x"], ["y"], axis=1, reduction="add")],
                                    [("t", (5, 6), FLOAT), ("i", (5, 2), INT64), ("x", (5, 2), FLOAT)], [("y", FLOAT)], [])
    yield "resize", one("Resize", (1, 2, 5, 5), None, ((4,), [1.0, 1.0, 1.7, 2.0], FLOAT), mode="linear")
    yield "resize-cubic", one("Resize", (1, 2, 5, 5), None, ((4,), [1.0, 1.0, 1.7, 2.0], FLOAT), mode="cubic")
    for dtype in (FLOAT, INT64, DOUBLE):
        yield f"cumulate-{dtype}", one("CumSum", (4, 9), ((), [1], INT64), dtype=dtype)
    for mode in ("linear", "nearest", "cubic"):
        yield f"grid-sample-{mode}", two("GridSample", (1, 3, 6, 6), (1, 4, 5, 2), mode=mode, padding_mode="reflection")
    yield "roi-align", model([node("RoiAlign", ["x", "r", "b"], ["y"], output_height=2, output_width=2, sampling_ratio=2)],
                             [("x", (1, 3, 8, 8), FLOAT), ("r", (2, 4), FLOAT), ("b", (2,), INT64)], [("y", FLOAT)], [])
    yield "non-zero", one("NonZero", (3, 20), out=[INT64])
    for centred in (0, 1):
        yield f"non-max-suppression-{centred}", model([node("NonMaxSuppression", ["b", "s", "n"], ["y"], center_point_box=centred)],
                                                      [("b", (1, 9, 4), FLOAT), ("s", (1, 2, 9), FLOAT)], [("y", INT64)], [("n", *ints(4))])


def compile_all():
    IMAGES.mkdir(parents=True, exist_ok=True)
    for old in IMAGES.glob("*"):
        old.unlink()
    window = one("Conv", (1, 4, 8), floats(5, 4, 3), pads=[2, 0])
    for options, name, data in [([], *m) for m in models()] + [(["--stream"], "stream", window)]:
        path = IMAGES / f"{name}.onnx"
        path.write_bytes(data)
        subprocess.run([TARGET / "release/kiln", "compile", path, "-o", path.with_suffix(".kiln"), *options],
                       check=True, stdout=subprocess.DEVNULL)
        path.unlink()


def measure():
    """For the number of each kind, the most bytes, and the image whose op took them."""
    subprocess.run([HERE / "cargo", "m4", "build", "--quiet", "--profile", "small", "--bin", "stacks"], check=True)
    done = subprocess.run([HERE / "qemu", "mps2-an386", ELF], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{ELF} did not end well:\n{done.stdout[-300:]}{done.stderr}")
    most, image = {}, None
    for words in map(str.split, done.stdout.splitlines()):
        if words[0] == "image":
            image = words[1]
        elif words[0] == "op":
            most[int(words[1])] = max(most.get(int(words[1]), (0, "")), (int(words[2]), image))
    return most


def kinds():
    """The Rust name of each kind by its number, without the one that a device can't have."""
    source = (ROOT / "src/program/mod.rs").read_text()
    found = re.findall(r"^    (\w+) = (\d+),$", source[source.index("pub enum OpKind"):source.index("impl OpKind")], re.M)
    return {int(number): name for name, number in found if name != "Extern"}


def write(most, names):
    toolchain = subprocess.run([ROOT / "targets/setup", "--toolchain", "thumbv7em-none-eabihf"], check=True, capture_output=True, text=True)
    version = subprocess.run(["rustc", f"+{toolchain.stdout.strip()}", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    rows = "".join(f"    (OpKind::{name}, {-(-most[number][0] // ROUND) * ROUND}),\n" for number, name in names.items())
    TABLE.write_text(f"""//! What each kind of op took of the stack, as `targets/cortex-m/stacks.py` measured it by painting, and wrote it here.
//!
//! The most that any op of a kind took, in the variants that go different ways through its kernels, with its general entry and all
//! activations, and the session's loop over ops; rounded up. Its caller's stack and interrupts are not in it.

use crate::program::OpKind;

/// The core, the profile of the build and its compiler.
pub const MEASURED_ON: &str = "Cortex-M4F, profile small, rustc {version}";

/// Bytes, of the kinds that a device can have.
const BYTES: [(OpKind, u64); {len(names)}] = [
{rows}];

/// Bytes that a run takes whose largest op is of this kind; none of an extern op, which is the host's.
pub fn of(kind: OpKind) -> Option<u64> {{
    BYTES.iter().find(|(of, _)| *of == kind).map(|&(_, bytes)| bytes)
}}
""")


def main(arguments):
    compile_all()
    most, names = measure(), kinds()
    missing = [name for number, name in names.items() if number not in most]
    if missing:
        sys.exit(f"no model has an op of the kind {', '.join(missing)}")
    for number, name in names.items():
        print(f"{name:10} {most[number][0]:6}  {most[number][1]}")
    if arguments != ["check"]:
        return write(most, names)
    told = {name: int(bytes) for name, bytes in re.findall(r"OpKind::(\w+), (\d+)\)", TABLE.read_text())}
    more = [f"{name} takes {most[number][0]} bytes" for number, name in names.items() if most[number][0] > told.get(name, 0)]
    if more:
        sys.exit(f"FAILED: {', '.join(more)}: more than {TABLE.name} says; run targets/cortex-m/stacks.py")
    print(f"stacks: {len(names)} kinds of ops take no more than certificates say")


if __name__ == "__main__":
    main(sys.argv[1:])
