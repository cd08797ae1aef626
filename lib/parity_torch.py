"""What transformers and PEFT compute from an export: `python -m lib.parity_torch FOLDER`.

It runs in the Python that has them, which need not have JAX, so it imports nothing of this project.
Reads FOLDER/request.json, as lib/parity.py writes it; writes the logits, NAME_i.npy, and
result.json.
"""

import json
import sys

import numpy as np
import peft
import torch
import transformers


def main(folder: str):
  with open(f"{folder}/request.json", encoding="utf-8") as f:
    request = json.load(f)
  versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
  result = {"versions": versions, "formats": {}, "logits": []}
  for name, (base, adapter) in request["models"].items():
    model = load(base, adapter)
    save_logits(model, request, f"{folder}/{name}")
    result["logits"].append(name)
    # Against this `compare` sees whether the adapter does anything at all.
    if adapter:
      with model.disable_adapter():
        save_logits(model, request, f"{folder}/without_adapter")
      result["logits"].append("without_adapter")
    result["formats"][name] = {
      "greedy": [greedy(model, ids, request) for ids in request["prompts"]],
      "stop_ids": model.generation_config.eos_token_id,
      "chat_ids": chat_ids(adapter or base, request["questions"]),
    }
    del model  # one in memory at a time
  with open(f"{folder}/result.json", "w", encoding="utf-8") as f:
    json.dump(result, f)


def load(base: str, adapter: str | None):
  """The model in float32, as a user would load it."""
  # Whatever the files hold: bfloat16 arithmetic would differ by more than the tolerance.
  model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
  if adapter:
    model = peft.PeftModel.from_pretrained(model, adapter)
  # Without dropout.
  return model.eval()


@torch.no_grad()
def save_logits(model, request: dict, prefix: str):
  for i, (ids, start) in enumerate(zip(request["sequences"], request["starts"], strict=True)):
    # Unpadded, one sequence at a time: no mask can be wrong.
    logits = model(torch.tensor([ids])).logits  # (1, T, V)
    # (T - start, V)
    np.save(f"{prefix}_{i}.npy", logits[0, start:].numpy())


@torch.no_grad()
def greedy(model, ids: list[int], request: dict) -> list[int]:
  """The completion that generate() gives, its stop token kept."""
  prompt = torch.tensor([ids])
  out = model.generate(
    input_ids=prompt,
    # Said, because transformers guesses it from pad_token_id otherwise, and warns.
    attention_mask=torch.ones_like(prompt),
    max_new_tokens=request["steps"],
    do_sample=False,
    # Training's own; what the folder says is compared apart, as "stop_ids".
    eos_token_id=request["stop_ids"],
    pad_token_id=0,
  )
  # (1, P + new): the prompt comes back with it.
  return out[0, len(ids) :].tolist()


def chat_ids(folder: str, questions: list[str]) -> list[list[int]]:
  """Each question through the folder's tokenizer and chat template."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  found = []
  for question in questions:
    chat = [{"role": "user", "content": question}]
    # Ids rather than text, so that a <bos> too many shows.
    ids = tokenizer.apply_chat_template(
      chat, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    found.append(ids)
  return found


if __name__ == "__main__":
  main(sys.argv[1])
