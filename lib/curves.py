"""TODO-DOC curves."""

import math

import numpy as np


def plot_curves(
  metrics: list[dict], panels: list[tuple[str, tuple[str, ...]]], path: str, columns: int = 3
):
  """A PNG of one panel per (title, metric names) over the optimizer step, from rows of metrics.jsonl; bold: running means."""
  from matplotlib.figure import Figure  # not pyplot: a notebook's own backend stays

  lines = -(-len(panels) // columns)
  figure = Figure(figsize=(4.8 * columns, 2.2 * lines + 0.3), dpi=200, layout="constrained")
  axes = figure.subplots(lines, columns, squeeze=False)
  for axis, (title, names) in zip(axes.flat, panels):
    for name, color, dash in zip(
      names, ("#0072B2", "#D55E00", "#009E73"), ("-", "--", ":")
    ):  # Okabe-Ito: every reader's
      points = [
        (row["step"], row[name])
        for row in metrics
        if isinstance(row.get(name), (int, float)) and math.isfinite(row[name])
      ]
      if points:
        steps, values = np.array(points, float).T
        span = (
          1 if name == "learning_rate" else max(1, len(values) // 20)
        )  # a schedule has no noise to smooth
        total, last = np.append(0, values.cumsum()), np.arange(1, len(values) + 1)
        smooth = (total[last] - total[np.maximum(last - span, 0)]) / np.minimum(last, span)
        axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axis.plot(
          steps,
          smooth,
          dash,
          color=color,
          label=name,
          linewidth=1.6,
          marker="." if len(values) < 40 else None,
        )
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(names) > 1 and axis.lines:
      axis.legend(fontsize=8, frameon=False)
  for axis in list(axes.flat)[len(panels) :]:
    axis.axis("off")
  figure.supxlabel("optimizer step", fontsize=9)
  figure.savefig(path)
