"""answers.py PROGRAM KILN ISA IMAGES DATA: what the C program answers on the images of the shipped models.

It must have the same bits as `kiln run`, the Rust API: with the ops named one by one on the instruction set that such ops run
on, ISA; with all ops on the CPU's best. Only digits-cnn may differ by rounding: the Rust API of a host transforms the weights
of 3x3 convolutions (Winograd), for which the core has no memory. Standard library only.
"""
import ast
import pathlib
import struct
import subprocess
import sys
import zipfile

program, kiln, isa, images, data = sys.argv[1:]
images, data = pathlib.Path(images), pathlib.Path(data)
work = images / "answers"
work.mkdir(exist_ok=True)


def arrays(path):
    """Names and bytes of an npz file's arrays."""
    found = {}
    for name in zipfile.ZipFile(path).namelist():
        file = zipfile.ZipFile(path).read(name)
        start = 10 + struct.unpack_from("<H", file, 8)[0]
        assert not ast.literal_eval(file[10:start].decode())["fortran_order"]
        found[name.removesuffix(".npy")] = file[start:]
    return found


def by_kiln(image, given, *options):
    output = work / "rust.npz"
    subprocess.run([kiln, "run", image, "--inputs", given, "--output", output, *options], check=True,
                   stdout=subprocess.DEVNULL)
    return b"".join(arrays(output).values())


def by_c(image, given, ops):
    (work / "in").write_bytes(b"".join(arrays(given).values()) * 2)  # two runs of one session
    subprocess.run([program, image, ops, work / "in", work / "out"], check=True)
    out = (work / "out").read_bytes()
    first, second = out[:len(out) // 2], out[len(out) // 2:]
    if first != second or not out:
        sys.exit(f"answers: FAILED: {image}: the second run answers otherwise than the first")
    return first


passed = 0
for image in sorted(images.glob("*.kiln")):
    given = data / f"{image.stem}.in.npz"
    if not given.exists():
        continue
    for ops, options in ("named", ["--isa", isa]), ("all", []):
        got, want = by_c(image, given, ops), by_kiln(image, given, *options)
        numbers = [struct.unpack(f"<{len(b) // 4}f", b) for b in (got, want)]
        largest = max(abs(a - b) for a, b in zip(*numbers, strict=True))
        if not largest <= (1e-5 if image.stem == "digits-cnn" else 0) or (largest == 0 and got != want):
            sys.exit(f"answers: FAILED: {image}, {ops} ops: differs by {largest}")
        print(f"answers: {image.stem}, {ops} ops: " + (f"differs by {largest:.1e} at most" if largest else "the same bits"))
        passed += 1
if passed == 0:
    sys.exit("answers: FAILED: no images to look at")
print(f"answers: {passed} passed")
