"""The Unmask tab for programs: a text, its verdict, and links to its trace."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

import gradio as gr

from app.server.api import endpoint, link_to, linked_file
from app.server.limits import Limits
from app.server.models import Models
from app.server.stops import Stops
from app.ui.events import returned
from app.ui.tale_check import examine, possible, split
from app.unmask import export
from app.unmask.request import ORDER_STRATEGY, STEPS, THRESHOLD, TOP_P, UnmaskRequest, first_settings, read_request
from app.unmask.session import UnmaskSession
from diffuapriel.sampling.config import ALL_STRATEGIES, BLOCK_STARTS
from diffuapriel.trace.gif import write_gif

if TYPE_CHECKING:
    from diffuapriel.trace.trace import Trace


class Play(Protocol):
    """Runs a request in a session and returns the trace first (`UnmaskTab.play`)."""

    def __call__(
        self, session: UnmaskSession, asked: UnmaskRequest, command: None, stopped: Event
    ) -> Generator[Any, None, tuple[Trace, str, str]]: ...


class UnmaskEndpoints:
    """The handlers; `play` runs the sampler as for the page."""

    def __init__(self, models: Models, limits: Limits, stops: Stops, play: Play) -> None:
        self.models, self.limits, self.stops, self.play = models, limits, stops, play

    def build(self, group: str) -> None:
        """Offer them in the current `gr.Blocks`; runs wait in the queue of `group`."""
        choices = {"model": self.models.trained, "strategy": ALL_STRATEGIES, "block_start": BLOCK_STARTS}
        defaults = {"model": self.models.default, **first_settings(self.models.find(self.models.default))}
        more: dict[str, Any] = {"choices": choices, "defaults": defaults}
        endpoint(self.unmask, "unmask", group=group, at_once=self.limits.batch, **more)
        endpoint(self.open_trace, "open_trace")
        endpoint(self.trace_gif, "trace_gif")

    def unmask(
        self,
        text: str = "Mia found a [MASK:6].",
        model: str = "",
        length: int = 96,
        steps: int = STEPS,
        strategy: str = ORDER_STRATEGY,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = TOP_P,
        seed: int = 0,
        block: int = 0,
        block_start: str = "prompt",
        threshold: float = THRESHOLD,
        request: gr.Request | None = None,
    ) -> dict:
        """Fill the holes of a text with a masked diffusion language model.

        Args:
            text: the text; [MASK:6] is a hole of six tokens, everything else is kept
            model: one of the listed names
            length: tokens on the canvas, filled up with masks; 0 for the text alone, continued if it has no hole
            steps: steps of the sampler; fewer reveal more tokens at once
            strategy: which masks go first; speculative, for models of blocks of one token, verifies drafted blocks
            temperature: of the drawn tokens; 0 always takes the most probable one
            top_k: draw from the k most probable tokens; 0 for all
            top_p: draw from the most probable tokens that make up this share; 1 for all
            seed: same seed, same text
            block: fill blocks of this many tokens from left to right; 0 for the whole canvas at once;
                with speculative, the length of a draft
            block_start: where the first block begins: prompt, at the end of the text given first, or zero
            threshold: of the strategy threshold: tokens at least this probable are revealed together
        Returns:
            The text, what the story grammar says of each story in it, the number of steps, and links to the trace as
            JSON (for open_trace and trace_gif) and as a web page.
        """
        values = text, model, length, steps, strategy, temperature, top_k, top_p, seed, block, block_start, threshold
        asked = read_request(self.models, self.limits, *values)
        session = UnmaskSession(self.models, self.limits)
        with self.stops.running(request and request.session_hash) as stopped:
            trace, _, _ = returned(self.play(session, asked, None, stopped))
        with export.saved(trace) as files:
            json_file, html_file = (link_to(file, request) for file in files)
        steps_made = [frame for frame in trace.frames[1:] if not frame.edits]
        return {
            "text": trace.text,
            "stories": self.stories(trace, asked),
            "masks_left": trace.frames[-1].ids.count(trace.mask_id),
            "steps": len(steps_made),
            "seconds": round(sum(frame.ms for frame in steps_made) / 1000, 3),
            "model": asked.model.label,
            "trace": json_file,
            "page": html_file,
        }

    def stories(self, trace: Trace, asked: UnmaskRequest) -> list[dict[str, Any]]:
        """The verdict on every story of a tales model that could fit the grammar."""
        level, tokenizer = asked.model.tales_level, asked.tokenizer
        if level is None:
            return []
        last = trace.frames[-1].ids
        judged = [s for s in split(last, tokenizer.eos_id) if possible(s, trace.fixed, tokenizer, level)]
        found = [(story, examine(story, tokenizer, level, story.closed)) for story in judged]
        return [
            {
                "story": tokenizer.decode([i for i in story.ids if i != tokenizer.mask_id]).strip(),
                "complete": story.closed and not finding.so_far,
                "fits_the_story_grammar": finding.grammatical,
                "consistent": finding.consistent,
                "reason": finding.message,
            }
            for story, finding in found
        ]

    def open_trace(self, trace: str) -> dict:
        """Read a recorded run that was saved as JSON.

        Args:
            trace: the link to the trace that `unmask` answered with, or an uploaded file
        Returns:
            The text at the end, the number of frames, and how it was made: model, strategy, seed.
        """
        recorded = export.read_trace(linked_file(trace), self.limits)
        about = {key: value for key, value in recorded.meta.items() if isinstance(value, str | int | float | None)}
        return {"text": recorded.text, "frames": len(recorded.frames), "about": about}

    def trace_gif(self, trace: str, request: gr.Request | None = None) -> dict:
        """Draw a recorded run of the sampler as an animated GIF: the canvas of tokens, step by step.

        Args:
            trace: the link to the trace that `unmask` answered with, or an uploaded file
        Returns:
            A link to the GIF.
        """
        recorded = export.read_trace(linked_file(trace), self.limits)
        with tempfile.TemporaryDirectory(prefix="diffuapriel-") as folder:
            path = (Path(folder) / export.file_name(recorded)).with_suffix(".gif")
            write_gif(recorded, path)
            return {"gif": link_to(path, request)}
