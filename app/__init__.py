"""The DiffuApriel app: four tabs on one player. Start it with `python app/main.py`."""
