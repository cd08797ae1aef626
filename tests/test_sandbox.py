"""The sandbox: hostile programs fail and touch nothing, honest ones pass, and the trainer's process
is never at risk.
"""

import errno
import json
import os
import pathlib
import random
import shutil
import signal
import string
import subprocess
import sys
import textwrap
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
from lib import (
  code_checking,
  sandbox,
  sandbox_data,
  sandbox_judge,
  sandbox_lockdown,
  sandbox_names,
  sandbox_trust,
  sandbox_wire,
)
from lib.errors import InputError

SQUARE = ["assert f(2) == 4", "assert f(3) == 9"]
LYING = """
class Yes:
  __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = lambda s, o: True
  __sub__ = __rsub__ = __abs__ = __add__ = __mod__ = lambda s, *a: 0.0
  __hash__ = lambda s: 0
  __len__ = __index__ = __int__ = lambda s: 0
  __float__ = __round__ = lambda s, *a: 0.0
  __iter__ = lambda s: iter([])
  __instancecheck__ = lambda s, o: True
  def __getattr__(s, n): return lambda *a, **k: True
"""

RAW = """
import json, os, sys
def raw(*messages):
  frame = sys._getframe()
  while frame and "peer" not in frame.f_locals:
    frame = frame.f_back
  for message in messages:
    os.write(frame.f_locals["peer"].fd, json.dumps(message).encode() + b"\\n")
"""


@pytest.fixture(scope="module")
def box():
  with sandbox.Sandbox(workers=2, wall_seconds=1.5) as shared:
    yield shared


