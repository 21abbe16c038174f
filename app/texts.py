"""Every text of the page in one place.

To add one: write it here in English under an upper-case name, with a {hole} for each value, read it as texts.NAME
inside a function (never when a module is imported: the language is chosen later), and give app/texts.de.json the same
name and holes. tests/app/test_language.py says what is missing. app/language.py chooses the language. Those of the
Inside and Quality tabs stand in texts_inside.py, for their number alone, and are read from here too.
"""

from app.texts_inside import *  # noqa: F403

LANGUAGE = "en"  # as in <html lang="en">
PLAYER: dict[str, object] = {}  # a translation has the player's words here; in English it brings its own

TITLE = "DiffuApriel"
SENTENCE = (
    "A diffusion language model does not write one word after the other: every token starts as a mask and appears, "
    "among the others of its block, when the model is sure enough of it."
)
UNTRAINED = "No trained checkpoint was found: these models have random weights and write nonsense."

UNMASK_TAB = "Unmask"
RACE_TAB = "Race"

TEXT_LABEL = "Text with holes"
TEXT_INFO = (
    "[MASK:6] is a hole of six tokens. Everything else stays as you wrote it. "
    "You can also write on the canvas below."
)
TEXT_PLACEHOLDER = "Leave it empty to start from masks alone"
EXAMPLES_LABEL = "Try"
EXAMPLES = [  # name, text, length
    ("a hole, and what follows", "Mia found a [MASK:6].", 96),
    ("go on from here", "One day, Sam", 128),
    ("only the ending", "[MASK:70] Ruth gave Mark nine pies.", 0),
    ("from nothing", "", 128),
]
RUN = "Run"
STOP = "Stop"
SETTINGS = "Settings"
MODEL = "Model"
LENGTH = "Length in tokens"
LENGTH_INFO = "Masks fill the canvas up to this length. 0: the text alone."
STEPS = "Steps"
STEPS_INFO = "Fewer steps reveal more tokens at once: faster, less careful."
STRATEGY = "Strategy"
STRATEGIES = {
    "confidence": "confidence: most probable first",
    "entropy": "entropy: least uncertain first",
    "margin": "margin: clearest winner first",
    "random": "random order",
    "threshold": "threshold: all that are sure",
    "ancestral": "ancestral: as the theory draws",
    "remask": "remask: may take tokens back",
    "first_hitting": "first hitting: one at a time",
}
BLOCK = "Block"
BLOCK_INFO = "Tokens that are filled before the next ones begin, from the left. 0: the whole canvas at once."
MORE = "Temperature, top-k, top-p, seed"
TEMPERATURE = "Temperature"
TEMPERATURE_INFO = "0 always takes the most probable token."
TOP_K = "Top-k"
TOP_K_INFO = "0: all tokens"
TOP_P = "Top-p"
TOP_P_INFO = "1: all tokens"
SEED = "Seed"
SEED_INFO = "Same seed, same text."
SAVE_JSON = "Save as JSON"
SAVE_HTML = "Save as web page"
FINAL_TEXT = "Text"
LOAD = "Open a saved trace"

READY = "Ready."
WAITING = "Waiting for a turn, or loading the model…"
RUNNING = "Writing…"
QUEUE_PLACE = "Your place in the queue: {place} of {size}. One model runs at a time."
REFUSED = "Not possible"
NOT_ENOUGH_MEMORY = "Not enough memory"
OUT_OF_MEMORY = "this machine ran out of memory"
FAULT = "Something went wrong"
GOES_ON = "{kind}: {message}. The app goes on; the details are in its terminal"
STOPPED = "Stopped after step {step}: {masks} masks are left."
DONE = "{tokens} tokens in {steps} steps and {seconds:.2f} s: {rate:,.0f} tokens/s."
AT_REST = "Step {step}, {masks} masks are left. Resume goes on from here; Run starts over with what is fixed."
NOTHING_LEFT = "No mask is left. Clear tokens to go on; Run starts over with what is fixed."
NOTHING_MASKED = "The text has no hole and fills its length: nothing to do."
LOADED = "Opened a trace of {frames} frames."

# What is refused, and why. A value is named as the endpoints name it.
NOT_WHOLE = "{name} is {value}; it must be a whole number from {low} to {high}"
NOT_A_NUMBER = "{name} is {value}; it must be a number from {low} to {high}"
NOT_PERMITTED = "{name} is {value}; permitted: {permitted}"
NOT_TEXT = "{name} is {value}; it must be text"
TOO_LONG = "{name} has {length} characters; it may have up to {most}"
BUSY = "the model was busy for {seconds:.0f} s; please try again"
NO_FILE = "there is no file; choose a trace saved as JSON"
FILE_TOO_LARGE = "the file has {size} bytes; a trace may have up to {most}"
NOT_A_TRACE = "this file cannot be opened as a trace: {why}"
CANVAS_TOO_LONG = "the text takes {tokens} tokens; it may take up to {most}"
CANVAS_CHANGED = "the canvas has changed meanwhile; please try again"
NO_COMMAND = "a command is {value}; it must be an object"
NO_OTHER_ENDING = "there is no other ending"
NO_EDIT = "there is no edit to take back: the last step was the model's"
NOTHING_WRITTEN = "the text is empty; write something, or clear the token"
RUN_TOO_LONG = "this run has {steps} steps, as many as it may; press Run for a new one"
EDITS_WAIT = "{edits} edits wait for the step under way already"
TRACE_TOO_LONG = "the trace has {tokens} tokens; the player draws up to {most}"

