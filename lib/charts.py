"""The pictures of a report, 4.8 inches wide each: they are read on a phone as well as in print.

`draw_charts` draws those an evaluation has something to show for. `dot_plot` shows paired
differences, `bar_chart` rates and means with their intervals, `training_chart` the run behind a
checkpoint.
"""

import contextlib
import pathlib
from typing import NamedTuple

import numpy as np

from lib import comparison, curves, folders, jsonl, lineage, summary, tables
from lib.errors import InputError

# isort: split
import matplotlib  # after curves, which mends a notebook's MPLBACKEND
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by every reader, and in grey by their hatches and markers.
SKY, ORANGE, BLUE, VERMILLION, GREY, BLACK = (
  "#56B4E9",
  "#E69F00",
  "#0072B2",
  "#D55E00",
  "#8a8a8a",
  "#222222",
)
WIDTH = 4.8  # inches
LIMITS = (16, 32, 64, 128, 256, 512)  # tokens: would a lower limit have done?
STYLE = {
  "font.size": 9,
  "axes.titlesize": 10.5,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.grid.axis": "x",
  "grid.color": "#dddddd",
  "axes.axisbelow": True,
}
TRAINING_PANELS = (
  ("Reward", ("reward", "eval_reward")),
  ("Accuracy", ("accuracy", "eval_accuracy")),
  ("Strict format", ("format", "eval_format")),
  ("Loss", ("loss", "eval_loss")),
  ("Completion length, tokens", ("completion_tokens",)),
  ("KL and entropy", ("kl", "entropy")),
)


class Panel(NamedTuple):
  title: str
  key: str  # in the numbers of `summarize`
  spec: str  # how a value is written

  @property
  def is_rate(self) -> bool:
    return self.spec.endswith("%")


class Series(NamedTuple):
  """One colour of bars."""

  name: str  # "": no legend
  colors: str | list[str]  # one, or one a bar
  hatch: str | None
  numbers: dict[str, dict]  # label → numbers as `summarize` gives them


# ---- bars
def interval_arrays(numbers: dict[str, dict], key: str) -> tuple[np.ndarray, np.ndarray]:
  """(values, whiskers (2, bars)) with NaN where there is nothing to show."""
  # None becomes NaN: no bar, and a word in its place.
  values = np.array([each[key] for each in numbers.values()], float)
  bounds = [each.get(summary.interval_key(key)) or [np.nan, np.nan] for each in numbers.values()]
  # matplotlib wants lengths of whiskers, not their ends; rounding may leave one below zero.
  low, high = np.array(bounds, float).T
  return values, np.clip([values - low, high - values], 0, None)


def draw_bars(axis, panel: Panel, series: list[Series]):
  labels = list(series[0].numbers)
  places = np.arange(len(labels))
  # The bars of a label share 0.8 of its line, centred on it.
  thick = 0.8 / len(series)
  for number, each in enumerate(series):
    values, whiskers = interval_arrays(each.numbers, panel.key)
    bars = axis.barh(
      places + (number - (len(series) - 1) / 2) * thick,
      values,
      0.92 * thick,
      label=each.name,
      color=each.colors,
      hatch=each.hatch,
      edgecolor="white",
      xerr=whiskers,
      error_kw=dict(ecolor=BLACK, elinewidth=1, capsize=2),
    )
    axis.bar_label(bars, [f"{value:{panel.spec}}" for value in values], padding=3)
  for empty in np.flatnonzero(np.isnan(values)):
    axis.text(0.01, empty, "nothing to check", va="center")
  axis.set_title(panel.title)
  axis.set_yticks(places, labels)
  # Upside down: the first label on top.
  axis.set_ylim(len(labels) - 0.45, -0.55)
  axis.margins(x=0.16)
  if panel.is_rate:
    # Rates share one scale, so that panels can be compared; 20% more is room for the numbers.
    axis.set_xticks(np.arange(0, 1.1, 0.2), [f"{tick}%" for tick in range(0, 101, 20)])
    axis.set_xlim(0, 1.2)


@matplotlib.rc_context(STYLE)
def bar_chart(path, panels: list[Panel], series: list[Series]):
  """Horizontal bars with intervals, a panel under the other."""
  # A line a label, higher with more bars to it.
  rows = len(series[0].numbers)
  height = 0.5 + (0.22 + 0.1 * len(series)) * rows
  figure = Figure(figsize=(WIDTH, height * len(panels) + 0.3), dpi=200, layout="constrained")
  axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
  for axis, panel in zip(axes, panels, strict=True):
    draw_bars(axis, panel, series)
  if len(series) > 1:
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
  figure.savefig(path)


