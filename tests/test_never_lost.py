"""A run is never lost: killed, stopped, damaged, moved or starved, it ends with the parameters it
would have had.

Runs are compared by bits: parameters, optimizer state, and every row of metrics.jsonl and
samples.jsonl but for times.
"""

import asyncio
import concurrent.futures
import contextlib
import fcntl
import functools
import itertools
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import LORA, REPO, SFT, SIGNALS, argv_of, one_line_error, process, run, run_well
from flax import nnx
from orbax.checkpoint._src.handlers import json_checkpoint_handler
from orbax.checkpoint._src.serialization import serialization

import train_grpo
import train_sft
from lib import (
  checkpoints,
  code_checking,
  errors,
  jsonl,
  loading,
  optimization,
  parameters,
  rollouts,
  runs,
)
from lib.errors import InputError
from lib.grpo_learner import LeanGRPOLearner

GRPO = dict(
  batch_size=2,
  num_generations=4,
  max_new_tokens=24,
  temperature=1.0,
  max_steps=8,
  save_every=2,
  eval_every=4,
  eval_rows=4,
  sample_every=2,
  learning_rate=3e-4,
  force=True,
)
# Calls of LeanGRPOLearner.update before the first of training: compiling makes one on empty rows,
# and choosing the number of steps four more.
COMPILED = 1
MEASURED = 4
SECRETS = {name: f"hush-{name}-93b1" for name in ("KAGGLE_KEY", "HF_TOKEN", "JUDGE_API_KEY")}


def killed(stage, places: list, flag: dict):
  """Processes of `stage`, one after the other, that die by SIGKILL, each at its place."""
  command = [sys.executable, str(REPO / "tests/killer.py"), stage.__name__, json.dumps(places)]
  done = subprocess.run([*command, *argv_of(flag)], capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]


# sameness.
def restore(folder) -> dict:
  with ocp.StandardCheckpointer() as loader:
    return {name: np.asarray(x) for name, x in loader.restore(os.path.abspath(folder)).items()}


def timeless(path) -> list[dict]:
  def without_times(row: dict) -> dict:
    kept = [name for name in row if not name.endswith("seconds") and name != "tokens_per_second"]
    return {name: row[name] for name in kept}

  return [without_times(row) for row in jsonl.read_rows(path)]


def assert_same_params(a, b):
  left, right = restore(a), restore(b)
  assert left.keys() == right.keys() and left
  for name in left:
    assert (
      left[name].dtype == right[name].dtype and left[name].tobytes() == right[name].tobytes()
    ), name


def assert_same_run(a: str, b: str):
  """Everything that two complete runs leave behind is the same."""
  for name in ("metrics.jsonl", "samples.jsonl"):
    left, right = (os.path.join(folder, name) for folder in (a, b))
    assert os.path.isfile(left) == os.path.isfile(right), name
    if os.path.isfile(left):
      assert timeless(left) == timeless(right)
  assert_same_params(f"{a}/params", f"{b}/params")
  assert os.path.isdir(f"{a}/best") == os.path.isdir(f"{b}/best")
  if os.path.isdir(f"{a}/best"):
    assert_same_params(f"{a}/best", f"{b}/best")
  last = max(int(name) for name in os.listdir(f"{a}/checkpoints") if name.isdigit())
  assert_same_params(f"{a}/checkpoints/{last}/optimizer", f"{b}/checkpoints/{last}/optimizer")
  progress = [
    pathlib.Path(folder, "checkpoints", str(last), "progress", "metadata").read_text()
    for folder in (a, b)
  ]
  assert json.loads(progress[0]) == json.loads(progress[1])


