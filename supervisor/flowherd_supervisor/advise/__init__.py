"""What each activity should be, and how many processes: judged from what was measured."""
