"""TODO-DOC model_card."""

import json
import os
import pathlib

from lib import contract, public_sources, tokenization
from lib.model_names import hub_name

CARD = """---
license: {licence}
base_model: {base}
library_name: transformers
tags: [gemma3, reasoning, {stage}, jax, tunix]
---
# {title}

{base}, trained to reason before it answers ({stage}, {adapter}).

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
{code}
ids = tokenizer.apply_chat_template([{{"role": "user", "content": "What is 12 * 7?"}}], add_generation_prompt=True,
                                    return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**ids, max_new_tokens=512, eos_token_id={stops})[0]))
```

## Prompt
The chat template renders exactly this text, with `<bos>` in front. Another wording or spacing costs accuracy. The response
ends at `<end_of_turn>`.
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
TERMS = {
  "gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. This is a modified "
  "Gemma: pass those terms and the Prohibited Use Policy on with it.",
  "apache-2.0": "This model was trained from random weights and is released under Apache-2.0.",
}


def model_card(
  title: str, model: str, checkpoint: str, config: dict, formats: list[str], licence: str, parity
) -> str:
  """README.md: how to load it, what it was trained on, how well it does, and under which terms it may be used."""
  settings = config.get("flags", {})
  base = hub_name(model) if hub_name(model) != model else os.path.basename(model.rstrip("/"))
  under = "base" if model == "tiny" else hub_name(model)
  code = "# pass orbax/ (or the unpacked zip) as --checkpoint= to this project's scripts"
  if "merged" in formats:
    code = 'model, tokenizer = AutoModelForCausalLM.from_pretrained("merged"), AutoTokenizer.from_pretrained("merged")'
  elif "peft" in formats:
    code = (
      f'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{under}"), "peft")\n'
      'tokenizer = AutoTokenizer.from_pretrained("peft")'
    )
  checked = "Not verified; export_lora.py --verify does."
  if parity:
    checked = (
      f"{'Passed' if parity['passed'] else 'FAILED'} on {parity['prompts']} prompts (parity.json). "
      + "; ".join(
        f"{name}: largest float32 logit difference {x['max_logit_difference']:.1e}, {x['greedy_same']} of {x['greedy_tokens']} "
        "greedy tokens the same"
        for name, x in parity["formats"].items()
      )
      + "."
    )
  return CARD.format(
    title=title,
    licence=licence,
    base=base,
    stage=config["stage"],
    code=code,
    stops=list(tokenization.STOP_IDS),
    parity=checked,
    adapter=f"LoRA rank {config['lora_rank']}, alpha {config['lora_alpha']:g}"
    if config["lora_rank"]
    else "all parameters",
    prompt=contract.format_prompt("{question}", config["style"]),
    commit=config.get("git_commit"),
    terms=TERMS[licence],
    prompt_hash=config.get("prompt_hash"),
    fingerprint=config["model_fingerprint"],
    results=results_section(checkpoint),
    recipe="\n".join(
      f"| {key} | `{value}` |" for key, value in sorted(settings.items()) if value not in ("", None)
    ),
    data=data_section(settings.get("data_dir") or ""),
  )


def data_section(data_dir: str) -> str:
  """Rows a domain and the sources with their licences, as far as the data folder still tells."""
  try:
    domains = json.loads(pathlib.Path(data_dir, "stats.json").read_text(encoding="utf-8"))[
      "domains"
    ]
    settings = json.loads(pathlib.Path(data_dir, "config.json").read_text(encoding="utf-8"))[
      "flags"
    ]
  except (OSError, ValueError, KeyError):
    return f"Prepared in `{data_dir}`, which this export could not read."
  sources = [
    f"{name} ({public_sources.SOURCES[name].licence})" for name in settings.get("sources") or []
  ]
  sources += [
    f"{os.path.basename(path)} (licence: see its source)" for path in settings.get("pool") or []
  ]
  return "\n".join(
    [
      f"Sources: {', '.join(sources) or 'the built-in pool (Apache-2.0)'}. Training rows:",
      "",
      *(f"- {name}: {x['train']:,}" for name, x in domains.items() if x.get("train")),
    ]
  )


def results_section(checkpoint: str) -> str:
  """A table of every eval_*/results.json beside the checkpoint."""
  keys, lines = ("n", "format_rate", "accuracy", "mean_reward"), []
  for path in sorted(pathlib.Path(checkpoint).resolve().parent.glob("eval_*/results.json")):
    overall = json.loads(path.read_text(encoding="utf-8")).get("overall", {})
    shown = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in map(overall.get, keys)]
    lines.append(f"| {path.parent.name} | {' | '.join(shown)} |")
  if not lines:
    return "No evaluation stands beside the checkpoint; evaluate.py makes one."
  return "\n".join(
    ["| model | rows | format | accuracy | mean reward |", "|---|---|---|---|---|", *lines]
  )
