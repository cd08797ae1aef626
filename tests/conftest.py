"""Shared by the tests: a small data folder, a short SFT run, and two ways to run a script: here,
and as a process of its own.
"""

import contextlib
import fcntl
import functools
import gc
import importlib.metadata
import io
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

import pytest
from matplotlib.figure import Figure

REPO = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR", str(REPO / ".cache" / "jax")
)  # also for the processes started here
os.environ.setdefault(
  "XLA_FLAGS", "--xla_backend_optimization_level=0"
)  # tests compile for longer than they compute

from lib import command_line, parity
from lib.errors import InputError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what a training run catches


def pytest_configure(config):
  config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")  # Tunix's, hundreds a run


MEMORY = {"last": 0}  # GiB this process held when its compiled programs were last dropped


@pytest.fixture(autouse=True)
def bounded_memory():
  """Every run of a stage leaves its compiled programs behind; two test processes once outgrew a
  machine of 24 GiB.
  """
  yield
  held = (
    int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**30
  )
  if "jax" in sys.modules and held > MEMORY["last"] + 1:
    sys.modules["jax"].clear_caches()
    gc.collect()
    MEMORY["last"] = held


def pytest_collection_finish():
  """What is imported stays: a garbage collection need not walk over a million objects of JAX."""
  gc.collect()
  gc.freeze()


@contextlib.contextmanager
def small_charts():
  """At their size for print, charts are a fifth of a short run. Processes draw them in full."""

  def small_figure(figsize, dpi, layout):
    return Figure(figsize=figsize, dpi=20)

  with contextlib.ExitStack() as patches:
    for name in ("lib.curves", "lib.charts"):
      if name in sys.modules:
        patches.enter_context(mock.patch.object(sys.modules[name], "Figure", small_figure))
    yield


@pytest.fixture(autouse=True)
def no_kernel():
  """The notebooks' tests import ipykernel, and a script would take this process for a kernel."""
  sys.modules.pop("ipykernel", None)


def pytest_collection_modifyitems(items):
  """The longest files first, so that no test process is left alone with one of them at the end."""
  first = [
    "never_lost",
    "real_weights",
    "hosts",
    "grpo",
    "model",
    "export",
    "notebook",
    "kaggle_notebook",
  ]
  first += ["sft", "evaluate", "contributing", "sandbox", "loading", "prepare_data", "run_sh"]
  place = {f"test_{name}.py": number for number, name in enumerate(first)}
  items.sort(key=lambda item: place.get(item.path.name, len(first)))


class Result(NamedTuple):
  code: int
  out: str
  err: str


def argv_of(flag: dict) -> list[str]:
  return [f"--{name}={value}" for name, value in flag.items()]


def run(stage, **flag) -> Result:
  """`run_argv` with flags by name."""
  return run_argv(stage, *argv_of(flag))


def run_argv(stage, *argv: str) -> Result:
  """Runs a script's main in this process, as `python script.py --name=value …` would.

  Seconds cheaper than `process`: everything is imported, and programs stay compiled.
  """
  out, err, code = io.StringIO(), io.StringIO(), 0
  handlers = {number: signal.getsignal(number) for number in SIGNALS}
  for name in stage.FLAGS:
    stage.FLAGS[name].unparse()
  try:
    with (
      small_charts(),
      mock.patch.object(sys, "argv", [stage.__file__, *argv]),
      contextlib.redirect_stdout(out),
      contextlib.redirect_stderr(err),
    ):
      check = getattr(stage, "check_flags", None)
      command_line.launch(stage.main, stage.FLAGS, stage.__doc__, check)
  except SystemExit as stop:
    code = stop.code
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)
  return Result(code, out.getvalue(), err.getvalue())


def run_well(stage, **flag) -> str:
  """Output of a run that must end well."""
  result = run(stage, **flag)
  assert result.code == 0, result.err + result.out
  return result.out


def process(script: str, env=None, **flag) -> subprocess.CompletedProcess:
  """Runs a script as a person would."""
  return subprocess.run(
    [sys.executable, str(REPO / script), *argv_of(flag)],
    capture_output=True,
    text=True,
    timeout=600,
    env=os.environ | (env or {}),
    stdin=subprocess.DEVNULL,
  )


