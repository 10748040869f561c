"""Polling: when a process asks the engine for activities, and for how many.

1. Each process publishes when its last poll began, and the pause that its answer calls for.
2. The pause is the interval after an answer that was not full, and while an answer is out.
3. It ends with the answer if that was full, and is longer after ten minutes without work.
4. The host's next poll is due a pause after the newest poll of all its processes.
5. A process with a free slot asks then, up to 5 ms later the more of its slots are in use, and 0.3 ms later for each
   process before it; if the host has polled meanwhile, it waits for the next time.
6. So the freest asks first, one that is blocked, frozen or dead is passed over, and two polls at once are harmless.
7. A process whose answer brings the next poll nearer than it has said wakes the freest one, if that is freer than
   itself, to look at all this again.
8. After a receipt of its own a process also asks for the next step, as late as it has learned that the engine has it,
   unless the host has asked since then.
9. If the next step is not there, it asks again after an eighth of that pause, and each time after twice as long, up to
   the interval.
10. Beside others it asks for twice what has ended here since its last poll, at least an eighth of its slots, and at
    most what is free.

After an error the circuit says when calls pass again (`flowherd.client.circuit`).
"""

from flowherd.worker.polling.poller import Poller, PollMode

__all__ = ["PollMode", "Poller"]
