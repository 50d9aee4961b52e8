"""Training and export as jobs: the programs that the trainer service starts, and the files it exchanges with them.

`python -m deepseek.trainjob.agent NUM_WORKERS JOB.json` starts the workers of a run. Each worker is a process
`python -m deepseek.trainjob.train_main JOB.json`. `python -m deepseek.trainjob.export_main JOB.json` exports a model.
The modules `train` and `export` do the work. `runspec` and `jobfile` do not import torch, so a server may import them.
"""