def one_line_error(result, *words: str) -> str:
  """Bad input ends with exit 2 and one line that holds `words`; no traceback."""
  code, err = (
    (result.code, result.err) if isinstance(result, Result) else (result.returncode, result.stderr)
  )
  lines = [line for line in err.strip().split("\n") if line]
  assert code == 2, f"exit {code}: {err}"
  assert "Traceback" not in err
  assert (
    lines[-1].startswith("error: ")
    and len([line for line in lines if line.startswith("error: ")]) == 1
  ), err
  for word in words:
    assert word in lines[-1], f"{word!r} not in {lines[-1]!r}"
  return lines[-1]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> str:
  """96 rows of the built-in pool, prepared by the real stage."""
  return prepared(tmp_path_factory, "tags")


@pytest.fixture(scope="session")
def dual_data_dir(tmp_path_factory) -> str:
  return prepared(tmp_path_factory, "dual_stream")


def once(tmp_path_factory, name: str, make) -> str:
  """A folder that the first test process to ask makes, for both; a test that changes it works on a
  copy.
  """
  root = tmp_path_factory.getbasetemp()
  root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
  with open(root / f"{name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (root / name / "config.json").is_file():
      make(root / name)
  return str(root / name)


def prepared(tmp_path_factory, style: str) -> str:
  import prepare_data

  return once(
    tmp_path_factory,
    f"data_{style}",
    lambda folder: run_well(
      prepare_data, out_dir=folder, style=style, train_size=96, val_size=16, test_size=8
    ),
  )


def package_name(text: str) -> str:
  return re.sub(r"[-_.]+", "-", text).lower()


@pytest.fixture(scope="session")
def plain_python(tmp_path_factory) -> str:
  """A Python that has requirements.txt and nothing else, as a user's: what the tests bring along
  can hide a fault.

  Its packages are links to those of this environment.
  """
  folder = tmp_path_factory.mktemp("plain")
  subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
  site = next(folder.glob("lib/python3*/site-packages"))
  lines = (REPO / "requirements.txt").read_text().splitlines()
  wanted = {package_name(line.split("==")[0]) for line in lines if "==" in line}
  for package in importlib.metadata.distributions():
    if package_name(package.metadata["Name"]) in wanted:
      for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
        if not (site / top).exists():
          (site / top).symlink_to(package.locate_file(top))
  return str(folder / "bin" / "python")


@functools.cache
def parity_python() -> str:
  """The Python that has requirements-parity.txt; "" where there is none. Asked once: torch takes
  seconds to import.
  """
  try:
    return parity.find_python(os.environ.get("PARITY_PYTHON", ""))
  except InputError:
    return ""


LORA = dict(lora_rank=8, lora_alpha=16)
SFT = dict(
  lora_rank=0,
  learning_rate=3e-3,
  max_steps=24,
  batch_size=16,
  max_new_tokens=24,
  check_rows=0,
  eval_every=0,
  save_every=0,
)


@pytest.fixture(scope="session")
def sft_dir(data_dir, tmp_path_factory) -> str:
  """A tiny model that writes the tags most of the time: GRPO has a signal."""
  import train_sft

  return once(
    tmp_path_factory,
    "sft",
    lambda folder: run_well(train_sft, data_dir=data_dir, out_dir=folder, **SFT),
  )


@pytest.fixture(scope="session")
def sft_lora_dir(data_dir, tmp_path_factory) -> str:
  import train_sft

  return once(
    tmp_path_factory,
    "sft_lora",
    lambda folder: run_well(
      train_sft, data_dir=data_dir, out_dir=folder, **SFT | LORA | dict(learning_rate=1e-2)
    ),
  )


@pytest.fixture(scope="session")
def dual_sft_dir(dual_data_dir, tmp_path_factory) -> str:
  import train_sft

  return once(
    tmp_path_factory,
    "dual_sft",
    lambda folder: run_well(train_sft, data_dir=dual_data_dir, out_dir=folder, **SFT),
  )
