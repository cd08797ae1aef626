"""Does an export do what the JAX policy does? Both are asked, in float32, and compared.

`verify` runs the check: `jax_side` computes here, `torch_side` in a process of its own
(lib/parity_torch.py, in a Python that `find_python` chose), `compare` gives the verdicts.
"""

import gc
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lib import (
  command_line,
  contract,
  folders,
  gemma,
  jsonl,
  loading,
  model_names,
  parameters,
  sampling,
  tokenization,
)
from lib.errors import InputError

# Two libraries add in different orders; a wrong layout or scale is off by far more.
LOGIT_TOLERANCE = 1e-3  # float32 on both sides
# A small difference that flips one token changes all that follow.
GREEDY_STEPS = 64
PROMPTS = 4
LONGEST_PROMPT = 384  # tokens
LAST_POSITIONS = 16  # of a prompt, whose logits are compared beside those of the completion
QUESTIONS = (  # where the training data is gone
  "A farmer has 17 sheep, buys 25 and sells 9. How many sheep are left?",
  "Why does ice float on water?",
  "Write a Python function that returns the n-th Fibonacci number.",
)


class Prompts(NamedTuple):
  questions: list[str]
  ids: list[list[int]]  # of the rendered prompts, with <bos>
  source: str  # a file, or "built-in questions"


class Ours(NamedTuple):
  """What the JAX models say. The policy's own completions are the sequences all are asked about."""

  sequences: list[list[int]]  # prompt and the policy's greedy completion
  starts: list[int]  # first position of each that is compared
  logits: dict[str, list[np.ndarray]]  # of "policy", "base", "merged": (T_i - start_i, V)
  greedy: dict[str, list[list[int]]]  # of "policy", "merged"
  changed: bool  # whether training moved the policy away from the base at all


class Theirs(NamedTuple):
  """The same from transformers and PEFT, by format; "without_adapter" has logits only."""

  logits: dict[str, list[np.ndarray]]
  facts: dict[str, dict]  # format → greedy, stop_ids, chat_ids
  versions: dict[str, str]


def find_python(path: str) -> str:
  """An interpreter that can run lib/parity_torch.py; asked before the export starts."""
  # Torch has an environment of its own, so that nobody needs it to train.
  beside = folders.ROOT / ".venv-parity" / "bin" / "python"
  python = path or (str(beside) if beside.is_file() else sys.executable)
  # Not `import torch, transformers, peft`, which takes ten seconds.
  look = "import importlib.metadata as m; [m.version(n) for n in ('torch', 'transformers', 'peft')]"
  try:
    found = subprocess.run([python, "-c", look], capture_output=True, text=True)
  except OSError as error:
    raise InputError(
      f"--verify_python={python} does not run ({error.strerror}); give a Python interpreter"
    ) from error
  if found.returncode:
    raise InputError(
      f"--verify needs torch, transformers and peft, {python} says {last_line(found.stderr)!r}; "
      "run `pip install -r requirements-parity.txt` there, or name another Python "
      "with --verify_python"
    )
  return python


def last_line(text: str) -> str:
  """Of a traceback: what went wrong."""
  lines = text.strip().splitlines()
  return lines[-1] if lines else "no message"


def verify(
  out: str, model: str, checkpoint: str, config: dict, python: str, formats: list[str]
) -> dict:
  """Compares out/peft and out/merged with the JAX policy; writes and returns parity.json.

  peft/ must give the policy's own logits. merged/ holds bfloat16, so it must give those of the JAX
  model that loads it; what the rounding moved is reported apart, and must be less than what
  training moved. Raises InputError where transformers or PEFT cannot load the export.
  """
  command_line.say("verifying: JAX first, then transformers and PEFT in their own process")
  # Orbax and zip hold the parameters as they are; GGUF no Python library here reads.
  formats = [name for name in ("peft", "merged") if name in formats]
  name = model_names.resolve_model(model)
  places = {}  # format → (base folder, adapter folder or None)
  if "peft" in formats:
    places["peft"] = (f"{out}/base" if name == "tiny" else name, f"{out}/peft")
  if "merged" in formats:
    places["merged"] = (f"{out}/merged", None)
  prompts, ours = jax_side(model, checkpoint, config, places.get("merged", [None])[0])
  # Host memory for torch: nothing of JAX's is needed any more.
  jax.clear_caches()
  gc.collect()
  theirs = torch_side(python, places, prompts, ours)
  # Of a run that preflight warned of and --force began, a model that learned nothing is expected.
  forced = bool(config.get("flags", {}).get("force"))
  parity = compare(formats, ours, theirs, prompts, forced)
  parity |= {
    "prompts": len(prompts.ids),
    "prompts_from": prompts.source,
    "versions": theirs.versions,
  }
  jsonl.write_text(f"{out}/parity.json", json.dumps(parity, indent=1) + "\n")
  command_line.say(json.dumps(parity["formats"]))
  return parity


