"""Will it fit? Compiles a Gemma 3's updates and its sampling for chips that are not here, and says
what a chip must hold.

Reads   nothing: the model is its shape alone, no weights are made.
Writes  nothing; prints bytes a device for every mesh and program. Exit code 2 where one is too big.

  pip install libtpu==0.0.42.1; python benchmarks/bench_scale.py --size=1b --meshes=8x1,4x2,2x4
  python benchmarks/bench_scale.py --size=1b --topology=cpu:8

--topology=v5e:2x4 asks the TPU compiler itself, which needs libtpu but no TPU: it lays out the
memory of a real chip and refuses what does not fit. cpu:8 compiles for that many forced host
devices: no libtpu, but a CPU's layouts, an upper bound.
"""

import functools
import math
import os
import pathlib
import re
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jax.experimental import topologies
from machine import machine_line
from tunix.models.gemma3 import model as gemma3
from tunix.utils import sharding_utils

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import train_sft
from lib import (
  answer_packing,
  command_line,
  forward_pass,
  gemma,
  logprobs,
  optimization,
  parameters,
  policy_gradient,
  sampling,
)
from lib.errors import InputError

FLAGS = flags.FlagValues()
# Size.
flags.DEFINE_enum("size", "1b", ["270m", "1b", "4b"], "Which Gemma 3.", flag_values=FLAGS)
flags.DEFINE_string(
  "topology",
  "v5e:2x4",
  "TPU slice to compile for, such as v5e:2x4 or v5p:2x2x2; or cpu:N, forced host devices.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "meshes", ["8x1", "4x2", "2x4"], "Devices as FSDPxTP, one or several.", flag_values=FLAGS
)
flags.DEFINE_float(
  "chip_gb",
  0.0,
  "Memory of a device in GB (1e9 bytes); 0: the chip's own, 16 for cpu.",
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "lora_rank",
  16,
  "Rank of the LoRA adapters; 0 trains all parameters.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "batch_size",
  8,
  "Prompts per batch; each is answered num_generations times.",
  lower_bound=1,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "micro_batch_size",
  0,
  "Prompts whose activations are in memory at once in an update; 0: batch_size.",
  lower_bound=0,
  flag_values=FLAGS,
)
flags.DEFINE_integer(
  "num_generations", 4, "Answers per prompt, G.", lower_bound=2, flag_values=FLAGS
)
flags.DEFINE_integer("max_prompt_tokens", 1024, "Prompt length, in tokens.", flag_values=FLAGS)
flags.DEFINE_integer("max_new_tokens", 512, "Longest completion, in tokens.", flag_values=FLAGS)
flags.DEFINE_bool(
  "remat",
  True,
  "Recompute activations in the backward pass: less memory, 33% to 42% more work.",
  flag_values=FLAGS,
)
flags.DEFINE_list(
  "programs",
  ["grpo", "reference", "prefill", "decode", "sft"],
  "What to compile.",
  flag_values=FLAGS,
)

SIZES = {  # the fields of Gemma 3's config.json that differ; width of the MLP is in hidden_dim
  "270m": dict(
    num_layers=18,
    embed_dim=640,
    hidden_dim=2048,
    num_heads=4,
    num_kv_heads=1,
    sliding_window_size=512,
  ),
  "1b": dict(
    num_layers=26,
    embed_dim=1152,
    hidden_dim=6912,
    num_heads=4,
    num_kv_heads=1,
    sliding_window_size=512,
  ),
  "4b": dict(
    num_layers=34,
    embed_dim=2560,
    hidden_dim=10240,
    num_heads=8,
    num_kv_heads=4,
    sliding_window_size=1024,
  ),
}
CHIP_GB = {"v5e": 16.0, "v6e": 32.0, "v4": 32.0, "v5p": 95.0, "cpu": 16.0}


def make_devices(topology: str) -> list:
  """The devices of a slice that need not be here; forced host devices for cpu:N."""
  jax.config.update("jax_platforms", "cpu")
  # What code does on a TPU but not in a process whose devices are CPUs: Tunix lays out activations,
  # the head's chunks are larger.
  sharding_utils.shard = lambda x, axes, eager=False: forward_pass.lay_out(x, *axes)
  logprobs.HEAD_CHUNK *= 4
  kind, _, shape = topology.partition(":")
  if kind == "cpu":
    jax.config.update("jax_num_cpu_devices", int(shape))
    return jax.devices()
  os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # there is no cloud machine to ask about its TPU
  try:
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
  except (
    Exception
  ) as error:  # the plugin raises its own for a missing library and for a name it does not know
    raise InputError(
      f"no TPU compiler for --topology={topology} ({str(error).splitlines()[0][:120]}); "
      "pip install libtpu==0.0.42.1, or use --topology=cpu:8"
    ) from error