# SIGKILL, anywhere.
# name: (stage, flags, places to die at), a place being (function, nth call in that process,
# seconds after the call began)
CASES = {
  # The phase moves on by what validation measures: it is part of what a resume must keep.
  "grpo_lora": (
    train_grpo,
    GRPO | LORA | dict(rewards="curriculum", phase_metrics="0.01,0.01"),
    # The first dies before there is anything to go on from.
    [("rollout", 1, 0.01), ("best", 1, 0.01), ("save", 2, 0.03), ("half_row", 2, 0)],
  ),
  "grpo_full_dual_stream_4_iterations": (
    train_grpo,
    GRPO
    | dict(
      lora_rank=0,
      rewards="dual_stream",
      algorithm="gspo",
      num_iterations=4,
      max_steps=10,
      save_every=4,
      anneal_domains=True,
      sample_every=1,
    ),
    [("update", COMPILED + 2, 0.01), ("reward", 3, 0.002), ("finish", 1, 0.0)],
  ),
  "sft_lora": (
    train_sft,
    SFT | LORA | dict(max_steps=10, eval_every=3, save_every=3, check_rows=4, check_samples=0),
    [("half_row", 1, 0), ("update", 5, 0.02), ("best", 2, 0.0)],
  ),
  "sft_full": (
    train_sft,
    SFT | dict(max_steps=9, eval_every=3, save_every=2, micro_batch_size=8),
    [("save", 2, 0.02), ("finish", 1, 0.0)],
  ),
}


@pytest.fixture(scope="session")
def flags(data_dir, sft_dir, sft_lora_dir, dual_data_dir, dual_sft_dir) -> dict[str, dict]:
  """name → all flags of the case but --out_dir."""
  found = {name: flag | dict(data_dir=data_dir) for name, (_, flag, _) in CASES.items()}
  found["grpo_lora"] |= dict(init_from=sft_lora_dir)
  dual = dict(data_dir=dual_data_dir, init_from=dual_sft_dir)
  found["grpo_full_dual_stream_4_iterations"] |= dual
  return found


@pytest.fixture(scope="session")
def survivors(flags, tmp_path_factory) -> dict:
  """name → (an uninterrupted run, the same run killed again and again), two at a time to use both
  cores.
  """
  root = tmp_path_factory.mktemp("killed")

  def die_and_live(name):
    stage, _, places = CASES[name]
    flag = flags[name] | dict(out_dir=root / name)
    killed(stage, places, flag)
    ended = process(f"{stage.__name__}.py", **flag)
    assert ended.returncode == 0, ended.stderr[-2000:] + ended.stdout[-2000:]
    assert "resumed at step" in ended.stdout
    return str(root / f"{name}_whole"), str(root / name)

  # The whole runs are made in this process, meanwhile.
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    futures = {name: pool.submit(die_and_live, name) for name in CASES}
    for name, flag in flags.items():
      run_well(CASES[name][0], **flag, out_dir=root / f"{name}_whole")
  return futures


@pytest.mark.parametrize("name", CASES)
def test_killed_run_is_the_run_it_would_have_been(survivors, name):
  whole, killed_often = survivors[name].result()
  assert_same_run(whole, killed_often)
  rows = timeless(f"{whole}/metrics.jsonl")
  assert [row["step"] for row in rows] == list(range(1, CASES[name][1]["max_steps"] + 1))
  assert any(row["grad_norm"] > 0 for row in rows), (
    "nothing was learned: the comparison shows nothing"
  )


# saved late.
@contextlib.contextmanager
def late_writes(seconds: float):
  """Everything a checkpoint holds reaches the disk `seconds` after the save was asked for, as on a
  loaded machine.
  """
  json_handler = json_checkpoint_handler.JsonCheckpointHandler
  write_json = json_handler._save_fn
  write_arrays = serialization.async_serialize_from_host

  async def late_json(self, item, directory):
    await asyncio.sleep(seconds)
    await write_json(self, item, directory)

  async def late_arrays(*args, **kwargs):
    await asyncio.sleep(seconds)
    return await write_arrays(*args, **kwargs)

  with (
    mock.patch.object(json_handler, "_save_fn", late_json),
    mock.patch.object(serialization, "async_serialize_from_host", late_arrays),
  ):
    yield


def as_it_is(step: int, model, optimizer, progress: dict, folder) -> dict:
  """Copies, made now, of all that a checkpoint of this step must hold, and what the row files hold
  beside it.
  """
  rows = {
    name: timeless(folder / name)
    for name in ("metrics.jsonl", "samples.jsonl")
    if (folder / name).is_file()
  }
  return {
    "params": {name: np.array(x) for name, x in checkpoints.trained(model).items()},
    "optimizer": {name: np.array(x) for name, x in checkpoints.moments(optimizer).items()},
    "progress": json.loads(json.dumps(progress)),
    "rows": rows,
  }


