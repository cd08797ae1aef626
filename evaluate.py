"""Evaluates any model on rows it did not train on: what it gets right, and how sure that is.

Reads   data_dir/{split}.jsonl as prepare_data.py rendered it, a base model, and optionally a
        checkpoint to put on it.
Writes  out_dir/responses.jsonl (a row per response; grows while running, so that an interrupted run
        continues), results.json, report.md, report.html (one file, no network), *.png, and
        config.json last.

  python evaluate.py --checkpoint=artifacts/run/grpo --compare=artifacts/run/eval_sft/results.json
  python evaluate.py --table=artifacts/run                  # base, SFT, GRPO
  python evaluate.py --table=artifacts/a,artifacts/b      # a sweep, paired against its first
  python evaluate.py --ask="What is 12 * 7?" --checkpoint=artifacts/run/grpo

rows → prompts → responses → verdicts → numbers → report. A response's verdicts are the ones that
training rewards, read by the same functions. Prompts are used exactly as trained; --prompt_variant
spoils them on purpose, to measure what a mismatch costs. A judge (--judge_url) grades the domains
without a right answer; its key is read from JUDGE_API_KEY.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import pathlib
import re
import sys
import time
from typing import NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

import rewards
from lib import (
  answering,
  asking,
  command_line,
  comparison,
  contract,
  devices,
  failures,
  findings,
  folders,
  hosts,
  joining,
  jsonl,
  lineage,
  loading,
  meeting,
  own_checks,
  own_rewards,
  parameters,
  report,
  runs,
  sampling,
  summary,
  sweep,
  tables,
  verdicts,
)
from lib.errors import InputError, Stopped

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string(
  "data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS
)
flags.DEFINE_string("split", "test", "Rows to evaluate: train, val or test.", flag_values=FLAGS)
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "checkpoint",
  "",
  "SFT, GRPO or PEFT adapter folder to put on the model; empty: the model itself.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "compare",
  "",
  "results.json of another model on the same rows; empty: no comparison.",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "prompt_variant",
  "",
  ["", "extra_space", "no_newline", "one_newline", "indented", "no_system"],
  "Render prompts unlike training on purpose; empty: as trained.",
  flag_values=FLAGS,
)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/eval", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_boolean(
  "overwrite", False, "Replace what out_dir holds from an earlier run.", flag_values=FLAGS
)
flags.DEFINE_list(
  "table",
  [],
  "Only print the table of the eval_*/results.json under this folder; several runs, A,B,C: what "
  "differs between them and their "
  "paired changes; empty: evaluate.",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "table_format",
  "text",
  list(sweep.FORMATS),
  "How --table prints several runs.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "ask",
  "",
  "Only ask the model this question and print its answer as it is written, with a checkpoint "
  "before and after training; "
  "empty: evaluate.",
  flag_values=FLAGS,
)
# Size and sampling.
flags.DEFINE_integer(
  "limit",
  0,
  "Rows to evaluate, from the top of the file; 0: all.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "batch_size",
  0,
  "Responses sampled together; 0: what fits in memory.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "samples",
  1,
  "Responses to a prompt; above 1 adds pass@k and maj@k.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_float(
  "temperature", 0.0, "Sampling temperature; 0 is greedy.", lower_bound=0, flag_values=FLAGS
)
flags.DEFINE_integer(
  "max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS
)
# Scoring.
flags.DEFINE_string(
  "rewards",
  "multi_domain",
  f"Rewards behind mean_reward: {', '.join(rewards.SYSTEMS)}, or your own as FILE.py:FUNCTION; "
  "several with commas, each with =WEIGHT. All systems are reported.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "judge_url",
  "",
  "OpenAI-compatible endpoint that grades the domains without a right answer, with the key in "
  "JUDGE_API_KEY; empty: no judge.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "judge_model", "deepseek-reasoner", "Model name at --judge_url.", flag_values=FLAGS
)
flags.DEFINE_list(
  "check",
  [],
  "How answers of domains of your own are checked, e.g. chess=exact,poetry=judge,go=my.py:right; "
  "empty: as their rows say (see lib/own_checks.py).",
  flag_values=FLAGS,
)
flags.DEFINE_enum(
  "code_rewards",
  "on",
  ["on", "off"],
  "Run answers' code in the sandbox; off: it is not checked.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "by",
  "",
  "Metadata field whose values have a table of their own, such as source, level or type; empty: "
  "none.",
  flag_values=FLAGS,
)
# Misc.
flags.DEFINE_string("hosts", "none", joining.HELP, flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)
flags.DEFINE_string(
  "mesh", "auto", "Devices as FSDPxTP, e.g. 4x2; auto: all devices on fsdp.", flag_values=FLAGS
)
flags.DEFINE_string(
  "dtype",
  "auto",
  "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
  flag_values=FLAGS,
)
flags.DEFINE_boolean(
  "allow_prompt_mismatch",
  False,
  "Go on although the data was rendered with another prompt text.",
  flag_values=FLAGS,
)


# ---- rows and prompts
def without_system(prompt: str) -> str:
  # What a user's turn is without the instructions.
  _, task, question = prompt.partition("Task: ")
  return f"{contract.TURN_START}user\n{question}" if task else prompt


def indented(prompt: str) -> str:
  """The user's turn indented by four spaces, as in an indented triple-quoted string."""

  def indent(turn: re.Match) -> str:
    # (?=.) spares empty lines, as editors leave no spaces on them.
    return re.sub(r"(?m)^(?=.)", "    ", turn[0])

  # From after "user" to the end of the turn; (?s) lets the dot cross lines.
  return re.sub(rf"(?s)(?<=user\n).*(?={contract.TURN_END})", indent, prompt)


