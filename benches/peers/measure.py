"""Right answers first; then times, in rounds; then what opening costs, in fresh processes."""

import pathlib
import re
import shlex
import statistics
import subprocess
import time
import urllib.parse
from dataclasses import dataclass

import numpy as np

import peers
from served import Gone, Served


@dataclass
class Model:
    """A file, its inputs, and right outputs where they are known."""
    name: str
    file: pathlib.Path
    inputs: pathlib.Path
    expected: pathlib.Path | None


def error(got: list, want: list, step: float) -> float:
    """Largest difference, as a share of the largest magnitude of its output; infinite where sizes or what is no number
    differ. Outputs of 8 bits may be one step off by rounding: that counts as `step`."""
    if [a.size for a in got] != [a.size for a in want]:
        return float("inf")
    worst = 0.0
    for a, b in zip(got, want):
        a, whole = np.ravel(a).astype(np.float64), b.dtype.itemsize == 1 and b.dtype.kind in "iu"
        b = np.ravel(b).astype(np.float64)
        with np.errstate(invalid="ignore"):
            off = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b)).max(initial=0.0)
        largest = np.abs(b[np.isfinite(b)]).max(initial=0.0)
        share = off * step if whole else off / max(largest, 1e-30)
        worst = max(worst, float(share) if np.isfinite(share) else float("inf"))
    return worst


def expected(model: Model, names: list[str]) -> list | None:
    """The outputs that are known, in the order of `names` where they bear these."""
    if model.expected is None:
        return None
    with np.load(model.expected) as arrays:
        by_name = {urllib.parse.unquote(key): arrays[key] for key in arrays.files}
    return [by_name[name] for name in names] if set(names) <= set(by_name) else list(by_name.values())


class Trial:
    """A model with all runtimes alive whose answers are right."""

    def __init__(self, model: Model, kiln: peers.Peer, others: dict, threads: int, options, folder: pathlib.Path):
        self.model, self.threads, self.options, self.folder = model, threads, options, folder
        self.names, self.alive, self.gone, self.errors, self.used = [], {}, {}, {}, {}
        with np.load(model.inputs) as arrays:
            self.inputs = {key: arrays[key] for key in arrays.files}
        try:
            self.alive["kiln"] = self.start(kiln, kiln.ways[0])
        except Gone as why:
            raise Gone(f"kiln: {why}") from None
        self.names = [urllib.parse.unquote(name) for name in self.alive["kiln"].names]
        self.want, self.judge = expected(model, self.names), "the expected one"
        for name, peer in others.items():
            self.add(name, peer)
        if self.want is None:
            self.want, self.judge = self.alive["kiln"].outputs, "Kiln's"
        try:
            self.check("kiln")
        except Gone as why:
            self.close()
            raise Gone(f"kiln: {why}") from None

    def command(self, peer: peers.Peer, model: pathlib.Path | str, out: pathlib.Path, converted: object) -> str:
        fields = {"kiln": self.options.kiln, "model": model, "inputs": self.model.inputs, "out": out, "threads": self.threads,
                  "converted": converted}
        return peer.command.format(**{key: shlex.quote(str(value)) for key, value in fields.items()})

    def start(self, peer: peers.Peer, way) -> Served:
        try:
            converted = way(self.model.file, self.inputs, self.options.limit)
        except (ValueError, OSError) as why:
            raise Gone(str(why)) from None
        out = self.folder / peer.name
        command = self.command(peer, self.model.file, out, converted)
        served = Served(command, out, self.names, self.threads, self.options.limit, self.options.flush)
        self.used[peer.name] = (command, out)
        return served

    def add(self, name: str, peer: peers.Peer):
        """Starts it, by the first way that gives right answers."""
        if peer.most_threads < self.threads:
            self.gone[name] = f"it has no more than {peer.most_threads} thread{'s'[:peer.most_threads > 1]}"
            return
        for way in peer.ways:
            try:
                self.alive[name] = self.start(peer, way)
                if self.want is None:  # nothing is known: the first peer's answer is what Kiln's is held against
                    self.want, self.judge = self.alive[name].outputs, f"{name}'s"
                self.check(name)
                self.gone.pop(name, None)
                return
            except Gone as why:
                self.gone.setdefault(name, str(why))

    def check(self, name: str):
        # One step of an 8-bit output counts as the whole tolerance: two are too many.
        worst = error(self.alive[name].outputs, self.want, self.options.tolerance)
        self.errors[name] = worst
        if not worst <= self.options.tolerance:
            self.alive.pop(name).close()
            by = f"by {worst:.2g} of the largest value" if worst < float("inf") else "in sizes, or in what is no number"
            raise Gone(f"its answer differs from {self.judge} {by}")

    def close(self):
        for served in self.alive.values():
            served.close()

    def rounds(self) -> tuple[list[dict], dict]:
        """Median nanoseconds of each, per round; and the least of all runs."""
        counts, least, found = {}, {}, []
        for name in list(self.alive):
            once = statistics.median((self.turn(name, 5) or [0])[1:] or [0])
            counts[name] = min(max(round(self.options.ms * 1e6 / max(once, 1)), 1), 100_000) + 1
        for i in range(self.options.rounds):
            names = list(self.alive)
            first = i % len(names)
            found.append({})
            for name in names[first:] + names[:first]:
                if self.threads > 1:
                    time.sleep(0.1)  # idle threads of some runtimes spin for tens of milliseconds
                if times := self.turn(name, counts[name]):
                    # The first run finds caches that another one left.
                    found[-1][name] = statistics.median(times[1:])
                    least[name] = min(least.get(name, times[1]), *times[1:])
        return [{name: time for name, time in r.items() if name in self.alive} for r in found], least

    def turn(self, name: str, runs: int) -> list[int]:
        """Times of a runtime; it is out if it ends, unless it is Kiln."""
        try:
            return self.alive[name].run(runs)
        except Gone as why:
            if name == "kiln":
                raise Gone(f"kiln: while it ran: {why}") from None
            self.gone[name] = f"while it ran: {why}"
            self.alive.pop(name)
            return []

    def loads(self) -> dict:
        """What opening costs, for each: lists over fresh processes, which take turns, one alive at a time."""
        contenders = {name: command for name, (command, _) in self.used.items() if name in self.alive}
        plain, out = self.used["kiln"]
        contenders["kiln --lean"] = f"{plain} --lean"
        image = self.folder / "model.kiln"
        try:
            compile_image(self.options.kiln, self.model.file, image, self.inputs)
            of_image = self.command(peers.kiln(self.options.isa), image, out, "")
            contenders |= {"kiln, image": of_image, "kiln, image --lean": f"{of_image} --lean"}
        except Gone as why:
            self.gone["kiln, image"] = str(why)
        found = {name: {"start_ms": [], "open_ms": [], "added_mb": []} for name in contenders}
        for i in range(self.options.starts):
            for name, command in contenders.items():
                where = out if name.startswith("kiln") else self.used[name][1]
                try:
                    served = Served(command, where, self.names, self.threads, self.options.limit, self.options.flush)
                    served.run(1)  # what a second run adds in memory is kept for those that follow
                except Gone as why:
                    self.gone[f"{name}, started again"] = str(why)
                    continue
                facts = {"start_ms": served.start_ms, "open_ms": served.open_ms, "added_mb": served.added_mb()}
                served.close()
                for key, values in found[name].items():
                    values.append(facts[key])
        return {name: facts for name, facts in found.items() if facts["start_ms"]}


