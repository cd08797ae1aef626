"""What the documents name is there: scripts, flags, links, tests, files of lib/, settings of
run.sh.
"""

import importlib
import re
import subprocess

import pytest
from conftest import REPO

DOCS = REPO / "docs"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
PAGES += sorted((REPO / "benchmarks").glob("*.md"))
SCRIPTS = ("prepare_data", "train_sft", "train_grpo", "evaluate", "export_lora", "rewards")
# A variable of run.sh holds the flags of this script.
VARIABLES = {
  "DATA_FLAGS": "prepare_data",
  "SFT_FLAGS": "train_sft",
  "GRPO_FLAGS": "train_grpo",
  "EVAL_FLAGS": "evaluate",
  "EXPORT_FLAGS": "export_lora",
}
(KNOWN,) = re.findall(
  r"^known=\(([^)]*)\)", (REPO / "run.sh").read_text(encoding="utf-8"), re.MULTILINE
)
OTHER_SETTINGS = (*KNOWN.split(), "PYTHON", "HF_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY")
# Of JAX and Pathways.
OTHER_SETTINGS += ("JAX_COMPILATION_CACHE_DIR", "JAX_PLATFORMS", "JAX_BACKEND_TARGET")
STRANGERS = ("convert_hf_to_gguf.py",)  # scripts of other projects
OWN_FILES = ("my_reward.py", "my_check.py", "my.py", "part3.py", "SCRIPT.py", "FILE.py")

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
SCRIPT = re.compile(r"[\w./-]+\.py\b")
FLAG = re.compile(r"(?<![\w-])--([a-zA-Z]\w*)")


def text_of(page) -> str:
  return page.read_text(encoding="utf-8")


def commands_of(page) -> list[str]:
  """The lines of the page's shell blocks and notebook cells, each command one line."""
  lines = []
  for language, block in FENCE.findall(text_of(page)):
    if language in ("bash", "") and ("./run.sh" in block or ".py" in block):
      joined = block.replace("\\\n", " ")
      # A value in quotes may span lines.
      joined = re.sub(r'"[^"]*"', lambda match: match[0].replace("\n", " "), joined)
      lines += [line.split("   #")[0] for line in joined.splitlines()]
  return lines


def flags_of(script: str) -> set[str]:
  """Names that --NAME may have: a bool also as noNAME."""
  found = importlib.import_module(script).FLAGS
  names = set(found)
  return names | {f"no{name}" for name in names if found[name].boolean} | {"help"}


def slug(heading: str) -> str:
  """GitHub's anchor of a heading."""
  kept = re.sub(r"[^\w\- ]", "", re.sub(r"`", "", heading).lower())
  return kept.strip().replace(" ", "-")


def headings(page) -> set[str]:
  prose = FENCE.sub("", text_of(page))
  return {slug(line.lstrip("# ")) for line in prose.splitlines() if line.startswith("#")}


def name(page) -> str:
  return page.relative_to(REPO).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_scripts_in_commands_exist(page):
  for command in commands_of(page):
    for path in SCRIPT.findall(command):
      if path.removeprefix("./") in STRANGERS or path in OWN_FILES or path.startswith("/"):
        continue
      assert (REPO / path).is_file() or (page.parent / path).is_file(), f"{path} in: {command}"


def wrong_flags(command: str) -> list[str]:
  """Flags of a command that its script does not have; a variable's flags are its stage's."""
  wrong = []
  rest = command
  for variable, script in VARIABLES.items():
    for value in re.findall(rf'\b{variable}=("[^"]*"|\S+)', command):
      wrong += [flag for flag in FLAG.findall(value) if flag not in flags_of(script)]
      rest = rest.replace(value, "")
  for script in SCRIPTS:
    if match := re.search(rf"(?<!\w){script}\.py(.*?)(?=[|;&]|$)", rest):
      wrong += [flag for flag in FLAG.findall(match[1]) if flag not in flags_of(script)]
  return wrong


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_in_commands_exist(page):
  for command in commands_of(page):
    assert wrong_flags(command) == [], command


