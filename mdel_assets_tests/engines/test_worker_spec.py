"""How a worker ended, as whatever started it is told."""

import pytest

from mdel_assets.engines.worker_spec import raise_outcome, write_outcome
from mdel_assets.errors import HubError, TrainingInterruptedError, WorkerError, transient


@pytest.fixture
def spec(tmp_path):
    return tmp_path / "spec.json"


@pytest.mark.parametrize("is_transient", [False, True])
def test_an_error_is_of_its_class_and_as_transient_as_it_was(spec, is_transient):
    busy = HubError("The Hub is busy.")
    write_outcome(spec, transient(busy) if is_transient else busy)
    with pytest.raises(HubError, match=r"^The Hub is busy\.$") as caught:
        raise_outcome(spec)
    assert caught.value.is_transient == is_transient


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_cancelled_training_is_told_from_one_whose_time_was_over(spec, is_cancelled):
    write_outcome(spec, TrainingInterruptedError("Stopped.", is_cancelled=is_cancelled))
    with pytest.raises(TrainingInterruptedError, match="Stopped") as caught:
        raise_outcome(spec)
    assert caught.value.is_cancelled == is_cancelled


def test_an_error_of_another_class_is_told_with_its_class_and_where_to_read_on(spec):
    write_outcome(spec, KeyError("tokens"))
    with pytest.raises(WorkerError) as caught:
        raise_outcome(spec, output="/job/output.log")
    assert str(caught.value) == (
        "The worker failed with KeyError: 'tokens'; /job/output.log says more."
    )


def test_a_worker_that_ended_well_or_without_a_word_is_told_apart(spec):
    write_outcome(spec, None)
    raise_outcome(spec)
    spec.with_suffix(".outcome.json").unlink()
    with pytest.raises(WorkerError, match="was killed, or could not start; its output says more"):
        raise_outcome(spec)