# ---- must fail
# name: (answer, tests); the tests are such that only a forged verdict, or a thing that must not be
# possible, passes them
HOSTILE = {
  # the result lies about comparisons
  "equal_to_all": (LYING + "def f(x): return Yes()", SQUARE),
  "close_to_all": (LYING + "def f(x): return Yes()", ["assert abs(f(2) - 4.5) < 1e-6"]),
  "isclose": (LYING + "def f(x): return Yes()", ["import math\nassert math.isclose(f(2), 4.5)"]),
  "contains_all": (LYING + "def f(x): return Yes()", ["assert 4 in f(2)"]),
  "in_list": (LYING + "def f(x): return Yes()", ["assert f(2) in [4, 5]", "assert f(2) in {4, 5}"]),
  "method_says_yes": (
    LYING + "def f(x): return Yes()",
    [
      "assert f(2).startswith('4')",
      "assert f(2).issubset({4})",
      "assert f(2).equals(4)",
      "assert f(2).all()",
      "m = f(2)\nassert m.same.equals(4)",
    ],
  ),
  "isinstance_int": (LYING + "def f(x): return Yes()", ["assert isinstance(f(2), int)"]),
  "is_a_type": (LYING + "f = Yes()", ["assert isinstance(f(2), int) and f == 3"]),
  "sorted_objects": (LYING + "def f(x): return [Yes(), Yes()]", ["assert sorted(f(2)) == [1, 2]"]),
  "len_and_items_disagree": (
    LYING + "def f(x): return Yes()",
    ["assert len(f(0)) == 0 and f(0).pop() == 3"],
  ),
  "str_subclass": (
    "class S(str):\n  __eq__ = lambda s, o: True\n  __hash__ = lambda s: 0\ndef f(x): return S('')",
    ["assert f(1) == 'abc'", "assert f(1) in {'abc'}"],
  ),
  "int_subclass": (
    "class I(int):\n  __eq__ = lambda s, o: True\n  __int__ = __index__ = lambda s: 4\n"
    "def f(x): return I(0)",
    SQUARE,
  ),
  "float_subclass": (
    "class F(float):\n  __eq__ = lambda s, o: True\n  __float__ = lambda s: 4.0\n"
    "def f(x): return F('nan')",
    SQUARE,
  ),
  "dict_subclass": (
    "class D(dict):\n  __eq__ = lambda s, o: True\n  items = lambda s: [(1, 2)]\n"
    "def f(x): return D()",
    ["assert f(1) == {1: 2}"],
  ),
  "tuple_subclass": (
    "class T(tuple):\n  __eq__ = lambda s, o: True\ndef f(x): return T()",
    ["assert f(1) == (1, 2)"],
  ),
  "keys_that_lie": (
    LYING + "def f(x): return {Yes(): 1}",
    ["assert f(1) == {'a': 1}", "assert f(1)['a'] == 1"],
  ),
  "nested_deep": (
    LYING + "def f(x): return (1, [2, {'a': Yes()}])",
    ["assert f(1) == (1, [2, {'a': 3}])"],
  ),
  "nan": (
    "def f(x): return float('nan')",
    ["assert f(1) == f(1)", "assert not f(1) != float('nan')"],
  ),
  "namedtuple_lies": (
    "import collections\nclass N(collections.namedtuple('N', 'a b')):\n"
    "  __eq__ = lambda s, o: True\n"
    "def f(x): return N(0, 0)",
    ["assert f(1) == (1, 2)"],
  ),
  "two_lying_objects": (LYING + "def f(x): return Yes()", ["assert f(1) == f(2)"]),
  "exception_as_result": ("class f(Exception):\n  __eq__ = lambda s, o: True", SQUARE),
  "class_as_function": (LYING.replace("Yes", "f") + "f.__init__ = lambda s, x: None", SQUARE),
  "metaclass": (
    "class M(type):\n  __eq__ = lambda s, o: True\n  __hash__ = lambda s: 0\n"
    "class C(metaclass=M): pass\n"
    "def f(x): return C",
    ["assert f(1) == int"],
  ),
  # the result breaks the control flow of the tests
  "stop_iteration": (
    "def f(x): raise StopIteration",
    ["assert all(map(lambda x: f(x) == x * x, [2, 3]))"],
  ),
  "stop_iteration_subclass": (
    "class StopIt(StopIteration): pass\ndef f(x): raise StopIt",
    ["assert list(map(f, [1])) == []"],
  ),
  "system_exit": ("def f(x): raise SystemExit(0)", SQUARE),
  "keyboard_interrupt": ("def f(x): raise KeyboardInterrupt", SQUARE),
  "assertion_inside": ("def f(x): raise AssertionError", ["assert f(2) == 4"]),
  "named_like_builtin": (
    "class AssertionError(BaseException): pass\ndef f(x): raise AssertionError",
    SQUARE,
  ),
  "exception_group": ("def f(x): raise BaseExceptionGroup('a', [SystemExit(0)])", SQUARE),
  "error_needs_arguments": ("def f(x): b'\\xff'.decode()", SQUARE),
  "die_where_error_expected": (
    "import os\ndef f(x): os._exit(0)",
    ["ok = False\ntry:\n  f(-1)\nexcept Exception:\n  ok = True\nassert ok"],
  ),
  "die_where_anything_expected": (
    "import os\ndef f(x): os._exit(0)",
    ["ok = False\ntry:\n  f(-1)\nexcept BaseException:\n  ok = True\nassert ok"],
  ),
  "exit_in_del": (
    "import os\nclass D:\n  def __del__(s): os._exit(0)\ndef f(x):\n  D()\n  return 4",
    SQUARE,
  ),
  "exit_at_top": ("raise SystemExit(0)", SQUARE),
  # the process is poisoned, searched or patched
  "patched_codec": (
    "import json, sys\n"
    'json.dumps = lambda *a, **k: \'{"results": [true, true], "error": null}\'\ndef f(x): return 0',
    SQUARE,
  ),
  "patched_main": (
    "from lib import sandbox_wire as w, sandbox_judge as j\nw.Peer.encode = lambda *a: 4\n"
    "j.judge = w.revive = lambda *a: None\n"
    "def f(x): return 0",
    SQUARE,
  ),
  "frames": (
    """
import sys
def f(x):
  found, frame = [], sys._getframe()
  while frame:
    seen = [*frame.f_code.co_consts, *frame.f_locals.values()]
    found += [v for v in seen if type(v) is int and 40000 < v < 50000]
    frame = frame.f_back
  return found[0] if found else 0
""",
    ["assert f(2) == 40961"],
  ),
  "gc_walk": (
    "import gc\ndef f(x): return next((o for o in gc.get_objects() if isinstance(o, str) and "
    "'se' + 'cret_' in o), None)",
    ["assert 'secret_expected' in f(2)"],
  ),
  "forged_replies": (
    "import os, json\n"
    "for m in ([[True, True], None], {'value': 4}, {'value': {'t': 'dict', 'v': []}}):\n"
    "  for fd in range(3, 40):\n    try: os.write(fd, json.dumps(m).encode() + b'\\n')\n"
    "    except OSError: pass\ndef f(x): return 0",
    SQUARE,
  ),
  "forged_callback": (
    "import os, json\ndef f(x):\n"
    "  b = json.dumps({'op': 'call', 'on': 0, 'args': [1], 'kwargs': {'t': 'dict', 'v': "
    "[]}}).encode()\n"
    "  for fd in range(3, 40):\n    try: os.write(fd, b + b'\\n')\n    except OSError: pass\n"
    "  return 0",
    SQUARE,
  ),
  "forged_tags": (
    "from lib import sandbox_wire as w\ndef f(x): return 0\n"
    "w.Peer.encode = lambda s, v: {'t': '__import__', 'v': 'os'}",
    SQUARE,
  ),
  "forged_type": (
    "from lib import sandbox_wire as w\ndef f(x): return 0\n"
    "w.Peer.encode = lambda s, v: {'t': 'type', 'v': 'exec'}",
    ["assert f(2) is exec"],
  ),
  "forged_namedtuple": (
    "from lib import sandbox_wire as w\ndef f(x): return 0\n"
    "w.Peer.encode = lambda s, v: {'t': 'record', "
    "'v': ['N', ['a=__import__(\"os\")._exit(0)'], [1]]}",
    SQUARE,
  ),
  "forged_huge_number": (
    "import json\ndef f(x): return 0\njson.dumps = lambda *a: '9' * 3000000",
    SQUARE,
  ),
  "forged_deep_json": (
    "import json\ndef f(x): return 0\njson.dumps = lambda *a: '[' * 1000000",
    SQUARE,
  ),
  # the answer speaks the wire's protocol itself: every message that it can think of
  **{
    f"raw_{i}": (
      RAW + f"raw({message})\nimport time\ntime.sleep(0.3)",
      [*SQUARE, "assert isinstance(3, f) and f(0) == 4"],
    )
    for i, message in enumerate(
      [
        "{'value': [{'t': 'dict', 'v': [['f', 4]]}, {'t': 'dict', 'v': []}]}",
        "{'value': [{'t': 'dict', 'v': [['f', {'t': 'type', 'v': 'object'}]]}, {'t': 'dict', "
        "'v': []}]}",
        "{'error': {'names': ['BaseExceptionGroup', 'SystemExit'], 'message': '', 'args': ['']}}",
        "{'value': [{'t': 'dict', 'v': [['f', {'t': 'mine', 'v': -1, 'about': ''}]]}, {'t': "
        "'dict', 'v': []}]}",
        "{'value': [{'t': 'dict', 'v': [['f', {'t': 'mine', 'v': True, 'about': ''}]]}, {'t': "
        "'dict', 'v': []}]}",
        "{'value': {'t': 'mine', 'v': 0, 'about': 'class'}}",
        "{'value': [{'t': 'dict', 'v': [['f', {'t': 'yours', 'v': 0}]]}, {'t': 'dict', 'v': []}]}",
        "{'value': {'t': 'yours', 'v': -1}}",
        "{'value': {'t': 'mine', 'v': [[]], 'about': ''}}",
        "{'value': 'f'}",
        "[]",
        "['op']",
        "None",
        "'op'",
        "{'op': 'call', 'on': -1, 'args': [], 'kwargs': []}",
        "{'op': 3}",
        "{'error': 3}",
        "[[True, True], None]",
      ]
    )
  },
  "raw_error": (
    RAW + "def f(x): raw({'error': {'names': ['StopIteration', 'Gone'], 'message': '\\ud800', "
    "'args': []}})",
    ["assert all(map(lambda x: f(x) == 5, [1]))"],
  ),
  "raw_bool": (
    RAW + "def f(x): raw({'value': {'t': 'mine', 'v': 0, 'about': 'class'}}, {'value': 'yes'})",
    ["assert f(1)"],
  ),
  "raw_iterator": (
    RAW + "def f(x): raw({'value': {'t': 'mine', 'v': 0, 'about': 'class'}}, {'value': 4}, "
    "{'value': [4]})",
    ["assert list(f(1)) == [4]"],
  ),
  "own_class_lies": (
    "class F:\n  __init__ = lambda s, x: None\n"
    "  __eq__ = __sub__ = __rsub__ = __abs__ = lambda s, *o: 0\n  __float__ = lambda s: 4.5",
    [
      "assert abs(F(2) - 4.5) < 1e-6",
      "import math\nassert math.isclose(F(2), 4.5)",
      "assert F(2) == 4",
    ],
  ),
  "reads_the_callback": (
    "def f(g): return g.__closure__[0].cell_contents",
    ["def g():\n  s = 4\n  return lambda: s\nassert f(g()) == 4"],
  ),
  "lies_to_the_callback": (
    LYING + "def f(g): return g(Yes())",
    [
      "assert f(lambda x: x.startswith('4'))",
      "assert f(lambda x: x == 4)",
      "assert f(lambda x: len(x) == 0)",
    ],
  ),
  "asks_more_of_the_callback": (
    RAW + "def f(g):\n  out = []\n"
    "  for op in ('getattr', 'setattr', 'str', 'repr', '__getitem__', 'isinstance', "
    "'__getattribute__'):\n"
    "    try: out.append(type(g)._ask(g, op, '__code__'))\n    except Exception: pass\n"
    "  return out",
    ["assert f(lambda: 40961)"],
  ),
  "is_eval": ("f = eval", ["expected = 3\nassert f('expected') == 3"]),
  "decimal_bomb": (
    "from decimal import Decimal\ndef f(x): return Decimal('1e999999999')",
    ["assert int(f(1)) == 3"],
  ),
  "range_bomb": (
    "def f(x): return range(10 ** 18)",
    ["assert list(f(1)) == [1]", "assert sum(f(1)) == 0"],
  ),
  "hash_collisions": (
    "def f(x): return {(i + 1) * (2 ** 61 - 1): i for i in range(20000)}",
    ["assert f(1) == {}"],
  ),
  "trace": (
    "import os, sys\nsys.settrace(lambda *a: os._exit(0))\n"
    "sys.setprofile(lambda *a: os._exit(0))\ndef f(x): return 0",
    SQUARE,
  ),
  "audit_hook": (
    "import os, sys\nsys.addaudithook(lambda *a: os._exit(0))\ndef f(x): return 0",
    SQUARE,
  ),
  "coroutine": ("async def f(x): return x * x", SQUARE),
  "shared_memory": (
    "import ctypes\ndef f(x): return ctypes.CDLL(None).shmget(0, 4096, 0o1600)",
    ["assert f(1) >= 0"],
  ),
  "new_user_namespace": (
    "import ctypes\ndef f(x): return ctypes.CDLL(None).unshare(0x10000000)",
    ["assert f(1) == 0"],
  ),
  "clone3": (
    "import ctypes\ndef f(x):\n  a = (ctypes.c_uint64 * 11)()\n  a[4] = 17\n"
    "  return ctypes.CDLL(None).syscall(435, a, 88)",
    ["assert f(1) >= 0"],
  ),
  "dumpable": (
    "import ctypes\ndef f(x): return ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)",
    ["assert f(1) == 0"],
  ),
  "forged_length": (
    "import os\ndef f(x):\n  for fd in range(3, 40):\n"
    "    try: os.write(fd, b'\\xff\\xff\\xff\\xff' * 99)\n"
    "    except OSError: pass\n  return 4",
    ["assert f(2) == 5"],
  ),
  "closes_wire": ("import os\ndef f(x):\n  os.closerange(0, 64)\n  return 4", SQUARE),
  "ctypes_small_ints": (
    "import ctypes\nfor n in (4, 9): ctypes.c_long.from_address(id(n) + 24).value = 0\n"
    "def f(x): return 0",
    SQUARE,
  ),
  "ctypes_null": ("import ctypes\ndef f(x): ctypes.memset(0, 0, 8)", SQUARE),
  "import_tests": (
    "def f(x):\n  import tests\n  return tests.expected",
    ["expected = 4\nassert f(2) == expected"],
  ),
  "builtin_shadowed": (
    "def sorted(*a): return 1\ndef f(x): return [9]\nimport builtins\nbuiltins.sorted = sorted",
    ["assert sorted(f(1)) == sorted([1])"],
  ),
  "isclose_of_its_own": (
    "class math:\n  isclose = lambda *a, **k: True\ndef f(x): return 0",
    ["assert math.isclose(f(2), 4.5)"],
  ),
  "empties_the_argument": (
    "def f(a):\n  a.clear()\n  return []",
    ["a = [3, 1]\nassert f(a) == sorted(a)"],
  ),
  "defines_nothing": ("", ["assert sum(10, 15) == 25"]),
  # limits
  "loop": ("def f(x):\n  while True: pass", SQUARE),
  "loop_at_top": ("while True: pass", SQUARE),
  "loop_in_eq_of_key": (
    "class K:\n  __hash__ = lambda s: 1\n  def __eq__(s, o):\n    while True: pass\n"
    "def f(x): return {K(): 1, K(): 2}",
    SQUARE,
  ),
  "one_c_call": ("def f(x): return 9 ** 9 ** 9 ** 9", SQUARE),
  "regex": ("import re\ndef f(x): return re.match('(a+)+$', 'a' * 64 + 'b')", SQUARE),
  "signals_ignored": (
    "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
    "  except (OSError, ValueError): pass\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\ndef f(x):\n  while True: pass",
    SQUARE,
  ),
  "threads_outlive": (
    "import threading\ndef g():\n  while True: pass\n"
    "for _ in range(4): threading.Thread(target=g).start()\n"
    "def f(x): return x",
    SQUARE,
  ),
  "generator_bomb": ("def f(x):\n  while True: yield 'x' * 100000", ["assert list(f(2)) == []"]),
  "memory": ("def f(x): return len(bytearray(8 << 30))", ["assert f(1) == 8 << 30"]),
  "wide_result": ("def f(x): return [0] * 10 ** 7", ["assert len(f(1)) == 10 ** 7"]),
  "deep_result": ("def f(x):\n  v = []\n  for _ in range(100000): v = [v]\n  return v", SQUARE),
  "self_containing": ("def f(x):\n  v = []\n  v.append(v)\n  return v", SQUARE),
  "c_stack": (
    "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(x): return sorted([x], key=f)",
    SQUARE,
  ),
  "huge_int": ("def f(x): return 1 << 10 ** 8", SQUARE),
  "deep_source": ("x = " + "(" * 30000, SQUARE),
  "unary_source": ("x = " + "-" * 60000 + "1", SQUARE),
  "attribute_chain": ("def f(x): return x" + ".a" * 30000, SQUARE),
  "too_long": ("#" * (1 << 16) + "\ndef f(x): return x * x", SQUARE),
  "nul": ("def f(x): return x * x\n\0", SQUARE),
  "surrogate": ("s = '\ud800'\ndef f(x): return x", SQUARE),
  "reads_stdin": ("n = int(input())\ndef f(x): return x * x", SQUARE),
  # files, processes, sockets, secrets
  "writes": ("def f(x):\n  open('@CANARY@/new', 'w').write('x')\n  return 1", ["assert f(1) == 1"]),
  "deletes": (
    "import os\ndef f(x):\n  os.remove('@CANARY@/keep')\n  return 1",
    ["assert f(1) == 1"],
  ),
  "reads": ("def f(x): return open('@CANARY@/keep').read()", ["assert f(1) == 'untouched'"]),
  "lists_root": ("import os\ndef f(x): return len(os.listdir('/'))", ["assert f(1) >= 0"]),
  "raw_open": (
    "import ctypes\nlibc = ctypes.CDLL(None)\ndef f(x): return libc.syscall(2, b'/etc/passwd', 0)",
    ["assert f(1) >= 0"],
  ),
  "int80_open": (
    "import ctypes\nlibc = ctypes.CDLL(None)\n"
    "def f(x): return libc.syscall(2 | 0x40000000, b'/etc/passwd', 0)",
    ["assert f(1) >= 0"],
  ),
  "memfd": ("import os\ndef f(x): return os.memfd_create('x')", ["assert f(1) >= 0"]),
  "fork": ("import os\ndef f(x): return os.fork()", ["assert f(1) >= 0"]),
  "raw_vfork": (
    "import ctypes\ndef f(x): return ctypes.CDLL(None).syscall(57)",
    ["assert f(1) >= 0"],
  ),
  "shell": (
    "import subprocess\ndef f(x): return subprocess.run(['true']).returncode",
    ["assert f(1) == 0"],
  ),
  "kills_all": ("import os\ndef f(x):\n  os.kill(-1, 9)\n  return 1", ["assert f(1) == 1"]),
  "kills_parent": (
    "import os\ndef f(x):\n  os.kill(os.getppid(), 9)\n  return 1",
    ["assert f(1) == 1"],
  ),
  "inet": ("import socket\ndef f(x): return socket.socket().fileno()", ["assert f(1) >= 0"]),
  "unix": ("import socket\ndef f(x): return len(socket.socketpair())", ["assert f(1) == 2"]),
  "unlimits": (
    "import resource as r\ndef f(x):\n  r.setrlimit(r.RLIMIT_CPU, (-1, -1))\n  return 1",
    ["assert f(1) == 1"],
  ),
  "ptrace": (
    "import ctypes, os\ndef f(x): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)",
    ["assert f(1) == 0"],
  ),
  "io_uring": (
    "import ctypes\ndef f(x): return ctypes.CDLL(None).syscall(425, 8, bytes(120))",
    ["assert f(1) >= 0"],
  ),
  "environment": (
    "import os\ndef f(x): return sorted(os.environ)",
    ["assert 'SANDBOX_TEST_TOKEN' in f(1)", "assert len(f(1)) > 3"],
  ),
  "descriptors": (
    "import os\ndef f(x):\n  n = 0\n  for fd in range(3, 4096):\n"
    "    try: os.fstat(fd); n += 1\n    except OSError: pass\n  return n",
    ["assert f(1) > 2"],
  ),
  "numpy": ("import numpy\ndef f(x): return x * x", SQUARE),
}


