"""Several hosts, as processes of this machine: they give what one process gives, end together, and
go on in any number.

Two processes with a device each run the programs that one process with two devices runs; gloo adds
two numbers in either order alike, so results are compared by bits.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest
from conftest import REPO, argv_of, one_line_error

from lib import host_lines, hosts, joining, jsonl, meeting
from lib.errors import InputError
from lib.joining import Place

LIMIT = 400  # seconds after which a process is killed, and its test fails


# Where a process stands.
def test_places_are_read_from_the_flag_and_from_clusters(monkeypatch):
  assert joining.find_place("none") == joining.ALONE
  assert joining.find_place("10.0.0.2:9000,4,1") == Place("10.0.0.2", 9000, 4, 1)
  slurm = {
    "SLURM_JOB_ID": "4100",
    "SLURM_STEP_NODELIST": "gpu[003-005,9],big1",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
  }
  assert joining.from_slurm(slurm) == Place("gpu003", 61444, 4, 2)
  a_task_a_device = slurm | {"SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
  assert joining.from_slurm(a_task_a_device).device == 1
  assert joining.from_slurm(a_task_a_device | {"CUDA_VISIBLE_DEVICES": "1"}).device is None
  mpi = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
  }
  assert joining.from_open_mpi(mpi) == Place("10.96.0.1", 61440 + 373920 % 4096, 2, 1)
  gke = {"TPU_WORKER_HOSTNAMES": "t-0,t-1", "TPU_WORKER_ID": "1"}
  assert joining.from_tpu(gke) == Place("t-0", 8476, 2, 1)
  jax_own = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "0",
  }
  assert joining.from_jax(jax_own) == Place("a", 1, 2, 0)
  # A job of one task is a plain machine.
  for name, value in (slurm | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
    monkeypatch.setenv(name, value)
  assert joining.find_place("auto") == joining.ALONE


@pytest.mark.parametrize("spec", ["host", "host:9,2", "host:9,2,2", "host:99999,2,0", ":9,2,0x"])
def test_a_place_that_is_none_is_refused(spec):
  with pytest.raises(InputError, match=f"--hosts={spec}: expected"):
    joining.find_place(spec)


def test_a_plain_machine_is_never_asked_for_metadata(monkeypatch):
  """Kaggle and laptops: not by the default, and by auto only where there are chips."""

  def asked(name):
    raise AssertionError(f"asked for {name}")

  monkeypatch.setattr(joining, "read_metadata", asked)
  monkeypatch.setattr(joining.glob, "glob", lambda pattern: [])
  assert joining.find_place("none") == joining.ALONE
  assert joining.find_place("auto") == joining.ALONE
  monkeypatch.setattr(joining.glob, "glob", lambda pattern: ["/dev/accel0"])
  facts = {"worker-network-endpoints": "w:0:10.0.0.2,w:1:10.0.0.3", "agent-worker-number": "1"}
  monkeypatch.setattr(joining, "read_metadata", facts.get)
  assert joining.find_place("auto") == Place("10.0.0.2", 8476, 2, 1)


def test_work_is_shared_out_in_order(monkeypatch):
  for count, hosts_, sizes in ((10, 4, [3, 3, 2, 2]), (2, 3, [1, 1, 0]), (4, 1, [4])):
    found = []
    for index in range(hosts_):
      monkeypatch.setitem(hosts.HERE, "place", Place("", 0, hosts_, index))
      found.append(list(range(count))[hosts.own_share(count)])
    assert [len(part) for part in found] == sizes
    assert sum(found, []) == list(range(count))


def test_commands_that_differ_are_told_apart():
  lead = {"code": "a1", "script": "train_sft.py", "flags": {"seed": 0, "mesh": "auto"}}
  assert meeting.find_difference(lead, {1: lead, 2: {"code": "a1"}}) == ""
  other = lead | {"flags": {"seed": 1, "mesh": "auto"}}
  assert "--seed is 1 on host 2 and 0 on host 0" in meeting.find_difference(
    lead, {1: lead, 2: other}
  )
  assert "host 1 runs code b2, host 0 a1" in meeting.find_difference(lead, {1: {"code": "b2"}})


# Real processes.
class Ended(NamedTuple):
  """What a process left behind."""

  code: int
  out: str
  err: str


class Pair:
  """Two processes of one run, a device each."""

  def __init__(self, script: str, flag: dict, folder: pathlib.Path, other: dict | None = None):
    address = f"127.0.0.1:{host_lines.free_port()}"
    self.folder = folder
    self.processes = []
    for index in range(2):
      words = argv_of(flag | (other if index and other else {}))
      with open(folder / f"out{index}", "w") as out, open(folder / f"err{index}", "w") as err:
        self.processes.append(
          subprocess.Popen(
            [sys.executable, str(REPO / script), *words, f"--hosts={address},2,{index}"],
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
          )
        )

  def wait_for(self, happened):
    """Until happened() or an end."""
    until = time.monotonic() + LIMIT
    while not happened() and all(process.poll() is None for process in self.processes):
      assert time.monotonic() < until, self.texts()
      time.sleep(0.02)
    assert happened(), self.texts()

  def kill(self, index: int, number: int):
    self.processes[index].send_signal(number)

  def end(self, limit: float = LIMIT) -> list[Ended]:
    """Both ends; a process that outlives the limit is a failure."""
    until = time.monotonic() + limit
    try:
      for process in self.processes:
        process.wait(max(0.1, until - time.monotonic()))
    except subprocess.TimeoutExpired:
      pytest.fail(f"did not end within {limit} s:\n{self.texts()}")
    finally:
      for process in self.processes:
        process.kill()
    return [
      Ended(process.returncode, self.text(f"out{index}"), self.text(f"err{index}"))
      for index, process in enumerate(self.processes)
    ]

  def text(self, name: str) -> str:
    return (self.folder / name).read_text()

  def texts(self) -> str:
    return "\n".join(self.text(name)[-2000:] for name in ("out0", "err0", "out1", "err1"))


def one_process(script: str, flag: dict) -> subprocess.CompletedProcess:
  """The same program on the same two devices, in one process."""
  flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
  done = subprocess.run(
    [sys.executable, str(REPO / script), *argv_of(flag)],
    capture_output=True,
    text=True,
    timeout=LIMIT,
    env=os.environ | {"XLA_FLAGS": flags},
  )
  assert done.returncode == 0, done.stderr
  return done


def last_line(ended: Ended) -> str:
  """What a process said at its end: one line, and no stack of any kind."""
  assert "Traceback" not in ended.err and "stack trace" not in ended.err, ended.err
  lines = [line for line in ended.err.splitlines() if line.startswith(("error:", "stopped:"))]
  assert len(lines) <= 1, ended.err
  return lines[0] if lines else ""


RUN = dict(
  lora_rank=0,
  learning_rate=3e-3,
  max_steps=40,
  batch_size=8,
  max_new_tokens=8,
  check_rows=0,
  eval_every=20,
  save_every=2,
)


def timeless(path) -> list[dict]:
  """Rows of a run without their times."""
  times = ("seconds", "tokens_per_second")
  rows = jsonl.read_rows(path)
  return [{k: v for k, v in row.items() if not k.endswith(times)} for row in rows]


def steps_done(folder: pathlib.Path) -> int:
  """The last step of metrics.jsonl."""
  path = folder / "metrics.jsonl"
  rows = jsonl.read_rows(path, torn=True) if path.is_file() else []
  return rows[-1]["step"] if rows else 0


def new_steps(folder: pathlib.Path, count: int):
  """A function that tells whether so many more steps were made than before."""
  begun = steps_done(folder)
  return lambda: steps_done(folder) >= begun + count


def files_of(folder: pathlib.Path) -> set[str]:
  return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_on_two_hosts_survives_all_of_them(data_dir, tmp_path):
  """Each host is killed once, one is told to stop, the newest checkpoint is damaged, and one
  process ends it: that is the run of one process with both devices, bit for bit.
  """
  flag = RUN | dict(data_dir=data_dir, out_dir=tmp_path / "run")
  # A lost host: the other ends by itself, with the status that says "start again", and says so.
  for lost, words in ((0, "process 0, the lead, was lost"), (1, "process 1 of 2 was lost")):
    pair = Pair("train_sft.py", flag, tmp_path)
    pair.wait_for(new_steps(tmp_path / "run", 3))
    pair.kill(lost, signal.SIGKILL)
    left = pair.end(limit=150)[1 - lost]
    assert left.code == 75
    assert last_line(left).startswith(f"stopped: {words}; start the same command on every host")

  # A host that is told to stop: all save, and stop.
  pair = Pair("train_sft.py", flag, tmp_path)
  pair.wait_for(new_steps(tmp_path / "run", 3))
  pair.kill(1, signal.SIGTERM)
  lead, worker = pair.end(limit=240)
  assert (lead.code, worker.code) == (75, 75)
  assert last_line(lead).startswith("stopped: SIGTERM after step") and not last_line(worker)
  assert "sft: resumed at step" in lead.out and "sft" not in worker.out

  checkpoints = tmp_path / "run" / "checkpoints"
  newest = max(checkpoints.iterdir(), key=lambda path: int(path.name))
  (newest / "progress" / "metadata").write_text("{")
  done = one_process("train_sft.py", flag)
  assert f"{newest} is damaged" in done.stdout

  one_process("train_sft.py", flag | dict(out_dir=tmp_path / "one"))
  found = [timeless(tmp_path / name / "metrics.jsonl") for name in ("run", "one")]
  assert found[0] == found[1]


GRPO = dict(
  lora_rank=0,
  batch_size=3,  # of two hosts: 2 prompts and 1
  num_generations=2,
  max_new_tokens=8,
  temperature=1.0,
  max_steps=2,
  eval_every=0,
  eval_rows=3,
  save_every=0,
  sample_every=1,
  learning_rate=3e-4,
  force=True,
)


def test_grpo_and_evaluation_are_those_of_one_process(data_dir, sft_dir, tmp_path):
  """Answers are gathered, and scoring is shared out: the same samples, rewards, losses, numbers."""
  flag = GRPO | dict(data_dir=data_dir, init_from=sft_dir)
  lead, worker = Pair("train_grpo.py", flag | dict(out_dir=tmp_path / "two"), tmp_path).end()
  assert (lead.code, worker.code) == (0, 0), lead.err + worker.err
  # On several devices, too, an update's result lies as the next one takes it.
  assert "programs: update 1," in lead.out
  one_process("train_grpo.py", flag | dict(out_dir=tmp_path / "one"))
  for name in ("metrics.jsonl", "samples.jsonl"):
    assert timeless(tmp_path / "two" / name) == timeless(tmp_path / "one" / name), name

  flag = dict(data_dir=data_dir, checkpoint=tmp_path / "one", limit=5, max_new_tokens=8)
  for ended in Pair("evaluate.py", flag | dict(out_dir=tmp_path / "eval2"), tmp_path).end():
    assert ended.code == 0, ended.err
  one_process("evaluate.py", flag | dict(out_dir=tmp_path / "eval1"))
  responses = [(tmp_path / name / "responses.jsonl").read_text() for name in ("eval1", "eval2")]
  assert responses[0] == responses[1]
  # The report is the lead's, and whole before the other process has ended.
  assert files_of(tmp_path / "eval1") == files_of(tmp_path / "eval2")


# How runs end.
def test_missing_data_ends_both(tmp_path):
  flag = dict(data_dir=tmp_path / "nowhere", out_dir=tmp_path / "run")
  lead, worker = Pair("train_sft.py", flag, tmp_path).end(limit=240)
  assert (lead.code, worker.code) == (2, 2)
  assert "nowhere does not exist; make it with prepare_data.py" in last_line(lead)
  assert not last_line(worker) and not worker.out


def test_a_full_disk_ends_both(data_dir, tmp_path):
  """The lead cannot write its first row, while the other waits for the second step."""
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "metrics.jsonl").symlink_to("/dev/full")
  flag = RUN | dict(data_dir=data_dir, out_dir=tmp_path / "run")
  lead, worker = Pair("train_sft.py", flag, tmp_path).end(limit=240)
  assert (lead.code, worker.code) == (2, 2)
  assert "is full (no space left)" in last_line(lead) and not last_line(worker)


@pytest.mark.parametrize("flag", [dict(nonsense=1), dict(samples=2)])
def test_a_wrong_flag_ends_both(flag, tmp_path):
  """Before they have joined: a flag that is none, flags that do not go together."""
  lead, worker = Pair("evaluate.py", flag, tmp_path).end(limit=240)
  assert lead.code == worker.code == (1 if "nonsense" in flag else 2)
  assert lead.err and "Traceback" not in lead.err and not worker.err and not worker.out


def test_what_only_one_host_finds_wrong_ends_all(tmp_path):
  """It was given another flag; it lacks a file that the flag names."""
  flag = dict(data_dir=tmp_path / "nowhere", out_dir=tmp_path / "run")
  pair = Pair("train_sft.py", flag, tmp_path, other=dict(seed=1))
  lead, worker = pair.end(limit=240)
  assert (lead.code, worker.code) == (2, 2)
  assert "--seed is 1 on host 1 and 0 on host 0; start the same command" in last_line(lead)
  assert not last_line(worker)

  pair = Pair("train_grpo.py", flag, tmp_path, other=dict(rewards="gone.py:score"))
  lead, worker = pair.end(limit=240)
  assert (lead.code, worker.code) == (2, 2)
  assert "error: host 1: error: " in last_line(lead) and "gone.py" in last_line(lead)
  assert not last_line(worker)


def test_who_is_not_there_is_said(tmp_path):
  command = [sys.executable, str(REPO / "train_sft.py")]
  for index, words in ((0, "for process 1 of 2, which did not come"), (1, "looked for process 0")):
    done = subprocess.run(
      [*command, f"--hosts=127.0.0.1:{host_lines.free_port()},2,{index}"],
      capture_output=True,
      text=True,
      timeout=300,
      env=os.environ | {"HOSTS_WAIT": "1"},
    )
    assert words in one_line_error(done, "1 s", "127.0.0.1:")
