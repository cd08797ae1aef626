"""notebooks/kaggle.ipynb in a real kernel, with folders like Kaggle's and the tiny model."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "kaggle.ipynb"
SMALL = {"SMOKE": "1", "EVAL_FLAGS": "--limit=7 --max_new_tokens=8"}


def attach(folder: pathlib.Path) -> pathlib.Path:
  """The project as Kaggle attaches a data set: read-only, under input/datasets/USER/SLUG.

  Its environment is this one, noted as installed from requirements.txt.
  """
  code = folder / "input/datasets/ann/reasoning"
  tracked = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
  )
  for name in tracked.stdout.split("\n"):
    if name.endswith((".py", ".sh", ".txt")) and not name.startswith(("tests/", "benchmarks/")):
      (code / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(ROOT / name, code / name)
  (code / ".venv/bin").mkdir(parents=True)
  (code / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
  stamp = subprocess.run(
    'echo "$(cat requirements.txt | cksum) cpu"', shell=True, cwd=code, capture_output=True
  ).stdout
  (code / ".venv/.installed").write_bytes(stamp)
  (folder / "working").mkdir()
  return code


def cells(folder: pathlib.Path, **settings) -> list[str]:
  """The notebook's code cells with this folder for /kaggle and small settings."""
  book = nbformat.read(NOTEBOOK, as_version=4)
  sources = [cell.source for cell in book.cells if cell.cell_type == "code"]
  assert not any(cell.get("outputs") for cell in book.cells)
  own = f"\nINPUT, WORKING = {str(folder / 'input')!r}, {str(folder / 'working')!r}\n"
  own += f"CODE = {str(folder / 'code')!r}\n"
  pool = settings.pop("POOL", "")
  sources[0] = sources[0].replace('POOL = ""', f"POOL = {pool!r}")
  own += f"SETTINGS = { ({'MODEL': 'tiny'} | settings)!r}\n"
  sources[0] += own
  sources[4] = sources[4].replace('["evaluate.py",', '["evaluate.py", "--max_new_tokens=8",')
  # A copied file is not executable; on Kaggle run.sh makes its environment itself.
  sources[1] += '\n(code / ".venv/bin/python").chmod(0o755)\n'
  return sources


def execute(folder: pathlib.Path, sources: list[str]):
  book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in sources])
  client = nbclient.NotebookClient(
    book, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
  )
  client.execute()
  return book


def printed(cell) -> str:
  return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_goes_on_from_its_attached_output_to_the_end(tmp_path):
  code = attach(tmp_path)
  rows = ["question,answer,reasoning"]
  rows += [f"What is {i} + {i + 3}?,{2 * i + 3},{i} + {i + 3} = {2 * i + 3}" for i in range(90)]
  (code.parent / "sums").mkdir()
  (code.parent / "sums/sums.csv").write_text("\n".join(rows))
  first = execute(tmp_path, cells(tmp_path, POOL="sums.csv", **SMALL, STAGES="data eval_base")[:4])
  assert "sft" not in os.listdir(tmp_path / "working/run")
  assert "sums: read as math" in printed(first.cells[2])
  shown = first.cells[3].outputs[-1]["data"]["text/html"]
  assert shown.startswith("<iframe srcdoc=") and "&lt;h1" in shown

  # The next session: the output of this one is an input, beside the code.
  earlier = tmp_path / "input/notebooks/ann/gemma-3-1b-it"
  earlier.parent.mkdir(parents=True)
  shutil.move(tmp_path / "working/run", earlier)
  shutil.rmtree(tmp_path / "working")
  shutil.rmtree(tmp_path / "code")
  stages = "data eval_base sft grpo export"
  second = execute(tmp_path, cells(tmp_path, POOL="sums.csv", **SMALL, STAGES=stages))
  everything = printed(second.cells[2])
  assert "data: complete, skipped" in everything and "eval_base: complete, skipped" in everything
  said = printed(second.cells[4])
  assert "Before training" in said and "format:" in said
  with zipfile.ZipFile(tmp_path / "working/gemma-reasons.zip") as archive:
    assert {"README.md", "config.json", "merged/model.safetensors"} <= set(archive.namelist())


def test_a_failed_stage_fails_the_cell(tmp_path):
  attach(tmp_path)
  with pytest.raises(nbclient.exceptions.CellExecutionError, match="CalledProcessError"):
    execute(tmp_path, cells(tmp_path, MODEL="no-such-model", **SMALL)[:3])


def test_a_deadline_is_no_failure_and_a_missing_project_is_named(tmp_path):
  (tmp_path / "code").mkdir()
  (tmp_path / "code/run.sh").write_text("#!/bin/sh\necho stopped early\nexit 75\n")
  (tmp_path / "input").mkdir()
  sources = cells(tmp_path)
  sources[1] = sources[1].split('\n(code / ".venv')[0]
  stopped = execute(tmp_path, sources[:3])
  assert "stopped early" in stopped.cells[2].outputs[0]["text"]
  shutil.rmtree(tmp_path / "code")
  with pytest.raises(nbclient.exceptions.CellExecutionError, match="set REPOSITORY, or attach"):
    execute(tmp_path, sources[:3])


def test_what_is_pushed_to_kaggle_names_the_notebook():
  metadata = json.loads((NOTEBOOK.parent / "kernel-metadata.json").read_text())
  assert metadata["code_file"] == NOTEBOOK.name and metadata["machine_shape"] == "TpuV5E8"


def test_the_accelerator_chooses_the_model(tmp_path, monkeypatch):
  """The first cell alone, where nvidia-smi is and where it is not."""
  (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
  (tmp_path / "nvidia-smi").chmod(0o755)
  book = nbformat.read(NOTEBOOK, as_version=4)
  settings = next(cell.source for cell in book.cells if cell.cell_type == "code")
  found = {}
  for path in ("", str(tmp_path)):
    monkeypatch.setenv("PATH", path)
    names = {}
    exec(settings, names)
    found[names["HARDWARE"]] = names["SETTINGS"]
  assert found["gpu"]["MODEL"] == "gemma-3-270m-it" and "DATA_FLAGS" in found["gpu"]
  assert found["cpu"]["MODEL"] == "tiny" and "DATA_FLAGS" not in found["cpu"]
