"""Fill the masks of a sentence, and print every step: a canvas, a sampler, a stream of frames."""

from diffuapriel import Canvas, Sampler, SamplerConfig, get_schedule, load_checkpoint

model, tokenizer = load_checkpoint("tales-diffuapriel")
canvas = Canvas.from_text("Mia found a [MASK:6].", tokenizer)
config = SamplerConfig(strategy="low_confidence", steps=6, top_p=0.9, seed=3)
sampler = Sampler(config, get_schedule("log-linear"), tokenizer.mask_id)
for frame in sampler.stream(model, canvas):
    print(f"{frame.step}: {tokenizer.decode(frame.ids)}")
