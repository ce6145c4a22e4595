#!/usr/bin/env python3
"""From measurements to tables in Markdown and a plot. compare.py calls it; by itself it joins what several runs have measured.

    python benches/peers/report.py a.json b.json --table all.md --plot all.svg

Of a model that stands in several files, with as many threads, the last times of runs count, and the last of opening.
"""

import argparse
import json
import math
import pathlib
import statistics
import sys

import plot

ORDER = ["onnxruntime", "openvino", "mnn", "ncnn", "rten", "tract"]
TITLES = {"kiln": "Kiln", "openvino": "OpenVINO", "mnn": "MNN"}
LOADS = {
    "open_ms": ("From opening the model to the first answer, ms", min),
    "start_ms": ("From the start of the process to the first answer, ms", min),
    "added_mb": ("Memory that the model adds at its peak, MB", statistics.median),
}
WIDE = 0.15  # a middle half of the rounds' ratios that spreads over more is marked
KILNS = ["kiln", "kiln --lean", "kiln, image", "kiln, image --lean"]


def title(name: str) -> str:
    return TITLES.get(name, name.replace("kiln", "Kiln"))


def geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else float("nan")


def figure(value: float | None) -> str:
    """Three digits."""
    if value is None or value != value:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.{2 - max(0, math.floor(math.log10(max(value, 0.01))))}f}"


