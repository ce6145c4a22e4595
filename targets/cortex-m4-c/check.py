"""check.py LOG REFERENCE.npz: the firmware's answer is within 1e-4 of the reference's. Standard library only."""
import struct
import sys

sys.path.insert(0, f"{sys.path[0]}/../cortex-m")
from compare import only_array

said = {words[0]: words[1:] for line in open(sys.argv[1]) if (words := line.split())}
answer = [struct.unpack(">f", bytes.fromhex(bits))[0] for bits in said["output"]]
kind, data = only_array(sys.argv[2])
want = [x for x, in struct.iter_unpack("<f", data)]
worst = max(abs(a - b) for a, b in zip(answer, want, strict=True))
if not worst <= 1e-4:
    sys.exit(f"cortex-m4-c: FAILED: the answer is off by {worst}")
print(f"cortex-m4-c: answer within {worst:.1e} of the reference's; stack {int(said['stack'][0], 16)} bytes")
