"""Pools and public sets -> clean, balanced, leak-free rows under one prompt contract.

Reads    --pool: files of unified rows {"domain", "prompt", "answer", "metadata": {"source", "id", ...}, "reasoning"?},
         --sources: public sets as Kaggle and Hugging Face ship them; with neither, the built-in pool that this file generates.
Writes   out_dir/{train,val,test}.jsonl, stats.json, mixture.png, for the tiny model tokenizer.model, and config.json last.

One row, one place: a question's normalised text alone decides whether it may train or evaluate, so splits stay disjoint and
stable when the pool grows. train.jsonl is in mixed order: every window of rows holds the domains in proportion.

  python prepare_data.py --pool=pool.jsonl --train_size=10000 --val_size=500 --test_size=500 --out_dir=artifacts/run/data
"""

import bisect
import collections
import itertools
import json
import math
import pathlib
import re
import time
from collections.abc import Callable

import numpy as np
from absl import flags

from lib import (
  builtin_pool,
  checking,
  command_line,
  contract,
  folders,
  jsonl,
  loading,
  mixing,
  overlap,
  public_sources,
  readers,
  references,
  sft_targets,
  tokenization,
  tokenizer_check,
)
from lib.errors import InputError

FLAGS = flags.FlagValues()
flags.DEFINE_list("pool", [], "Files of unified rows, comma-separated.", flag_values=FLAGS)
flags.DEFINE_list(
  "eval_pool",
  [],
  "Files whose rows alone make val and test; empty: they come from --pool.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "sources",
  [],
  "Public sets to read: gsm8k, mbpp, sciq, arc_easy, arc_challenge, strategyqa, writingprompts, "
  "dolly, no_robots, cnn_dailymail, xsum.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "raw_dir",
  "",
  "Folder with their files; empty: /kaggle/input, else downloaded.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "source_rows", 20000, "Most rows to read of one public set.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_bool(
  "official_splits",
  True,
  "Rows that their source marks test, dev or validation never train.",
  flag_values=FLAGS,
)
flags.DEFINE_string("out_dir", "artifacts/run/data", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_integer(
  "train_size", 4000, "Training rows, exactly.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("val_size", 200, "Validation rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("test_size", 400, "Test rows, exactly.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_enum(
  "mixing",
  "disco",
  ["disco", "weights", "natural"],
  "How domains share the rows.",
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "disco_temperature",
  0.5,
  "T in share ~ p^T: 1 keeps the natural shares, 0 makes them equal.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "domain_weights",
  ["math=0.35", "coding=0.30", "science=0.20", "logic=0.15"],
  "Shares under --mixing=weights; a domain that is not named gets none.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "tokenizer",
  "auto",
  "Measures prompts: tiny (trained here), gemma-3-270m-it, gemma-3-1b-it, a folder with "
  "tokenizer.model, empty for none; auto: tiny for the built-in pool, else none.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "max_prompt_tokens",
  1024,
  "Longest prompt, in tokens, <bos> included.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "overlong",
  "cut",
  ["cut", "drop"],
  "A longer prompt is dropped, or in creative domains cut at a sentence and marked.",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "style", "tags", list(contract.STYLES), "Prompt and target format.", flag_values=FLAGS
)
flags.DEFINE_enum(
  "verify_code",
  "on",
  ["on", "off"],
  "Drop coding rows whose reference fails its own tests.",
  flag_values=FLAGS,
)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)


def open_tokenizer(folder: str):
  """The SentencePieceProcessor of a folder, or of a model by its name."""
  import sentencepiece

  folder = loading.resolve_model(folder)
  tokenizer_check.check_tokenizer_files(folder)
  return sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")


def train_tokenizer(rows: list[dict], style: str):
  """The tiny model's tokenizer, from the prompts and targets of training rows."""
  import sentencepiece

  texts = (
    contract.format_prompt(row["question"], style)
    + (sft_targets.make_target(row, style) or row["answer"])
    for row in rows
  )
  return sentencepiece.SentencePieceProcessor(model_proto=tokenization.train_tokenizer(texts))


def count_tokens(tokenizer, texts: list[str]) -> list[int]:
  return [
    len(ids) + 1 for ids in tokenizer.encode(texts)
  ]  # + 1: <bos> before a prompt, the stop token after a target


def cut(question: str, fits: Callable) -> str | None:
  """The longest text that fits: whole sentences from the start, a mark, and the last line where it is short, for that is where
  many instructions stand. Falls back to words; None where no word fits."""
  body, _, last = question.rpartition("\n")
  if not body or len(last) > 200:
    body, last = question, ""
  tail = " […]" + (f"\n{last}" if last else "")
  for boundary in (r"(?<=[.!?])[\"'”’)\]]*(?=\s)", r"(?=\s)"):
    ends = [match.end() for match in re.finditer(boundary, body)]
    fitting = bisect.bisect_left(ends, True, key=lambda end: not fits(body[:end] + tail))
    if fitting:
      return body[: ends[fitting - 1]] + tail
  return None


def check_lengths(
  rows: list[dict], tokenizer, limit: int, overlong: str, style: str
) -> dict[int, str]:
  """Cuts creative questions whose prompt is over `limit` tokens; others are named to be dropped: what goes may be what is asked."""
  measure = lambda questions: count_tokens(
    tokenizer, [contract.format_prompt(question, style) for question in questions]
  )
  if (least := measure([""])[0]) >= limit:
    raise InputError(
      f"--max_prompt_tokens={limit} leaves no room for a question: the text around it takes {least}"
    )
  dropped = {}
  for row, tokens in zip(rows, measure([row["question"] for row in rows])):
    row["prompt_tokens"] = tokens
    if tokens > limit:
      may_cut = overlong == "cut" and row["domain"] in contract.CREATIVE_DOMAINS
      shorter = cut(row["question"], lambda text: measure([text])[0] <= limit) if may_cut else None
      if shorter is None:
        dropped[row["index"]] = "prompt too long"
      else:
        row |= {
          "question": shorter,
          "prompt_tokens": measure([shorter])[0],
          "metadata": row["metadata"] | {"cut": True},
        }
  return dropped


# --------------------------------------------------------------------------------------------------------------------- output
def statistics(rows: list[dict], splits: dict, reasons: dict, tokenizer) -> dict:
  """Domain -> what came in, what went out and why not the rest. Token lengths are of the rows written, nearest rank."""
  ranks = {"p50": 0.5, "p95": 0.95, "max": 1}
  lengths = lambda found: (
    {name: sorted(found)[math.ceil(q * len(found)) - 1] for name, q in ranks.items()}
    if found
    else None
  )
  pool, table = collections.Counter(row["domain"] for row in rows), {}
  dropped = collections.Counter(
    (row["domain"], reasons[row["index"]]) for row in rows if row["index"] in reasons
  )
  for d in (d for d in contract.DOMAINS if d in pool):
    why = {reason: n for (domain, reason), n in sorted(dropped.items()) if domain == d}
    mine = {
      split: [row for row in splits[split] if row["domain"] == d] for split in contract.SPLITS
    }
    drawn = sum(mine.values(), [])
    targets = [row["target"] for row in drawn if "target" in row]
    table[d] = {
      "pool": pool[d],
      "natural_share": round(pool[d] / len(rows), 6),
      "mixed_share": round(len(drawn) / sum(map(len, splits.values())), 6),
      "kept": pool[d] - sum(why.values()),
      "dropped": why,
      **{split: len(mine[split]) for split in contract.SPLITS},
      "targets": len(targets),
      "cut": sum(bool(row["metadata"].get("cut")) for row in drawn),
      "prompt_tokens": lengths([row["prompt_tokens"] for row in drawn]) if tokenizer else None,
      "target_tokens": lengths(count_tokens(tokenizer, targets)) if tokenizer else None,
    }
  return table


def report(splits: dict, table: dict, shares: dict):
  """Prints the statistics, a line a domain, and where the rows are not as asked."""
  tokens = lambda x: "{p50}/{p95}/{max}".format(**x) if x else "-"
  lines = [
    [
      "domain",
      "pool",
      "natural",
      "mixed",
      "kept",
      *contract.SPLITS,
      "targets",
      "prompt p50/p95/max",
      "target",
      "dropped",
    ]
  ]
  for d, s in table.items():
    lines.append(
      [
        d,
        f"{s['pool']:,}",
        f"{s['natural_share']:.1%}",
        f"{s['mixed_share']:.1%}",
        *(f"{s[key]:,}" for key in ("kept", *contract.SPLITS, "targets")),
        tokens(s["prompt_tokens"]),
        tokens(s["target_tokens"]),
        ", ".join(f"{n:,} {reason}" for reason, n in s["dropped"].items()) or "-",
      ]
    )
  widths = [max(map(len, column)) for column in zip(*lines)]
  for first, *cells, last in lines:
    readers.say("  ".join([first.ljust(widths[0]), *map(str.rjust, cells, widths[1:]), last]))
  for split, d in itertools.product(contract.SPLITS, shares):
    asked, got = shares[d] * len(splits[split]), table.get(d, {}).get(split, 0)
    if got + 1 < asked:
      readers.say(
        f"{d} ran out: {got:,} {split} rows where the mixture asks {asked:,.0f}; the other domains make up the difference"
      )
  if borrowed := sum(row["home"] != split for split in contract.SPLITS for row in splits[split]):
    readers.say(
      f"{borrowed:,} rows were borrowed from another split's tenth, as the pool is small: these could move when it grows"
    )


def draw_mixture(domains: dict, title: str, path: pathlib.Path):
  """Each domain's natural share beside its mixed one."""
  from matplotlib.figure import (
    Figure,  # without pyplot: half the import time, and no window system is looked for
  )

  height, names = 0.55 * len(domains) + 1.6, list(domains)[::-1]
  axes = Figure(figsize=(8, height)).add_axes((0.18, 0.65 / height, 0.8, 1 - 1.1 / height))
  for shift, label, color, rows in (
    (0.2, "natural", "#bbbbbb", ["pool"]),
    (-0.2, "mixed", "#0072b2", contract.SPLITS),
  ):
    share = [100 * domains[d][f"{label}_share"] for d in names]
    bars = axes.barh(np.arange(len(names)) + shift, share, 0.38, color=color, label=label)
    texts = [
      f"{x:.1f}%  {sum(domains[d][key] for key in rows):,} rows" for x, d in zip(share, names)
    ]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
  axes.set_yticks(range(len(names)), [d.replace("_", " ") for d in names])
  axes.set_xlim(0, 130 * max(max(d["natural_share"], d["mixed_share"]) for d in domains.values()))
  axes.set(xlabel="share of the rows, %", title=title)
  axes.spines[["top", "right"]].set_visible(False)
  axes.legend(loc="lower right", frameon=False)
  axes.figure.savefig(path, dpi=120, metadata={"Software": None})


def leak_report(rows: list[dict], leaks: dict) -> dict:
  """The decontamination rule, what it dropped, and the first 20 cases of it."""
  examples = [
    {
      "train": rows[i]["id"],
      "evaluation": rows[j]["id"],
      "shared": " ".join(
        overlap.split_words(rows[i]["question"])[start : start + overlap.LEAK_WORDS]
      ),
    }
    for i, (j, start) in leaks.items()
  ]
  return {
    "rule": f"{overlap.LEAK_WORDS} words in a row, half of them not the domain's own wording",
    "dropped": len(leaks),
    "examples": examples[:20],
  }


def write(out_dir: pathlib.Path, splits: dict, stats: dict, tokenizer):
  """Every file but config.json, without which the folder counts as incomplete from here on."""
  out_dir.mkdir(parents=True, exist_ok=True)
  for name in ("config.json", "tokenizer.model"):
    (out_dir / name).unlink(missing_ok=True)
  keys = ("id", "domain", "question", "prompt", "answer", "target", "metadata")
  for split, rows in splits.items():
    lines = [
      json.dumps({key: row[key] for key in keys if key in row}, ensure_ascii=False) + "\n"
      for row in rows
    ]
    jsonl.write_text(out_dir / f"{split}.jsonl", "".join(lines))
  if tokenizer:
    (out_dir / "tokenizer.model").write_bytes(tokenizer.serialized_model_proto())
  jsonl.write_text(out_dir / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
  title = f"{stats['mixing']} mixture of {sum(map(len, splits.values())):,} rows"
  draw_mixture(stats["domains"], title, out_dir / "mixture.png")


def load(
  pools: list, eval_pools: list, sources: list, raw_dir: str, limit: int, seed: int
) -> tuple[list[dict], dict]:
  """All rows with their index, evaluation rows first, and the digest of each input file."""
  rows, seen, digests = [], {}, {}
  if unknown := [name for name in sources if name not in public_sources.SOURCES]:
    raise InputError(f"--sources names {unknown[0]!r}; valid: {', '.join(public_sources.SOURCES)}")
  for i, path in enumerate(map(pathlib.Path, [*eval_pools, *pools])):
    found = [
      readers.unified(row, place)
      for place, row in readers.read_file(path, lambda row: row, "unified rows", digests)
    ]
    rows += [row | {"evaluates": True} for row in found] if i < len(eval_pools) else found
    readers.say(f"read {len(found):,} rows of {path}")
  for name in sources:
    rows += public_sources.read_source(name, raw_dir, limit, digests)
  if not pools and not sources:
    rows += [
      readers.unified(row, f"built-in pool row {i}")
      for i, row in enumerate(builtin_pool.builtin_pool(seed))
    ]
  rows.sort(
    key=lambda row: not (row.get("evaluates") or overlap.only_evaluates(row))
  )  # of equal rows `clean` keeps the first
  for i, row in enumerate(rows):
    other, row["index"] = seen.setdefault(row["id"], row), i
    if other["question"] != row["question"]:  # else the same row again, which `clean` drops
      raise InputError(
        f"{row['place']}: id {row['id']!r} stands already at {other['place']}, with another prompt; give each file "
        "a metadata.source of its own, or leave the ids out"
      )
  return rows, digests


def check_pool(kept: list[dict], counts: dict, total: int, mixing: str):
  if not counts:
    raise InputError(
      "the pool holds no training row; expected JSONL rows in --pool, or no --pool for the built-in one"
    )
  if len(counts) == 1 and mixing == "disco":
    raise InputError(
      f"the pool holds one domain, {min(counts)}: nothing to mix; add domains or pass --mixing=natural"
    )
  if total > len(kept):
    raise InputError(
      f"train, val and test together ask for {total:,} rows, the pool has {len(kept):,} clean ones; lower the "
      "sizes or add rows"
    )


def main():
  began, style, out_dir = time.time(), FLAGS.style, pathlib.Path(FLAGS.out_dir)
  sizes = {split: FLAGS[f"{split}_size"].value for split in contract.SPLITS}
  weights = mixing.read_weights(FLAGS.domain_weights) if FLAGS.mixing == "weights" else {}
  if out_dir.exists() and not out_dir.is_dir():
    raise InputError(f"--out_dir={out_dir} is a file; expected a folder")
  auto = "" if FLAGS.pool or FLAGS.sources else "tiny"
  named = auto if FLAGS.tokenizer == "auto" else FLAGS.tokenizer
  tokenizer = open_tokenizer(named) if named not in ("", "tiny") else None
  rows, digests = load(
    FLAGS.pool, FLAGS.eval_pool, FLAGS.sources, FLAGS.raw_dir, FLAGS.source_rows, FLAGS.seed
  )
  words = overlap.read_words(rows)
  mixing.place_rows(rows, words.keys, FLAGS.official_splits, bool(FLAGS.eval_pool), FLAGS.seed)
  dropped = overlap.clean(rows, words)
  kept = [row for row in rows if row["index"] not in dropped]
  counts = collections.Counter(row["domain"] for row in kept if row["side"] != "eval")
  check_pool(kept, counts, sum(sizes.values()), FLAGS.mixing)
  shares, checked, bad = (
    mixing.mixture(counts, FLAGS.mixing, FLAGS.disco_temperature, weights),
    set(),
    True,
  )
  while bad:  # rows are checked when they are drawn, and others drawn in the place of what fails, until all pass
    splits, leaks = mixing.draw(
      [row for row in kept if row["index"] not in dropped], words, sizes, shares
    )
    drawn = sum(splits.values(), [])
    fresh = [row for row in drawn if row["index"] not in checked]
    checked.update(row["index"] for row in fresh)
    bad = references.check_code(
      [row for row in fresh if row["domain"] == "coding"], FLAGS.verify_code == "on"
    )
    bad |= references.check_answers(
      [row for row in fresh if row["domain"] in checking.checked_domains("off")]
    )
    if named == "tiny" and not tokenizer:
      tokenizer = train_tokenizer(
        [row for row in splits["train"] if row["index"] not in bad], style
      )
    if tokenizer:
      fresh = [row for row in fresh if row["index"] not in bad]
      bad |= check_lengths(fresh, tokenizer, FLAGS.max_prompt_tokens, FLAGS.overlong, style)
    dropped |= bad
  for row in drawn:
    row["prompt"] = contract.format_prompt(row["question"], style)
    if target := sft_targets.make_target(row, style):
      row["target"] = target
  domains = statistics(
    rows, splits, dropped | dict.fromkeys(leaks, "shares 8 words with an evaluation row"), tokenizer
  )
  stats = {
    "domains": domains,
    "decontamination": leak_report(rows, leaks),
    "mixing": FLAGS.mixing,
    "target_shares": shares,
  }
  write(out_dir, splits, stats, tokenizer if named == "tiny" else None)
  report(splits, domains, shares)
  sizes = {split: len(splits[split]) for split in contract.SPLITS}
  folders.write_config(out_dir, "data", FLAGS, style, counts=sizes, inputs=digests)
  readers.say(
    f"wrote {', '.join(f'{n:,} {split}' for split, n in sizes.items())} rows to {out_dir} in {time.time() - began:.1f} s"
  )


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