def duration(ns: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if ns >= size:
            return f"{figure(ns / size)} {unit}"
    return f"{figure(ns / 1e3)} us"


def peers_of(rows: list[dict]) -> list[str]:
    """Their names: the usual ones, then others as they come."""
    found = dict.fromkeys(name for row in rows for name in [*row["runs"], *row["load"]] if not name.startswith("kiln"))
    return [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]


def best(row: dict, key: str = "ratio") -> tuple[str, float] | None:
    """The fastest peer whose answers are right, and its time over Kiln's."""
    others = {name: run[key] for name, run in row["runs"].items() if name != "kiln"}
    return min(others.items(), key=lambda pair: pair[1]) if others else None


def summary(rows: list[dict]) -> list[str]:
    """What all models say together, a line for each number of threads."""
    lines = []
    for threads in sorted({row["threads"] for row in rows}):
        mine = [row for row in rows if row["threads"] == threads]
        found = {row["name"]: (best(row), best(row, "min_ratio")) for row in mine if best(row)}
        if not found:
            continue
        medians = {name: both[0][1] for name, both in found.items()}
        minima = [both[1][1] for both in found.values()]
        worst = min(medians, key=medians.get)
        lost = len(mine) - len(found)
        lines.append(
            f"{threads} thread{'s'[:threads > 1]}: the best peer's time is {geomean(list(medians.values())):.3f} times Kiln's "
            f"(geometric mean of {len(medians)} models; by each one's least time {geomean(minima):.3f}); "
            f"Kiln is at least as fast on {sum(ratio >= 1 for ratio in medians.values())} of {len(medians)} "
            f"(by least times {sum(ratio >= 1 for ratio in minima)}); "
            f"its worst is {medians[worst]:.2f} ({worst}, {title(found[worst][0][0])})"
            + (f"; {lost} not compared" if lost else ""))
    return lines


def table(head: list[str], lines: list[list[str]]) -> list[str]:
    row = lambda cells: "| " + " | ".join(cells) + " |"
    return [row(head), "|" + "---|" * len(head), *map(row, lines), ""]


def ratio(run: dict | None) -> str:
    """The other's time over Kiln's, marked where the rounds do not agree."""
    if run is None:
        return "-"
    return f"{run['ratio']:.2f}" + "~"[:run["high"] - run["low"] > WIDE * run["ratio"]]


def speeds(rows: list[dict]) -> list[str]:
    """Ratios, model by model, of one number of threads."""
    names = [name for name in peers_of(rows) if any(name in row["runs"] for row in rows)]
    lines = []
    for row in rows:
        if "kiln" not in row["runs"]:
            lines.append([row["name"], "-"] + ["-"] * (len(names) + 2))
            continue
        cells = [ratio(row["runs"].get(name)) for name in names]
        ends = [f"{found[1]:.2f}" if (found := best(row, key)) else "-" for key in ("ratio", "min_ratio")]
        lines.append([row["name"], duration(row["runs"]["kiln"]["median_ns"]), *cells, *ends])
    means = [geomean([row["runs"][name]["ratio"] for row in rows if name in row["runs"]]) for name in names]
    means += [geomean([found[1] for row in rows if (found := best(row, key))]) for key in ("ratio", "min_ratio")]
    lines.append(["geometric mean", "", *(f"{mean:.2f}" for mean in means)])
    return table(["", "Kiln", *map(title, names), "best", "best, least times"], lines)


def known(row: dict, name: str, key: str) -> float | None:
    """A fact of opening, over the fresh processes."""
    facts = [fact for fact in row["load"].get(name, {}).get(key, []) if fact is not None]
    return LOADS[key][1](facts) if facts else None


def loads(rows: list[dict]) -> list[str]:
    """What opening costs: means of all models, then each one's figures."""
    rows = [row for row in rows if row["load"]]
    names = KILNS + [name for name in peers_of(rows) if any(name in row["load"] for row in rows)]
    text = []
    # Of the models that all have, or the means would be of different models.
    common = [row for row in rows if all(known(row, name, key) is not None for name in names for key in LOADS)]
    if len(common) > 1:
        mean = lambda name, key: figure(geomean([max(known(row, name, key), 1e-3) for row in common]))
        means = [[title(name), *(mean(name, key) for key in LOADS)] for name in names]
        text += [f"Opening, geometric means over the {len(common)} models that all open:", "",
                 *table(["", *(f"{what[0].lower()}{what[1:]}" for what, _ in LOADS.values())], means)]
    for key, (what, _) in LOADS.items():
        lines = [[row["name"], *(figure(known(row, name, key)) for name in names)] for row in rows]
        text += [f"{what}:", "", *table(["", *map(title, names)], lines)]
    return text


def markdown(whole: dict) -> str:
    """The whole report."""
    rows, machine = whole["models"], whole["machine"]
    settings = whole["settings"]
    text = ["# Kiln beside other runtimes", "",
            f"{machine['cpu']}, {machine['date']}; Kiln on {machine['isa']}. "
            + ", ".join(f"{title(name)} {version}" for name, version in whole["versions"].items()) + ". "
            f"{settings['rounds']} rounds, {settings['ms']} ms a turn"
            + ("; the others take subnormal numbers for zero." if settings.get("flush") else "."), ""]
    for threads in sorted({row["threads"] for row in rows}):
        mine = [row for row in rows if row["threads"] == threads]
        if any(row["runs"] for row in mine):
            head = f"Time of the other / time of Kiln, {threads} thread{'s'[:threads > 1]}; above 1, Kiln is faster:"
            text += [head, "", *speeds(mine)]
            if any("~" in ratio(run) for row in mine for name, run in row["runs"].items() if name != "kiln"):
                text += [f"~: the middle half of the rounds spreads over more than {WIDE * 100:.0f} %.", ""]
        if any(row["load"] for row in mine):
            text += loads(mine)
    text += [f"* {line}" for line in summary(rows)]
    missing = {}
    for row in rows:
        for name, why in row["failed"].items():
            missing.setdefault((title(name), why), {})[row["name"]] = None
    if missing:
        text += ["", "Not compared:", ""]
        text += [f"* {name}: {why}: {', '.join(models)}" for (name, why), models in missing.items()]
    return "\n".join(text) + "\n"


def write(whole: dict, table_file: pathlib.Path | None, plot_file: pathlib.Path | None):
    if table_file:
        table_file.write_text(markdown(whole))
    if plot_file:
        plot_file.write_text(plot.svg([(row, best(row)) for row in whole["models"] if best(row)], title, geomean))


def joined(files: list[pathlib.Path]) -> dict:
    """Several measurements as one; they must be of one CPU and instruction set."""
    wholes = [json.loads(file.read_text()) for file in files]
    for file, whole in zip(files, wholes):
        for part, key in (("machine", "cpu"), ("machine", "isa"), ("settings", "flush")):
            mine, first = whole[part].get(key), wholes[0][part].get(key)
            if mine != first:
                raise ValueError(f"{file} is of another {key} ({mine}) than {files[0]} ({first})")
    rows = {}
    for row in (row for whole in wholes for row in whole["models"]):
        key = row["threads"], row["name"]
        before = rows.get(key, row)
        rows[key] = row | {part: row[part] or before[part] for part in ("runs", "load")}
    settings = {}
    for key in wholes[0]["settings"]:
        # Where only opening was measured there were no rounds.
        told = [whole for whole in wholes if whole["settings"]["rounds"] or key != "rounds"] or wholes
        found = dict.fromkeys(whole["settings"][key] for whole in told)
        settings[key] = next(iter(found)) if len(found) == 1 else " or ".join(map(str, found))
    versions = {name: version for whole in wholes for name, version in whole["versions"].items()}
    ordered = sorted(rows.values(), key=lambda row: (row["threads"], row["name"]))
    return wholes[-1] | {"models": ordered, "settings": settings, "versions": versions}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path, help="what compare.py wrote with --json")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE.md", help="the tables; absent: printed")
    parser.add_argument("--plot", type=pathlib.Path, metavar="FILE.svg")
    options = parser.parse_args()
    try:
        whole = joined(options.files)
    except (OSError, ValueError, KeyError) as why:
        print(f"{why}", file=sys.stderr)
        return 2
    if not options.table:
        print(markdown(whole), end="")
    write(whole, options.table, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