LATE = {
  "grpo": (train_grpo, GRPO | dict(max_steps=4, save_every=1, eval_every=2, sample_every=1)),
  "sft": (train_sft, SFT | dict(max_steps=4, save_every=1, eval_every=1)),
}


@pytest.mark.parametrize("name", LATE)
def test_a_late_write_saves_the_step_it_was_asked_for(name, data_dir, sft_dir, tmp_path):
  """While a save is under way the next batch is drawn and the next update made; none of that may
  reach the disk.
  """
  stage, flag = LATE[name]
  if stage is train_grpo:
    curriculum = dict(lora_rank=0, rewards="curriculum", phase_metrics="0.01,0.01")
    flag = flag | curriculum | dict(init_from=sft_dir, anneal_domains=True, algorithm="dapo")
  wanted, save = {}, checkpoints.save_checkpoint

  def remember(manager, step, model, optimizer, progress):
    wanted.setdefault(step, as_it_is(step, model, optimizer, progress, tmp_path))
    save(manager, step, model, optimizer, progress)

  keep_all = functools.partial(checkpoints.open_checkpoints, keep=9)
  with (
    late_writes(1.5),
    mock.patch.object(checkpoints, "save_checkpoint", remember),
    mock.patch.object(checkpoints, "open_checkpoints", keep_all),
  ):
    run_well(stage, **flag, data_dir=data_dir, out_dir=tmp_path)
  assert sorted(wanted) == [1, 2, 3, 4]
  assert len({json.dumps(each["progress"]) for each in wanted.values()}) == 4, "nothing changed"
  for step, then in wanted.items():
    folder = tmp_path / "checkpoints" / str(step)
    assert json.loads((folder / "progress" / "metadata").read_text()) == then["progress"], step
    for part in ("params", "optimizer"):
      found = restore(folder / part)
      assert found.keys() == then[part].keys()
      for key in found:
        assert found[key].tobytes() == then[part][key].tobytes(), (step, part, key)
    for file, rows in then["rows"].items():  # a resume keeps the rows up to the step: all are there
      assert rows == [row for row in timeless(tmp_path / file) if row["step"] <= step]


# stopped, and what comes after.
@contextlib.contextmanager
def at_call(owner, name: str, nth: int, do):
  """Calls `do()` before the nth call of owner.name."""
  inner, calls = getattr(owner, name), itertools.count(1)

  def wrapped(*args, **kwargs):
    if next(calls) == nth:
      do()
    return inner(*args, **kwargs)

  with mock.patch.object(owner, name, wrapped):
    yield


@pytest.fixture(scope="session")
def flag(flags) -> dict:
  return flags["grpo_lora"]


@pytest.fixture(scope="session")
def whole(survivors) -> str:
  """The run that was never interrupted."""
  folder, _ = survivors["grpo_lora"].result()
  assert timeless(f"{folder}/metrics.jsonl")[-1]["phase"] > 0
  return folder


@pytest.fixture(scope="session")
def stopped(flag, tmp_path_factory) -> str:
  """Stopped by SIGTERM in its sixth update, with the wall clock jumping a day ahead and back;
  checkpoints 4 and 6.
  """
  folder = str(tmp_path_factory.mktemp("stopped") / "stopped")
  now, ticks = time.time, itertools.count()
  with (
    mock.patch("time.time", lambda: now() + 86400 * (next(ticks) % 2)),
    at_call(LeanGRPOLearner, "update", COMPILED + 6, lambda: os.kill(os.getpid(), signal.SIGTERM)),
  ):
    result = run(train_grpo, **flag, out_dir=folder)
  assert result.code == errors.EXIT_STOPPED, result.err
  assert "SIGTERM after step 6 of 8" in result.err and "run the same command to go on" in result.err
  assert sorted(os.listdir(f"{folder}/checkpoints")) == ["4", "6"] and not os.path.isfile(
    f"{folder}/config.json"
  )
  return folder


@pytest.fixture
def copy(stopped, tmp_path) -> str:
  return shutil.copytree(stopped, tmp_path / "run")


def test_stopped_run_goes_on(flag, whole, copy):
  out = run_well(train_grpo, **flag, out_dir=copy)
  assert "resumed at step 6 of 8" in out
  assert_same_run(whole, copy)
  before = pathlib.Path(copy, "metrics.jsonl").read_bytes()
  assert "complete, nothing to train" in run_well(train_grpo, **flag, out_dir=copy)
  assert pathlib.Path(copy, "metrics.jsonl").read_bytes() == before


