"""The player: one JavaScript module that shows how text appears, in notebooks, in the app and in exported files.

player.js, player.css  the module and its looks          page.html       the frame of an exported file
wire.py                a run as small messages           gradio_host.py  inside gr.HTML
widget.py              inside a notebook (anywidget)
"""
