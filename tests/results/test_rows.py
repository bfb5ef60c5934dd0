"""Times of untimed dense runs, taken from dense passes in the timings of other runs."""

import pytest

from neuroprune.results.rows import with_dense_times, with_usual_times

DENSE = {"model": "minilm", "task": "sst2", "device": "cpu", "cpu": "A", "method": "dense", "status": "done"}


def timed(milliseconds, **changes):
    """Return a pruned run whose timing has this dense time in milliseconds per example."""
    times = {"inference_ms_b1": 1.0, "dense_inference_ms_b1": milliseconds, "dense_inference_ms_b1_q1": 3.0}
    how = {"timing_device": "cpu", "timing_cpu": "A", "timing_settings": "1 thread"}
    return DENSE | {"method": "neuroprune"} | how | times | changes


def times_of_dense(*others):
    return with_dense_times([DENSE, *others])[0]


def test_a_dense_run_takes_the_median_of_the_times_beside_other_runs():
    found = times_of_dense(timed(4.0), timed(9.0), timed(5.0))
    assert found["inference_ms_b1"] == found["dense_inference_ms_b1"] == 5.0
    assert (found["inference_ms_b1_q1"], found["speedup_b1"]) == (3.0, 1.0)
    assert (found["timing_device"], found["timing_cpu"]) == ("cpu", "A")


def test_times_of_different_machines_are_not_mixed():
    found = times_of_dense(timed(4.0), timed(50.0, timing_cpu="B"), timed(60.0, timing_device="GPU"))
    assert (found["inference_ms_b1"], found["timing_cpu"], found["timing_device"]) == (4.0, "A", "cpu")


def test_times_of_different_settings_are_not_mixed():
    found = times_of_dense(timed(4.0), timed(1.0, timing_settings="4 threads"), timed(2.0, timing_settings="4 threads"))
    assert (found["inference_ms_b1"], found["timing_settings"]) == (4.0, "1 thread")


def test_times_with_other_settings_than_most_of_the_same_model_and_task_are_left_out():
    four = {"timing_settings": "4 threads"}
    untimed = DENSE | dict.fromkeys(("timing_device", "timing_cpu", "timing_settings"))
    rows = [untimed, timed(1.0, **four), timed(4.0), timed(5.0), timed(1.0, task="mrpc", **four)]
    odd = {name: value for name, value in rows[1].items() if "inference" not in name}
    odd |= {"timing_device": None, "timing_cpu": None}
    assert with_usual_times(rows) == [untimed, odd, *rows[2:]]


@pytest.mark.parametrize("changes", [{"model": "bert"}, {"task": "mrpc"}, {"device": "GPU"}, {"cpu": "B"}])
def test_times_of_another_model_task_or_training_machine_are_not_taken(changes):
    assert times_of_dense(timed(4.0, **changes)) == DENSE


@pytest.mark.parametrize("changes", [{"method": "l1"}, {"status": "diverged"}, {"inference_ms_b1": 7.0}])
def test_only_finished_dense_runs_without_times_of_their_own_take_any(changes):
    assert with_dense_times([DENSE | changes, timed(4.0)])[0] == DENSE | changes
