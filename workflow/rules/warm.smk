# Starting Python and its libraries takes longer than a small job. On one machine a process that has them loaded does the
# jobs, each in a fork of its own. NEUROPRUNE_WARM= (empty) in the environment leaves it out.
from neuroprune.training import server as warm


onstart:
    if on_this_machine():
        warm.start()
