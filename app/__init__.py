"""The DiffuApriel app: two tabs on one player. Start it with `python app/main.py`."""
