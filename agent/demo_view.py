"""What the demo shows: this machine's values, the score, the alert with its evidence; and a picture of that."""

from __future__ import annotations

import io
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

# Unit of each channel, and the least change that matters: to the alert, and to the height of a bar.
CHANNELS: Final = {
    "cpu.user": ("%", 10.0),
    "cpu.system": ("%", 10.0),
    "mem.used": ("MB", 50.0),
    "disk.read": ("MB/s", 5.0),
    "disk.write": ("MB/s", 5.0),
    "net.in": ("MB/s", 1.0),
    "net.out": ("MB/s", 1.0),
}
HISTORY: Final = 46  # bars in a row
WIDTH: Final = 80
_BARS: Final = "▁▂▃▄▅▆▇█"
_SHARE_BARS: Final = 20
_LEAST_SHARE: Final = 0.01
_LEAST_SCORE: Final = 6.0  # a score this high fills the row
_FONTS: Final = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


class Screen:
    """The state of the view. `raised` and `cleared` are alert messages as they came over MQTT."""

    def __init__(self, broker: str) -> None:
        self.broker = broker
        self.headline = ""
        self.learning_left_s: float | None = None
        self.values: dict[str, deque[float]] = {name: deque(maxlen=HISTORY) for name in CHANNELS}
        self.scores: list[float] = []
        self.raised: dict[str, Any] | None = None
        self.cleared: dict[str, Any] | None = None

    def add(self, reading: dict[str, Any]) -> None:
        """Take one reading, nested as it is published."""
        for name, values in self.values.items():
            group, _, leaf = name.partition(".")
            values.append(float(reading[group][leaf]))

    def render(self) -> RenderableType:
        """Return the whole view."""
        firing = self.raised is not None and self.cleared is None
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="cyan")
        rows.add_column(width=HISTORY)
        rows.add_column(justify="right")
        rows.add_column(style="dim")
        for name, values in self.values.items():
            unit, least = CHANNELS[name]
            low = min(values, default=0.0)
            high = max([low + 3 * least, *values])
            now = f"{values[-1]:.1f}" if values else ""
            rows.add_row(name, Text(bars(values, low, high), style="blue"), now, unit)
        if self.learning_left_s:
            rows.add_row("score", Text("learning ...", style="yellow"), f"{self.learning_left_s:.0f}", "s left")
        else:
            style = "bold red" if firing else "green"
            top = max([_LEAST_SCORE, *self.scores])
            now = f"{self.scores[-1]:.1f}" if self.scores else ""
            rows.add_row(
                Text("score", style="bold"), Text(bars(self.scores, 0.0, top), style=style), Text(now, style), ""
            )
        title = f"redshank demo, broker: {self.broker}"
        whole: list[RenderableType] = [
            Panel(Group(Text(self.headline, style="bold"), rows), title=title, **_frame("red" if firing else "blue"))
        ]
        if self.raised is not None:
            whole.append(alert_panel(self.raised, self.cleared))
        return Group(*whole)


def _frame(colour: str) -> dict[str, Any]:
    return {"title_align": "left", "width": WIDTH, "box": box.ROUNDED, "border_style": colour, "padding": (0, 1)}


def bars(values: Iterable[float], low: float, high: float) -> str:
    """Return one block for each value, from low to high."""
    last = len(_BARS) - 1
    return "".join(_BARS[min(last, max(0, round(last * (one - low) / (high - low))))] for one in values)


def _short(value: float) -> str:
    return f"{round(value, 1) + 0.0:.1f}"  # no -0.0


def alert_panel(raised: dict[str, Any], cleared: dict[str, Any] | None) -> Panel:
    """Return an alert with its evidence; green once it is cleared."""
    parts = Table.grid(padding=(0, 2))
    parts.add_column(style="cyan")
    parts.add_column(width=_SHARE_BARS, style="red" if cleared is None else "green")
    parts.add_column(justify="right")
    parts.add_column(justify="right", style="bold")
    parts.add_column(style="dim")
    for part in raised["evidence"]["parts"]:
        if part["share"] >= _LEAST_SHARE:
            low, high = part["expected"]
            unit, _ = CHANNELS[part["name"]]
            parts.add_row(
                part["name"],
                "█" * max(1, round(_SHARE_BARS * part["share"])),
                f"{100 * part['share']:.0f} %",
                f"{_short(part['value'])} {unit}",
                f"normally {_short(low)} to {_short(high)}",
            )
    about = (
        f"p {raised['p_value']:.1e}, threshold {raised['p_value_threshold']:.1e}, budget {raised['budget']}; "
        f"id {raised['id']}"
    )
    told = Text(raised["message"], style="bold")
    if cleared is None:
        return Panel(
            Group(told, parts, Text(about, style="dim")), title="ALERT raised, over MQTT", **_frame("bold red")
        )
    end = Text(cleared["message"], style="bold green")
    return Panel(Group(told, parts, end), title="alert cleared, over MQTT", **_frame("green"))


def write_picture(path: Path, shown: Sequence[RenderableType]) -> None:
    """Write what was shown as an SVG that needs no fonts from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for one in shown:
        console.print(one)
    svg = console.export_svg(title="redshank demo", unique_id="redshank")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    path.write_text(re.sub(r"Fira Code(, ?monospace)?", _FONTS, svg))