def extra_space(prompt: str) -> str:
  # One space more, which no reader sees; it tokenizes differently.
  return prompt.replace("Task: ", "Task:  ", 1)


def no_newline(prompt: str) -> str:
  # Without the newline behind "model" the model must write it, which it was never trained to do.
  return prompt.removesuffix("\n")


def one_newline(prompt: str) -> str:
  return prompt.replace("\n\nTask: ", "\nTask: ", 1)


# Name → the trained prompt, spoiled. Each is a mistake of published notebooks; one cost 39 points
# of strict format.
VARIANTS = {
  "extra_space": extra_space,
  "no_newline": no_newline,
  "one_newline": one_newline,
  "indented": indented,
  "no_system": without_system,
}


def load_rows(
  data_dir, split: str, limit: int, variant: str, allow_mismatch: bool
) -> tuple[list[dict], dict]:
  """Checked rows and the data folder's config; prompts as trained, or spoiled by `variant`."""
  # A half-written folder, or one of another prompt text, is refused before anything is loaded.
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  path = pathlib.Path(data_dir) / f"{split}.jsonl"
  rows = jsonl.read_rows(path, needed=jsonl.PREPARED)
  if not rows:
    raise InputError(f"{path} is empty; prepare the data with a larger --{split}_size")
  # Ids pair two evaluations and resume one: a repeated id would lose a row.
  seen = set()
  for number, row in enumerate(rows, 1):
    if problem := problem_of(row, seen):
      raise InputError(f"{path}:{number} {problem}; make the rows with prepare_data.py")
    seen.add(row["id"])
  # After the check: a fault further down is told at once, and not in a later run.
  rows = rows[: limit or None]
  return spoil(rows, variant, path) if variant else rows, config


