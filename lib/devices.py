"""The devices that a run computes on: their mesh, number format and memory, what stays compiled."""

import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import psutil
from absl import logging

from lib import command_line, hosts
from lib.errors import InputError

GIB = 2**30
# Compute capability of the first GPUs with bfloat16 arithmetic: a T4 has 7.5, an A100 8.0.
BFLOAT16_SINCE = 8.0
CGROUP_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")

# Tunix and Orbax narrate at lower levels, and log with its stack what they raise anyway.
logging.set_verbosity(logging.FATAL)
# Tunix reads the mesh from `with mesh:`, for which JAX warns; jax.set_mesh leaves that unset.
warnings.filterwarnings("ignore", message=".*with mesh:.*")


def enable_compilation_cache():
  """Lets compiled programs survive the process, in .cache/jax or JAX_COMPILATION_CACHE_DIR.

  All three settings are needed: without the last two, small programs are compiled again.
  """
  # In the project's own folder: a second run finds it from wherever it is started.
  default = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(default))
  jax.config.update("jax_compilation_cache_dir", folder)
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_mesh(spec: str = "auto") -> jax.sharding.Mesh:
  """The devices as a mesh of axes (fsdp, tp).

  fsdp cuts weights and rows, tp cuts attention heads and the MLP's width. spec: FSDPxTP, such as
  "4x2"; "auto" puts all devices on fsdp, so that none idles.
  """
  count = count_devices()
  fsdp, tp = read_mesh(spec, count)
  if fsdp * tp > count:
    raise InputError(
      f"--mesh={spec} needs {fsdp * tp} devices, there are {count}; "
      "use --mesh=auto or a smaller one"
    )
  if hosts.several() and fsdp * tp < count:
    raise InputError(
      f"--mesh={spec} leaves devices out; on several hosts it must hold all {count}, as auto does"
    )
  try:
    return jax.make_mesh(
      (fsdp, tp),
      ("fsdp", "tp"),
      # Auto: XLA chooses how intermediates lie, from how weights and rows do.
      axis_types=(jax.sharding.AxisType.Auto, jax.sharding.AxisType.Auto),
      # A smaller mesh takes the first devices, the others idle.
      devices=jax.devices()[: fsdp * tp],
    )
  except AssertionError as error:  # a TPU's links join only some sets of chips
    raise InputError(
      f"--mesh={spec}: no {fsdp * tp} of these chips form a slice; use a power of two, or auto"
    ) from error


def count_devices() -> int:
  try:
    return jax.device_count()
  except RuntimeError as error:  # such as a TPU that another process holds
    first_line = str(error).splitlines()[0]
    raise InputError(
      f"JAX starts on no device ({first_line}); end the process or restart the kernel that "
      "uses it, or set JAX_PLATFORMS=cpu"
    ) from error


def read_mesh(spec: str, count: int) -> tuple[int, int]:
  """(fsdp, tp) of a spec such as "4x2"; of "auto": all devices on fsdp."""
  if spec == "auto":
    # tp sums activations over the links in each layer; fsdp only collects the weights.
    return count, 1
  sizes = spec.lower().split("x")
  if len(sizes) != 2 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
    raise InputError(f"--mesh={spec} is not FSDPxTP; write for example --mesh={count}x1, or auto")
  return int(sizes[0]), int(sizes[1])


def device_line(mesh) -> str:
  """What runs this, for the log: "8 × TPU v5 lite, mesh 8x1"."""
  kind = mesh.devices.flat[0].device_kind
  return f"{mesh.size} × {kind}, mesh {mesh.shape['fsdp']}x{mesh.shape['tp']}"


def compute_dtype(dtype: str = "auto"):
  """The arithmetic's format: "auto" is float32 on a CPU, bfloat16 on a TPU or a GPU.

  Trained parameters are float32 either way (see `forward_pass.compute_view`).
  """
  if dtype == "auto":
    # Most CPUs have no bfloat16 arithmetic: they would convert back and forth.
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  if dtype not in ("float32", "bfloat16"):
    raise InputError(f"--dtype={dtype} is unknown; valid: auto, float32, bfloat16")
  return jnp.dtype(dtype)


def use_arithmetic(dtype: str, device=None):
  """Makes --dtype=float32 mean float32 products, and says where a GPU has no bfloat16.

  By default JAX multiplies float32 in bfloat16 on a TPU, and in TF32 on a newer GPU.
  """
  device = device or jax.devices()[0]
  if device.platform != "cpu":
    # In a notebook the cell before may have asked for another --dtype.
    default = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION")
    precision = "highest" if dtype == "float32" else default
    jax.config.update("jax_default_matmul_precision", precision)
  capability = getattr(device, "compute_capability", None)
  if dtype != "float32" and capability and float(capability) < BFLOAT16_SINCE:
    command_line.say(
      f"note: a {device.device_kind} has no bfloat16 arithmetic: weights take half the memory of "
      "float32, but every product is converted to float32 and back; --dtype=float32 is as exact "
      "as it gets, at twice the memory"
    )


def memory_stats() -> list[dict]:
  """What each of this host's devices says of its memory; [] where one says nothing, as a CPU."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  return stats if all("bytes_limit" in each for each in stats) else []


def cgroup_limit() -> int | None:
  """Bytes that this process's cgroup allows; None without a limit."""
  limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
  return int(limit) if limit.isdigit() else None


def memory_bytes() -> int:
  """Of all devices together; where the CPU is the device, the host's inside its cgroup."""
  if stats := memory_stats():
    return sum(each["bytes_limit"] for each in stats)
  total = psutil.virtual_memory().total
  limit = cgroup_limit()
  return total if limit is None else min(total, limit)


def check_memory(needed: int, what: str):
  """Says what `what` takes, in bytes and without activations; a CPU that has less is refused.

  A device's runtime may put part of it elsewhere, so there the run may try.
  """
  has = sum(hosts.gather(memory_bytes()))
  figures = f"{what} need {needed / GIB:.1f} GiB of memory"
  if needed > has and jax.default_backend() == "cpu":
    raise InputError(
      f"{figures}, this machine has {has / GIB:.1f} GiB; choose a smaller model, LoRA "
      "(--lora_rank=16), or a machine with more"
    )
  if needed > has / 4:  # of less nobody has to think
    warning = "WARNING: " if needed > has else ""
    command_line.say(f"{warning}{figures}, there are {has / GIB:.1f} GiB")
