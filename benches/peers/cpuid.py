#!/usr/bin/env python3
"""benches/peers/cpuid.py FILE-OR-FOLDER...   lists where programs and libraries ask what the CPU can do

A line for each that does: its path, a tab, and the addresses of its CPUID instructions, by objdump's disassembly: what
hide-avx512.c reads."""

import os
import pathlib
import re
import subprocess
import sys


def addresses(file: pathlib.Path) -> list[str]:
    """Of the CPUID instructions of an ELF file."""
    done = subprocess.run(["objdump", "-d", "--no-show-raw-insn", file], capture_output=True, text=True, check=True)
    return re.findall(r"^ *([0-9a-f]+):\s+cpuid *$", done.stdout, re.MULTILINE)


def files(path: pathlib.Path) -> list[pathlib.Path]:
    """The ELF files that it is or holds, each once, without links."""
    inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.is_symlink())
    return [file for file in inside if file.open("rb").read(4) == b"\x7fELF"]


def main(paths: list[str]) -> int:
    if not paths or paths[0].startswith("-"):
        print(__doc__)
        return 2
    for file in (file for path in paths for file in files(pathlib.Path(path))):
        with file.open("rb") as opened:
            if b"\x0f\xa2" not in opened.read():
                continue
        if found := addresses(file):
            print(os.path.realpath(file), " ".join(found), sep="\t")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