def problem_of(row: dict, seen: set[str]) -> str:
  """What keeps a row from being evaluated; "" for a good one. seen: the ids before it."""
  lacks = [name for name in jsonl.PREPARED if not isinstance(row[name], str)]
  if lacks:
    return f"has no text for {', '.join(lacks)}"
  if row["id"] in seen:
    return f"repeats the id {row['id']!r}"
  try:
    # Found now rather than when responses.jsonl is written, after hours.
    json.dumps(row, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    return "holds half of a surrogate pair, which is no text"
  return ""


def check_field(rows: list[dict], field: str):
  """Refuses a --by that no row has."""
  known = sorted({name for row in rows for name in row.get("metadata") or {}})
  if field and field not in known:
    raise InputError(
      f"--by={field}: no row has it in its metadata; expected one of {', '.join(known) or 'none'}"
    )


def spoil(rows: list[dict], variant: str, path) -> list[dict]:
  """The rows with their prompts spoiled by a variant; refused where that changes nothing."""
  # Only the prompt: question and answer stay, so that the same answers are right.
  spoiled = [{**row, "prompt": VARIANTS[variant](row["prompt"])} for row in rows]
  for trained, row in zip(rows, spoiled, strict=True):
    if trained["prompt"] == row["prompt"]:
      raise InputError(
        f"--prompt_variant={variant} changes nothing in the prompts of {path}; use another variant"
      )
  return spoiled


def overlap_of(data_dir) -> dict | None:
  """What prepare_data.py noted on training rows that it left out for sharing evaluation words.

  None for data that something else prepared: what those rows share with the training rows is not
  known.
  """
  path = pathlib.Path(data_dir) / "stats.json"
  if not path.is_file():
    return None
  # prepare_data.py drops such training rows, so there is nothing left to look for here.
  stats = json.loads(path.read_text(encoding="utf-8"))
  left_out = stats.get("decontamination", {})
  # All domains' training rows: what the evaluated rows could have been seen in.
  trained = sum(domain.get("train", 0) for domain in stats.get("domains", {}).values())
  return {"train_rows": trained, "rule": left_out.get("rule"), "dropped": left_out.get("dropped")}


def trained_elsewhere(checkpoint: str, data_dir) -> bool:
  """Whether `checkpoint` was trained on another train.jsonl than that beside the evaluated rows."""
  path = pathlib.Path(data_dir) / "train.jsonl"
  if not checkpoint or not path.is_file():
    return False
  # By content: a copied folder is the same data, another file of that name is not.
  noted = folders.read_run(str(lineage.run_folder(checkpoint))).get("inputs", {}).get("data_dir")
  return bool(noted) and noted != folders.digest(str(path))


def check_trained_prompt(checkpoint: str, data_dir: str, data: dict, allow_mismatch: bool) -> bool:
  """Whether the checkpoint's prompt is another than the data's, which is refused unless allowed."""
  # An adapter of another program says nothing about prompts.
  is_peft = (pathlib.Path(checkpoint) / "adapter_config.json").is_file()
  if not checkpoint or is_peft:
    return False
  trained, _ = loading.read_checkpoint_here(checkpoint)
  if trained["prompt_hash"] == data["prompt_hash"]:
    return False
  if not allow_mismatch:
    raise InputError(
      f"{checkpoint} was trained with prompt {trained['prompt_hash']} (style {trained['style']}), "
      f"{data_dir} holds "
      f"{data['prompt_hash']} (style {data['style']}); evaluate on the data it was trained on, or "
      "pass "
      "--allow_prompt_mismatch"
    )
  return True


# ---- the folder, and going on where an interrupted run stopped
def digest_json(value) -> str:
  # Sorted, so that the order of keys says nothing; `default`: what JSON lacks, by its text.
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_digest(policy: loading.Policy, checkpoint: str) -> str:
  """16 hex digits of the base's fingerprint and of what a checkpoint put on it."""
  # The names too: the same numbers in another place are another model.
  parts = [policy.fingerprint]
  if checkpoint:
    # An adapter is small; after a full-parameter run this reads every weight once.
    changed = parameters.flat_params(policy.model, parameters.trainable(policy.model))
    for name, value in sorted(changed.items()):
      parts.append((name, hashlib.sha256(hosts.whole(value)).hexdigest()))
  return digest_json(parts)


def open_folder(out_dir: pathlib.Path, identity: dict, overwrite: bool) -> list[dict]:
  """Responses that an interrupted run left in `out_dir`; other flags, rows or weights: refused."""
  # Two evaluations that append to one file would interleave their rows.
  runs.lock_folder(str(out_dir))
  path = out_dir / "responses.jsonl"
  if overwrite:
    (out_dir / "run.json").unlink(missing_ok=True)
  # run.json says what the responses here were made with.
  started = runs.begin_run_here(str(out_dir), "", identity, may_change=(), begun="flags")
  if not started or not path.is_file():
    path.write_bytes(b"")
  for name in ("config.json", "results.json"):  # complete no more, until this run ends
    (out_dir / name).unlink(missing_ok=True)
  # A last line without its end was torn: its row is sampled again.
  whole, newline, _ = path.read_bytes().rpartition(b"\n")
  # Trimmed on disk as well, or the next row would be glued to the torn one.
  jsonl.write_text(path, (whole + newline).decode())
  return jsonl.read_rows(path)


def split_done(rows: list[dict], kept: list[dict], samples: int) -> tuple[list[dict], list[dict]]:
  """(the responses of `kept` that stay, the rows that are still to be answered).

  A row counts as done with all its samples; one that is half done is sampled again, whole.
  """
  done = set()
  for row_id, responses in summary.grouped(kept, summary.row_of).items():
    if len(responses) == samples:
      done.add(row_id)
  stay = [response for response in kept if response["id"] in done]
  return stay, [row for row in rows if row["id"] not in done]


class Checks(NamedTuple):
  """What responses are checked with, and the file they go to."""

  policy: loading.Policy
  style: str
  systems: dict[str, list]  # reward system → its functions
  code_rewards: str  # on or off
  path: pathlib.Path  # responses.jsonl


def check_batch(checks: Checks, part: list[dict], completions: np.ndarray) -> list[dict]:
  """The scored responses to this host's share of a batch; completions: ids (B, G, T)."""
  share = hosts.own_share(len(part))
  if not part[share]:  # fewer rows than hosts
    return []
  earlier = collections.Counter(failures.failed_rows())
  unscored = verdicts.responses_of(checks.policy, part[share], completions[share])
  scored = verdicts.score(unscored, checks.style, checks.systems, checks.code_rewards)
  if missed := collections.Counter(failures.failed_rows()) - earlier:
    # Of the batch: a run that is continued or judged later must not forget them.
    scored[0]["failures"] = dict(missed)
  # On disk at once; of several hosts the others' rows are not known yet.
  if not hosts.several():
    jsonl.append_rows(checks.path, scored)
  return scored


def collect_batch(checks: Checks, checked: concurrent.futures.Future) -> list[dict]:
  """All scored responses of a batch; the hosts meet here, in the main thread."""
  scored = checked.result()
  if not hosts.several():
    return scored
  responses = list(itertools.chain.from_iterable(hosts.gather(scored)))
  jsonl.append_rows(checks.path, responses)
  return responses


def sample_and_score(
  checks: Checks, rows: list[dict], kept: list[dict], **drawn
) -> tuple[list[dict], dict]:
  """(all responses to `rows` in their order, those in `kept` included; the speed).

  Checking answers (sandbox, symbolic maths) runs beside the sampling of the next batch; of several
  hosts each checks some rows of a batch. drawn: options of `answering.generate`.
  """
  responses, todo = split_done(rows, kept, drawn["samples"])
  done = len(rows) - len(todo)
  if done:
    command_line.say(f"{done} of {len(rows)} rows are already in {checks.path}; {len(todo)} to go")
  # Also drops the half of a row that is sampled again.
  jsonl.write_rows(checks.path, responses)

  tokens = 0
  start = time.monotonic()
  checked = None  # the batch before, being checked
  between_lines = 0.1 if sys.stderr.isatty() else 30  # seconds of the bar
  bar = tqdm(
    total=len(rows),
    initial=done,
    unit="row",
    mininterval=between_lines,
    disable=not hosts.is_lead(),
  )
  try:
    # One thread: one batch at a time, so that rows reach the file in order.
    with concurrent.futures.ThreadPoolExecutor(1) as checker, bar:
      # The device samples this batch while the CPU checks the one before.
      for part, completions in answering.generate(checks.policy, todo, **drawn) if todo else ():
        if checked:
          responses += collect_batch(checks, checked)
        checked = checker.submit(check_batch, checks, part, completions)
        # What the model wrote, not the padding behind the stop token.
        tokens += int(sampling.completion_lengths(completions)[0].sum())
        per_second = tokens / (time.monotonic() - start)
        bar.set_postfix_str(f"{per_second:.0f} tokens/s", refresh=False)
        bar.update(len(part))
      if checked:
        responses += collect_batch(checks, checked)
  # The pool has waited for the batch under way, whose rows are on disk, too.
  except KeyboardInterrupt:
    raise Stopped(
      f"finished batches are in {checks.path}; run the same command again to go on"
    ) from None
  seconds = time.monotonic() - start
  speed = {"seconds": seconds if todo else 0.0, "tokens_per_second": tokens / seconds}
  # Batches go by prompt length; the file goes by the data's order.
  place = {row["id"]: index for index, row in enumerate(rows)}
  responses.sort(key=lambda response: (place[response["id"]], response["sample"]))
  return responses, speed


# ---- the numbers
def collect(responses: list[dict], facts: dict, before: list[dict], other: str) -> dict:
  """results.json: the numbers, and `facts` about the run.

  before: responses to compare with, of the results.json `other`.
  """
  recipe = facts["recipe"]
  seed = facts["seed"]
  # Overall is over all rows, not a mean of the domains' means.
  by_domain = summary.grouped(responses, summary.domain_of)
  overall = summary.summarize(responses, recipe, seed)
  domains = {
    domain: summary.summarize(by_domain[domain], recipe, seed)
    for domain in sorted(by_domain, key=summary.domain_order)
  }
  # Said in the report, since their accuracy is missing from the numbers.
  unscored = {response["id"] for response in responses if response["rewards"] is None}
  results = {
    "overall": overall,
    "domains": domains,
    **facts,
    "groups": summary.by_metadata(responses, facts["by"], recipe, seed),
    "unscored_rows": len(unscored),
    "versions": folders.versions(),
    "git_commit": folders.git_commit(),
    "rewards": overall["rewards"],
  }
  if other:
    change = comparison.compare_responses(before, responses, recipe, seed, facts["by"])
    # `before` holds the other model's responses: only they can be paired row by row.
    results["compare"] = {"other": other, **change}
  return results


def count_failures(responses: list[dict]) -> dict[str, int]:
  """What could not be checked, over all batches of this run and of those that it continues."""
  total = collections.Counter()
  for response in responses:
    # One response of a batch carries the counts of the whole.
    total.update(response.get("failures") or {})
  return dict(total)


# Two evaluations that differ in one of these differ by more than their models.
SAME_SETTINGS = ("samples", "temperature", "max_new_tokens", "prompt_variant", "prompt_hash")
SAME_SETTINGS += ("code_rewards",)


def read_other(compare: str) -> tuple[dict, list[dict]]:
  """results.json and responses of the evaluation to compare with; empty without one."""
  if not compare:
    return {}, []
  results = tables.read_results(compare)
  # --compare names results.json or its folder; the responses lie beside it.
  # "" for a results.json in the current folder is that folder.
  folder = pathlib.Path(compare.removesuffix("results.json"))
  return results, jsonl.read_rows(folder / "responses.jsonl")


def make_systems(recipe: str, style: str, code_rewards: str) -> dict[str, list]:
  """{name: its functions} of every reward system and of `recipe`, the --rewards value."""
  systems = {}
  # A dict merges the names: `recipe` may be one of the systems, or the user's own.
  for name in {**rewards.SYSTEMS, recipe: None}:
    # Every system reads the data's style but dual_stream, whose rewards know only their own.
    own = "" if rewards.style_of(name) == "dual_stream" else style
    systems[name] = rewards.make_rewards(name, style=own, code_rewards=code_rewards)
  return systems


def check_flags():
  folders.check_own(FLAGS.out_dir, "evaluate")
  if FLAGS.ask and FLAGS.table:
    raise InputError("--ask and --table are two commands; give one of them")
  if FLAGS.samples > 1 and FLAGS.temperature == 0:
    raise InputError(
      f"--samples={FLAGS.samples} at --temperature=0 draws one response {FLAGS.samples} times; "
      "add --temperature=0.7, or leave --samples at 1"
    )
  rewards.make_rewards(FLAGS.rewards)  # refused before a model is loaded
  own_checks.use(FLAGS.check)


def identity_of(rows: list[dict], policy: loading.Policy, style: str) -> dict:
  """Whatever changes a response or its verdict: a folder of other values is not continued."""
  drawn = {name: FLAGS[name].value for name in ("samples", "temperature", "max_new_tokens", "seed")}
  # Not the whole row: a note added to the data changes no verdict.
  checked_against = [[r["id"], r["question"], r.get("answer"), r.get("metadata")] for r in rows]
  return {
    "rows": digest_json(checked_against),
    "prompts": digest_json([row["prompt"] for row in rows]),
    # Not the checkpoint's path: the same weights may lie elsewhere.
    "weights": weights_digest(policy, FLAGS.checkpoint),
    "dtype": np.dtype(policy.model.config.param_dtype).name,
    "style": style,
    "code_rewards": FLAGS.code_rewards,
    **own_checks.recorded(FLAGS.check),
    **own_rewards.digests(FLAGS.rewards),
    **drawn,
  }


def facts_of(policy: loading.Policy, data: dict, identity: dict, mismatch: bool) -> dict:
  """Everything beside the numbers that a reader of results.json needs to know what they mean."""
  return {
    "model": policy.name,
    "checkpoint": FLAGS.checkpoint,
    "data_dir": FLAGS.data_dir,
    "split": FLAGS.split,
    **identity,
    "prompt_variant": FLAGS.prompt_variant,
    "prompt_hash": data["prompt_hash"],
    "prompt_mismatch": mismatch,
    "recipe": FLAGS.rewards,
    "by": FLAGS.by,
    "devices": devices.device_line(policy.mesh),
    "contamination": overlap_of(FLAGS.data_dir),
    "trained_elsewhere": trained_elsewhere(FLAGS.checkpoint, FLAGS.data_dir),
    "trained": lineage.trained_stages(FLAGS.checkpoint),
  }


def evaluate():
  """Rows → responses → verdicts → results.json → report."""
  check_flags()
  command_line.join_hosts(FLAGS)
  # What can be refused is refused before the model is loaded.
  rows, data = hosts.on_lead(
    load_rows,
    FLAGS.data_dir,
    FLAGS.split,
    FLAGS.limit,
    FLAGS.prompt_variant,
    FLAGS.allow_prompt_mismatch,
  )
  own_checks.check_rows(rows)
  check_field(rows, FLAGS.by)
  other, before = hosts.on_lead(read_other, FLAGS.compare)
  mismatch = hosts.on_lead(
    check_trained_prompt, FLAGS.checkpoint, FLAGS.data_dir, data, FLAGS.allow_prompt_mismatch
  )
  devices.enable_compilation_cache()
  policy = loading.load_policy(
    FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, FLAGS.mesh, FLAGS.dtype
  )
  style = data["style"]
  identity = identity_of(rows, policy, style)
  out_dir = pathlib.Path(FLAGS.out_dir)
  path = out_dir / "responses.jsonl"
  # From here on the folder is this run's.
  kept = hosts.on_lead(open_folder, out_dir, identity, FLAGS.overwrite)
  systems = make_systems(FLAGS.rewards, style, FLAGS.code_rewards)
  responses, speed = sample_and_score(
    Checks(policy, style, systems, FLAGS.code_rewards, path),
    rows,
    kept,
    samples=FLAGS.samples,
    temperature=FLAGS.temperature,
    max_new_tokens=FLAGS.max_new_tokens,
    batch_size=FLAGS.batch_size,
    seed=FLAGS.seed,
  )
  if not hosts.is_lead():
    return  # all are scored: what is left is the lead's, and the others end when it does
  judged = None
  if FLAGS.judge_url:
    judged = verdicts.judge_creative(responses, FLAGS.judge_url, FLAGS.judge_model, path)
  # In the data's order, where batches had come longest prompts first.
  jsonl.write_rows(path, responses)
  facts = facts_of(policy, data, identity, mismatch) | speed
  facts |= {"judge": judged, "check_failures": count_failures(responses)}
  # Such a difference may be the whole change; the report says so.
  facts["differs"] = {
    name: other.get(name) for name in SAME_SETTINGS if other and other.get(name) != facts[name]
  }
  # Numbers and report come from the responses alone: the same command makes them again.
  results = collect(responses, facts, before, FLAGS.compare)
  write(results, responses, before, out_dir, style)
  # Last, as everything else is worth having: an exit status that scripts see.
  if judged and judged["error"]:
    raise InputError(
      f"{judged['error']}; all else is in {FLAGS.out_dir}, the same command again asks only for "
      "those"
    )


def write(results: dict, responses: list[dict], before: list[dict], out_dir, style: str):
  """results.json, the report, config.json last; and the minute's worth of it on the terminal."""
  # config.json, which marks the folder complete, is the last of all.
  text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
  jsonl.write_text(out_dir / "results.json", text)
  report.write_report(results, responses, before, out_dir, FLAGS.checkpoint)
  folders.write_config(
    out_dir, "evaluate", FLAGS, style, model=results["model"], checkpoint=FLAGS.checkpoint
  )
  # The same sentences as in the report, so that a terminal is enough.
  table = tables.grid(*tables.domain_table(results, brief=True))
  said = tables.bullets([*findings.minute(results), *findings.doubts(results)])
  parts = [table, report.by_section(results), said]
  tables.print_markdown("\n\n".join(part for part in parts if part))
  command_line.say(f"report: {FLAGS.out_dir}/report.html")


def main():
  # A question and a table need one host, and write nothing.
  if (FLAGS.ask or FLAGS.table) and meeting.leaves_to_lead(FLAGS.hosts):
    return
  if FLAGS.ask:
    devices.enable_compilation_cache()
    asking.ask(
      FLAGS.ask,
      model=FLAGS.model,
      checkpoint=FLAGS.checkpoint,
      data_dir=FLAGS.data_dir,
      mesh=FLAGS.mesh,
      dtype=FLAGS.dtype,
      max_new_tokens=FLAGS.max_new_tokens,
      temperature=FLAGS.temperature,
      seed=FLAGS.seed,
    )
  # One folder is a pipeline, base to GRPO; several are a sweep.
  elif len(FLAGS.table) == 1 and FLAGS.table_format == "text":
    tables.print_run_table(FLAGS.table[0])
  elif FLAGS.table:
    sweep.print_sweep(FLAGS.table, FLAGS.table_format)
  else:
    evaluate()


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__, check_flags)
