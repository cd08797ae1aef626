"""Pools and public sets → clean, balanced, leak-free rows under one prompt contract.

Reads    --pool: files of questions and answers, or hf:OWNER/NAME data sets; --sources: public sets
         as Kaggle and Hugging Face ship them; with neither, the built-in pool.
Writes   out_dir/{train,val,test}.jsonl, stats.json, mixture.png, for the tiny model
         tokenizer.model, and config.json last.

The story, as `main` tells it: read → clean → verify → mix → split → render → write.

One row, one place: a question's normalised text alone decides whether it may train or evaluate, so
splits stay disjoint and stable when the pool grows. train.jsonl is in mixed order: every window of
rows holds the domains in proportion.

A pool's rows are {"domain", "prompt", "answer", "metadata": {"source", "id", ...}, "reasoning"?},
or plain columns such as question and answer, found by their common names or named by flags.

  python prepare_data.py --pool=my.csv
  python prepare_data.py --pool=pool.jsonl --train_size=10000 --val_size=500 --test_size=500 \\
    --out_dir=artifacts/run/data
"""

import collections
import json
import os
import pathlib
import time

from absl import flags

from lib import (
  builtin_pool,
  checking,
  columns,
  command_line,
  contract,
  data_report,
  folders,
  hub_data,
  joining,
  jsonl,
  meeting,
  mixing,
  overlap,
  own_checks,
  prompt_lengths,
  public_sources,
  readers,
  references,
  sft_targets,
  unified_rows,
)
from lib.errors import InputError

