"""run.sh with a Python that only notes what it was asked to run: the order of the stages, what is skipped, refused, resumed."""

import importlib
import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPO

PYTHON = f"""#!/usr/bin/env bash
[ "$1" != -m ] || exit 0
[ "$1" != -c ] || exec "{sys.executable}" "$@"
echo "$*" >> calls
out=""; for word in "$@"; do case $word in --out_dir=*) out=${{word#*=}};; esac; done
[ -n "$out" ] || exit 0
[ "${{out##*/}}" != "$(cat stop 2>/dev/null)" ] || exit 75
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

  def go(**variables):
    (tmp_path / "calls").write_text("")
    done = subprocess.run(
      ["./run.sh"],
      cwd=tmp_path,
      capture_output=True,
      text=True,
      timeout=60,
      env={"PATH": os.environ["PATH"], "MODEL": "tiny", "OUT": "out"} | variables,
    )
    return done, (tmp_path / "calls").read_text().splitlines()

  return go


def stages(calls):
  return [
    call.split("--out_dir=")[-1].removeprefix("out/") for call in calls if "--out_dir" in call
  ]


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
  assert stages(shell()[1]) == []


@pytest.mark.parametrize(
  "change,words",
  [
    (dict(RECIPE="best"), "RECIPE=best is unknown"),
    (dict(STAGES="data eval"), "STAGES names 'eval'"),
    (dict(SEED="1"), "holds a run with MODEL=tiny RECIPE=multi_domain SEED=0"),
    (dict(RECIPE="curriculum"), "name another OUT"),
    (dict(POOL="p.jsonl"), "name another OUT"),
    (dict(MODEL="gemma-3-1b-it"), "name another OUT"),
    (dict(SMOKE="1"), "OUT"),
  ],
)
def test_one_folder_holds_one_run(shell, change, words):
  shell(STAGES="data")
  done, calls = shell(**change)
  assert (
    done.returncode == 2
    and not calls
    and words in done.stderr
    and done.stderr.startswith("error: ")
  )


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
