"""TODO-DOC parity."""

import gc
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lib import contract, folders, gemma, jsonl, loading, sampling, tokenization
from lib.errors import InputError

LOGIT_TOLERANCE, GREEDY_STEPS = 1e-3, 64  # float32 on both sides
QUESTIONS = (
  "A farmer has 17 sheep, buys 25 and sells 9. How many sheep are left?",
  "Why does ice float on water?",
  "Write a Python function that returns the n-th Fibonacci number.",
)  # where the training data is gone


# ---------------------------------------------------------------------------------------------------------------- parity
def find_python(path: str) -> str:
  """An interpreter that can run `torch_outputs`; asked before the export starts."""
  beside = folders.ROOT / ".venv-parity" / "bin" / "python"
  python = path or (str(beside) if beside.is_file() else sys.executable)
  try:
    found = subprocess.run(
      [python, "-c", "import torch, transformers, peft"], capture_output=True, text=True
    )
  except OSError as error:
    raise InputError(
      f"--verify_python={python} does not run ({error.strerror}); give a Python interpreter"
    ) from error
  if found.returncode:
    reason = (found.stderr.strip().splitlines() or ["no message"])[-1]
    raise InputError(
      f"--verify needs torch, transformers and peft, {python} says {reason!r}; "
      "run `pip install -r requirements-parity.txt` there, or name another Python with --verify_python"
    )
  return python


def verification_prompts(
  config: dict, tokenizer, count: int = 4, longest: int = 384
) -> tuple[list[tuple[str, str]], str]:
  """Up to `count` (question, prompt) of held-out rows, one a domain first, and where they are from."""
  data_dir = config.get("flags", {}).get("data_dir") or ""
  for path in filter(os.path.isfile, (f"{data_dir}/test.jsonl", f"{data_dir}/val.jsonl")):
    rows = [
      row
      for row in jsonl.read_rows(path)[:400]
      if len(tokenization.encode(tokenizer, row["prompt"])) <= longest
    ]
    first = {row["domain"]: row for row in reversed(rows)}
    chosen = [*first.values(), *(row for row in rows if row is not first[row["domain"]])][:count]
    if chosen:
      return [(row["question"], row["prompt"]) for row in chosen], path
  return [(q, contract.format_prompt(q, config["style"])) for q in QUESTIONS], "built-in questions"


def jax_logits(
  model: nnx.Module, sequences: list[list[int]], starts: list[int]
) -> list[np.ndarray]:
  """float32 logits (T_i - start_i, V) of each sequence, without a cache."""
  width = tokenization.bucket(max(map(len, sequences)))
  positions, mask = jnp.arange(width)[None], jnp.tril(jnp.ones((1, width, width), bool))
  run = nnx.jit(lambda model, tokens: model(tokens, positions, None, mask)[0])
  return [
    np.asarray(run(model, tokenization.pad_right([ids], width))[0, start : len(ids)])
    for ids, start in zip(sequences, starts)
  ]


def jax_greedy(policy, prompts: list[list[int]]) -> list[list[int]]:
  """Greedy completions of at most GREEDY_STEPS tokens, the stop token kept."""
  out = sampling.sample(
    policy,
    prompts,
    width=tokenization.bucket(max(map(len, prompts))),
    max_new_tokens=GREEDY_STEPS,
    temperature=0.0,
  )
  ends = [
    next((i + 1 for i, token in enumerate(row) if token in tokenization.STOP_IDS), len(row))
    for row in out
  ]
  return [row[:end].tolist() for row, end in zip(out, ends)]


