"""One executed notebook as one web page, which opens from a file:// address and asks nothing of anybody.

text.py      Markdown with formulas as HTML and MathML
outputs.py   what a cell showed, as HTML: players, figures, guesses and bars among it
export.py    the page around it: nbconvert's own template, `page.html.j2`, `page.css`, `page.js`
"""
