"""The player: one JavaScript module that shows a generation, in notebooks, in the app and in exported files.

player.js, player.css   the module and its styles        page.html       the frame of an exported file
widget.py               in a notebook (anywidget)        gradio_host.py  in gr.HTML
source.py               reads these files
"""