def verification_prompts(config: dict, tokenizer) -> Prompts:
  """Up to PROMPTS prompts of test or validation rows, one of each domain first."""
  data_dir = config.get("flags", {}).get("data_dir") or ""
  for path in (f"{data_dir}/test.jsonl", f"{data_dir}/val.jsonl"):
    if not os.path.isfile(path):
      continue
    rows = []
    # Of a large file the top is enough for four prompts.
    for row in jsonl.read_rows(path)[:400]:
      # `jax_logits` has no cache: attention takes memory by the square of the length.
      if len(tokenization.encode(tokenizer, row["prompt"])) <= LONGEST_PROMPT:
        rows.append(row)
    chosen = one_of_each_domain_first(rows)[:PROMPTS]
    if chosen:
      ids = [tokenization.encode(tokenizer, row["prompt"]) for row in chosen]
      return Prompts([row["question"] for row in chosen], ids, path)
  texts = [contract.format_prompt(question, config["style"]) for question in QUESTIONS]
  ids = [tokenization.encode(tokenizer, text) for text in texts]
  return Prompts(list(QUESTIONS), ids, "built-in questions")


def one_of_each_domain_first(rows: list[dict]) -> list[dict]:
  # Four prompts of mathematics would not see a fault in code's tokens, such as runs of spaces.
  first = {}
  others = []
  for row in rows:
    if row["domain"] in first:
      others.append(row)
    else:
      first[row["domain"]] = row
  return [*first.values(), *others]


# The two sides.
def jax_side(model: str, checkpoint: str, config: dict, merged: str | None) -> tuple[Prompts, Ours]:
  """Prompts, and what the policy says to them, the base, and the model in `merged` where given.

  The models are loaded one after the other: a host has room for one in float32.
  """
  policy = loading.load_policy(model, checkpoint, dtype="float32")
  prompts = verification_prompts(config, policy.tokenizer)
  # Otherwise a TPU multiplies float32 in bfloat16, a GPU in TF32.
  with jax.default_matmul_precision("highest"):
    completions = jax_greedy(policy, prompts.ids)
    sequences = [p + c for p, c in zip(prompts.ids, completions, strict=True)]
    # Not all positions: 448 of them × 262,144 float32 are 0.5 GB a sequence.
    starts = [max(0, len(ids) - LAST_POSITIONS) for ids in prompts.ids]
    logits = {"policy": jax_logits(policy.model, sequences, starts)}
    greedy = {"policy": completions}
    # LoRA begins with B = 0, which adds nothing to the base (Hu et al. 2021, §4.1).
    factors = parameters.flat_params(policy.model, nnx.LoRAParam)
    changed = any(jnp.any(x) for name, x in factors.items() if name.endswith("_lora_b"))
    if merged:
      # Frees the policy before the next model is loaded.
      policy = policy._replace(model=None)
      base = gemma.load_base(policy.name, policy.tokenizer, policy.mesh, "float32")
      logits["base"] = jax_logits(base, sequences, starts)
      base = None
      if not factors:
        changed = gap(logits["base"], logits["policy"]) > 0
      again = loading.load_policy(merged, dtype="float32")
      logits["merged"] = jax_logits(again.model, sequences, starts)
      greedy["merged"] = jax_greedy(again, prompts.ids)
  return prompts, Ours(sequences, starts, logits, greedy, bool(changed))


def jax_logits(
  model: nnx.Module, sequences: list[list[int]], starts: list[int]
) -> list[np.ndarray]:
  """float32 logits (T_i - start_i, V) of each sequence, without a cache."""
  # One width for all: one compilation.
  width = tokenization.bucket(max(map(len, sequences)))
  positions = jnp.arange(width)[None]  # (1, T)
  # Causal, so the padding at the right end is never seen by what is compared.
  mask = jnp.tril(jnp.ones((1, width, width), bool))

  @nnx.jit
  def forward(model, tokens):
    return model(tokens, positions, None, mask)[0]  # (1, T, V)

  found = []
  for ids, start in zip(sequences, starts, strict=True):
    logits = forward(model, tokenization.pad_right([ids], width))
    found.append(np.asarray(logits[0, start : len(ids)]))
  return found


def jax_greedy(policy, prompts: list[list[int]]) -> list[list[int]]:
  """Greedy completions of at most GREEDY_STEPS tokens, the stop token kept."""
  width = tokenization.bucket(max(map(len, prompts)))
  rows = sampling.sample(policy, prompts, width=width, max_new_tokens=GREEDY_STEPS, temperature=0.0)
  return [up_to_stop(row.tolist()) for row in rows]


def up_to_stop(tokens: list[int]) -> list[int]:
  for place, token in enumerate(tokens):
    if token in tokenization.STOP_IDS:
      return tokens[: place + 1]
  return tokens


