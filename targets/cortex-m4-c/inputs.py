"""inputs.py INPUT.npz: the one array of floats in a file, as C. Standard library only."""
import struct
import sys

sys.path.insert(0, f"{sys.path[0]}/../cortex-m")
from compare import only_array

kind, data = only_array(sys.argv[1])
assert kind == "<f4"
numbers = [float(x).hex() + "f" for x, in struct.iter_unpack("<f", data)]
print(f"extern const float input[];\nconst float input[{len(numbers)}] = {{")
for i in range(0, len(numbers), 5):
    print(",".join(numbers[i:i + 5]) + ",")
print("};")