# ---- shapes, no arrays
def place(tree, mesh):
  """A module or state of shapes with each array's sharding, as its partition spec says; an axis
  that does not divide is whole, which is what loading does with the one key-value head of 1B."""

  def sharded(x, spec):
    axes = [
      axis if axis and x.shape[i] % mesh.shape[axis] == 0 else None
      for i, axis in enumerate(spec or ())
    ]
    return jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    )

  graph, state = nnx.split(tree)
  return nnx.merge(graph, jax.tree.map(sharded, state, nnx.get_partition_spec(state)))


def make_models(size: str, mesh, lora_rank: int):
  """(trained model, its reference) of shapes.

  bfloat16 weights; float32 adapters, or float32 masters of all parameters.
  """
  config = gemma.ModelConfig(
    num_embed=262208 if size == "4b" else 262144,
    head_dim=256,
    param_dtype=jnp.bfloat16,
    **SIZES[size],
  )
  base = nnx.eval_shape(lambda: gemma3.Gemma3(config, rngs=nnx.Rngs(0)))

  def tune(base):
    if lora_rank:
      return parameters.apply_lora(base, mesh, lora_rank, 2.0 * lora_rank)
    return parameters.float32_masters(base)

  return place(nnx.eval_shape(tune, base), mesh), place(base, mesh)


def make_trainer(model, mesh, loss) -> types.SimpleNamespace:
  """What `model.make_step` reads of a Tunix trainer."""
  tx = optimization.make_optimizer(b1=0.9, b2=0.99, weight_decay=0.1, max_grad_norm=0.1)
  optimizer = nnx.eval_shape(
    lambda model: nnx.Optimizer(model, tx, wrt=parameters.trainable(model)), model
  )
  return types.SimpleNamespace(
    model=model, optimizer=place(optimizer, mesh), loss_fn=loss, gen_model_input_fn=lambda x: x
  )


def lower_step(trainer, batch, mesh):
  """The update of `trainer` on micro-batches of shapes (M, rows, …), rows over fsdp."""
  rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "fsdp"))
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows), batch)
  _, params, frozen = nnx.split(trainer.model, parameters.trainable(trainer.model), ...)
  with mesh:
    return optimization.make_step(trainer).lower(
      jax.tree.leaves(params),
      jax.tree.leaves(nnx.state(trainer.optimizer)),
      jax.tree.leaves(frozen),
      batch,
      len(jax.tree.leaves(batch)[0]),
      np.float32(1e-4),
    )


def lower_programs(
  names,
  model,
  reference,
  mesh,
  *,
  micros: int,
  micro: int,
  generations: int,
  prompt: int,
  new: int,
  remat: bool,
):
  """{name: a function that lowers it}. An update has `micros` micro-batches of `micro` prompts."""

  def shape(*size, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(size, dtype)

  real = functools.partial(shape, dtype=jnp.float32)
  answers = micros * micro * generations
  packed = answer_packing.row_shape(
    prompt, new, generations, micros * micro, micro, mesh.shape["fsdp"]
  )
  by_rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))

  def over(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_rows)

  def over_rows(x):  # (M, R, T), as `optimization.Updates.place` lays them
    spec = jax.sharding.PartitionSpec(None, "fsdp")
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=jax.sharding.NamedSharding(mesh, spec))

  def grpo():
    settings = types.SimpleNamespace(
      algorithm="grpo",
      epsilon=0.2,
      epsilon_high=0.2,
      importance_cap=0.0,
      temperature=0.7,
      remat=remat,
      reference=True,
    )
    loss = functools.partial(
      policy_gradient.policy_loss, algo_config=types.SimpleNamespace(options=settings)
    )
    empty = policy_gradient.blank_batch(answer_packing.empty_rows(packed))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), empty)
    trainer = make_trainer(model, mesh, loss)
    trainer.gen_model_input_fn = lambda batch: {"train_example": batch}
    return lower_step(trainer, batch, mesh)

  def reference_pass():
    rows = jax.tree.map(over_rows, answer_packing.empty_rows(packed))
    with mesh:
      return policy_gradient.reference_logps.lower(reference, rows, packed.turns, temperature=0.7)

  def prefill():  # on several devices each answer prefills its own prompt
    count = answers
    with mesh:
      return sampling._prefill.lower(
        model,
        over(shape(mesh.shape["fsdp"], 0)),
        over(shape(count, prompt)),
        slots=prompt,
        new=new,
      )

  def decode():
    state = jax.tree.map(lambda x: over(x) if x.shape else shape(dtype=x.dtype), prefill().out_info)
    with mesh:
      keys = over(shape(answers, 2, dtype=jnp.uint32))
      return sampling._decode.lower(model, state, keys, 0, False, temperature=0.7)

  def sft():
    loss = functools.partial(train_sft.sft_loss, remat=remat)
    line = (micros, mesh.shape["fsdp"], prompt + new)
    batch = dict(tokens=shape(*line), positions=shape(*line), weights=real(*line))
    return lower_step(make_trainer(model, mesh, loss), batch, mesh)

  programs = dict(grpo=grpo, reference=reference_pass, prefill=prefill, decode=decode, sft=sft)
  if unknown := set(names) - set(programs):
    raise InputError(f"--programs names {', '.join(unknown)}; valid: {', '.join(programs)}")
  return {name: programs[name] for name in names}


