"""The report of a replay as one page of HTML that needs nothing else.

Needs the extra `report`, so it is loaded only for `replay --report`.
"""

from __future__ import annotations

import base64
import io
import re
from datetime import UTC
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib import dates
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from agent.alert_message import timestamp, written
from agent.core.types import F64
from agent.report import MAX_STREAMS, Picture, Report, SensorAlert, SensorHistory
from agent.report_parts import MAX_ALERTS, ToldAlert, seconds, suggestions
from agent.report_pictures import PictureAlert, PictureHistory

if TYPE_CHECKING:
    from agent.replay import Summary
    from agent.report_parts import History

MAX_DRAWN: Final = 8  # streams
MAX_CHANNELS: Final = 8  # of one stream
MAX_LISTED: Final = 200  # streams in the table
MAX_PICTURED: Final = 40  # alerts, of all streams; the strongest
MAX_PAGE_BYTES: Final = 2_800_000  # pictures of alerts are left out beyond it, those of the weakest first
_TEMPLATE: Final = Path(__file__).with_name("report.html")
_NAME: Final = 80  # characters of a name
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 400.0, 112.0, 46.0, 8.0, 27.0, 14.0  # of a drawing, in its own units
_INK: Final = {  # drawn in one colour, shown in that of the style sheet, light or dark
    name: f"#0a0b{place:02x}"
    for place, name in enumerate(["ink", "line", "value", "usual", "alert", "limit", "near", "quiet"])
}
_PEAK: Final = 3.0  # thresholds: higher scores are cut off in the drawing
_GAP: Final = 4.0  # usual steps between stretches: more is a gap, and no line is drawn over it
_LEAST_MARK: Final = 2.0  # units: a shorter alert is drawn as wide as that
_APART: Final = 12.0  # units between the numbers of alerts
_LATEST: Final = 253402300799.0  # the end of the year 9999, the calendar's
_DAY_S: Final = 86400.0
_WHOLE, _HUGE = 1000.0, 1e7  # numbers between are written out, without decimals
_MANY: Final = 10.0  # alarms, and no decimals
_CLUTTER: Final = (
    (r"<metadata>.*?</metadata>|<!--.*?-->|<\?xml.*?\?>|<!DOCTYPE.*?>", ""),
    (r' xmlns(:\w+)?="[^"]*"| version="[^"]*"| (width|height)="\d+pt"', ""),
    (r' id="[A-Za-z_.]+\w*_\d+"', ""),  # of groups; what is referred to has a name made of its content
    (r"xlink:href=", "href="),
    (r"font-size: [^;]*; font-family: [^;]*(; )?", ""),
    (r' transform="rotate\(-0 [^"]*"', ""),
    (r' style=""', ""),
)


def page(report: Report, summary: Summary, recording: str) -> str:
    """Return the page."""
    report.finish()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(name=_short_name, number=_number, alarms=_alarms, time=_time, lasted=_lasted)
    histories = sorted(report.histories.values(), key=lambda one: (-one.raised - one.others, one.stream.name))
    drawn = [one for one in histories if one.kept][:MAX_DRAWN]
    content: dict[str, Any] = {
        "recording": recording,
        "summary": summary,
        "raised": sum(one.raised for one in histories),
        "others": sum(one.others for one in histories),
        "pictures": any(isinstance(one, PictureHistory) for one in histories),
        "histories": histories[:MAX_LISTED],
        "streams": len(histories),
        "places": {one.stream.name: place for place, one in enumerate(drawn)},
        "sections": [_section(one) for one in drawn],
        "many": MAX_STREAMS,
    }
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    made = template.render(content)
    size = len(made.encode())
    alerts = [alert for section in content["sections"] for alert in section["alerts"]]
    for rank, alert in enumerate(sorted(alerts, key=lambda one: -one["told"].strength)):
        shown = _shown(alert["told"]) if rank < MAX_PICTURED else {}
        size += sum(len(drawing) for kind in shown.values() for _, drawing in kind)
        if size <= MAX_PAGE_BYTES:
            alert.update(shown)
    return template.render(content)


def _section(history: SensorHistory | PictureHistory) -> dict[str, Any]:
    """Return what the page says of one stream."""
    rows = history.budgets()
    alerts: list[ToldAlert] = sorted(history.alerts, key=lambda one: one.at)
    return {
        "history": history,
        "of_pictures": isinstance(history, PictureHistory),
        **(_channels(history) if isinstance(history, SensorHistory) else {"channels": 0, "drawings": []}),
        "score": _scores(history, alerts) if history.decisions else None,
        "budgets": rows,
        "suggestions": suggestions(rows),
        "alerts": [
            {"number": number, "told": one, "pictures": [], "images": [], "near": [], **_evidence(one)}
            for number, one in enumerate(alerts, 1)
        ],
    }


