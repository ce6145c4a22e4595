"""The plot: for each model a bar to the best peer's time over Kiln's, and a dot for each peer. SVG, without a library."""

import math
from xml.sax.saxutils import escape

COLOURS = ["#1f77b4", "#9467bd", "#17becf", "#e377c2", "#8c564b", "#7f7f7f", "#bcbd22", "#ff7f0e"]
FASTER, SLOWER = "#7fbf7b", "#e08070"
NAMES, WIDE, ROW, TOP, LAST = 210, 560, 20, 58, 180  # pixels: names, the plot, a row, above it, the text behind it
MOST = 10.0  # a dot beyond stands at the edge


def svg(found: list[tuple[dict, tuple[str, float]]], title, geomean) -> str:
    """Of rows and their best peers; fastest first, threads apart."""
    found = sorted(found, key=lambda pair: (pair[0]["threads"], -pair[1][1]))
    ratios = [run["ratio"] for row, _ in found for name, run in row["runs"].items() if name != "kiln"]
    low, high = math.log(min([0.8, *ratios])), math.log(min(max([2.0, *ratios]), MOST))
    at = lambda ratio: NAMES + WIDE * (min(math.log(ratio), high) - low) / (high - low)
    peers = list(dict.fromkeys(name for row, _ in found for name in row["runs"] if name != "kiln"))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(peers)}
    height = TOP + ROW * len(found) + 30
    width = NAMES + WIDE + LAST

    def text(x: float, y: float, words: str, more: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'

    body = [text(10, 18, "Time of the other / time of Kiln (right of 1, Kiln is faster); the bar ends at the best of the others",
                 'font-weight="bold"')]
    x = NAMES
    for name in peers:
        body += [f'<circle cx="{x:.1f}" cy="35" r="4" fill="{colour[name]}"/>', text(x + 8, 39, title(name))]
        x += 30 + 7.5 * len(title(name))
    bottom = TOP + ROW * len(found)
    for tick in (0.5, 0.7, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 7, 10):
        if low <= math.log(tick) <= high + 1e-9:
            stroke = "#333" if tick == 1 else "#ddd"
            body += [f'<line x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{TOP - 6}" y2="{bottom + 4}" stroke="{stroke}"/>',
                     text(at(tick), bottom + 18, f"{tick:g}", 'text-anchor="middle"')]
    many = len({row["threads"] for row, _ in found}) > 1
    for i, (row, (name, ratio)) in enumerate(found):
        y = TOP + ROW * i + ROW / 2
        left, right = sorted((at(1), at(ratio)))
        label = row["name"] + (f", {row['threads']} thread{'s'[:row['threads'] > 1]}" if many else "")
        fill = FASTER if ratio >= 1 else SLOWER
        body += [text(NAMES - 8, y + 4, label, 'text-anchor="end"'),
                 f'<rect x="{left:.1f}" y="{y - 6:.1f}" width="{right - left:.1f}" height="12" fill="{fill}"/>']
        body += [f'<circle cx="{at(run["ratio"]):.1f}" cy="{y:.1f}" r="3" fill="{colour[other]}" fill-opacity="0.85"/>'
                 for other, run in row["runs"].items() if other != "kiln"]
        body.append(text(NAMES + WIDE + 10, y + 4, f"{ratio:.2f} {title(name)}"))
    if found:
        of = {threads: [] for threads in dict.fromkeys(row["threads"] for row, _ in found)}
        for row, (_, ratio) in found:
            of[row["threads"]].append(ratio)
        means = ", ".join(f"{geomean(ratios):.2f}" for ratios in of.values())
        body.append(text(NAMES + WIDE + 10, bottom + 18, f"{means} geometric mean{'s'[:many]}"))
    size = f'width="{width}" height="{height}"'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
            f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(body) + "\n</svg>\n")
