#!/usr/bin/env python3
"""Compares Kiln with other runtimes: the same models and inputs on the same cores, answers checked first.

    benches/peers/setup                                     # once: the runtimes, into target/peers
    P=target/peers/venv/bin/python
    $P benches/peers/compare.py                             # the shipped models, with target/release/kiln
    $P benches/peers/compare.py --threads 1,2 --json all.json --table all.md --plot all.svg
    $P benches/peers/compare.py some/folder --names 'resnet*,vgg11' --peers onnxruntime,mnn --starts 0
    $P benches/peers/compare.py --peer 'old=old/kiln bench {model} --inputs {inputs} --threads {threads} --serve {out}'

A folder holds NAME.onnx, NAME.in.npz (keys: names of inputs, in the model's order) and, if right answers are known,
NAME.out.npz (names of outputs). Without these, onnxruntime's answer is the right one, and without onnxruntime Kiln's.

Printed is a runtime's time over Kiln's: taken within each round, then the median over rounds, its quartiles in brackets.
Above 1, Kiln is faster. README.md beside this file says how it is measured, and what is fair in it.
"""

import argparse
import datetime
import fnmatch
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

import peers
import report


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(word) for word in text.split(",")]
    parser.add_argument("folder", nargs="?", type=pathlib.Path, help="of models; absent: those that Kiln ships")
    parser.add_argument("--names", default="*", help="of models: patterns, with commas between")
    parser.add_argument("--kiln", type=pathlib.Path, default=peers.ROOT / "target/release/kiln", help="the program")
    parser.add_argument("--isa", help="what Kiln is held to; avx2 also hides AVX-512 from the others, other sets do not")
    parser.add_argument("--peers", default=",".join(peers.known()), metavar="NAMES",
                        help="with commas between; absent: %(default)s")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="any other program that serves")
    parser.add_argument("--threads", type=numbers, default=[1], metavar="N,...",
                        help="of each runtime; with commas: one after the other")
    parser.add_argument("--rounds", type=int, default=15, help="0: no times of runs")
    parser.add_argument("--ms", type=float, default=40, help="of runs, per turn")
    parser.add_argument("--starts", type=int, default=3,
                        help="fresh processes of each, with the first number of threads, for what opening costs; 0: none")
    parser.add_argument("--flush", action="store_true", help="the others take subnormal numbers for zero (x86-64)")
    parser.add_argument("--cpus", type=numbers, metavar="N,...", help="the cores that all run on; absent: the last ones")
    parser.add_argument("--tolerance", type=float, default=2e-3,
                        help="allowed difference, as a share of an output's largest value")
    parser.add_argument("--limit", type=float, default=180, help="seconds to wait for an answer or a conversion")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all figures")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE.md", help="tables in Markdown")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.svg", help="best peer's time over Kiln's")
    options = parser.parse_args()
    options.peers = [name.lower() for name in options.peers.split(",") if name]
    if unknown := [name for name in options.peers if name not in peers.known()]:
        parser.error(f"no peer {', '.join(unknown)}: there are {', '.join(peers.known())}; --peer adds others")
    if not all("=" in other for other in options.peer):
        parser.error("--peer wants NAME=COMMAND")
    if options.isa == "avx2" and not peers.hider().with_suffix(".txt").exists():
        parser.error(f"--isa avx2: there is no {peers.hider()}, by which the others are held to it too (benches/peers/setup)")
    if options.flush and platform.machine() not in ("x86_64", "AMD64"):
        parser.error("--flush is for x86-64")
    if not options.kiln.exists():
        parser.error(f"there is no {options.kiln}: build it (cargo build --release) or say where it is (--kiln)")
    cores = sorted(os.sched_getaffinity(0))
    if max(options.threads) > len(options.cpus or cores):
        parser.error(f"--threads {max(options.threads)} on {len(options.cpus or cores)} cores")
    return options


def models(options) -> list:
    """Those that are asked for, with inputs."""
    from measure import Model
    if options.folder:
        found = [Model(file.stem, file, file.with_suffix(".in.npz"), file.with_suffix(".out.npz"))
                 for file in sorted(options.folder.glob("*.onnx"))]
    else:
        data = peers.ROOT / "tests/data"
        found = [Model(file.parent.name, file, data / f"{file.parent.name}.in.npz", data / f"{file.parent.name}.out.npz")
                 for file in sorted(peers.ROOT.glob("models/*/model.onnx"))]
        found += [Model(f"mlperf-tiny-{file.stem}", file, file.with_suffix(".in.npz"), file.with_suffix(".out.npz"))
                  for file in sorted(peers.ROOT.glob("models/mlperf-tiny/*.onnx"))]
    for model in found:
        model.expected = model.expected if model.expected.exists() else None
    patterns = options.names.split(",")
    return [model for model in found if model.inputs.exists() and any(fnmatch.fnmatch(model.name, p) for p in patterns)]