def _channels(history: SensorHistory) -> dict[str, Any]:
    """Return the drawings of the channels that alerts speak of most, and how many channels there are."""
    channels = history.stream.detector.grid.channels[: history.values.read()[2].shape[1]]
    shares = dict.fromkeys(channels, 0.0)
    for one in history.alerts:
        for part in one.message["evidence"]["parts"]:
            shares[part["name"]] = shares.get(part["name"], 0.0) + part["share"]
    leading = sorted(channels, key=lambda name: -shares[name])[:MAX_CHANNELS]
    chosen = [name for name in channels if name in leading]
    return {
        "channels": len(channels),
        "drawings": [(name, _values(history, channels.index(name))) for name in chosen],
    }


def _shown(told: ToldAlert) -> dict[str, list[tuple[str, str]]]:
    """Return an alert's drawings, or its pictures and its nearest references as data URLs (RFC 2397)."""
    if isinstance(told, SensorAlert):
        return {"pictures": [(one.channel, _alert_picture(one)) for one in told.pictures or []]}
    assert isinstance(told, PictureAlert)
    both = (("the picture", told.picture), ("where it is odd", told.heatmap))
    return {
        "images": [(name, _url(one)) for name, one in both if one is not None],
        "near": [(_time(at), _url(one)) for at, one in told.nearest],
    }


def _url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _evidence(told: ToldAlert) -> dict[str, Any]:
    evidence = told.message["evidence"]
    nearest = [_time(seconds(one["at"])) for one in evidence["nearest"]]
    since = evidence["unlike_since"]
    return {
        "parts": [(part["name"], part["share"], *_range(part)) for part in evidence["parts"]],
        "started_at": seconds(told.message["started_at"]),
        "nearest": nearest,
        "unlike_since": None if since is None else seconds(since),
    }


def _range(part: dict[str, Any]) -> tuple[str, str]:
    """Return a channel's value and what was expected of it."""
    value, (low, high) = part["value"], part["expected"]
    if value is None or low is None or high is None:
        return _number(value), f"{_number(low)} to {_number(high)}"
    told, least, most = written(value, low, high, max(value - high, low - value, 0.0))
    return told, f"{least} to {most}"


def _canvas() -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
    panel = figure.add_axes(
        (_LEFT / _WIDTH, _BOTTOM / _HEIGHT, 1 - (_LEFT + _RIGHT) / _WIDTH, 1 - (_BOTTOM + _TOP) / _HEIGHT)
    )
    figure.patch.set_visible(False)
    panel.patch.set_visible(False)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    return figure, panel