def torch_side(python: str, places: dict, prompts: Prompts, ours: Ours) -> Theirs:
  """Runs lib/parity_torch.py on a folder with the request and reads what it leaves there."""
  request = {
    "models": places,
    "sequences": ours.sequences,
    "starts": ours.starts,
    "prompts": prompts.ids,
    "steps": GREEDY_STEPS,
    "questions": prompts.questions,
    "stop_ids": list(tokenization.STOP_IDS),
  }
  for name, folders_of in places.items():
    # Absolute, since the other process starts in the repository.
    request["models"][name] = [path and os.path.abspath(path) for path in folders_of]
  with tempfile.TemporaryDirectory() as folder:
    jsonl.write_text(f"{folder}/request.json", json.dumps(request))
    # A process of its own, in the Python that `find_python` chose: this one may have no torch.
    command = [python, "-m", "lib.parity_torch", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folders.ROOT)
    if done.returncode:
      raise InputError(
        f"transformers or PEFT cannot load the export: {last_line(done.stderr)} "
        f"(exit status {done.returncode})"
      )
    result = json.loads(pathlib.Path(folder, "result.json").read_text(encoding="utf-8"))
    logits = {}
    for name in result["logits"]:
      files = [f"{folder}/{name}_{i}.npy" for i in range(len(ours.sequences))]
      logits[name] = [np.load(path) for path in files]
  return Theirs(logits, result["formats"], result["versions"])


# The verdicts.
def compare(formats: list[str], ours: Ours, theirs: Theirs, prompts: Prompts, forced: bool) -> dict:
  """{"passed", "changed", "failures", "logit_tolerance", "formats": {name: figures}}."""
  failures = []
  figures = {}
  for name in formats:
    found, failed = compare_format(name, ours, theirs, prompts, forced)
    figures[name] = found
    failures += [f"{name}: {text}" for text in failed]
  return {
    "passed": not failures,
    "changed": ours.changed,
    "failures": failures,
    "logit_tolerance": LOGIT_TOLERANCE,
    "formats": figures,
  }


def compare_format(
  name: str, ours: Ours, theirs: Theirs, prompts: Prompts, forced: bool
) -> tuple[dict, list[str]]:
  """(figures, what is wrong) of peft/ or merged/. Comparisons are such that NaN fails.

  forced: a model that training did not change passes, if it does what the JAX policy does.
  """
  rehearsed = forced and not ours.changed
  same_model = "policy" if name == "peft" else "merged"
  expected = ours.greedy[same_model]
  said = theirs.facts[name]["greedy"]
  found = {
    "max_logit_difference": gap(ours.logits[same_model], theirs.logits[name]),
    "greedy_tokens": sum(map(len, expected)),
    "greedy_same": count_same(expected, said),
    "greedy_identical": expected == said,
    "chat_template_identical": theirs.facts[name]["chat_ids"] == prompts.ids,
  }
  failed = []
  difference = found["max_logit_difference"]
  # Not `difference > …`, which is False for NaN.
  if not difference <= LOGIT_TOLERANCE:
    failed.append(f"logits differ by {difference:.2g}")
  if not found["greedy_identical"]:
    failed.append("greedy tokens differ")
  if not found["chat_template_identical"]:
    failed.append("the chat template gives other tokens than training used")
  if name == "peft":
    # PEFT skips a tensor whose module it does not find: then both are the base's logits.
    found["adapter_effect"] = gap(theirs.logits["peft"], theirs.logits["without_adapter"])
    if not rehearsed and not found["adapter_effect"] > difference:
      failed.append("the adapter changes nothing")
    return found, failed
  found["bfloat16_rounding"] = gap(ours.logits["merged"], ours.logits["policy"])
  # Small learning rates may move weights by less than bfloat16's 8 bits can tell.
  found["training_effect"] = gap(ours.logits["base"], ours.logits["policy"])
  if not ours.changed and not rehearsed:
    failed.append("training changed nothing")
  if ours.changed and not found["bfloat16_rounding"] < found["training_effect"]:
    failed.append("rounding to bfloat16 lost what training changed")
  # Without <end_of_turn> a user's generate() runs on into a next turn of its own.
  if theirs.facts[name]["stop_ids"] != list(tokenization.STOP_IDS):
    failed.append("generation_config lacks a stop id")
  return found, failed


def gap(some: list[np.ndarray], others: list[np.ndarray]) -> float:
  """The largest difference between two lists of logits; NaN where one has any."""
  pairs = zip(some, others, strict=True)
  # np.max, as Python's max would pass over a NaN.
  return float(np.max([np.abs(a - b).max() for a, b in pairs]))


def count_same(ours: list[list[int]], theirs: list[list[int]]) -> int:
  """Positions with the same token; completions may differ in length."""
  same = 0
  for a, b in zip(ours, theirs, strict=True):
    same += sum(x == y for x, y in zip(a, b, strict=False))
  return same
