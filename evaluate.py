"""Evaluates any model on held-out rows: what it gets right, how sure that is, and a report a person can read in a minute.

Reads   data_dir/{split}.jsonl as prepare_data.py rendered it, a base model, and optionally a checkpoint to put on it.
Writes  out_dir/responses.jsonl (a row per response; grows while running, so that an interrupted run continues),
        results.json, report.md, report.html (one file, no network), *.png, and config.json last.
Prompts are used exactly as trained. --prompt_variant changes them on purpose, to measure what a mismatch costs.

  python evaluate.py --data_dir=artifacts/run/data --checkpoint=artifacts/run/grpo --out_dir=artifacts/run/eval_grpo \
      --compare=artifacts/run/eval_sft/results.json
  python evaluate.py --table=artifacts/run
"""
import base64
import collections
import concurrent.futures
import hashlib
import html
import json
import math
import os
import pathlib
import re
import sys
import time

import numpy as np
from absl import flags

import rewards

FLAGS = flags.FlagValues()
flags.DEFINE_string("data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS)
flags.DEFINE_string("split", "test", "Rows to evaluate: train, val or test.", flag_values=FLAGS)
flags.DEFINE_string("model", "tiny", "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
                    flag_values=FLAGS)
flags.DEFINE_string("checkpoint", "", "SFT, GRPO or PEFT adapter folder to put on the model; empty: the model itself.",
                    flag_values=FLAGS)
flags.DEFINE_string("compare", "", "results.json of another model on the same rows; empty: no comparison.", flag_values=FLAGS)
flags.DEFINE_string("out_dir", "artifacts/run/eval", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace what out_dir holds from an earlier run.",
                     flag_values=FLAGS)
flags.DEFINE_integer("limit", 0, "Rows to evaluate, from the top of the file; 0: all.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 0, "Responses sampled together; 0: what fits in memory.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("rewards", "multi_domain", "Reward system whose mean is mean_reward; all four are reported.",
                    flag_values=FLAGS)
flags.DEFINE_integer("samples", 1, "Responses to each prompt; above 1 (with a temperature) adds pass@k and maj@k.",
                     lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("temperature", 0.0, "Sampling temperature; 0 is greedy.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("prompt_variant", "", "Render prompts unlike training on purpose: extra_space, no_newline, one_newline, "
                    "indented or no_system; empty: as trained.", flag_values=FLAGS)
flags.DEFINE_string("judge_url", "", "Base URL of an OpenAI-compatible endpoint that scores the domains without a right "
                    "answer; empty: no judge. The key is read from JUDGE_API_KEY.", flag_values=FLAGS)
flags.DEFINE_string("judge_model", "deepseek-reasoner", "Model name sent to the judge.", flag_values=FLAGS)
flags.DEFINE_string("table", "", "Only print the table of the eval_*/results.json under this folder; empty: evaluate.",
                    flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)
flags.DEFINE_string("mesh", "auto", "Devices as FSDPxTP, e.g. 4x2; auto: all devices on fsdp.", flag_values=FLAGS)
flags.DEFINE_string("dtype", "auto", "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
                    flag_values=FLAGS)
flags.DEFINE_boolean("allow_prompt_mismatch", False, "Go on although the data was rendered with another prompt text.",
                     flag_values=FLAGS)

BLUE, SKY, ORANGE, GREEN, VERMILLION, BLACK = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00", "#222222"  # Okabe & Ito


# ------------------------------------------------------------------------------------------------------------- statistics
def wilson(successes: float, n: int, z: float = 1.959964) -> list | None:
  """95% score interval of a rate (Wilson 1927); None when n is 0. `successes` may be fractional (means over samples)."""
  if n == 0:
    return None
  p, z2 = successes / n, z * z
  center, half = p + z2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
  return [round(max(0.0, (center - half) / (1 + z2 / n)), 9), round(min(1.0, (center + half) / (1 + z2 / n)), 9)]


def bootstrap(values, groups, seed: int = 0, resamples: int = 10_000) -> list | None:
  """95% percentile interval of the mean, resampling whole groups (Efron 1979): rows of one question are one observation."""
  if not len(values):
    return None
  codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
  sums, counts = np.bincount(codes, weights=np.asarray(values, float)), np.bincount(codes)
  rng, means = np.random.default_rng(seed), []
  for size in [500] * (resamples // 500):  # in slices: (500, groups) indices at a time
    pick = rng.integers(len(sums), size=(size, len(sums)))
    means.append(sums[pick].sum(1) / counts[pick].sum(1))
  return [float(x) for x in np.quantile(np.concatenate(means), (0.025, 0.975))]


def mcnemar(gained: int, lost: int) -> float:
  """Exact two-sided p-value of `gained` against `lost` discordant pairs (McNemar 1947, binomial form)."""
  n = gained + lost
  return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n)


def pass_at_k(n: int, c: int, k: int) -> float:
  """Unbiased chance that k of n samples, c of them right, hold a right one (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def majority(responses: list[dict]) -> bool:
  """Whether the answer that most samples of one row gave is right; the earlier answer wins a tie.

  Answers vote together when equal as text or, in math, as numbers. Samples without a well-formed answer have no vote.
  """
  votes = []  # [answer, votes, correct]
  for r in responses:
    if r["parsed_answer"] is None:
      continue
    key = " ".join(r["parsed_answer"].casefold().split()).rstrip(".")
    same = next((v for v in votes if v[0] == key or r["domain"] == "math" and rewards.is_correct("math", key, v[0])), None)
    if same:
      same[1] += 1
    else:
      votes.append([key, 1, r["correct"]])
  return bool(votes and max(votes, key=lambda v: v[1])[2])


def mean(values) -> float | None:
  values = [v for v in values if v is not None]
  return float(np.mean(values)) if values else None


def rate(responses: list[dict], key: str) -> tuple:
  """(mean, Wilson interval) of a yes/no column. The interval counts distinct questions: repeats are no new evidence."""
  known = [r for r in responses if r[key] is not None]
  units = len({r["question"] for r in known})
  p = mean(r[key] for r in known)
  return p, (wilson(p * units, units) if known else None)


def summarize(responses: list[dict], recipe: str, seed: int = 0) -> dict:
  """One domain's (or the overall) numbers. Rates are in [0, 1]; accuracy is over rows with an answer, None without any.

  `accuracy` needs strict format and a right answer; `accuracy_lenient` reads the answer out of ill-formed text too.
  """
  by_row = collections.defaultdict(list)
  for r in responses:
    by_row[r["id"]].append(r)
  out = {"n": len(by_row), "questions": len({r["question"] for r in responses}),
         "scored": sum(rs[0]["correct"] is not None for rs in by_row.values())}
  for name, key in (("format", "format"), ("lenient_format", "lenient_format"), ("accuracy", "correct"),
                    ("accuracy_lenient", "correct_lenient"), ("truncated", "truncated")):
    name += "" if name.startswith("accuracy") else "_rate"
    out[name], out[name.removesuffix("_rate") + "_ci"] = rate(responses, key)
  well_formed = [r for r in responses if r["format"]]
  out["accuracy_well_formed"], out["accuracy_well_formed_ci"] = rate(well_formed, "correct")
  out["partial_credit"] = mean(r["partial"] for r in responses)
  scored = [r for r in responses if r["rewards"]]
  totals = [sum(r["rewards"][recipe].values()) for r in scored]
  out["mean_reward"], out["mean_reward_ci"] = mean(totals), bootstrap(totals, [r["question"] for r in scored], seed)
  out["rewards"] = component_means(scored)
  out["composite"] = out["rewards"]["four_component"]["total"] if scored else None  # seed 004's name for that system's sum
  out["mean_tokens"] = mean(r["tokens"] for r in responses)
  out["p95_tokens"] = float(np.quantile([r["tokens"] for r in responses], 0.95))
  samples = min(len(rs) for rs in by_row.values())
  answered = [rs for rs in by_row.values() if rs[0]["correct"] is not None]
  if samples > 1 and answered:
    for k in sorted({2**i for i in range(samples.bit_length())} | {samples}):
      out[f"pass@{k}"] = mean(pass_at_k(len(rs), sum(r["correct"] for r in rs), k) for rs in answered)
    out[f"maj@{samples}"] = mean(majority(rs) for rs in answered if rs[0]["domain"] != "coding")  # programs cannot vote
  judged = [r["judge"] for r in responses if r.get("judge")]
  if judged:
    out["judge"] = {"n": len(judged), **{k: mean(j[k] for j in judged) for k in ("reasoning", "answer", "overall")}}
  return out


def component_means(scored: list[dict]) -> dict:
  """{system: {component: mean, "total": their sum}} of responses that have rewards."""
  out = {system: {name: mean(r["rewards"][system][name] for r in scored) for name in parts}
         for system, parts in (scored[0]["rewards"] if scored else {}).items()}
  return {system: {**parts, "total": sum(parts.values())} for system, parts in out.items()}


def difference(before: list[dict], after: list[dict], value, seed: int, is_rate: bool = True) -> dict | None:
  """Paired change of `value(response)`, per row id (means over its samples), with the exact test over questions.

  With one response a row and no repeated question the test is McNemar's; otherwise it is the sign test on questions.
  None when no row has the value on both sides.
  """
  pairs = {}
  for side, responses in enumerate((before, after)):
    for r in responses:
      if value(r) is not None:
        pairs.setdefault((r["id"], r["question"]), ([], []))[side].append(float(value(r)))
  pairs = {k: (mean(b), mean(a)) for k, (b, a) in pairs.items() if b and a}
  if not pairs:
    return None
  groups, delta = [question for _, question in pairs], [a - b for b, a in pairs.values()]
  by_question = collections.defaultdict(float)
  for question, d in zip(groups, delta):
    by_question[question] += d
  gained, lost = (sum(sign * d > 1e-9 for d in by_question.values()) for sign in (1, -1))
  out = {"n": len(pairs), "difference": mean(delta), "ci": bootstrap(delta, groups, seed), "gained": gained, "lost": lost,
         "p": mcnemar(gained, lost)}
  for name, values in zip(("before", "after"), zip(*pairs.values())):
    out[name], units = mean(values), len(by_question)
    out[name + "_ci"] = wilson(out[name] * units, units) if is_rate else bootstrap(values, groups, seed)
  return out


def compare_responses(before: list[dict], after: list[dict], recipe: str, seed: int = 0) -> dict:
  """Pairs two models' responses by row id. The accuracy gain is split exactly in two, row by row:

  correct = correct_lenient - (correct_lenient - correct): the change of the first term is *answers improved* (a right answer
  appears, whatever its tags), the fall of the second is *format learned* (a right answer is no longer lost to its tags).
  """
  questions = {r["id"]: r["question"] for r in before}
  after = [r for r in after if questions.get(r["id"]) == r["question"]]
  ids = {r["id"] for r in after}
  before = [r for r in before if r["id"] in ids]
  if not ids:
    raise rewards.InputError("the two evaluations share no row; compare models on the same data_dir and split")
  values = {"format": lambda r: r["format"], "accuracy": lambda r: r["correct"],
            "mean_reward": lambda r: sum(r["rewards"][recipe].values()) if r["rewards"] else None,
            "answers_improved": lambda r: r["correct_lenient"],
            "format_learned": lambda r: None if r["correct"] is None else r["correct"] - r["correct_lenient"]}  # in [-1, 0]

  def table(keep):
    sides = [[r for r in side if keep(r)] for side in (before, after)]
    return {k: difference(*sides, value, seed, k not in ("mean_reward", "format_learned")) for k, value in values.items()}

  def right(responses):
    share = collections.defaultdict(list)
    for r in responses:
      share[r["id"]].append(r["correct"])
    return {i: mean(c) for i, c in share.items() if c[0] is not None}
  old, new = right(before), right(after)
  names = sorted({r["domain"] for r in after}, key=domain_order)
  return {"n": len(ids), "overall": table(lambda r: True),
          "domains": {d: table(lambda r, d=d: r["domain"] == d) for d in names},
          "flipped": {"gained": [i for i in new if new[i] > old[i]], "lost": [i for i in new if new[i] < old[i]]}}


def domain_order(domain: str) -> tuple:
  return (rewards.DOMAINS.index(domain) if domain in rewards.DOMAINS else len(rewards.DOMAINS), domain)


# ------------------------------------------------------------------------------------------------------- rows and prompts
def _indented(prompt):  # what a triple-quoted template inside an indented function sends
  head, body = prompt.split("\n", 1)
  user, model_turn = body.rsplit(rewards.TURN_END, 1)
  return head + "\n" + "\n".join("    " + line if line else line for line in user.split("\n")) + rewards.TURN_END + model_turn


VARIANTS = {  # name -> the trained prompt, spoiled; each is a mistake seen in the seeds (001: 94% -> 55% format)
  "extra_space": lambda p: p.replace("Task: ", "Task:  ", 1),
  "no_newline": lambda p: p.removesuffix("\n"),
  "one_newline": lambda p: p.replace("\n\nTask: ", "\nTask: ", 1),
  "indented": _indented,
  "no_system": lambda p: f"{rewards.TURN_START}user\n{p[p.index('Task: ') + 6:]}" if "Task: " in p else p,
}


def load_rows(data_dir, split: str, limit: int, variant: str, allow_mismatch: bool) -> tuple[list[dict], dict]:
  """Checked rows and the data folder's config; prompts as trained, or spoiled by `variant`."""
  config = rewards.read_config(data_dir, "prepare_data.py")
  rewards.check_prompt_hash(config, data_dir, allow_mismatch)
  path = pathlib.Path(data_dir) / f"{split}.jsonl"
  rows = rewards.read_rows(path)
  if not rows:
    raise rewards.InputError(f"{path} is empty; prepare the data with a larger --{split}_size")
  seen = set()
  for number, row in enumerate(rows, 1):
    lacks = [k for k in ("id", "domain", "question", "prompt") if not isinstance(row, dict) or not isinstance(row.get(k), str)]
    if lacks:
      raise rewards.InputError(f"{path}:{number} has no text for {', '.join(lacks)}; make the rows with prepare_data.py")
    if row["id"] in seen:
      raise rewards.InputError(f"{path}:{number} repeats the id {row['id']!r}; make the rows with prepare_data.py")
    seen.add(row["id"])
  if variant and variant not in VARIANTS:
    raise rewards.InputError(f"--prompt_variant={variant} is unknown; valid: {', '.join(VARIANTS)}")
  rows = rows[:limit or None]
  if variant:
    spoiled = [{**row, "prompt": VARIANTS[variant](row["prompt"])} for row in rows]
    if any(a["prompt"] == b["prompt"] for a, b in zip(rows, spoiled)):
      raise rewards.InputError(f"--prompt_variant={variant} changes nothing in the prompts of {path}; use another variant")
    rows = spoiled
  return rows, config


def digest(*parts) -> str:
  return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def ngrams(text: str, n: int = 8) -> set:
  words = re.findall(r"\w+", text.lower())
  return {" ".join(words[i:i + n]) for i in range(len(words) - n + 1)}


def contamination(rows: list[dict], data_dir) -> dict | None:
  """How many evaluated questions stand in the training rows, whole or by a shared 8-gram (open-r1's decontamination rule)."""
  path = pathlib.Path(data_dir) / "train.jsonl"
  if not path.is_file():
    return None
  flat = lambda text: " ".join(text.lower().split())
  train, grams = [row.get("question", "") for row in rewards.read_rows(path)], collections.defaultdict(set)
  for row in rows:
    for gram in ngrams(row["question"]):
      grams[gram].add(row["id"])
  shared = set().union(*(grams[g] for question in train for g in ngrams(question) if g in grams))  # few n-grams are in memory
  questions = {flat(question) for question in train}
  same = [r["id"] for r in rows if flat(r["question"]) in questions]
  return {"train_rows": len(train), "same_question": len(same), "shared_8gram": len(shared), "same_ids": same[:20]}


# -------------------------------------------------------------------------------------------------------------- sampling
def free_bytes() -> int:
  """Memory that sampling may take: of all devices, or of the host (inside its cgroup) where the CPU is the device."""
  import jax
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(stats) and all("bytes_limit" in s for s in stats):
    return sum(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
  info = pathlib.Path("/proc/meminfo")
  free = int(re.search(r"MemAvailable:\s+(\d+)", info.read_text())[1]) * 1024 if info.exists() else 4 << 30
  group = [pathlib.Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current")]
  if all(p.exists() for p in group) and group[0].read_text().strip() != "max":
    free = min(free, int(group[0].read_text()) - int(group[1].read_text()))
  return max(free, 0)


def fitting_batch(config, width: int, new: int, itemsize: int, free: int, most: int) -> int:
  """Largest power of two of responses whose key-value cache, prefill and logits take at most half of `free` bytes."""
  cache = 2 * config.num_layers * 2 * config.num_kv_heads * config.head_dim * (width + new) * itemsize  # carried and next
  prefill = width * (config.num_heads * (width + new) * 4 + (8 * config.embed_dim + 3 * config.hidden_dim) * itemsize)
  logits = 4 * config.num_embed * 4
  fits = max(1, int(free / 2 / (cache + prefill + logits)))
  return min(most, 2 ** (fits.bit_length() - 1))


def pick_widths(lengths: list[int], step: int = 32) -> list[int]:
  """At most three prompt widths (compilations) that hold every prompt: the median, the 90th percentile and the longest."""
  return sorted({-(-int(np.quantile(lengths, q, method="higher")) // step) * step for q in (0.5, 0.9, 1.0)})


def noise_keys(seed: int, row_ids: list[str], samples: int) -> np.ndarray:
  """(B, G, 2) uint32: a pure function of (seed, row, sample), so that batching and resuming change nothing."""
  keys = [[hashlib.sha256(f"{seed}/{row_id}/{g}".encode()).digest()[:8] for g in range(samples)] for row_id in row_ids]
  return np.frombuffer(b"".join(b"".join(row) for row in keys), np.uint32).reshape(len(row_ids), samples, 2)


def generate(policy, rows: list[dict], *, samples: int, temperature: float, max_new_tokens: int, batch_size: int, seed: int):
  """Yields (rows of a batch, completions (B, G, max_new_tokens)); longest prompts first, so memory is tested at once.

  Every batch has the same number of rows and one of three widths: three compilations at most. A batch that does not fit is
  halved and tried again.
  """
  import jax

  import model
  ids = [model.encode(policy.tokenizer, row["prompt"]) for row in rows]
  widths = pick_widths([len(x) for x in ids])
  config = policy.model.config
  # A CPU is bound by arithmetic: beyond 32 rows nothing is gained, and rows that are done wait for the slowest (measured).
  most = min(2 ** (len(rows) * samples - 1).bit_length(), 32 if jax.default_backend() == "cpu" else 512)
  batch_size = batch_size or fitting_batch(config, widths[-1], max_new_tokens, np.dtype(config.param_dtype).itemsize,
                                           free_bytes(), most)
  order = sorted(range(len(rows)), key=lambda i: -len(ids[i]))
  prompts, start, compiled = max(1, batch_size // samples), 0, set()
  while start < len(order):
    part = order[start:start + prompts]
    width = next(w for w in widths if w >= len(ids[part[0]]))
    filled = part + part[-1:] * (prompts - len(part))  # the last batch repeats a row: one shape less to compile
    if (prompts, width) not in compiled:
      say(f"sampling {prompts} prompts x {samples} at width {width}, up to {max_new_tokens} new tokens; compiling first")
    try:
      out = model.sample(policy, [ids[i] for i in filled], width=width, generations=samples, max_new_tokens=max_new_tokens,
                         temperature=temperature, keys=noise_keys(seed, [rows[i]["id"] for i in filled], samples))
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error) or prompts == 1:
        raise
      prompts //= 2
      say(f"out of memory; going on with {prompts} prompts at a time")
      continue
    compiled.add((prompts, width))
    yield [rows[i] for i in part], np.asarray(out).reshape(len(filled), samples, -1)[:len(part)]
    start += len(part)


def say(text: str):
  """A log line that does not tear the progress bar."""
  if sys.stderr.isatty():
    from tqdm import tqdm
    tqdm.write(text, file=sys.stderr)
  else:
    print(text, flush=True)


# --------------------------------------------------------------------------------------------------------------- verdicts
LENIENT = re.compile(r"<reasoning>\s*[^<\s].*?</reasoning>.*?<answer>\s*[^<\s].*?</answer>", re.S | re.I)


def responses_of(policy, part: list[dict], out: np.ndarray) -> list[dict]:
  """Rows for responses.jsonl, not yet judged, from completions (B, G, T)."""
  import model
  rows = []
  for row, group in zip(part, out):
    for g, ids in enumerate(group):
      stops = np.flatnonzero(np.isin(ids, model.STOP_IDS))
      tokens = int(stops[0]) + 1 if len(stops) else len(ids)
      rows.append({**{k: row[k] for k in ("id", "domain", "question", "prompt")}, "answer": row.get("answer") or "",
                   "metadata": row.get("metadata") or {}, "sample": g, "response": model.decode(policy.tokenizer, ids[:tokens]),
                   "tokens": tokens, "truncated": not len(stops)})
  return rows


def score(responses: list[dict], style: str, systems: dict[str, list]) -> list[dict]:
  """Adds the verdicts: format, lenient_format, parsed_answer, correct, correct_lenient, partial, rewards by component.

  The answer is read strictly, or leniently where the format is broken, and checked once. A row of a verifiable domain
  without an answer gets the format verdicts only; a creative row is never right or wrong.
  """
  parsed = [rewards.parse_response(r["response"], style) for r in responses]
  read = [p.answer if p else rewards.extract_answer(r["response"]) or r["response"] for p, r in zip(parsed, responses)]
  verifiable = [r["domain"] in rewards.VERIFIABLE_DOMAINS for r in responses]
  checkable = [v and bool(r["answer"] or r["metadata"].get("test_cases")) for v, r in zip(verifiable, responses)]
  columns = {k: [r[k] for r in responses] for k in ("domain", "question", "answer")}
  grades = rewards.grade(columns["domain"], [a if ok else None for a, ok in zip(read, checkable)], columns["answer"],
                         [r["metadata"] for r in responses])
  prompts, texts = [r["prompt"] for r in responses], [r["response"] for r in responses]
  metadata = [json.dumps(r["metadata"], ensure_ascii=False) for r in responses]
  values = {system: {f.__name__: f(prompts, texts, metadata=metadata, **columns) for f in functions}
            for system, functions in systems.items()}
  for i, (r, p, grade, ok) in enumerate(zip(responses, parsed, grades, checkable)):
    r.update(format=p is not None, lenient_format=p is not None or bool(LENIENT.search(r["response"])),
             parsed_answer=p.answer if p else None, correct=bool(p) and grade == 1.0 if ok else None,
             correct_lenient=grade == 1.0 if ok else None, partial=(grade if p else 0.0) if ok else None,
             rewards={s: {name: float(v[i]) for name, v in parts.items()} for s, parts in values.items()})
    if verifiable[i] and not ok:
      r["rewards"] = None  # without an answer every reward but format's would say "wrong"
  return responses


# ---------------------------------------------------------------------------------------------------------------- tables
def percent(value, ci=None) -> str:
  if value is None:
    return "–"
  return f"{100 * value:.1f}%" + (f" [{100 * ci[0]:.1f}, {100 * ci[1]:.1f}]" if ci else "")


def number(value, ci=None) -> str:
  return "–" if value is None else f"{value:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def domain_table(results: dict, brief: bool = False) -> tuple[list, list]:
  """(header, rows of text): one line per domain and one overall; `brief` fits a terminal."""
  header = ["domain", "questions", "strict format", "lenient", "accuracy", "of well-formed", "partial", "mean reward",
            "truncated", "tokens"]
  extra = [k for k in results["overall"] if k.startswith(("pass@", "maj@"))] + ["judge"] * ("judge" in results["overall"])
  rows = []
  for name, d in [*results["domains"].items(), ("overall", results["overall"])]:
    judge = f"{d['judge']['overall']:.2f}/10" if "judge" in d else "–"
    rows.append([name, str(d["n"]) if d["n"] == d["questions"] else f"{d['n']} ({d['questions']} distinct)",
                 percent(d["format_rate"], d["format_ci"]), percent(d["lenient_format_rate"]),
                 percent(d["accuracy"], d["accuracy_ci"]), percent(d["accuracy_well_formed"]), percent(d["partial_credit"]),
                 number(d["mean_reward"], d["mean_reward_ci"]), percent(d["truncated_rate"]), f"{d['mean_tokens']:.0f}",
                 *(judge if k == "judge" else percent(d.get(k)) for k in extra)])
  header += extra
  show = [i for i, name in enumerate(header) if not brief or name not in ("lenient", "of well-formed", "partial", "tokens")]
  return [header[i] for i in show], [[row[i] for i in show] for row in rows]


def print_table(header: list, rows: list, title: str):
  """rich on a terminal, aligned plain text elsewhere."""
  if sys.stdout.isatty():
    import rich.console
    import rich.table
    table = rich.table.Table(title=title)
    for i, name in enumerate(header):
      table.add_column(name, justify="right" if i else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
      table.add_row(*row)
    return rich.console.Console().print(table)
  widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
  print(title)
  for line in [header, *rows]:
    print("  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip())
  sys.stdout.flush()


def print_run_table(run_dir):
  """The pipeline's last word: every evaluated model under `run_dir`, with intervals, and where the reports are."""
  paths = sorted(pathlib.Path(run_dir).glob("eval_*/results.json"), key=lambda p: (
      next((i for i, s in enumerate(("base", "sft", "grpo")) if s in p.parent.name), 9), p.parent.name))
  if not paths:
    raise rewards.InputError(f"{run_dir} holds no eval_*/results.json; run evaluate.py with --out_dir={run_dir}/eval_<name>")
  rows = []
  for path in paths:
    o = read_results(path)["overall"]
    rows.append([path.parent.name.removeprefix("eval_"), str(o["questions"]), percent(o["format_rate"], o["format_ci"]),
                 percent(o["accuracy"], o["accuracy_ci"]), number(o["mean_reward"], o["mean_reward_ci"]), str(path)])
  print_table(["model", "questions", "format rate", "accuracy", "mean reward", "results"], rows,
              f"{run_dir}: held-out questions, 95% intervals in brackets")
  for path in paths:
    if (path.parent / "report.html").is_file():
      print(f"report  {path.parent / 'report.html'}")


def read_results(path) -> dict:
  path = pathlib.Path(path)
  path = path / "results.json" if path.is_dir() else path
  if not path.is_file():
    raise rewards.InputError(f"{path} does not exist; --compare and --table read what evaluate.py wrote")
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
  except ValueError as error:
    raise rewards.InputError(f"{path} is not JSON ({error}); run its evaluation again") from error
  if not isinstance(results, dict) or not {"overall", "domains"} <= results.keys():
    raise rewards.InputError(f"{path} is not a results.json of evaluate.py (no overall and domains); check the path")
  return results


# ---------------------------------------------------------------------------------------------------------------- charts
def figure(heights: list[float]):
  """One column of axes, 4.8 inches wide: readable on a phone and in print. matplotlib's object interface, so that a
  notebook's own backend is left alone."""
  from matplotlib.figure import Figure
  fig = Figure(figsize=(4.8, sum(heights) + 0.3), dpi=200, layout="constrained")
  axes = fig.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
  for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
  return fig, axes


def bars(ax, title: str, labels: list[str], series: list[tuple], unit: float = 100):
  """Horizontal grouped bars with intervals. series: (name, colour, hatch, [(value, ci) per label]), the upper bar first."""
  height = 0.8 / len(series)
  for s, (name, colour, hatch, points) in enumerate(series):
    for i, (value, ci) in enumerate(points):
      y, end = i + (s - (len(series) - 1) / 2) * height, value
      if value is None:
        if s == 0:
          ax.text(0.01, i, "no right answer to check", va="center", fontsize=7, transform=ax.get_yaxis_transform())
        continue
      ax.barh(y, value * unit, height * 0.92, color=colour, hatch=hatch, edgecolor="white", label=name if i == 0 else None)
      if ci:
        ax.errorbar(value * unit, y, xerr=[[max(0, (value - ci[0]) * unit)], [max(0, (ci[1] - value) * unit)]], fmt="none",
                    ecolor=BLACK, elinewidth=1, capsize=2)
        end = max(value, ci[1])
      ax.text(end * unit, y, f" {value * unit:.1f}%" if unit == 100 else f" {value:.2f}", va="center", fontsize=7.5)
  ax.set_title(title, fontsize=10, loc="left")
  ax.set_yticks(range(len(labels)), labels)
  ax.set_ylim(len(labels) - 0.45, -0.55)
  ax.grid(axis="y", visible=False)
  ax.margins(x=0.16)
  if unit == 100:
    ax.set_xlim(0, 118)
    ax.set_xticks(range(0, 101, 20), [f"{t}%" for t in range(0, 101, 20)])


def compliance_chart(results: dict, path):
  """domain_compliance_chart.png: strict format per domain with Wilson intervals, the chart seed 001 left a blank for."""
  table = {**results["domains"], "overall": results["overall"]}
  fig, (ax,) = figure([0.5 + 0.32 * len(table)])
  bars(ax, "Strict format by domain, 95% intervals", [f"{d.replace('_', ' ')} (n={v['n']})" for d, v in table.items()],
       [("strict format", SKY, None, [(v["format_rate"], v["format_ci"]) for v in table.values()])])
  fig.savefig(path)


def before_after_chart(results: dict, path):
  """before_after.png: format, accuracy and mean reward of the two models on the rows they share."""
  table = {**results["compare"]["domains"], "overall": results["compare"]["overall"]}
  fig, axes = figure([0.5 + 0.42 * len(table)] * 3)
  for ax, (title, key, unit) in zip(axes, (("Strict format", "format", 100), ("Accuracy", "accuracy", 100),
                                           (f"Mean reward ({results['recipe']})", "mean_reward", 1))):
    old, new = ([((v[key] or {}).get(k), (v[key] or {}).get(k + "_ci")) for v in table.values()] for k in ("before", "after"))
    bars(ax, title, [d.replace("_", " ") for d in table], [("before", ORANGE, "///", old), ("after", SKY, None, new)], unit)
  fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9, frameon=False)
  fig.savefig(path)


def training_chart(checkpoint: str, path) -> bool:
  """training_curves.png from the metrics.jsonl of the training folder; False where there is none to draw."""
  folders = [pathlib.Path(checkpoint), pathlib.Path(checkpoint).parent] if checkpoint else []
  source = next((f / "metrics.jsonl" for f in folders if (f / "metrics.jsonl").is_file()), None)
  rows = [r for r in rewards.read_rows(source) if isinstance(r.get("step"), int)] if source else []
  lines = {k: [(r["step"], r[k]) for r in rows if isinstance(r.get(k), (int, float)) and math.isfinite(r[k])]
           for k in ("reward", "format", "accuracy", "loss", "completion_tokens", "kl", "entropy")}
  lines = {k: np.array(v, float).T for k, v in lines.items() if len(v) > 1}
  if "reward" in lines:
    lines.pop("loss", None)  # GRPO's loss is near zero by construction and says nothing
  panels = [("Reward", ["reward"]), ("Format and accuracy", ["format", "accuracy"]), ("Loss", ["loss"]),
            ("Completion length, tokens", ["completion_tokens"]), ("KL and entropy", ["kl", "entropy"])]
  panels = [(title, [k for k in keys if k in lines]) for title, keys in panels if any(k in lines for k in keys)]
  if not panels:
    return False
  fig, axes = figure([1.5] * len(panels))
  for ax, (title, keys) in zip(axes, panels):
    for key, colour, style in zip(keys, (BLUE, VERMILLION), ("-", "--")):
      steps, values = lines[key]
      span = max(1, len(values) // 20)
      smooth = [values[max(0, i - span + 1):i + 1].mean() for i in range(len(values))]  # over the last 5% of the steps
      ax.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
      ax.plot(steps, smooth, style, color=colour, linewidth=1.6, label=key.replace("_", " "))
    ax.set_title(title, fontsize=10, loc="left")
    if len(keys) > 1:
      ax.legend(fontsize=8, frameon=False)
  axes[-1].set_xlabel("step", fontsize=8)
  fig.savefig(path)
  return True


def mismatch_chart(variants: list[dict], path):
  """prompt_mismatch.png: the same weights and rows under the trained prompt and under spoiled ones."""
  fig, axes = figure([0.5 + 0.32 * len(variants)] * 2)
  for ax, (title, key, ci) in zip(axes, (("Strict format, by prompt", "format_rate", "format_ci"),
                                         ("Accuracy, by prompt", "accuracy", "accuracy_ci"))):
    bars(ax, title, [v["prompt_variant"].replace("_", " ") or "as trained" for v in variants],
         [(title, VERMILLION, None, [(v["overall"][key], v["overall"][ci]) for v in variants])])
    if ax.patches:
      ax.patches[0].set_color(GREEN)  # the trained prompt comes first
  fig.savefig(path)


def sibling_variants(results: dict, out_dir) -> list[dict]:
  """Results of the same weights on the same rows under other prompts: this one and the complete folders beside it."""
  found = {results["prompt_variant"]: results}
  for path in sorted(pathlib.Path(out_dir).resolve().parent.glob("*/results.json")):
    if path.parent != pathlib.Path(out_dir).resolve() and (path.parent / "config.json").is_file():
      other = read_results(path)
      if all(other.get(k) == results[k] for k in ("weights", "rows", "samples", "temperature", "max_new_tokens")):
        found.setdefault(other["prompt_variant"], other)
  return [found[k] for k in sorted(found)] if len(found) > 1 and "" in found else []


# ---------------------------------------------------------------------------------------------------------------- report
def signed(change: dict | None, scale: float = 100, d: int = 1) -> str:
  return "–" if not change else "{:+.{d}f} [{:+.{d}f}, {:+.{d}f}]".format(
      *(scale * x for x in (change["difference"], *change["ci"])), d=d)


def change_text(change: dict, name: str, scale: float = 100) -> str:
  """One sentence on a paired change: which way, how much, how sure."""
  ci, p = change["ci"], "< 0.001" if change["p"] < 0.001 else f"= {change['p']:.3f}"
  show, unit, d = (percent, " points", 1) if scale == 100 else (number, "", 3)
  sure = (ci[0] > 0 or ci[1] < 0) and round(scale * change["difference"], d) != 0  # nor is a change below the last digit one
  verb = "did not change measurably" if not sure else "rose" if change["difference"] > 0 else "fell"
  low, high = (f"{scale * x:+.{d}f}" for x in ci)
  test = f"; {change['gained']} questions better, {change['lost']} worse, exact p {p}" if scale == 100 else ""  # a test of rates
  return (f"{name} {verb}: {show(change['before'])} → {show(change['after'])}, {scale * change['difference']:+.{d}f}{unit} "
          f"(95% interval {low} to {high}{test}).")


def minute(results: dict) -> list[str]:
  """What a reader takes away in a minute: did it help, by how much, on what."""
  o, c = results["overall"], results.get("compare")
  if not c:
    accuracy = f"accuracy {percent(o['accuracy'], o['accuracy_ci'])}; " if o["accuracy"] is not None else ""
    return [f"{accuracy}strict format {percent(o['format_rate'], o['format_ci'])}; mean reward ({results['recipe']}) "
            f"{number(o['mean_reward'], o['mean_reward_ci'])}. Compared with nothing (--compare)."]
  out, all_rows = [], c["overall"]
  if all_rows["accuracy"]:
    out.append(change_text(all_rows["accuracy"], "Accuracy"))
    out.append(f"Of that, format learned: {signed(all_rows['format_learned'])} points; "
               f"answers improved: {signed(all_rows['answers_improved'])} points.")
  out.append(change_text(all_rows["format"], "Strict format"))
  if all_rows["mean_reward"]:
    out.append(change_text(all_rows["mean_reward"], f"Mean reward ({results['recipe']})", 1))
  moved = {"higher": lambda ci: ci[0] > 0, "lower": lambda ci: ci[1] < 0}
  for word, test in moved.items():
    names = [d for d, v in c["domains"].items() if v["accuracy"] and test(v["accuracy"]["ci"])]
    out += [f"Accuracy measurably {word} in: {', '.join(names)}."] * bool(names)
  return out


def doubts(results: dict) -> list[str]:
  """Reasons to believe the numbers less, each with its count."""
  o, out = results["overall"], []
  if o["questions"] < 100:
    out.append(f"Only {o['questions']} distinct questions: the intervals are wide.")
  if o["n"] > o["questions"]:
    out.append(f"{o['n']} rows hold {o['questions']} distinct questions; intervals and tests count questions.")
  if o["truncated_rate"] > 0.05:
    out.append(f"{percent(o['truncated_rate'])} of the responses were cut at {results['max_new_tokens']} tokens and cannot be "
               "well formed; raise --max_new_tokens.")
  if results["unscored_rows"]:
    out.append(f"{results['unscored_rows']} rows of verifiable domains have no answer and were evaluated for format only.")
  if results["prompt_variant"]:
    out.append(f"Prompts were spoiled on purpose ({results['prompt_variant']}).")
  if results.get("prompt_mismatch"):
    out.append("The checkpoint was trained with another prompt text (--allow_prompt_mismatch).")
  if results["temperature"] > 0 and results["samples"] == 1:
    out.append(f"One sample at temperature {results['temperature']:g}: another seed gives other answers.")
  judge = results.get("judge") or {}
  if judge.get("malformed") or judge.get("failed"):
    out.append(f"The judge gave {judge['malformed']} malformed replies and none to {judge['failed']} responses.")
  if results["check_failures"]:
    out.append(f"Checks that failed and count as wrong: {', '.join(f'{k} {n}' for k, n in results['check_failures'].items())}.")
  c = results["contamination"]
  if c and c["shared_8gram"]:
    out.append(f"{c['shared_8gram']} of {o['n']} questions share an 8-gram with a training question ({c['same_question']} are "
               "the same question): they may measure memory.")
  return out or ["Nothing stands out: enough distinct questions, no overlap with training, few truncated responses."]


def chosen_samples(responses: list[dict], before: list[dict], flipped: dict | None, recipe: str) -> list[tuple]:
  """(title, response, the other model's response or None): best and worst per reward, one a domain, and flips each way."""
  first = [r for r in responses if r["sample"] == 0 and r["rewards"]]
  total = lambda r: sum(r["rewards"][recipe].values())
  out = []
  for title, ranked in (("best", sorted(first, key=total, reverse=True)), ("worst", sorted(first, key=total))):
    by_domain = {}
    for r in ranked:
      by_domain.setdefault(r["domain"], r)
    out += [(f"{title}: {r['domain']}, reward {total(r):.2f}", r, None) for r in list(by_domain.values())[:3]]
  old, new = ({r["id"]: r for r in side if r["sample"] == 0} for side in (before, responses))
  for way in ("gained", "lost"):
    for i in (flipped or {}).get(way, [])[:3]:
      out.append((f"{'newly right' if way == 'gained' else 'newly wrong'}: {new[i]['domain']}, {i}", new[i], old[i]))
  return out


def report_blocks(results: dict, responses: list[dict], before: list[dict], images: list[tuple]) -> list[tuple]:
  """The report as ("h2" | "p" | "list" | "table" | "image" | "sample", …) blocks, which both writers render."""
  change, recipe = results.get("compare"), results["recipe"]
  out = [("h2", "In one minute"), ("list", minute(results)), ("h2", "Reasons for doubt"), ("list", doubts(results))]
  out += [("h2", "Results"), ("table", *domain_table(results)),
          ("p", "Rates with 95% Wilson intervals, rewards with bootstrap intervals, over distinct questions. Accuracy needs "
           "strict format and a right answer; lenient format forgives text around the tags; partial credit gives near numbers "
           "and programs that pass some tests a part.")]
  if "judge" in results["overall"]:
    judged = [(d, v["judge"]) for d, v in {**results["domains"], "overall": results["overall"]}.items() if "judge" in v]
    rows = [[d, str(j["n"]), f"{j['reasoning']:.2f}/5", f"{j['answer']:.2f}/5", f"{j['overall']:.2f}/10"] for d, j in judged]
    out += [("p", f"Where no answer is right, graded by {next(r['judge']['model'] for r in responses if r.get('judge'))}:"),
            ("table", ["domain", "responses", "reasoning", "answer", "overall"], rows)]
  out += [("image", path, caption) for path, caption in images]
  if change:
    keys = ("format", "accuracy", "format_learned", "answers_improved")
    rows = [[d, *(signed(v[k]) for k in keys), signed(v["mean_reward"], 1, 3)]
            for d, v in [*change["domains"].items(), ("overall", change["overall"])]]
    out += [("h2", "Change, paired by row"), ("p", f"After minus before on {change['n']} shared rows; rates in points."),
            ("table", ["domain", "format", "accuracy", "= format learned", "+ answers improved", "reward"], rows)]
    for way, ids in change["flipped"].items():
      out += [("p", f"{len(ids)} rows newly {'right' if way == 'gained' else 'wrong'}: {', '.join(ids[:40])}"
               + (" … (all in results.json)" if len(ids) > 40 else ""))]
  out += [("h2", "Rewards by component"), ("p", f"Means; {recipe} is this run's, four_component's total the composite."),
          ("table", ["system: component", "overall", *results["domains"]], [
              [f"{system}: {name}", f"{value:+.3f}", *(f"{d['rewards'][system][name]:+.3f}" if d["rewards"] else "–"
                                                       for d in results["domains"].values())]
              for system, parts in results["rewards"].items() for name, value in parts.items()])]
  out += [("h2", "Samples")]
  out += [("sample", *s) for s in chosen_samples(responses, before, change and change["flipped"], recipe)]
  run = [[k.replace("_", " "), str(results[k])] for k in (
      "model", "checkpoint", "data_dir", "split", "samples", "temperature", "max_new_tokens", "prompt_variant", "prompt_hash",
      "recipe", "seed", "dtype", "devices")]
  run += [["compared with", change["other"]]] if change else []
  run += [["speed", f"{results['tokens_per_second']:.0f} tokens/s, {results['seconds']:.0f} s"]] if results["seconds"] else []
  out += [("h2", "What was run"), ("table", ["", ""], [[k, v or "–"] for k, v in run])]
  c = results["contamination"]
  out += [("h2", "Contamination"), ("p", "No train.jsonl beside the evaluated rows: not checked." if not c else
           f"Against {c['train_rows']} training questions: {c['same_question']} evaluated questions are the same, "
           f"{c['shared_8gram']} share at least one run of 8 words.")]
  out += [("h2", "Versions"), ("p", ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
                               + f"; commit {results['git_commit'] or 'unknown'}")]
  return out


def sample_parts(response: dict, before: dict | None) -> list[tuple]:
  verdict = lambda r: " · ".join(["well formed" if r["format"] else "ill formed"] + [
      "right" if r["correct"] else "wrong"] * (r["correct"] is not None) + [f"{r['tokens']} tokens"] + ["cut"] * r["truncated"])
  parts = [("question", response["question"])]
  parts += [("expected", response["answer"])] * bool(response["answer"])
  parts += [(f"before ({verdict(before)})", before["response"])] if before else []
  return [(name, text[:3000] + " […]" * (len(text) > 3000)) for name, text in
          [*parts, (f"{'after' if before else 'response'} ({verdict(response)})", response["response"])]]


def to_markdown(title: str, blocks: list[tuple]) -> str:
  """report.md. Text from data or a model stands only inside fences longer than any of its own, or escaped."""
  plain = lambda text: re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", " ".join(str(text).split()))
  out = [f"# {title}\n"]
  for kind, *parts in blocks:
    if kind == "h2":
      out.append(f"\n## {parts[0]}\n")
    elif kind == "p":
      out.append(plain(parts[0]) + "\n")
    elif kind == "list":
      out.append("".join(f"- {plain(item)}\n" for item in parts[0]))
    elif kind == "table":
      lines = [parts[0], ["---"] + ["---:"] * (len(parts[0]) - 1)]
      rows = [[plain(c) for c in row] for row in parts[1]]
      out.append("".join("| " + " | ".join(line) + " |\n" for line in lines + rows))
    elif kind == "image":
      out.append(f"![{parts[1]}]({parts[0].name})\n")
    else:
      out.append(f"### {plain(parts[0])}\n")
      for name, text in sample_parts(parts[1], parts[2]):
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
        out.append(f"{plain(name)}\n\n{fence}text\n{text}\n{fence}\n")
  return "\n".join(out)


STYLE = """body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff;max-width:62rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #e3e3e3;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}.facts td{text-align:left;white-space:normal;overflow-wrap:anywhere}
tr:last-child td{font-weight:600}.facts td{font-weight:400!important}img{max-width:100%;height:auto}
figure{margin:1rem 0;max-width:720px}figcaption,.note{color:#555;font-size:.85rem}li{margin:.3rem 0}p,li{overflow-wrap:anywhere}
details{border:1px solid #ddd;border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}summary{cursor:pointer;font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.6rem;border-radius:4px;margin:.3rem 0;
font-size:.82rem}"""


def to_html(title: str, blocks: list[tuple]) -> str:
  """report.html: one file, no script, no request; every text is escaped, so a model cannot write markup."""
  esc = lambda text: html.escape(str(text))
  out = []
  for kind, *parts in blocks:
    if kind in ("h2", "p"):
      out.append(f"<{kind}>{esc(parts[0])}</{kind}>")
    elif kind == "list":
      out.append("<ul>" + "".join(f"<li>{esc(item)}</li>" for item in parts[0]) + "</ul>")
    elif kind == "table":
      line = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{esc(c)}</{tag}>" for c in cells) + "</tr>"
      head = f"<thead>{line(parts[0], 'th')}</thead>" if any(parts[0]) else ""
      out.append(f'<div class="wide"><table class="{"numbers" if head else "facts"}">{head}<tbody>'
                 + "".join(line(row, "td") for row in parts[1]) + "</tbody></table></div>")
    elif kind == "image":
      data = base64.b64encode(parts[0].read_bytes()).decode()
      out.append(f'<figure><img alt="{esc(parts[1])}" src="data:image/png;base64,{data}">'
                 f"<figcaption>{esc(parts[1])}</figcaption></figure>")
    else:
      inner = "".join(f'<div class="note">{esc(name)}</div><pre>{esc(text)}</pre>' for name, text in sample_parts(*parts[1:]))
      out.append(f"<details><summary>{esc(parts[0])}</summary>{inner}</details>")
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then refuses whatever slipped through
  return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
          f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1"><title>{esc(title)}</title>'
          f"<style>{STYLE}</style></head><body><h1>{esc(title)}</h1>" + "\n".join(out) + "</body></html>\n")


# ------------------------------------------------------------------------------------------------------------ the folder
def open_folder(out_dir, identity: dict, overwrite: bool) -> list[dict]:
  """Responses that an interrupted run left in `out_dir`; refuses those made with other flags, rows or weights.

  A last line torn by the interruption is dropped. run.json holds what the responses depend on.
  """
  out_dir = pathlib.Path(out_dir)
  out_dir.mkdir(parents=True, exist_ok=True)
  marker, path = out_dir / "run.json", out_dir / "responses.jsonl"
  kept = []
  if path.is_file() and not overwrite:
    old = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}
    differs = [f"{k}={old.get(k)!r} (now {v!r})" for k, v in identity.items() if old.get(k) != v]
    if differs:
      raise rewards.InputError(f"{path} was made with other {', '.join(differs)}; choose another --out_dir or pass --overwrite")
    lines = path.read_bytes().split(b"\n")
    if lines.pop():  # not ended by a newline: torn
      say("the last line of responses.jsonl was torn; its row is sampled again")
    rewards.write_text(path, b"".join(line + b"\n" for line in lines).decode())
    kept = rewards.read_rows(path)
  else:
    path.unlink(missing_ok=True)
  for name in ("config.json", "results.json"):  # complete no more, until this run ends
    (out_dir / name).unlink(missing_ok=True)
  rewards.write_text(marker, json.dumps(identity, indent=1) + "\n")
  return kept


def weights_digest(policy, checkpoint: str) -> str:
  """16 hex digits of what a checkpoint put on the base model; the base's own fingerprint without one."""
  if not checkpoint:
    return policy.fingerprint
  import model
  mark = hashlib.sha256(policy.fingerprint.encode())
  for name, x in sorted(model.flat_params(policy.model, model.trainable(policy.model)).items()):
    mark.update(name.encode() + np.asarray(x).tobytes())
  return mark.hexdigest()[:16]


def to_lines(rows: list[dict]) -> str:
  return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def sample_and_score(policy, rows: list[dict], kept: list[dict], path, style: str, systems: dict,
                     **sampling) -> tuple[list[dict], dict]:
  """All responses to `rows` in their order, those in `kept` included, and the speed; a finished batch is on disk at once.

  Checking answers (sandbox, symbolic maths) runs beside the sampling of the next batch.
  """
  from tqdm import tqdm
  counts = collections.Counter(r["id"] for r in kept)
  todo = [row for row in rows if counts[row["id"]] < sampling["samples"]]
  unfinished = {row["id"] for row in todo}
  kept = [r for r in kept if r["id"] not in unfinished]
  if len(todo) < len(rows):
    say(f"{len(rows) - len(todo)} of {len(rows)} rows are already in {path}; {len(todo)} to go")
  start, tokens, out = time.monotonic(), 0, list(kept)
  rewards.write_text(path, to_lines(kept))
  if not todo:
    return in_order(rows, out), {"seconds": 0.0, "tokens_per_second": 0.0}
  bar = tqdm(total=len(rows), initial=len(rows) - len(todo), unit="row", disable=not sys.stderr.isatty(), smoothing=0.1)
  try:
    with open(path, "a", encoding="utf-8") as file, concurrent.futures.ThreadPoolExecutor(1) as checker, bar:
      pending, done = None, 0

      def finish(part, completions):
        scored = score(responses_of(policy, part, completions), style, systems)
        file.write(to_lines(scored))
        file.flush()
        os.fsync(file.fileno())
        return scored
      for part, completions in generate(policy, todo, **sampling):
        if pending:
          out += pending.result()
        pending = checker.submit(finish, part, completions)
        tokens, done = tokens + int(np.count_nonzero(completions)), done + len(part)
        seconds = time.monotonic() - start
        bar.update(len(part))
        bar.set_postfix_str(f"{tokens / seconds:.0f} tokens/s")
        if bar.disable:
          print(f"rows {len(rows) - len(todo) + done}/{len(rows)}  {tokens / seconds:.0f} tokens/s  "
                f"eta {seconds / done * (len(todo) - done):.0f} s", flush=True)
      out += pending.result()
  except KeyboardInterrupt:
    raise rewards.Stopped(f"finished batches are in {path}; run the same command again to go on") from None
  seconds = time.monotonic() - start
  return in_order(rows, out), {"seconds": seconds, "tokens_per_second": tokens / seconds}


def judge_creative(responses: list[dict], url: str, judge_model: str, path, chunk: int = 64) -> dict:
  """Adds "judge" (reasoning 1–5, answer 1–5, overall 0–10) to the responses of domains without a right answer; returns counts.

  Saved after every `chunk`, so that an interrupted or unreachable judge is asked only for what is left. Another judge_model
  starts again. Once a whole chunk went unanswered the rest is not tried.
  """
  creative = [r for r in responses if r["domain"] not in rewards.VERIFIABLE_DOMAINS]
  todo = [r for r in creative if r.get("judge", {}).get("model") != judge_model]
  counted = collections.Counter(rewards.failed_rows())
  say(f"judge {judge_model}: {len(todo)} of {len(creative)} responses to go")
  for i in range(0, len(todo), chunk):
    part = todo[i:i + chunk]
    for r in part:
      r.pop("judge", None)
    verdicts = rewards.judge(part, url, judge_model)
    for r, verdict in zip(part, verdicts):
      if verdict:
        r["judge"] = {**verdict._asdict(), "model": judge_model}
    rewards.write_text(path, to_lines(responses))
    counts = collections.Counter(rewards.failed_rows()) - counted
    if counts["judge_failed"] and not any(verdicts):
      break
  judged, counts = sum("judge" in r for r in creative), collections.Counter(rewards.failed_rows()) - counted
  failed = len(creative) - judged - counts["judge_malformed"]
  return {"model": judge_model, "n": judged, "malformed": counts["judge_malformed"], "failed": failed,
          "retried": counts["judge_retried"],
          "error": f"the judge at {url} gave no reply to {failed} of {len(creative)} responses" if failed else ""}


def in_order(rows: list[dict], responses: list[dict]) -> list[dict]:
  place = {row["id"]: i for i, row in enumerate(rows)}
  return sorted(responses, key=lambda r: (place[r["id"]], r["sample"]))


def write_report(results: dict, responses: list[dict], before: list[dict], out_dir, checkpoint: str):
  """The charts, report.md and report.html."""
  out_dir, images = pathlib.Path(out_dir), []
  compliance_chart(results, out_dir / "domain_compliance_chart.png")
  images.append((out_dir / "domain_compliance_chart.png", "Strict format by domain, with 95% Wilson intervals."))
  if "compare" in results:
    before_after_chart(results, out_dir / "before_after.png")
    images.append((out_dir / "before_after.png", f"Before ({results['compare']['other']}) and after, on the same rows."))
  if training_chart(checkpoint, out_dir / "training_curves.png"):
    images.append((out_dir / "training_curves.png", "The training run of this checkpoint; bold lines are running means."))
  variants = sibling_variants(results, out_dir)
  if variants:
    mismatch_chart(variants, out_dir / "prompt_mismatch.png")
    images.append((out_dir / "prompt_mismatch.png", "The same weights and questions, under the trained and spoiled prompts."))
  title = f"Evaluation: {results['checkpoint'] or results['model']} on {results['overall']['n']} {results['split']} rows"
  blocks = report_blocks(results, responses, before, images)
  rewards.write_text(out_dir / "report.md", to_markdown(title, blocks))
  rewards.write_text(out_dir / "report.html", to_html(title, blocks))


# ------------------------------------------------------------------------------------------------------------------- main
def check_flags(recipe: str, samples: int, temperature: float):
  if recipe not in rewards.SYSTEMS:
    raise rewards.InputError(f"--rewards={recipe} is unknown; valid: {', '.join(rewards.SYSTEMS)}")
  if samples > 1 and temperature == 0:
    raise rewards.InputError(f"--samples={samples} at --temperature=0 draws one response {samples} times; "
                             "add --temperature=0.7, or leave --samples at 1")


def check_trained_prompt(checkpoint: str, data_dir: str, data: dict, allow_mismatch: bool) -> bool:
  """Whether the checkpoint was trained with another prompt than the data's, when that is allowed; refuses when not.

  A PEFT adapter from elsewhere records no prompt and passes.
  """
  import model
  if not checkpoint or (pathlib.Path(checkpoint) / "adapter_config.json").is_file():
    return False
  trained = model.read_checkpoint(checkpoint)[0]
  if trained["prompt_hash"] != data["prompt_hash"] and not allow_mismatch:
    raise rewards.InputError(
        f"{checkpoint} was trained with prompt {trained['prompt_hash']} (style {trained['style']}), {data_dir} holds "
        f"{data['prompt_hash']} (style {data['style']}); evaluate on the data it was trained on, or pass --allow_prompt_mismatch")
  return trained["prompt_hash"] != data["prompt_hash"]


def load_other(path) -> list[dict]:
  """Responses of the evaluation to compare with."""
  read_results(path)
  path = (pathlib.Path(path) if pathlib.Path(path).is_dir() else pathlib.Path(path).parent) / "responses.jsonl"
  responses = rewards.read_rows(path)
  if not responses or any("correct_lenient" not in r for r in responses):
    raise rewards.InputError(f"{path} lacks verdicts of this evaluate.py; run that evaluation again")
  return responses


def main():
  if FLAGS.table:
    return print_run_table(FLAGS.table)
  check_flags(FLAGS.rewards, FLAGS.samples, FLAGS.temperature)
  failed = collections.Counter(rewards.failed_rows())  # of earlier runs in this process (a notebook)
  rows, data = load_rows(FLAGS.data_dir, FLAGS.split, FLAGS.limit, FLAGS.prompt_variant, FLAGS.allow_prompt_mismatch)
  before = load_other(FLAGS.compare) if FLAGS.compare else []
  import jax

  import model  # not at the top: --table and bad input need not wait for JAX
  mismatch = check_trained_prompt(FLAGS.checkpoint, FLAGS.data_dir, data, FLAGS.allow_prompt_mismatch)
  model.enable_compilation_cache()
  policy = model.load_policy(FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, FLAGS.mesh, FLAGS.dtype)
  sampling = {k: FLAGS[k].value for k in ("samples", "temperature", "max_new_tokens", "seed")}
  identity = {"rows": digest([[r["id"], r["question"], r.get("answer"), r.get("metadata")] for r in rows]),
              "prompts": digest([r["prompt"] for r in rows]), "weights": weights_digest(policy, FLAGS.checkpoint),
              "dtype": np.dtype(policy.model.config.param_dtype).name, "style": data["style"], **sampling}
  kept = open_folder(FLAGS.out_dir, identity, FLAGS.overwrite)
  path = pathlib.Path(FLAGS.out_dir) / "responses.jsonl"
  systems = {s: rewards.make_rewards(s, style="" if s == "dual_stream" else data["style"]) for s in rewards.SYSTEMS}
  responses, speed = sample_and_score(policy, rows, kept, path, data["style"], systems, batch_size=FLAGS.batch_size, **sampling)
  judged = judge_creative(responses, FLAGS.judge_url, FLAGS.judge_model, path) if FLAGS.judge_url else None
  rewards.write_text(path, to_lines(responses))
  failures = {k: n for k, n in (collections.Counter(rewards.failed_rows()) - failed).items() if not k.startswith("judge")}
  facts = {"model": policy.name, "checkpoint": FLAGS.checkpoint, "data_dir": FLAGS.data_dir, "split": FLAGS.split, **identity,
           "prompt_variant": FLAGS.prompt_variant, "prompt_hash": data["prompt_hash"], "prompt_mismatch": mismatch,
           "judge": judged, "check_failures": failures, "recipe": FLAGS.rewards, **speed,
           "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}", "contamination": contamination(rows, FLAGS.data_dir)}
  results = collect(responses, facts, before, FLAGS.compare)
  rewards.write_text(path.with_name("results.json"), json.dumps(results, indent=1, ensure_ascii=False) + "\n")
  write_report(results, responses, before, FLAGS.out_dir, FLAGS.checkpoint)
  rewards.write_config(FLAGS.out_dir, "evaluate", FLAGS, data["style"], model=policy.name, checkpoint=FLAGS.checkpoint)
  print_table(*domain_table(results, brief=True), f"{policy.name} {FLAGS.checkpoint}: {FLAGS.split} rows of {FLAGS.data_dir}")
  print("\n".join([*minute(results), *doubts(results), f"report: {FLAGS.out_dir}/report.html"]), flush=True)
  if judged and judged["error"]:
    raise rewards.InputError(f"{judged['error']}; all else is in {FLAGS.out_dir}, the same command again asks only for those")


def collect(responses: list[dict], facts: dict, before: list[dict], other: str) -> dict:
  """results.json, all but what needs more than the responses."""
  recipe, seed = facts["recipe"], facts["seed"]
  names = sorted({r["domain"] for r in responses}, key=domain_order)
  results = {"overall": summarize(responses, recipe, seed),
             "domains": {d: summarize([r for r in responses if r["domain"] == d], recipe, seed) for d in names}, **facts,
             "unscored_rows": len({r["id"] for r in responses if r["rewards"] is None}),
             "versions": rewards.versions(), "git_commit": rewards.git_commit()}
  results["rewards"] = results["overall"]["rewards"]
  if other:
    results["compare"] = {"other": other, **compare_responses(before, responses, recipe, seed)}
  return results


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)
