"""Which stream output goes to, with that of libraries and child processes."""

import subprocess
import sys


def run(code):
    """Run ``code`` in a process of its own; return what it writes to both streams."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_standard_output_is_for_one_file_alone():
    code = """
import os, sys
from mdel_assets.machine.console import alone_on_standard_output
print("before")
with alone_on_standard_output() as ours:
    ours.write("ours\\n")
    print("theirs")
    os.system("echo a child")
    os.write(1, b"a library\\n")
print("after")
"""
    out, err = run(code)
    assert out == "before\nours\nafter\n"
    assert sorted(err.splitlines()) == ["a child", "a library", "theirs"]
