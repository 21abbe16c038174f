"""What stands between the network and Gradio: which requests pass, how large, how many, and from where."""
