"""Run every benchmark: ``python -m benchmarks``, or only those that are named."""

import importlib
import pkgutil
import sys

import benchmarks

wanted = sys.argv[1:]
for module in pkgutil.iter_modules(benchmarks.__path__):
    if module.name.startswith("bench_") and (not wanted or module.name in wanted):
        importlib.import_module(f"benchmarks.{module.name}").main()
