"""The diagrams of the lessons: `make notebooks` writes notebooks/diagrams/NAME.svg, one for each entry of ALL."""

from drawing import architecture, diffusion, learning, scans, systems

ALL = {
    picture.name: picture
    for module in (diffusion, scans, architecture, systems, learning)
    for picture in (draw() for draw in module.DIAGRAMS)
}
