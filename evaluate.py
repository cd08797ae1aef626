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
import base64
import collections
import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import pathlib
import re
import sys
import time

import jax
import matplotlib
import numpy as np
import psutil
from absl import flags
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from tqdm import tqdm

import model as gemma
import rewards
from rewards import InputError

FLAGS = flags.FlagValues()
# Inputs.
flags.DEFINE_string("data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS)
flags.DEFINE_string("split", "test", "Rows to evaluate: train, val or test.", flag_values=FLAGS)
flags.DEFINE_string("model", "tiny", "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
                    flag_values=FLAGS)
flags.DEFINE_string("checkpoint", "", "SFT, GRPO or PEFT adapter folder to put on the model; empty: the model itself.",
                    flag_values=FLAGS)
flags.DEFINE_string("compare", "", "results.json of another model on the same rows; empty: no comparison.", flag_values=FLAGS)
flags.DEFINE_enum("prompt_variant", "", ["", "extra_space", "no_newline", "one_newline", "indented", "no_system"],
                  "Render prompts unlike training on purpose; empty: as trained.", flag_values=FLAGS)
# Outputs.
flags.DEFINE_string("out_dir", "artifacts/run/eval", "Folder to write.", flag_values=FLAGS)
flags.DEFINE_boolean("overwrite", False, "Replace what out_dir holds from an earlier run.", flag_values=FLAGS)
flags.DEFINE_string("table", "", "Only print the table of the eval_*/results.json under this folder; empty: evaluate.",
                    flag_values=FLAGS)
# Size and sampling.
flags.DEFINE_integer("limit", 0, "Rows to evaluate, from the top of the file; 0: all.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 0, "Responses sampled together; 0: what fits in memory.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("samples", 1, "Responses to a prompt; above 1 adds pass@k and maj@k.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_float("temperature", 0.0, "Sampling temperature; 0 is greedy.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("max_new_tokens", 512, "Longest completion, in tokens.", lower_bound=1, flag_values=FLAGS)
# Scoring.
flags.DEFINE_enum("rewards", "multi_domain", list(rewards.SYSTEMS), "Reward system behind mean_reward; all are reported.",
                  flag_values=FLAGS)
flags.DEFINE_string("judge_url", "", "OpenAI-compatible endpoint that grades the domains without a right answer, with the key in "
                    "JUDGE_API_KEY; empty: no judge.", flag_values=FLAGS)
flags.DEFINE_string("judge_model", "deepseek-reasoner", "Model name at --judge_url.", flag_values=FLAGS)
flags.DEFINE_enum("code_rewards", "on", ["on", "off"], "Run answers' code in the sandbox; off: it is not checked.",
                  flag_values=FLAGS)
# Misc.
flags.DEFINE_integer("seed", 0, "Seed of every random choice.", flag_values=FLAGS)
flags.DEFINE_string("mesh", "auto", "Devices as FSDPxTP, e.g. 4x2; auto: all devices on fsdp.", flag_values=FLAGS)
flags.DEFINE_string("dtype", "auto", "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
                    flag_values=FLAGS)
flags.DEFINE_boolean("allow_prompt_mismatch", False, "Go on although the data was rendered with another prompt text.",
                     flag_values=FLAGS)

SKY, ORANGE, BLACK = "#56B4E9", "#E69F00", "#222222"  # Okabe & Ito: told apart by every reader


# ------------------------------------------------------------------------------------------------------------- statistics
def mean(values) -> float | None:
  values = [v for v in values if v is not None]
  return float(np.mean(values)) if values else None


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
  rng = np.random.default_rng(seed)
  picks = (rng.integers(len(sums), size=(500, len(sums))) for _ in range(resamples // 500))  # in slices: less memory
  return np.quantile(np.concatenate([sums[p].sum(1) / counts[p].sum(1) for p in picks]), (0.025, 0.975)).tolist()


def mcnemar(gained: int, lost: int) -> float:
  """Exact two-sided p-value of `gained` against `lost` discordant pairs (McNemar 1947, binomial form)."""
  n = gained + lost
  return min(1.0, 2 * sum(math.comb(n, i) for i in range(min(gained, lost) + 1)) / 2**n)


def pass_at_k(n: int, c: int, k: int) -> float:
  """Unbiased chance that k of n samples, c of them right, hold a right one (Chen et al. 2021, arXiv:2107.03374, eq. 1)."""
  return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def grouped(responses: list[dict], key: str) -> dict[str, list[dict]]:
  out = {}
  for r in responses:
    out.setdefault(r[key], []).append(r)
  return out


def domain_order(domain: str) -> tuple:
  return (rewards.DOMAINS.index(domain) if domain in rewards.DOMAINS else len(rewards.DOMAINS), domain)


def metrics(recipe: str) -> dict:
  """{name in results.json: (value of a response or None, whether it is a yes or no)}."""
  return {"format_rate": (lambda r: r["format"], True), "lenient_format_rate": (lambda r: r["lenient_format"], True),
          "truncated_rate": (lambda r: r["truncated"], True), "accuracy": (lambda r: r["correct"], True),
          "accuracy_lenient": (lambda r: r["correct_lenient"], True),
          "accuracy_well_formed": (lambda r: r["correct"] if r["format"] else None, True),
          "mean_reward": (lambda r: sum(r["rewards"][recipe].values()) if r["rewards"] else None, False)}


def estimate(values, questions, is_rate: bool, seed: int) -> tuple:
  """(mean, 95% interval) over distinct questions: samples and repeats of one are no new evidence. (None, None) without any."""
  known = [(float(v), q) for v, q in zip(values, questions) if v is not None]
  if not known:
    return None, None
  values, questions = zip(*known)
  p, units = mean(values), len(set(questions))
  return p, wilson(p * units, units) if is_rate else bootstrap(values, questions, seed)


def summarize(responses: list[dict], recipe: str, seed: int = 0) -> dict:
  """One domain's (or the overall) numbers. Rates are in [0, 1]; accuracy is over rows with an answer, None without any.

  `accuracy` needs strict format and a right answer; `accuracy_lenient` reads the answer out of ill-formed text too.
  """
  by_row, questions = grouped(responses, "id"), [r["question"] for r in responses]
  answered = [rs for rs in by_row.values() if rs[0]["correct"] is not None]
  out = {"n": len(by_row), "questions": len(set(questions)), "scored": len(answered)}
  for name, (value, is_rate) in metrics(recipe).items():
    out[name], out[name.removesuffix("_rate") + "_ci"] = estimate(map(value, responses), questions, is_rate, seed)
  scored, tokens = [r["rewards"] for r in responses if r["rewards"]], [r["tokens"] for r in responses]
  means = {system: {name: mean(r[system][name] for r in scored) for name in parts}
           for system, parts in (scored[0] if scored else {}).items()}
  out["rewards"] = {system: {**parts, "total": sum(parts.values())} for system, parts in means.items()}
  out |= {"composite": out["rewards"]["four_component"]["total"] if scored else None,  # seed 004's name for that system's sum
          "partial_credit": mean(r["partial"] for r in responses), "mean_tokens": mean(tokens),
          "p95_tokens": float(np.quantile(tokens, 0.95))}
  given = [(r["parsed_answer"].casefold().strip(), r["correct"]) for rs in answered for r in rs
           if r["parsed_answer"] is not None and r["domain"] != "coding"]
  if given:
    top, count = collections.Counter(text for text, _ in given).most_common(1)[0]
    right = mean(correct for text, correct in given if text == top)
    out["top_answer"] = {"text": top[:40], "n": len(given), "share": count / len(given), "right": right}
  samples = min(map(len, by_row.values()))
  if samples > 1 and answered:
    for k in sorted({2**i for i in range(samples.bit_length())} | {samples}):
      out[f"pass@{k}"] = mean(pass_at_k(len(rs), sum(r["correct"] for r in rs), k) for rs in answered)
    out[f"maj@{samples}"] = mean(rewards.majority(rs[0]["domain"], [(r["parsed_answer"], r["correct"]) for r in rs])
                                 for rs in answered if rs[0]["domain"] != "coding")  # programs cannot vote
  if judged := [r["judge"] for r in responses if r.get("judge")]:
    out["judge"] = {"n": len(judged), **{k: mean(j[k] for j in judged) for k in JUDGED}}
  return out


def difference(pairs: list[tuple], value, is_rate: bool, seed: int) -> dict | None:
  """Paired change of `value(response)` over (responses before, responses after) of each row; None when no row has it.

  The exact test is McNemar's with one response a row and no repeated question, else the sign test on questions.
  """
  rows = [(new[0]["question"], mean(map(value, old)), mean(map(value, new))) for old, new in pairs]
  rows = [row for row in rows if None not in row]
  if not rows:
    return None
  questions, before, after = zip(*rows)
  delta = np.subtract(after, before)
  by_question = np.bincount(np.unique(questions, return_inverse=True)[1], weights=delta)
  gained, lost = int((by_question > 1e-9).sum()), int((by_question < -1e-9).sum())
  out = {"n": len(rows), "gained": gained, "lost": lost, "p": mcnemar(gained, lost)}
  for name, values, rate in (("before", before, is_rate), ("after", after, is_rate), ("difference", delta, False)):
    out[name], out[name + "_ci"] = estimate(values, questions, rate, seed)
  return {**out, "ci": out.pop("difference_ci")}


def compare_responses(before: list[dict], after: list[dict], recipe: str, seed: int = 0) -> dict:
  """Pairs two models' responses by row id. The accuracy gain is split exactly in two, row by row:

  correct = correct_lenient - (correct_lenient - correct): the change of the first term is *answers improved* (a right answer
  appears, whatever its tags), the fall of the second is *format learned* (a right answer is no longer lost to its tags).
  """
  old, new, known = grouped(before, "id"), grouped(after, "id"), metrics(recipe)
  ids = [i for i in new if i in old and old[i][0]["question"] == new[i][0]["question"]]
  if not ids:
    raise InputError("the two evaluations share no row; compare models on the same data_dir and split")
  values = {"format": known["format_rate"], "accuracy": known["accuracy"], "mean_reward": known["mean_reward"],
            "answers_improved": known["accuracy_lenient"],
            "format_learned": (lambda r: None if r["correct"] is None else r["correct"] - r["correct_lenient"], False)}
  domain, names = lambda i: new[i][0]["domain"], sorted({new[i][0]["domain"] for i in ids}, key=domain_order)
  table = lambda ids: {k: difference([(old[i], new[i]) for i in ids], *value, seed) for k, value in values.items()}
  right = {i: [mean(r["correct"] for r in side[i]) or 0 for side in (old, new)] for i in ids}
  return {"n": len(ids), "overall": table(ids), "domains": {d: table([i for i in ids if domain(i) == d]) for d in names},
          "flipped": {way: [i for i, (b, a) in right.items() if sign * (a - b) > 0] for way, sign in (("gained", 1), ("lost", -1))}}


# ------------------------------------------------------------------------------------------------------- rows and prompts
VARIANTS = {  # name -> the trained prompt, spoiled; each is a mistake seen in the seeds (001: 94% -> 55% format)
  "extra_space": lambda p: p.replace("Task: ", "Task:  ", 1),
  "no_newline": lambda p: p.removesuffix("\n"),
  "one_newline": lambda p: p.replace("\n\nTask: ", "\nTask: ", 1),
  "indented": lambda p: re.sub(rf"(?s)(?<=user\n).*(?={rewards.TURN_END})", lambda m: re.sub("(?m)^(?=.)", "    ", m[0]), p),
  "no_system": lambda p: f"{rewards.TURN_START}user\n{p[p.index('Task: ') + 6:]}" if "Task: " in p else p,
}


def load_rows(data_dir, split: str, limit: int, variant: str, allow_mismatch: bool) -> tuple[list[dict], dict]:
  """Checked rows and the data folder's config; prompts as trained, or spoiled by `variant`."""
  config = rewards.read_config(data_dir, "prepare_data.py")
  rewards.check_prompt_hash(config, data_dir, allow_mismatch)
  path = pathlib.Path(data_dir) / f"{split}.jsonl"
  rows = rewards.read_rows(path)
  if not rows:
    raise InputError(f"{path} is empty; prepare the data with a larger --{split}_size")
  seen = set()
  for number, row in enumerate(rows, 1):
    lacks = [k for k in ("id", "domain", "question", "prompt") if not isinstance(row, dict) or not isinstance(row.get(k), str)]
    if lacks or row["id"] in seen:
      found = f"has no text for {', '.join(lacks)}" if lacks else f"repeats the id {row['id']!r}"
      raise InputError(f"{path}:{number} {found}; make the rows with prepare_data.py")
    seen.add(row["id"])
  rows = rows[:limit or None]
  if variant:
    trained, rows = rows, [{**row, "prompt": VARIANTS[variant](row["prompt"])} for row in rows]
    if any(a["prompt"] == b["prompt"] for a, b in zip(trained, rows)):
      raise InputError(f"--prompt_variant={variant} changes nothing in the prompts of {path}; use another variant")
  return rows, config


def contamination(rows: list[dict], data_dir) -> dict | None:
  """How many evaluated questions stand in the training rows, whole or by a shared 8-gram (open-r1's decontamination rule)."""
  path = pathlib.Path(data_dir) / "train.jsonl"
  if not path.is_file():
    return None
  flat = lambda text: " ".join(text.lower().split())
  ngrams = lambda text: set(zip(*(re.findall(r"\w+", text.lower())[i:] for i in range(8))))
  train, wanted = [row["question"] for row in rewards.read_rows(path)], set().union(*(ngrams(r["question"]) for r in rows))
  shared, questions = set().union(*(ngrams(q) & wanted for q in train)), set(map(flat, train))
  same = [r["id"] for r in rows if flat(r["question"]) in questions]
  return {"train_rows": len(train), "same_question": len(same), "same_ids": same[:20],
          "shared_8gram": sum(not shared.isdisjoint(ngrams(r["question"])) for r in rows)}


def trained_elsewhere(checkpoint: str, data_dir) -> bool:
  """Whether the run that made `checkpoint` noted another train.jsonl than the one that `contamination` reads."""
  path, folder = pathlib.Path(data_dir) / "train.jsonl", pathlib.Path(checkpoint)
  noted = (gemma.read_run(folder) or gemma.read_run(folder.parent)).get("inputs", {}).get("data_dir") if checkpoint else None
  return bool(noted) and path.is_file() and noted != gemma.digest(str(path))


# --------------------------------------------------------------------------------------------------------------- sampling
def free_bytes() -> int:
  """Memory that sampling may take: of all devices, or of the host (inside its cgroup) where the CPU is the device."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  if all("bytes_limit" in s for s in stats):
    return sum(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
  limit, free = pathlib.Path("/sys/fs/cgroup/memory.max"), psutil.virtual_memory().available
  if limit.is_file() and limit.read_text().strip().isdigit():  # not memory.current: the page cache counts there
    free = min(free, int(limit.read_text()) - psutil.Process().memory_info().rss)
  return max(free, 0)


def fitting_batch(config, width: int, new: int, free: int, most: int) -> int:
  """Largest power of two of responses, up to `most`, whose cache, prefill and logits take at most half of `free` bytes."""
  itemsize = np.dtype(config.param_dtype).itemsize
  cache = 2 * config.num_layers * 2 * config.num_kv_heads * config.head_dim * (width + new) * itemsize  # carried and next
  prefill = width * (config.num_heads * (width + new) * 4 + (8 * config.embed_dim + 3 * config.hidden_dim) * itemsize)
  fits = max(1, int(free / 2 / (cache + prefill + 4 * config.num_embed * 4)))
  return min(most, 2 ** (fits.bit_length() - 1))


def noise_keys(seed: int, row_ids: list[str], samples: int) -> np.ndarray:
  """(B, G, 2) uint32: a pure function of (seed, row, sample), so that batching and resuming change nothing."""
  keys = [hashlib.sha256(f"{seed}/{row_id}/{g}".encode()).digest()[:8] for row_id in row_ids for g in range(samples)]
  return np.frombuffer(b"".join(keys), np.uint32).reshape(len(row_ids), samples, 2)


def generate(policy, rows: list[dict], *, samples: int, temperature: float, max_new_tokens: int, batch_size: int, seed: int):
  """Yields (rows of a batch, completions (B, G, max_new_tokens)); longest prompts first, so that memory is tested at once.

  Every batch has the same number of rows and one of two widths: two compilations. One that does not fit in memory is halved.
  """
  ids = [gemma.encode(policy.tokenizer, row["prompt"]) for row in rows]
  shared = min(len(os.path.commonprefix(ids)), min(map(len, ids)) - 1)  # the system prompt: it runs once a batch
  widths, order = gemma.choose_widths([len(x) - shared for x in ids], 0), sorted(range(len(rows)), key=lambda i: -len(ids[i]))
  # A CPU is bound by arithmetic: beyond 32 rows nothing is gained.
  most = min(2 ** (len(rows) * samples - 1).bit_length(), 32 if jax.default_backend() == "cpu" else 512)
  batch_size = batch_size or fitting_batch(policy.model.config, shared + widths[-1], max_new_tokens, free_bytes(), most)
  prompts, start = max(1, batch_size // samples), 0
  gemma.say(f"sampling {prompts} prompts x {samples} at a time, of {shared} shared tokens and up to "
            f"{' or '.join(map(str, widths))} more; the first batch of a width compiles")
  while start < len(order):
    part = order[start:start + prompts]
    filled = part + part[-1:] * (prompts - len(part))  # the last batch repeats a row: one shape less to compile
    try:
      out = gemma.sample(policy, [ids[i] for i in filled], width=shared + gemma.fit(len(ids[part[0]]) - shared, widths),
                         generations=samples, max_new_tokens=max_new_tokens, temperature=temperature, shared=shared,
                         keys=noise_keys(seed, [rows[i]["id"] for i in filled], samples))
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error) or prompts == 1:
        raise
      prompts //= 2
      gemma.say(f"out of memory; going on with {prompts} prompts at a time")
      continue
    start += len(part)
    yield [rows[i] for i in part], out.reshape(prompts, samples, -1)[:len(part)]


def write_rows(path, rows: list[dict]):
  rewards.write_text(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def sample_and_score(policy, rows: list[dict], kept: list[dict], path, style: str, systems: dict, code_rewards: str,
                     **sampling) -> tuple:
  """(all responses to `rows` in their order, those in `kept` included; the speed). A finished batch is on disk at once.

  Checking answers (sandbox, symbolic maths) runs beside the sampling of the next batch.
  """
  whole = {i for i, rs in grouped(kept, "id").items() if len(rs) == sampling["samples"]}
  out, todo = [r for r in kept if r["id"] in whole], [row for row in rows if row["id"] not in whole]
  if whole:
    gemma.say(f"{len(whole)} of {len(rows)} rows are already in {path}; {len(todo)} to go")
  write_rows(path, out)

  def finish(part, completions):
    earlier = collections.Counter(rewards.failed_rows())
    scored = score(responses_of(policy, part, completions), style, systems, code_rewards)
    if failures := collections.Counter(rewards.failed_rows()) - earlier:
      scored[0]["failures"] = dict(failures)  # of the batch: a run that is continued or judged later must not forget them
    gemma.append_rows(path, scored)
    return scored
  tokens, start, checked = 0, time.monotonic(), None
  every = 0.1 if sys.stderr.isatty() else 30  # seconds between the bar's lines
  try:
    with (concurrent.futures.ThreadPoolExecutor(1) as checker,
          tqdm(total=len(rows), initial=len(whole), unit="row", mininterval=every) as bar):
      for part, completions in generate(policy, todo, **sampling) if todo else ():
        out += checked.result() if checked else []
        checked = checker.submit(finish, part, completions)
        tokens += int(gemma.completion_lengths(completions)[0].sum())
        bar.set_postfix_str(f"{tokens / (time.monotonic() - start):.0f} tokens/s", refresh=False)
        bar.update(len(part))
      out += checked.result() if checked else []
  except KeyboardInterrupt:
    raise rewards.Stopped(f"finished batches are in {path}; run the same command again to go on") from None
  seconds, place = time.monotonic() - start, {row["id"]: i for i, row in enumerate(rows)}
  return sorted(out, key=lambda r: (place[r["id"]], r["sample"])), {
    "seconds": seconds if todo else 0.0, "tokens_per_second": tokens / seconds}


# --------------------------------------------------------------------------------------------------------------- verdicts
LENIENT = re.compile(  # atomic: the earliest of each is enough, and without it a looping text takes minutes
    r"\A(?>.*?<reasoning>\s*[^<\s])(?>.*?</reasoning>)(?>.*?<answer>\s*[^<\s]).*?</answer>", re.S | re.I)


def responses_of(policy, part: list[dict], out: np.ndarray) -> list[dict]:
  """Rows for responses.jsonl, not yet judged, from completions (B, G, T)."""
  rows = []
  for row, group in zip(part, out):
    for g, (ids, tokens, stopped) in enumerate(zip(group, *gemma.completion_lengths(group))):
      rows.append({**{k: row[k] for k in ("id", "domain", "question", "prompt")}, "answer": row.get("answer") or "",
                   "metadata": row.get("metadata") or {}, "sample": g, "response": gemma.decode(policy.tokenizer, ids[:tokens]),
                   "tokens": int(tokens), "truncated": not stopped})
  return rows


def score(responses: list[dict], style: str, systems: dict[str, list], code_rewards: str = "on") -> list[dict]:
  """Adds the verdicts: format, lenient_format, parsed_answer, correct, correct_lenient, partial, rewards by component.

  The answer is read strictly, or leniently where the format is broken, and checked once. A row of a verifiable domain
  that cannot be checked gets the format verdicts only; a creative row is never right or wrong.
  """
  parsed = [rewards.parse_response(r["response"], style) for r in responses]
  verifiable = [r["domain"] in rewards.VERIFIABLE_DOMAINS for r in responses]
  checkable = [r["domain"] in rewards.checked_domains(code_rewards) and bool(r["answer"] or r["metadata"].get("test_cases"))
               for r in responses]
  read = [rewards.read_answer(r["response"], p) if ok else None for p, r, ok in zip(parsed, responses, checkable)]
  column = {k: [r[k] for r in responses] for k in ("domain", "question", "answer", "prompt", "response", "metadata")}
  grades = rewards.grade(column["domain"], read, column["answer"], column["metadata"])
  prompts, texts = column.pop("prompt"), column.pop("response")
  column["metadata"] = [json.dumps(m, ensure_ascii=False) for m in column["metadata"]]
  values = {system: {f.__name__: f(prompts, texts, **column) for f in functions} for system, functions in systems.items()}
  for i, (r, p, grade, ok) in enumerate(zip(responses, parsed, grades, checkable)):
    r.update(format=p is not None, lenient_format=p is not None or bool(LENIENT.search(r["response"])),
             parsed_answer=p.answer if p else None, correct=bool(p) and grade == 1.0 if ok else None,
             correct_lenient=grade == 1.0 if ok else None, partial=(grade if p else 0.0) if ok else None,
             rewards={s: {name: float(v[i]) for name, v in parts.items()} for s, parts in values.items()})
    if verifiable[i] and not ok:
      r["rewards"] = None  # without an answer every reward but format's would say "wrong"
  return responses


def judge_creative(responses: list[dict], url: str, judge_model: str, path, chunk: int = 64) -> dict:
  """Adds "judge" (reasoning 1–5, answer 1–5, overall 0–10) to the responses of domains without a right answer; returns counts.

  Saved after every `chunk`, so that an interrupted or unreachable judge is asked only for what is left. Another judge_model
  starts again. Once a whole chunk went unanswered the rest is not tried.
  """
  creative = [r for r in responses if r["domain"] not in rewards.VERIFIABLE_DOMAINS]
  todo = [r for r in creative if r.get("judge", {}).get("model") != judge_model]
  gemma.say(f"judge {judge_model}: {len(todo)} of {len(creative)} responses to go")
  earlier, counts = collections.Counter(rewards.failed_rows()), collections.Counter()
  for r in todo:
    r.pop("judge", None)
  for i in range(0, len(todo), chunk):
    verdicts = rewards.judge(todo[i:i + chunk], url, judge_model)
    for r, verdict in zip(todo[i:], verdicts):
      r |= {"judge": {**verdict._asdict(), "model": judge_model}} if verdict else {}
    write_rows(path, responses)
    counts = collections.Counter(rewards.failed_rows()) - earlier
    if counts["judge_failed"] and not any(verdicts):
      break
  judged = sum("judge" in r for r in creative)
  failed = len(creative) - judged - counts["judge_malformed"]
  return {"model": judge_model, "n": judged, "malformed": counts["judge_malformed"], "retried": counts["judge_retried"],
          "failed": failed, "error": f"the judge at {url} gave no reply to {failed} of {len(creative)} responses" * bool(failed)}


# ---------------------------------------------------------------------------------------------------- tables and charts
def show(value, ci=None, spec: str = ".1%") -> str:
  """62.5% [51.3, 72.4]. An interval without width (a bootstrap of equal values) is no certainty, and is named instead."""
  if value is None or ci is None:
    return "–" if value is None else f"{value:{spec}}"
  low, high = (f"{x:{spec}}".rstrip("%") for x in ci)
  return f"{value:{spec}} " + (f"[{low}, {high}]" if ci[1] - ci[0] > 1e-9 else "[all equal]")


COLUMNS = {  # of the result table: their names in results.json; the brief ones have intervals and fit a terminal
  "strict format": "format_rate", "lenient": "lenient_format_rate", "accuracy": "accuracy",
  "of well-formed": "accuracy_well_formed", "partial": "partial_credit", "mean reward": "mean_reward",
  "truncated": "truncated_rate", "tokens": "mean_tokens"}
BRIEF = ("strict format", "accuracy", "mean reward")
FORMATS = {"mean_reward": ".3f", "mean_tokens": ".0f"}
JUDGED = {"reasoning": 5, "answer": 5, "overall": 10}  # the best score of each


def interval(numbers: dict, key: str) -> list | None:
  return numbers.get(key.removesuffix("_rate") + "_ci")


def table_of(part: dict) -> dict:
  """{domain or "overall": numbers} of results or of their comparison."""
  return {**part["domains"], "overall": part["overall"]}


def domain_table(results: dict, brief: bool = False) -> tuple[list, list]:
  """(header, rows of text): one line per domain and one overall."""
  judged = lambda d: {f"judge: {k} /{most}": d["judge"][k] for k, most in JUDGED.items() if "judge" in d}
  lines = {name: d | judged(d) for name, d in table_of(results).items()}
  columns = {k: COLUMNS[k] for k in (BRIEF if brief else COLUMNS)}
  columns |= {k: k for k in lines["overall"] if k.startswith(("pass@", "maj@", "judge: "))}
  rows = [[name, str(d["n"]) if d["n"] == d["questions"] else f"{d['n']} ({d['questions']} distinct)", *(
    show(d.get(key), interval(d, key) if column in BRIEF else None,
         ".2f" if key.startswith("judge") else FORMATS.get(key, ".1%")) for column, key in columns.items())]
          for name, d in lines.items()]
  return ["domain", "questions", *columns], rows


def plain(text) -> str:
  """One line of text in which Markdown and HTML mean nothing."""
  return re.sub(r"[\\`*|<&~]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(str(text).split()))


def bullets(items: list) -> str:
  return "\n".join(f"- {plain(item)}" for item in items)


def grid(header: list, rows: list, numbers: bool = True) -> str:
  """A Markdown table, aligned also as plain text."""
  cells = [[plain(cell) for cell in line] for line in (header, *rows)]
  widths = [max(3, *map(len, column)) for column in zip(*cells)]
  cells = [[c.rjust(w) if i and numbers else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths))] for line in cells]
  cells.insert(1, ["-" * (w - 1) + (":" if i and numbers else "-") for i, w in enumerate(widths)])
  return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def print_markdown(text: str):
  """Rendered on a terminal; elsewhere without the marks."""
  if sys.stdout.isatty():
    Console().print(Markdown(text))
  else:
    text = re.sub(r"(?m)^\|[ :|-]+\|\n|^\| | \|$", "", text).replace(" | ", "  ")
    gemma.say(re.sub(r"(?m)\\(.)| +$", r"\1", text))


def read_results(path) -> dict:
  """results.json, given itself or its folder."""
  path = pathlib.Path(path)
  path = path / "results.json" if path.is_dir() else path
  if not path.is_file():
    raise InputError(f"{path} does not exist; --compare and --table read what a finished evaluate.py wrote")
  try:
    results = json.loads(path.read_text(encoding="utf-8"))
    return results | {k: results[k] for k in ("overall", "domains")}
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path} is not a results.json of evaluate.py ({error!r}); check the path, or evaluate again") from error


def print_run_table(run_dir):
  """The pipeline's last word: every evaluated model under `run_dir`, with intervals, and where the reports are."""
  order = lambda p: (["eval_base", "eval_sft", "eval_grpo", p.parent.name].index(p.parent.name), p)
  paths = sorted(pathlib.Path(run_dir).glob("eval_*/results.json"), key=order)
  if not paths:
    raise InputError(f"{run_dir} holds no eval_*/results.json; run evaluate.py with --out_dir={run_dir}/eval_<name>")
  overall = [domain_table(read_results(path), brief=True)[1][-1] for path in paths]
  rows = [[path.parent.name.removeprefix("eval_"), *line[1:5]] for path, line in zip(paths, overall)]
  print_markdown(grid(["model", "questions", "format rate", "accuracy", "mean reward"], rows))
  gemma.say("\n".join(["95% intervals in brackets", *(f"report  {path.with_name('report.html')}" for path in paths)]))


CURVES = (("Reward", ("reward",)), ("Format and accuracy", ("format", "accuracy")), ("Loss", ("loss",)),
          ("Completion length, tokens", ("completion_tokens",)), ("KL and entropy", ("kl", "entropy")))


@matplotlib.rc_context({
  "font.size": 8, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
  "axes.grid": True, "axes.grid.axis": "x", "grid.color": "#dddddd", "axes.axisbelow": True})
def bar_chart(path, panels: list[tuple], series: list[tuple]):
  """Horizontal bars with intervals, 4.8 inches wide: readable on a phone and in print. No pyplot: a notebook's backend stays.

  panels: (title, key, format); series: (name, colour, hatch, {label: numbers as `summarize` gives them}).
  """
  labels = [label.replace("_", " ") for label in series[0][-1]]
  height = 0.5 + (0.22 + 0.1 * len(series)) * len(labels)
  figure = Figure(figsize=(4.8, height * len(panels) + 0.3), dpi=200, layout="constrained")
  axes, y, thick = figure.subplots(len(panels), 1, squeeze=False)[:, 0], np.arange(len(labels)), 0.8 / len(series)
  for ax, (title, key, spec) in zip(axes, panels):
    for i, (name, colour, hatch, table) in enumerate(series):
      values = np.array([numbers[key] for numbers in table.values()], float)  # None is NaN: no bar
      low, high = np.array([interval(numbers, key) or [np.nan] * 2 for numbers in table.values()], float).T
      bars = ax.barh(y + (i - (len(series) - 1) / 2) * thick, values, 0.92 * thick, label=name, color=colour, hatch=hatch,
                     edgecolor="white", xerr=np.clip([values - low, high - values], 0, None),
                     error_kw=dict(ecolor=BLACK, elinewidth=1, capsize=2))
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
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
  figure.savefig(path)


def training_chart(checkpoint: str, path) -> bool:
  """Draws metrics.jsonl of the training folder (or of the run around its best/); False where there is no curve to draw."""
  folders = [pathlib.Path(checkpoint), pathlib.Path(checkpoint).parent] if checkpoint else []
  source = next((f / "metrics.jsonl" for f in folders if (f / "metrics.jsonl").is_file()), None)
  rows = [row for row in rewards.read_rows(source, torn=True) if "step" in row] if source else []
  known = lambda x: isinstance(x, (int, float)) and math.isfinite(x)
  drawn = {k for _, keys in CURVES for k in keys if sum(known(row.get(k)) for row in rows) > 1}
  drawn -= {"loss"} if "reward" in drawn else set()  # GRPO's loss is near zero by construction and says nothing
  panels = [(title, [k for k in keys if k in drawn]) for title, keys in CURVES if drawn.intersection(keys)]
  if panels:
    gemma.plot_curves(rows, panels, path, columns=1)
  return bool(panels)


def shortened(responses: list[dict], limit: int) -> list[dict]:
  """What a limit of `limit` new tokens would have left: an answer cut before its end has no form, so nothing in it is right,
  and multi_domain pays nothing for it. Other rewards are left as they were."""
  nothing = {"format": False, "lenient_format": False, "truncated": True, "partial": 0.0}
  wrong = lambda r: {key: None if r[key] is None else False for key in ("correct", "correct_lenient")}
  unpaid = lambda r: {"rewards": r["rewards"] and r["rewards"] | {"multi_domain": dict.fromkeys(r["rewards"]["multi_domain"], 0.0)}}
  return [r | nothing | wrong(r) | unpaid(r) if r["tokens"] > limit else r for r in responses]


def draw_charts(results: dict, responses: list[dict], out_dir, checkpoint: str) -> dict:
  """{file name: caption} of the charts drawn into out_dir."""
  captions = {"domain_compliance_chart.png": "Strict format by domain, with 95% Wilson intervals."}
  bar_chart(out_dir / "domain_compliance_chart.png", [("Strict format by domain, 95% intervals", "format_rate", ".1%")],
            [("", SKY, None, {f"{d} (n={v['n']})": v for d, v in table_of(results).items()})])
  if "compare" in results:
    captions["before_after.png"] = f"Before ({results['compare']['other']}) and after, on the same rows, with 95% intervals."
    panels = [("Strict format", "format", ".1%"), ("Accuracy", "accuracy", ".1%"),
              (f"Mean reward ({results['recipe']})", "mean_reward", ".2f")]
    side = lambda name: {d: {key + end: v[key] and v[key][name + end] for _, key, _ in panels for end in ("", "_ci")}
                         for d, v in table_of(results["compare"]).items()}
    series = [("before", ORANGE, "///", side("before")), ("after", SKY, None, side("after"))]
    bar_chart(out_dir / "before_after.png", panels, series)
  if training_chart(checkpoint, out_dir / "training_curves.png"):
    captions["training_curves.png"] = "The training run of this checkpoint; bold lines are running means."
  longest, most = max(r["tokens"] for r in responses), results["max_new_tokens"]
  if limits := [n for n in (16, 32, 64, 128, 256, 512) if min(r["tokens"] for r in responses) <= n < min(longest, most)]:
    captions["token_limit.png"] = "The same answers, had the limit been lower: one that is cut before `</answer>` is worth nothing."
    panels = [("Strict format, by limit of new tokens", "format_rate", ".1%"), ("Accuracy, by limit", "accuracy", ".1%")]
    if results["recipe"] == "multi_domain":
      panels.append(("Mean reward (multi_domain), by limit", "mean_reward", ".2f"))
    numbers = {f"{n} tokens": summarize(shortened(responses, n), results["recipe"]) for n in limits}
    bar_chart(out_dir / "token_limit.png", panels, [("", [ORANGE] * len(limits) + [SKY], None,
                                                     numbers | {f"{most} tokens": results["overall"]})])
  if variants := sibling_variants(results, out_dir):
    captions["prompt_mismatch.png"] = "The same weights and questions, under the trained and spoiled prompts."
    panels = [("Strict format, by prompt", "format_rate", ".1%"), ("Accuracy, by prompt", "accuracy", ".1%")]
    numbers = {k or "as trained": v["overall"] for k, v in variants.items()}
    bar_chart(out_dir / "prompt_mismatch.png", panels, [("", [SKY] + [ORANGE] * (len(numbers) - 1), None, numbers)])
  return captions


def sibling_variants(results: dict, out_dir) -> dict:
  """{prompt variant: results} of the same weights on the same rows: this one and the complete folders beside it."""
  found, here = {results["prompt_variant"]: results}, out_dir.resolve()
  for path in sorted(here.parent.glob("*/results.json")):
    if path.parent != here and (path.parent / "config.json").is_file():
      with contextlib.suppress(InputError):  # a results.json of another program, or one that is being replaced
        other = read_results(path)
        if all(other.get(k) == results[k] for k in ("weights", "rows", "samples", "temperature", "max_new_tokens")):
          found.setdefault(other["prompt_variant"], other)
  return {k: found[k] for k in sorted(found)} if len(found) > 1 and "" in found else {}


# ---------------------------------------------------------------------------------------------------------------- report
def points(change: dict | None) -> str:
  """A paired change of rates in percentage points, with its interval."""
  return show(100 * change["difference"], [100 * x for x in change["ci"]], "+.1f") if change else "–"


def sure(change: dict, is_rate: bool = True) -> bool:
  """Whether the interval of a change excludes zero, and the change is not below the last digit shown.

  A bootstrap of four changed questions or of one row excludes zero by luck: a rate's exact test must agree, and no test of
  fewer than six changed questions reaches 5%.
  """
  enough = change["p"] < 0.05 if is_rate else change["gained"] + change["lost"] > 5
  return enough and change["ci"][0] * change["ci"][1] > 0 and abs(change["difference"]) >= 5e-4


def change_text(change: dict, name: str, is_rate: bool = True) -> str:
  """One sentence on a paired change: which way, how much, how sure."""
  scale, unit, digits, spec = (100, " points", 1, ".1%") if is_rate else (1, "", 3, ".3f")
  moved, low, high = (scale * x for x in (change["difference"], *change["ci"]))
  verb = "did not change measurably" if not sure(change, is_rate) else "rose" if moved > 0 else "fell"
  width = f"95% interval {low:+.{digits}f} to {high:+.{digits}f}" if high - low > 1e-9 else "the same change in every pair"
  p = "< 0.001" if change["p"] < 0.001 else f"= {change['p']:.3f}"
  test = f"; {change['gained']} questions better, {change['lost']} worse, exact p {p}" if is_rate else ""  # a test of rates
  return f"{name} {verb}: {change['before']:{spec}} → {change['after']:{spec}}, {moved:+.{digits}f}{unit} ({width}{test})."


def minute(results: dict) -> list[str]:
  """What a reader takes away in a minute: did it help, by how much, on what."""
  o, reward = results["overall"], f"Mean reward ({results['recipe']})"
  if "compare" not in results:
    return [f"Accuracy {show(o['accuracy'], o['accuracy_ci'])}; strict format {show(o['format_rate'], o['format_ci'])}; {reward} "
            f"{show(o['mean_reward'], o['mean_reward_ci'], '.3f')}. Compared with nothing (--compare)."]
  c, domains = results["compare"]["overall"], results["compare"]["domains"]
  out = [change_text(c["accuracy"], "Accuracy"), f"Of that, format learned: {points(c['format_learned'])} points; answers "
         f"improved: {points(c['answers_improved'])} points."] if c["accuracy"] else []
  out.append(change_text(c["format"], "Strict format"))
  out += [change_text(c["mean_reward"], reward, is_rate=False)] if c["mean_reward"] else []
  moved = [f"{d} ({points(v['accuracy'])})" for d, v in domains.items() if v["accuracy"] and sure(v["accuracy"])]
  return [*out, f"Domains with a measurable change of accuracy, in points: {', '.join(moved) or 'none'}."]


def doubts(results: dict) -> list[str]:
  """Reasons to believe the numbers less, each with its count."""
  o, checks, judge = results["overall"], results["check_failures"], results["judge"] or {"malformed": 0, "failed": 0}
  same = (results["contamination"] or {"same_question": 0})["same_question"]
  shared = results["compare"]["n"] if "compare" in results else o["n"]
  differs = ", ".join(f"{k} {v!r} (here {results[k]!r})" for k, v in results.get("differs", {}).items())
  flat = [d for d, v in results["domains"].items() if (ci := v["mean_reward_ci"]) and ci[1] - ci[0] < 1e-9]
  shown = lambda text: repr(text) if re.fullmatch(r"[\w .-]+", text) else "one and the same text"  # no markup in a bullet
  stuck = [(d, top) for d, v in results["domains"].items() if (top := v.get("top_answer")) and min(v["scored"], top["n"]) >= 20
           and top["share"] > 0.8 > top["right"]]
  found = (
    *((True, f"{top['share']:.0%} of the answers in {d} are {shown(top['text'])}, right {top['right']:.0%} of the time: a "
       "constant, not an ability.") for d, top in stuck),
    (o["questions"] < 100, f"Only {o['questions']} distinct questions: the intervals are wide."),
    (o["n"] > o["questions"], f"{o['n']} rows hold {o['questions']} distinct questions; intervals and tests count questions."),
    (shared < o["n"], f"Only {shared} of {o['n']} rows are also in the evaluation compared with: the changes are over those."),
    (differs, f"The evaluation compared with had {differs}: a change may come from that."),
    (o["truncated_rate"] > 0.05, f"{show(o['truncated_rate'])} of the responses were cut at {results['max_new_tokens']} tokens, "
     "so they cannot be well formed; raise --max_new_tokens."),
    (flat, f"All rewards in {', '.join(flat)} are equal: their bootstrap interval has no width, which is no certainty."),
    (results["unscored_rows"], f"{results['unscored_rows']} rows of verifiable domains could not be checked (no answer, or "
     "--code_rewards=off) and were evaluated for format only."),
    (results["prompt_variant"], f"Prompts were spoiled on purpose ({results['prompt_variant']})."),
    (results["prompt_mismatch"], "The checkpoint was trained with another prompt text (--allow_prompt_mismatch)."),
    (results["temperature"] > 0 and results["samples"] == 1, "One sample at a temperature: another seed gives other answers."),
    (any(judge[k] for k in ("malformed", "failed")), f"The judge gave {judge['malformed']} malformed replies and none to "
     f"{judge['failed']} responses."),
    (checks, f"Checks that failed and count as wrong: {', '.join(f'{k} {n}' for k, n in checks.items())}."),
    (results.get("trained_elsewhere"), "The checkpoint was trained on another train.jsonl than the one beside the evaluated rows: "
     "overlap with its training is unknown."),
    (not results["contamination"], "No train.jsonl stands beside the evaluated rows: overlap with training is unknown."),
    (same, f"{same} of {o['n']} questions are training questions, word for word: they may measure memory."))
  return [text for holds, text in found if holds] or ["Nothing stands out: enough distinct questions, none of them trained on."]


WAYS = {"gained": "right", "lost": "wrong"}


def fenced(name: str, text: str) -> str:
  """Text of data or a model, inside a fence longer than any of its own."""
  text = text[:3000] + " […]" * (len(text) > 3000)
  fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
  return f"{plain(name)}\n\n{fence}text\n{text}\n{fence}"


def report(results: dict, responses: list[dict], before: list[dict], charts: dict) -> str:
  """report.md. Text from data or a model is fenced or escaped, so that it cannot write markup."""
  run = {k.replace("_", " "): results[k] for k in (
      "model", "checkpoint", "data_dir", "split", "samples", "temperature", "max_new_tokens", "prompt_variant", "prompt_hash",
      "recipe", "seed", "dtype", "devices")}
  run |= {"compared with": results.get("compare", {}).get("other"), "judge": (results["judge"] or {}).get("model")}
  if results["seconds"]:
    run["speed"] = f"{results['tokens_per_second']:.0f} tokens/s, {results['seconds']:.0f} s"
  c, versions = results["contamination"], ", ".join(f"{k} {v}" for k, v in results["versions"].items() if v)
  return "\n\n".join([
    "# " + plain(f"Evaluation: {results['checkpoint'] or results['model']}, {results['overall']['n']} {results['split']} rows"),
    "## In one minute", bullets(minute(results)), "## Reasons for doubt", bullets(doubts(results)),
    "## Results", grid(*domain_table(results)),
    "Rates with 95% Wilson intervals, rewards with bootstrap intervals, over distinct questions. Accuracy needs strict format and "
    "a right answer; lenient format forgives text around the tags; partial credit gives near numbers and programs that pass some "
    "tests a part.",
    *(f"![{plain(caption)}]({name})\n\n*{plain(caption)}*" for name, caption in charts.items()),
    *change_section(results),
    "## Rewards by component", plain(f"Means; {results['recipe']} is this run's, four_component's total the composite."),
    grid(["system: component", "overall", *results["domains"]], [
      [f"{system}: {name}", f"{value:+.3f}", *(show(d["rewards"].get(system, {}).get(name), spec="+.3f")
                                               for d in results["domains"].values())]
      for system, parts in results["rewards"].items() for name, value in parts.items()]),
    "## Samples", *sample_sections(results, responses, before),
    "## What was run", grid(["setting", "value"], [[k, "–" if v in ("", None) else v] for k, v in run.items()], numbers=False),
    "## Contamination", "No train.jsonl beside the evaluated rows: not checked." if not c else
    f"Against {c['train_rows']} training questions: {c['same_question']} evaluated questions are the same, word for word; "
    f"{c['shared_8gram']} share an 8-gram, which generated questions do by their templates and copied ones by being copied.",
    "## Versions", plain(f"{versions}; commit {results['git_commit'] or 'unknown'}")]) + "\n"


def change_section(results: dict) -> list[str]:
  if "compare" not in results:
    return []
  change = results["compare"]
  rows = [[d, *(points(v[k]) for k in ("format", "accuracy", "format_learned", "answers_improved")),
           show(v["mean_reward"]["difference"], v["mean_reward"]["ci"], "+.3f") if v["mean_reward"] else "–"]
          for d, v in table_of(change).items()]
  out = ["## Change, paired by row", f"After minus before on {change['n']} shared rows; rates in points.",
         grid(["domain", "format", "accuracy", "= format learned", "+ answers improved", "reward"], rows)]
  for way, ids in change["flipped"].items():
    out.append(plain(f"{len(ids)} rows newly {WAYS[way]}: {', '.join(ids[:40])}{' … (all in results.json)' * (len(ids) > 40)}"))
  return out


def sample_sections(results: dict, responses: list[dict], before: list[dict]) -> list[str]:
  """Real responses: best and worst by reward, one of each of three domains, and flips each way beside the other model's."""
  total = lambda r: sum(r["rewards"][results["recipe"]].values())
  new, old = ({r["id"]: r for r in side if r["sample"] == 0} for side in (responses, before))
  ranked, chosen = sorted((r for r in new.values() if r["rewards"]), key=total), []
  for title, side in (("best", ranked), ("worst", ranked[::-1])):  # of a domain's rows the last one stays: its extreme
    extremes = sorted({r["domain"]: r for r in side}.values(), key=total, reverse=title == "best")[:3]
    chosen += [(f"{title}: {r['domain']}, reward {total(r):.2f}", [("response", r)]) for r in extremes]
  for way, ids in results.get("compare", {}).get("flipped", {}).items():
    chosen += [(f"newly {WAYS[way]}: {new[i]['domain']}, {i}", [("before", old[i]), ("after", new[i])]) for i in ids[:3]]
  out = []
  for title, sides in chosen:
    row = sides[0][1]
    out += [f"### {plain(title)}", fenced("question", row["question"])] + [fenced("expected", row["answer"])] * bool(row["answer"])
    for name, r in sides:
      verdict = ["well formed" if r["format"] else "ill formed", {None: "", True: "right", False: "wrong"}[r["correct"]],
                 f"{r['tokens']} tokens", "cut" if r["truncated"] else ""]
      out.append(fenced(f"{name} ({' · '.join(filter(None, verdict))})", r["response"]))
  return out


STYLE = """body{font:16px/1.55 system-ui,sans-serif;color:#222;background:#fff;max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem;line-height:1.25}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #ddd}h3{font-size:1rem}
h1,h3,p,li{overflow-wrap:anywhere}p{overflow-x:auto}em{color:#555;font-size:.85rem}img{max-width:min(100%,720px);height:auto}
details{border:1px solid #ddd;border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}summary{cursor:pointer;font-weight:600}
table{display:block;overflow-x:auto;border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;border-bottom:1px solid #e3e3e3;white-space:nowrap}th:first-child{text-align:left}
table:first-of-type tr:last-child{font-weight:600}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f6f6;padding:.6rem;border-radius:4px;margin:.3rem 0;
font-size:.82rem}"""


def write_report(results: dict, responses: list[dict], before: list[dict], out_dir: pathlib.Path, checkpoint: str):
  """The charts, report.md, and report.html: the same text rendered, images inside, no script, no request."""
  text = report(results, responses, before, draw_charts(results, responses, out_dir, checkpoint))
  rewards.write_text(out_dir / "report.md", text)
  body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)  # a model's markup stays text
  inside = lambda m: f'src="data:image/png;base64,{base64.b64encode((out_dir / m[1]).read_bytes()).decode()}"'
  body = re.sub(r'src="(\w+\.png)"', inside, body)
  body = re.sub(r"(?s)<h3>(.*?)</h3>(.*?)(?=<h[23]>)", r"<details><summary>\1</summary>\2</details>", body)  # a sample unfolds
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser then refuses whatever slipped through
  rewards.write_text(out_dir / "report.html", (
      f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
      f'content="{policy}"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Evaluation</title>'
      f"<style>{STYLE}</style></head><body>{body}</body></html>\n"))


# ------------------------------------------------------------------------------------------------------------------- main
def digest_json(value) -> str:
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_digest(policy, checkpoint: str) -> str:
  """16 hex digits of what a checkpoint put on the base model; the base's own fingerprint without one."""
  changed = gemma.flat_params(policy.model, gemma.trainable(policy.model)) if checkpoint else {}
  return digest_json([policy.fingerprint, *((k, hashlib.sha256(np.asarray(x)).hexdigest()) for k, x in sorted(changed.items()))])


def open_folder(out_dir: pathlib.Path, identity: dict, overwrite: bool) -> list[dict]:
  """Responses that an interrupted run left in `out_dir`; refuses those made with other flags, rows or weights (run.json)."""
  gemma.lock_folder(str(out_dir))
  path = out_dir / "responses.jsonl"
  if overwrite:
    (out_dir / "run.json").unlink(missing_ok=True)
  if not gemma.begin_run(str(out_dir), "", identity, may_change=(), begun="flags") or not path.is_file():
    path.write_bytes(b"")
  for name in ("config.json", "results.json"):  # complete no more, until this run ends
    (out_dir / name).unlink(missing_ok=True)
  whole, newline, _ = path.read_bytes().rpartition(b"\n")  # a last line without its end was torn: its row is sampled again
  rewards.write_text(path, (whole + newline).decode())
  return rewards.read_rows(path)


def check_trained_prompt(checkpoint: str, data_dir: str, data: dict, allow_mismatch: bool) -> bool:
  """Whether the checkpoint was trained with another prompt than the data's; refused unless allowed. PEFT adapters record none."""
  peft = not checkpoint or (pathlib.Path(checkpoint) / "adapter_config.json").is_file()
  trained = data if peft else gemma.read_checkpoint(checkpoint)[0]
  if trained["prompt_hash"] != data["prompt_hash"] and not allow_mismatch:
    raise InputError(
        f"{checkpoint} was trained with prompt {trained['prompt_hash']} (style {trained['style']}), {data_dir} holds "
        f"{data['prompt_hash']} (style {data['style']}); evaluate on the data it was trained on, or pass --allow_prompt_mismatch")
  return trained["prompt_hash"] != data["prompt_hash"]


def collect(responses: list[dict], facts: dict, before: list[dict], other: str) -> dict:
  """results.json: the numbers, and `facts` about the run."""
  recipe, seed, by_domain = facts["recipe"], facts["seed"], grouped(responses, "domain")
  overall, names = summarize(responses, recipe, seed), sorted(by_domain, key=domain_order)
  results = {"overall": overall, "domains": {d: summarize(by_domain[d], recipe, seed) for d in names}, **facts,
             "unscored_rows": len({r["id"] for r in responses if r["rewards"] is None}),
             "versions": rewards.versions(), "git_commit": rewards.git_commit(), "rewards": overall["rewards"]}
  if other:
    results["compare"] = {"other": other, **compare_responses(before, responses, recipe, seed)}
  return results


def main():
  if FLAGS.table:
    return print_run_table(FLAGS.table)
  if FLAGS.samples > 1 and FLAGS.temperature == 0:
    raise InputError(f"--samples={FLAGS.samples} at --temperature=0 draws one response {FLAGS.samples} times; "
                     "add --temperature=0.7, or leave --samples at 1")
  rows, data = load_rows(FLAGS.data_dir, FLAGS.split, FLAGS.limit, FLAGS.prompt_variant, FLAGS.allow_prompt_mismatch)
  before, other = [], read_results(FLAGS.compare) if FLAGS.compare else {}
  if other:
    before = rewards.read_rows(pathlib.Path(FLAGS.compare.removesuffix("results.json")) / "responses.jsonl")
  mismatch = check_trained_prompt(FLAGS.checkpoint, FLAGS.data_dir, data, FLAGS.allow_prompt_mismatch)
  gemma.enable_compilation_cache()
  policy = gemma.load_policy(FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, FLAGS.mesh, FLAGS.dtype)
  sampling = {k: FLAGS[k].value for k in ("samples", "temperature", "max_new_tokens", "seed")}
  identity = {"rows": digest_json([[r["id"], r["question"], r.get("answer"), r.get("metadata")] for r in rows]),
              "prompts": digest_json([r["prompt"] for r in rows]), "weights": weights_digest(policy, FLAGS.checkpoint),
              "dtype": np.dtype(policy.model.config.param_dtype).name, "style": data["style"],
              "code_rewards": FLAGS.code_rewards, **sampling}
  out_dir = pathlib.Path(FLAGS.out_dir)
  kept, path = open_folder(out_dir, identity, FLAGS.overwrite), out_dir / "responses.jsonl"
  systems = {s: rewards.make_rewards(s, style="" if s == "dual_stream" else data["style"], code_rewards=FLAGS.code_rewards)
             for s in rewards.SYSTEMS}
  responses, speed = sample_and_score(policy, rows, kept, path, data["style"], systems, FLAGS.code_rewards,
                                      batch_size=FLAGS.batch_size, **sampling)
  judged = judge_creative(responses, FLAGS.judge_url, FLAGS.judge_model, path) if FLAGS.judge_url else None
  write_rows(path, responses)
  failures = dict(sum((collections.Counter(r.get("failures")) for r in responses), collections.Counter()))
  facts = {"model": policy.name, "checkpoint": FLAGS.checkpoint, "data_dir": FLAGS.data_dir, "split": FLAGS.split, **identity,
           "prompt_variant": FLAGS.prompt_variant, "prompt_hash": data["prompt_hash"], "prompt_mismatch": mismatch,
           "judge": judged, "check_failures": failures, "recipe": FLAGS.rewards, **speed,
           "devices": gemma.device_line(policy.mesh), "contamination": contamination(rows, FLAGS.data_dir),
           "trained_elsewhere": trained_elsewhere(FLAGS.checkpoint, FLAGS.data_dir)}
  same = ("samples", "temperature", "max_new_tokens", "prompt_variant", "prompt_hash", "code_rewards")
  facts["differs"] = {k: other.get(k) for k in same if other and other.get(k) != facts[k]}
  results = collect(responses, facts, before, FLAGS.compare)
  rewards.write_text(out_dir / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
  write_report(results, responses, before, out_dir, FLAGS.checkpoint)
  rewards.write_config(out_dir, "evaluate", FLAGS, data["style"], model=policy.name, checkpoint=FLAGS.checkpoint)
  print_markdown("\n\n".join([grid(*domain_table(results, brief=True)), bullets([*minute(results), *doubts(results)])]))
  gemma.say(f"report: {FLAGS.out_dir}/report.html")
  if judged and judged["error"]:
    raise InputError(f"{judged['error']}; all else is in {FLAGS.out_dir}, the same command again asks only for those")


if __name__ == "__main__":
  rewards.launch(main, FLAGS, __doc__)
