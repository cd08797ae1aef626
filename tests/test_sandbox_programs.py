"""Programs that the sandbox must not pay, and unusual honest ones that it must.

They stand in sandbox_hostile.txt and sandbox_honest.txt, as they would in a file of their own:

  ==== name
  the answer
  ---- reference, setup or test
  its text; each test counts alone
"""

import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from lib import sandbox, sandbox_names

# Says yes to whatever it is asked.
YES = """
class Yes:
  __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda s, o: True
  __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __abs__ = __neg__ = lambda s, *o: 0
  __truediv__ = __mod__ = lambda s, *o: 0
  __hash__ = lambda s: 0
  __len__ = __index__ = __int__ = lambda s: 0
  __float__ = __round__ = lambda s, *a: 0.0
  __iter__ = lambda s: iter([])
  def __getattr__(s, n):
    if n.startswith("__"): raise AttributeError(n)
    return lambda *a, **k: True
"""
# Speaks the protocol of the wire itself.
RAW = """
import json, os, sys
def peer():
  fr = sys._getframe()
  while fr and "peer" not in fr.f_locals: fr = fr.f_back
  return fr.f_locals["peer"]
def raw(*messages):
  for m in messages: os.write(peer().fd, json.dumps(m).encode() + b"\\n")
def ask(m):
  raw(m); return json.loads(peer().reader.readline())
def op(name, on, *args): return ask({"op": name, "on": on, "args": list(args), "kwargs": {}})
"""
MODULES = """
argparse ast asyncio bz2 cProfile calendar cmd code colorsys concurrent.futures configparser
contextvars csv ctypes dis doctest email.message getopt gettext gzip html.parser http http.client
importlib.metadata importlib.util lzma mimetypes multiprocessing numbers optparse pdb plistlib
profile queue sched shelve socketserver sqlite3 statistics symtable tarfile textwrap timeit trace
unittest.mock urllib.request xml.dom.minidom xml.etree.ElementTree xml.sax zipfile"""


def read_jobs(name):
  """{program and number of the test: job} of a file, each test in a job of its own."""
  jobs = {}
  for program in (HERE / name).read_text().split("==== ")[1:]:
    title, _, text = program.partition("\n")
    code, *sections = text.split("---- ")
    job = {"code": code.replace("@YES@", YES).replace("@RAW@", RAW)}
    tests = []
    for section in sections:
      kind, _, body = section.partition("\n")
      if kind == "test":
        tests.append(body)
      else:
        job[kind] = body
    for i, test in enumerate(tests):
      jobs[f"{title} {i}"] = {**job, "tests": [test]}
  return jobs


@pytest.fixture(scope="module")
def box():
  with sandbox.Sandbox(workers=2) as shared:
    yield shared


def verdicts(box, jobs):
  return dict(zip(jobs, box.run(list(jobs.values())), strict=True))


def test_hostile_programs_are_not_paid(box):
  found = verdicts(box, read_jobs("sandbox_hostile.txt"))
  assert len(found) > 70 and [name for name, verdict in found.items() if verdict.passed] == []


def test_honest_programs_are_paid(box):
  found = verdicts(box, read_jobs("sandbox_honest.txt"))
  refused = {name: verdict.error for name, verdict in found.items() if not verdict.passed}
  assert len(found) > 90 and refused == {}


def test_the_standard_library_can_be_imported(box):
  jobs = {
    name: {"code": f"import {name}\ndef f(x): return x + 1", "tests": ["assert f(1) == 2"]}
    for name in MODULES.split()
  }
  assert {n: v.error for n, v in verdicts(box, jobs).items() if not v.passed} == {}


def test_a_missing_module_is_an_import_error(box):
  code = "try:\n  import numpy\nexcept ModuleNotFoundError as e:\n  missing = e.name"
  job = {"code": code, "tests": ["assert missing == 'numpy'"]}
  assert box.run([job])[0].passed


def test_raw_messages_arrive(box):
  """Else the hostile programs that send them would fail by their own mistake."""
  code = RAW + "def f(g): return op('call', 0, 20)['value'] + 1"
  assert box.run([{"code": code, "tests": ["assert f(lambda x: x * 2) == 41"]}])[0].passed


TWO = "def pack(x): return [x]\ndef unpack(x): return x[0]"
# (tests, reference, entry_point) -> names that the answer must define
ASKED = [
  (["assert f(2) == 4"], "", "", ["f"]),
  (["assert f(2) == g(4)"], "", "", ["f", "g"]),
  (["n = 3\nassert f(n) == sum(n for n in [4])"], "", "", ["f"]),
  (["assert isclose(f(2), 4.5)"], "", "", ["f"]),
  (["assert gcd(4, 6) == 2"], "", "", ["gcd"]),
  (["assert sum(1, 2) == 3"], "", "", ["sum"]),
  (["f = f(2)\nassert f == 4"], "", "", ["f"]),
  (["def check(f): assert f(1)\ncheck(g)"], "", "", ["g"]),
  (["assert unpack(pack(1)) == 1"], TWO, "", ["unpack"]),
  (["assert unpack(pack(1)) == 1"], TWO, "pack", ["pack"]),
  (["assert pack(1) == [1]", "assert unpack([1]) == 1"], TWO, "", ["pack", "unpack"]),
  (["def check(c): assert c(pack(1)) == 1\ncheck(unpack)"], TWO, "", ["unpack"]),
  (["assert f(2) == LIMIT"], "LIMIT = 4\ndef f(x): return 4", "", ["f"]),
  (["assert S().f() == h(1)"], "class S: pass\ndef h(x): return x", "", ["S", "h"]),
]


@pytest.mark.parametrize("tests, reference, entry_point, asked", ASKED)
def test_the_answer_supplies_what_was_asked(tests, reference, entry_point, asked):
  assert sandbox_names.plan("", tests, reference, entry_point).asked == asked