def test_deadline_and_ctrl_c(flag, whole, tmp_path):
  """The deadline passes in step 3, Ctrl-C comes in step 5; the run that goes on twice is the whole
  run.
  """
  clocks, begin = [], runs.StopSignal.__init__

  def remember(self, max_hours):
    begin(self, max_hours)
    clocks.append(self)

  def time_passes():
    clocks[-1].start -= 7200

  with mock.patch.object(runs.StopSignal, "__init__", remember):
    with at_call(LeanGRPOLearner, "update", COMPILED + MEASURED + 3, time_passes):
      result = run(train_grpo, **flag, out_dir=tmp_path, max_hours=1.5)
    assert result.code == errors.EXIT_STOPPED and "the deadline after step 3 of 8" in result.err
    assert "run the same command" in result.err
    with at_call(
      LeanGRPOLearner, "update", COMPILED + 2, lambda: os.kill(os.getpid(), signal.SIGINT)
    ):
      result = run(train_grpo, **flag, out_dir=tmp_path, max_hours=2.5)
    assert result.code == errors.EXIT_STOPPED and "SIGINT after step 5 of 8" in result.err
  with pytest.raises(
    InputError, match=f"incomplete.* or name {tmp_path}/params or {tmp_path}/best"
  ):
    loading.read_checkpoint(str(tmp_path))
  for folder in ("params", "best"):  # what there is can be evaluated, exported, started from
    assert (
      loading.load_policy("tiny", str(tmp_path / folder), flag["data_dir"]).lora_rank
      == flag["lora_rank"]
    )
  run_well(train_grpo, **flag, out_dir=tmp_path, max_hours=2.5)
  assert_same_run(whole, str(tmp_path))


def test_later_signals_do_not_cut_the_save_short():
  """A preemption sends several kinds; under nohup a lost terminal is none of them; a second Ctrl-C
  is somebody in a hurry.
  """
  before = {number: signal.getsignal(number) for number in SIGNALS}
  try:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = runs.StopSignal(0)
    signal.raise_signal(signal.SIGHUP)
    assert not stop.reason
    for number in (signal.SIGTERM, signal.SIGTERM):
      signal.raise_signal(number)
      assert stop.reason == "SIGTERM"
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stop = runs.StopSignal(0)
    signal.raise_signal(signal.SIGHUP)
    assert stop.reason == "SIGHUP"
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def test_sft_stops_and_goes_on(survivors, flags, tmp_path):
  flag = flags["sft_full"] | dict(out_dir=tmp_path)
  # At the row of step 3.
  with at_call(jsonl, "append_rows", 3, lambda: os.kill(os.getpid(), signal.SIGTERM)):
    result = run(train_sft, **flag)
  assert result.code == errors.EXIT_STOPPED and "SIGTERM after step 3 of 9" in result.err
  assert "same command" in result.err
  result = run(train_sft, **flag, max_hours=1e-9)
  assert result.code == errors.EXIT_STOPPED and "the deadline after step 3 of 9" in result.err
  assert "resumed at step 3" in run_well(train_sft, **flag)
  whole, _ = survivors["sft_full"].result()
  assert_same_run(whole, str(tmp_path))


def test_auto_steps_are_kept(flag, tmp_path):
  """--max_steps=auto is resolved once: the schedule of a resumed run must not change."""
  flag = flag | dict(max_steps="auto", phase_metrics="", save_every=50, eval_every=0, eval_rows=0)
  nth = COMPILED + MEASURED + 2
  with at_call(LeanGRPOLearner, "update", nth, lambda: os.kill(os.getpid(), signal.SIGTERM)):
    result = run(train_grpo, **flag, out_dir=tmp_path, max_hours=1)
  assert result.code == errors.EXIT_STOPPED, result.err
  steps = json.loads((tmp_path / "run.json").read_text())["max_steps"]
  assert f"--max_steps=auto is {steps} updates" in result.out and steps > 8
  with at_call(
    LeanGRPOLearner, "update", COMPILED + 2, lambda: os.kill(os.getpid(), signal.SIGTERM)
  ):
    result = run(train_grpo, **flag, out_dir=tmp_path, max_hours=2)
  assert (
    f"of {steps}" in result.err
    and json.loads((tmp_path / "run.json").read_text())["max_steps"] == steps
  )
  rates = [row["learning_rate"] for row in timeless(tmp_path / "metrics.jsonl")]
  schedule = optimization.make_schedule(3e-4, steps, final_ratio=0.0)
  np.testing.assert_allclose(rates, [float(schedule(i)) for i in range(len(rates))], rtol=1e-6)
  assert len(rates) == 4


