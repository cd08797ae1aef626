"""Training curves: panels over the optimizer step, drawn from metrics.jsonl.

`plot_curves` draws one panel per title; the trainers and the report use it. A thin line is what was
logged, a bold one its running mean; validation is drawn point by point, from step 0 where that was
measured.
"""

import math

import numpy as np
from matplotlib.figure import Figure  # not pyplot: a notebook's own backend stays

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito: told apart by every reader
STYLES = ((BLUE, "-"), (VERMILLION, "--"), (GREEN, ":"))  # of a panel's lines, in order


def known_points(metrics: list[dict], name: str) -> tuple[np.ndarray, np.ndarray]:
  """(steps, values) of the rows that hold a finite number under `name`."""
  steps, values = [], []
  for row in metrics:
    # Not every row has every metric: validation is measured every so many steps.
    value = row.get(name)
    if isinstance(value, int | float) and math.isfinite(value):
      steps.append(row["step"])
      values.append(value)
  return np.array(steps, float), np.array(values, float)


def running_mean(values: np.ndarray, span: int) -> np.ndarray:
  """Mean of each value and the `span` − 1 before it, from one cumulative sum."""
  # Mean of values[first:last] = (total[last] − total[first]) / (last − first).
  total = np.append(0, values.cumsum())
  last = np.arange(1, len(values) + 1)
  first = np.maximum(last - span, 0)
  return (total[last] - total[first]) / np.minimum(last, span)


def is_validation(name: str) -> bool:
  return name.startswith(("eval_", "validation_"))


def label_of(name: str) -> str:
  """eval_accuracy → validation accuracy."""
  return name.replace("eval_", "validation ").replace("_", " ")


def draw_metric(axis, metrics: list[dict], name: str, color: str, dash: str):
  """One metric's lines; nothing where it was never logged."""
  steps, values = known_points(metrics, name)
  if not len(values):
    return
  label = label_of(name)
  if is_validation(name):  # every point is a whole evaluation: nothing to smooth
    axis.plot(
      steps, values, dash, color=color, label=label, linewidth=1.6, marker="o", markersize=4
    )
    return
  # A schedule has no noise to smooth.
  # A twentieth of the run: long runs are smoothed more.
  span = 1 if name == "learning_rate" else max(1, len(values) // 20)
  # A line of few points would hide how few they are.
  marker = "." if len(values) < 40 else None
  axis.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
  smooth = running_mean(values, span)
  axis.plot(steps, smooth, dash, color=color, label=label, linewidth=1.6, marker=marker)


def plot_curves(
  metrics: list[dict], panels: list[tuple[str, tuple[str, ...]]], path: str, columns: int = 3
):
  """A PNG of one panel per (title, metric names), `columns` side by side, from rows of
  metrics.jsonl.
  """
  # As many rows of panels as are needed.
  lines = math.ceil(len(panels) / columns)
  size = (4.8 * columns, 2.2 * lines + 0.3)
  figure = Figure(figsize=size, dpi=200, layout="constrained")
  axes = figure.subplots(lines, columns, squeeze=False).flatten()
  # Axes to spare are blanked below.
  for axis, (title, names) in zip(axes, panels, strict=False):  # the last line may have room left
    for name, (color, dash) in zip(names, STYLES, strict=False):
      draw_metric(axis, metrics, name, color, dash)
    axis.set_title(title, fontsize=10, loc="left")
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", integer=True)  # there is no update 1.2
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if len(names) > 1 and axis.lines:
      axis.legend(fontsize=8, frameon=False)
  for axis in axes[len(panels) :]:
    axis.axis("off")
  figure.supxlabel("optimizer step", fontsize=9)
  figure.savefig(path)
