# Starting Python and its libraries takes longer than a small job. On one machine a process that has them loaded does the
# jobs, each in a fork of its own. NEUROPRUNE_WARM= (empty) in the environment leaves it out.
from neuroprune import warm

ALONE = workflow.local_exec and not workflow.remote_exec


onstart:
    if ALONE:
        warm.start()
