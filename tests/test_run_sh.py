"""run.sh with a Python that only notes what it was asked to run: the order of the stages, what is
skipped, refused, resumed.
"""

import hashlib
import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from conftest import REPO

from lib import command_line

PYTHON = f"""#!/usr/bin/env bash
case $2 in lib.joining|lib.following) exec "{sys.executable}" "$@";; esac
[ "$2" != lib.command_line ] || [ ! -e prepare_data.py ] || exec "{sys.executable}" "$@"
[ "$1" != -m ] || exit 0
[ "$1" != -c ] || exec "{sys.executable}" "$@"
echo "$*" >> calls
out=""; for word in "$@"; do case $word in --out_dir=*) out=${{word#*=}};; esac; done
[ -n "$out" ] || exit 0
if [ "${{out##*/}}" = "$(cat stop 2>/dev/null)" ]; then
  sleep "$(cat seconds 2>/dev/null || echo 0)"
  exit 75
fi
mkdir -p "$out"; echo {{}} > "$out/config.json"
case $out in */eval_*) echo {{}} > "$out/results.json";; esac
"""


@pytest.fixture
def shell(tmp_path):
  """go(**variables) -> (finished process, the commands that it ran)."""
  for name in ("run.sh", "requirements.txt"):
    shutil.copy(REPO / name, tmp_path)
  (tmp_path / ".venv/bin").mkdir(parents=True)
  (tmp_path / ".venv/bin/python").write_text(PYTHON)
  (tmp_path / ".venv/bin/python").chmod(0o755)

  def go(folder=tmp_path, **variables):
    (tmp_path / "calls").write_text("")
    done = subprocess.run(
      [tmp_path / "run.sh"],
      cwd=folder,
      capture_output=True,
      text=True,
      timeout=60,
      env={"PATH": os.environ["PATH"], "MODEL": "tiny", "OUT": "out"} | variables,
    )
    return done, (tmp_path / "calls").read_text().splitlines()

  return go


