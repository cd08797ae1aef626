"""Every script works in a Jupyter cell: pasted whole beside lib/ and rewards.py, run again, %run
and !python.

A real kernel runs the cells (nbclient). One notebook holds the chain of stages, so each cell reads
what an earlier one wrote.
"""

import os
import pathlib
import shutil
import subprocess

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL = ("--model=tiny", "--data_dir=run/data")
CELLS = (
  ("prepare_data", ["--train_size=120", "--val_size=14", "--test_size=21", "--out_dir=run/data"]),
  (
    "train_sft",
    [
      *SMALL,
      "--out_dir=run/sft",
      "--lora_rank=4",
      "--lora_alpha=8",
      "--max_steps=2",
      "--batch_size=4",
      "--check_rows=4",
      "--check_samples=0",
      "--max_new_tokens=8",
    ],
  ),
  (
    "train_grpo",
    [
      *SMALL,
      "--out_dir=run/grpo",
      "--init_from=run/sft",
      "--lora_rank=4",
      "--lora_alpha=8",
      "--max_steps=1",
      "--batch_size=2",
      "--num_generations=2",
      "--max_new_tokens=8",
      "--eval_rows=4",
      "--force",
    ],
  ),
  (
    "evaluate",
    [*SMALL, "--checkpoint=run/grpo", "--out_dir=run/eval_grpo", "--limit=7", "--max_new_tokens=8"],
  ),
  ("export_lora", ["--model=tiny", "--checkpoint=run/grpo", "--out_dir=run/export", "--overwrite"]),
  ("rewards", ["--self_test"]),
)
MADE = {
  "prepare_data": "run/data",
  "train_sft": "run/sft",
  "train_grpo": "run/grpo",
  "evaluate": "run/eval_grpo",
  "export_lora": "run/export",
}


def copy_shared(folder):
  """What a pasted script needs beside it."""
  shutil.copytree(ROOT / "lib", folder / "lib", ignore=shutil.ignore_patterns("__pycache__"))
  shutil.copy(ROOT / "rewards.py", folder)


def argv(script: str, flags: list[str]) -> str:
  return f"import sys; sys.argv = {[script + '.py', *flags]!r}\n"


def text_of(cell) -> str:
  return "".join(str(output.get("text", "")) for output in cell.outputs)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory, plain_python):
  """The executed notebook: every script pasted twice, then evaluate.py by %run and by !python; and
  its folder.

  !python is that of a user's environment: the kernel hands it a chart backend that is not installed
  there.
  """
  folder = tmp_path_factory.mktemp("notebook")
  copy_shared(folder)
  sources = {name: (ROOT / f"{name}.py").read_text() for name, _ in CELLS}
  cells = [argv(name, flags) + sources[name] for name, flags in CELLS for _ in range(2)]
  shutil.copy(ROOT / "evaluate.py", folder)
  flags = [f for f in dict(CELLS)["evaluate"] if not f.startswith("--out_dir")]
  cells += [
    f"%run evaluate.py {' '.join(flags)} --out_dir=run/eval_run",
    "import os; print(os.environ['MPLBACKEND'])",
    f"!{plain_python} evaluate.py {' '.join(flags)} --out_dir=run/eval_shell",
  ]
  book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
  client = nbclient.NotebookClient(
    book,
    timeout=600,
    kernel_name="python3",
    resources={"metadata": {"path": str(folder)}},
    allow_errors=False,
  )
  client.execute()
  return book, folder


@pytest.mark.parametrize("index,name", list(enumerate(name for name, _ in CELLS)))
def test_a_pasted_script_runs_and_runs_again(notebook, index, name):
  book, folder = notebook
  first, again = book.cells[
    2 * index : 2 * index + 2
  ]  # an error in either would have stopped the fixture
  assert text_of(first), "the cell said nothing"
  assert name != "evaluate" or "7 of 7 rows are already" in text_of(again)
  assert name != "rewards" or "0 failures" in text_of(first)
  if name in MADE:
    assert (folder / MADE[name] / "config.json").is_file()


def test_a_trained_folder_is_not_trained_again(notebook):
  book, _ = notebook
  assert "nothing to train" in text_of(book.cells[3])
  assert "nothing to train" in text_of(book.cells[5])


def test_the_kernel_names_a_backend_that_its_children_lack(notebook, plain_python):
  """Or the test below shows nothing."""
  book, _ = notebook
  backend = text_of(book.cells[-2]).strip().removeprefix("module://")
  assert subprocess.run([plain_python, "-c", f"import {backend}"], capture_output=True).returncode


@pytest.mark.parametrize("folder_name", ["run/eval_run", "run/eval_shell"])
def test_run_magic_and_shell(notebook, folder_name):
  _, folder = notebook
  pasted = (folder / "run/eval_grpo/responses.jsonl").read_text()
  assert (folder / folder_name / "responses.jsonl").read_text() == pasted


def test_no_script_needs_the_backend_of_whoever_starts_it(plain_python):
  """`!./run.sh` in a notebook starts every script with the kernel's MPLBACKEND."""
  names = ", ".join(name for name, _ in CELLS)
  script = f"import {names}, matplotlib, tunix.sft.peft_trainer"
  environment = os.environ | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
  done = subprocess.run(
    [plain_python, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


def test_bad_input_stops_the_cell_with_the_one_line_reason(tmp_path):
  copy_shared(tmp_path)
  source = argv("train_sft", ["--data_dir=nowhere"]) + (ROOT / "train_sft.py").read_text()
  book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
  with pytest.raises(
    nbclient.exceptions.CellExecutionError,
    match="nowhere does not exist; make it with prepare_data.py",
  ):
    nbclient.NotebookClient(
      book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
