"""A model's answers to rows of data, in batches that fit the memory.

`generate` yields them batch by batch, longest prompts first. The noise of a sample is a pure
function of the seed, the row and the sample's number, so how rows are batched, or where a run was
interrupted, changes nothing.
"""

import hashlib
import os
from collections.abc import Iterator

import jax
import numpy as np
import psutil

from lib import batching, command_line, devices, hosts, sampling, tokenization
from lib.errors import InputError
from lib.loading import Policy

# Most responses sampled together. A CPU is bound by arithmetic: beyond 32 rows nothing is gained.
MOST_ON_CPU, MOST_ON_ACCELERATOR = 32, 512


def free_bytes() -> int:
  """Memory that sampling may take: of all devices, or of the host (inside its cgroup) where the CPU
  is the device.
  """
  if stats := devices.memory_stats():
    free = [each["bytes_limit"] - each["bytes_in_use"] for each in stats]
    return sum(hosts.gather(sum(free)))
  free = psutil.virtual_memory().available
  limit = devices.cgroup_limit()
  if limit is not None:
    # What this process holds, not memory.current: the page cache counts there.
    free = min(free, limit - psutil.Process().memory_info().rss)
  # Equal shares of the rows go to all hosts, so the one with the least room decides.
  rooms = hosts.gather(max(free, 0))
  return len(rooms) * min(rooms)


def fitting_batch(config, width: int, new: int, free: int, most: int) -> int:
  """Largest power of two of responses, up to `most`, that take at most half of `free` bytes.

  config: of the model; width: tokens of a padded prompt; new: of a response. A response costs its
  cache, the activations of its prefill and its float32 logits.
  """
  itemsize = np.dtype(config.param_dtype).itemsize
  cached = (
    config.num_layers * 2 * config.num_kv_heads * config.head_dim
  )  # keys and values of a token
  cache = 2 * cached * (width + new) * itemsize  # the carried and the next
  attention = config.num_heads * (width + new) * 4  # scores of one prompt token, float32
  activations = (8 * config.embed_dim + 3 * config.hidden_dim) * itemsize
  prefill = width * (attention + activations)
  logits = 4 * config.num_embed * 4  # a few copies, float32
  fits = max(1, int(free / 2 / (cache + prefill + logits)))
  power_of_two = 2 ** (fits.bit_length() - 1)
  return min(most, power_of_two)


def choose_batch(policy: Policy, count: int, width: int, new: int) -> int:
  """Responses to sample together, of `count` in all: what fits the memory that is free now."""
  room = MOST_ON_CPU if jax.default_backend() == "cpu" else MOST_ON_ACCELERATOR
  # 20 responses fill a batch of 32; a larger one would sample nothing but copies.
  most = min(2 ** (count - 1).bit_length(), room)
  return fitting_batch(policy.model.config, width, new, free_bytes(), most)


def noise_keys(seed: int, row_ids: list[str], samples: int) -> np.ndarray:
  """(B, G, 2) uint32: the random keys of `samples` responses to each row."""
  keys = []
  for row_id in row_ids:
    for number in range(samples):
      # A hash, not a generator: key number 7 needs no six before it.
      digest = hashlib.sha256(f"{seed}/{row_id}/{number}".encode()).digest()
      keys.append(digest[:8])
  return np.frombuffer(b"".join(keys), np.uint32).reshape(len(row_ids), samples, 2)


def fewer_prompts(prompts: int, error: jax.errors.JaxRuntimeError) -> int:
  """Half as many prompts at a time, where that mends the error; else raises it."""
  if "RESOURCE_EXHAUSTED" not in str(error) or prompts == 1:
    raise error
  if hosts.several():  # it may be so on one host alone, and all must go on alike
    raise InputError(
      f"out of memory with {prompts} prompts at a time; give a smaller --batch_size"
    ) from error
  command_line.say(f"out of memory; going on with {prompts // 2} prompts at a time")
  return prompts // 2


def generate(
  policy: Policy,
  rows: list[dict],
  *,
  samples: int,
  temperature: float,
  max_new_tokens: int,
  batch_size: int,
  seed: int,
) -> Iterator[tuple[list[dict], np.ndarray]]:
  """Yields (rows of a batch, completions (B, G, max_new_tokens)), longest prompts first: too little
  memory shows at once.

  batch_size: responses together; 0: what fits. Every batch has the same number of rows and one of
  two widths: two compilations. A batch that does not fit after all is halved.
  """
  ids = [tokenization.encode(policy.tokenizer, row["prompt"]) for row in rows]
  lengths = [len(prompt) for prompt in ids]
  # All prompts begin with the system prompt: it runs once a batch. A prompt keeps at least one
  # token of its own.
  shared = min(len(os.path.commonprefix(ids)), min(lengths) - 1)
  # Two padded widths of what is the row's own: three quarters of the rows fit the smaller.
  widths = tokenization.choose_widths([length - shared for length in lengths], 0)
  # What is too long for the memory fails in the first batch, not in the last.
  order = sorted(range(len(rows)), key=lambda index: -lengths[index])
  if not batch_size:
    # Of the longest prompts, which come first.
    longest = shared + widths[-1]
    batch_size = choose_batch(policy, len(rows) * samples, longest, max_new_tokens)
  prompts = max(1, batch_size // samples)
  command_line.say(
    f"sampling {prompts} prompts x {samples} at a time, of {shared} shared tokens and up to "
    f"{' or '.join(map(str, widths))} more; the first batch of a width compiles"
  )
  start = 0
  while start < len(order):
    part = order[start : start + prompts]
    # A batch of another size would be compiled anew.
    filled = batching.filled(part, prompts)
    try:
      completions = sampling.sample(
        policy,
        [ids[index] for index in filled],
        width=shared + tokenization.fit(lengths[part[0]] - shared, widths),
        generations=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        shared=shared,
        keys=noise_keys(seed, [rows[index]["id"] for index in filled], samples),
      )  # (B·G, T)
    except jax.errors.JaxRuntimeError as error:
      prompts = fewer_prompts(prompts, error)
      continue
    start += len(part)
    by_prompt = completions.reshape(prompts, samples, -1)  # (B, G, T)
    yield [rows[index] for index in part], by_prompt[: len(part)]