def hosts_run(tmp_path, count: int, **variables) -> list[subprocess.CompletedProcess]:
  """run.sh on several hosts, each in a folder of its own, with the real lib/ to find each other."""
  with socket.socket() as found:
    found.bind(("", 0))
    address = f"127.0.0.1:{found.getsockname()[1]}"
  running = []
  for index in range(count):
    folder = tmp_path / f"host{index}"
    shutil.copytree(tmp_path / ".venv", folder / ".venv")
    for name in ("run.sh", "requirements.txt"):
      shutil.copy(tmp_path / name, folder)
    shutil.copytree(REPO / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    settings = {"MODEL": "tiny", "OUT": "out", "HOSTS": f"{address},{count},{index}"}
    running.append(
      subprocess.Popen(
        [folder / "run.sh"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "HOSTS_WAIT": "5"} | settings | variables,
      )
    )
  done = []
  for process in running:
    out, err = process.communicate(timeout=120)
    done.append(subprocess.CompletedProcess([], process.returncode, out, err))
  return done


@pytest.mark.parametrize("status", [0, 75])
def test_the_lead_of_several_hosts_goes_through_the_stages(shell, tmp_path, status):
  """The other one waits for what they need it for, and ends as the lead ends."""
  if status:
    (tmp_path / ".venv/bin/python").write_text(PYTHON.replace("cat stop", "echo sft"))
  lead, other = hosts_run(tmp_path, 2, STAGES="data sft")
  assert (lead.returncode, other.returncode) == (status, status), lead.stderr + other.stderr
  calls = (tmp_path / "host0/calls").read_text().splitlines()
  assert stages(calls) == ["data", "sft"]
  assert all(call.endswith(",2,0") for call in calls if "--out_dir" in call)
  assert not (tmp_path / "host1/calls").exists() and not (tmp_path / "host1/out").exists()


def stages(calls):
  return [name for call in calls for name in re.findall(r"--out_dir=out/(\w+)", call)]


ALL = ["data", "eval_base", "sft", "eval_sft", "grpo", "eval_grpo", "export"]


def test_stages_run_in_order_once_and_a_stopped_one_goes_on(shell, tmp_path):
  (tmp_path / "stop").write_text("grpo")
  done, calls = shell(MAX_HOURS="8")
  assert (
    done.returncode == 75
    and stages(calls) == ALL[:5]
    and "grpo stopped early; start the same command again" in done.stderr
  )
  (tmp_path / "stop").unlink()
  done, calls = shell(MAX_HOURS="8")
  assert (
    done.returncode == 0
    and stages(calls) == ALL[4:]
    and "sft: complete, skipped (out/sft)" in done.stdout
  )
  grpo, after, export, table = calls
  assert "--init_from=out/sft " in grpo and "--max_steps=auto" in grpo
  assert "--checkpoint=out/grpo --compare=out/eval_sft/results.json" in after
  assert "--checkpoint=out/grpo" in export and table == "evaluate.py --table=out"
  assert 0.8 * 8 * 0.85 < float(grpo.split("--max_hours=")[1].split()[0]) <= 8 * 0.85
  assert stages(shell(MAX_HOURS="8")[1]) == []


@pytest.mark.parametrize(
  "change,words",
  [
    (dict(RECIPE="best"), "RECIPE=best is unknown"),
    (dict(STAGES="data eval"), "STAGES names 'eval'"),
    (dict(MAX_HOURS="two"), "MAX_HOURS=two: expected hours"),
    (dict(GRPO_FLAGS="--beta=1 --out_dir=x"), "GRPO_FLAGS names a folder of the run"),
    (dict(SMOKE="yes"), "SMOKE=yes: expected 1, or nothing"),
    (dict(SEED="one"), "SEED=one: expected a whole number"),
    (dict(SEED="1"), "was made with --seed=0 where this command has --seed=1"),
    (dict(RECIPE="curriculum"), "--mixing=weights"),
    (dict(POOL="p.jsonl"), "this command has --pool=p.jsonl"),
    (dict(MODEL="gemma-3-1b-it"), "made with --max_prompt_tokens=128"),
    (dict(SMOKE="1"), "--train_size=64"),
    (dict(DATA_FLAGS="--train_size=9"), "out/data is complete and was made with less where"),
  ],
)
def test_one_folder_holds_one_run(shell, change, words):
  shell(STAGES="data")
  done, calls = shell(**change)
  assert done.returncode == 2 and not calls
  assert words in done.stderr and done.stderr.startswith("error: ")


def test_other_flags_of_a_finished_stage_are_refused_wherever_it_lies(shell, tmp_path):
  """Else the old table is shown as if it were the new one's. A folder that was moved is the same
  run.
  """
  assert shell(GRPO_FLAGS="--beta=0.1")[0].returncode == 0
  done, calls = shell()
  assert done.returncode == 2 and not calls
  assert (
    "out/grpo is complete and was made with --beta=0.1 where this command has nothing"
    in done.stderr
  )
  assert shell(GRPO_FLAGS="--beta=0.1", EVAL_FLAGS="--limit=3")[0].returncode == 2
  shutil.copytree(tmp_path / "out", tmp_path / "moved")
  done, calls = shell(OUT="moved", GRPO_FLAGS="--beta=0.1")
  assert done.returncode == 0 and calls == ["evaluate.py --table=moved"]
  shutil.rmtree(tmp_path / "out/sft")
  done, calls = shell(GRPO_FLAGS="--beta=0.1")
  assert done.returncode == 2 and not calls
  assert "out/eval_sft is complete, but out/sft, which it was made from, is not" in done.stderr


def test_rows_without_worked_solutions_go_to_grpo_at_once(shell, tmp_path):
  """SFT has nothing to learn from them, which is no reason to stop; nor to forget it when the
  command is given again.
  """
  shell(STAGES="data", POOL="my.csv")
  (tmp_path / "out/data/config.json").write_text('{\n "stage": "data",\n "targets": 0\n}\n')
  done, calls = shell(POOL="my.csv")
  assert done.returncode == 0 and stages(calls) == ["eval_base", "grpo", "eval_grpo", "export"]
  assert "there is no SFT" in done.stdout and "--init_from= " in calls[1]
  assert "--force" in calls[1].split(), "preflight refuses a tiny model that knows no format"
  assert "--compare=out/eval_base/results.json" in calls[2]
  done, calls = shell(POOL="my.csv")
  assert done.returncode == 0 and stages(calls) == []


def test_a_small_pool_shrinks_the_sizes_of_a_recipe(shell):
  (data,) = shell(STAGES="data", POOL="my.csv")[1]
  assert "--shrink" in data


def test_a_pool_that_was_edited_is_not_passed_over(shell, tmp_path):
  pool = tmp_path / "my.csv"
  pool.write_text("question,answer\n")
  shell(STAGES="data", POOL="my.csv")
  digest = hashlib.sha256(pool.read_bytes()).hexdigest()
  config = tmp_path / "out/data/config.json"
  config.write_text(json.dumps({"inputs": {"here/my.csv": digest}}))
  done, calls = shell(STAGES="data", POOL="my.csv")
  assert done.returncode == 0 and not stages(calls), done.stderr
  pool.write_text("question,answer\nWhat is 2 + 3?,5\n")
  done, calls = shell(STAGES="data", POOL="my.csv")
  assert done.returncode == 2 and done.stderr.count("\n") == 1 and not calls
  assert "my.csv has changed since out/data was made of it" in done.stderr


def test_rewards_of_ones_own_are_paid_and_evaluated(shell, tmp_path):
  """Their file is the one in the user's folder; the recipe keeps everything but its rewards."""
  mine = tmp_path / "mine"
  mine.mkdir()
  done, calls = shell(mine, RECIPE="curriculum", REWARDS="my.py:score=0.5,multi_domain")
  assert done.returncode == 0, done.stderr
  wanted = f"--rewards={mine}/my.py:score=0.5,multi_domain"
  paid = [call for call in calls if wanted in call.split()]
  assert len(paid) == 4, "three evaluations and GRPO"
  assert "--beta=0.08" in paid[2] and "--rewards=curriculum" not in " ".join(calls)


def test_an_out_that_is_no_folder_is_one_line(shell, tmp_path):
  (tmp_path / "taken").write_text("")
  done, calls = shell(OUT="taken")
  assert done.returncode == 2 and not calls
  assert done.stderr == (
    "error: OUT=taken cannot be made a folder (File exists); name another OUT\n"
  )


def test_a_first_try_that_failed_refuses_no_second(shell, tmp_path):
  (tmp_path / "stop").write_text("data")  # as if --tokenizer were a typo
  assert shell(MODEL="gema", POOL="pol.jsonl")[0].returncode != 0
  (tmp_path / "stop").unlink()
  assert shell(POOL="pool.jsonl")[0].returncode == 0


@pytest.mark.parametrize("stopped,rest", [("sft", []), ("grpo", ALL[5:])])
def test_a_deadline_leaves_a_result(shell, tmp_path, stopped, rest):
  """GRPO that ran out of time is evaluated and exported as far as it came; the same command goes
  on, and makes those anew.
  """
  (tmp_path / "stop").write_text(stopped)
  (tmp_path / "seconds").write_text("2")
  flags = {"SFT_FLAGS": "--max_hours=0.0003", "GRPO_FLAGS": "--max_hours=0.0003 --max_steps=9"}
  done, calls = shell(MAX_HOURS="8", **flags)
  until = ALL.index(stopped) + 1
  assert done.returncode == 75 and stages(calls) == ALL[:until] + rest
  assert "start the same command again to go on" in done.stderr
  if rest:
    assert "--checkpoint=out/grpo/params" in calls[-2] and calls[-1] == "evaluate.py --table=out"
    assert "--deadline_ends" in calls[2]
  (tmp_path / "stop").unlink()
  done, calls = shell(MAX_HOURS="8", **flags)
  assert done.returncode == 0 and stages(calls) == ALL[until - 1 :]
  assert "grpo/params" not in " ".join(calls)


def test_paths_are_those_of_the_folder_the_user_is_in(shell, tmp_path):
  home, mine = os.path.expanduser("~"), tmp_path / "mine"
  (mine / "model").mkdir(parents=True)
  done, calls = shell(
    mine, POOL="a.jsonl, ~/b.jsonl,hf:me/set", MODEL="model", OUT="runs/1", HOME=home
  )
  assert done.returncode == 0, done.stderr
  assert f"--pool={mine}/a.jsonl,{home}/b.jsonl,hf:me/set" in calls[0]
  assert f"--tokenizer={mine}/model" in calls[0] and f"--out_dir={mine}/runs/1/data" in calls[0]
  assert (mine / "runs/1/data/config.json").is_file()


@pytest.mark.parametrize(
  "change,words",
  [
    (dict(GRPO_FLAGS="--bta=0.1"), "train_grpo.py: Unknown command line flag 'bta'"),
    (dict(EXPORT_FLAGS="--formats"), "export_lora.py: Missing value for flag"),
    (
      dict(MODEL="gemma-3-27b-it", RECIPE="dual_stream"),
      "GB free, all stages together write up to",
    ),
    (dict(recipe="curriculum"), "recipe is no setting of run.sh; did you mean RECIPE?"),
    (dict(RECIPIE="curriculum"), "RECIPIE is no setting of run.sh; did you mean RECIPE?"),
  ],
)
def test_all_flags_are_read_before_the_first_stage(shell, tmp_path, change, words):
  for path in (*REPO.glob("*.py"), REPO / "lib"):
    (tmp_path / path.name).symlink_to(path)
  done, calls = shell(**change)
  assert done.returncode == 2 and not calls
  assert words in done.stderr and "Traceback" not in done.stderr
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "command,words",
  [
    ("train_sft.py --learning_rate=nan", "train_sft.py: --learning_rate=nan: expected a finite"),
    ("train_grpo.py --weights=format=1", "train_grpo.py: --weights are four_component's"),
    ("train_grpo.py --rewards=mine.py:score", "mine.py"),
    ("train_grpo.py --bta=0.1", "error: train_grpo.py: Unknown command line flag 'bta'"),
    ("train_grpo.py --temperature=0", "GRPO needs answers that differ"),
    ("train_grpo.py --domain_beta=maths=1", "--domain_beta has 'maths=1'"),
    ("train_grpo.py --dynamic_sampling=-2", "expected 0 or more, or -1"),
    ("evaluate.py --out_dir=", "--out_dir=: expected a folder to write"),
    ("evaluate.py --seed=-1", "evaluate.py: --seed=-1: expected 0 or more"),
  ],
)
def test_flags_are_checked_without_running_the_stage(command, words, monkeypatch, capsys):
  monkeypatch.chdir(REPO)
  monkeypatch.setattr(sys, "argv", [])
  with pytest.raises(SystemExit) as stop:
    command_line.check_commands([["rewards.py", "--self_test"], command.split()])
  said = capsys.readouterr()
  assert stop.value.code == 2 and words in said.err and said.out == ""