def test_changed_flags_are_refused(flag, copy):
  one_line_error(
    run(train_grpo, **flag | dict(learning_rate=1e-3), out_dir=copy),
    "--learning_rate was 0.0003, is 0.001",
  )
  one_line_error(
    run(train_grpo, **flag | dict(seed=1, beta=0), out_dir=copy), "--seed was 0, is 1", "--beta"
  )


# elsewhere.
def test_goes_on_from_a_read_only_copy(flag, whole, stopped, tmp_path):
  """As a run attached to a Kaggle notebook: nothing is written there, the folders' read-only modes
  are not inherited. A process killed while it copies leaves no half run: run.json comes last.
  """
  source = shutil.copytree(stopped, tmp_path / "input")
  for folder, _, files in os.walk(source, topdown=False):
    for name in files:
      os.chmod(os.path.join(folder, name), 0o444)
    os.chmod(folder, 0o555)
  listing = sorted((str(path), path.stat().st_mtime_ns) for path in source.rglob("*"))
  out = tmp_path / "out"

  def die(*args, **kwargs):
    raise KeyboardInterrupt

  with mock.patch.object(jsonl, "write_text", die):
    assert run(train_grpo, **flag, out_dir=out, resume_from=source).code == 130
  assert not (out / "run.json").exists() and (out / "checkpoints" / "6").is_dir()
  shutil.rmtree(out / "checkpoints" / "6")

  said = run_well(train_grpo, **flag, out_dir=out, resume_from=source)
  assert "resumed at step 6 of 8" in said
  assert_same_run(whole, str(out))
  assert all(os.stat(folder).st_mode & 0o200 for folder, _, _ in os.walk(out))
  assert sorted((str(path), path.stat().st_mtime_ns) for path in source.rglob("*")) == listing
  one_line_error(
    run(train_grpo, **flag, out_dir=tmp_path / "x", resume_from=tmp_path), "holds no run.json"
  )
  for folder, _, _ in os.walk(source):
    os.chmod(folder, 0o755)


