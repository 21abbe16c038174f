"""What happens in the Unmask tab: runs, steps, edits, traces. The page is in unmask.py, a visitor's canvas in visit.py.

A run is a generator. It takes the machine's one turn, sends the player at most twenty messages a second while the
sampler runs on, does what the visitor asks between two steps, and gives the turn back however it ends: the text is
done, the visitor pauses, or closes the page (Gradio then closes the generator). What the screen leaves out is still
in the trace.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from app import render, texts
from app.limits import Limits
from app.models import Entry, Models
from app.stops import Stops
from app.visit import Visit, canvas_text

if TYPE_CHECKING:
    from app.request import Command, Request
    from diffuapriel.player.wire import Feed
    from diffuapriel.sampling.steering import Steered
    from diffuapriel.sampling.trace import Trace
    from diffuapriel.text.tokenizer import Tokenizer

Update = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text, JSON file, HTML file
Edited = tuple[Any, Any, Any, Any, Any]  # player, status and verdict, text with holes, length, visit
SAME = gr.skip()
HIDDEN = gr.update(visible=False)


class UnmaskRuns:
    """The handlers of the tab."""

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.stops = Stops()

    def run(
        self,
        text: Any,
        model: Any,
        length: Any,
        steps: Any,
        strategy: Any,
        temperature: Any,
        top_k: Any,
        top_p: Any,
        seed: Any,
        block: Any,
        request: gr.Request,
        visit: Visit | None = None,
    ) -> Iterator[Update]:
        """Fill the holes of a text with a masked diffusion language model, streaming the steps.

        Args:
            text: the text; [MASK:6] is a hole of six tokens, everything else is kept
            model: one of the listed names
            length: tokens of the canvas, filled up with masks; 0 for the text alone
            steps: steps of the sampler; fewer reveal more tokens at once
            strategy: which masks go first
            temperature: of the drawn tokens; 0 always takes the most probable one
            top_k: draw from the k most probable tokens; 0 for all
            top_p: draw from the most probable tokens that make up this share; 1 for all
            seed: same seed, same text
            block: fill blocks of so many tokens from left to right; 0 for the whole canvas at once
        Returns:
            The player's last message, the verdict, the text, and the trace as JSON and as a web page.
        """
        from app import files

        asked = self._asked(text, model, length, steps, strategy, temperature, top_k, top_p, seed, block)
        visit = visit or Visit()
        command, visit.asked = visit.asked, None
        stopped = self.stops.flag(request.session_hash)
        try:
            yield SAME, render.note(texts.WAITING), "", HIDDEN, HIDDEN
            with self.models.turn():
                trace, message = yield from self._play(visit, asked, command, stopped)
        finally:
            visit.running = False
            self.stops.end(request.session_hash, stopped)
        shown = (message, outcome(trace) + self._verdict(visit.entry, trace.final), trace.text)
        yield *shown, SAME, SAME
        with files.saved(trace) as (
            json_file,
            html_file,
        ):  # the last update is the answer to callers of the API
            yield *shown, offered(json_file), offered(html_file)

    def _play(
        self, visit: Visit, asked: Request, command: Command | None, stopped: Event
    ) -> Generator[Update, None, tuple[Trace, str]]:
        """Load, run and show; returns the trace of all steps, shown or not, and the player's last message."""
        from diffuapriel.player.wire import to_text

        entry = self._begin(visit, asked, command)
        tokenizer = self.models.tokenizer(entry)
        denoiser = self.models.load(entry).denoiser
        feed: Feed | None = None
        steps_left = 1 if command and command.do == "step" else -1
        while True:
            with visit.lock:
                feed, problem = self._obey(visit, feed, tokenizer)
                run = visit.run
                assert run is not None, "a visit that runs has a run"
                if run.done or stopped.is_set() or not steps_left:
                    visit.running = False  # from here on edits are done at once
                    self._look(visit, feed, tokenizer)
                    return visit.trace(tokenizer), to_text(feed.finish(done=run.done))
            if problem:
                yield SAME, render.note(problem, bad=True), SAME, SAME, SAME
            if feed.due:
                verdict = self._look(visit, feed, tokenizer)
                yield to_text(feed.send()), render.note(texts.RUNNING) + verdict, SAME, SAME, SAME
                feed.aside.pop("other", None)  # once is enough
            feed.take(run.advance(denoiser))
            steps_left -= 1

    def _begin(self, visit: Visit, asked: Request, command: Command | None) -> Entry:
        """The visitor's canvas, ready to run; edits wait from now on."""
        tokenizer, device = self.models.tokenizer(asked.entry), self.models.device
        with visit.lock:
            if command is None:
                visit.begin(asked, tokenizer, self.limits, device)
            else:
                visit.resume(visit.open(asked, tokenizer, self.limits, device, command), asked)
            visit.running = True
            assert visit.entry is not None, "a canvas has its model"
            return visit.entry

    def _obey(self, visit: Visit, feed: Feed | None, tokenizer: Tokenizer) -> tuple[Feed, str]:
        """Do what waits. The feed, a new one where the frames on the screen no longer hold; and what was refused."""
        problem = ""
        while visit.waiting:
            try:
                frame = visit.obey(visit.waiting.popleft(), tokenizer, self.limits)
                if frame is not None and feed is not None and feed.run == visit.name:
                    feed.take(frame)
            except ValueError as error:
                problem = str(error)
        if feed is None or feed.run != visit.name:
            feed = visit.feed(tokenizer)
        return feed, problem

    def _look(self, visit: Visit, feed: Feed, tokenizer: Tokenizer) -> str:
        """What the next message says beside its frames; the verdict on a tale so far, as HTML."""
        run = visit.run
        assert run is not None, "there is a canvas to look at"
        feed.aside["total"] = run.planned
        if visit.entry is None or visit.entry.tales_level is None:
            return ""
        from app.verdict import judge

        judgement = judge(run.state.ids[0].tolist(), tokenizer, visit.entry.tales_level)
        feed.aside["remarks"] = {"step": len(run), "at": {str(p): why for p, why in judgement.breaks}}
        return judgement.html

    def ask(self, event: gr.EventData, visit: Visit | None) -> Visit:
        """The visitor asks for steps of the model, from the step on their screen."""
        from app.request import read_command

        visit = visit or Visit()
        visit.asked = read_command(event._data, self.limits)
        return visit

    def edit(self, event: gr.EventData, request: gr.Request, visit: Visit | None, *values: Any) -> Edited:
        """The visitor changes the canvas, or pauses the model. What cannot be is said in the status line."""
        from app.request import read_command

        visit = visit or Visit()
        try:
            command = read_command(event._data, self.limits)
            if command.do == "pause":
                self.stops.stop(request.session_hash)
                return SAME, SAME, SAME, SAME, SAME
            with visit.lock:
                if visit.running:
                    visit.wait(command)
                    return SAME, SAME, SAME, SAME, SAME
                asked = self._asked(*values)
                tokenizer = self.models.tokenizer(asked.entry if visit.entry is None else visit.entry)
                command = visit.open(asked, tokenizer, self.limits, self.models.device, command)
                visit.obey(command, tokenizer, self.limits)
                message, status = self._show(visit, tokenizer)
                text, length = self._written(visit, tokenizer)
                return message, status, text, length, visit
        except ValueError as error:
            return SAME, render.note(str(error), bad=True), SAME, SAME, SAME

    def compose(self, visit: Visit | None, *values: Any) -> tuple[Any, Any, Visit]:
        """The canvas of a text that the visitor is writing, before anything runs."""
        visit = visit or Visit()
        try:
            with visit.lock:
                asked = self._asked(*values)
                tokenizer = self.models.tokenizer(asked.entry)
                written = (asked.text, asked.length, tokenizer.name)
                if visit.running or visit.written == written:
                    return SAME, SAME, visit
                visit.compose(asked, tokenizer, self.limits, self.models.device)
                message, _ = self._show(visit, tokenizer)
            return message, render.note(texts.READY), visit
        except ValueError as error:
            return SAME, render.note(str(error), bad=True), visit

    def open_trace(self, path: Any, visit: Visit | None = None) -> tuple[str, str, str]:
        """Read a recorded run that was saved as JSON, and show it.

        Args:
            path: the trace, a JSON file of this app or of a notebook
        Returns:
            The message for the player, a line of status, and the text.
        """
        from app import files
        from diffuapriel.player.wire import compact, to_text

        trace = files.read_trace(path, self.limits)
        status = texts.LOADED.format(frames=len(trace.frames))
        visit = visit or Visit()
        with visit.lock:
            entry = None if visit.running else self._entry_for(trace)
            if entry is None or not visit.take_up(trace, entry, self.models.device):
                return to_text(compact(trace.to_dict())), render.note(status), trace.text
            message, _ = self._show(visit, self.models.tokenizer(entry))
        return message, render.note(status) + self._verdict(entry, trace.final), trace.text

    def read_back(self, visit: Visit | None) -> tuple[Any, Any]:
        """The text with holes and the length that say what the canvas says."""
        if visit is None or visit.run is None or visit.running or visit.entry is None:
            return SAME, SAME
        with visit.lock:
            return self._written(visit, self.models.tokenizer(visit.entry))

    def save(self, visit: Visit | None) -> Iterator[tuple[Any, Any]]:
        """The run so far as files: JSON and a web page."""
        from app import files

        if visit is None or visit.run is None or visit.running or visit.entry is None:
            return
        with visit.lock:
            trace = visit.trace(self.models.tokenizer(visit.entry))
        with files.saved(trace) as (json_file, html_file):
            yield offered(json_file), offered(html_file)

    def _asked(self, *values: Any) -> Request:
        from app.request import read_request

        return read_request(self.models, self.limits, *values)

    def _show(self, visit: Visit, tokenizer: Tokenizer) -> tuple[str, str]:
        """The message with the whole run at rest, and the status line with the verdict on it."""
        from diffuapriel.player.wire import to_text

        feed = visit.feed(tokenizer)
        verdict = self._look(visit, feed, tokenizer)
        run = visit.run
        assert run is not None, "there is a canvas to show"
        return to_text(feed.finish(done=run.done)), at_rest(run) + verdict

    def _written(self, visit: Visit, tokenizer: Tokenizer) -> tuple[str, int]:
        """What the canvas says, as the text box and the length would: the next run starts from it."""
        run = visit.run
        assert run is not None, "there is a canvas to read"
        text = canvas_text(run.state.ids[0].tolist(), run.state.fixed[0].tolist(), tokenizer)
        visit.written = (text, len(run.canvas), tokenizer.name)
        return text, len(run.canvas)

    def _entry_for(self, trace: Trace) -> Entry | None:
        """The model that can go on with a trace: its own where it is offered, else one that reads its tokens."""
        if len(trace.fixed) > self.limits.max_tokens:
            return None
        entries = [self.models.entry(label) for label in self.models.trained]
        same = [e for e in entries if e.tokenizer == trace.meta.get("tokenizer")]
        fits = [e for e in same if self.models.tokenizer(e).mask_id == trace.mask_id]
        return next((e for e in fits if e.label == trace.meta.get("model")), fits[0] if fits else None)

    def _verdict(self, entry: Entry | None, ids: tuple[int, ...]) -> str:
        """The verdict on a tales model's text, as HTML; nothing for other models."""
        if entry is None or entry.tales_level is None:
            return ""
        from app.verdict import verdict_html

        return verdict_html(ids, self.models.tokenizer(entry), entry.tales_level)


def outcome(trace: Trace) -> str:
    """One line of status at the end of a run."""
    last = trace.frames[-1]
    masks = last.ids.count(trace.mask_id)
    if masks:
        return render.note(texts.STOPPED.format(step=last.step, masks=masks))
    steps = [frame for frame in trace.frames[1:] if not frame.edits]
    tokens = sum(len(frame.revealed) - len(frame.remasked) for frame in steps)
    if not tokens:
        return render.note(texts.NOTHING_MASKED)
    seconds = sum(frame.ms for frame in steps) / 1000
    rate = tokens / max(seconds, 1e-9)
    return render.note(texts.DONE.format(tokens=tokens, steps=len(steps), seconds=seconds, rate=rate))


def at_rest(run: Steered) -> str:
    """One line of status where nothing runs."""
    masks = int(run.state.masked.sum())
    line = texts.AT_REST.format(step=len(run), masks=masks) if masks else texts.NOTHING_LEFT
    return render.note(line)


def offered(file: str) -> Any:
    """A download button that now has a file."""
    return gr.update(value=file, visible=True)