TABLE = {  # README, "Four recipes"
  "multi_domain": dict(temperature=0.7, max_steps="20000", lora_rank=16, lora_alpha=32.0),
  "curriculum": dict(beta=0.08, temperature=0.9, max_steps="2000", lora_rank=16, lora_alpha=32.0),
  "dual_stream": dict(temperature=0.7, max_steps="2000", lora_rank=0),
  "four_component": dict(beta=0.08, temperature=0.7, max_steps="500", lora_rank=8, lora_alpha=16.0),
}
SAME = dict(
  num_generations=4,
  num_iterations=4,
  learning_rate=3e-6,
  max_prompt_tokens=1024,
  max_new_tokens=512,
  batch_size=2,
)


@pytest.mark.parametrize("recipe", TABLE)
def test_recipes_are_those_of_the_table_and_every_flag_exists(shell, recipe):
  done, calls = shell(
    RECIPE=recipe,
    MODEL="gemma-3-1b-it",
    GRPO_FLAGS="--seed=7\n --beta=0.5" if recipe == "multi_domain" else "",
  )
  assert done.returncode == 0
  for call in calls:
    script, *argv = call.split()
    found = importlib.import_module(script.removesuffix(".py")).FLAGS
    for name in found:
      found[name].unparse()
    assert found([script, *argv]) == [script], call
    if script == "train_grpo.py":
      wanted = (
        SAME
        | TABLE[recipe]
        | dict(rewards=recipe)
        | (dict(beta=0.5, seed=7) if recipe == "multi_domain" else {})
      )
      assert {name: found[name].value for name in wanted} == wanted
