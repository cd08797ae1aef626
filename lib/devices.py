"""TODO-DOC devices."""

import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
from absl import logging

from lib.errors import InputError

logging.set_verbosity(
  logging.FATAL
)  # Tunix and Orbax narrate at lower levels, and log with its stack what they raise anyway
warnings.filterwarnings(
  "ignore", message=".*with mesh:.*"
)  # Tunix reads the mesh from that context; jax.set_mesh leaves it unset


# --------------------------------------------------------------------------------------------------------------- devices
def enable_compilation_cache():
  """Compiled programs survive the process. All three settings are needed, else small programs are compiled again."""
  default = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"
  jax.config.update(
    "jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", str(default))
  )
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def make_mesh(spec: str = "auto") -> jax.sharding.Mesh:
  """Devices as an (fsdp, tp) mesh; "auto" puts all on fsdp, so no chip idles (the seeds' (1, 4) left half of 8 unused)."""
  try:
    count = jax.device_count()
  except RuntimeError as error:  # such as a TPU that another process holds
    raise InputError(
      f"JAX starts on no device ({str(error).splitlines()[0]}); end the process or restart the kernel that uses it, "
      "or set JAX_PLATFORMS=cpu"
    ) from error
  try:
    shape = (count, 1) if spec == "auto" else tuple(int(n) for n in spec.lower().split("x"))
  except ValueError:
    shape = ()
  if len(shape) != 2 or min(shape) < 1:
    raise InputError(f"--mesh={spec} is not FSDPxTP; write for example --mesh={count}x1, or auto")
  if shape[0] * shape[1] > count:
    raise InputError(
      f"--mesh={spec} needs {shape[0] * shape[1]} devices, there are {count}; use --mesh=auto or a smaller one"
    )
  try:
    return jax.make_mesh(
      shape,
      ("fsdp", "tp"),
      axis_types=(jax.sharding.AxisType.Auto,) * 2,
      devices=jax.devices()[: shape[0] * shape[1]],
    )
  except AssertionError as error:  # a TPU's links join only some sets of chips
    raise InputError(
      f"--mesh={spec}: no {shape[0] * shape[1]} of these chips form a slice; use a power of two, or auto"
    ) from error


def device_line(mesh) -> str:
  """What runs this, for the log: "8 × TPU v5 lite, mesh 8x1"."""
  return f"{mesh.size} × {mesh.devices.flat[0].device_kind}, mesh {mesh.shape['fsdp']}x{mesh.shape['tp']}"


def compute_dtype(dtype: str = "auto"):
  """float32 on CPU, bfloat16 on TPU and GPU; trainable parameters stay float32 either way (see `compute_view`)."""
  if dtype == "auto":
    return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
  if dtype not in ("float32", "bfloat16"):
    raise InputError(f"--dtype={dtype} is unknown; valid: auto, float32, bfloat16")
  return jnp.dtype(dtype)
