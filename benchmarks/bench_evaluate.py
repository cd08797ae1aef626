"""Tokens per second of evaluate.py's sampling beside Tunix's Sampler, 8 rows at a time.

Reads   data_dir/{split}.jsonl of prepare_data.py (real GSM8K rows, say) and a model folder.
Writes  nothing; prints one line per round and the median ratio.

  python benchmarks/bench_evaluate.py --data_dir=artifacts/gsm8k/data \\
      --model=artifacts/gemma-3-270m --rows=64

The two share one process and one set of weights; half of Tunix's batches run before ours and half
after, so that a drift of the machine's load hits both. CPU seconds (all threads) are printed beside
the wall clock: on a busy machine they are the steadier measure. What compiles runs once before the
rounds.
"""

import math
import pathlib
import statistics
import sys
import time
from typing import NamedTuple

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import jax
import numpy as np
from machine import machine_line

from lib import answering, command_line, devices, folders, jsonl, loading, sampling, tokenization

FLAGS = flags.FlagValues()
flags.DEFINE_string(
  "data_dir", "artifacts/run/data", "Folder that prepare_data.py wrote.", flag_values=FLAGS
)
flags.DEFINE_string("split", "test", "Rows to evaluate: train, val or test.", flag_values=FLAGS)
flags.DEFINE_string(
  "model",
  "tiny",
  "tiny, a name (gemma-3-1b-it, google/gemma-3-4b-it, hf:…, kaggle:…) or a folder of Gemma 3.",
  flag_values=FLAGS,
)
flags.DEFINE_string(
  "checkpoint",
  "",
  "SFT, GRPO or PEFT adapter folder to put on the model; empty: the model itself.",
  flag_values=FLAGS,
)
flags.DEFINE_integer("rows", 64, "Prompts a round, from the top of the file.", flag_values=FLAGS)
flags.DEFINE_integer("max_new_tokens", 128, "Longest completion, in tokens.", flag_values=FLAGS)
flags.DEFINE_integer("rounds", 3, "Timed rounds of each.", flag_values=FLAGS)
flags.DEFINE_integer(
  "batch_size", 0, "Responses sampled together by ours; 0: what fits in memory.", flag_values=FLAGS
)
flags.DEFINE_string(
  "dtype",
  "auto",
  "Base weights: auto (bfloat16 on TPU and GPU, float32 on CPU), float32 or bfloat16.",
  flag_values=FLAGS,
)


class Timed(NamedTuple):
  """What sampling some rows took, and what came out."""

  seconds: float
  cpu_seconds: float
  tokens: int  # the stop token counts
  completions: dict  # row id → token ids


class Stopwatch:
  """Wall clock and CPU time of all threads, since it was made."""

  def __init__(self):
    self.start = time.monotonic()
    self.cpu_start = time.process_time()

  def read(self, tokens: int, completions: dict) -> Timed:
    seconds = time.monotonic() - self.start
    return Timed(seconds, time.process_time() - self.cpu_start, tokens, completions)


def ours(policy, rows, new: int, batch_size: int) -> Timed:
  """answering.generate: longest prompts first, the shared beginning once a batch."""
  watch = Stopwatch()
  tokens = 0
  out = {}
  for part, completions in answering.generate(
    policy, rows, samples=1, temperature=0.0, max_new_tokens=new, batch_size=batch_size, seed=0
  ):
    greedy = completions[:, 0]  # (B, T): one sample a row
    tokens += int(sampling.completion_lengths(greedy)[0].sum())
    out |= {row["id"]: ids for row, ids in zip(part, greedy, strict=True)}
  return watch.read(tokens, out)


def stock(policy, rows, new: int):
  """run(batch numbers) -> Timed, of tunix.generate.sampler.Sampler."""
  from tunix.generate import sampler

  config = policy.model.config
  longest = max(prompt_lengths(policy, rows))
  cache = sampler.CacheConfig(
    cache_size=2 ** (longest - 1).bit_length() + new,
    num_layers=config.num_layers,
    num_kv_heads=config.num_kv_heads,
    head_dim=config.head_dim,
  )
  tunix = sampler.Sampler(transformer=policy.model, tokenizer=policy.tokenizer, cache_config=cache)

  def run(batches) -> Timed:
    watch = Stopwatch()
    tokens = 0
    out = {}
    for number in batches:
      part = rows[8 * number : 8 * number + 8]
      result = tunix(
        [row["prompt"] for row in part],
        max_generation_steps=new,
        eos_tokens=tokenization.STOP_IDS,
        temperature=0.0,
      )
      for row, ids in zip(part, result.tokens, strict=True):
        ids = np.asarray(ids)
        tokens += min(new, len(ids) + 1)  # it cuts the stop token off
        out[row["id"]] = ids
    return watch.read(tokens, out)

  return run


def prompt_lengths(policy, rows) -> list[int]:
  return [len(tokenization.encode(policy.tokenizer, row["prompt"])) for row in rows]


def compile_stock(run_stock, policy, rows):
  """One batch of each prompt width that Tunix pads to, so that no round compiles."""
  batch_of_width = {}
  lengths = prompt_lengths(policy, rows)
  for number in range(math.ceil(len(rows) / 8)):
    longest = max(lengths[8 * number : 8 * number + 8])
    batch_of_width[(longest - 1).bit_length()] = number
  run_stock(batch_of_width.values())


def same_completions(mine: dict, theirs: dict) -> float:
  """Share of rows whose tokens agree as far as Tunix's go: it leaves out the stop token."""
  same = [
    np.array_equal(ids[: len(theirs[row_id])], theirs[row_id]) for row_id, ids in mine.items()
  ]
  return float(np.mean(same))


def main():
  devices.enable_compilation_cache()
  rows = jsonl.read_rows(pathlib.Path(FLAGS.data_dir) / f"{FLAGS.split}.jsonl")[: FLAGS.rows]
  policy = loading.load_policy(FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, "auto", FLAGS.dtype)
  new = FLAGS.max_new_tokens
  tunix_version = folders.versions()["google-tunix"]
  print(
    f"{machine_line()}, jax {jax.__version__}, google-tunix {tunix_version}; {len(rows)} rows, up "
    f"to {new} new tokens",
    flush=True,
  )
  run_stock = stock(policy, rows, new)
  compile_stock(run_stock, policy, rows)
  ours(policy, rows, new, FLAGS.batch_size)
  batches = range(math.ceil(len(rows) / 8))
  half = len(batches) // 2
  ratios = []
  for number in range(1, FLAGS.rounds + 1):
    first = run_stock(batches[:half])
    mine = ours(policy, rows, new, FLAGS.batch_size)
    second = run_stock(batches[half:])
    seconds = first.seconds + second.seconds
    cpu_seconds = first.cpu_seconds + second.cpu_seconds
    tokens = first.tokens + second.tokens
    my_speed = mine.tokens / mine.seconds
    speed = tokens / seconds
    ratios.append(my_speed / speed)
    by_cpu = mine.tokens / mine.cpu_seconds / (tokens / cpu_seconds)
    same = same_completions(mine.completions, first.completions | second.completions)
    print(
      f"round {number}  ours {my_speed:.1f} tokens/s ({mine.tokens} in {mine.seconds:.1f} s, CPU "
      f"{mine.cpu_seconds:.1f} s)  tunix {speed:.1f} tokens/s ({tokens} in {seconds:.1f} s, CPU "
      f"{cpu_seconds:.1f} s)  ratio {ratios[-1]:.2f}, by CPU seconds {by_cpu:.2f}  equal "
      f"completions {same:.0%}",
      flush=True,
    )
  print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