def test_hostile_programs_fail(tmp_path, monkeypatch):
  monkeypatch.setenv("SANDBOX_TEST_TOKEN", "secret")
  (tmp_path / "keep").write_text("untouched")
  # each test alone, so that none passes unseen behind one that fails; SQUARE is one, a constant may
  # pass half of it
  jobs = [
    (name, {"code": code.replace("@CANARY@", str(tmp_path)), "tests": part})
    for name, (code, tests) in HOSTILE.items()
    for part in ([tests] if tests is SQUARE else [[t] for t in tests])
  ]
  with sandbox.Sandbox(workers=2, wall_seconds=0.6) as impatient:
    verdicts = impatient.run([job for _, job in jobs])
  assert [
    (name, job["tests"]) for (name, job), v in zip(jobs, verdicts, strict=True) if v.passed
  ] == []
  assert [path.name for path in tmp_path.iterdir()] == ["keep"] and (
    tmp_path / "keep"
  ).read_text() == "untouched"


def test_no_verdict_by_dying_late(box):
  """An answer that replies first and dies afterwards must not turn the next call's failure into an
  expected exception.
  """
  code = (
    "import os, threading, time\ndef f(x):\n"
    "  threading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start()\n"
    "  return 1"
  )
  tests = [
    "assert f(1) == 1\nimport time\ntime.sleep(0.2)\ntry:\n  f(-1)\n  ok = False\n"
    "except Exception:\n  ok = True\nassert ok"
  ]
  assert box.run([{"code": code, "tests": tests}])[0].passed is False


