"""What the data stage says about its rows: stats.json, the table on the screen, mixture.png.

`statistics` counts, `print_report` prints the counts and where rows are not as asked, `draw_chart`
draws the shares before and after mixing.
"""

import collections
import math
import pathlib

from lib import contract, mixing, overlap, prompt_lengths, readers


def statistics(rows: list[dict], splits: dict, reasons: dict, tokenizer) -> dict:
  """Domain → what came in, what went out and why not the rest.

  rows: all that were read. splits: split → rows written. reasons: index → why a row was dropped.
  tokenizer: None leaves the token lengths (of the rows written) out.
  """
  pool = collections.Counter(row["domain"] for row in rows)
  written = sum(map(len, splits.values()))
  dropped = collections.Counter()
  for row in rows:
    if row["index"] in reasons:
      # One reason a row: the first check that it failed.
      dropped[row["domain"], reasons[row["index"]]] += 1
  # Domains of the pool and not of the splits: one that was dropped whole must show its 0%.
  table = {}
  for domain in mixing.in_order(pool):
    why = {reason: n for (of, reason), n in sorted(dropped.items()) if of == domain}
    counts = {}
    drawn = []
    for split in contract.SPLITS:
      mine = [row for row in splits[split] if row["domain"] == domain]
      counts[split] = len(mine)
      drawn += mine
    # Val and test rows have targets too: SFT's validation loss is measured on them.
    targets = [row["target"] for row in drawn if "target" in row]
    table[domain] = {
      "pool": pool[domain],
      # Six digits: a share of one row in a million still shows.
      "natural_share": round(pool[domain] / len(rows), 6),
      "mixed_share": round(len(drawn) / written, 6),
      # Clean rows; those that are kept and in no split were not asked for.
      "kept": pool[domain] - sum(why.values()),
      "dropped": why,
      **counts,
      "targets": len(targets),
      "cut": sum(bool(row["metadata"].get("cut")) for row in drawn),
      "prompt_tokens": None,
      "target_tokens": None,
    }
    if tokenizer:
      # Prompts were measured when the long ones were cut; targets are measured here.
      prompts = [row["prompt_tokens"] for row in drawn]
      table[domain]["prompt_tokens"] = percentiles(prompts)
      table[domain]["target_tokens"] = percentiles(prompt_lengths.count_tokens(tokenizer, targets))
  return table


def percentiles(lengths: list[int]) -> dict[str, int] | None:
  """Median, 95th percentile and maximum, by nearest rank; None of nothing."""
  if not lengths:
    return None
  ranked = sorted(lengths)
  found = {}
  for name, fraction in (("p50", 0.5), ("p95", 0.95), ("max", 1)):
    # Nearest rank: of 10 lengths p95 is the 10th smallest, a length that some row has.
    found[name] = ranked[math.ceil(fraction * len(ranked)) - 1]
  return found


COUNTS = ("kept", *contract.SPLITS, "targets")
HEADER = (
  "domain",
  "pool",
  "natural",
  "mixed",
  *COUNTS,
  "prompt p50/p95/max",
  "target",
  "dropped",
)


def print_report(splits: dict, table: dict, shares: dict):
  """Prints the statistics, a line a domain, and where the rows are not as asked."""
  lines = [HEADER]
  for domain, facts in table.items():
    lines.append(table_line(domain, facts))
  # The last column, the reasons, is as wide as it likes: nothing stands to its right.
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  # The domain to the left, numbers to the right, reasons as they are.
  for first, *cells, last in lines:
    middle = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
    readers.say("  ".join([first.ljust(widths[0]), *middle, last]))
  say_what_ran_out(splits, table, shares)
  borrowed = 0
  for split in contract.SPLITS:
    # A row's home follows from its question alone; see `mixing.place_rows`.
    borrowed += sum(row["home"] != split for row in splits[split])
  if borrowed:
    readers.say(
      f"{borrowed:,} rows were borrowed from another split's tenth, as the pool is small: these "
      "could move when it grows"
    )
  say_what_sft_gets(splits)


