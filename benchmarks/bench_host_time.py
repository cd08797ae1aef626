"""What Python costs in a GRPO batch: the time that a fast device would wait for.

Reads   nothing. Writes  nothing; prints seconds a batch, the median and the lowest.

  python benchmarks/bench_host_time.py --num_iterations=4

A model with the tree of a 1B one (26 layers, LoRA on all projections) and numbers few enough that
arithmetic hardly counts. `host` is the processor time of the thread that runs Python; XLA computes
in threads of its own, so waiting for them is not in it. `wall` has both.
"""

import pathlib
import statistics
import sys
import time

import jax.numpy as jnp
import sentencepiece as spm
from absl import flags
from machine import machine_line

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import train_grpo
from lib import (
  command_line,
  contract,
  devices,
  gemma,
  grpo_learner,
  grpo_start,
  loading,
  preflight,
  streams,
  tokenization,
)

FLAGS = flags.FlagValues()
flags.DEFINE_integer("layers", 26, "Layers of the model.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("num_iterations", 4, "Updates per batch, μ.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("batches", 8, "Timed batches.", lower_bound=1, flag_values=FLAGS)

QUESTIONS = [f"How much is {i} + {i + 3}?" for i in range(40)]


def few_characters(prompts, completions, **columns) -> list[float]:
  """A reward that costs nothing and differs within a group."""
  return [len(set(completion)) / 100 for completion in completions]


def make_policy(layers: int) -> loading.Policy:
  """Small numbers in a large tree."""
  config = gemma.ModelConfig(
    num_layers=layers,
    num_embed=768,
    embed_dim=32,
    hidden_dim=48,
    num_heads=2,
    head_dim=16,
    num_kv_heads=1,
    sliding_window_size=512,
    local_base_frequency=10_000,
    global_base_frequency=1_000_000,
    param_dtype=jnp.float32,
  )
  tokenizer = spm.SentencePieceProcessor(model_proto=tokenization.train_tokenizer(QUESTIONS, 700))
  model = gemma.create_tiny(config)
  return loading.Policy(model, tokenizer, devices.make_mesh("1x1"), "tiny", "", 0, 0.0)


def make_rows() -> list[dict]:
  rows = []
  for i, question in enumerate(QUESTIONS):
    prompt = contract.format_prompt(question, "tags")
    row = {"id": str(i), "domain": "math", "question": question, "answer": "1", "metadata": {}}
    rows.append(row | {"prompt": prompt})
  return rows


def make_learner(layers: int, num_iterations: int, rows: list[dict]):
  """train_grpo.py's own, at its default sizes and with short answers."""
  flag = train_grpo.FLAGS
  flag(["bench", f"--num_iterations={num_iterations}", "--max_new_tokens=8", "--temperature=1"])
  start = make_policy(layers)
  lengths = grpo_start.check_prompts(rows, start.tokenizer, flag.max_prompt_tokens)
  settings = train_grpo.choose_settings(flag, start, lengths, "tags")
  policy, reference = grpo_start.starting_policy(
    start, flag.lora_rank, flag.lora_alpha, flag.seed, settings.reference
  )
  return train_grpo.build(policy, reference, [few_characters], settings, flag)


def run_batch(learner: grpo_learner.LeanGRPOLearner, stream, progress: dict) -> tuple:
  """(wall, host) seconds of its rollout, rewards and reference, and of its updates."""
  marks = [(time.monotonic(), time.thread_time())]
  prepared = learner.prepare(stream, progress)
  marks.append((time.monotonic(), time.thread_time()))
  learner.update(prepared.batch, [1e-6] * learner.settings.num_iterations)
  marks.append((time.monotonic(), time.thread_time()))
  parts = []
  for (wall, host), (later_wall, later_host) in zip(marks, marks[1:], strict=False):
    parts.append((later_wall - wall, later_host - host))
  return parts


def main():
  flag = FLAGS
  rows = make_rows()
  learner = make_learner(flag.layers, flag.num_iterations, rows)
  learner.compile_programs()
  stream = streams.make_stream(rows, learner.settings)
  progress = preflight.new_progress()
  run_batch(learner, stream, progress)  # what is made once is left out
  found = [run_batch(learner, stream, progress) for _ in range(flag.batches)]
  print(machine_line())
  print(f"{flag.layers} layers, LoRA, {flag.num_iterations} updates a batch; seconds a batch")
  print("                      wall   host   lowest host")
  for name, part in (("prepare", slice(0, 1)), ("updates", slice(1, 2)), ("all", slice(None))):
    walls = [sum(wall for wall, _ in parts[part]) for parts in found]
    hosts = [sum(host for _, host in parts[part]) for parts in found]
    wall, host = statistics.median(walls), statistics.median(hosts)
    print(f"{name:<20} {wall:6.3f} {host:6.3f} {min(hosts):8.3f}")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
