"""What answers and tests may import: the standard library, all of it read before the lockdown,
after which no file opens.

The commonest modules are imported once by the worker, so that every job is forked with them ready.
The rest is kept as bytecode in memory and runs in the job that imports it: importing everything in
the worker would double what a fork copies. `prepare` does both, and leaves no other way to import,
so that a missing module is a ModuleNotFoundError as anywhere else.
"""

import contextlib
import importlib.machinery
import importlib.util
import marshal
import mmap
import os
import pathlib
import selectors
import sys
import time
import warnings

PRELOAD = """
__future__ abc array ast base64 binascii bisect builtins calendar cmath codecs collections.abc
concurrent.futures.thread contextlib contextvars copy csv ctypes dataclasses datetime decimal
difflib dis encodings.ascii encodings.cp1252 encodings.hex_codec encodings.idna encodings.latin_1
encodings.raw_unicode_escape encodings.rot_13 encodings.unicode_escape encodings.utf_16
encodings.utf_32 encodings.utf_8_sig enum fnmatch fractions functools gc glob graphlib hashlib heapq
hmac html inspect io ipaddress itertools json keyword linecache locale logging math numbers operator
os pathlib pickle platform pprint queue random re reprlib resource sched secrets select shlex shutil
signal socket statistics string struct subprocess sys tempfile textwrap threading time timeit
tokenize traceback types typing unicodedata
unittest urllib.parse uuid warnings weakref zlib zoneinfo _strptime"""
# Written in C, so they cannot be kept as bytecode; a Python may be built without some.
EXTENSIONS = """
_bz2 _contextvars _elementtree _json _lsprof _lzma _multiprocessing _opcode
_posixsubprocess _queue _sqlite3
_zoneinfo fcntl grp mmap pyexpat termios"""
ROOM = 64 << 20  # bytes for the bytecode; what stays empty is never allocated
# Folders of the library that no answer needs, and those that are not the library's.
NOT_KEPT = """
test tests idlelib lib2to3 tkinter turtledemo ensurepip pydoc_data venv distutils site-packages
dist-packages lib-dynload __pycache__"""


def stored_code(path):
  """A module's bytecode where Python keeps it on the disk, else compiled: some installations come
  without bytecode.
  """
  with contextlib.suppress(OSError):
    cached = pathlib.Path(importlib.util.cache_from_source(path)).read_bytes()
    if cached[:4] == importlib.util.MAGIC_NUMBER:
      return cached[16:]  # behind the header of PEP 552
  with warnings.catch_warnings(action="ignore"):
    return marshal.dumps(compile(path.read_bytes(), f"<{path.stem}>", "exec", dont_inherit=True))


def library_files():
  """(module, file, whether it is a package) of the standard library's pure Python."""
  root = pathlib.Path(os.__file__).parent
  left_out = NOT_KEPT.split()
  for folder, inner, files in os.walk(root):
    inner[:] = [name for name in inner if name not in left_out and name.isidentifier()]
    for path in (pathlib.Path(folder, file) for file in files if file.endswith(".py")):
      parts = path.relative_to(root).with_suffix("").parts
      is_package = parts[-1] == "__init__"
      yield ".".join(parts[:-1] if is_package else parts), path, is_package


class StoredLibrary:
  """An importer (PEP 451) of what `library_files` has and nobody imported yet."""

  def __init__(self):
    # Shared memory, because a fork copies the page table of all other memory, 8 bytes for 4,096: 10
    # MB would be felt.
    self.codes = mmap.mmap(-1, ROOM)
    self.modules = {}  # name: (where its code begins, where it ends, whether it is a package)
    for name, path, is_package in library_files():
      if name not in sys.modules:
        begin = self.codes.tell()
        self.codes.write(stored_code(path))
        self.modules[name] = (begin, self.codes.tell(), is_package)

  def find_spec(self, name, path=None, target=None):
    if name not in self.modules:
      return None
    return importlib.machinery.ModuleSpec(name, self, is_package=self.modules[name][2])

  def create_module(self, spec):
    return None  # an ordinary module will do

  def exec_module(self, module):
    begin, end, _ = self.modules[module.__name__]
    code = marshal.loads(self.codes[begin:end])
    exec(code, module.__dict__)
    if module.__name__ == "asyncio":
      make_loops_quiet(module)


def make_loops_quiet(asyncio):
  """Has asyncio.run use an event loop that needs no socket and no epoll: it looks every millisecond
  for what is due.
  """

  class Sleeper(selectors.SelectSelector):
    def select(self, timeout=None):
      time.sleep(0.001 if timeout is None else max(0, min(timeout, 0.001)))
      return []  # nothing to read: no socket can be opened

  class QuietLoop(asyncio.SelectorEventLoop):
    def __init__(self):
      super().__init__(Sleeper())

    # The pair of sockets by which other threads wake a loop that waits: this one never waits long.
    def _make_self_pipe(self):
      pass

    def _close_self_pipe(self):
      pass

    def _write_to_self(self):
      pass

  asyncio.DefaultEventLoopPolicy._loop_factory = QuietLoop


def prepare():
  """Imports what most jobs need, keeps the rest in memory, and forgets the disk."""
  for name in PRELOAD.split():
    importlib.import_module(name)
  for name in EXTENSIONS.split():
    with contextlib.suppress(ImportError):
      importlib.import_module(name)
  importers = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter]
  sys.meta_path[:] = [*importers, StoredLibrary()]
  sys.path[:] = []