GRAMMATICAL = "Grammatical"
NOT_GRAMMATICAL = "Not grammatical"
CONSISTENT = "Consistent"
NOT_CONSISTENT = "Not consistent"
SO_FAR = "so far"
STORY = "Story {number}"
CUT = "cut by the end of the canvas"
NO_STORY = "No story on the canvas yet."

RACE_LEAD = (
    "Two or three models fill the same canvas. They are timed one after the other, never together, "
    "and replayed side by side at their true relative speed."
)
LANE_A = "Lane A"
LANE_B = "Lane B"
LANE_C = "Lane C"
NO_LANE = "none"
RANDOM_WEIGHTS = (
    "Random weights are as fast as trained ones and write nonsense: for the paper's sizes, up to 1.3B."
)
REPEATS = "Timed runs each"
REPEATS_INFO = "In the order A B, B A, …; the median counts."
RACE_BEHIND = "{ratio:.2f}× the time of the first"
RACE = "Race"
RACE_MORE = "Strategy, seed"
WHAT_WAS_FAIR = "What was fair"
RACE_PROGRESS = "{phase}: {lane}, step {step}"
LANE_NOTE = "{ms:.1f} ms per step, {rate:,.0f} tokens/s"
WARM_UP = "Warming up"
TIMED = "Timing run {repeat} of {repeats}"
RACE_STOPPED = "The race was stopped; nothing was measured."
COLUMNS = ("lane", "ms per step", "tokens/s", "forward passes", "peak memory", "parameters")

SWEEP_TITLE = "From which length on does it pay?"
SWEEP_LEAD = (
    "One forward pass at ever longer lengths, the lanes chosen above. Both axes are logarithmic: "
    "slope 1 is linear time, slope 2 quadratic."
)
LONGEST = "Up to length"
LONGEST_INFO = "What does not fit in memory is refused, with the figure."
SWEEP = "Measure"
SWEEP_STOPPED = "Stopped: these are the lengths measured so far."
NOT_RUN = "Not run"
CHART_LENGTH = "length in tokens"
CHART_LATENCY = "ms per forward pass"
CHART_RATE = "tokens per second"
CHART_STEP = "ms per step, least to most of the runs"
CHART_RATIO = "times as fast as {baseline}"
CHART_SLOPE = "{lane} (slope {slope:.2f})"
CHART_CROSSOVER = " crossover at {length:,.0f} "
CHART_EQUAL = "below: {baseline} is faster"
CHART_PAPER = "the paper, {version}: up to {ratio:g}×, {lane}"
PAPER_NOTE = (
    "Dotted lines are the paper's own figures (arXiv:2511.15927), not measured here: {figures}. "
    "Their hardware, kernels and sizes differ from this machine's."
)
PAPER_FIGURE = "{version}: {lane} up to {ratio:g} times DiffuTran's throughput {setting}"

RESULTS_TITLE = "Results of this visit"
RESULTS_LEAD = (
    "Races and sweeps are kept here until you leave the page, the last {most} of them. "
    "Choose the ones to compare and to save."
)
RESULTS_CHOICE = "Compare and save"
RESULTS_NONE = "Nothing has been measured yet."
RESULTS_FORGET = "Forget all"
RESULTS_COLUMNS = ("lane", "length", "steps", "ms", "tokens/s", "× row 1")
RESULTS_KINDS = {"race": "{number}. race", "sweep": "{number}. sweep"}
RESULTS_MIXED = "Races count milliseconds per step, sweeps per forward pass at their longest length."
KEPT_RACE = "{number}. race, {length:,} tokens × {steps} steps: {lanes}"
KEPT_SWEEP = "{number}. sweep up to {top:,} tokens: {lanes}"
SAVE_RESULTS_JSON = "Save as JSON"
SAVE_RESULTS_CSV = "Save as CSV"
SAVE_RESULTS_PNG = "Save as picture"

SAVE_GIF = "Save as GIF"
DROP = "A trace can also be dropped here."
LINK = "Link to these settings"
LINK_LABEL = "Link"
LINK_INFO = "It opens this tab with these settings and is now in the address bar too. Nothing is stored."
LINK_BAD = "From the link: {why}"
