"""The line that says where a benchmark ran."""

import os
import platform
import time


def machine_line() -> str:
  """Processor, cores, memory, load and date: what a reader needs to compare."""
  with open("/proc/cpuinfo", encoding="utf-8") as f:
    names = [line.split(":")[1].strip() for line in f if line.startswith("model name")]
  processor = names[0] if names else platform.processor()
  cores = len(os.sched_getaffinity(0))
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
  load = os.getloadavg()[0]
  return (
    f"{processor}, {cores} cores, {memory:.0f} GiB, load {load:.1f}, "
    f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M')}"
  )
