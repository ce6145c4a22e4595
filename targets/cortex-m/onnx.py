"""Writes small ONNX files, with the standard library alone: what `stacks.py` needs of the format."""
import struct

FLOAT, INT64, DOUBLE = 1, 7, 11


def varint(n):
    n &= (1 << 64) - 1
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def number(field, n):
    return varint(field << 3) + varint(n)


def chunk(field, data):
    data = data.encode() if isinstance(data, str) else data
    return varint(field << 3 | 2) + varint(len(data)) + data


def real(field, x):
    return varint(field << 3 | 5) + struct.pack("<f", x)


def attribute(name, value):
    """AttributeProto: of a whole number, a real one, a text, or a list of whole numbers."""
    if isinstance(value, int):
        return chunk(1, name) + number(3, value) + number(20, 2)
    if isinstance(value, float):
        return chunk(1, name) + real(2, value) + number(20, 1)
    if isinstance(value, str):
        return chunk(1, name) + chunk(4, value) + number(20, 3)
    return chunk(1, name) + b"".join(number(8, n) for n in value) + number(20, 7)


def node(kind, inputs, outputs, **attributes):
    data = b"".join(chunk(1, name) for name in inputs) + b"".join(chunk(2, name) for name in outputs) + chunk(4, kind)
    return data + b"".join(chunk(5, attribute(*item)) for item in attributes.items())


def value(name, dims, dtype):
    """ValueInfoProto."""
    shape = b"".join(chunk(1, number(1, d)) for d in dims)
    return chunk(1, name) + chunk(2, chunk(1, number(1, dtype) + chunk(2, shape)))


def tensor(name, dims, data, dtype):
    code = {FLOAT: "f", INT64: "q", DOUBLE: "d"}[dtype]
    return b"".join(number(1, d) for d in dims) + number(2, dtype) + chunk(8, name) + chunk(9, struct.pack(f"<{len(data)}{code}", *data))


def model(nodes, inputs, outputs, constants):
    """Bytes of a file: nodes of `node`; inputs (name, sizes, type), outputs (name, type), constants (name, sizes, data, type)."""
    graph = b"".join(chunk(1, n) for n in nodes) + chunk(2, "graph") + b"".join(chunk(5, tensor(*c)) for c in constants)
    graph += b"".join(chunk(11, value(*v)) for v in inputs) + b"".join(chunk(12, chunk(1, name) + chunk(2, chunk(1, number(1, dtype)))) for name, dtype in outputs)
    return number(1, 8) + chunk(7, graph) + chunk(8, number(2, 18))
