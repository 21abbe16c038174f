"""The texts of the Inside and Quality tabs: a part of app/strings/en.py, which says how one is added.

Every text of the page in one place.

To add one: write it here in English under an upper-case name, with a {hole} for each value, read it as texts.NAME
inside a function (never when a module is imported: the language is chosen later), and give app/strings/de.json
the same name and holes. tests/app/ui/test_language.py says what is missing. app/strings/language.py chooses the
language.
"""

INSIDE_TAB = "Inside"
INSIDE_LEAD = (
    "What the denoiser does at one step. Choose the token that is to be predicted; the colors show which other "
    "tokens its answer depends on, for the three architectures side by side."
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
INSIDE_MODELS_INFO = "Random weights: untrained, its gates opened so that its structure can be seen."
INSIDE_TIME = "Time t that the models are told"
INSIDE_TIME_INFO = "0: as many masks as the text has. 1: all masked."
INSIDE_METHOD = "Influence by"
INSIDE_METHOD_INFO = "Occlusion masks every token once: as many forward passes as tokens."
INSIDE_METHODS = {
    "gradient": "gradient: what a small push would do",
    "occlusion": "occlusion: what the token tells",
}
INSIDE_POSITION = "Output position"
INSIDE_POSITION_INFO = "Or choose a token below. -1: the first mask."
INSIDE_LOOK = "Look"
INSIDE_READY = "Press Look, then choose any token."
INSIDE_TOKENIZERS = (
    "these models have different tokenizers, so the text would be other tokens for each; choose others"
)
INSIDE_HINT = "influence on the chosen output; Enter chooses a token as the output"
INSIDE_MASKED = "a mask"
INSIDE_ASKED = "position {position}: the output that is asked for"
INSIDE_UNKNOWN = "{token}, position {position}: not measured"
INSIDE_SHARE = "{token}, position {position}: {share:.2%} of the influence"
INSIDE_ANSWER = "answers “{answer}” with {probability:.0%}"
INSIDE_UNTRAINED = "untrained, gates opened"
INSIDE_SIDES = (
    "; {left:.0%} of the influence from the left, {right:.0%} from the right, "
    "{far:.0%} from farther than {n} tokens"
)
INSIDE_PROGRESS = "{label}: {done} of {total} tokens left out, one at a time"
INSIDE_STOPPED = "Stopped: what is colored has been measured."
INSIDE_DONE = (
    "Output position {position}, t = {t:.2f}: the models are told that {share:.0%} of the text is masked."
)
INSIDE_SCALE = ("a hundredth", "of the strongest")
INFLUENCE_TITLE = "How far does it look?"
INFLUENCE_LEAD = (
    "The same numbers over the positions, as shares of each model's sum. To the left of the dotted line stands what "
    "comes before the output, to the right what comes after: a left-to-right model would have nothing there."
)
INFLUENCE_X = "position"
INFLUENCE_Y = "share of the influence"
CLOSER_TITLE = "One model from closer by"
CLOSER_LEAD = "The same text at the same noise level, in one of the models above."
CLOSER_MODEL = "Model"
HALF_LIFE_TITLE = "How far each Mamba head remembers"
HALF_LIFE_LEAD = (
    "After so many tokens half of what a head has written to its state is left, on this text. Forward heads remember "
    "what stands to their left, reverse heads what stands to their right. Dotted: the length of the text."
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
ATTENTION_FIRST = "the first with attention"
ATTENTION_HEAD = "Head"
ATTENTION_MEAN = "mean of all heads"
ATTENTION_ONE = "head {head}"
ATTENTION_NONE = "This model has no attention layer."
ATTENTION_WEIGHT = "weight"
ATTENTION_X = "looks at"
ATTENTION_Y = "position"
SCHEDULE_TITLE = "The noise level"
SCHEDULE_LEAD = (
    "How much is masked at time t, and what the models are told of it. Log-linear is the one in use."
)
SCHEDULE_SHARE = "masked share"
SCHEDULE_SIGMA = "noise level σ"
SCHEDULE_TIME = "time t"
SCHEDULE_MARKS = ("{value:.0%} masked", "σ = {value:.2f}")
MODULATION_TITLE = "What the noise level changes"
MODULATION_LEAD = (
    "AdaLN shifts, scales and gates what each layer does. Size: root mean square over the channels. "
    "A gate of zero shuts the layer."
)
MODULATION_PART = "Of"
MODULATION_PARTS = {"mixer": "the mixer", "mlp": "the MLP"}
MODULATIONS = ("shift", "scale", "gate")
CLOSER_SPAN = "{low:,.1f} to {high:,.0f} tokens, half of them under {middle:,.1f}"
CLOSER_MAMBA = (
    "Forward heads: {forward}. Reverse heads: {reverse}. Layers: {layers} Mamba, {attention} attention."
)
CLOSER_TRANSFORMER = "{layers} attention layers and no Mamba layer: every layer sees every token at once."

QUALITY_TAB = "Quality"
SURPRISAL_LEAD = (
    "How well does the model know this text? Tokens are hidden at random and guessed from the rest; a token's "
    "surprisal is the mean of minus log p of the true one, in nats: 0 where it is certain, 0.69 for a coin."
)
SURPRISAL_TEXT = "Text"
SURPRISAL_TEXT_INFO = (
    "Up to {most} tokens. A model of tales reads it as one story, in the window it was trained on."
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
    ("no story at all", "Colorless green ideas sleep furiously."),
]
SURPRISAL_ROUNDS = "Rounds of 16 masks"
SURPRISAL_ROUNDS_INFO = "Each is 16 forward passes. Four times as many rounds halve the interval."
SCORE = "Score"
SURPRISAL_PROGRESS = "{draws} of {total} masks"
SURPRISAL_DONE = (
    "{draws} random masks of {tokens} tokens, {filling} of them the window's filling. "
    "Colors: exp(−surprisal)."
)
SURPRISAL_PLAYER = "Surprisal, {model}"
SURPRISAL_HOVER = "%{customdata}: %{y:.2f} nats<extra></extra>"
SURPRISAL_Y = "surprisal in nats"
FIGURE_COLUMNS = ("measure", "estimate", "95 % interval of the masks drawn")
FIGURE_NELBO = "NELBO, nats per token"
FIGURE_BITS = "bits per byte, at most"
FIGURE_NATS = "nats of the whole text, at most"
FIGURE_EXACT = "exact −log p of the story, nats"
FIGURE_EXACT_NOTE = "known from the grammar"
FIGURE_GAP = "above the exact value, nats per token"
FIGURE_GAP_NOTE = "{nats:+.1f} nats in all"
QUALITY_TITLE = "How many steps does it need?"
QUALITY_LEAD = (
    "Stories are drawn from nothing but masks and read by the grammar. Fewer steps reveal more tokens at once, which "
    "do not know of each other. A point costs as many forward passes as it has steps: the choice below takes a minute "
    "or two on a laptop, most of it the 128 steps; more windows narrow the intervals and take longer."
)
QUALITY_STRATEGIES = "Strategies"
QUALITY_STEPS_INFO = "Threshold and first hitting take as many as they need."
QUALITY_WINDOWS = "Windows a point"
QUALITY_WINDOWS_INFO = "Each holds one story or a few."
QUALITY_MORE = "Top-p, seed"
QUALITY_PROGRESS = "{strategy}, {steps} steps: step {step}"
QUALITY_LEFT = "; about {seconds:.0f} s to go at most"
QUALITY_STOPPED = "Stopped: these are the points measured so far."
QUALITY_COST = "{calls} forward passes of {windows} × {length} tokens in {seconds:.0f} s: {each:.0f} ms each."
QUALITY_INTERVALS = (
    "Bars: 95 % intervals; of shares, as if the stories of a window were all alike, so never too narrow."
)
QUALITY_X = "denoiser calls per window"
QUALITY_Y = ("grammatical, %", "consistent, %", "entropy, nats")
QUALITY_HOVER = "%{customdata[0]:.0f} calls: %{y:.1f}, %{customdata[1]} stories"
QUALITY_TRUTH = "true tales"


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
    "low_confidence": "low-confidence remasking: most probable first",
    "entropy": "entropy: least uncertain first",
    "margin": "margin: clearest winner first",
    "random": "random order",
    "threshold": "threshold: all that are sure",
    "ancestral": "ancestral: as the theory draws",
    "remdm": "ReMDM: may take tokens back",
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
NOT_A_LIST = "{name} are {value}; choose one to {most}"
INSIDE_TOO_LONG = "the text takes {tokens} tokens; here it may take up to {most}"
INSIDE_TWICE = "a model is chosen twice; choose different ones"
SURPRISAL_LENGTH = "the text takes {tokens} tokens; it may take 1 to {most}"
RESULTS_CHOSEN = "the choice is {value}; choose up to {most} results"
LINK_TOO_LONG = (
    "the link would have {length} characters; it may have up to {most}. "
    "Shorten the text, or save the trace instead"
)
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
RACE_ON_GPU = (
    "The race runs on {name}, in bfloat16; the first run of a model compiles it, which takes about 30 s."
)
RACE_ON_CPU = "The race runs on the CPU."
RACE_ON = "The race runs on {device}."
RACE_WITHOUT_GPU = "There is no NVIDIA GPU here: the race runs on the CPU."
LANE_A = "Lane A"
LANE_B = "Lane B"
LANE_C = "Lane C"
NO_ENTRY = "none"
RANDOM_WEIGHTS = (
    "Random weights are as fast as trained ones and write nonsense: for the paper's sizes, up to 1.3B."
)
REPEATS = "Timed runs each"
REPEATS_INFO = "In the order A B, B A, …; the median counts."
RACE_BEHIND = "{ratio:.2f}× the time of the first"
RACE = "Race"
RACE_MORE = "Strategy, seed"
WHAT_WAS_FAIR = "What was fair"
RACE_PROGRESS = "{phase}: {entry}, step {step}"
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
CHART_SLOPE = "{entry} (slope {slope:.2f})"
CHART_CROSSOVER = " crossover at {length:,.0f} "
CHART_EQUAL = "below: {baseline} is faster"
CHART_PAPER = "the paper, {version}: up to {ratio:g}×, {entry}"
PAPER_NOTE = (
    "Dotted lines are the paper's own figures (arXiv:2511.15927), not measured here: {figures}. "
    "Their hardware, kernels and sizes differ from this machine's."
)
PAPER_FIGURE = "{version}: {entry} up to {ratio:g} times DiffuTran's throughput {setting}"

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
KEPT_RACE = "{number}. race, {length:,} tokens × {steps} steps: {entries}"
KEPT_SWEEP = "{number}. sweep up to {top:,} tokens: {entries}"
SAVE_RESULTS_JSON = "Save as JSON"
SAVE_RESULTS_CSV = "Save as CSV"
SAVE_RESULTS_PNG = "Save as picture"

SAVE_GIF = "Save as GIF"
DROP = "A trace can also be dropped here."
LINK = "Link to these settings"
LINK_LABEL = "Link"
LINK_INFO = "It opens this tab with these settings and is now in the address bar too. Nothing is stored."
LINK_BAD = "From the link: {why}"
