"""Tokens per second of evaluate.py's sampling beside Tunix's Sampler called as the seeds do:
batches of 8 in file order.

Reads   data_dir/{split}.jsonl of prepare_data.py (real GSM8K rows, say) and a model folder.
Writes  nothing; prints one line per round and the median ratio. The two share one process and one set of weights; half of
        Tunix's batches run before ours and half after, so that a drift of the machine's load hits both. CPU seconds (all
        threads) are printed beside the wall clock: on a busy machine they are the steadier measure. What compiles runs once
        before the rounds.

  python benchmarks/bench_evaluate.py --data_dir=artifacts/gsm8k/data --model=artifacts/gemma-3-270m --rows=64
"""

import pathlib
import statistics
import sys
import time

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
  "tiny, gemma-3-270m-it, gemma-3-1b-it, or a Hugging Face folder of a Gemma 3 text model.",
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


def ours(policy, rows, new, batch_size):
  """(wall seconds, CPU seconds, tokens with the stop token, {row id: ids}) of answering.generate."""
  start, cpu, tokens, out = time.monotonic(), time.process_time(), 0, {}
  for part, completions in answering.generate(
    policy, rows, samples=1, temperature=0.0, max_new_tokens=new, batch_size=batch_size, seed=0
  ):
    tokens += int(sampling.completion_lengths(completions[:, 0])[0].sum())
    out |= {row["id"]: ids[0] for row, ids in zip(part, completions)}
  return time.monotonic() - start, time.process_time() - cpu, tokens, out


def stock(policy, rows, new):
  """The same from tunix.generate.sampler.Sampler, 8 at a time in file order. The stop token it cuts
  off is counted.
  """
  from tunix.generate import sampler

  config = policy.model.config
  longest = max(len(tokenization.encode(policy.tokenizer, row["prompt"])) for row in rows)
  cache = sampler.CacheConfig(
    cache_size=2 ** (longest - 1).bit_length() + new,
    num_layers=config.num_layers,
    num_kv_heads=config.num_kv_heads,
    head_dim=config.head_dim,
  )
  tunix = sampler.Sampler(transformer=policy.model, tokenizer=policy.tokenizer, cache_config=cache)

  def run(batches):
    start, cpu, tokens, out = time.monotonic(), time.process_time(), 0, {}
    for i in batches:
      part = rows[8 * i : 8 * i + 8]
      result = tunix(
        [row["prompt"] for row in part],
        max_generation_steps=new,
        eos_tokens=tokenization.STOP_IDS,
        temperature=0.0,
      )
      for row, ids in zip(part, result.tokens):
        ids = np.asarray(ids)
        tokens += min(new, len(ids) + 1)
        out[row["id"]] = ids
    return time.monotonic() - start, time.process_time() - cpu, tokens, out

  return run


def main():
  devices.enable_compilation_cache()
  rows = jsonl.read_rows(pathlib.Path(FLAGS.data_dir) / f"{FLAGS.split}.jsonl")[: FLAGS.rows]
  policy = loading.load_policy(FLAGS.model, FLAGS.checkpoint, FLAGS.data_dir, "auto", FLAGS.dtype)
  versions = folders.versions()
  print(
    f"{machine_line()}, jax {jax.__version__}, google-tunix {versions['google-tunix']}; {len(rows)} rows, up to "
    f"{FLAGS.max_new_tokens} new tokens",
    flush=True,
  )
  run_stock, ratios, batches = (
    stock(policy, rows, FLAGS.max_new_tokens),
    [],
    range(-(-len(rows) // 8)),
  )
  longest = [
    max(
      len(tokenization.encode(policy.tokenizer, row["prompt"])) for row in rows[8 * i : 8 * i + 8]
    )
    for i in batches
  ]
  run_stock(
    {(n - 1).bit_length(): i for i, n in enumerate(longest)}.values()
  )  # a batch of each prompt width it pads to
  ours(policy, rows, FLAGS.max_new_tokens, FLAGS.batch_size)
  for i in range(1, FLAGS.rounds + 1):
    first = run_stock(batches[: len(batches) // 2])
    mine = ours(policy, rows, FLAGS.max_new_tokens, FLAGS.batch_size)
    second = run_stock(batches[len(batches) // 2 :])
    seconds, cpu, tokens = (a + b for a, b in zip(first[:3], second[:3]))
    completions = first[3] | second[3]
    same = np.mean(
      [np.array_equal(ids[: len(completions[k])], completions[k]) for k, ids in mine[3].items()]
    )
    ratios.append(mine[2] / mine[0] / (tokens / seconds))
    print(
      f"round {i}  ours {mine[2] / mine[0]:.1f} tokens/s ({mine[2]} in {mine[0]:.1f} s, CPU {mine[1]:.1f} s)  tunix "
      f"{tokens / seconds:.1f} tokens/s ({tokens} in {seconds:.1f} s, CPU {cpu:.1f} s)  ratio {ratios[-1]:.2f}, by CPU seconds "
      f"{mine[2] / mine[1] / (tokens / cpu):.2f}  equal completions {same:.0%}",
      flush=True,
    )
  print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
