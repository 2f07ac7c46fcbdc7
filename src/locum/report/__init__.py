"""What people read of a build: the HTML page with its plots, the model card, the terminal's ladder."""
