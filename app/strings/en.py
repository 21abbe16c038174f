"""Every text of the page, in English.

To add one: write it here under an upper-case name, with a {placeholder} for each value; read it as `texts.NAME` inside
a function, never when a module is imported (the language is chosen later); and add the same name, with the same
placeholders, to app/strings/de.json. tests/app/ui/test_language.py reports what is missing.
"""

LANGUAGE = "en"  # as in <html lang="en">
PLAYER: dict[str, object] = {}  # a translation holds the player's words here; the player has the English ones

# The page
TITLE = "DiffuApriel"
SENTENCE = (
    "A diffusion language model does not write word by word. Every token starts as a mask and is revealed, in any "
    "order within its block, once the model is confident enough."
)
UNTRAINED = "No trained checkpoint was found. These models have random weights and write nonsense."
UNMASK_TAB = "Unmask"
RACE_TAB = "Race"
INSIDE_TAB = "Inside"
QUALITY_TAB = "Quality"
READY = "Ready."
WAITING = "Waiting for a turn, or loading the model…"
QUEUE_PLACE = "Your place in the queue: {place} of {size}. One model runs at a time."
LINK = "Link to these settings"
LINK_LABEL = "Link"
LINK_INFO = "Opens this tab with these settings. It is in the address bar, too. Nothing is stored."
LINK_BAD = "From the link: {why}"

# Settings
EXAMPLES_LABEL = "Try"
RUN = "Run"
STOP = "Stop"
MODEL = "Model"
LENGTH = "Length in tokens"
LENGTH_INFO = "The canvas is padded with masks to this length. 0: the text alone."
STEPS = "Steps"
STEPS_INFO = "Fewer steps reveal more tokens at once: faster, but less careful."
STRATEGY = "Strategy"
STRATEGIES = {
    "low_confidence": "low-confidence: likeliest first",
    "entropy": "entropy: least uncertain first",
    "margin": "margin: clearest winner first",
    "random": "random order",
    "threshold": "threshold: all confident enough",
    "ancestral": "ancestral: exact reverse process",
    "remdm": "ReMDM: may mask tokens again",
    "first_hitting": "first hitting: one at a time",
}
BLOCK = "Block length"
BLOCK_INFO = "Blocks of this many tokens are filled from left to right. 0: the whole canvas at once."
MORE = "Temperature, top-k, top-p, seed"
TEMPERATURE = "Temperature"
TEMPERATURE_INFO = "0 always takes the most probable token."
TOP_K = "Top-k"
TOP_K_INFO = "0: all tokens"
TOP_P = "Top-p"
TOP_P_INFO = "1: all tokens"
SEED = "Seed"
SEED_INFO = "Same seed, same text."

# Refusals and faults. A value is named as the endpoints name it.
REFUSED = "Not possible"
NOT_WHOLE = "{name} is {value}; it must be a whole number from {low} to {high}"
NOT_A_NUMBER = "{name} is {value}; it must be a number from {low} to {high}"
NOT_PERMITTED = "{name} is {value}; permitted: {permitted}"
NOT_TEXT = "{name} is {value}; it must be text"
NOT_A_LIST = "{name} are {value}; choose one to {most}"
TOO_LONG = "{name} has {length} characters; it may have up to {most}"
LINK_TOO_LONG = (
    "the link would have {length} characters; it may have up to {most}. Shorten the text, or save the trace instead"
)
BUSY = "the model was busy for {seconds:.0f} s; please try again"
NOT_ENOUGH_MEMORY = "Not enough memory"
OUT_OF_MEMORY = "this machine ran out of memory"
FAULT = "Something went wrong"
GOES_ON = "{kind}: {message}. The app is still running; its terminal shows the details"

