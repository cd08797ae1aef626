"""README.md of an export: how to load it, what it was trained on, how well it does, its terms.

`model_card` puts the sections together; `loading_section` has the lines for transformers, vLLM,
Ollama and llama.cpp, which the tests run where they can.
"""

import json
import os
import pathlib
import re
from typing import NamedTuple

from lib import contract, public_sources, publishing, tokenization
from lib.model_names import hub_name

# Filled by str.format: braces of the card's own are doubled.
CARD = """---
{front}
---
# {title}

{base}, trained to reason before it answers ({stage}, {trained}).

{loading}

## Prompt
The chat template renders exactly this text, with `<bos>` in front. Another wording or spacing costs
accuracy. The response ends at `<end_of_turn>`.
```
{prompt}
```

## Recipe
| setting | value |
|---|---|
{recipe}

Code commit `{commit}`, prompt hash `{prompt_hash}`, base fingerprint `{fingerprint}`.

## Data
{data}

## Results
{results}

## Parity with the JAX model
{parity}

## Licence
{terms}
"""
# The Gemma Terms of Use, §3.1, ask that whoever passes a model on passes them on, too.
TERMS = {
  "gemma": (
    "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms. This is a modified Gemma: pass those terms and the Prohibited Use "
    "Policy on with it."
  ),
  "apache-2.0": ("This model was trained from random weights and is released under Apache-2.0."),
}
QUESTION = "What is 12 * 7?"
# The stop ids are named as well: under another generation_config generate() would run on.
PYTHON = """```python
{imports}

{load}
chat = [{{"role": "user", "content": "{question}"}}]
ids = tokenizer.apply_chat_template(
  chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512, eos_token_id={stops})[0]))
```"""
ASK = """curl localhost:8000/v1/chat/completions -H "Content-Type: application/json" -d \\
  '{{"model": "{name}", "messages": [{{"role": "user", "content": "{question}"}}],
    "max_tokens": 512, "stop_token_ids": {stops}}}'"""
# The ranks that vLLM has kernels for.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Export(NamedTuple):
  """What a card tells of."""

  title: str
  model: str  # --model
  checkpoint: str
  config: dict  # the checkpoint's
  formats: list[str]
  licence: str  # a key of TERMS
  parity: dict | None
  repository: str  # USER/NAME on the Hub; "" for a folder


def model_card(export: Export) -> str:
  config = export.config
  settings = config.get("flags", {})
  recipe = []
  for key, value in sorted(settings.items()):
    # Flags left empty say nothing about the run.
    if value not in ("", None):
      recipe.append(f"| {key} | `{value}` |")
  trained = "all parameters"
  if config["lora_rank"]:
    trained = f"LoRA rank {config['lora_rank']}, alpha {config['lora_alpha']:g}"
  return CARD.format(
    front=front_matter(export),
    title=export.title,
    base=base_name(export.model),
    stage=config["stage"],
    trained=trained,
    loading=loading_section(export),
    prompt=contract.format_prompt("{question}", config["style"]),
    recipe="\n".join(recipe),
    commit=config.get("git_commit"),
    prompt_hash=config.get("prompt_hash"),
    fingerprint=config["model_fingerprint"],
    data=data_section(settings.get("data_dir") or ""),
    results=results_section(export.checkpoint),
    parity=parity_section(export.parity),
    terms=TERMS[export.licence],
  )


def base_name(model: str) -> str:
  """A name on the Hub, else the last part of a folder."""
  # A folder that holds no name of the Hub's comes back as it was.
  name = hub_name(model)
  return name if name != model else os.path.basename(model.rstrip("/"))


def front_matter(export: Export) -> str:
  """The Hub's YAML."""
  lines = [f"license: {export.licence}"]
  base = base_name(export.model)
  if "/" in base:  # otherwise the Hub could not link to it
    lines.append(f"base_model: {base}")
  # What the Hub's "Use this model" button shows.
  library = "transformers" if "merged" in export.formats else "peft"
  lines.append(f"library_name: {library}")
  lines.append("pipeline_tag: text-generation")
  lines.append(f"tags: [gemma3, reasoning, {export.config['stage']}, jax, tunix]")
  return "\n".join(lines)


