"""How a job's two processes talk: plain data travels by value, all else stays and is asked.

The answer's process (sandbox_solver) and the tests' process (sandbox_judge) share one socket and no
memory. A message is one line of JSON, never pickle, which would run the sender's code in the
receiver. Either side is a `Peer`:

  encode, decode  a value to JSON and back
  ask             has the other side do one operation with one of its objects, and waits for what
                  came of it
  serve           does what the other side asks; a Peer that waits for a reply serves meanwhile, so
                  callbacks may nest

  judge:  {"op": "call", "on": 1, "args": [3], "kwargs": {}}          solver:  {"value": 9}

An object that is not plain data gets a number. {"t": "mine", "v": 4} is the sender's fourth object,
{"t": "yours", "v": 4} the receiver's; where it does not live, a `Remote` stands for it and forwards
every operator of Python.
"""

import json
import os
import threading

from lib.sandbox_data import (
  FLAT,
  KINDS,
  MAKE,
  TYPES,
  describe,
  is_flat,
  is_mutable,
  record_type,
  refill,
  revive,
)
from lib.sandbox_remote import is_remote

MAX_MESSAGE = 64 << 20  # bytes of one message: a list of ten million small numbers does not fit
MAX_VIEWS = 8  # attributes of the other side whose changes are watched


class Gone(BaseException):
  """The other process died or broke the protocol.

  Not an Exception: no `except Exception` in a test may swallow it.
  """


def pack(message):
  """A message as one line of JSON."""
  line = json.dumps(message).encode() + b"\n"
  if len(line) > MAX_MESSAGE:
    raise ValueError("value too large")
  return line


def receive(stream):
  """The next message; ValueError for an end of the stream, a line too long, and no JSON."""
  # Bounded: an answer that writes without end would fill the judge's memory.
  line = stream.readline(MAX_MESSAGE)
  if not line.endswith(b"\n"):
    raise ValueError("cut short or too long")
  return json.loads(line)


