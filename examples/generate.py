"""Write stories with a bundled model, and keep a replay of the first one."""

from pathlib import Path

from diffuapriel import pipeline

pipe = pipeline("tales-diffuapriel")
output = pipe(["", "Once upon a time"], length=64, num_inference_steps=64, temperature=0.7, seed=1, return_trace=True)
for text in output.texts:
    print(text, end="\n\n")

replay = Path("story.html")
replay.write_text(output.traces[0].to_html(), encoding="utf-8")
print(f"open {replay} in a browser: it plays offline")
