"""Every text of the page in one place."""

TITLE = "DiffuApriel"
SENTENCE = (
    "A diffusion language model does not write from left to right: every token starts as a mask and appears, "
    "anywhere, when the model is sure enough of it."
)
UNTRAINED = "No trained checkpoint was found: these models have random weights and write nonsense."

UNMASK_TAB = "Unmask"
RACE_TAB = "Race"

TEXT_LABEL = "Text with holes"
TEXT_INFO = "[MASK:6] is a hole of six tokens. Everything else stays as you wrote it."
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
STOPPED = "Stopped after step {step}: {masks} masks are left."
DONE = "{tokens} tokens in {steps} steps and {seconds:.2f} s: {rate:,.0f} tokens/s."
NOTHING_MASKED = "The text has no hole and fills its length: nothing to do."
LOADED = "Opened a trace of {frames} frames."

GRAMMATICAL = "Grammatical"
NOT_GRAMMATICAL = "Not grammatical"
CONSISTENT = "Consistent"
NOT_CONSISTENT = "Not consistent"
SO_FAR = "so far"
STORY = "Story {number}"
CUT = "cut by the end of the canvas"
NO_STORY = "No story on the canvas yet."

RACE_LEAD = (
    "Two models fill the same canvas. They are timed one after the other, never together, "
    "and replayed side by side at their true relative speed."
)
LANE_A = "Lane A"
LANE_B = "Lane B"
REPEATS = "Timed runs each"
REPEATS_INFO = "In the order A B, B A, …; the median counts."
RACE = "Race"
RACE_MORE = "Strategy, seed"
WHAT_WAS_FAIR = "What was fair"
RACE_PROGRESS = "{phase}: {lane}, step {step}"
LANE_NOTE = "{ms:.1f} ms per step, {rate:,.0f} tokens/s"
WARM_UP = "Warming up"
TIMED = "Timing run {repeat} of {repeats}"
RACE_STOPPED = "The race was stopped; nothing was measured."
COLUMNS = ("", "ms per step", "tokens/s", "forward passes", "peak memory", "parameters")

SWEEP_TITLE = "From which length on does it pay?"
SWEEP_LEAD = (
    "One forward pass at ever longer lengths, the same two models. Both axes are logarithmic: "
    "slope 1 is linear time, slope 2 quadratic."
)
LONGEST = "Up to length"
LONGEST_INFO = "What does not fit in memory is refused, with the figure."
SWEEP = "Measure"
SWEEP_STOPPED = "Stopped: these are the lengths measured so far."
NOT_RUN = "Not run"
