"""MLPerf Tiny's networks under QEMU: answers against the references, and what one inference costs against its bounds.

    networks.py BOARD BINARIES REFERENCES NAME...      Standard library, QEMU and binutils only.

Prints a row per network; exits with 1 if an answer is off by more than 1e-4 of the largest, or, on the board m4, a bound is
exceeded, or the stack that the image's certificate gives. Instructions and sizes are exact and repeat; a bound stands a little above what was last measured, so that a change
that costs something is seen. Cycles are the estimate of ../count/mix.py, for an M4.
"""
import json
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

from compare import only_array

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-4
# Bytes of arena, of stack (in all, the harness among it; to open a session; to run it), of code with constants (the harness among it,
# not the board's vectors); instructions; cycles.
BOUNDS = {
    "ad": (3_136, 1_040, 420, 670, 9_200, 610_000, 910_000),
    "ic": (131_200, 1_380, 690, 1_012, 17_900, 28_400_000, 37_300_000),
    "kws": (64_064, 1_380, 690, 1_012, 20_480, 6_650_000, 8_900_000),
    "vww": (221_248, 1_380, 690, 1_012, 20_480, 18_900_000, 25_500_000),
}
COLUMNS = ["arena", "stack", "opening", "running", "code", "instructions", "cycles"]


def sections(elf):
    listing = subprocess.run(["arm-none-eabi-size", "-A", elf], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[0].startswith(".")}


def machine(board):
    """The board's QEMU machine."""
    rows = [line.split() for line in (HERE / "boards/table").read_text().splitlines()]
    return next(row[3] for row in rows if row[0] == board)


def measure(board, elf):
    """The answer, and a figure for each of the columns."""
    with tempfile.TemporaryDirectory() as folder:
        log = subprocess.run([HERE / "../count/count", machine(board), elf, f"{folder}/regions"], capture_output=True, text=True)
    said = {words[0]: words[1:] for line in log.stdout.splitlines() if (words := line.split())}
    costs = re.search(r"^instructions (\d+), estimated M4 cycles (\d+)", log.stdout, re.M)
    if log.returncode != 0 or "output" not in said or not costs:
        raise SystemExit(f"{elf} did not end well:\n{log.stdout}{log.stderr}")
    answer = [struct.unpack(">f", bytes.fromhex(bits))[0] for bits in said["output"]]
    size = sections(elf)
    code = sum(size.get(name, 0) for name in (".text", ".rodata", ".data"))
    return answer, [size[".bss"], *map(int, said["stack"]), code, int(costs[1]), int(costs[2])]


def main(board, binaries, references, *names):
    passed = failed = 0
    columns = COLUMNS if board == "m4" else COLUMNS[:-1]  # the estimate of cycles is for an M4
    print(f"{board:8} {'difference':>10} " + " ".join(f"{name:>13}" for name in columns))
    for name in names:
        answer, figures = measure(board, pathlib.Path(binaries) / name)
        kind, data = only_array(pathlib.Path(references) / f"{name}.out.npz")
        want = [x for x, in struct.iter_unpack("<f", data)]
        scale = max(map(abs, want))
        worst = max(map(lambda a, b: abs(a - b) / scale, answer, want), default=float("inf"))
        print(f"{name:8} {worst:10.1e} " + " ".join(f"{figure:13,}" for _, figure in zip(columns, figures)))
        # written so that a NaN fails
        checks = [(kind == "<f4" and len(answer) == len(want) and worst <= TOLERANCE, f"the answer is off by {worst}")]
        checks += [(figure <= bound, f"{column} {figure:,}, more than {bound:,}")
                   for column, figure, bound in zip(COLUMNS, figures, BOUNDS[name] if board == "m4" else [])]
        if board == "m4":
            certified = json.loads((HERE / f"images/{name}.json").read_text())["programs"][0]["stack_bytes"]
            running = figures[COLUMNS.index("running")]
            checks.append((running <= certified, f"a run takes {running:,} bytes of stack, its certificate says {certified:,} at most"))
        for good, what in checks:
            passed, failed = passed + good, failed + (not good)
            if not good:
                print(f"FAILED: {name}: {what}")
    print(f"{board}: networks: {passed} passed, {failed} failed")
    return failed == 0 and passed > 0


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
