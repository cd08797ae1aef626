"""TRL's GRPOTrainer or SFTTrainer doing the job that bench_grpo.py or bench_sft.py hands it, timed
step by step.

Runs in the environment of benchmarks/requirements.txt, started by those two:

  peer/bin/python benchmarks/trl_peer.py job.json

Reads   the job.
Writes  one line a step to its steps_path, with the fields of bench_grpo.Clock.
"""

import json
import os
import resource
import sys
import time

os.environ |= {
  "HF_HUB_OFFLINE": "1",
  "TRL_EXPERIMENTAL_SILENCE": "1",
}  # nothing is fetched: the model is a folder
import datasets
import peft
import torch
import transformers
import trl

MODULES = [
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
]  # what the write-ups' pattern names in Tunix


class Clock(transformers.TrainerCallback):
  """A line per optimizer step; `facts` of it are set by the trainer's own functions."""

  def __init__(self, path: str):
    self.path, self.facts = path, {}

  def on_train_begin(self, args, state, control, **kwargs):
    self.wall, self.cpu = time.monotonic(), time.process_time()

  def on_step_end(self, args, state, control, **kwargs):
    wall, cpu = time.monotonic(), time.process_time()
    row = {
      "seconds": wall - self.wall,
      "cpu": cpu - self.cpu,
      **self.facts,
      "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    with open(self.path, "a", encoding="utf-8") as f:
      f.write(json.dumps(row) + "\n")
    self.facts = {}
    self.wall, self.cpu = time.monotonic(), time.process_time()


def shared_options(job: dict) -> dict:
  """Arguments of both trainers: CPU, no logging, no saving, activations kept as ours keeps them."""
  return dict(
    output_dir=job["scratch"],
    max_steps=1 + job["steps"],
    use_cpu=True,
    bf16=job["dtype"] == "bfloat16",
    gradient_checkpointing=job["remat"],
    report_to="none",
    save_strategy="no",
    logging_strategy="no",
    model_init_kwargs={"dtype": job["dtype"]},
    disable_tqdm=True,
  )


def lora(job: dict) -> peft.LoraConfig:
  return peft.LoraConfig(
    r=job["lora_rank"], lora_alpha=job["lora_alpha"], target_modules=MODULES, task_type="CAUSAL_LM"
  )


def grpo(job: dict, clock: Clock) -> trl.GRPOTrainer:
  """job: rows, batch_size and micro_batch_size in prompts, num_generations, max_new_tokens,
  temperature, LoRA.
  """
  groups, new, size = job["num_generations"], job["max_new_tokens"], job["batch_size"]

  def variety(prompts, completions, completion_ids, **_):
    seen = clock.facts
    seen["completions"] = seen.get("completions", 0) + len(completions)
    seen["tokens"] = seen.get("tokens", 0) + sum(map(len, completion_ids))
    return [len(set(completion)) / 100 for completion in completions]

  tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
  generation = {"min_new_tokens": new}  # nothing stops early
  if job["lengths"] == "real":
    # TRL masks what follows its tokenizer's stop token: it must be the one that SFT taught.
    tokenizer.eos_token = "<end_of_turn>"
    generation = {"eos_token_id": tokenizer.eos_token_id}
  config = trl.GRPOConfig(
    **shared_options(job),
    per_device_train_batch_size=job["micro_batch_size"] * groups,
    gradient_accumulation_steps=size // job["micro_batch_size"],
    num_generations=groups,
    max_completion_length=new,
    generation_kwargs=generation,
    temperature=job["temperature"],
    beta=0.04,
    num_iterations=1,
    loss_type="grpo",
    learning_rate=3e-6,
    weight_decay=0.1,
    shuffle_dataset=False,
  )
  rows = [job["rows"][i % len(job["rows"])] for i in range((1 + job["steps"]) * size)]
  return trl.GRPOTrainer(
    job["model"],
    [variety],
    config,
    datasets.Dataset.from_list([{"prompt": r["prompt"]} for r in rows]),
    processing_class=tokenizer,
    peft_config=lora(job),
    callbacks=[clock],
  )


def sft(job: dict, clock: Clock) -> trl.SFTTrainer:
  """job: pairs of (prompt, target) texts in the order of the steps, batch_size and micro_batch_size
  in rows, max_length.
  """

  class InOrder(trl.SFTTrainer):
    """The rows in the order given, so that all contestants see the same; tokens are counted."""

    def _get_train_sampler(self, *args, **kwargs):
      return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, model, inputs, *args, **kwargs):
      seen = clock.facts
      seen["rows"] = seen.get("rows", 0) + len(inputs["input_ids"])
      seen["tokens"] = seen.get("tokens", 0) + int(inputs["attention_mask"].sum())
      return super().training_step(model, inputs, *args, **kwargs)

  config = trl.SFTConfig(
    **shared_options(job),
    per_device_train_batch_size=job["micro_batch_size"],
    gradient_accumulation_steps=job["batch_size"] // job["micro_batch_size"],
    max_length=job["max_length"],
    completion_only_loss=True,
    learning_rate=2e-4,
    weight_decay=0.01,
    dataloader_drop_last=True,
  )
  pairs = [
    job["pairs"][i % len(job["pairs"])] for i in range((1 + job["steps"]) * job["batch_size"])
  ]
  rows = datasets.Dataset.from_list(
    [{"prompt": prompt, "completion": target} for prompt, target in pairs]
  )
  tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
  return InOrder(
    job["model"],
    config,
    train_dataset=rows,
    processing_class=tokenizer,
    peft_config=lora(job),
    callbacks=[clock],
  )


def main():
  with open(sys.argv[1], encoding="utf-8") as f:
    job = json.load(f)
  (sft if "pairs" in job else grpo)(job, Clock(job["steps_path"])).train()


if __name__ == "__main__":
  main()