# ---- must pass
STACK = """
class Stack:
  def __init__(self, items=()): self.items = list(items)
  def push(self, x):
    self.items.append(x)
    return self
  def pop(self):
    if not self.items: raise Empty("no item")
    return self.items.pop()
  def __len__(self): return len(self.items)
  def __getitem__(self, i): return self.items[i]
  def __iter__(self): return iter(self.items)
  def __str__(self): return f"Stack({self.items})"
class Empty(LookupError): pass
"""
HONEST = {
  "plain_types": (
    "def f(): return ({1: (2, 3)}, {4}, frozenset([5]), b'q', bytearray(b'r'), 1 + 2j, None, "
    "True, 1e300, 10 ** 40, range(3))",
    [
      "assert f() == ({1: (2, 3)}, {4}, frozenset([5]), b'q', bytearray(b'r'), 1 + 2j, None, "
      "True, 1e300, 10 ** 40, range(3))",
      "assert type(f()[1]) is set and type(f()[7]) is bool and type(f()) is tuple",
    ],
  ),
  "library_types": (
    "import collections, datetime, decimal, fractions\n"
    "P = collections.namedtuple('P', 'x y')\ndef f():\n"
    "  return [P(1, 2), collections.Counter('aab'), collections.deque([1]), "
    "decimal.Decimal('1.5'),\n"
    "          fractions.Fraction(1, 3), datetime.date(2020, 1, 2), {'a': 1}.keys(), int]",
    [
      "from collections import Counter, deque\nfrom datetime import date\n"
      "from decimal import Decimal\n"
      "from fractions import Fraction\nr = f()\nassert r[0] == (1, 2)\n"
      "assert r[1].most_common(1) == [('a', 2)] and r[2] == deque([1]) and r[3] == Decimal('1.5')\n"
      "assert r[4] == Fraction(1, 3) and r[5] == date(2020, 1, 2) and list(r[6]) == ['a'] and "
      "r[7] is int"
    ],
  ),
  "floats": (
    "def f(x): return x / 3",
    [
      "import math\nassert math.isclose(f(1), 0.333333333, rel_tol=1e-6)",
      "assert abs(f(1) - 0.3333) < 1e-3",
      "assert round(f(1), 2) == 0.33",
      "assert math.isnan(f(float('nan')))",
    ],
  ),
  "isclose_without_import": ("def f(x): return x / 3", ["assert math.isclose(f(3), 1)"]),
  "message_and_not": (
    "def f(x): return x > 2",
    ["assert f(3) == True, 'three is more'", "assert not f(1)", "assert f(1) is False"],
  ),
  "human_eval": (
    "def f(x):\n  return x + 1",
    [
      "METADATA = {}\ndef check(candidate):\n  assert candidate(1) == 2\n  for i in range(5):\n"
      "    assert candidate(i) == i + 1, f'{i}'\n\ncheck(f)"
    ],
  ),
  "expected_error": (
    "class Bad(ValueError): pass\ndef f(x):\n  if x < 0: raise Bad('negative')\n  return x",
    [
      "try:\n  f(-1)\n  assert False\nexcept ValueError as e:\n  assert str(e) == 'negative'",
      "assert f(1) == 1",
    ],
  ),
  "expected_own_error": (
    STACK,
    ["s = Stack()\ntry:\n  s.pop()\n  ok = False\nexcept LookupError:\n  ok = True\nassert ok"],
  ),
  "class": (
    STACK,
    [
      "s = Stack([1])\ns.push(2).push(3)\n"
      "assert len(s) == 3 and s.items == [1, 2, 3] and s[0] == 1",
      "assert s.pop() == 3 and str(s) == 'Stack([1, 2])' and list(s) == [1, 2] and 2 in s",
      "assert isinstance(s, Stack) and not isinstance(3, Stack)",
      "s.items = [7]\nassert s.pop() == 7 and not s",
      "assert f'{Stack()}' == 'Stack([])'",
    ],
  ),
  "tree": (
    "class Node:\n  def __init__(s, v): s.v, s.left, s.right = v, None, None\n"
    "def depth(n): return 0 if n is None else 1 + max(depth(n.left), depth(n.right))\n"
    "def build(xs):\n  head = None\n  for x in reversed(xs):\n    n = Node(x)\n"
    "    n.right = head\n    head = n\n  return head",
    [
      "root = Node(1)\nroot.left = Node(2)\nroot.left.right = Node(3)\nassert depth(root) == 3",
      "assert build([1, 2]).right.v == 2 and build([1]).right is None",
      "assert root.left is root.left",
    ],
  ),
  "callbacks": (
    "def f(g, xs): return [g(x) for x in xs]\ndef h(x): return f(lambda y: y + x, [1])[0]",
    [
      "assert f(lambda x: x * 2, [1, 2]) == [2, 4]",
      "assert f(str, [1]) == ['1']",
      "assert f(h, [1]) == [2]",
      "assert f(lambda x: h(x) + f(lambda y: y, [x])[0], [5]) == [11]",
    ],
  ),
  "callback_error": (
    "def f(g):\n  try: return g()\n  except KeyError as e: return 'caught ' + e.args[0]",
    ["def g(): raise KeyError('k')\nassert f(g) == 'caught k'"],
  ),
  "closure": (
    "def adder(n): return lambda x: x + n",
    ["assert adder(3)(4) == 7", "add = adder(1)\nassert [add(i) for i in range(2)] == [1, 2]"],
  ),
  "endless_generator": (
    "def f():\n  n = 0\n  while True:\n    yield n\n    n += 1",
    [
      "g = f()\nassert next(g) == 0 and next(g) == 1",
      "from itertools import islice\nassert list(islice(f(), 1000)) == list(range(1000))",
    ],
  ),
  "generator_error": (
    "def f():\n  yield 1\n  yield 2\n  raise ValueError",
    [
      "out = []\ntry:\n  for x in f(): out.append(x)\nexcept ValueError:\n"
      "  out.append('end')\nassert out == [1, 2, 'end']"
    ],
  ),
  "own_iterator": (
    "class Count:\n  def __init__(s, n): s.n = n\n  def __iter__(s): return s\n"
    "  def __next__(s):\n    if not s.n: raise StopIteration\n"
    "    s.n -= 1\n    return s.n",
    ["assert list(Count(3)) == [2, 1, 0]", "c = Count(2)\nassert next(c) == 1 and next(c) == 0"],
  ),
  "match_object": (
    "import re\ndef f(s): return re.match('a+', s)",
    ["assert f('aa')", "assert not f('b')", "assert f('b') is None"],
  ),
  "enum": (
    "import enum\nclass Color(enum.Enum):\n  RED = 1\ndef f(): return Color.RED",
    ["assert f() == Color.RED", "assert Color.RED.value == 1"],
  ),
  "dataclass": (
    "import dataclasses\n@dataclasses.dataclass\nclass P:\n  x: int = 0\ndef f(): return P(4)",
    ["assert f().x == 4"],
  ),
  "constant": (
    "LIMIT = [1, 2]\ndef f(): return LIMIT",
    ["assert LIMIT == [1, 2] and f() == LIMIT"],
  ),
  "keywords": (
    "def f(a, *b, c=1, **d): return a, b, c, d",
    ["assert f(1, 2, c=3, z=4) == (1, (2,), 3, {'z': 4})"],
  ),
  "recursion": ("def f(n): return 0 if n == 0 else 1 + f(n - 1)", ["assert f(950) == 950"]),
  "threads": (
    "import threading\ndef f(x):\n  out = []\n"
    "  ts = [threading.Thread(target=out.append, args=(i,)) for i in range(8)]\n"
    "  for t in ts: t.start()\n  for t in ts: t.join()\n  return sorted(out)",
    ["assert f(0) == list(range(8))"],
  ),
  "prints": ("print('hello' * 10 ** 5)\ndef f(x):\n  print(x)\n  return x", ["assert f(1) == 1"]),
  "main_guard": (
    "def f(x): return x\nif __name__ == '__main__':\n  print(f(int(input())))",
    ["assert f(1) == 1"],
  ),
  "imports": (
    "import heapq, bisect, string, statistics, random, json, copy, cmath, typing, time, "
    "hashlib, operator, datetime\n"
    "from functools import lru_cache, reduce\nfrom typing import List\n@lru_cache(None)\n"
    "def f(n: int): return n if n < 2 else f(n - 1) + f(n - 2)",
    ["assert f(60) == 1548008755920"],
  ),
  "named_like_builtin": (
    "def sum(a, b): return a + b",
    ["assert sum(10, 15) == 25", "assert sum(1, 2) == 3"],
  ),
  "named_like_module": ("def queue(n): return list(range(n))", ["assert queue(2) == [0, 1]"]),
  "unicode": (
    "def f(s): return s[::-1]",
    ["assert f('h\u00e9\U0001d11e') == '\U0001d11e\u00e9h'", "assert f('\\ud800a') == 'a\\ud800'"],
  ),
  "carriage_returns": ("def f(x):\r\n  return x * x\r\n", SQUARE),
  "iterators_in": (
    "def f(xs): return sum(xs)",
    [
      "assert f(x for x in [1, 2]) == 3",
      "assert f(iter([4])) == 4",
      "assert f(map(int, '12')) == 3",
    ],
  ),
  "types_in": (
    "def f(xs, kind): return [x for x in xs if isinstance(x, kind)]",
    ["assert f([1, 'a', 2.5], int) == [1]", "assert f([1, 'a'], (int, str)) == [1, 'a']"],
  ),
  "long_int": (
    "def f(n):\n  r = 1\n  for i in range(2, n + 1): r *= i\n  return r",
    ["import math\nassert f(3000) == math.factorial(3000)"],
  ),
  "same_object": ("def f(g): return g", ["g = lambda: 1\nassert f(g) is g"]),
}