def compile_image(kiln: pathlib.Path, model: pathlib.Path, image: pathlib.Path, inputs: dict):
    """`kiln compile`, with the sizes that it asks for taken from the inputs."""
    sizes = []
    for _ in range(8):
        done = subprocess.run([kiln, "compile", model, "-o", image, *sizes], capture_output=True, text=True)
        if done.returncode == 0:
            return
        said = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        asked = re.search(r'axis (\d+) of the input "(.+?)" is open: say what (\S+) is', said[0])
        if not asked or asked[2] not in inputs:
            break
        sizes += ["--set", f"{asked[3]}={inputs[asked[2]].shape[int(asked[1])]}"]
    raise Gone(said[0][-200:])


def stolen() -> float:
    """Seconds that the host took from this machine's cores since it started."""
    with open("/proc/stat") as file:
        words = file.readline().split()
    return int(words[8]) / 100 if len(words) > 8 else 0.0


def judge(rounds: list[dict], least: dict) -> dict:
    """From rounds to a runtime's figures: its time, and its ratio to Kiln's within a round, as quartiles."""
    figures = {}
    for name in least:
        times = [r[name] for r in rounds]
        figure = {"median_ns": statistics.median(times), "min_ns": least[name], "rounds_ns": times}
        if name != "kiln":
            ratios = [r[name] / r["kiln"] for r in rounds]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            figure |= {"ratio": middle, "low": low, "high": high, "min_ratio": least[name] / least["kiln"]}
        figures[name] = figure
    return figures


def measure(model: Model, kiln: peers.Peer, others: dict, threads: int, options, folder: pathlib.Path) -> dict:
    """All figures of a model, as they stand in the JSON file."""
    row = {"name": model.name, "threads": threads, "runs": {}, "failed": {}, "load": {}}
    try:
        trial = Trial(model, kiln, others, threads, options, folder)
    except Gone as why:
        row["failed"]["kiln"] = str(why).removeprefix("kiln: ")
        return row
    try:
        before = stolen()
        rounds, least = trial.rounds() if options.rounds else ([], {})
        row["stolen_s"] = round(stolen() - before, 2)
        least = {name: time for name, time in least.items() if name in trial.alive}
        row["runs"] = judge(rounds, least)
        for name, figure in row["runs"].items():
            figure["error"] = trial.errors[name]
    except Gone as why:
        row["failed"]["kiln"] = str(why).removeprefix("kiln: ")
    finally:
        trial.close()
    if options.starts and "kiln" not in row["failed"]:
        row["load"] = trial.loads()
    row["failed"] |= trial.gone
    return row
