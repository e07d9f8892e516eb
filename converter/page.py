"""The page of a proof: each variant on each runtime, its gates, and float against quantized scores, drawn."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from agent.bundle import Bundle
    from agent.core.types import F64
    from converter.verify import Verdict

_MOST: Final = 1000  # points in one drawing
_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ manifest.name }}: is it as good as the original?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem .8rem; border-bottom: 1px solid #d5d9de; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.passes { color: #116329; } .fails { color: #b3261e; font-weight: 600; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{ manifest.name }}</h1>
<p>{{ manifest.kind }}; input {{ manifest.input.shape | join(" x ") }}; {{ manifest.licence }}.
Held-out inputs, as the quantized encoder embeds them on the runtimes installed here, against the float encoder.</p>
{% for verdict in verdicts %}
<h2>{{ verdict.precision }} on {{ verdict.runtime }}:
<span class="{{ 'passes' if verdict.passes else 'fails' }}">{{ "passes" if verdict.passes else "fails" }}</span></h2>
{% if verdict.error %}<p class="fails">{{ verdict.error }}</p>{% endif %}
{{ drawings[loop.index0] }}
<table>
<tr><th>gate</th><th>of</th><th>found</th><th>bound</th><th></th></tr>
{% for result in verdict.results %}
<tr><td>{{ result.gate.meaning }}</td><td>{{ result.rows or "the model" }}</td>
<td class="number">{{ "%.4g" | format(result.value) }}</td>
<td class="number">{{ "at least" if result.gate.at_least else "at most" }} {{ "%g" | format(result.gate.bound) }}</td>
<td class="{{ 'passes' if result.passes else 'fails' }}">{{ "passes" if result.passes else "fails" }}</td></tr>
{% endfor %}
</table>
<p>Operators: {% for one in verdict.operators %}{{ one.name }} {{ one.version }}{{ ", " if not loop.last }}{% endfor %}.
Oldest runtime: {{ verdict.oldest_runtime }}.</p>
{% endfor %}
</body>
</html>
"""


def page(bundle: Bundle, verdicts: list[Verdict]) -> str:
    """Return a page of HTML that needs nothing else: drawings are part of it."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    drawings = [Markup(_drawing(verdict.scores)) for verdict in verdicts]  # noqa: S704  made by matplotlib, below
    return template.render(manifest=bundle.manifest, verdicts=verdicts, drawings=drawings)


def _drawing(scores: dict[str, tuple[F64, F64]]) -> str:
    """Return float against quantized scores as SVG, a panel for each kind; empty where there are none."""
    if not scores:
        return ""
    with mpl.rc_context({"svg.hashsalt": "redshank", "font.size": 9}):
        figure = Figure(figsize=(3.0 * len(scores), 3.1), layout="constrained")
        panels = figure.subplots(1, len(scores), squeeze=False)[0]
        for panel, (name, (before, after)) in zip(panels, scores.items(), strict=True):
            _panel(panel, name, before[:_MOST], after[:_MOST])
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def _panel(panel: Any, name: str, before: F64, after: F64) -> None:
    ends = np.array([min(before.min(), after.min()), max(before.max(), after.max())])
    panel.plot(ends, ends, color="#9aa4af", linewidth=1)
    panel.plot(before, after, ".", color="#1f5fa8", markersize=4, alpha=0.6)
    panel.set_title(name)
    panel.set_xlabel("score, float")
    panel.set_ylabel("score, quantized")
