"""The texts of the Inside and Quality tabs: a part of app/texts.py, which says how one is added."""

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
MEMORY_TITLE = "How far each Mamba head remembers"
MEMORY_LEAD = (
    "After so many tokens half of what a head has written to its state is left, on this text. Forward heads remember "
    "what stands to their left, reverse heads what stands to their right. Dotted: the length of the text."
)
MEMORY_NAMES = ("forward heads", "reverse heads")
MEMORY_HOVER = "layer {layer}, head {head}: {tokens:,.1f} tokens"
MEMORY_X = "← half-life in tokens →"
MEMORY_ATTENTION = "attention: every token at once"
MEMORY_NONE = "This model has no Mamba layer."
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
SURPRISE_LEAD = (
    "How well does the model know this text? Tokens are hidden at random and guessed from the rest; a token's "
    "surprise is the mean of minus log p of the true one, in nats: 0 where it is certain, 0.69 for a coin."
)
SURPRISE_TEXT = "Text"
SURPRISE_TEXT_INFO = (
    "Up to {most} tokens. A model of tales reads it as one story, in the window it was trained on."
)
SURPRISE_EXAMPLES = [  # name, text
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
SURPRISE_ROUNDS = "Rounds of 16 masks"
SURPRISE_ROUNDS_INFO = "Each is 16 forward passes. Four times as many rounds halve the interval."
SCORE = "Score"
SURPRISE_PROGRESS = "{draws} of {total} masks"
SURPRISE_DONE = (
    "{draws} random masks of {tokens} tokens, {filling} of them the window's filling. Colors: exp(−surprise)."
)
SURPRISE_PLAYER = "Surprise, {model}"
SURPRISE_HOVER = "%{customdata}: %{y:.2f} nats<extra></extra>"
SURPRISE_Y = "surprise in nats"
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
QUALITY_X = "denoiser calls a window"
QUALITY_Y = ("grammatical, %", "consistent, %", "entropy, nats")
QUALITY_HOVER = "%{customdata[0]:.0f} calls: %{y:.1f}, %{customdata[1]} stories"
QUALITY_TRUTH = "true tales"