# The Unmask tab
TEXT_LABEL = "Text with holes"
TEXT_INFO = (
    "[MASK:6] is a hole of six tokens. Everything else stays as you wrote it. You can also write on the canvas below."
)
TEXT_PLACEHOLDER = "Leave it empty to start from masks alone"
EXAMPLES = [  # name, text, length
    ("fill a hole and go on", "Mia found a [MASK:6].", 96),
    ("continue a text", "One day, Sam", 128),
    ("write up to an ending", "[MASK:70] Ruth gave Mark nine pies.", 0),
    ("start from nothing", "", 128),
]
FINAL_TEXT = "Text"
SAVE_JSON = "Save as JSON"
SAVE_HTML = "Save as web page"
SAVE_GIF = "Save as GIF"
LOAD = "Open a saved trace"
DROP = "You can also drop a trace here."
RUNNING = "Writing…"
STOPPED = "Stopped after step {step}: {masks} masks left."
DONE = "{tokens} tokens in {steps} steps and {seconds:.2f} s: {rate:,.0f} tokens/s."
AT_REST = "Step {step}, {masks} masks left. Resume continues from here; Run starts over and keeps what is fixed."
NOTHING_LEFT = "No masks left. Clear tokens to continue; Run starts over and keeps what is fixed."
NOTHING_MASKED = "The text has no hole and fills its length: nothing to do."
LOADED = "Opened a trace of {frames} frames."
NO_FILE = "there is no file; choose a trace saved as JSON"
FILE_TOO_LARGE = "the file has {size} bytes; a trace may have up to {most}"
NOT_A_TRACE = "this file cannot be opened as a trace: {why}"
TRACE_TOO_LONG = "the trace has {tokens} tokens; the player draws up to {most}"
CANVAS_TOO_LONG = "the text takes {tokens} tokens; it may take up to {most}"
CANVAS_CHANGED = "the canvas has changed in the meantime; please try again"
NO_COMMAND = "the command is {value}; it must be an object"
NO_OTHER_ENDING = "there is no other ending"
NO_EDIT = "there is no edit to undo: the last step was the model's"
NOTHING_WRITTEN = "the text is empty; write something, or clear the token"
RUN_TOO_LONG = "this run has {steps} steps, the most allowed; press Run to start a new one"
EDITS_WAIT = "{edits} edits are already waiting for the current step"

# The verdict on a tale
GRAMMATICAL = "Grammatical"
NOT_GRAMMATICAL = "Not grammatical"
CONSISTENT = "Consistent"
NOT_CONSISTENT = "Not consistent"
SO_FAR = "so far"
STORY = "Story {number}"
CUT = "cut off by the end of the canvas"
HERE = "here"
NO_STORY = "No story on the canvas yet."

