"""An OpenAI-compatible server for the models and ensembles of an experiment.

A request passes `door.py` (address, key, size), is read in `bodies.py`, waits in `decoding.py`,
where sequences of one model are decoded together, and is answered by `answers.py`.
"""