# ---- paired differences
def draw_dots(axis, changes: dict[str, dict], title: str):
  """A line a domain: the change in points with its interval; filled where it is measurable."""
  for place, change in enumerate(changes.values()):
    # In points: a rate of 62% that becomes 77% moved by 15, not by 24%.
    moved = 100 * change["difference"]
    low, high = (100 * bound for bound in change["ci"])
    sure = comparison.is_sure(change)
    # Filled and coloured only where interval and exact test agree; a hollow dot may be luck.
    color = GREY
    if sure:
      color = BLUE if moved > 0 else VERMILLION
    axis.plot([low, high], [place, place], color=color, linewidth=2.2, solid_capstyle="round")
    face = color if sure else "white"
    axis.plot(
      moved, place, "o", color=color, markerfacecolor=face, markersize=7, markeredgewidth=1.8
    )
    label = f"{moved:+.1f}".replace("-", "−")  # as the axis writes it
    axis.annotate(
      label, (moved, place), (0, 6), textcoords="offset points", ha="center", fontsize=8.5
    )
  # What every interval is held against.
  axis.axvline(0, color=BLACK, linewidth=1)
  axis.set_title(title)
  axis.set_yticks(range(len(changes)), [tables.named(name) for name in changes])
  axis.set_ylim(len(changes) - 0.4, -0.75)
  axis.margins(x=0.08)
  axis.tick_params(axis="y", length=0)
  axis.spines["left"].set_visible(False)


@matplotlib.rc_context(STYLE)
def dot_plot(path, comparison_results: dict):
  """Paired differences by domain, after minus before, in points: accuracy, then strict format;
  overall first.
  """
  # The number that the minute's worth quotes comes first.
  by_domain = {"overall": comparison_results["overall"], **comparison_results["domains"]}
  panels = []
  for key, title in (("accuracy", "Accuracy"), ("format", "Strict format")):
    changes = {domain: each[key] for domain, each in by_domain.items() if each[key]}
    if changes:
      panels.append((f"{title}: change in points", changes))
  heights = [len(changes) for _, changes in panels]
  # Every domain's line is as high in one panel as in the other.
  size = (WIDTH, 0.36 * sum(heights) + 0.75 * len(panels) + 0.2)
  figure = Figure(figsize=size, dpi=200, layout="constrained")
  axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
  for axis, (title, changes) in zip(axes, panels, strict=True):
    draw_dots(axis, changes, title)
  figure.supxlabel("● measurable   ○ within chance", fontsize=8.5)
  figure.savefig(path)


# ---- the run behind a checkpoint
def training_chart(checkpoint: str, path) -> bool:
  """Draws metrics.jsonl of the training folder (or of the run around its best/); False where there
  is no curve to draw.
  """
  # A checkpoint may be a run's best/ or params/; its metrics lie in the run's folder.
  source = lineage.run_folder(checkpoint) / "metrics.jsonl"
  if not checkpoint or not source.is_file():
    return False
  # The run may be going on, or have been killed: its last line may be half a line.
  rows = [row for row in jsonl.read_rows(source, torn=True) if "step" in row]
  panels = []
  for title, names in TRAINING_PANELS:
    drawn = [name for name in names if len(curves.known_points(rows, name)[1]) > 1]
    if drawn:
      panels.append((title, drawn))
  titles = [title for title, _ in panels]
  if "Reward" in titles:
    # GRPO's loss is near zero by construction and says nothing.
    panels = [panel for panel in panels if panel[0] != "Loss"]
  if panels:
    curves.plot_curves(rows, panels, path, columns=1)
  return bool(panels)


# ---- what if
def shortened(responses: list[dict], limit: int) -> list[dict]:
  """What a limit of `limit` new tokens would have left of the responses.

  An answer cut before its end has no form, so nothing in it is right, and multi_domain pays nothing
  for it. Other rewards are left as they were.
  """
  return [cut(response) if response["tokens"] > limit else response for response in responses]


def cut(response: dict) -> dict:
  lost = {"format": False, "lenient_format": False, "truncated": True, "partial": 0.0}
  # None stays None: where there was nothing to check there still is not.
  for key in ("correct", "correct_lenient"):
    lost[key] = None if response[key] is None else False
  rewards = response["rewards"]
  if rewards and "multi_domain" in rewards:
    lost["rewards"] = rewards | {"multi_domain": dict.fromkeys(rewards["multi_domain"], 0.0)}
  return response | lost


def sibling_variants(results: dict, out_dir: pathlib.Path) -> dict[str, dict]:
  """{prompt variant: results} of the same weights on the same rows: this one and the complete
  folders beside it.

  {} unless the trained prompt ("") is one of at least two.
  """
  # The digest of the weights tells the same model, whatever its folder is called.
  found = {results["prompt_variant"]: results}
  same = ("weights", "rows", "samples", "temperature", "max_new_tokens")
  for other in sibling_results(out_dir):
    if all(other.get(key) == results[key] for key in same):
      found.setdefault(other["prompt_variant"], other)
  return dict(sorted(found.items())) if len(found) > 1 and "" in found else {}