# The Race tab
RACE_LEAD = (
    "Two or three models fill the same canvas. They are timed one after another, never in parallel, "
    "and replayed side by side at their true relative speed."
)
RACE_ON_GPU = "The race runs on {name}, in bfloat16; the first run of a model compiles it (about half a minute)."
RACE_ON_CPU = "The race runs on the CPU."
RACE_WITHOUT_GPU = "There is no NVIDIA GPU here: the race runs on the CPU."
RACE_ON = "The race runs on {device}."
ENTRY_A = "Model A"
ENTRY_B = "Model B"
ENTRY_C = "Model C"
NO_ENTRY = "none"
RANDOM_WEIGHTS = (
    "Models with random weights are as fast as trained ones and write nonsense. "
    "They offer the paper's sizes, up to 1.3B."
)
REPEATS = "Timed runs each"
RACE_MORE = "Strategy, seed"
RACE = "Race"
WARM_UP = "Warming up"
TIMED = "Timed run {repeat} of {repeats}"
RACE_PROGRESS = "{phase}: {entry}, step {step}"
RACE_STOPPED = "The race was stopped; nothing was measured."
ENTRY_NOTE = "{ms:.1f} ms per step, {rate:,.0f} tokens/s"
COLUMNS = ("model", "ms per step", "tokens/s", "forward passes", "peak memory", "parameters")
RACE_BEHIND = "{ratio:.2f}× the time of the first"
RACE_SPREAD = "{least:.1f} to {most:.1f}"
WHAT_WAS_FAIR = "What makes it fair"
SWEEP_TITLE = "Where is the crossover?"
SWEEP_LEAD = (
    "One forward pass at increasing lengths, for the models chosen above. Both axes are logarithmic: "
    "slope 1 is linear time, slope 2 is quadratic."
)
LONGEST = "Up to length"
LONGEST_INFO = "A length that does not fit in memory is not run; the page says how much it needs."
SWEEP = "Measure"
SWEEP_STOPPED = "Stopped: these are the lengths measured so far."
NOT_RUN = "Not run"
CHART_LENGTH = "length in tokens"
CHART_LATENCY = "ms per forward pass"
CHART_RATE = "tokens per second"
CHART_STEP = "ms per step, fastest to slowest run"
CHART_RATIO = "speedup over {baseline}"
CHART_SLOPE = "{entry} (slope {slope:.2f})"
CHART_CROSSOVER = " crossover at {length:,.0f} "
CHART_EQUAL = "below: {baseline} is faster"
CHART_PAPER = "the paper, {version}: up to {ratio:g}×, {entry}"
PAPER_NOTE = (
    "Dotted lines show the paper's figures (arXiv:2511.15927), not measured here: {figures}. "
    "The paper's hardware, kernels and sizes differ from this machine's."
)
PAPER_FIGURE = "{version}: {entry} up to {ratio:g} times DiffuTran's throughput {setting}"
RESULTS_TITLE = "Results of this session"
RESULTS_LEAD = (
    "Races and sweeps are kept until you leave the page: the last {most} of them. Choose the ones to compare and save."
)
RESULTS_CHOICE = "Compare and save"
RESULTS_CHOSEN = "the choice is {value}; choose up to {most} results"
RESULTS_NONE = "Nothing has been measured yet."
RESULTS_CLEAR = "Clear all"
RESULTS_COLUMNS = ("model", "length", "steps", "ms", "tokens/s", "× row 1")
RESULTS_KINDS = {"race": "Race {number}", "sweep": "Sweep {number}"}
RESULTS_MIXED = "Races count milliseconds per step, sweeps per forward pass at their longest length."
KEPT_RACE = "Race {number}, {length:,} tokens × {steps} steps: {entries}"
KEPT_SWEEP = "Sweep {number}, up to {top:,} tokens: {entries}"
SAVE_RESULTS_JSON = "Save as JSON"
SAVE_RESULTS_CSV = "Save as CSV"
SAVE_RESULTS_PNG = "Save as image"