def test_honest_programs_pass(box):
  verdicts = box.run([{"code": code, "tests": tests} for code, tests in HONEST.values()])
  assert {name: v for name, v in zip(HONEST, verdicts, strict=True) if not v.passed} == {}


def test_the_reference_tells_what_is_the_answers_to_define(box):
  reference = (
    "from math import isclose\ndef max(a): return sorted(a)[-1]\ndef close(a): return isclose(a, 1)"
  )
  job = {"tests": ["assert max([1, 2]) == 2"], "reference": reference}
  wrong, right = box.run([{**job, "code": "pass"}, {**job, "code": reference}])
  assert (wrong.passed, right.passed) == (
    False,
    True,
  )  # without it the builtin would answer for an empty answer
  lie = {
    "code": "def isclose(a, b): return True\ndef f(): return 0",
    "tests": ["assert isclose(f(), 5)"],
    "reference": reference,
  }
  assert not box.run([lie])[0].passed


FENCED = {
  "prose": ("Here you are:\n\n```python\ndef f(x):\n  return x * x\n```\nIt squares.", True),
  "bare": ("```\ndef f(x): return x * x\n```", True),
  "upper_case": ("```Python\ndef f(x): return x * x\n```", True),
  "py3_with_title": ('```python3 title="a.py"\ndef f(x): return x * x\n```', True),
  "unclosed": ("```python\ndef f(x): return x * x\n", True),
  "closed_on_the_line": ("```python\ndef f(x): return x * x```", True),
  "mid_line": ("Answer: ```python\ndef f(x): return x * x\n``` done", True),
  "carriage_returns": ("Sure.\r\n```python\r\ndef f(x):\r\n  return x * x\r\n```\r\n", True),
  "indented": ("1. So:\n   ```python\n   def f(x):\n     return x * x\n   ```", True),
  "usage_after": (
    "```python\ndef f(x): return x * x\n```\nUse:\n```python\nprint(f(int(input())))\n```",
    True,
  ),
  "usage_defines": (
    "```python\ndef f(x): return x * x\n```\n```python\nimport nope\ny = f(2)\n```",
    True,
  ),
  "helper_before": (
    "```python\ndef g(x): return x\n```\nthen\n```python\ndef f(x): return g(x) * x\n```",
    True,
  ),
  "import_before": (
    "```python\nimport math\n```\n```python\ndef f(x): return int(math.pow(x, 2))\n```",
    True,
  ),
  "better_second": (
    "```python\ndef f(x): return 0\n```\nBetter:\n```python\ndef f(x): return x * x\n```",
    True,
  ),
  "shell_first": (
    "```bash\npip install nothing\n```\n```python\ndef f(x): return x * x\n```",
    True,
  ),
  "output_after": ("```python\ndef f(x): return x * x\n```\nOutput:\n```\n4, then 9!\n```", True),
  "fence_in_a_string": (
    'def f(x):\n  """Doc\n  ```python\n  nonsense here\n  ```\n  """\n  return x * x',
    True,
  ),
  "other_language": ("```javascript\nfunction f(x) { return x * x }\n```", False),
  "only_usage": ("```python\nprint(f(2))\n```", False),
  "prose_only": ("The answer is x squared.", False),
  "many_ticks": ("`" * 60000, False),
  "many_fences": ("```python\n" * 6000, False),
}