def sibling_results(out_dir: pathlib.Path) -> list[dict]:
  """results.json of the other complete evaluations beside `out_dir`, each with its folder's name
  under "folder".
  """
  here = out_dir.resolve()
  found = []
  for path in sorted(here.parent.glob("*/results.json")):
    if path.parent == here or not folders.is_complete(path.parent):
      continue
    # A results.json of another program, or one that is being replaced, is no sibling.
    with contextlib.suppress(InputError):
      found.append(tables.read_results(path) | {"folder": path.parent.name})
  return found


# ---- all of them
def draw_charts(results: dict, responses: list[dict], out_dir, checkpoint: str) -> dict[str, str]:
  """{file name: caption} of the charts drawn into out_dir."""
  out_dir = pathlib.Path(out_dir)
  captions = draw_change(results, out_dir)
  captions |= draw_format(results, out_dir)
  captions |= draw_token_limits(results, responses, out_dir)
  captions |= draw_variants(results, out_dir)
  if training_chart(checkpoint, out_dir / "training_curves.png"):
    captions["training_curves.png"] = (
      "The training run of this checkpoint; bold lines are running means."
    )
  return captions


def draw_format(results: dict, out_dir: pathlib.Path) -> dict[str, str]:
  numbers = {
    f"{tables.named(domain)} (n={each['n']})": each
    for domain, each in tables.table_of(results).items()
  }
  panel = Panel("Strict format by domain", "format_rate", ".1%")
  bar_chart(out_dir / "domain_compliance_chart.png", [panel], [Series("", SKY, None, numbers)])
  return {"domain_compliance_chart.png": "Strict format by domain, with 95% Wilson intervals."}


def draw_change(results: dict, out_dir: pathlib.Path) -> dict[str, str]:
  if "compare" not in results:
    return {}
  panels = [
    Panel("Strict format", "format", ".1%"),
    Panel("Accuracy", "accuracy", ".1%"),
    Panel(f"Mean reward ({tables.named(results['recipe'])})", "mean_reward", ".2f"),
  ]

  # A comparison holds before, before_ci, after, after_ci a metric; bars want two tables.
  def side(name: str) -> dict[str, dict]:
    """The numbers before or after, under the names of the panels."""
    numbers = {}
    for domain, changes in tables.table_of(results["compare"]).items():
      here = numbers.setdefault(tables.named(domain), {})
      for panel in panels:
        change = changes[panel.key] or {}
        here[panel.key] = change.get(name)
        here[summary.interval_key(panel.key)] = change.get(f"{name}_ci")
    return numbers

  before = Series("before", ORANGE, "///", side("before"))
  after = Series("after", SKY, None, side("after"))
  bar_chart(out_dir / "before_after.png", panels, [before, after])
  dot_plot(out_dir / "paired_differences.png", results["compare"])
  return {
    "paired_differences.png": "After minus before on the same rows, with 95% intervals.",
    "before_after.png": "Before and after, on the same rows, with 95% intervals.",
  }


def draw_token_limits(
  results: dict, responses: list[dict], out_dir: pathlib.Path
) -> dict[str, str]:
  lengths = [response["tokens"] for response in responses]
  most = results["max_new_tokens"]
  # Only limits that would have cut some answers and left others.
  limits = [limit for limit in LIMITS if min(lengths) <= limit < min(max(lengths), most)]
  if not limits:
    return {}
  panels = [
    Panel("Strict format, by limit of new tokens", "format_rate", ".1%"),
    Panel("Accuracy, by limit", "accuracy", ".1%"),
  ]
  if results["recipe"] == "multi_domain":
    panels.append(Panel("Mean reward (multi domain), by limit", "mean_reward", ".2f"))
  numbers = {}
  for limit in limits:
    # Exactly what that limit would have given: sampling is causal, a token never sees the next.
    left = shortened(responses, limit)
    numbers[f"{limit} tokens"] = summary.summarize(left, results["recipe"])
  numbers[f"{most} tokens"] = results["overall"]
  colors = [ORANGE] * len(limits) + [SKY]
  bar_chart(out_dir / "token_limit.png", panels, [Series("", colors, None, numbers)])
  caption = (
    "The same answers, had the limit been lower: one cut before `</answer>` is worth nothing."
  )
  return {"token_limit.png": caption}


def draw_variants(results: dict, out_dir: pathlib.Path) -> dict[str, str]:
  variants = sibling_variants(results, out_dir)
  if not variants:
    return {}
  panels = [
    Panel("Strict format, by prompt", "format_rate", ".1%"),
    Panel("Accuracy, by prompt", "accuracy", ".1%"),
  ]
  numbers = {
    tables.named(variant) or "as trained": each["overall"] for variant, each in variants.items()
  }
  colors = [SKY] + [ORANGE] * (len(numbers) - 1)
  bar_chart(out_dir / "prompt_mismatch.png", panels, [Series("", colors, None, numbers)])
  return {
    "prompt_mismatch.png": "The same weights and questions, under the trained and spoiled prompts."
  }
