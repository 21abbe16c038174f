"""Charts: one palette, one description of curves, and one module for each library that draws them.

palette       a color and a marker for each architecture, and for any series
curves        what a panel of curves shows: curves, error bars, levels, crossings
plotly        panels for the browser
matplotlib    panels as pictures
"""