# The Inside tab
INSIDE_LEAD = (
    "What the denoiser does at one step. Choose the token to predict; the colors show which other tokens the "
    "prediction depends on, for the three architectures side by side."
)
INSIDE_TEXT = (
    'One day, Lily lost her green camera on the hill. She told Bill, "My camera is lost." Bill looked on the bridge, '
    "and there it was. Lily was very surprised. Lily and Bill played with the [MASK] camera all day."
)
INSIDE_TEXT_INFO = "[MASK:6] is a hole of six tokens. Up to {length} tokens."
INSIDE_EXAMPLES = [  # name, text
    ("a color, 40 tokens back", INSIDE_TEXT),
    (
        "the color comes later",
        "Mia lost her [MASK] robot in the garden. Mia and Max played with the white robot.",
    ),
    ("a sum", "Ruth had five nuts, ate three and kept [MASK]."),
]
INSIDE_MODELS = "Models, up to three"
INSIDE_MODELS_INFO = "Random weights: untrained, with the gates opened so that the structure shows."
INSIDE_TIME = "Time t given to the models"
INSIDE_TIME_INFO = "0: as many masks as the text has. 1: all masked."
INSIDE_METHOD = "Influence by"
INSIDE_METHOD_INFO = "Occlusion masks every token once: as many forward passes as tokens."
INSIDE_METHODS = {
    "gradient": "gradient: effect of a small change",
    "occlusion": "occlusion: effect of hiding the token",
}
INSIDE_POSITION = "Output position"
INSIDE_POSITION_INFO = "Or choose a token below. -1: the first mask."
INSIDE_RUN = "Inspect"
INSIDE_READY = "Press Inspect, then choose any token."
INSIDE_TOO_LONG = "the text takes {tokens} tokens; here it may take up to {most}"
INSIDE_TWICE = "a model is chosen twice; choose different ones"
INSIDE_TOKENIZERS = "these models have different tokenizers, so each would see different tokens; choose others"
INSIDE_HINT = "influence on the chosen output; Enter makes a token the output"
INSIDE_MASKED = "a mask"
INSIDE_ASKED = "position {position}: the chosen output"
INSIDE_UNKNOWN = "{token}, position {position}: not measured"
INSIDE_SHARE = "{token}, position {position}: {share:.2%} of the influence"
INSIDE_ANSWER = "predicts “{answer}” with {probability:.0%}"
INSIDE_UNTRAINED = "untrained, gates opened"
INSIDE_SIDES = (
    "; {left:.0%} of the influence from the left, {right:.0%} from the right, {far:.0%} from more than {n} tokens away"
)
INSIDE_PROGRESS = "{label}: {done} of {total} tokens hidden, one at a time"
INSIDE_STOPPED = "Stopped: the colored tokens have been measured."
INSIDE_DONE = "Output position {position}, t = {t:.2f}: the models are told that {share:.0%} of the text is masked."
INSIDE_SCALE = ("a hundredth", "of the strongest")
INFLUENCE_TITLE = "How far does it look?"
INFLUENCE_LEAD = (
    "The same values by position, as shares of each model's total. Tokens left of the dotted line come before the "
    "output, tokens right of it after: a left-to-right model would show nothing there."
)
INFLUENCE_X = "position"
INFLUENCE_Y = "share of the influence"
CLOSER_TITLE = "A closer look at one model"
CLOSER_LEAD = "The same text at the same noise level, in one of the models above."
CLOSER_MODEL = "Model"
HALF_LIFE_TITLE = "How far each Mamba head remembers"
HALF_LIFE_LEAD = (
    "Half-life of each head's state, in tokens, on this text. Forward heads remember what is to their left, reverse "
    "heads what is to their right. Dotted: the length of the text."
)
HALF_LIFE_NAMES = ("forward heads", "reverse heads")
HALF_LIFE_HOVER = "layer {layer}, head {head}: {tokens:,.1f} tokens"
HALF_LIFE_X = "← half-life in tokens →"
HALF_LIFE_ATTENTION = "attention: every token at once"
HALF_LIFE_NONE = "This model has no Mamba layer."
LAYER = "layer {layer}"
ATTENTION_TITLE = "Where attention looks"
ATTENTION_LEAD = "Each row is a position; its colors show where that position looks, and sum to one."
ATTENTION_LAYER = "Layer"
ATTENTION_FIRST = "first with attention"
ATTENTION_HEAD = "Head"
ATTENTION_MEAN = "mean of all heads"
ATTENTION_ONE = "head {head}"
ATTENTION_NONE = "This model has no attention layer."
ATTENTION_WEIGHT = "weight"
ATTENTION_X = "looks at"
ATTENTION_Y = "position"
SCHEDULE_TITLE = "The noise level"
SCHEDULE_LEAD = "The masked share at time t, and the noise level that the models are given. Log-linear is in use."
SCHEDULE_SHARE = "masked share"
SCHEDULE_SIGMA = "noise level σ"
SCHEDULE_TIME = "time t"
SCHEDULE_MARKS = ("{value:.0%} masked", "σ = {value:.2f}")
MODULATION_TITLE = "What the noise level changes"
MODULATION_LEAD = (
    "AdaLN shifts and scales the input of each layer and gates its output. Size: root mean square over the channels. "
    "A gate of zero switches the layer off."
)
MODULATION_PART = "Part"
MODULATION_PARTS = {"mixer": "mixer", "mlp": "MLP"}
MODULATIONS = ("shift", "scale", "gate")
CLOSER_SPAN = "{low:,.1f} to {high:,.0f} tokens, median {middle:,.1f}"
CLOSER_MAMBA = "Forward heads: {forward}. Reverse heads: {reverse}. Layers: {layers} Mamba, {attention} attention."
CLOSER_TRANSFORMER = "{layers} attention layers and no Mamba layer: every layer sees every token at once."