def test_a_wrong_flag_would_be_found():
  assert wrong_flags('GRPO_FLAGS="--beta=0 --bta=1" ./run.sh') == ["bta"]
  assert wrong_flags("python evaluate.py --table=a --split=test --beta=1") == ["beta"]
  assert wrong_flags("python evaluate.py --nooverwrite") == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_flags_in_prose_exist(page):
  """`--name` in running text is a flag of some script."""
  if page.parent.name == "benchmarks":
    return  # flags of the benchmarks' own
  known = set.union(*(flags_of(script) for script in SCRIPTS))
  known |= {"topology", "size", "meshes", "programs"}  # of bench_scale.py
  known |= {"name", "noname", "dir"}  # any flag, and Kaggle's client
  for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(page))):
    for flag in FLAG.findall(code):
      assert flag in known, f"`{code}`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_settings_in_commands_exist(page):
  for command in commands_of(page):
    if "./run.sh" in command:
      for setting in re.findall(r"(?<![\w-])([A-Z][A-Z_]+)=", command):
        assert setting in OTHER_SETTINGS, f"{setting} in: {command}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page):
  for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(page))):
    if target.startswith("http"):
      continue
    path, _, anchor = target.partition("#")
    linked = (page.parent / path).resolve() if path else page
    assert linked.exists(), target
    assert not anchor or anchor in headings(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_named_files_exist(page):
  """`lib/x.py`, `tests/x.py` and the like, wherever they stand."""
  pattern = r"\b((?:lib|tests|docs|benchmarks)/[\w/]+\.(?:py|md|png|svg))\b"
  for path in re.findall(pattern, text_of(page)):
    assert (REPO / path).is_file(), path


def test_the_files_of_lib_in_the_readme_exist():
  (groups,) = re.findall(r"Read `lib/`.*?\n\n(.*?)\n\n", text_of(REPO / "README.md"), re.DOTALL)
  named = re.findall(r"`(\w+)`", groups)
  assert len(named) == len(set(named)) > 50
  for file in named:
    assert (REPO / "lib" / f"{file}.py").is_file(), file


def test_the_tests_behind_the_promises_exist():
  file = ""
  found = re.findall(r"`(?:(\w+)::)?(test_\w+)`", text_of(DOCS / "promises.md"))
  assert len(found) > 40
  for named, test in found:
    file = named or file
    path = REPO / "tests" / f"test_{file}.py"
    assert f"def {test}(" in text_of(path), f"{file}::{test}"


def test_the_readme_and_contributing_show_the_same_metric():
  lines = re.findall(r"^\+[^+].*$", text_of(REPO / "README.md"), re.MULTILINE)
  page = text_of(REPO / "CONTRIBUTING.md")
  assert len(lines) > 2 and [line for line in lines if line not in page] == []


def test_flags_page_is_as_the_scripts_are():
  """Run `.venv/bin/python docs/make_flags.py` where this fails."""
  import runpy

  page = runpy.run_path(str(DOCS / "make_flags.py"))["page"]()
  assert text_of(DOCS / "flags.md") == page, "run .venv/bin/python docs/make_flags.py"


def test_the_readme_is_short_and_first_things_stand_first():
  readme = text_of(REPO / "README.md")
  assert len(readme.encode()) < 14_000
  assert "./run.sh" in "\n".join(readme.splitlines()[:20])


def test_every_setting_of_run_sh_is_explained():
  page = text_of(DOCS / "running.md")
  assert [setting for setting in KNOWN.split() if f"`{setting}`" not in page] == []


def test_old_names_are_gone():
  """The four write-ups have names, and `seed` is for random numbers; model.py became lib/."""
  listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
  paths = listed.stdout.split() or ["README.md", "run.sh"]
  old = re.compile(r"seed 00\d|(?<![\w/-])model\.py\b|(?<![\w/-])sandbox\.py\b|three modules that")
  for path in paths:
    if path.endswith((".py", ".md", ".sh", ".svg", ".toml")) and path != "tests/test_docs.py":
      found = old.search((REPO / path).read_text(encoding="utf-8"))
      assert not found, f"{path}: {found[0]}"
