"""What a build adds to the pages: see each file."""
