"""Engines: start workers on other machines. Nothing here imports Dagster.

`queued` manages jobs from submission to end on any engine; `slurm` and `ray_jobs` submit, query and
cancel them; `job_folder` is the folder that both sides of a job share.
"""