def machine(options, first) -> dict:
    """What the figures were taken on."""
    cpu = platform.processor() or platform.machine()
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        found = {key: re.search(rf"^{key}\s*: (.*)$", text, re.M) for key in ("model name", "cpu family", "model")}
        words = {key: match[1] for key, match in found.items() if match}
        if "model name" in words:
            cpu = f"{words['model name']} (family {words['cpu family']}, model {words['model']})"
    except (OSError, KeyError):
        pass
    asked = [options.kiln, "bench", first.file, "--inputs", first.inputs, "--seconds", "0.01", "--json"]
    done = subprocess.run(asked + (["--isa", options.isa] if options.isa else []), capture_output=True, text=True)
    isa = json.loads(done.stdout)["isa"] if done.returncode == 0 else options.isa or "?"
    return {"cpu": cpu, "isa": isa, "date": datetime.date.today().isoformat()}


def pin(options, threads: int):
    """Processes that are started from now on run on these cores."""
    os.sched_setaffinity(0, (options.cpus or options.cores)[-threads:])


def show(row: dict, names: list[str]):
    """A line of figures, and below it who is not in it."""
    if "kiln" in row["runs"]:
        runs = [row["runs"].get(name) for name in names]
        cells = [f"{run['ratio']:.2f} ({run['low']:.2f}-{run['high']:.2f})" if run else "-" for run in runs]
        time = report.duration(row["runs"]["kiln"]["median_ns"])
        print(f"{row['name']:28}{time:>10}" + "".join(f" {cell:>17}" for cell in cells))
    else:
        print(row["name"])
    for name, facts in row["load"].items():
        known = {key: [value for value in values if value is not None] for key, values in facts.items()}
        cells = [f"{of(known[key]):8.1f} {unit}" if known[key] else "" for (key, (_, of)), unit in zip(report.LOADS.items(), (
            "ms to open", "ms from the start", "MB"))]
        print(f"  {name:26}" + "".join(cells))
    for name, why in row["failed"].items():
        print(f"  {name}: {why}")
    sys.stdout.flush()


def main() -> int:
    options = arguments()
    try:
        import measure
    except ImportError as why:
        print(f"{why}: benches/peers/setup installs it, into {peers.HOME}/venv", file=sys.stderr)
        return 2
    options.cores = sorted(os.sched_getaffinity(0))
    others = {}
    for name in options.peers:
        peer = peers.known()[name]
        if isinstance(peer, str):
            print(f"{name} is left out, {peer}", flush=True)
        else:
            others[name] = peer
    for other in options.peer:
        name, command = other.split("=", 1)
        others[name] = peers.Peer(name, command)
    if options.isa == "avx2":
        others = {name: peers.without_avx512(peer) for name, peer in others.items()}
    chosen = models(options)
    if not chosen:
        print("no model with inputs there (NAME.onnx, NAME.in.npz)", file=sys.stderr)
        return 2
    settings = {key: getattr(options, key) for key in ("rounds", "ms", "starts", "tolerance", "isa", "flush")}
    versions = {name: version for name, version in peers.versions().items() if name in others}
    whole = {"machine": machine(options, chosen[0]), "versions": versions, "settings": settings, "models": []}
    kiln = peers.kiln(options.isa)
    for threads in options.threads:
        pin(options, threads)
        head = f"{threads} thread{'s'[:threads > 1]}"
        print(f"{head:28}{'kiln':>10}" + "".join(f" {name:>17}" for name in others), flush=True)
        for model in chosen:
            with tempfile.TemporaryDirectory() as folder:
                row = measure.measure(model, kiln, others, threads, options, pathlib.Path(folder))
            whole["models"].append(row)
            show(row, list(others))
            if options.json:
                options.json.write_text(json.dumps(whole, indent=1) + "\n")
        options.starts = 0
    print("\n".join(report.summary(whole["models"])))
    report.write(whole, options.table, options.plot)
    return int(any("kiln" in row["failed"] for row in whole["models"]))


if __name__ == "__main__":
    sys.exit(main())