# The Quality tab
SURPRISAL_LEAD = (
    "How well does the model know this text? Tokens are masked at random and predicted from the rest. A token's "
    "surprisal is the mean of −log p of the true token, in nats: 0 where the model is certain, 0.69 for a coin flip."
)
SURPRISAL_TEXT = "Text"
SURPRISAL_TEXT_INFO = (
    "Up to {most} tokens. A model of tales reads the text as one story, padded to its training length."
)
SURPRISAL_EXAMPLES = [  # name, text
    (
        "a true story",
        'One day, Lily lost her green camera on the hill. She told Bill, "My camera is lost." Bill looked on the '
        "bridge, and there it was. Lily was very surprised. Lily and Bill played with the green camera all day.",
    ),
    (
        "one word wrong",
        'One day, Lily lost her green camera on the hill. She told Bill, "My camera is lost." Bill looked on the '
        "bridge, and there it was. Lily was very surprised. Lily and Bill played with the red camera all day.",
    ),
    ("not a story", "Colorless green ideas sleep furiously."),
]
SURPRISAL_ROUNDS = "Rounds of 16 masks"
SURPRISAL_ROUNDS_INFO = "Each round is 16 forward passes. Four times as many rounds halve the interval."
SURPRISAL_LENGTH = "the text takes {tokens} tokens; it may take 1 to {most}"
SCORE = "Score"
SURPRISAL_PROGRESS = "{draws} of {total} masks"
SURPRISAL_DONE = "{draws} random masks over {tokens} tokens, including {filling} of padding. Colors: exp(−surprisal)."
SURPRISAL_PLAYER = "Surprisal, {model}"
SURPRISAL_HOVER = "%{customdata}: %{y:.2f} nats<extra></extra>"
SURPRISAL_Y = "surprisal in nats"
FIGURE_COLUMNS = ("measure", "estimate", "95% interval over the masks")
FIGURE_NELBO = "NELBO, nats per token"
FIGURE_BITS = "bits per byte, upper bound"
FIGURE_NATS = "nats for the whole text, upper bound"
FIGURE_EXACT = "exact −log p of the story, nats"
FIGURE_EXACT_NOTE = "known from the grammar"
FIGURE_GAP = "above the exact value, nats per token"
FIGURE_GAP_NOTE = "{nats:+.1f} nats in total"
QUALITY_TITLE = "How many steps does it need?"
QUALITY_LEAD = (
    "The model writes stories from masks alone, and the grammar checks them. Fewer steps reveal more tokens at once, "
    "which cannot see each other. A point costs as many forward passes as it has steps: the selection below takes a "
    "minute or two on a laptop, most of it for 128 steps. More sequences narrow the intervals and take longer."
)
QUALITY_STRATEGIES = "Strategies"
QUALITY_STEPS_INFO = "Threshold and first hitting ignore this and take as many as they need."
QUALITY_WINDOWS = "Sequences per point"
QUALITY_WINDOWS_INFO = "Each holds one story or a few."
QUALITY_MORE = "Top-p, seed"
QUALITY_PROGRESS = "{strategy}, {steps} steps: step {step}"
QUALITY_LEFT = "; at most about {seconds:.0f} s left"
QUALITY_STOPPED = "Stopped: these are the points measured so far."
QUALITY_COST = "{calls} forward passes of {windows} × {length} tokens in {seconds:.0f} s: {each:.0f} ms each."
QUALITY_INTERVALS = (
    "Bars: 95% intervals. For shares, the stories of a sequence count as one observation, so the interval is "
    "conservative."
)
QUALITY_X = "denoiser calls per sequence"
QUALITY_Y = ("grammatical, %", "consistent, %", "entropy, nats")
QUALITY_HOVER = "%{customdata[0]:.0f} calls: %{y:.1f}, %{customdata[1]} stories"
QUALITY_TRUTH = "tales of the grammar"
