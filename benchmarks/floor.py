"""The least seconds that a machine needs for a GRPO step: real tokens, no padding, no waiting.

  measure   what the machine does: FLOP/s of a large product, bytes/s of reading weights
  work_of   what a step must do
  seconds   one divided by the other

FLOP of real tokens ÷ the rate of products + bytes of decoding ÷ bandwidth. A prompt counts once
for all its answers, the vocabulary's head on answers alone. Attention is left out: at these lengths
it is a few percent.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FLOAT32 = 4  # bytes


class Machine(NamedTuple):
  flops: float  # a second, float32
  bytes: float  # a second, of weights read by a product with one vector


class Model(NamedTuple):
  layers: int  # parameters outside the embedding
  embedding: int  # its parameters, which are also the head's
  cached: int  # numbers that the cache keeps for a token


class Work(NamedTuple):
  flop: float
  bytes: float


def best_seconds(function, *args, times: int = 7) -> float:
  """The shortest of several runs: what else the machine does only makes them longer."""
  jax.block_until_ready(function(*args))  # compiles
  found = []
  for _ in range(times):
    start = time.monotonic()
    jax.block_until_ready(function(*args))
    found.append(time.monotonic() - start)
  return min(found)


def measure(size: int = 2048, rows: int = 131_072, width: int = 1024) -> Machine:
  """Rates of this machine; by default of products of 17 GFLOP and of 537 MB of weights."""
  product = jax.jit(jnp.matmul)
  square = jnp.ones((size, size))
  flops = 2 * size**3 / best_seconds(product, square, square)
  weights = jnp.ones((rows, width))
  read = rows * width * FLOAT32 / best_seconds(product, weights, jnp.ones(width))
  return Machine(flops, read)


def work_of(model: Model, prompts: np.ndarray, lengths: np.ndarray) -> Work:
  """One batch with one LoRA update. prompts (B,), lengths (N,): tokens of prompts and answers."""
  generations = len(lengths) // len(prompts)
  answers = int(lengths.sum())
  tokens = int(prompts.sum()) + answers
  prefill = 2 * model.layers * int(prompts.sum())
  decoding = 2 * (model.layers + model.embedding) * answers
  reference = 2 * model.layers * tokens + 2 * model.embedding * answers
  # Frozen weights need no gradient of their own: twice the forward pass, not three times.
  update = 2 * reference
  # Each token reads the weights once for all rows, and what its own row has cached so far.
  context = np.repeat(prompts, generations) * lengths + lengths * (lengths - 1) // 2
  weights = (model.layers + model.embedding) * int(lengths.max())
  cache = model.cached * int(context.sum())
  return Work(prefill + decoding + reference + update, FLOAT32 * (weights + cache))


def seconds(work: Work, machine: Machine) -> float:
  return work.flop / machine.flops + work.bytes / machine.bytes
