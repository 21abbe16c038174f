"""The answers to the predictions, and why: kept here, so that they do not stand under the question.

ANSWERS["01.1"]     (the letter, the reason); the letter is "" where the reader's own run decides
"""

from __future__ import annotations

ANSWERS: dict[str, tuple[str, str]] = {
    "00.1": ("", "It fills the masks it is surest of, and sees both sides of each."),
    "00.2": ("", "The model reads the whole row, so it sees 'her' before it writes the name."),
    "01.1": (
        "C",
        "Each token is hidden with probability t and then weighted by 1/t: on average every token counts once, and "
        "each costs log V. Without the weight, half of it would be left.",
    ),
    "01.2": (
        "A",
        "Each token alone is plausible. But tokens drawn in the same step do not know of each other, and a story has "
        "many tokens that must agree.",
    ),
    "01.3": (
        "D",
        "Every row is padded with end-of-text tokens, so at the end of the row the model is nearly certain before "
        "anything is written.",
    ),
    "02.1": ("", "Each token takes one percent of what is left, which is less each time: 0.99 to the power 69 is 0.5."),
    "02.2": ("", "The age alone tells how much is left only if all steps are equal."),
    "02.3": ("", "Operations are not time: a long chain of tiny steps is slow, and so is a huge matrix."),
    "03.1": (
        "B",
        "When it reads the first position it has seen nothing yet. It knows that a name comes first, but not whose.",
    ),
    "03.2": ("C", "Each scan includes the current token, so the sum counts it twice."),
    "03.3": (
        "B",
        "Every gate is zero, so each block passes its input on, token by token: only the embedding of the position "
        "itself reaches the output.",
    ),
    "04.1": ("", "A comparison at one shared rate also measures the choice of the rate."),
    "04.2": ("", "All three saw the same stories in the same order."),
    "04.3": ("", "Steps per second count here as much as what a step teaches."),
    "05.1": ("C", "Sure can mean a large best, a large lead, or a short list of candidates."),
    "05.2": ("A", "Nothing is drawn at random: neither the position nor the token."),
    "05.3": (
        "C",
        "A rare token would need a g that float32 cannot represent. The more steps, the less a token's chance in each, "
        "and the harder the cut.",
    ),
    "05.4": ("", "To be sure is to choose: certainty is won from the free choices of the stories too."),
    "06.1": ("", "The clock measures the machine as well as the model."),
    "06.2": ("", "Only the quadratic part takes four times as long."),
    "06.3": ("", "The rest goes to operations that compute little and move a lot of data."),
    "07.1": ("", "Four draws mostly miss the rare high ones, and then they underestimate their own spread."),
    "07.2": (
        "B",
        "Every text is charged at least its true cost, because the mean of logarithms is below the logarithm of the "
        "mean. So some probability is lost.",
    ),
    "07.3": ("", "A judge prefers what it expects, and knows nothing of variety."),
    "08.1": ("", "A text whose relatives were in the training text is not new to the model."),
    "08.2": ("", "Count per token: there are more tokens elsewhere than in its own line."),
    "09.1": ("", "What was written at token 47 fades on its way to the left, but reaches every token."),
    "09.2": ("", "Few masks at a time leave a tight bound; with many, their order is averaged over."),
    "09.3": ("", "It never saw a block that begins with more than four masks."),
    "10.1": ("", "Left to right is one order of filling; diffusion learns all of them."),
    "10.2": ("", "The name comes first, and what tells which name fits comes later."),
    "10.3": ("", "Each masking of a story is a new exercise; from left to right there is only one."),
    "11.1": ("", "Nothing is lost all at once: every pair disturbs every other one a little."),
    "11.2": ("", "One layer that looks back is enough."),
    "12.1": ("", "A program knows no texts: it reads what stands at an address, without an error."),
    "12.2": ("", "torch.flip makes a copy: what is flipped is read and written once more."),
    "12.3": ("", "Every intermediate tensor is written, and read again by the next operation."),
    "13.1": ("B", "A rare success counts much, and each of many failures a little. Together they are 0."),
    "13.2": ("", "It writes right stories now and then, by itself. The reward makes them more frequent."),
    "13.3": ("", "The reward never asks for a story that the model does not write."),
}
