"""Why a run stops."""

import signal

from metarun.experiment.errors import ConfigError, InterruptedRun


def test_an_interrupted_run_says_by_what_and_has_the_shells_status():
    error = InterruptedRun(signal.SIGTERM)
    assert (str(error), error.exit_status) == ("stopped by SIGTERM", 143)


def test_a_bad_configuration_is_a_value_error():
    assert issubclass(ConfigError, ValueError)
