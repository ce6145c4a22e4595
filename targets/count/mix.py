"""mix.py ELF REGIONS: instruction mix, busiest functions and a rough Cortex-M4 cycle estimate of the last counted region.

The estimate assumes no wait states and: integer, multiply, DSP, VADD and VMUL 1; load 2, or 1 right behind another load;
LDRD 3; LDM and VLDM 1 + N; branch taken 3; VFMA and VMLA 3; VDIV and VSQRT 14; integer division 7. It ignores stalls on
results. Nothing was timed on silicon.
"""
import collections
import re
import subprocess
import sys

RULES = [  # class, cycles, pattern of the mnemonic without its width suffix; the first match counts
    ("ldm/stm", None, r"(ldm|stm|push|pop|vldm|vstm|vpush|vpop)"),
    ("load/store", 3, r"(ldrd|strd)"),
    ("load", 2, r"v?ldr"),
    ("store", 1, r"v?str"),
    ("div", 7, r"[su]div"),
    ("fma", 3, r"v(mla|mls|fma|fms|nmla|nmls|fnma)"),
    ("vdiv", 14, r"(vdiv|vsqrt)"),
    ("fp", 1, r"v"),
    ("branch", 3, r"(bl|blx|bx|b|tbb|tbh)$"),
    ("branch", None, r"(b(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|hs|lo)|cbz|cbnz)$"),
    ("mul", 1, r"(smla|smul|mla|mul|mls|umull|smull|umlal|smmul|smmla)"),
    ("alu", 1, r""),
]


def registers(operands):
    """Registers in the braces of a load or store of many."""
    count = 0
    for part in operands.partition("{")[2].partition("}")[0].split(","):
        ends = re.findall(r"[rsd](\d+)", part)
        count += int(ends[1]) - int(ends[0]) + 1 if len(ends) == 2 else 1
    return count


def disassembly(elf):
    """(address, mnemonic, operands, function) of every instruction."""
    listing = subprocess.run(["arm-none-eabi-objdump", "-d", "--no-show-raw-insn", elf], capture_output=True, text=True, check=True)
    function, instructions = "?", []
    for line in listing.stdout.splitlines():
        if label := re.match(r"^[0-9a-f]{8} <(.*)>:", line):
            function = label[1]
        elif instruction := re.match(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            instructions.append((int(instruction[1], 16), instruction[2].split(".")[0], instruction[3], function))
    return instructions


def main(elf, regions):
    counts = {}
    for line in open(regions):
        if not line.startswith("#"):
            address, count = line.split()
            counts[int(address, 16)] = int(count)
    by_class, by_function, cycles, previous = collections.Counter(), collections.Counter(), 0, ""
    instructions = disassembly(elf)
    for i, (address, mnemonic, operands, function) in enumerate(instructions):
        count = counts.get(address, 0)
        if not count:
            continue
        name, each, _ = next(rule for rule in RULES if re.match(rule[2], mnemonic))
        if name == "ldm/stm":
            each = 1 + registers(operands) + 2 * ("pc" in operands)
        elif each is None:  # a conditional branch: taken as often as what follows was not reached
            following = counts.get(instructions[i + 1][0], 0) if i + 1 < len(instructions) else 0
            each = 1 + 2 * max(0, count - following) / count
        elif name == "load" and previous == "load":
            each = 1
        previous = name
        by_class[name] += count
        by_function[function] += count
        cycles += each * count
    total = sum(by_class.values())
    print(f"instructions {total}, estimated M4 cycles {int(cycles)}")
    print("  mix: " + ", ".join(f"{name} {n / total:.1%}" for name, n in by_class.most_common()))
    for function, n in by_function.most_common(8):
        print(f"  {n / total:6.1%} {n:>12} {function[:100]}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
