"""Jobs that import late and people who read through a name, while it is switched: what runs beside the switches.

All of them are scripts for any Python 3, that run until a file is there, and then tell what they have met as JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lab.packages import Entry

MODULES = 200
"""How many modules the package `lazy` has, beside as many files of data."""

JOB = '''
"""Like a training job: imports one module after the other, starts workers and other programs, and opens data late."""
import importlib, json, multiprocessing, os, subprocess, sys, time

def look(number):
    import lazy
    module = importlib.import_module(f"lazy.m{number:03}")
    with open(os.path.join(os.path.dirname(lazy.__file__), f"d{number:03}.txt")) as stream:
        return module.VERSION if module.VERSION == stream.read() else "a mixture"

def child(number):
    command = f"import lazy.m{number:03} as module; print(module.VERSION)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

def put(number, queue):
    queue.put(attempt(look, number))

def worker(number, method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put, args=(number, queue))
    process.start()
    try:
        return queue.get(timeout=20)
    finally:
        process.join()

def attempt(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def main(name, ready, stop, pause):
    found, targets = {}, []
    def note(kind, *arguments):
        told = attempt(*arguments)
        versions = found.setdefault(kind, {})
        versions[told] = versions.get(told, 0) + 1
    number = 0
    while number < 20 or not os.path.exists(stop):
        if number % MODULES == 0:  # all have been imported: begin anew
            for module in [module for module in sys.modules if module.partition(".")[0] == "lazy"]:
                del sys.modules[module]
        target = os.path.realpath(name)
        if targets[-1:] != [target]:
            targets.append(target)
        note("late import", look, number % MODULES)
        if number % 8 == 1:
            note("child", child, number % MODULES)
        elif number % 2:
            method = {3: "fork", 5: "spawn", 7: "forkserver"}[number % 8]
            note(method, worker, number % MODULES, method)
        open(ready, "w").close()
        time.sleep(float(pause))
        number += 1
    print(json.dumps({"found": found, "prefix": sys.prefix, "moves seen": len(targets) - 1}))

if __name__ == "__main__":
    main(*sys.argv[1:])
'''.replace("MODULES", str(MODULES))

READER = '''
"""Opens and reads a file through a name, as often as it can, and counts."""
import json, os, sys
path, ready, stop = sys.argv[1:]
reads = misses = 0
while reads % 50 or not os.path.exists(stop):
    try:
        with open(path) as stream:
            stream.read()
    except OSError:
        misses += 1
    reads += 1
    if reads == 1:
        open(ready, "w").close()
print(json.dumps({"reads": reads, "misses": misses}))
'''

STARTER = '''
"""Starts Python through a name again and again: each must be whole, of one generation."""
import json, os, subprocess, sys
name, ready, stop = sys.argv[1:]
starts, wrong, command = 0, [], "import lazy, lazy.m000 as module, sys; print(lazy.VERSION, module.VERSION, sys.prefix)"
while not os.path.exists(stop):
    done = subprocess.run([f"{name}/bin/python", "-c", command], capture_output=True, text=True)
    told = done.stdout.split()
    try:
        with open(f"{told[2]}/share/lazy/version") as stream:
            right = told[0] == told[1] == stream.read() and told[2] != name
    except (IndexError, OSError):
        right = False
    if not right:
        wrong.append(done.stdout + done.stderr)
    starts += 1
    open(ready, "w").close()
print(json.dumps({"starts": starts, "wrong": wrong}))
'''

UNLINK_AND_SYMLINK = '''
"""Moves a name between two places as is done elsewhere: the old link goes, then the new one comes."""
import os, sys
name, times, *targets = sys.argv[1:]
for number in range(int(times)):
    os.unlink(name)
    os.symlink(targets[number % 2], name)
'''


def lazy(version: str, site_packages: str) -> Iterator[Entry]:
    """The files of the package `lazy`, each of which tells its version."""
    yield Entry("share/lazy/version", version.encode())
    yield Entry(f"{site_packages}/lazy/__init__.py", f'VERSION = "{version}"\n'.encode())
    for number in range(MODULES):
        # Modules of different versions have different sizes, so that no byte code can be taken for another's.
        text = f'VERSION = "{version}"\n' + "#\n" * int(float(version))
        yield Entry(f"{site_packages}/lazy/m{number:03}.py", text.encode())
        yield Entry(f"{site_packages}/lazy/d{number:03}.txt", version.encode())


def wrong_loads(told: Mapping[str, Any], version: str) -> tuple[int, int]:
    """How many of the things that a job has loaded are not of *version*, or could not be had; and how many it were."""
    counts = [(value, times) for versions in told["found"].values() for value, times in versions.items()]
    return sum(times for value, times in counts if value != version), sum(times for _value, times in counts)
