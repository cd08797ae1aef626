"""TRL's trainers doing the job that bench_grpo.py, bench_sft.py or race.py hands them.

Runs in the environment of benchmarks/requirements.txt, started by those three:

  peer/bin/python benchmarks/trl_peer.py job.json

Reads   the job.
Writes  one line a step to its steps_path, with the fields of bench_grpo.Clock; for the race one
        line a validation to its points_path.
"""

import json
import os
import pathlib
import resource
import sys
import time

STARTED = time.monotonic()
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
    max_steps=job["max_steps"],
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


def grpo_options(job: dict) -> dict:
  """Arguments of GRPOConfig that the step and the race share."""
  size, micro = job["batch_size"], job["micro_batch_size"]
  return shared_options(job) | dict(
    per_device_train_batch_size=micro * job["num_generations"],
    gradient_accumulation_steps=size // micro,
    num_generations=job["num_generations"],
    max_completion_length=job["max_new_tokens"],
    temperature=job["temperature"],
    num_iterations=1,
    loss_type="grpo",
    shuffle_dataset=False,
  )


def rows_of(job: dict) -> list[dict]:
  """The prompts of all updates, in file order, from the top again where they run out."""
  rows = job["rows"]
  return [rows[i % len(rows)] for i in range(job["max_steps"] * job["batch_size"])]


def stopping_tokenizer(folder: str):
  """TRL masks what follows its tokenizer's stop token: it must be the one that SFT taught."""
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  tokenizer.eos_token = "<end_of_turn>"
  return tokenizer


def grpo(job: dict, clock: Clock) -> trl.GRPOTrainer:
  """job: rows, batch_size and micro_batch_size in prompts, num_generations, max_new_tokens,
  temperature, LoRA.
  """

  def variety(prompts, completions, completion_ids, **_):
    seen = clock.facts
    seen["completions"] = seen.get("completions", 0) + len(completions)
    seen["tokens"] = seen.get("tokens", 0) + sum(map(len, completion_ids))
    return [len(set(completion)) / 100 for completion in completions]

  if job["lengths"] == "real":
    tokenizer = stopping_tokenizer(job["model"])
    generation = {"eos_token_id": tokenizer.eos_token_id}
  else:
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["model"])
    generation = {"min_new_tokens": job["max_new_tokens"]}  # nothing stops early
  config = trl.GRPOConfig(
    **grpo_options(job),
    generation_kwargs=generation,
    beta=0.04,
    learning_rate=3e-6,
    weight_decay=0.1,
  )
  return trl.GRPOTrainer(
    job["model"],
    [variety],
    config,
    datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in rows_of(job)]),
    processing_class=tokenizer,
    peft_config=lora(job),
    callbacks=[clock],
  )


class Validation(transformers.TrainerCallback):
  """Greedy answers to validation rows every so many updates, read by this project's scorer.

  A line each: step, seconds since the process began without those of validations, accuracy.
  """

  def __init__(self, job: dict, tokenizer, read):
    self.job, self.tokenizer, self.read = job, tokenizer, read
    self.spent = 0.0  # seconds of validations so far

  def on_train_begin(self, args, state, control, **kwargs):
    self.validate(0, kwargs["model"])

  def on_step_end(self, args, state, control, **kwargs):
    if state.global_step % self.job["eval_every"] == 0 or state.global_step == args.max_steps:
      self.validate(state.global_step, kwargs["model"])

  def validate(self, step: int, model):
    start = time.monotonic()
    seconds = start - STARTED - self.spent
    training = model.training
    model.eval()
    texts = []
    rows = self.job["val_rows"]
    for first in range(0, len(rows), 16):
      prompts = [row["prompt"] for row in rows[first : first + 16]]
      texts += self.answer(model, prompts)
    model.train(training)
    point = {"step": step, "seconds": seconds, "accuracy": self.read(rows, texts)}
    with open(self.job["points_path"], "a", encoding="utf-8") as f:
      f.write(json.dumps(point) + "\n")
    print(f"trl {point}", flush=True)
    self.spent += time.monotonic() - start

  @torch.inference_mode()
  def answer(self, model, prompts: list[str]) -> list[str]:
    inputs = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    ids = model.generate(
      **inputs,
      do_sample=False,
      top_p=None,
      top_k=None,
      max_new_tokens=self.job["max_new_tokens"],
      eos_token_id=self.tokenizer.eos_token_id,
    )
    new = ids[:, inputs["input_ids"].shape[1] :]
    return self.tokenizer.batch_decode(new, skip_special_tokens=True)


def race(job: dict) -> trl.GRPOTrainer:
  """job: what race.py's flags say, rows and val_rows of prepare_data.py, the learning rates."""
  # The rewards and the scorer are plain Python and NumPy: the same code as in our own run.
  sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
  import rewards
  from lib import scoring

  def read(rows: list[dict], texts: list[str]) -> float:
    answers = [reading.strict for reading in scoring.read_texts(texts, "tags")]
    return float(scoring.right_answers(rows, answers).mean())

  class SameSchedule(trl.GRPOTrainer):
    def create_scheduler(self, num_training_steps, optimizer=None):
      rates = job["rates"] + job["rates"][-1:]  # asked once more, after the last update

      def share(done: int) -> float:
        return rates[done] / job["learning_rate"]

      optimizer = optimizer or self.optimizer
      self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
      return self.lr_scheduler

  tokenizer = stopping_tokenizer(job["model"])
  config = trl.GRPOConfig(
    **grpo_options(job),
    seed=job["seed"],
    generation_kwargs={"eos_token_id": tokenizer.eos_token_id},
    beta=job["beta"],
    learning_rate=job["learning_rate"],
    weight_decay=job["weight_decay"],
    max_grad_norm=job["max_grad_norm"],
    adam_beta2=0.99,  # ours; torch's 0.999 looks back over more updates than the run has
  )
  columns = ("prompt", "domain", "question", "answer", "metadata")
  rows = []
  for row in rows_of(job):
    # Metadata as JSON text: a table's column has one type.
    row = row | {"metadata": json.dumps(row["metadata"])}
    rows.append({name: row[name] for name in columns})
  return SameSchedule(
    job["model"],
    rewards.make_rewards(job["rewards"]),
    config,
    datasets.Dataset.from_list(rows),
    processing_class=tokenizer,
    peft_config=lora(job),
    callbacks=[Validation(job, tokenizer, read)],
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
  if "points_path" in job:
    return race(job).train()
  job["max_steps"] = 1 + job["steps"]  # the first compiles, or warms up
  (sft if "pairs" in job else grpo)(job, Clock(job["steps_path"])).train()


if __name__ == "__main__":
  main()
