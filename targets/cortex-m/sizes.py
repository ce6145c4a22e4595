"""What each kind of op adds to a firmware, linked alone, on a Cortex-M4F: writes docs/size.md. Standard library, binutils, cargo.

    sizes.py                all kinds
    sizes.py KIND...        prints what these take, writes nothing
    sizes.py core           fails if the core alone takes more than its bound
"""
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ELF = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "cortex-m/thumbv7em-none-eabihf/small/size"


CORE = 6_400  # bytes of the core alone, at most


def kinds():
    """Names of all kinds of ops, in the order of their numbers; without the one that a device can't have."""
    names = re.findall(r'OpKind::\w+ => "(\w+)"', (ROOT / "src/program/mod.rs").read_text())
    special = {"map": ["map", "map_f32"], "gemm": ["gemm", "gemm_row"], "softmax": ["softmax", "softmax_rows"],
               "conv": ["conv", "conv_ungrouped"]}  # src/ops/names.rs
    return [more for name in names if name != "extern" for more in special.get(name, [name])]


def size(ops, *options):
    """Bytes of code and constants of the firmware with these ops."""
    command = [HERE / "cargo", "m4", "build", "--quiet", "--profile", "small", "--bin", "size", *options]
    subprocess.run(command, check=True, env=os.environ | {"KILN_OPS": ops})
    listing = subprocess.run(["arm-none-eabi-size", "-A", ELF], check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return sum(int(row[1]) for row in rows if len(row) == 3 and row[0] in (".text", ".rodata", ".data"))


def main(names):
    nothing = size("none")
    core, texts = size("") - nothing, size("", "--no-default-features") - nothing
    print(f"core alone: {core}, with texts {texts}", flush=True)
    if names == ["core"]:
        sys.exit(None if core <= CORE else f"FAILED: the core alone takes {core:,} bytes, more than {CORE:,}")
    rows = []
    for name in names or kinds():
        alone, clamps = (size(ops) - nothing - core for ops in (name, f"clamps {name}"))
        rows.append((name, alone, clamps))
        print(f"{name:12} {alone:6} {clamps:6}", flush=True)
    if names:
        return
    table = "\n".join(f"| `{name}` | {alone:,} | {clamps:,} |" if clamps < alone else f"| `{name}` | {alone:,} | |" for name, alone, clamps in rows)
    (ROOT / "docs/size.md").write_text(f"""# What an op takes of the flash

Bytes of code and constants on a Cortex-M4F (`thumbv7em-none-eabihf`, profile `small`: opt-level "s", one unit, LTO), written by
`targets/cortex-m/sizes.py`. **The core alone takes {core:,}**: the image's check, the session, the loop over ops, memcpy,
errors without texts (feature `terse`; with them {texts:,}). Each kind of op adds to that, when it is the only one:

| op | bytes | with clamps only |
|---|---|---|
{table}

"With clamps only": `kernels::Clamps`, for an image whose fused activations are all clamps (ReLU, ReLU6), or none: `exp`, `erf` and
the like are not linked then. `map_f32` is the entry for images whose maps all compute in `f32` (`ops::map::f32_entry`), `gemm_row` that for images whose
products all have one row and packed weights (`ops::gemm::row_entry`), `softmax_rows` that for softmax along the last axis
(`ops::reduce::softmax_rows`), `conv_ungrouped` that for convolutions of one group, depthwise ones apart (`ops::conv::ungrouped`). Kinds share
much (epilogues, matrix products, math), so several take less than the sum of theirs. What a firmware adds of its own (start-up,
vectors) is not counted.
""")


if __name__ == "__main__":
    main(sys.argv[1:])