def test_code_is_found_in_a_response(box):
  verdicts = box.run([{"code": text, "tests": SQUARE} for text, _ in FENCED.values()])
  wrong = {}
  for (name, (_, expect)), verdict in zip(FENCED.items(), verdicts, strict=True):
    if verdict.passed is not expect:
      wrong[name] = verdict
  assert wrong == {}


# ---- verdicts and bad input
def test_results_are_per_test_and_errors_name_the_first_failure(box):
  (verdict,) = box.run([{"code": "def f(x): return x + 2", "tests": [*SQUARE, "assert f(1) == 3"]}])
  assert verdict == (False, [True, False, True], "AssertionError:")
  assert isinstance(verdict.results, list) and verdict.results[0] is True


@pytest.mark.parametrize(
  "job, words",
  [
    ({"code": None, "tests": SQUARE}, "not defined"),
    ({"code": b"x", "tests": SQUARE}, "must be text"),
    ({"code": "f = 1", "tests": []}, "no tests"),
    ({"code": "f = 1", "tests": [3]}, "must be text"),
    ({"code": "f = abs", "tests": ["assert f("]}, "SyntaxError"),
    ({"code": "f = abs", "tests": ["assert f(2) == 2"], "setup": "1/0"}, "ZeroDivisionError"),
    ({"code": "f = abs", "tests": ["assert f(2) == 3"], "reference": "def ("}, "AssertionError"),
    (
      {"code": "f = abs", "tests": ["assert f(2) == 2\n" + "#" * sandbox_wire.MAX_MESSAGE]},
      "judge died",
    ),
    ({"code": "f = abs", "tests": ["while True: pass"]}, "timeout"),
    ({"tests": SQUARE}, "not defined"),
    ({"code": "x"}, "no tests"),
    ({"code": "f = abs", "tests": ["f(2)\nimport os\nos._exit(0)"]}, "judge died"),
    ({"code": "f = abs", "tests": ["raise SystemExit"]}, "SystemExit"),
  ],
)
def test_a_bad_job_fails_and_says_why(box, job, words):
  bad, good = box.run([job, {"code": "f = abs", "tests": ["assert f(-2) == 2"]}])
  assert not bad.passed and words in bad.error and "\n" not in bad.error
  assert good.passed


def test_random_garbage_never_raises_and_never_passes(box):
  rng = random.Random(7)
  words = [
    "def f(x):",
    "return",
    "x",
    "lambda",
    "```python",
    "```",
    "\n",
    "  ",
    "class",
    "import os",
    "raise",
    "yield",
    "(",
    ")",
    "=",
    "==",
    "f",
    "[",
    "]",
    "{",
    "'",
    '"',
    "\0",
    "\ud800",
    "\ufeff",
    "é",
    "try:",
    "except:",
    "while 1:",
    "__import__('os')._exit(0)",
    "del f",
    "9**9",
    "*x",
  ]
  texts = ["".join(rng.choices(string.printable, k=rng.randrange(300))) for _ in range(100)]
  texts += [" ".join(rng.choices(words, k=rng.randrange(40))) for _ in range(200)]
  for verdict in box.run(
    [{"code": text, "tests": ["assert f(12345) == 'unreachable'"]} for text in texts]
  ):
    assert verdict.passed is False and verdict.results == [False] and isinstance(verdict.error, str)


def test_decoding_garbage_gives_plain_data_or_an_exception():
  rng = random.Random(3)
  tags = [*sandbox_data.MAKE, "record", "mine", "yours", "os", None, 3, []]
  plan = sandbox_names.plan("", ["assert f(1)"], "")
  peer = sandbox_judge.Judge(os.open(os.devnull, os.O_RDWR), {}, plan)

  def value(depth):
    leaf = rng.choice([None, True, 0, -1, 2.5, "", "int", "ff", "1e5", "__import__", [], {}])
    if depth > 3 or rng.random() < 0.3:
      return leaf
    items = [value(depth + 1) for _ in range(rng.randrange(4))]
    return rng.choice(
      [items, {"t": rng.choice(tags), "v": rng.choice([items, leaf]), "about": ""}, {"v": items}]
    )

  def kinds(x):
    found = {type(x)}
    if type(x) in (list, tuple, set, frozenset):
      found = found.union(*map(kinds, x))
    return found

  seen = set()
  for _ in range(3000):
    try:
      seen |= kinds(peer.decode(value(0), sandbox_trust.RESULT))
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, sandbox_wire.Gone):
      continue
  harmless = {*sandbox_data.KINDS, bool, type(None), type}
  assert sandbox_trust.AnswerObject in seen and seen <= {*harmless, sandbox_trust.AnswerObject}


