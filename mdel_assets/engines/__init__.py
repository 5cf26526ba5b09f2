"""Engines: what starts workers on other machines. Nothing here knows Dagster.

`queued` sees to jobs from submission to end, whatever the engine; `slurm` and `ray_jobs` submit
them, ask after them and cancel them; `job_folder` is the folder that both sides of a job share.
"""