# -------------------------------------------------------------------------------- how to load it
def loading_section(export: Export) -> str:
  """The lines to copy, for what was exported. Paths are relative to the export."""
  # The simplest way first: a merged model needs no second download.
  parts = []
  if "merged" in export.formats:
    parts += merged_lines(export)
  if "peft" in export.formats:
    parts += adapter_lines(export)
  if "gguf" in export.formats:
    parts += gguf_lines(export)
  if {"orbax", "zip"} & set(export.formats):
    parts.append(
      "This project's own scripts: pass `orbax/`, or the unpacked zip, as `--checkpoint=` (GRPO: "
      "`--init_from=`)."
    )
  return "\n\n".join(parts)


def merged_lines(export: Export) -> list[str]:
  place = python_place(export, "merged")
  load = (
    f"model = AutoModelForCausalLM.from_pretrained({place})\n"
    f"tokenizer = AutoTokenizer.from_pretrained({place})"
  )
  name = short_name(export.title)
  # The files are at the top of a repository on the Hub.
  source = export.repository or "merged"
  folder = "merged"
  # `ollama create` reads local files, so a repository is downloaded first.
  fetch = []
  if export.repository:
    folder = export.repository.split("/")[1]
    fetch = [f"hf download {export.repository} --local-dir {folder}"]
  return [
    "## transformers",
    python_code("from transformers import AutoModelForCausalLM, AutoTokenizer", load),
    "## vLLM",
    shell(f"vllm serve {source} --served-model-name {name}", ask_line(name)),
    "## Ollama",
    shell(*fetch, f"cd {folder} && ollama create {name} && ollama run {name} '{QUESTION}'"),
  ]


def adapter_lines(export: Export) -> list[str]:
  # The tiny base is on no hub; it travels with the export.
  if export.model == "tiny":
    base = python_place(export, "base")
  else:
    base = f'"{hub_name(export.model)}"'
  place = python_place(export, "peft")
  load = (
    f"base = AutoModelForCausalLM.from_pretrained({base})\n"
    f"model = PeftModel.from_pretrained(base, {place})\n"
    f"tokenizer = AutoTokenizer.from_pretrained({place})"
  )
  imports = (
    "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer"
  )
  name = short_name(export.title)
  fetch = []
  folder = "peft"
  if export.repository:
    folder = export.repository.split("/")[1]
    fetch = [f"hf download {export.repository} --local-dir {folder}"]
    if "merged" in export.formats:
      # Beside a merged model the adapter kept its folder: see `publishing.repository_layout`.
      folder += "/peft"
  # vLLM takes the chat template of the base, which is not the trained prompt, unless it is told.
  serve = (
    f"vllm serve {vllm_base(export)} --enable-lora "
    f"--max-lora-rank {vllm_rank(export.config['lora_rank'])} \\\n"
    f"  --lora-modules {name}={folder} --chat-template {folder}/chat_template.jinja"
  )
  return [
    "## The adapter with PEFT",
    python_code(imports, load),
    "## The adapter with vLLM",
    shell(*fetch, serve, ask_line(name)),
  ]


def gguf_lines(export: Export) -> list[str]:
  name = short_name(export.title)
  return [
    "## GGUF",
    shell(
      f"llama-cli -m gguf/model-bf16.gguf --jinja -p '{QUESTION}'",
      f"cd gguf && ollama create {name} && ollama run {name} '{QUESTION}'",
    ),
  ]


def python_place(export: Export, folder: str) -> str:
  """The arguments of from_pretrained: `"merged"`, `"me/name"`, `"me/name", subfolder="peft"`."""
  if not export.repository:
    return f'"{folder}"'
  if folder == publishing.top_folder([f"{name}/" for name in export.formats]):
    return f'"{export.repository}"'
  return f'"{export.repository}", subfolder="{folder}"'


