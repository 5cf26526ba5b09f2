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


DIVERTING = """
import os, subprocess, sys
from mdel_assets.machine.console import diverting_lines
lines = []
with diverting_lines([1, 2], lines.append):
    print("printed", flush=True)
    print("an error", file=sys.stderr)
    os.system("echo a child; echo its error >&2")
    os.write(2, b"half a line")
    CHILD
print(lines, flush=True)
"""


def test_lines_of_all_streams_and_children_are_diverted():
    out, err = run(DIVERTING.replace("CHILD", ""))
    assert sorted(eval(out)) == [
        *("a child", "an error", "half a line", "its error", "printed"),
    ]
    assert err == ""


def test_a_child_that_stays_does_not_hold_up_the_end_and_is_still_heard():
    child = "child = subprocess.Popen(['bash', '-c', 'read; echo late'], stdin=subprocess.PIPE)"
    code = DIVERTING.replace("CHILD", child) + "child.communicate(b'\\n')\nsys.stdin.read()"
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ran:
        assert ran.stdout.readline().startswith("['")
        assert ran.stdout.readline() == "late\n"
        ran.communicate("")
    assert ran.returncode == 0


def test_streams_lead_back_after_a_block_that_leaves_them_elsewhere(tmp_path):
    code = f"""
import os, sys
from mdel_assets.machine.console import standard_streams_restored
try:
    with standard_streams_restored():
        for descriptor in (1, 2):
            os.dup2(os.open({str(tmp_path / "log")!r}, os.O_CREAT | os.O_WRONLY), descriptor)
        raise OSError("no room")
except OSError as error:
    print(error)
    print("told", file=sys.stderr)
"""
    assert run(code) == ("no room\n", "told\n")


def test_who_shows_lines_and_fails_does_not_let_writers_wait():
    code = """
import os, sys, threading
from mdel_assets.machine.console import diverting_lines
threading.excepthook = lambda _: None
def fail(line):
    raise OSError("the terminal is gone")
try:
    with diverting_lines([1], fail):
        for _ in range(100):
            os.write(1, b"x" * 4096 + b"\\n")
except BrokenPipeError:
    sys.stderr.write("told")
"""
    assert run(code)[1] == "told"
