"""Fair timing: the race between models and the sweep over length. Every time in the project comes from here."""

from diffuapriel.race.curves import Crossover, crossover, fit_exponent
from diffuapriel.race.lane import Lane
from diffuapriel.race.memory import available_bytes, estimate_bytes, format_bytes
from diffuapriel.race.race import LaneResult, RaceEvent, RaceResult, race, race_events
from diffuapriel.race.throughput import LENGTHS, Point, Refusal, SweepEvent, SweepResult, sweep, sweep_events

__all__ = [
    "LENGTHS",
    "Crossover",
    "Lane",
    "LaneResult",
    "Point",
    "RaceEvent",
    "RaceResult",
    "Refusal",
    "SweepEvent",
    "SweepResult",
    "available_bytes",
    "crossover",
    "estimate_bytes",
    "fit_exponent",
    "format_bytes",
    "race",
    "race_events",
    "sweep",
    "sweep_events",
]
