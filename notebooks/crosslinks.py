"""The end of each lesson: the lessons before and after it, its code in the package, and its tab in the app.

`build.py` appends it as a cell of its own, so that no lesson links by hand.
"""

from __future__ import annotations

MAP = "00_start_here.ipynb#6.-How-the-course-works"

# lesson: (files and documents of the project, tabs of the app)
PLACES: dict[str, tuple[str, str]] = {
    "00": ("diffuapriel/sampling/canvas.py diffuapriel/tales/language.py docs/quickstart.md", "Unmask"),
    "01": ("diffuapriel/diffusion/objective.py diffuapriel/diffusion/schedule.py docs/mathematics.md", "Unmask"),
    "02": ("diffuapriel/ops/recurrent.py diffuapriel/ops/chunked.py diffuapriel/interpret/half_life.py", "Inside"),
    "03": ("diffuapriel/model/mamba2.py diffuapriel/model/layers.py diffuapriel/model/denoiser.py", "Inside"),
    "04": ("diffuapriel/training/loop.py diffuapriel/training/optimizer.py docs/results.md", "Quality"),
    "05": ("diffuapriel/sampling/strategies.py diffuapriel/sampling/tokens.py", "Unmask Quality"),
    "06": ("diffuapriel/benchmark/timing.py diffuapriel/benchmark/sweep.py docs/benchmarks.md", "Race"),
    "07": ("diffuapriel/evaluation/nelbo.py diffuapriel/evaluation/interval.py docs/mathematics.md", "Quality"),
    "08": ("diffuapriel/training/config.py diffuapriel/data/files.py diffuapriel/interpret/influence.py", "Inside"),
    "09": ("diffuapriel/model/blocks.py diffuapriel/sampling/blocks.py docs/blocks.md", "Unmask"),
    "10": ("diffuapriel/diffusion/blocks.py diffuapriel/evaluation/interval.py", "Race"),
    "11": ("diffuapriel/model/attention.py diffuapriel/model/mamba2.py diffuapriel/config.py", ""),
    "12": ("diffuapriel/ops/triton/scan.py diffuapriel/ops/chunked.py", ""),
    "13": ("diffuapriel/tales/language.py diffuapriel/sampling/sampler.py", "Quality"),
}


def footer(lesson: str, titles: dict[str, str], *, version: str, shortened: bool = False) -> str:
    """The Markdown of the last cell of a lesson.

    Args:
        lesson: its name, such as "02_mamba2_by_hand".
        titles: the titles of all lessons by their names, in order.
        version: "student" or "solution".
        shortened: whether the lesson is made for runs/shortened, from where the project is two folders up.
    """
    names = list(titles)
    place = names.index(lesson)
    before, after = names[:place][-1:], names[place + 1 :][:1]
    ways = [f"← [{titles[name]}]({name}.ipynb)" for name in before] + [f"[All lessons]({MAP})"]
    ways += [f"[{titles[name]}]({name}.ipynb) →" for name in after]
    files, tabs = PLACES.get(lesson[:2], ("", ""))
    up = "../../" if shortened or version == "solution" else "../"
    lines = ["---", " · ".join(ways)]
    if files:
        lines.append("In the project: " + ", ".join(f"[{file}]({up}{file})" for file in files.split()))
    if tabs:
        said = " and ".join(f"*{tab}*" for tab in tabs.split())
        lines.append(f"In the app (`make demo`, on Windows `python start.py demo`): {said}")
    if version == "student" and not shortened:
        lines.append(f"With all exercises solved: [solutions/{lesson}](solutions/{lesson}.ipynb)")
    return "\n\n".join(lines)
