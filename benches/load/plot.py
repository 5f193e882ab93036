"""Plain line charts as SVG: a few series over one axis, either axis linear or logarithmic."""

import html
import math

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 78, 16, 44, 52
COLOURS = ["#1b6ca8", "#c8553d", "#3a7d44", "#7a4fa3"]


class Axis:
    """Maps values to pixels, and knows where to put its marks."""

    def __init__(self, values, logarithmic, begin, end):
        self.logarithmic, self.begin, self.end = logarithmic, begin, end
        if logarithmic:
            decades = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
            self.low, self.high = 10.0 ** decades[0], max(*values, 10.0 ** decades[0] * 2)
            self.marks = [10.0**decade for decade in decades if 10.0**decade <= self.high]
        else:
            step = nice(max(values) / 5 or 1)
            self.low, self.high = 0, math.ceil(max(values) / step) * step or step
            self.marks = [step * number for number in range(round(self.high / step) + 1)]

    def at(self, value):
        low, high = (math.log10(self.low), math.log10(self.high)) if self.logarithmic else (self.low, self.high)
        value = math.log10(value) if self.logarithmic else value
        return self.begin + (value - low) / (high - low) * (self.end - self.begin)


def nice(step):
    """The next of 1, 2, 5, 10, 20, 50, …"""
    power = 10 ** math.floor(math.log10(step))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= step)


def short(value):
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def chart(title, x_label, y_label, series, log_x=False, log_y=False):
    """A chart of `series`: name and points of each."""
    points = [point for _, line in series for point in line]
    x = Axis([point[0] for point in points], log_x, LEFT, WIDTH - RIGHT)
    y = Axis([point[1] for point in points], log_y, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 18, title, "start", weight="bold"),
    ]
    for mark in x.marks:
        at = x.at(mark)
        parts += [line((at, TOP), (at, HEIGHT - BOTTOM)), text(at, HEIGHT - BOTTOM + 18, short(mark), "middle")]
    for mark in y.marks:
        at = y.at(mark)
        parts += [line((LEFT, at), (WIDTH - RIGHT, at)), text(LEFT - 8, at + 4, short(mark), "end")]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, "middle"))
    parts.append(text(0, 0, y_label, "middle", f' transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)"'))
    for number, (name, values) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [(x.at(a), y.at(b)) for a, b in values]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        begin = LEFT + number * 170
        parts.append(f'<rect x="{begin}" y="28" width="12" height="4" fill="{colour}"/>')
        parts.append(text(begin + 18, 34, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def line(begin, end):
    (a, b), (c, d) = begin, end
    return f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="#ddd"/>'


def text(x, y, words, anchor, more="", weight="normal"):
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text {place} fill="#222"{more}>{html.escape(words)}</text>'