# ---- workers
SLEEPER = {"code": "import time\ndef f(x): time.sleep(99)", "tests": SQUARE}
GOOD = {"code": "def f(x): return x * x", "tests": SQUARE}


def children(pid):
  return [
    int(p)
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir()
    for p in (task / "children").read_text().split()
  ]


def wait_for(condition, seconds=5.0):
  end = time.monotonic() + seconds
  while not condition() and time.monotonic() < end:
    time.sleep(0.01)
  return condition()


def test_a_job_whose_worker_is_killed_runs_again():
  slow = {"code": "import time\ndef f(x):\n  time.sleep(0.4)\n  return x * x", "tests": SQUARE}
  with sandbox.Sandbox(workers=1) as box:
    first, verdicts = box.workers[0].process.pid, []
    thread = threading.Thread(target=lambda: verdicts.extend(box.run([slow, GOOD])))
    thread.start()
    assert wait_for(lambda: len(children(first)) == 2)
    os.kill(first, signal.SIGKILL)
    thread.join(20)
    assert [v.passed for v in verdicts] == [True, True]
    assert box.lost == 1 and box.workers[0].process.pid != first


@pytest.mark.parametrize("victim", ["worker", "solver", "judge", "stopped worker"])
def test_a_killed_process_fails_its_job_and_is_replaced(victim):
  with sandbox.Sandbox(workers=1, wall_seconds=1.0) as box:
    worker, verdicts = box.workers[0].process.pid, []
    thread = threading.Thread(target=lambda: verdicts.extend(box.run([SLEEPER])))
    thread.start()
    assert wait_for(lambda: len(children(worker)) == 2)
    time.sleep(0.1)
    solver, judge = sorted(children(worker))
    if victim == "stopped worker":
      os.kill(worker, signal.SIGSTOP)
    else:
      os.kill({"worker": worker, "solver": solver, "judge": judge}[victim], signal.SIGKILL)
    thread.join(30)
    assert verdicts and not verdicts[0].passed and verdicts[0].results == [False, False]
    assert box.run([GOOD])[0].passed
    assert wait_for(lambda: not any(pathlib.Path(f"/proc/{p}").exists() for p in (solver, judge)))


def test_nothing_outlives_its_limit_and_close_ends_all():
  box = sandbox.Sandbox(workers=2, wall_seconds=0.5)
  pids = [w.process.pid for w in box.workers]
  start = time.monotonic()
  assert [v.error for v in box.run([SLEEPER, SLEEPER])] == ["timeout"] * 2
  assert time.monotonic() - start < 1.5
  assert [children(p) for p in pids] == [[], []]
  box.close()
  box.close()
  assert not any(pathlib.Path(f"/proc/{p}").exists() for p in pids)
  with pytest.raises(RuntimeError):
    box.run([GOOD])


def test_several_threads_share_a_sandbox(box):
  results = []

  def work(n):
    results.append(
      (
        n,
        box.run([{"code": f"def f(x): return x + {n}", "tests": [f"assert f(1) == {1 + n}"]}] * 5),
      )
    )

  threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
  for t in threads:
    t.start()
  for t in threads:
    t.join()
  assert len(results) == 6 and all(v.passed for _, verdicts in results for v in verdicts)


def run_python(code, folder, python=sys.executable, **popen):
  """Runs a script beside a copy of the sandbox that any user may read."""
  (folder / "lib").mkdir()
  others = [ROOT / "lib" / name for name in ("__init__.py", "failures.py")]
  for source in [*others, *(ROOT / "lib").glob("sandbox*.py")]:
    shutil.copy(source, folder / "lib")
  (folder / "script.py").write_text(textwrap.dedent(code))
  ours = [folder / "lib", *(folder / "lib").iterdir(), folder / "script.py"]
  for path in [folder, *folder.parents[:3], *ours]:
    if path.stat().st_uid == os.geteuid() and path != pathlib.Path("/tmp"):
      path.chmod(0o755)
  return subprocess.run(
    [python, "script.py"],
    cwd=folder,
    capture_output=True,
    text=True,
    timeout=60,
    check=False,
    **popen,
  )


def test_the_trainer_never_forks_and_dies_with_its_workers(tmp_path):
  done = run_python(
    """
      import os
      from lib import sandbox
      os.register_at_fork(before=lambda: print("FORKED", flush=True))
      box = sandbox.Sandbox(workers=1)
      verdict = box.run([{"code": "f = abs", "tests": ["assert f(-1) == 1"]}])[0]
      print(verdict.passed, box.workers[0].process.pid, flush=True)
      os.kill(os.getpid(), 9)
      """,
    tmp_path,
  )
  passed, pid = done.stdout.split()
  assert passed == "True" and done.returncode == -9
  assert wait_for(lambda: not pathlib.Path(f"/proc/{pid}").exists())


NO_SECCOMP = """
    import ctypes, struct, sys
    # Stands for a kernel or container without seccomp: from here on prctl(PR_SET_SECCOMP) and
    # seccomp(2) say EINVAL.
    code = [(0x20, 0, 0, 0), (0x15, 4, 0, 317), (0x15, 0, 2, 157), (0x20, 0, 0, 16),
            (0x15, 1, 0, 22), (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50016)]
    body = b"".join(struct.pack("<HBBI", *c) for c in code)
    class Program(ctypes.Structure):
      _fields_ = [("n", ctypes.c_ushort), ("code", ctypes.c_char_p)]
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, ctypes.byref(Program(len(code), body)), 0, 0) == 0
    """
REPORT = """
    import json, os
    from lib import sandbox
    try:
      with sandbox.Sandbox(workers=1, wall_seconds=1.0) as box:
        print(json.dumps([box.layers] + [v.passed for v in box.run([
          {"code": "def f(x): return x * x", "tests": ["assert f(2) == 4"]},
          {"code": "import os\\ndef f(x): return os.listdir('/')", "tests": ["assert f(1)"]},
          {"code": "import os, time\\ndef f(x):\\n  for _ in range(9):\\n    if os.fork() == 0:\\n"
                   "      os.setsid()\\n      time.sleep(60)\\n  return 2",
           "tests": ["assert f(1) == 1"]},
          {"code": "import socket\\ndef f(x): socket.create_connection(('127.0.0.1', 9), 1)",
           "tests": ["assert f(1) is None"]},
          {"code": "import os\\ndef f(x): os.kill(os.getppid(), 9)",
           "tests": ["assert f(1) is None"]}])]))
        pid = box.workers[0].process.pid
        print(len(open(f"/proc/{pid}/task/{pid}/children").read().split()))
    except sandbox.SandboxUnavailable as error:
      print("UNAVAILABLE", error)
    """
