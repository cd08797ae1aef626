"""How many programs a run compiles: each costs minutes on a TPU, and one in mid-run stalls it.

Small ones are left out, such as JAX makes for single operations or `sampling.take_rows` is, which
moves rows: only the four of a run are counted.
"""

import collections

import jax

# JAX reports this event with the seconds it took, and with the function's name.
COMPILED = "/jax/core/compile/backend_compile_duration"
# The Python function that was compiled → what the report calls it.
NAMES = {
  "step": "update",
  "reference_logps": "reference",
  "_prefill": "prefill",
  "_decode": "decode",
}


class Programs:
  """Counts what is compiled, or read from the cache of compiled programs, since it was made."""

  def __init__(self):
    self.counts = collections.Counter()
    # Nothing takes the listener away again: make one of these a process.
    jax.monitoring.register_event_duration_secs_listener(self.note)

  def note(self, event: str, seconds: float, fun_name: str = "", **_):
    # "jit(step)" → "step"; other events come without a name.
    name = fun_name.removeprefix("jit(").removesuffix(")")
    if event == COMPILED and name in NAMES:
      self.counts[NAMES[name]] += 1

  def __str__(self) -> str:
    """For example "5 programs: update 1, reference 1, prefill 2, decode 1"."""
    parts = [f"{name} {self.counts[name]}" for name in NAMES.values() if self.counts[name]]
    return f"{self.counts.total()} programs: {', '.join(parts)}"