def table_line(domain: str, facts: dict) -> list[str]:
  why = [f"{count:,} {reason}" for reason, count in facts["dropped"].items()]
  return [
    domain,
    f"{facts['pool']:,}",
    f"{facts['natural_share']:.1%}",
    f"{facts['mixed_share']:.1%}",
    *(f"{facts[name]:,}" for name in COUNTS),
    show_lengths(facts["prompt_tokens"]),
    show_lengths(facts["target_tokens"]),
    ", ".join(why) or "-",
  ]


def show_lengths(lengths: dict | None) -> str:
  return "{p50}/{p95}/{max}".format(**lengths) if lengths else "-"


def say_what_ran_out(splits: dict, table: dict, shares: dict):
  for split in contract.SPLITS:
    for domain, share in shares.items():
      # Of the rows that were drawn: a split that shrank asks for less.
      asked = share * len(splits[split])
      got = table.get(domain, {}).get(split, 0)
      # One row less is rounding, and not worth a line.
      if got + 1 < asked:
        readers.say(
          f"{domain} ran out: {got:,} {split} rows where the mixture asks {asked:,.0f}; the other "
          "domains make up the difference"
        )


def say_what_sft_gets(splits: dict):
  """Rows without a worked solution have no target, and SFT trains on targets alone."""
  training = splits["train"]
  taught = count_targets(training)
  # Some without is usual (GRPO needs only the answers); none at all is likely a mistake.
  if taught == 0:
    readers.say(
      f"none of the {len(training):,} training rows has a worked solution, so SFT has nothing to "
      "train on: start GRPO from the model itself, or name a column of worked solutions with "
      "--reasoning_field"
    )


def count_targets(rows: list[dict]) -> int:
  return sum("target" in row for row in rows)


def leak_report(rows: list[dict], leaks: dict) -> dict:
  """The decontamination rule, what it dropped, and the first 20 cases of it.

  leaks: training row → (evaluation row, the shared words' place), of `overlap.contaminated`.
  """
  examples = []
  # Enough to judge the rule by eye; a leaky pool would have thousands.
  for train, (evaluation, start) in list(leaks.items())[:20]:
    # The words as they were compared, so the place counts words and not characters.
    words = overlap.split_words(rows[train]["question"])
    shared = " ".join(words[start : start + overlap.LEAK_WORDS])
    examples.append(
      {"train": rows[train]["id"], "evaluation": rows[evaluation]["id"], "shared": shared}
    )
  return {
    "rule": f"{overlap.LEAK_WORDS} words in a row, half of them not the domain's own wording",
    "dropped": len(leaks),
    "examples": examples,
  }


def draw_chart(domains: dict, title: str, path: pathlib.Path):
  """Each domain's natural share beside its mixed one."""
  # Without pyplot: half the import time, and no window system is looked for.
  from matplotlib.figure import Figure

  # Grows with the domains, so that bars and labels keep their size.
  height = 0.55 * len(domains) + 1.6  # inches
  # A bar chart counts from the bottom; reversed, it reads in the table's order.
  names = list(domains)[::-1]
  axes = Figure(figsize=(8, height)).add_axes((0.18, 0.65 / height, 0.8, 1 - 1.1 / height))
  # Each: shift of the bar, label, color, and the columns that sum to its number of rows.
  series = (
    (0.2, "natural", "#bbbbbb", ("pool",)),
    (-0.2, "mixed", "#0072b2", contract.SPLITS),
  )
  largest = 0
  for shift, label, color, counted in series:
    share = [100 * domains[name][f"{label}_share"] for name in names]
    largest = max(largest, *share)
    spots = [spot + shift for spot in range(len(names))]
    bars = axes.barh(spots, share, 0.38, color=color, label=label)
    # The rows as well as the share: 3% of 300 and of 30,000 are not the same.
    texts = []
    for name, percent in zip(names, share, strict=True):
      rows = sum(domains[name][key] for key in counted)
      texts.append(f"{percent:.1f}%  {rows:,} rows")
    axes.bar_label(bars, texts, padding=3, fontsize=8)
  axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
  # Room at the right for the text at the end of the longest bar.
  axes.set_xlim(0, 1.3 * largest)
  axes.set(xlabel="share of the rows, %", title=title)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(loc="lower right", frameon=False)
  # Without matplotlib's version in the file, the same data give the same bytes.
  axes.figure.savefig(path, dpi=120, metadata={"Software": None})
