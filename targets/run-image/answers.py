"""Runs compiled images by `run-image`, under an emulator, and compares the answers. Standard library only.

    answers.py IMAGE IN.npz OUT.npz TOLERANCE COMMAND...

COMMAND is run-image with what starts it (`qemu-aarch64 -cpu cortex-a53 .../run-image`), perhaps an instruction set after a `--`.
Exit status 1 if an output differs by more than TOLERANCE, a share of its largest magnitude, or COMMAND fails.
"""
import ast
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

CODES = {"F32": ("f", 4), "F64": ("d", 8), "I8": ("b", 1), "I16": ("h", 2), "I32": ("i", 4), "I64": ("q", 8),
         "U8": ("B", 1), "U16": ("H", 2), "U32": ("I", 4), "U64": ("Q", 8), "Bool": ("?", 1)}
DTYPES = {"<f4": "F32", "<f8": "F64", "|i1": "I8", "<i2": "I16", "<i4": "I32", "<i8": "I64",
          "|u1": "U8", "<u2": "U16", "<u4": "U32", "<u8": "U64", "|b1": "Bool"}


def read_npz(path):
    """Arrays of a .npz file by name: (shape, element type as Kiln calls it, bytes)."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            start = 12 if data[6] > 1 else 10
            length = struct.unpack_from("<I" if start == 12 else "<H", data, 8)[0]
            header = ast.literal_eval(data[start:start + length].decode())
            if header["fortran_order"]:
                raise SystemExit(f"{path}: {name} is in Fortran order")
            arrays[name.removesuffix(".npy")] = (header["shape"], DTYPES[header["descr"]], data[start + length:])
    return arrays


def numbers(dtype, data):
    code, size = CODES[dtype]
    return struct.unpack(f"<{len(data) // size}{code}", data)


def difference(got, want):
    """The largest difference, as a share of the largest magnitude."""
    if len(got) != len(want):
        return float("inf")
    largest = max((abs(w) for w in want), default=0.0) or 1.0
    worst = 0.0
    for g, w in zip(got, want):
        d = abs(g - w) / largest if g != w else 0.0
        worst = d if d > worst or d != d else worst
        if worst != worst:
            return float("inf")
    return worst


def run(image, given, command, isa, folder):
    """Answers of one run by name, and what the program printed."""
    listing = subprocess.run([*command, image], check=True, capture_output=True, text=True).stdout
    tensors = [line.split("\t") for line in listing.splitlines()]
    (folder / "in").write_bytes(b"".join(given[name][2] for kind, name, *_ in tensors if kind == "input"))
    done = subprocess.run([*command, image, folder / "in", folder / "out", *isa], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{image}: {done.stderr.strip() or done.returncode}")
    data, answers = (folder / "out").read_bytes(), {}
    for kind, name, dtype, dims in tensors:
        if kind == "output":
            size = CODES[dtype][1]
            for d in ast.literal_eval(dims):
                size *= d
            answers[name], data = numbers(dtype, data[:size]), data[size:]
    return answers, done.stdout.strip()


def main(image, inputs, expected, tolerance, command, isa):
    with tempfile.TemporaryDirectory() as folder:
        answers, said = run(image, read_npz(inputs), command, isa, pathlib.Path(folder))
    worst = 0.0
    for name, (_, dtype, data) in read_npz(expected).items():
        worst = max(worst, difference(answers[name], numbers(dtype, data)))
    print(f"{pathlib.Path(image).stem}: {said}: largest difference {worst:.1e}{'' if worst <= tolerance else ' FAILED'}")
    return 0 if worst <= tolerance else 1


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    command = sys.argv[5:]
    isa = command[command.index("--") + 1:] if "--" in command else []
    command = command[:command.index("--")] if "--" in command else command
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), command, isa))