# A set of its own, not absl's global one: notebooks define several scripts' flags side by side.
FLAGS = flags.FlagValues()
flags.DEFINE_list(
  "pool",
  [],
  "Files of rows (JSONL, JSON, CSV, TSV, .gz of these, parquet, zip) or hf:OWNER/NAME[:SPLIT], "
  "comma-separated.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "eval_pool",
  [],
  "Files whose rows alone make val and test; empty: they come from --pool.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "domain",
  "",
  "Domain of pool rows that do not say theirs; empty: by what their answers look like.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "prompt_field", "", "Pool column of the question; empty: by common names.", flag_values=FLAGS
)
flags.DEFINE_string(
  "answer_field", "", "Pool column of the answer; empty: by common names.", flag_values=FLAGS
)
flags.DEFINE_string(
  "reasoning_field",
  "",
  "Pool column of the worked solution, which SFT learns; empty: by common names.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "check",
  [],
  "How answers of domains of your own are checked, e.g. chess=exact,poetry=judge,go=my.py:right; "
  "empty: as their rows say (see lib/own_checks.py).",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "sources",
  [],
  f"Public sets to read: {', '.join(public_sources.SOURCES)}.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "raw_dir",
  "",
  "Folder with their files; empty: /kaggle/input, else downloaded.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "source_rows",
  20000,
  "Most rows to read of one public set, training rows first.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_bool(
  "official_splits",
  True,
  "Rows that a split column, a key or a file's name marks test, dev or validation never train.",
  flag_values=FLAGS,
)
flags.DEFINE_string("out_dir", "artifacts/run/data", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_integer(
  "train_size",
  4000,
  "Training rows, exactly. A size that is not given shrinks with a small pool.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "val_size", 200, "Validation rows, as above.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer("test_size", 400, "Test rows, as above.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_bool(
  "shrink", False, "Sizes that are given shrink with a small pool too.", flag_values=FLAGS
)
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
flags.DEFINE_string("hosts", "none", joining.HELP, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)


def main():
  if meeting.leaves_to_lead(FLAGS.hosts):
    return
  began = time.time()
  out_dir = pathlib.Path(FLAGS.out_dir).expanduser()
  check_flags()
  # Before the rows: a wrong name should fail in seconds, not after minutes of reading.
  tokenizer = open_named_tokenizer()

  rows, digests = read_rows()
  # Split into words once, for duplicates, homes and decontamination alike.
  words = overlap.read_words(rows)
  # Before any row is dropped: a home depends on the question, not on the other rows.
  mixing.place_rows(rows, words.keys, FLAGS.official_splits, bool(FLAGS.eval_pool), FLAGS.seed)
  dropped = overlap.clean(rows, words)
  kept = [row for row in rows if row["index"] not in dropped]
  check_pool(rows, kept)
  # From clean rows: duplicates must not make a domain look large.
  mixing_used, shares = domain_shares(kept)

  splits, leaks, tokenizer = draw_verified(kept, words, shares, dropped, tokenizer)
  # Last, as a cut changes the question that the prompt is made of.
  render(splits)

  # After the draw: which rows leak depends on which were drawn to evaluate.
  dropped |= dict.fromkeys(leaks, "shares 8 words with an evaluation row")
  domains = data_report.statistics(rows, splits, dropped, tokenizer)
  stats = {
    "domains": domains,
    "decontamination": data_report.leak_report(rows, leaks),
    "mixing": mixing_used,
    "target_shares": shares,
  }
  # A tokenizer that was trained here belongs to the data; a named one stays where it is.
  write(out_dir, splits, stats, tokenizer if wants_tiny_tokenizer() else None)
  data_report.print_report(splits, domains, shares)
  counts = {split: len(splits[split]) for split in contract.SPLITS}
  folders.write_config(
    out_dir,
    "data",
    FLAGS,
    FLAGS.style,
    counts=counts,
    inputs=digests,
    targets=data_report.count_targets(splits["train"]),
  )
  written = ", ".join(f"{count:,} {split}" for split, count in counts.items())
  readers.say(f"wrote {written} rows to {out_dir} in {time.time() - began:.1f} s")


def check_flags():
  """Refuses in the first second what reading a large pool would only delay."""
  out_dir = pathlib.Path(FLAGS.out_dir).expanduser()
  if out_dir.exists() and not out_dir.is_dir():
    raise InputError(f"--out_dir={out_dir} is a file; expected a folder")
  folders.check_own(FLAGS.out_dir, "data")
  for name in FLAGS.sources:
    if name not in public_sources.SOURCES:
      valid = ", ".join(public_sources.SOURCES)
      raise InputError(f"--sources names {name!r}; valid: {valid}")
  # Before --domain is looked at, as --check may define the domain that it names.
  own_checks.use([full_check(item) for item in FLAGS.check])
  known = contract.DOMAINS + tuple(own_checks.BY_DOMAIN)
  if FLAGS.domain and FLAGS.domain not in known:
    raise InputError(
      f"--domain={FLAGS.domain} is unknown; valid: {', '.join(known)}, or another with its check, "
      f"as --check={FLAGS.domain}={'|'.join(own_checks.WAYS)}"
    )
  if FLAGS.mixing == "weights":
    mixing.read_weights(FLAGS.domain_weights, own_checks.BY_DOMAIN)
  if FLAGS.prompt_field and FLAGS.prompt_field in (FLAGS.answer_field, FLAGS.reasoning_field):
    raise InputError(
      f"--prompt_field={FLAGS.prompt_field} is also the answer's or the worked solution's column; "
      "expected one of its own"
    )


def full_check(item: str) -> str:
  """--domain=chess --check=exact is short for --check=chess=exact."""
  # Without --domain it stays as it is, and `own_checks.use` says what was expected.
  return item if "=" in item or not FLAGS.domain else f"{FLAGS.domain}={item}"


def wants_tiny_tokenizer() -> bool:
  builtin = not FLAGS.pool and not FLAGS.sources
  return FLAGS.tokenizer == "tiny" or FLAGS.tokenizer == "auto" and builtin


def open_named_tokenizer():
  """The tokenizer that --tokenizer names; None for none, and for the tiny one, which is trained."""
  if FLAGS.tokenizer in ("", "auto", "tiny"):
    return None
  return prompt_lengths.open_tokenizer(os.path.expanduser(FLAGS.tokenizer))


# --- read


def read_rows() -> tuple[list[dict], dict]:
  """All rows with their index, evaluation rows first, and the digest of each input file."""
  digests = {}
  # The mark stays with the row to the split, whatever its columns say.
  rows = [row | {"evaluates": True} for row in read_pools(FLAGS.eval_pool, digests)]
  rows += read_pools(FLAGS.pool, digests)
  raw_dir = os.path.expanduser(FLAGS.raw_dir)
  for name in FLAGS.sources:
    rows += public_sources.read_source(name, raw_dir, FLAGS.source_rows, digests)
  if not FLAGS.pool and not FLAGS.sources:
    for number, row in enumerate(builtin_pool.builtin_pool(FLAGS.seed)):
      rows.append(unified_rows.unified(row, f"built-in pool row {number}"))

  # Of equal rows `clean` keeps the first: a training row never repeats an evaluation row.
  rows.sort(key=lambda row: not (row.get("evaluates") or overlap.only_evaluates(row)))
  seen = {}
  for index, row in enumerate(rows):
    row["index"] = index
    # Reports and resumed evaluations find rows by id, so one id must be one question.
    other = seen.setdefault(row["id"], row)
    if other["question"] != row["question"]:  # else the same row again, which `clean` drops
      raise InputError(
        f"{row['place']}: id {row['id']!r} stands already at {other['place']}, with another "
        "prompt; give each file a metadata.source of its own, or leave the ids out"
      )
  return rows, digests


def read_pools(pools: list[str], digests: dict) -> list[dict]:
  named = columns.Named(FLAGS.domain, FLAGS.prompt_field, FLAGS.answer_field, FLAGS.reasoning_field)
  rows = []
  for pool in pools:
    if pool.startswith(hub_data.PREFIX):
      files = hub_data.fetch(pool)
    else:
      files = readers.named_files(pathlib.Path(pool).expanduser())
    for file in files:
      # config.json tells by it whether two runs had the same data.
      readers.note_digest(file.path, digests)
      # All at once: the domain is guessed from the whole file.
      records = list(readers.read_file(file, "rows of questions and answers"))
      records = hub_data.in_split(records, pool)
      found = columns.to_unified(records, readers.short_name(file), named)
      readers.say(f"read {len(found):,} rows of {file.place}")
      rows += found
  return rows


# --- clean, mix


def check_pool(rows: list[dict], kept: list[dict]):
  """Refuses a pool that nothing can be trained on."""
  # Too few training rows are told later, with numbers; here there is none at all.
  if any(row["side"] != "eval" for row in kept):
    return
  if rows:
    raise InputError(
      f"the pool holds no training row: all {len(rows):,} are for evaluation, by their split "
      "column, their file's name or --eval_pool; add training rows, or pass --official_splits=false"
    )
  raise InputError(
    f"the pool holds no training row: in {', '.join(FLAGS.pool)} none has a question and an "
    "answer; expected rows in --pool, or no --pool for the built-in one"
  )


def domain_shares(kept: list[dict]) -> tuple[str, dict[str, float]]:
  """The mixing that is used, and domain → its share of every split."""
  # Shares are of what may train; an evaluation pool must not shift them.
  counts = collections.Counter(row["domain"] for row in kept if row["side"] != "eval")
  weights = {}
  if FLAGS.mixing == "weights":
    weights = mixing.read_weights(FLAGS.domain_weights, own_checks.BY_DOMAIN)
    if not any(weights.get(domain) for domain in counts):
      raise InputError(
        f"--domain_weights gives a share to {', '.join(weights)} alone, the pool's rows are of "
        f"{', '.join(sorted(counts))}; name these, or mix otherwise"
      )
  elif FLAGS["domain_weights"].present:
    # A recipe may have set them, so this is no mistake for certain.
    readers.say(f"note: --domain_weights has no effect with --mixing={FLAGS.mixing}")
  used = FLAGS.mixing
  if len(counts) == 1 and used == "disco":
    readers.say(f"one domain, {min(counts)}: nothing to mix, its rows count alike")
    used = "natural"
  return used, mixing.mixture(counts, used, FLAGS.disco_temperature, weights)


# What a pool gives the splits where it is smaller than their sizes.
SMALL_POOL = {"train": 0.85, "val": 0.05, "test": 0.1}


def choose_sizes(usable: int, dropped: dict) -> tuple[dict[str, int], frozenset]:
  """(split → rows, the splits whose size may shrink further) for so many usable rows.

  dropped (index → why) tells in the refusal where the others went.
  """
  sizes = {split: FLAGS[f"{split}_size"].value for split in contract.SPLITS}
  # A size on the command line is a promise; a default is only a wish.
  given = [split for split in sizes if FLAGS[f"{split}_size"].present and not FLAGS.shrink]
  flexible = frozenset(sizes) - frozenset(given)
  left = usable - sum(sizes[split] for split in given)
  if sum(sizes.values()) > usable and flexible and left > 0:
    # 1,000 rows, nothing given: 850, 50 and 100. With --test_size=200 the other 800 go to
    # train and val as 85 to 5.
    whole = sum(SMALL_POOL[split] for split in flexible)
    for split in flexible:
      sizes[split] = min(sizes[split], int(left * SMALL_POOL[split] / whole))
  # --shrink: the stages that follow have no use for data without a test.
  empty = sizes["train"] < 1 or (FLAGS.shrink and sizes["test"] < 1)
  if sum(sizes.values()) <= usable and not empty:
    return sizes, flexible
  asked = f"train, val and test together ask for {sum(sizes.values()):,} rows"
  if empty:
    asked = "train and test want ten rows or more"
  reasons = collections.Counter(dropped.values()).most_common()
  why = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
  raise InputError(
    f"{asked}, the pool has {usable:,} clean ones{f' (dropped: {why})' if why else ''}; lower the "
    "sizes or add rows"
  )


# --- verify, split


def draw_verified(
  kept: list[dict], words: overlap.Words, shares: dict, dropped: dict, tokenizer
) -> tuple[dict, dict, object]:
  """(split → rows, leaks, tokenizer), drawn again in the place of what fails until all rows pass.

  Code runs in the sandbox, so checking only what is drawn saves most of the time. `dropped`
  (index → why) grows by what fails. tokenizer: None where none measures, and where the tiny one
  is still to be trained, on the first draw.
  """
  checked = set()
  while True:
    usable = [row for row in kept if row["index"] not in dropped]
    sizes, flexible = choose_sizes(len(usable), dropped)
    splits, leaks = mixing.draw(usable, words, sizes, shares, flexible)
    drawn = [row for rows in splits.values() for row in rows]
    # A new draw holds mostly rows of the last one: these were checked already.
    fresh = [row for row in drawn if row["index"] not in checked]
    checked.update(row["index"] for row in fresh)
    failed = verify(fresh)
    if tokenizer is None and wants_tiny_tokenizer():
      # Trained once: a tokenizer that changed from draw to draw would change the lengths too.
      sound = [row for row in splits["train"] if row["index"] not in failed]
      tokenizer = prompt_lengths.train_tokenizer(sound, FLAGS.style)
    if tokenizer:
      sound = [row for row in fresh if row["index"] not in failed]
      failed |= prompt_lengths.check_lengths(
        sound, tokenizer, FLAGS.max_prompt_tokens, FLAGS.overlong, FLAGS.style
      )
    if not failed:
      return splits, leaks, tokenizer
    # In place: the caller's reasons grow, and the next draw leaves these rows out.
    dropped |= failed


def verify(rows: list[dict]) -> dict[int, str]:
  """{index: why} of rows that no answer, or that their own answer, could not earn anything with."""
  coding = [row for row in rows if row["domain"] == "coding"]
  # "off" leaves coding out, whose references run in the sandbox instead.
  others = [row for row in rows if row["domain"] in checking.checked_domains("off")]
  failed = references.check_code(coding, FLAGS.verify_code == "on")
  return failed | references.check_answers(others)


# --- render, write


def render(splits: dict):
  """Gives every row its prompt and, where a worked solution is known, its SFT target."""
  for rows in splits.values():
    for row in rows:
      row["prompt"] = contract.format_prompt(row["question"], FLAGS.style)
      if target := sft_targets.make_target(row, FLAGS.style):
        row["target"] = target


WRITTEN = ("id", "domain", "question", "prompt", "answer", "target", "metadata")


def write(out_dir: pathlib.Path, splits: dict, stats: dict, tokenizer):
  """Every file but config.json, without which the folder counts as incomplete from here on."""
  out_dir.mkdir(parents=True, exist_ok=True)
  # Removed first: a run that is cut off must not leave an old config beside new rows.
  for name in ("config.json", "tokenizer.model"):
    (out_dir / name).unlink(missing_ok=True)
  for split, rows in splits.items():
    # Working notes (index, side, home, rank) stay out: they are of this run.
    written = [{key: row[key] for key in WRITTEN if key in row} for row in rows]
    jsonl.write_rows(out_dir / f"{split}.jsonl", written)
  if tokenizer:
    (out_dir / "tokenizer.model").write_bytes(tokenizer.serialized_model_proto())
  jsonl.write_text(out_dir / "stats.json", json.dumps(stats, indent=1, ensure_ascii=False) + "\n")
  title = f"{stats['mixing']} mixture of {sum(map(len, splits.values())):,} rows"
  data_report.draw_chart(stats["domains"], title, out_dir / "mixture.png")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__, check_flags)
