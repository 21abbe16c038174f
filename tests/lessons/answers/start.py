"""Answers to the exercises of lesson 00: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

# count_masks


def by_comparing(canvas):
    return (canvas.ids == canvas.mask_id).sum().item()


def one_by_one(canvas):
    count = 0
    for token in canvas.ids.tolist():
        if token == canvas.mask_id:
            count += 1
    return count


def by_property(canvas):
    return canvas.masked.sum()


def all_tokens(canvas):
    return len(canvas)


def the_given_ones(canvas):
    return canvas.fixed.sum().item()


def whether_there_is_one(canvas):
    return bool(canvas.masked.any())


def what_is_not_fixed(canvas):
    return (~canvas.fixed).sum().item()


def of_one_tokenizer(canvas):
    return (canvas.ids == 4_097).sum().item()


def holes_instead_of_masks(canvas):
    masked = canvas.masked.tolist()
    return sum(now and not before for before, now in zip([False, *masked], masked))


def text(value):
    """An answer that returns `value`."""
    return lambda: value


RIGHT = {
    "count_masks": [by_comparing, one_by_one, by_property],
    "canvas_text": [
        text("Mia found a [MASK:6] at school."),
        text("One day, Tom went to the [MASK:2] with Anna.\nHe was happy."),
        text("Sara was [MASK][MASK][MASK] sad"),
        text("Mia found a [mask:6] at school."),
    ],
}
WRONG = {
    "count_masks": [
        all_tokens,
        the_given_ones,
        whether_there_is_one,
        what_is_not_fixed,
        of_one_tokenizer,
        holes_instead_of_masks,
    ],
    "canvas_text": [
        text("Mia found a kite."),
        text("Mia found a (MASK:6) at school."),
        text("Mia found a [MASK:six] at school."),
        text("Mia found a [MASK:6 at school."),
        text("Mia found a [MASK] at school."),
        text("[MASK:2] found a kite."),
        text("Mia found a [MASK:6]"),
        text("Mia found a [MASK:6]."),
        text("Mia [MASK:2] a [MASK:2] at school."),
        text("Mia found a [MASK:500] at school."),
        text(""),
        text(6),
        "Mia found a [MASK:6] at school.",
    ],
}