ANY_USERS_PYTHON = "/usr/bin/python3"  # this one may lie in a folder that nobody else can enter


def other_user(user):
  """Arguments of run_python that have a script run as `user`; skips where no Python is that user's
  to run.
  """
  if user != "nobody":
    return {}
  is_new = "import sys; sys.exit(sys.version_info < (3, 10))"
  if (
    not os.path.exists(ANY_USERS_PYTHON)
    or subprocess.run([ANY_USERS_PYTHON, "-c", is_new]).returncode
  ):
    pytest.skip("no Python that another user can run")
  return {"user": user, "group": 65534, "extra_groups": [], "python": ANY_USERS_PYTHON}


USERS = ["root", "nobody"] if os.geteuid() == 0 else [None]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("seccomp", [True, False])
@pytest.mark.skipif(
  os.uname().machine != "x86_64",
  reason="the filter that stands for a missing seccomp is written for x86_64",
)
def test_layers_by_user_and_kernel(tmp_path, user, seccomp):
  as_user = other_user(user)
  done = run_python(REPORT if seccomp else NO_SECCOMP + REPORT, tmp_path, **as_user)
  if not seccomp and user != "root":
    assert (
      done.stdout.startswith("UNAVAILABLE")
      and "seccomp" in done.stdout
      and done.stdout.count("\n") == 1
    ), done
    return
  lines = done.stdout.splitlines()
  layers, honest, *hostile = json.loads(lines[0])
  assert layers["seccomp"] is seccomp and layers["uid"] is layers["chroot"] is (user == "root")
  assert honest and not any(hostile), done.stdout
  assert lines[1] == "0"  # no process is left behind


def test_a_missing_python_is_one_clear_line(monkeypatch):
  monkeypatch.setattr(sys, "executable", "/no/such/python")
  with pytest.raises(sandbox.SandboxUnavailable, match="cannot start '/no/such/python'"):
    sandbox.Sandbox(workers=2)
  with pytest.raises(
    InputError, match="cannot start '/no/such/python'.*--code_rewards=off"
  ):  # where that flag is known
    code_checking.code_box.__wrapped__()


THREADS = """
import threading, time
def f(n):
  threading.stack_size(65536)
  started = 0
  for _ in range(n):
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
    started += 1
  time.sleep(0.2)
  return started
"""


@pytest.mark.parametrize("user", USERS)
def test_a_job_has_few_threads(tmp_path, user):
  """Also where RLIMIT_NPROC cannot be used, because it would count the trainer's threads."""
  as_user = other_user(user)
  script = f"""
    from lib import sandbox
    with sandbox.Sandbox(workers=1) as box:
      job = dict(code={THREADS!r}, tests=["assert f(40) == 40"])
      bomb = dict(code={THREADS!r}, tests=["assert f(20000) == 20000", "assert f(4000) > 2000"])
      few, many = box.run([job, bomb])
      print(few.passed, many.results)
    """
  done = run_python(script, tmp_path, **as_user)
  assert done.stdout == "True [False, False]\n", done


def test_layers_are_reported(box):
  assert set(box.layers) == {"seccomp", "uid", "chroot", "network"} and all(
    isinstance(on, bool) for on in box.layers.values()
  )


def test_the_attacks_reach_the_wire(box):
  """Else a renamed variable would make hostile programs fail by their own mistake. A right value is
  a right value.
  """
  swap = (
    "def f(x): return 0\nfrom lib import sandbox_wire as w\nold = w.Peer.encode\n"
    "w.Peer.encode = lambda s, v: 4 if v == 0 else old(s, v)"
  )
  for code in (RAW + "def f(x): raw({'value': x * x})", swap):
    assert box.run([{"code": code, "tests": ["assert f(2) == 4"]}])[0].passed


def test_both_filters_assemble():
  """The aarch64 table cannot run here; its program must at least be well formed: every jump lands
  inside it.
  """
  for machine in sandbox_lockdown.SYSCALLS:
    program = sandbox_lockdown.seccomp_filter(machine)
    code = [program[i : i + 8] for i in range(0, len(program), 8)]
    assert len(program) % 8 == 0 and len(code) < 4096
    assert all(
      i + 1 + max(c[2], c[3]) < len(code) for i, c in enumerate(code) if c[0] in (0x15, 0x45)
    )
    assert code[-1][0] == 0x06 and code[-1][4:] == (0x00050000 | errno.ENOSYS).to_bytes(4, "little")
  assert sandbox_lockdown.seccomp_filter("unheard-of") == b""


# ---- shared cases, where they are
def shared_rows(name):
  path = SHARED / name
  if not path.exists():
    pytest.skip(f"{name} is not on this machine")
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_shared_cases(box, tmp_path):
  rows = shared_rows("checks/code_cases.jsonl")
  jobs = [
    {
      **{k: r.get(k, "") for k in ("tests", "setup", "reference")},
      "code": r["code"].replace("@CANARY@", str(tmp_path)),
    }
    for r in rows
  ]
  wrong = [
    (r["id"], v)
    for r, v in zip(rows, box.run(jobs), strict=True)
    if r["expect"] not in ("any", "pass" if v.passed else "fail")
  ]
  assert wrong == [] and not any(tmp_path.iterdir())


def test_real_answers(box):
  rows = shared_rows("checks/code_answers_labelled.jsonl")
  verdicts = box.run(
    [{"code": r["completion"], "tests": r["tests"], "setup": r["setup"]} for r in rows]
  )
  pairs = zip(rows, verdicts, strict=True)
  assert [(r["task_id"], v) for r, v in pairs if v.passed is not r["own_label"]] == []


@pytest.mark.slow
def test_mbpp_references_pass():
  rows = shared_rows("data/raw/mbpp/mbpp.jsonl")
  with sandbox.Sandbox(workers=2) as box:
    verdicts = box.run(
      [
        {
          "code": r["code"],
          "tests": r["test_list"],
          "setup": r["test_setup_code"],
          "reference": r["code"],
        }
        for r in rows
      ]
    )
  assert sum(v.passed for v in verdicts) >= 973, [
    r["task_id"] for r, v in zip(rows, verdicts, strict=True) if not v.passed
  ]


def test_an_answers_error_cannot_steer_a_terminal(box):
  code = "def f(x):\n  raise ValueError('\\x1b[31mred\\x07 é \\n second')"
  (verdict,) = box.run([{"code": code, "tests": ["assert f(1) == 1"]}])
  assert verdict.error.isprintable() and verdict.error.isascii()
  assert "\\x1b[31mred\\x07 \\xe9 second" in verdict.error
