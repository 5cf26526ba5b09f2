"""Run every benchmark: ``python -m benchmarks``, or only those that are named."""

import importlib
import pkgutil
import sys

import benchmarks

wanted = sys.argv[1:]
for module in pkgutil.iter_modules(benchmarks.__path__):
    if not module.name.startswith("bench_") or (wanted and module.name not in wanted):
        continue
    benchmark = importlib.import_module(f"benchmarks.{module.name}")
    if wanted or not getattr(benchmark, "RUNS_ONLY_WHEN_NAMED", False):
        benchmark.main()
