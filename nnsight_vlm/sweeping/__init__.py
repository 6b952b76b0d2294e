"""Many variants of one prompt in few forwards: what they share, when each runs, and the table of scores."""
