"""From names to places: what an intervention means in one model, for one prompt, at one placement."""
