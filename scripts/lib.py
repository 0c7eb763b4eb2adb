# SPDX-License-Identifier: GPL-2.0
"""What the scripts in Python share: places and tools, programs that they run, L1, reports.

scripts/lib.sh is the one place that knows tools, kernels, and where what is built lies; this
asks it, so that nothing of that stands here too. A script is in Python when it has more to keep
in mind than commands that follow each other. In shell are those that install or build, which
a machine without Python begins with, and those that run in a guest. Python is started with -B,
so that nothing is written into the sources.
"""

import functools
import importlib.machinery
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import types

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
BUILD = os.path.join(ROOT, "build")
LOGS = os.path.join(BUILD, "log")
HARNESS = os.path.join(BUILD, "cargo", "release", "vblk-harness")


class Failure(Exception):
    """What can't be done, in one line."""


def note(text):
    print(text, file=sys.stderr, flush=True)


def script(name, tree=ROOT):
    return os.path.join(tree, "scripts", name)


def load(name):
    """A script of this directory as a module."""
    loader = importlib.machinery.SourceFileLoader(name, script(name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def run_main(main, fits=lambda words: True):
    """Ends the script with the status that main() returns for its arguments, or with its help where they do
    not fit. Whatever ends it, no program of ours is left."""
    name, words = os.path.basename(sys.argv[0]), sys.argv[1:]
    asks = words[:1] in (["-h"], ["--help"])
    if asks or not fits(words):
        print(sys.modules["__main__"].__doc__)
        sys.exit(0 if asks else 2)

    def interrupted(number, _):
        children.close()
        sys.exit(128 + number)

    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupted)
    try:
        status = main(words)
    except Failure as failure:
        note(f"{name}: error: {failure}")
        status = 1
    finally:
        children.close()
    sys.exit(status)


def output(*command, **options):
    """What a command prints that must succeed."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **options).stdout


def write_json(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.write("\n")


# --- what lib.sh knows ---------------------------------------------------------


@functools.cache
def shell(text, *words):
    """The output of a line of shell, with lib.sh and $1, $2... before it. An error is told by lib.sh."""
    line = f'source "$1"; shift; {text}'
    told = subprocess.run(
        ["bash", "-c", line, sys.argv[0], script("lib.sh"), *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if told.returncode:
        sys.exit(told.returncode)
    return told.stdout


def kernel_fact(kind, name):
    """A value of lib.sh's table of kernels."""
    return shell('need_kernel "$1"; kernel_fact "$@"', kind, name)


@functools.cache
def paths(kind="release"):
    """KERNEL, KDIR, MODULE and VBLK."""
    return dict(line.split("=", 1) for line in output(script("paths"), kind).splitlines())


def cargo_environment(target="cargo", **more):
    """Of cargo, and of what it built; in a directory of build/."""
    pairs = shell("cargo_env env -0").rstrip("\0").split("\0")
    return {**dict(pair.split("=", 1) for pair in pairs), "CARGO_TARGET_DIR": os.path.join(BUILD, target), **more}


def loom_environment(target, **more):
    """The models of threads are another build, with loom's atomics instead of the machine's."""
    return cargo_environment(target, RUSTFLAGS="--cfg loom", **more)


def l1(command, *options, kernel="release", limit=0, tree=ROOT):
    """What runs a command in L1, for at most so many seconds."""
    return [script("l1", tree), "--kernel", kernel, "--timeout", str(limit), *options, "--", *command]


# --- programs ------------------------------------------------------------------


class Children:
    """Programs that we started, each in a group of its own. None outlives us."""

    def __init__(self):
        # A signal may come while it is held.
        self.lock = threading.RLock()
        self.running = set()
        self.closed = False

    def start(self, command, **options):
        """A child whose output is to be read."""
        with self.lock:
            self.check()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
                start_new_session=True, **options,
            )
            self.running.add(child)
        return child

    def check(self):
        if self.closed:
            raise InterruptedError("all is being ended")

    def close(self):
        """Ends all; a thread that goes on meanwhile starts none."""
        with self.lock:
            self.closed = True
        for child in list(self.running):
            end(child)


children = Children()


def end(child):
    """Ends a child and all that it started; it has some seconds to clean up."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, number)
        except ProcessLookupError:
            pass
        try:
            child.wait(timeout=10)
            break
        except subprocess.TimeoutExpired:
            continue
    children.running.discard(child)


def run(command, limit=None, **options):
    """Runs a command. Returns its status and output, and whether the limit ended it."""
    child = children.start(command, **options)
    timed_out = False
    try:
        out, err = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        timed_out = True
        end(child)
        out, err = child.communicate()
    finally:
        end(child)
    children.check()
    return types.SimpleNamespace(returncode=child.returncode, stdout=out, stderr=err, timed_out=timed_out)


def lines_of(child, tick):
    """Yields the child's lines; calls tick() each second, which may end it."""
    lines = queue.Queue()

    def read():
        for line in child.stdout:
            lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            tick()
            continue
        if line is None:
            break
        yield line
    children.check()


# --- reports -------------------------------------------------------------------

# A result as tests print it in L1. Lines that begin with '# ' and follow it belong to it.
VERDICT = re.compile(r"(?P<verdict>ok|not ok) - (?P<name>\S+)(?: # SKIP (?P<skip>.*)| # time=(?P<time>[0-9.]+)s)?")


class Report:
    """KTAP on standard output. Several threads may write at once."""

    # How often a line says that a quiet test is still running.
    HEARTBEAT = 15

    def __init__(self):
        self.lock = threading.RLock()
        self.start = self.spoke = time.monotonic()
        self.number = 0
        # How many tests ended how.
        self.counts = {}

    def begin(self, plan=None):
        """With how many results there will be, where that is known."""
        self.say("KTAP version 1")
        if plan is not None:
            self.say(f"1..{plan}")

    def say(self, text):
        with self.lock:
            print(text, flush=True)
            self.spoke = time.monotonic()

    def comment(self, line):
        self.say("# " + line.rstrip("\n"))

    def result(self, name, passed, seconds=None, diagnostics=(), remark=None, counts_as=None):
        remarks = ([] if seconds is None else [f"time={seconds:.1f}s"]) + ([remark] if remark else [])
        with self.lock:
            self.number += 1
            kind = counts_as or ("passed" if passed else "failed")
            self.counts[kind] = self.counts.get(kind, 0) + 1
            self.say(f"{'ok' if passed else 'not ok'} {self.number} {name}{' # ' if remarks else ''}{' '.join(remarks)}")
            for line in diagnostics:
                self.comment(line)

    def skip(self, name, reason):
        self.result(name, True, remark=f"SKIP {reason}", counts_as="skipped")

    def heartbeat(self, what, since):
        now = time.monotonic()
        if now - self.spoke >= self.HEARTBEAT:
            self.comment(f"... {what} ({now - since:.0f} s)")

    def close(self, *kinds):
        """Says how long it took, and how many ended in each of these ways."""
        self.comment(f"{time.monotonic() - self.start:.0f} s in all")
        self.say(", ".join(f"{self.counts.get(kind, 0)} {kind}" for kind in kinds))


def harness_tests(source):
    """Names of the tests that a source of the harness lists: tests!["LAYER": FUNCTION(SECONDS), ...]."""
    names = set()
    for layer, functions in re.findall(r'\w+!\["(\w+)":([^\]]*)\]', source):
        names.update(f"{layer}/{name.lstrip('_')}" for name in re.findall(r"\b(\w+)\(\d+\)", functions))
    return names
