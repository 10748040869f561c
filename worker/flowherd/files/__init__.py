"""Files of activities: streamed up and down, complete or not at all, in private folders."""