def torch_outputs(folder):
  """The same from transformers and PEFT. Its source runs in another Python, so it uses nothing of this file but its argument:
  a folder with request.json, where it writes logits and result.json."""
  import json

  import numpy as np
  import peft
  import torch
  import transformers

  with open(f"{folder}/request.json") as f:
    request = json.load(f)
  result = {"versions": {m.__name__: m.__version__ for m in (torch, transformers, peft)}}
  for name, (base, adapter) in request["models"].items():
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = (peft.PeftModel.from_pretrained(model, adapter) if adapter else model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(adapter or base)
    chats = [[{"role": "user", "content": question}] for question in request["questions"]]
    found = result[name] = {
      "greedy": [],
      "stop_ids": model.generation_config.eos_token_id,
      "chat_ids": [
        tokenizer.apply_chat_template(
          chat, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        for chat in chats
      ],
    }
    with torch.no_grad():
      for i, (ids, start) in enumerate(zip(request["sequences"], request["starts"])):
        np.save(f"{folder}/{name}_{i}.npy", model(torch.tensor([ids])).logits[0, start:].numpy())
        if adapter:
          with model.disable_adapter():
            np.save(
              f"{folder}/without_adapter_{i}.npy",
              model(torch.tensor([ids])).logits[0, start:].numpy(),
            )
      for ids in request["prompts"]:
        prompt = torch.tensor([ids])
        out = model.generate(
          input_ids=prompt,
          attention_mask=torch.ones_like(prompt),
          max_new_tokens=request["steps"],
          do_sample=False,
          eos_token_id=request["stop_ids"],
          pad_token_id=0,
        )
        found["greedy"].append(out[0, len(ids) :].tolist())
    del model
  with open(f"{folder}/result.json", "w") as f:
    json.dump(result, f)


def verify(
  out: str, model: str, checkpoint: str, config: dict, python: str, formats: list[str]
) -> dict:
  """Compares peft/ and merged/, as transformers and PEFT load them, with the JAX policy; writes and returns parity.json.

  peft/ is compared with the policy itself. merged/ holds bfloat16, so it is compared with the JAX model that loads it, and
  what the rounding moved is reported apart: it must be nearer to the policy than the untrained base is. All in float32.
  """
  print("verifying: JAX first, then transformers and PEFT in their own process", flush=True)
  policy = loading.load_policy(model, checkpoint, dtype="float32")
  chosen, source = verification_prompts(config, policy.tokenizer)
  prompts = [tokenization.encode(policy.tokenizer, prompt) for _, prompt in chosen]
  name, tokenizer, mesh = policy.name, policy.tokenizer, policy.mesh
  models = (
    {"peft": (f"{out}/base" if name == "tiny" else name, f"{out}/peft")}
    if "peft" in formats
    else {}
  )
  with jax.default_matmul_precision(
    "highest"
  ):  # else a TPU multiplies float32 in bfloat16, a GPU in TF32
    greedy = {"peft": jax_greedy(policy, prompts)}
    sequences, starts = (
      [p + c for p, c in zip(prompts, greedy["peft"])],
      [max(0, len(p) - 16) for p in prompts],
    )
    logits = {"peft": jax_logits(policy.model, sequences, starts)}
    if "merged" in formats:
      policy = None  # one float32 model at a time
      logits["base"] = jax_logits(
        gemma.load_base(name, tokenizer, mesh, "float32"), sequences, starts
      )
      policy = loading.load_policy(f"{out}/merged", dtype="float32")
      greedy["merged"], logits["merged"] = (
        jax_greedy(policy, prompts),
        jax_logits(policy.model, sequences, starts),
      )
      models["merged"] = (f"{out}/merged", None)
  policy = None
  jax.clear_caches()
  gc.collect()
  with tempfile.TemporaryDirectory() as folder:
    request = {
      "models": models,
      "sequences": sequences,
      "starts": starts,
      "prompts": prompts,
      "steps": GREEDY_STEPS,
      "questions": [q for q, _ in chosen],
      "stop_ids": list(tokenization.STOP_IDS),
    }
    jsonl.write_text(f"{folder}/request.json", json.dumps(request))
    code = f"{inspect.getsource(torch_outputs)}\nimport sys\ntorch_outputs(sys.argv[1])"
    done = subprocess.run([python, "-c", code, folder], capture_output=True, text=True)
    if done.returncode:
      lines = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
      raise InputError(f"transformers or PEFT cannot load the export: {lines[0]}")
    result = json.loads(pathlib.Path(folder, "result.json").read_text())
    load = lambda name: [np.load(f"{folder}/{name}_{i}.npy") for i in range(len(prompts))]
    theirs = {
      name: load(name) for name in [*models, *(["without_adapter"] if "peft" in models else [])]
    }
  parity = compare(list(models), logits, greedy, theirs, result, prompts)
  parity.update({"prompts": len(prompts), "prompts_from": source, "versions": result["versions"]})
  jsonl.write_text(f"{out}/parity.json", json.dumps(parity, indent=1) + "\n")
  print(json.dumps(parity["formats"]), flush=True)
  return parity


def compare(
  names: list[str], logits: dict, greedy: dict, theirs: dict, result: dict, prompts: list[list[int]]
) -> dict:
  """The verdicts: {"passed", "failures", "formats": {name: figures}}."""
  gap = lambda a, b: max(float(np.abs(x - y).max()) for x, y in zip(a, b))
  failures, figures = [], {}
  for name in names:
    same = [sum(a == b for a, b in zip(x, y)) for x, y in zip(greedy[name], result[name]["greedy"])]
    found = figures[name] = {
      "max_logit_difference": gap(logits[name], theirs[name]),
      "greedy_tokens": sum(map(len, greedy[name])),
      "greedy_same": sum(same),
      "greedy_identical": greedy[name] == result[name]["greedy"],
      "chat_template_identical": result[name]["chat_ids"] == prompts,
    }
    checks = {
      f"logits differ by {found['max_logit_difference']:.2g}": not found["max_logit_difference"]
      <= LOGIT_TOLERANCE,
      "greedy tokens differ": not found["greedy_identical"],
      "the chat template gives other tokens than training used": not found[
        "chat_template_identical"
      ],
    }  # NaN fails too
    if name == "peft":
      found["adapter_effect"] = gap(theirs["peft"], theirs["without_adapter"])
      checks["the adapter changes nothing"] = (
        not found["adapter_effect"] > found["max_logit_difference"]
      )
    else:
      found["bfloat16_rounding"] = gap(logits["merged"], logits["peft"])
      found["training_effect"] = gap(logits["base"], logits["peft"])
      checks["rounding to bfloat16 lost what training changed"] = (
        not found["bfloat16_rounding"] < found["training_effect"]
      )
      checks["generation_config lacks a stop id"] = result[name]["stop_ids"] != list(
        tokenization.STOP_IDS
      )
    failures += [f"{name}: {text}" for text, failed in checks.items() if failed]
  return {
    "passed": not failures,
    "failures": failures,
    "logit_tolerance": LOGIT_TOLERANCE,
    "formats": figures,
  }
