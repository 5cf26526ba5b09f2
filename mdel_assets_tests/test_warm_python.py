"""Processes that tests start, and what these start, are forked from libraries loaded once."""

import pytest

from mdel_assets_tests import warm_python

POOL = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

if __name__ == "__main__":
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r})) as pool:
        print(pool.submit(eval, "'torch' in __import__('sys').modules").result())
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_multiprocessing_starts_has_the_libraries_loaded(method):
    done = warm_python.run(["-c", POOL.format(method=method)], check=True)
    assert done.stdout == "True\n"