# ---- the table
COLLECTIVE = re.compile(
  r"= (.*?) (?:all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)"
  r"(?:-start)?\(.*channel_id=(\d+)"
)
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


def megabytes_a_turn(hlo: str) -> float:
  """MB that one turn of a program's loops brings to a chip over the links: what the collectives
  that a loop's body reaches return.

  For decoding a turn is a token. A collective that the compiler split into parts, to overlap it,
  keeps its channel and counts once.
  """
  bodies, lines = {}, []
  for line in hlo.splitlines():
    if start := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
      lines = bodies[start[1]] = []
    lines.append(line)
  reached, todo = set(), re.findall(r"body=%?([\w.-]+)", hlo)
  while todo:
    name = todo.pop()
    if name not in reached:
      reached.add(name)
      todo += re.findall(
        r"(?:calls|to_apply|body|condition)=%?([\w.-]+)", "\n".join(bodies.get(name, ()))
      )
  results = {
    found[2]: found[1]
    for name in reached
    for line in bodies.get(name, ())
    if (found := COLLECTIVE.search(line))
  }
  return (
    sum(
      BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
      for result in results.values()
      for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
    )
    / 1e6
  )


def measure(lowered) -> tuple[float, float, float]:
  """(GB of arguments, GB of everything at the peak, MB a turn of its loops) a device.

  A refused program has the size that the refusal names.
  """
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    used = re.search(r"Used ([\d.]+)([GM]) of", str(error))
    if not used:
      raise
    return float("nan"), float(used[1]) * (2**30 if used[2] == "G" else 2**20) / 1e9, float("nan")
  m = compiled.memory_analysis()
  total = (
    m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes
  )
  return (
    m.argument_size_in_bytes / 1e9,
    (total + m.generated_code_size_in_bytes) / 1e9,
    megabytes_a_turn(compiled.as_text()),
  )


def main():
  flag, kind = FLAGS, FLAGS.topology.partition(":")[0]
  devices, limit = make_devices(flag.topology), FLAGS.chip_gb or CHIP_GB.get(kind, 16.0)
  micro = flag.micro_batch_size or flag.batch_size
  what = f"LoRA {flag.lora_rank}" if flag.lora_rank else "all parameters"
  print(
    f"Gemma 3 {flag.size}, {what}, {flag.batch_size} prompts × {flag.num_generations} answers "
    f"in micro-batches of {micro}, {flag.max_prompt_tokens} + {flag.max_new_tokens} tokens, "
    f"remat {'on' if flag.remat else 'off'}; {len(devices)} × {devices[0].device_kind}, "
    f"{limit:g} GB each; jax {jax.__version__}; compiled on {machine_line()}"
  )
  print("mesh   program    arguments GB   peak GB   links, MB a token   compiled in s")
  too_big = []
  for spec in flag.meshes:
    fsdp, tp = (int(n) for n in spec.split("x"))
    if fsdp * tp != len(devices):
      raise InputError(
        f"--meshes={spec} has {fsdp * tp} devices, --topology={flag.topology} {len(devices)}"
      )
    mesh = jax.sharding.Mesh(
      np.array(devices).reshape(fsdp, tp),
      ("fsdp", "tp"),
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
    )
    model, reference = make_models(flag.size, mesh, flag.lora_rank)
    lower = lower_programs(
      flag.programs,
      model,
      reference,
      mesh,
      micros=flag.batch_size // micro,
      micro=micro,
      generations=flag.num_generations,
      prompt=flag.max_prompt_tokens,
      new=flag.max_new_tokens,
      remat=flag.remat,
    )
    for name, program in lower.items():
      start = time.monotonic()
      arguments, peak, links = measure(program())
      fits = peak <= limit
      if not fits:
        too_big.append(f"{name} on {spec} ({peak:.1f} GB)")
      a_token = f"{links:.1f}" if name == "decode" else ""
      print(
        f"{spec:<6} {name:<10} {arguments:12.2f} {peak:9.2f} {a_token:>19} "
        f"{time.monotonic() - start:15.0f}{'' if fits else '   does not fit'}",
        flush=True,
      )
  if too_big:
    raise InputError(
      f"{', '.join(too_big)} exceed {limit:g} GB a device; use --remat, fewer prompts a "
      "micro-batch, shorter answers or another mesh"
    )


if __name__ == "__main__":
  command_line.launch(main, FLAGS, __doc__)
