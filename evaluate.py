"""Evaluates any model on held-out rows: what it gets right, how sure that is, and a report a person can read in a minute.

Reads   data_dir/{split}.jsonl as prepare_data.py rendered it, a base model, and optionally a checkpoint to put on it.
Writes  out_dir/responses.jsonl (a row per response; grows while running, so that an interrupted run continues),
        results.json, report.md, report.html (one file, no network), *.png, and config.json last.
Prompts are used exactly as trained; --prompt_variant spoils them on purpose, to measure what a mismatch costs.
A judge (--judge_url) grades the domains without a right answer; its key is read from JUDGE_API_KEY.

  python evaluate.py --data_dir=artifacts/run/data --checkpoint=artifacts/run/grpo --out_dir=artifacts/run/eval_grpo \
      --compare=artifacts/run/eval_sft/results.json
  python evaluate.py --table=artifacts/run
"""

import collections
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import sys
import time

import jax
import numpy as np
import psutil
from absl import flags
from tqdm import tqdm

import rewards
from lib import (
  checking,
  command_line,
  contract,
  devices,
  failures,
  folders,
  jsonl,
  llm_judge,
  loading,
  parameters,
  report,
  runs,
  sampling,
  summary,
  tables,
  tokenization,
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
  "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
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
flags.DEFINE_string(
  "table",
  "",
  "Only print the table of the eval_*/results.json under this folder; empty: evaluate.",
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
flags.DEFINE_enum(
  "rewards",
  "multi_domain",
  list(rewards.SYSTEMS),
  "Reward system behind mean_reward; all are reported.",
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
flags.DEFINE_enum(
  "code_rewards",
  "on",
  ["on", "off"],
  "Run answers' code in the sandbox; off: it is not checked.",
  flag_values=FLAGS,
)
# Misc.
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


# ------------------------------------------------------------------------------------------------------- rows and prompts
VARIANTS = {  # name -> the trained prompt, spoiled; each is a mistake seen in the seeds (001: 94% -> 55% format)
  "extra_space": lambda p: p.replace("Task: ", "Task:  ", 1),
  "no_newline": lambda p: p.removesuffix("\n"),
  "one_newline": lambda p: p.replace("\n\nTask: ", "\nTask: ", 1),
  "indented": lambda p: re.sub(
    rf"(?s)(?<=user\n).*(?={contract.TURN_END})", lambda m: re.sub("(?m)^(?=.)", "    ", m[0]), p
  ),
  "no_system": lambda p: (
    f"{contract.TURN_START}user\n{p[p.index('Task: ') + 6 :]}" if "Task: " in p else p
  ),
}


def load_rows(
  data_dir, split: str, limit: int, variant: str, allow_mismatch: bool
) -> tuple[list[dict], dict]:
  """Checked rows and the data folder's config; prompts as trained, or spoiled by `variant`."""
  config = folders.read_config(data_dir, "prepare_data.py")
  folders.check_prompt_hash(config, data_dir, allow_mismatch)
  path = pathlib.Path(data_dir) / f"{split}.jsonl"
  rows = jsonl.read_rows(path)
  if not rows:
    raise InputError(f"{path} is empty; prepare the data with a larger --{split}_size")
  seen = set()
  for number, row in enumerate(rows, 1):
    lacks = [
      k
      for k in ("id", "domain", "question", "prompt")
      if not isinstance(row, dict) or not isinstance(row.get(k), str)
    ]
    if lacks or row["id"] in seen:
      found = f"has no text for {', '.join(lacks)}" if lacks else f"repeats the id {row['id']!r}"
      raise InputError(f"{path}:{number} {found}; make the rows with prepare_data.py")
    seen.add(row["id"])
  rows = rows[: limit or None]
  if variant:
    trained, rows = rows, [{**row, "prompt": VARIANTS[variant](row["prompt"])} for row in rows]
    if any(a["prompt"] == b["prompt"] for a, b in zip(trained, rows)):
      raise InputError(
        f"--prompt_variant={variant} changes nothing in the prompts of {path}; use another variant"
      )
  return rows, config


def contamination(rows: list[dict], data_dir) -> dict | None:
  """How many evaluated questions stand in the training rows, whole or by a shared 8-gram (open-r1's decontamination rule)."""
  path = pathlib.Path(data_dir) / "train.jsonl"
  if not path.is_file():
    return None
  flat = lambda text: " ".join(text.lower().split())
  ngrams = lambda text: set(zip(*(re.findall(r"\w+", text.lower())[i:] for i in range(8))))
  train, wanted = (
    [row["question"] for row in jsonl.read_rows(path)],
    set().union(*(ngrams(r["question"]) for r in rows)),
  )
  shared, questions = set().union(*(ngrams(q) & wanted for q in train)), set(map(flat, train))
  same = [r["id"] for r in rows if flat(r["question"]) in questions]
  return {
    "train_rows": len(train),
    "same_question": len(same),
    "same_ids": same[:20],
    "shared_8gram": sum(not shared.isdisjoint(ngrams(r["question"])) for r in rows),
  }


def trained_elsewhere(checkpoint: str, data_dir) -> bool:
  """Whether the run that made `checkpoint` noted another train.jsonl than the one that `contamination` reads."""
  path, folder = pathlib.Path(data_dir) / "train.jsonl", pathlib.Path(checkpoint)
  noted = (
    (folders.read_run(folder) or folders.read_run(folder.parent)).get("inputs", {}).get("data_dir")
    if checkpoint
    else None
  )
  return bool(noted) and path.is_file() and noted != folders.digest(str(path))


# --------------------------------------------------------------------------------------------------------------- sampling
def free_bytes() -> int:
  """Memory that sampling may take: of all devices, or of the host (inside its cgroup) where the CPU is the device."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("bytes_limit" in s for s in stats):
    return sum(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
  limit, free = pathlib.Path("/sys/fs/cgroup/memory.max"), psutil.virtual_memory().available
  if (
    limit.is_file() and limit.read_text().strip().isdigit()
  ):  # not memory.current: the page cache counts there
    free = min(free, int(limit.read_text()) - psutil.Process().memory_info().rss)
  return max(free, 0)


def fitting_batch(config, width: int, new: int, free: int, most: int) -> int:
  """Largest power of two of responses, up to `most`, whose cache, prefill and logits take at most half of `free` bytes."""
  itemsize = np.dtype(config.param_dtype).itemsize
  cache = (
    2 * config.num_layers * 2 * config.num_kv_heads * config.head_dim * (width + new) * itemsize
  )  # carried and next
  prefill = width * (
    config.num_heads * (width + new) * 4 + (8 * config.embed_dim + 3 * config.hidden_dim) * itemsize
  )
  fits = max(1, int(free / 2 / (cache + prefill + 4 * config.num_embed * 4)))
  return min(most, 2 ** (fits.bit_length() - 1))


def noise_keys(seed: int, row_ids: list[str], samples: int) -> np.ndarray:
  """(B, G, 2) uint32: a pure function of (seed, row, sample), so that batching and resuming change nothing."""
  keys = [
    hashlib.sha256(f"{seed}/{row_id}/{g}".encode()).digest()[:8]
    for row_id in row_ids
    for g in range(samples)
  ]
  return np.frombuffer(b"".join(keys), np.uint32).reshape(len(row_ids), samples, 2)


def generate(
  policy,
  rows: list[dict],
  *,
  samples: int,
  temperature: float,
  max_new_tokens: int,
  batch_size: int,
  seed: int,
):
  """Yields (rows of a batch, completions (B, G, max_new_tokens)); longest prompts first, so that memory is tested at once.

  Every batch has the same number of rows and one of two widths: two compilations. One that does not fit in memory is halved.
  """
  ids = [tokenization.encode(policy.tokenizer, row["prompt"]) for row in rows]
  shared = min(
    len(os.path.commonprefix(ids)), min(map(len, ids)) - 1
  )  # the system prompt: it runs once a batch
  widths, order = (
    tokenization.choose_widths([len(x) - shared for x in ids], 0),
    sorted(range(len(rows)), key=lambda i: -len(ids[i])),
  )
  # A CPU is bound by arithmetic: beyond 32 rows nothing is gained.
  most = min(
    2 ** (len(rows) * samples - 1).bit_length(), 32 if jax.default_backend() == "cpu" else 512
  )
  batch_size = batch_size or fitting_batch(
    policy.model.config, shared + widths[-1], max_new_tokens, free_bytes(), most
  )
  prompts, start = max(1, batch_size // samples), 0
  command_line.say(
    f"sampling {prompts} prompts x {samples} at a time, of {shared} shared tokens and up to "
    f"{' or '.join(map(str, widths))} more; the first batch of a width compiles"
  )
  while start < len(order):
    part = order[start : start + prompts]
    filled = part + part[-1:] * (
      prompts - len(part)
    )  # the last batch repeats a row: one shape less to compile
    try:
      out = sampling.sample(
        policy,
        [ids[i] for i in filled],
        width=shared + tokenization.fit(len(ids[part[0]]) - shared, widths),
        generations=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        shared=shared,
        keys=noise_keys(seed, [rows[i]["id"] for i in filled], samples),
      )
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error) or prompts == 1:
        raise
      prompts //= 2
      command_line.say(f"out of memory; going on with {prompts} prompts at a time")
      continue
    start += len(part)
    yield [rows[i] for i in part], out.reshape(prompts, samples, -1)[: len(part)]


def write_rows(path, rows: list[dict]):
  jsonl.write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def sample_and_score(
  policy,
  rows: list[dict],
  kept: list[dict],
  path,
  style: str,
  systems: dict,
  code_rewards: str,
  **drawn,
) -> tuple:
  """(all responses to `rows` in their order, those in `kept` included; the speed). A finished batch is on disk at once.

  Checking answers (sandbox, symbolic maths) runs beside the sampling of the next batch.
  """
  whole = {i for i, rs in summary.grouped(kept, "id").items() if len(rs) == drawn["samples"]}
  out, todo = [r for r in kept if r["id"] in whole], [row for row in rows if row["id"] not in whole]
  if whole:
    command_line.say(f"{len(whole)} of {len(rows)} rows are already in {path}; {len(todo)} to go")
  write_rows(path, out)

  def finish(part, completions):
    earlier = collections.Counter(failures.failed_rows())
    scored = score(responses_of(policy, part, completions), style, systems, code_rewards)
    if missed := collections.Counter(failures.failed_rows()) - earlier:
      scored[0]["failures"] = dict(
        missed
      )  # of the batch: a run that is continued or judged later must not forget them
    jsonl.append_rows(path, scored)
    return scored

  tokens, start, checked = 0, time.monotonic(), None
  every = 0.1 if sys.stderr.isatty() else 30  # seconds between the bar's lines
  try:
    with (
      concurrent.futures.ThreadPoolExecutor(1) as checker,
      tqdm(total=len(rows), initial=len(whole), unit="row", mininterval=every) as bar,
    ):
      for part, completions in generate(policy, todo, **drawn) if todo else ():
        out += checked.result() if checked else []
        checked = checker.submit(finish, part, completions)
        tokens += int(sampling.completion_lengths(completions)[0].sum())
        bar.set_postfix_str(f"{tokens / (time.monotonic() - start):.0f} tokens/s", refresh=False)
        bar.update(len(part))
      out += checked.result() if checked else []
  except KeyboardInterrupt:
    raise Stopped(f"finished batches are in {path}; run the same command again to go on") from None
  seconds, place = time.monotonic() - start, {row["id"]: i for i, row in enumerate(rows)}
  return sorted(out, key=lambda r: (place[r["id"]], r["sample"])), {
    "seconds": seconds if todo else 0.0,
    "tokens_per_second": tokens / seconds,
  }


# --------------------------------------------------------------------------------------------------------------- verdicts
LENIENT = (
  re.compile(  # atomic: the earliest of each is enough, and without it a looping text takes minutes
    r"\A(?>.*?<reasoning>\s*[^<\s])(?>.*?</reasoning>)(?>.*?<answer>\s*[^<\s]).*?</answer>",
    re.S | re.I,
  )
)


def responses_of(policy, part: list[dict], out: np.ndarray) -> list[dict]:
  """Rows for responses.jsonl, not yet judged, from completions (B, G, T)."""
  rows = []
  for row, group in zip(part, out):
    for g, (ids, tokens, stopped) in enumerate(zip(group, *sampling.completion_lengths(group))):
      rows.append(
        {
          **{k: row[k] for k in ("id", "domain", "question", "prompt")},
          "answer": row.get("answer") or "",
          "metadata": row.get("metadata") or {},
          "sample": g,
          "response": tokenization.decode(policy.tokenizer, ids[:tokens]),
          "tokens": int(tokens),
          "truncated": not stopped,
        }
      )
  return rows


def score(
  responses: list[dict], style: str, systems: dict[str, list], code_rewards: str = "on"
) -> list[dict]:
  """Adds the verdicts: format, lenient_format, parsed_answer, correct, correct_lenient, partial, rewards by component.

  The answer is read strictly, or leniently where the format is broken, and checked once. A row of a verifiable domain
  that cannot be checked gets the format verdicts only; a creative row is never right or wrong.
  """
  parsed = [contract.parse_response(r["response"], style) for r in responses]
  verifiable = [r["domain"] in contract.VERIFIABLE_DOMAINS for r in responses]
  checkable = [
    r["domain"] in checking.checked_domains(code_rewards)
    and bool(r["answer"] or r["metadata"].get("test_cases"))
    for r in responses
  ]
  read = [
    contract.read_answer(r["response"], p) if ok else None
    for p, r, ok in zip(parsed, responses, checkable)
  ]
  column = {
    k: [r[k] for r in responses]
    for k in ("domain", "question", "answer", "prompt", "response", "metadata")
  }
  grades = checking.grade(column["domain"], read, column["answer"], column["metadata"])
  prompts, texts = column.pop("prompt"), column.pop("response")
  column["metadata"] = [json.dumps(m, ensure_ascii=False) for m in column["metadata"]]
  values = {
    system: {f.__name__: f(prompts, texts, **column) for f in functions}
    for system, functions in systems.items()
  }
  for i, (r, p, grade, ok) in enumerate(zip(responses, parsed, grades, checkable)):
    r.update(
      format=p is not None,
      lenient_format=p is not None or bool(LENIENT.search(r["response"])),
      parsed_answer=p.answer if p else None,
      correct=bool(p) and grade == 1.0 if ok else None,
      correct_lenient=grade == 1.0 if ok else None,
      partial=(grade if p else 0.0) if ok else None,
      rewards={s: {name: float(v[i]) for name, v in parts.items()} for s, parts in values.items()},
    )
    if verifiable[i] and not ok:
      r["rewards"] = None  # without an answer every reward but format's would say "wrong"
  return responses


def judge_creative(
  responses: list[dict], url: str, judge_model: str, path, chunk: int = 64
) -> dict:
  """Adds "judge" (reasoning 1–5, answer 1–5, overall 0–10) to the responses of domains without a right answer; returns counts.

  Saved after every `chunk`, so that an interrupted or unreachable judge is asked only for what is left. Another judge_model
  starts again. Once a whole chunk went unanswered the rest is not tried.
  """
  creative = [r for r in responses if r["domain"] not in contract.VERIFIABLE_DOMAINS]
  todo = [r for r in creative if r.get("judge", {}).get("model") != judge_model]
  command_line.say(f"judge {judge_model}: {len(todo)} of {len(creative)} responses to go")
  earlier, counts = collections.Counter(failures.failed_rows()), collections.Counter()
  for r in todo:
    r.pop("judge", None)
  for i in range(0, len(todo), chunk):
    verdicts = llm_judge.judge(todo[i : i + chunk], url, judge_model)
    for r, verdict in zip(todo[i:], verdicts):
      r |= {"judge": {**verdict._asdict(), "model": judge_model}} if verdict else {}
    write_rows(path, responses)
    counts = collections.Counter(failures.failed_rows()) - earlier
    if counts["judge_failed"] and not any(verdicts):
      break
  judged = sum("judge" in r for r in creative)
  failed = len(creative) - judged - counts["judge_malformed"]
  return {
    "model": judge_model,
    "n": judged,
    "malformed": counts["judge_malformed"],
    "retried": counts["judge_retried"],
    "failed": failed,
    "error": f"the judge at {url} gave no reply to {failed} of {len(creative)} responses"
    * bool(failed),
  }


# ------------------------------------------------------------------------------------------------------------------- main
def digest_json(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_digest(policy, checkpoint: str) -> str:
  """16 hex digits of what a checkpoint put on the base model; the base's own fingerprint without one."""
  changed = (
    parameters.flat_params(policy.model, parameters.trainable(policy.model)) if checkpoint else {}
  )
  return digest_json(
    [
      policy.fingerprint,
      *((k, hashlib.sha256(np.asarray(x)).hexdigest()) for k, x in sorted(changed.items())),
    ]
  )


def open_folder(out_dir: pathlib.Path, identity: dict, overwrite: bool) -> list[dict]:
  """Responses that an interrupted run left in `out_dir`; refuses those made with other flags, rows or weights (run.json)."""
  runs.lock_folder(str(out_dir))
  path = out_dir / "responses.jsonl"
  if overwrite:
    (out_dir / "run.json").unlink(missing_ok=True)
  if (
    not runs.begin_run(str(out_dir), "", identity, may_change=(), begun="flags")
    or not path.is_file()
  ):
    path.write_bytes(b"")
  for name in ("config.json", "results.json"):  # complete no more, until this run ends
    (out_dir / name).unlink(missing_ok=True)
  whole, newline, _ = path.read_bytes().rpartition(
    b"\n"
  )  # a last line without its end was torn: its row is sampled again
  jsonl.write_text(path, (whole + newline).decode())
  return jsonl.read_rows(path)


def check_trained_prompt(checkpoint: str, data_dir: str, data: dict, allow_mismatch: bool) -> bool:
  """Whether the checkpoint was trained with another prompt than the data's; refused unless allowed. PEFT adapters record none."""
  peft = not checkpoint or (pathlib.Path(checkpoint) / "adapter_config.json").is_file()
  trained = data if peft else loading.read_checkpoint(checkpoint)[0]
  if trained["prompt_hash"] != data["prompt_hash"] and not allow_mismatch:
    raise InputError(
      f"{checkpoint} was trained with prompt {trained['prompt_hash']} (style {trained['style']}), {data_dir} holds "
      f"{data['prompt_hash']} (style {data['style']}); evaluate on the data it was trained on, or pass --allow_prompt_mismatch"
    )
  return trained["prompt_hash"] != data["prompt_hash"]


def collect(responses: list[dict], facts: dict, before: list[dict], other: str) -> dict:
  """results.json: the numbers, and `facts` about the run."""
  recipe, seed, by_domain = facts["recipe"], facts["seed"], summary.grouped(responses, "domain")
  overall, names = (
    summary.summarize(responses, recipe, seed),
    sorted(by_domain, key=summary.domain_order),
  )
  results = {
    "overall": overall,
    "domains": {d: summary.summarize(by_domain[d], recipe, seed) for d in names},
    **facts,
    "unscored_rows": len({r["id"] for r in responses if r["rewards"] is None}),
    "versions": folders.versions(),
    "git_commit": folders.git_commit(),
    "rewards": overall["rewards"],
  }
  if other:
    results["compare"] = {
      "other": other,
      **summary.compare_responses(before, responses, recipe, seed),
    }
  return results


def main():
  if FLAGS.table:
    return tables.print_run_table(FLAGS.table)
  if FLAGS.samples > 1 and FLAGS.temperature == 0:
    raise InputError(
      f"--samples={FLAGS.samples} at --temperature=0 draws one response {FLAGS.samples} times; "
      "add --temperature=0.7, or leave --samples at 1"
    )
  rows, data = load_rows(
    FLAGS.data_dir, FLAGS.split, FLAGS.limit, FLAGS.prompt_variant, FLAGS.allow_prompt_mismatch
  )
  before, other = [], tables.read_results(FLAGS.compare) if FLAGS.compare else {}
  if other:
    before = jsonl.read_rows(
      pathlib.Path(FLAGS.compare.removesuffix("results.json")) / "responses.jsonl"
    )
  mismatch = check_trained_prompt(
    FLAGS.checkpoint, FLAGS.data_dir, data, FLAGS.allow_prompt_mismatch
  )
  devices.enable_compilation_cache()
  policy = loading.load_policy(
    FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, FLAGS.mesh, FLAGS.dtype
  )
  drawn = {k: FLAGS[k].value for k in ("samples", "temperature", "max_new_tokens", "seed")}
  identity = {
    "rows": digest_json(
      [[r["id"], r["question"], r.get("answer"), r.get("metadata")] for r in rows]
    ),
    "prompts": digest_json([r["prompt"] for r in rows]),
    "weights": weights_digest(policy, FLAGS.checkpoint),
    "dtype": np.dtype(policy.model.config.param_dtype).name,
    "style": data["style"],
    "code_rewards": FLAGS.code_rewards,
    **drawn,
  }
  out_dir = pathlib.Path(FLAGS.out_dir)
  kept, path = open_folder(out_dir, identity, FLAGS.overwrite), out_dir / "responses.jsonl"
  systems = {
    s: rewards.make_rewards(
      s, style="" if s == "dual_stream" else data["style"], code_rewards=FLAGS.code_rewards
    )
    for s in rewards.SYSTEMS
  }
  responses, speed = sample_and_score(
    policy,
    rows,
    kept,
    path,
    data["style"],
    systems,
    FLAGS.code_rewards,
    batch_size=FLAGS.batch_size,
    **drawn,
  )
  judged = (
    judge_creative(responses, FLAGS.judge_url, FLAGS.judge_model, path) if FLAGS.judge_url else None
  )
  write_rows(path, responses)
  missed = dict(
    sum((collections.Counter(r.get("failures")) for r in responses), collections.Counter())
  )
  facts = {
    "model": policy.name,
    "checkpoint": FLAGS.checkpoint,
    "data_dir": FLAGS.data_dir,
    "split": FLAGS.split,
    **identity,
    "prompt_variant": FLAGS.prompt_variant,
    "prompt_hash": data["prompt_hash"],
    "prompt_mismatch": mismatch,
    "judge": judged,
    "check_failures": missed,
    "recipe": FLAGS.rewards,
    **speed,
    "devices": devices.device_line(policy.mesh),
    "contamination": contamination(rows, FLAGS.data_dir),
    "trained_elsewhere": trained_elsewhere(FLAGS.checkpoint, FLAGS.data_dir),
  }
  same = (
    "samples",
    "temperature",
    "max_new_tokens",
    "prompt_variant",
    "prompt_hash",
    "code_rewards",
  )
  facts["differs"] = {k: other.get(k) for k in same if other and other.get(k) != facts[k]}
  results = collect(responses, facts, before, FLAGS.compare)
  jsonl.write_text(
    out_dir / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n"
  )
  report.write_report(results, responses, before, out_dir, FLAGS.checkpoint)
  folders.write_config(
    out_dir, "evaluate", FLAGS, data["style"], model=policy.name, checkpoint=FLAGS.checkpoint
  )
  tables.print_markdown(
    "\n\n".join(
      [
        tables.grid(*tables.domain_table(results, brief=True)),
        tables.bullets([*report.minute(results), *report.doubts(results)]),
      ]
    )
  )
  command_line.say(f"report: {FLAGS.out_dir}/report.html")
  if judged and judged["error"]:
    raise InputError(
      f"{judged['error']}; all else is in {FLAGS.out_dir}, the same command again asks only for those"
    )


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
