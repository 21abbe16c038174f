"""Three paths through the lessons; `build.py` writes them into TEACHING.md, with the minutes of the lessons' heads."""

from __future__ import annotations

ALL = ""  # every section of a lesson

# name: (minutes in all, minutes for breaks, slides and talk, {lesson: its sections})
PATHS: dict[str, tuple[int, int, dict[str, str]]] = {
    "Three hours": (180, 35, {"00": "4 5", "01": "1 2 3 4 5", "03": "1 2", "06": "2 4", "05": "1 3 8"}),
    "Six hours": (
        360,
        45,
        {
            "00": "4 5 6",
            "01": ALL,
            "02": "1 2 6",
            "03": "1 2 3",
            "06": "1 2 3 4",
            "05": "1 3 8",
            "07": "1",
            "09": "1 2 3",
        },
    ),
    "Two days, the first": (360, 45, {"00": ALL, "01": ALL, "02": ALL, "03": ALL}),
    "Two days, the second": (
        360,
        45,
        {"04": "2 3 4 5 7", "05": ALL, "06": "1 2 3 4", "07": "1 2 6", "09": "1 2 3 5 6"},
    ),
}


def table(minutes: dict[str, dict[str, int]]) -> str:
    """The paths as Markdown. minutes: {lesson: {section: minutes}}, lessons and sections by their numbers."""
    made = []
    for name, (limit, other, parts) in PATHS.items():
        lines = [f"### {name}", "", "| lesson | sections | minutes |", "|---|---|---|"]
        total = other
        for lesson, sections in parts.items():
            numbers = sections.split() or list(minutes[lesson])
            taken = sum(minutes[lesson][number] for number in numbers)
            total += taken
            lines.append(f"| {lesson} | {', '.join(numbers) if sections else 'all'} | {taken} |")
        lines += [f"| breaks, slides and talk | | {other} |", f"| together, of {limit} | | {total} |"]
        made.append("\n".join(lines))
    return "\n\n".join(made)