def test_other_number_of_devices_and_closed_stdout_and_secrets(flag, whole, copy):
  """Four devices go on where one stopped, a sequence for each answer; the reader of stdout goes
  away; tokens in the environment are written nowhere.
  """
  env = (
    os.environ
    | SECRETS
    | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"}
  )
  command = [sys.executable, str(REPO / "train_grpo.py"), *argv_of(flag | dict(out_dir=copy))]
  with subprocess.Popen(
    command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as child:
    first = child.stdout.readline() + child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read()
  assert child.returncode == 0, err
  assert "starts from" in first and "4 × cpu, mesh 4x1" in first
  ours, theirs = timeless(f"{copy}/metrics.jsonl"), timeless(f"{whole}/metrics.jsonl")
  assert ours[:6] == theirs[:6] and [row["step"] for row in ours] == list(range(1, 9))
  assert ours[6]["reward"] == theirs[6]["reward"]
  assert ours[6]["grad_norm"] == pytest.approx(theirs[6]["grad_norm"], rel=1e-3)
  written = [path for path in pathlib.Path(copy).rglob("*") if path.is_file()]
  assert len(written) > 20
  for path in written:
    data = path.read_bytes()
    assert not any(secret.encode() in data for secret in SECRETS.values()), path
  assert not any(secret in err + first for secret in SECRETS.values())


# faults.
def biggest(folder) -> pathlib.Path:
  return max(
    (path for path in pathlib.Path(folder).rglob("*") if path.is_file()),
    key=lambda path: path.stat().st_size,
  )


def cut(step: pathlib.Path):
  path = biggest(step)
  os.truncate(path, path.stat().st_size // 2)


DAMAGE = {
  "truncated": cut,
  "file deleted": lambda step: biggest(step).unlink(),
  "progress deleted": lambda step: shutil.rmtree(step / "progress"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_falls_back(flag, whole, copy, damage):
  DAMAGE[damage](pathlib.Path(copy, "checkpoints", "6"))
  out = run_well(train_grpo, **flag, out_dir=copy)
  assert "checkpoints/6 is damaged" in out and "using the one before it" in out
  assert "resumed at step 4 of 8" in out
  assert_same_run(whole, copy)


def test_all_checkpoints_damaged(flag, copy):
  for step in (4, 6):
    cut(pathlib.Path(copy, "checkpoints", str(step)))
  for _ in range(2):  # the second time too: it must not begin again over the old run unasked
    one_line_error(
      run(train_grpo, **flag, out_dir=copy),
      "no checkpoint under",
      "can be read",
      "move the folder away",
    )


def test_two_runs_on_one_folder(flag, copy):
  with open(f"{copy}/.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    one_line_error(
      run(train_grpo, **flag, out_dir=copy), "another run is writing", "choose another --out_dir"
    )
  with runs.lock_folder(
    copy
  ):  # a failed notebook cell still holds its lock: the same process may go on
    runs.lock_folder(copy)


@contextlib.contextmanager
def mounted(folder, options: str):
  """A tmpfs at `folder`, where this user may mount one."""
  os.makedirs(folder, exist_ok=True)
  made = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
  )
  if made.returncode:
    pytest.skip("needs the right to mount a tmpfs")
  try:
    yield
  finally:
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_read_only_folder(flag, tmp_path):
  (tmp_path / "file").write_text("")
  one_line_error(
    run(train_grpo, **flag, out_dir=tmp_path / "file" / "run"),
    "cannot be written",
    "choose a folder",
  )
  with mounted(tmp_path / "disk", "size=1m,ro"):
    one_line_error(
      run(train_sft, data_dir=flag["data_dir"], **SFT, out_dir=tmp_path / "disk"),
      "cannot be written",
    )
    one_line_error(run(train_grpo, **flag, out_dir=tmp_path / "disk" / "new"), "cannot be written")


# Fills the disk before the third save and frees nothing.
FILLER = """
import importlib, itertools, os, sys
sys.path.insert(0, sys.argv.pop(1))
disk, what = sys.argv.pop(1), sys.argv.pop(1)
import train_grpo as stage
from lib import checkpoints, command_line, jsonl
owner = {"save_checkpoint": checkpoints, "append_rows": jsonl}[what]
inner, calls = getattr(owner, what), itertools.count(1)

def full(*args, **kwargs):
  if next(calls) == 3:
    with open(os.path.join(disk, "ballast"), "wb", buffering=0) as f:
      try:
        while f.write(b"x" * 4096):
          pass
      except OSError:
        pass
  return inner(*args, **kwargs)

setattr(owner, what, full)
command_line.launch(stage.main, stage.FLAGS)
"""


@pytest.mark.parametrize("what", ["save_checkpoint", "append_rows"])
def test_disk_full(flag, whole, tmp_path, what):
  """The last good checkpoint survives a save onto a full disk; the run says so in a line and goes
  on once there is space.
  """
  disk = tmp_path / "disk"
  with mounted(disk, "size=64m"):
    command = [
      sys.executable,
      "-c",
      FILLER,
      str(REPO),
      str(disk),
      what,
      *argv_of(flag | dict(out_dir=disk / "run")),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    said = [line for line in ended.stderr.split("\n") if line.startswith("error: ")]
    assert ended.returncode == 2 and len(said) == 1, ended.stderr[-3000:]
    assert "no space left" in said[0] and "run the same command" in said[0]
    (disk / "ballast").unlink()
    good = max(
      [int(name) for name in os.listdir(disk / "run" / "checkpoints") if name.isdigit()], default=0
    )
    if what == "append_rows":  # torn rows are trimmed, as those of a killed run are
      return
    assert good >= 2
    assert f"resumed at step {good} of 8" in run_well(train_grpo, **flag, out_dir=disk / "run")
    assert_same_run(whole, str(disk / "run"))


def test_too_small_a_disk_is_refused_at_start(flag, tmp_path):
  with mounted(tmp_path / "disk", "size=2m"):
    one_line_error(
      run(train_grpo, **flag, out_dir=tmp_path / "disk" / "run"), "GB free", "free some space"
    )


def test_unreadable_row_is_named(flag, tmp_path):
  data = shutil.copytree(flag["data_dir"], tmp_path / "data")
  lines = (data / "train.jsonl").read_bytes().splitlines(keepends=True)
  (data / "train.jsonl").write_bytes(b"".join([*lines[:6], b'{"id": "half a r', *lines[7:]]))
  one_line_error(
    run(train_grpo, **flag | dict(data_dir=data), out_dir=tmp_path / "a"),
    "train.jsonl:7 is not a JSON row",
  )
  (data / "train.jsonl").write_bytes(b"".join([*lines[:6], b"\xff\xfe\n", *lines[7:]]))
  one_line_error(
    run(train_sft, **SFT | dict(data_dir=data), out_dir=tmp_path / "b"),
    "train.jsonl:7 is not a JSON row",
  )


def test_sandbox_workers_killed_during_a_run(flag, whole, copy):
  """The kernel may kill a sandbox worker at any time; the answers it held are judged anyway."""

  def kill_workers():
    mine = [
      int(pid)
      for task in pathlib.Path("/proc/self/task").iterdir()
      for pid in (task / "children").read_text().split()
    ]
    workers = [
      pid for pid in mine if b"sandbox" in pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    killed.extend(workers)
    for pid in workers:
      os.kill(pid, signal.SIGKILL)

  killed = []
  code_checking.code_box()
  with at_call(rollouts, "score_rollout", 2, kill_workers):
    run_well(train_grpo, **flag, out_dir=copy)
  assert killed
  assert_same_run(whole, copy)


def test_no_pickle_is_loaded_from_an_artifact(whole, data_dir):
  """A checkpoint folder from a stranger must not run code: reading one calls no unpickler."""

  def refuse(*args, **kwargs):
    raise AssertionError("an artifact was unpickled")

  with (
    mock.patch.object(pickle, "load", refuse),
    mock.patch.object(pickle, "loads", refuse),
    mock.patch.object(pickle, "Unpickler", refuse),
  ):
    policy = loading.load_policy("tiny", whole)
  trained = parameters.flat_params(policy.model, parameters.trainable(policy.model))
  assert set(trained) == restore(f"{whole}/params").keys()


def test_sft_auto_steps_are_kept_in_a_copy(data_dir, tmp_path):
  """--max_steps=auto and --resume_from of SFT: the schedule of the first session, from its
  checkpoint, the source unchanged.
  """
  flag, (a, b) = (
    SFT | dict(data_dir=data_dir, max_steps="auto", max_hours=0.1),
    (tmp_path / "a", tmp_path / "b"),
  )
  for folder, source in ((a, ""), (b, a)):
    with at_call(jsonl, "append_rows", 2, lambda: os.kill(os.getpid(), signal.SIGTERM)):
      result = run(train_sft, **flag, out_dir=folder, resume_from=source)
    assert result.code == errors.EXIT_STOPPED, result.err
  steps = json.loads((a / "run.json").read_text())["max_steps"]
  assert (
    "resumed at step 2" in result.out and f"after step 4 of {steps}" in result.err and steps > 4
  )
  schedule = optimization.make_schedule(SFT["learning_rate"], steps, final_ratio=0.1)
  rates = [row["learning_rate"] for row in jsonl.read_rows(b / "metrics.jsonl")]
  np.testing.assert_allclose(rates, [float(schedule(i)) for i in range(4)], rtol=1e-6)
  assert len(jsonl.read_rows(a / "metrics.jsonl")) == 2


def test_parameters_behind_a_link_are_replaced_where_it_leads(tmp_path):
  """params/ may have been moved to another disk, with a link in its place: the link stays."""
  disk = tmp_path / "disk"
  disk.mkdir()
  (tmp_path / "params").symlink_to(disk)
  for seed in (0, 1):
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(seed))
    checkpoints.save_params(str(tmp_path / "params"), layer)
    saved = restore(disk)
    assert np.array_equal(saved["kernel"], layer.kernel)
  assert (tmp_path / "params").is_symlink()
  assert sorted(os.listdir(tmp_path)) == ["disk", "params"], "nothing half-written is left"