def _finished(figure: Figure, panel: Any, ends: tuple[float, float]) -> Markup:
    """Return the drawing as SVG in the page's colours, without what a page does not need."""
    begin, end = ends if ends[1] > ends[0] else (ends[0], ends[0] + 1.0)
    panel.set_xlim(begin / _DAY_S, end / _DAY_S)
    if end <= _LATEST:
        locator = dates.AutoDateLocator(tz=UTC, minticks=3, maxticks=7)
        panel.xaxis.set_major_locator(locator)
        panel.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))
    panel.yaxis.set_major_locator(MaxNLocator(3))
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    for pattern, text in _CLUTTER:
        svg = re.sub(pattern, text, svg, flags=re.DOTALL)
    svg = re.sub(r'(?<= d=")[^"]+', lambda path: _coarse(path[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for name, colour in _INK.items():
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg.strip())  # noqa: S704  made by matplotlib of numbers alone


def _coarse(path: str) -> str:
    """Return a path in tenths of a unit."""
    return " ".join(f"{float(one):.1f}".removesuffix(".0") if one[0] in "-0123456789" else one for one in path.split())


def _drawing_style() -> Any:
    return mpl.rc_context(
        {
            "svg.hashsalt": "redshank",
            "svg.fonttype": "none",
            "font.size": 11,
            "axes.edgecolor": _INK["line"],
            "axes.linewidth": 0.8,
            "text.color": _INK["ink"],
            "xtick.color": _INK["line"],
            "ytick.color": _INK["line"],
            "xtick.labelcolor": _INK["ink"],
            "ytick.labelcolor": _INK["ink"],
            "axes.formatter.limits": (-4, 5),
            "path.simplify": True,
            "path.simplify_threshold": 0.2,
        }
    )


def _lines(starts: F64, ends: F64, *columns: F64) -> list[F64]:
    """Return times in days and the columns, with NaN put in where a line must not go on: gaps, a clock set back."""
    middle = (starts + ends) / 2
    steps = np.diff(middle)
    usual = np.median(steps[steps > 0]) if (steps > 0).any() else 1.0
    broken = np.flatnonzero((starts[1:] - ends[:-1] > _GAP * usual) | (steps < 0)) + 1
    return [np.insert(one.astype(np.float64), broken, np.nan) for one in (middle / _DAY_S, *columns)]


def _mark(history: History[Any], panel: Any) -> None:
    """Shade the time of learning and the alerts."""
    begin, end = history.ends
    learnt = history.decided_at if isfinite(history.decided_at) else end
    if learnt > begin:
        panel.axvspan(begin / _DAY_S, learnt / _DAY_S, color=_INK["quiet"], alpha=0.16, linewidth=0)
    starts, ends, _, high = history.course.read()
    least = (end - begin) * _LEAST_MARK / (_WIDTH - _LEFT - _RIGHT)
    outline: list[float] = []
    for place in np.flatnonzero(high[:, 2] > 0) if len(starts) else ():
        middle, half = (starts[place] + ends[place]) / 2, max(least, ends[place] - starts[place]) / 2
        if outline and middle - half <= outline[-1]:
            outline[-1] = max(outline[-1], middle + half)
        else:
            outline += [middle - half, middle + half]
    edges = np.repeat(np.array(outline), 2) / _DAY_S
    if len(edges):
        panel.fill(
            edges,
            np.tile([0.0, 1.0, 1.0, 0.0], len(edges) // 4),
            transform=panel.get_xaxis_transform(),
            color=_INK["alert"],
            alpha=0.28,
            linewidth=0,
        )


def _values(history: SensorHistory, channel: int) -> Markup:
    """Return one channel over time: its least and largest values, what was expected, and the alerts."""
    with _drawing_style():
        figure, panel = _canvas()
        _mark(history, panel)
        starts, ends, low, high = history.expected.read()
        count = low.shape[1] // 2
        if channel < count:
            at, least, most = _lines(starts, ends, low[:, channel], high[:, count + channel])
            panel.fill_between(at, least, most, color=_INK["usual"], alpha=0.25, linewidth=0)
        starts, ends, low, high = history.values.read()
        at, least, most = _lines(starts, ends, low[:, channel], high[:, channel])
        panel.fill_between(at, least, most, facecolor=_INK["value"], edgecolor=_INK["value"], linewidth=0.7)
        return _finished(figure, panel, history.ends)


def _scores(history: History[Any], alerts: list[ToldAlert]) -> Markup:
    """Return the score over time with the threshold of each decision; alerts that are told below have their number."""
    with _drawing_style():
        figure, panel = _canvas()
        _mark(history, panel)
        at, least, most, low, high = _lines(*_course(history))
        panel.fill_between(at, least, most, facecolor=_INK["value"], edgecolor=_INK["value"], linewidth=0.7)
        panel.fill_between(at, low, high, facecolor=_INK["limit"], edgecolor=_INK["limit"], linewidth=1.1)
        threshold = float(np.nanmax(high))
        panel.set_ylim(0.0, max(1.2 * threshold, min(_PEAK * threshold, 1.05 * float(np.nanmax(most))), 1.0))
        begin, end = history.ends
        free = -np.inf
        for number, one in enumerate(alerts, 1):
            place = (one.at - begin) / max(end - begin, 1e-9) * (_WIDTH - _LEFT - _RIGHT)
            if place - free >= _APART:
                free = place
                panel.text(
                    one.at / _DAY_S,
                    1.02,
                    str(number),
                    transform=panel.get_xaxis_transform(),
                    ha="center",
                    va="bottom",
                    color=_INK["alert"],
                )
        return _finished(figure, panel, (begin, end))


def _course(history: History[Any]) -> tuple[F64, ...]:
    starts, ends, low, high = history.course.read()
    return starts, ends, low[:, 0], high[:, 0], low[:, 1], high[:, 1]


def _alert_picture(picture: Picture) -> Markup:
    """Return a channel around an alert, and its nearest references' windows over the alert's own."""
    with _drawing_style():
        figure, panel = _canvas()
        begin, end = picture.window
        panel.axvspan(begin / _DAY_S, end / _DAY_S, color=_INK["alert"], alpha=0.14, linewidth=0)
        least, most = picture.expected
        if least is not None and most is not None:
            panel.axhspan(least, most, color=_INK["usual"], alpha=0.25, linewidth=0)
        for times, values in picture.nearest:
            panel.plot(times / _DAY_S, values, color=_INK["near"], linewidth=1.0)
        times = picture.times
        at, values = _lines(times, times, picture.values)
        panel.plot(at, values, color=_INK["value"], linewidth=1.4, marker="." if len(times) < MAX_ALERTS else "")
        ends = (float(times.min()), float(times.max())) if len(times) else picture.window
        return _finished(figure, panel, ends)


def _short_name(text: str) -> str:
    return text if len(text) <= _NAME else text[: _NAME - 1] + "…"


def _number(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}" if _WHOLE <= abs(value) < _HUGE else f"{value:.3g}"


def _alarms(count: float) -> str:
    """Return a number of alarms, with a digit or two."""
    return f"{count:,.0f}" if count >= _MANY else f"{round(count, 1 if count >= 1 else 2):g}"


def _time(at: float) -> str:
    """Return a time in UTC, to the second."""
    return timestamp(at)[:19].replace("T", " ") if 0 <= at <= _LATEST else f"{at:.0f} s"


def _lasted(span_s: float) -> str:
    for unit_s, unit in ((_DAY_S, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if span_s >= 2 * unit_s:
            return f"{span_s / unit_s:.3g} {unit}"
    return f"{span_s:.3g} s"
