"""The speed and memory tables of this machine: what `diffuapriel bench` and `make bench` print.

Every figure is a ratio, or stands beside its peer, measured in one run on one machine:

    scan.py        the chunked SSD against the Mamba-2 paper's minimal listing with flips
    generation.py  the share of a generation that is spent outside the denoiser
    memory.py      peak memory of a forward pass, each in a process of its own
    report.py      the whole run: machine, tables, JSON

The forward pass of DiffuApriel against DiffuTran over length comes from `diffuapriel.race`, where the fair
protocol lives.
"""
