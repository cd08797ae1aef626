"""TODO-DOC charts."""

import contextlib
import math
import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lib import curves, jsonl, summary, tables
from lib.errors import InputError

SKY, ORANGE, BLACK = "#56B4E9", "#E69F00", "#222222"  # Okabe & Ito: told apart by every reader

CURVES = (
  ("Reward", ("reward",)),
  ("Format and accuracy", ("format", "accuracy")),
  ("Loss", ("loss",)),
  ("Completion length, tokens", ("completion_tokens",)),
  ("KL and entropy", ("kl", "entropy")),
)


@matplotlib.rc_context(
  {
    "font.size": 8,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
  }
)
def bar_chart(path, panels: list[tuple], series: list[tuple]):
  """Horizontal bars with intervals, 4.8 inches wide: readable on a phone and in print. No pyplot: a notebook's backend stays.

  panels: (title, key, format); series: (name, colour, hatch, {label: numbers as `summarize` gives them}).
  """
  labels = [label.replace("_", " ") for label in series[0][-1]]
  height = 0.5 + (0.22 + 0.1 * len(series)) * len(labels)
  figure = Figure(figsize=(4.8, height * len(panels) + 0.3), dpi=200, layout="constrained")
  axes, y, thick = (
    figure.subplots(len(panels), 1, squeeze=False)[:, 0],
    np.arange(len(labels)),
    0.8 / len(series),
  )
  for ax, (title, key, spec) in zip(axes, panels):
    for i, (name, colour, hatch, table) in enumerate(series):
      values = np.array([numbers[key] for numbers in table.values()], float)  # None is NaN: no bar
      low, high = np.array(
        [tables.interval(numbers, key) or [np.nan] * 2 for numbers in table.values()], float
      ).T
      bars = ax.barh(
        y + (i - (len(series) - 1) / 2) * thick,
        values,
        0.92 * thick,
        label=name,
        color=colour,
        hatch=hatch,
        edgecolor="white",
        xerr=np.clip([values - low, high - values], 0, None),
        error_kw=dict(ecolor=BLACK, elinewidth=1, capsize=2),
      )
      ax.bar_label(bars, [f"{v:{spec}}" for v in values], padding=3)
    for i in np.flatnonzero(np.isnan(values)):
      ax.text(0.01, i, "nothing to check", va="center")
    ax.set_title(title)
    ax.set_yticks(y, labels)
    ax.set_ylim(len(labels) - 0.45, -0.55)
    ax.margins(x=0.16)
    if spec.endswith("%"):
      ax.set_xticks(np.arange(0, 1.1, 0.2), [f"{t}%" for t in range(0, 101, 20)])
      ax.set_xlim(0, 1.18)
  if len(series) > 1:
    figure.legend(
      *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
  figure.savefig(path)


def training_chart(checkpoint: str, path) -> bool:
  """Draws metrics.jsonl of the training folder (or of the run around its best/); False where there is no curve to draw."""
  folders = [pathlib.Path(checkpoint), pathlib.Path(checkpoint).parent] if checkpoint else []
  source = next((f / "metrics.jsonl" for f in folders if (f / "metrics.jsonl").is_file()), None)
  rows = [row for row in jsonl.read_rows(source, torn=True) if "step" in row] if source else []
  known = lambda x: isinstance(x, (int, float)) and math.isfinite(x)
  drawn = {k for _, keys in CURVES for k in keys if sum(known(row.get(k)) for row in rows) > 1}
  drawn -= (
    {"loss"} if "reward" in drawn else set()
  )  # GRPO's loss is near zero by construction and says nothing
  panels = [
    (title, [k for k in keys if k in drawn]) for title, keys in CURVES if drawn.intersection(keys)
  ]
  if panels:
    curves.plot_curves(rows, panels, path, columns=1)
  return bool(panels)


def shortened(responses: list[dict], limit: int) -> list[dict]:
  """What a limit of `limit` new tokens would have left: an answer cut before its end has no form, so nothing in it is right,
  and multi_domain pays nothing for it. Other rewards are left as they were."""
  nothing = {"format": False, "lenient_format": False, "truncated": True, "partial": 0.0}
  wrong = lambda r: {
    key: None if r[key] is None else False for key in ("correct", "correct_lenient")
  }
  unpaid = lambda r: {
    "rewards": r["rewards"]
    and r["rewards"] | {"multi_domain": dict.fromkeys(r["rewards"]["multi_domain"], 0.0)}
  }
  return [r | nothing | wrong(r) | unpaid(r) if r["tokens"] > limit else r for r in responses]


def draw_charts(results: dict, responses: list[dict], out_dir, checkpoint: str) -> dict:
  """{file name: caption} of the charts drawn into out_dir."""
  captions = {"domain_compliance_chart.png": "Strict format by domain, with 95% Wilson intervals."}
  bar_chart(
    out_dir / "domain_compliance_chart.png",
    [("Strict format by domain, 95% intervals", "format_rate", ".1%")],
    [("", SKY, None, {f"{d} (n={v['n']})": v for d, v in tables.table_of(results).items()})],
  )
  if "compare" in results:
    captions["before_after.png"] = (
      f"Before ({results['compare']['other']}) and after, on the same rows, with 95% intervals."
    )
    panels = [
      ("Strict format", "format", ".1%"),
      ("Accuracy", "accuracy", ".1%"),
      (f"Mean reward ({results['recipe']})", "mean_reward", ".2f"),
    ]
    side = lambda name: {
      d: {key + end: v[key] and v[key][name + end] for _, key, _ in panels for end in ("", "_ci")}
      for d, v in tables.table_of(results["compare"]).items()
    }
    series = [("before", ORANGE, "///", side("before")), ("after", SKY, None, side("after"))]
    bar_chart(out_dir / "before_after.png", panels, series)
  if training_chart(checkpoint, out_dir / "training_curves.png"):
    captions["training_curves.png"] = (
      "The training run of this checkpoint; bold lines are running means."
    )
  longest, most = max(r["tokens"] for r in responses), results["max_new_tokens"]
  if limits := [
    n
    for n in (16, 32, 64, 128, 256, 512)
    if min(r["tokens"] for r in responses) <= n < min(longest, most)
  ]:
    captions["token_limit.png"] = (
      "The same answers, had the limit been lower: one that is cut before `</answer>` is worth nothing."
    )
    panels = [
      ("Strict format, by limit of new tokens", "format_rate", ".1%"),
      ("Accuracy, by limit", "accuracy", ".1%"),
    ]
    if results["recipe"] == "multi_domain":
      panels.append(("Mean reward (multi_domain), by limit", "mean_reward", ".2f"))
    numbers = {
      f"{n} tokens": summary.summarize(shortened(responses, n), results["recipe"]) for n in limits
    }
    bar_chart(
      out_dir / "token_limit.png",
      panels,
      [
        ("", [ORANGE] * len(limits) + [SKY], None, numbers | {f"{most} tokens": results["overall"]})
      ],
    )
  if variants := sibling_variants(results, out_dir):
    captions["prompt_mismatch.png"] = (
      "The same weights and questions, under the trained and spoiled prompts."
    )
    panels = [
      ("Strict format, by prompt", "format_rate", ".1%"),
      ("Accuracy, by prompt", "accuracy", ".1%"),
    ]
    numbers = {k or "as trained": v["overall"] for k, v in variants.items()}
    bar_chart(
      out_dir / "prompt_mismatch.png",
      panels,
      [("", [SKY] + [ORANGE] * (len(numbers) - 1), None, numbers)],
    )
  return captions


def sibling_variants(results: dict, out_dir) -> dict:
  """{prompt variant: results} of the same weights on the same rows: this one and the complete folders beside it."""
  found, here = {results["prompt_variant"]: results}, out_dir.resolve()
  for path in sorted(here.parent.glob("*/results.json")):
    if path.parent != here and (path.parent / "config.json").is_file():
      with contextlib.suppress(
        InputError
      ):  # a results.json of another program, or one that is being replaced
        other = tables.read_results(path)
        if all(
          other.get(k) == results[k]
          for k in ("weights", "rows", "samples", "temperature", "max_new_tokens")
        ):
          found.setdefault(other["prompt_variant"], other)
  return {k: found[k] for k in sorted(found)} if len(found) > 1 and "" in found else {}
