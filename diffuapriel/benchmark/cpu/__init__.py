"""The speed and memory tables of this machine: what `diffuapriel bench` and `make bench` print.

Every figure is a ratio, or stands beside its peer, measured in one run on one machine:

    scan.py        the chunked SSD against the Mamba-2 paper's minimal listing with flips
    generation.py  the share of a generation that is spent outside the denoiser
    training.py    the training loop against a plain one
    memory.py      peak memory of a forward pass, each in a process of its own
    report.py      the whole run: machine, tables, JSON

On one NVIDIA GPU (`diffuapriel bench --gpu`):

    gpu.py         the whole run, part by part, from gpu_plan.py to gpu_results.py
    bound.py       the least time that arithmetic and bandwidth allow
    gpu_aims.py    what must be reached;  gpu_report.py, gpu_chart.py, gpu_readme.py  where it is shown

The forward pass of DiffuApriel against DiffuTran over length comes from `diffuapriel.benchmark`, where the fair
protocol lives.
"""
