"""Files of activities: streamed both ways, whole or not at all, in private folders."""
