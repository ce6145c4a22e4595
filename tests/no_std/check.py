"""check.py PROGRAM KILN IMAGE: the program's answer to a fixed input has the same bits as the host's scalar path.

The image is that of digits-cnn: one input `image` of 28 x 28 numbers. Standard library only.
"""
import pathlib
import struct
import subprocess
import sys
import zipfile

program, kiln, image = map(pathlib.Path, sys.argv[1:])
numbers = struct.pack("<784f", *((i * 37 % 101) / 50 - 1 for i in range(784)))

header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 28, 28), }"
header += b" " * (-(len(header) + 11) % 64) + b"\n"
given, output = image.with_name("input.npy"), image.with_name("output.npz")
given.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + numbers)
subprocess.run([kiln, "run", image, "--isa", "scalar", "--input", f"image={given}", "--output", output], check=True,
               stdout=subprocess.DEVNULL)
data = zipfile.ZipFile(output).read("logits.npy")
want = data[10 + struct.unpack_from("<H", data, 8)[0]:]

got = subprocess.run([program, image], input=numbers, stdout=subprocess.PIPE, check=True).stdout
if len(want) != 40 or got != want:
    sys.exit(f"no_std: FAILED: the program says {got.hex()}, the host {want.hex()}")