class Peer:
  """One end of the conversation.

  `Solver` and `Judge` say what the other may do with their objects (`perform`) and what Remotes
  they make (`adopt`).
  """

  def __init__(self, fd):
    self.fd = fd
    self.reader = os.fdopen(fd, "rb")
    self.gone = False
    self.turn = threading.RLock()  # threads of one side take turns to ask
    self.shared = []  # objects by number; kept alive here, so an id() stays theirs
    self.numbers = {}  # id of a shared object -> number
    self.remotes = {}  # number -> Remote: one each, so that `is` works
    self.views = {}  # (Remote's number, attribute) -> (the container that was read, as it was)

  # what the sides differ in
  def perform(self, op, target, args, kwargs):
    raise NotImplementedError

  def adopt(self, number, about, trust):
    raise NotImplementedError

  def encode_foreign(self, value):
    """How a side sends what is no plain data, if not by number; None: by number."""

  def decode_foreign(self, tag, body):
    raise ValueError(f"unknown tag {tag!r}")

  def revive(self, described):
    return revive(described)

  def expects_changes(self, remote, args, kwargs):
    """Whether a call that returned a value may have changed its arguments as well."""
    return False

  def own(self, number):
    return self.shared[number]

  def about(self, value):
    """What the other side may want to know of an object before it asks."""
    return ""

  # values
  def encode(self, value):
    """JSON for `value`."""
    kind = type(value)
    if kind in FLAT:
      return value
    # Longer ones go in hexadecimal: decimal digits take quadratic time, and 4,300 at most.
    if kind is int and -(2**63) <= value < 2**63:
      return value
    # A list of a million numbers would take a call each.
    if kind is list:
      return list(value) if is_flat(value) else [self.encode(x) for x in value]
    if kind is type and TYPES.get(value.__name__) is value:
      return {"t": "type", "v": value.__name__}
    foreign = self.encode_foreign(value)
    if foreign is not None:
      return foreign
    # A namedtuple: ["Point", ["x", "y"], [1, 2]]. Its class is made anew over there.
    if issubclass(kind, tuple) and isinstance(getattr(kind, "_fields", None), tuple):
      parts = [kind.__name__, list(kind._fields), list(tuple.__iter__(value))]
      return {"t": "record", "v": self.encode(parts)}
    # The nearest base that is data: a Counter crosses as a Counter, a subclass of list as a list.
    for base in kind.__mro__:
      if base in KINDS:
        return {"t": base.__name__, "v": self.encode(KINDS[base].take_apart(value))}
    return self.encode_object(value)

  def encode_object(self, value):
    # It goes home, where it is itself again and not an object that stands for it.
    if is_remote(value):
      return {"t": "yours", "v": value._number}
    if id(value) not in self.numbers:
      self.numbers[id(value)] = len(self.shared)
      self.shared.append(value)
    return {"t": "mine", "v": self.numbers[id(value)], "about": self.about(value)}

  def decode(self, value, trust=None):
    """The inverse; raises on anything malformed. `trust` is for the Remotes in it."""
    if isinstance(value, list):
      # Every dict is tagged, so a list without lists and dicts holds nothing to decode.
      if {list, dict}.isdisjoint(map(type, value)):
        return list(value)
      return [self.decode(x, trust) for x in value]
    if not isinstance(value, dict):
      return value
    # A KeyError here, as any other, means that the sender broke the protocol: see `ask`.
    tag, body = value["t"], value["v"]
    if tag == "yours":
      return self.own(body)
    if tag == "mine":
      return self.adopt(body, value["about"], trust)
    if tag == "type":
      return TYPES[body]
    if tag == "record":
      name, fields, values = self.decode(body, trust)
      return record_type(name, tuple(fields))(*values)
    if tag in MAKE:
      return MAKE[tag](self.decode(body, trust))
    return self.decode_foreign(tag, self.decode(body, trust))

  # messages
  def send(self, message):
    changes = self.changed_views()
    if changes:
      message["views"] = changes
    line = pack(message)
    # A socket takes what fits; the rest goes when the other side has read.
    while line:
      line = line[os.write(self.fd, line) :]

  # Containers are copied, so a change on one side must be told to the other: with the next message,
  # as nobody over there can look before it arrives.
  def changed_views(self):
    """Attributes read here as a list, dict or set and changed since.

    `bag.items.append(4)` must reach the bag.
    """
    changes = []
    for (number, name), (container, before) in list(self.views.items()):
      after = self.encode(container)
      if after != before:
        changes.append([number, name, after])
        self.views[number, name] = (container, after)
    return changes

  def apply_effects(self, message):
    """Does here what happened over there beside the value."""
    for number, name, contents in message.get("views", ()):
      container = self.perform("getattr", self.own(number), (name,), {})
      if is_mutable(container):
        refill(container, self.decode(contents))

  def serve(self, request):
    """Does what the other side asks for, and tells it what came of it."""
    try:
      self.apply_effects(request)
      args = self.decode(request["args"])
      kwargs = {name: self.decode(value) for name, value in request["kwargs"].items()}
      value = self.perform(request["op"], self.own(request["on"]), args, kwargs)
      self.reply(request, [*args, *kwargs.values()], value)
    # There is nobody left to tell.
    except Gone:
      raise
    except (
      BaseException
    ) as error:  # SystemExit and the like: the answer's own doing, reported as any error
      self.send({"error": self.describe(error)})

  def reply(self, request, arguments, value):
    """Sends a value, and the arguments that the call changed in place or gave back."""
    message = {"value": self.encode(value)}
    changed = []
    sent = [*request["args"], *request["kwargs"].values()]
    for i, argument in enumerate(arguments):
      if request["op"] != "call" or not is_mutable(argument):
        continue
      # Compared as encoded, since objects of the answer may say anything of `==`.
      after = self.encode(argument)
      if after != sent[i]:
        changed.append([i, after])
      # `assert f(a) is a`: a copy of the argument would not be the same object.
      elif value is argument:
        message["value"] = {"t": "argument", "v": i}
    if changed:
      message["changed"] = changed
    self.send(message)

  def describe(self, error):
    """As `describe`, and whose the error is: back where it was raised, it is the same one again."""
    described = describe(error)
    # Past the class's own __getattribute__, which may be the answer's.
    origin = BaseException.__getattribute__(error, "__dict__").get("_sandbox_origin")
    if isinstance(origin, int):
      return described | {"yours": origin}
    # Without its traceback, whose frames would keep every local of the call alive.
    self.shared.append(error.with_traceback(None))
    return described | {"mine": len(self.shared) - 1}

  def ask(self, op, remote, args=(), kwargs=None, trust=None):
    """What `op` gives on the other side's object; raises what it raised there."""
    kwargs = kwargs or {}
    # Re-entrant: while it waits for a reply, a thread serves callbacks that may ask in their turn.
    with self.turn:
      request = {
        "op": op,
        "on": remote._number,
        "args": [self.encode(x) for x in args],
        "kwargs": {name: self.encode(value) for name, value in kwargs.items()},
      }
      try:
        # Once broken, always broken: a later test must not read the rest of a forged conversation.
        if self.gone:
          raise EOFError
        self.send(request)
        # Requests before the reply are callbacks: `f(key)` calls the tests' key while f runs.
        while "op" in (reply := receive(self.reader)):
          self.serve(reply)
        self.apply_effects(reply)
        error = self.raised(reply["error"]) if "error" in reply else None
        value = None if error else self.returned(reply, remote, args, kwargs, trust)
      except Exception as malformed:
        # or dead since the last reply: no error that a test may take for the answer's
        self.gone = True
        raise Gone("the answer's process died or broke the protocol") from malformed
      # Remembered as it was, so that `changed_views` sees what the tests do to it.
      if error is None and op == "getattr" and is_mutable(value):
        self.views[remote._number, args[0]] = (value, reply["value"])
        while len(self.views) > MAX_VIEWS:
          del self.views[next(iter(self.views))]
    if error:
      raise error
    return value

  def raised(self, described):
    if "yours" in described:
      error = self.own(described["yours"])
      # The number is the sender's to choose: `raise` of anything else would be an error of ours.
      if not isinstance(error, BaseException):
        raise ValueError("not an error")
      return error
    error = self.revive(described)
    error._sandbox_origin = described.get("mine")
    return error

  def returned(self, reply, remote, args, kwargs, trust):
    """The value of a reply.

    What the call changed in place is changed here if it returned None, as functions that work in
    place do (list.sort). Else the answer could empty its argument and return that, and pass
    `assert f(a) == sorted(a)`.
    """
    arguments = [*args, *kwargs.values()]
    encoded = reply["value"]
    if isinstance(encoded, dict) and encoded["t"] == "argument":
      return arguments[encoded["v"]]
    value = self.decode(encoded, trust)
    if "changed" in reply and (value is None or self.expects_changes(remote, args, kwargs)):
      for i, contents in reply["changed"]:
        refill(arguments[i], self.decode(contents))
    return value