def vllm_base(export: Export) -> str:
  if export.model != "tiny":
    return hub_name(export.model)
  return f"{export.repository.split('/')[1]}/base" if export.repository else "base"


def vllm_rank(rank: int) -> int:
  # 4 → 8: the next larger kernel; a rank beyond all of them is left for vLLM to refuse.
  return next((allowed for allowed in VLLM_RANKS if allowed >= rank), rank)


def short_name(title: str) -> str:
  """ "Tiny reasoner" → "tiny-reasoner": what servers call it."""
  # "model" for a title without a Latin letter.
  return re.sub(r"[^a-z0-9.]+", "-", title.lower()).strip("-.") or "model"


def python_code(imports: str, load: str) -> str:
  stops = list(tokenization.STOP_IDS)
  return PYTHON.format(imports=imports, load=load, question=QUESTION, stops=stops)


def ask_line(name: str) -> str:
  return ASK.format(name=name, question=QUESTION, stops=list(tokenization.STOP_IDS))


def shell(*lines: str) -> str:
  return "\n".join(["```bash", *lines, "```"])


# -------------------------------------------------------------------------- what is known of it
def parity_section(parity: dict | None) -> str:
  # A card that is silent would be read as verified.
  if not parity:
    return "Not verified; export_lora.py --verify does."
  said = []
  for name, figures in parity["formats"].items():
    said.append(
      f"{name}: largest float32 logit difference {figures['max_logit_difference']:.1e}, "
      f"{figures['greedy_same']} of {figures['greedy_tokens']} greedy tokens the same"
    )
  verdict = "Passed" if parity["passed"] else "FAILED"
  # Older files do not say it.
  unchanged = "" if parity.get("changed", True) else " Training changed nothing: it is the base."
  return f"{verdict} on {parity['prompts']} prompts (parity.json). {'; '.join(said)}.{unchanged}"


def data_section(data_dir: str) -> str:
  """Rows of each domain and the sources with their licences, as far as the data still tells."""
  try:
    # The run's data may have been deleted or moved; a card without it is still worth having.
    domains = read_json(data_dir, "stats.json")["domains"]
    settings = read_json(data_dir, "config.json")["flags"]
  except (OSError, ValueError, KeyError):
    return f"Prepared in `{data_dir}`, which this export could not read."
  sources = []
  for name in settings.get("sources") or []:
    sources.append(f"{name} ({public_sources.SOURCES[name].licence})")
  # A file of the user's: only they know its licence.
  for path in settings.get("pool") or []:
    sources.append(f"{os.path.basename(path)} (licence: see its source)")
  named = ", ".join(sources) or "the built-in pool (Apache-2.0)"
  lines = [f"Sources: {named}. Training rows:", ""]
  for name, counts in domains.items():
    if counts.get("train"):
      lines.append(f"- {name}: {counts['train']:,}")
  return "\n".join(lines)


def read_json(folder: str, name: str) -> dict:
  return json.loads(pathlib.Path(folder, name).read_text(encoding="utf-8"))


def results_section(checkpoint: str) -> str:
  """A table of every eval_*/results.json beside the checkpoint."""
  keys = ("n", "format_rate", "accuracy", "mean_reward")
  lines = ["| model | rows | format | accuracy | mean reward |", "|---|---|---|---|---|"]
  # run/grpo → run/eval_base, run/eval_sft, run/eval_grpo.
  beside = pathlib.Path(checkpoint).resolve().parent
  found = sorted(beside.glob("eval_*/results.json"))
  for path in found:
    overall = json.loads(path.read_text(encoding="utf-8")).get("overall", {})
    values = [overall.get(key) for key in keys]
    shown = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in values]
    lines.append(f"| {path.parent.name} | {' | '.join(shown)} |")
  if not found:
    return "No evaluation stands beside the checkpoint; evaluate.py makes one."
  return "\n".join(lines)
