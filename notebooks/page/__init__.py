"""One executed notebook as one web page, which opens from a file:// address and loads nothing from the network.

text.py      Markdown with formulas as HTML and MathML
outputs.py   the outputs of cells as HTML, including players, figures, guesses and progress bars
export.py    the page around it: nbconvert's own template, `page.html.j2`, `page.css`, `page.js`
"""
