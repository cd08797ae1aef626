"""The house: every file of lib/ has its place on the map, imports run one way, nothing grows too
long.
"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted(ROOT.glob("*.py"))
ROOMS = sorted(path for path in (ROOT / "lib").glob("*.py") if path.stem != "__init__")


def imports_of(path: pathlib.Path) -> set[str]:
  """Stems of the project's own files that this one imports, wherever in it."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.ImportFrom) and node.module == "lib":
      found |= {f"lib.{alias.name}" for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lib."):
      found.add(node.module)
    elif isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
  return found


def test_every_room_is_on_the_map():
  listed = re.findall(r"[a-z_]+", lib.__doc__.split("reading order:")[1])
  missing = [path.stem for path in ROOMS if path.stem not in listed]
  assert not missing, f"name these in lib/__init__.py: {missing}"


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.stem)
def test_a_room_imports_no_script(path):
  assert not imports_of(path) & {script.stem for script in SCRIPTS}


def test_imports_run_one_way():
  needs = {f"lib.{path.stem}": imports_of(path) for path in ROOMS}
  done = []
  while needs:
    free = [room for room, needed in needs.items() if not needed & needs.keys()]
    assert free, f"these import each other in a circle: {sorted(needs)}"
    done += free
    for room in free:
      del needs[room]


@pytest.mark.parametrize("path", SCRIPTS + ROOMS, ids=lambda path: path.stem)
def test_a_file_can_be_read_in_one_sitting(path):
  text = path.read_text(encoding="utf-8")
  assert len(text.splitlines()) <= 750
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      assert node.end_lineno - node.lineno < 90, f"{path.name}: {node.name} is long"


@pytest.mark.parametrize("path", [ROOT / "run.sh", *SCRIPTS, *ROOMS], ids=lambda path: path.name)
def test_no_line_is_long(path):
  # ruff forgives a pattern without spaces.
  lines = path.read_text(encoding="utf-8").splitlines()
  assert [line for line in lines if len(line) > 100] == []


@pytest.mark.parametrize(
  "script, heavy",
  [("rewards", {"numpy", "jax", "tqdm", "sympy"}), ("prepare_data", {"jax", "tunix", "pandas"})],
)
def test_what_needs_no_model_is_there_in_no_time(script, heavy):
  """A notebook that checks an answer, and data preparation, wait for neither JAX nor Tunix."""
  loaded = f"import sys, {script}; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert not heavy & set(done.stdout.split())
