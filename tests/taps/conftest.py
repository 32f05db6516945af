"""The tiny Stable Diffusion, and schedulers for it."""

import pytest

from tests.taps.setups import (
    shared,
    stock,
)


@pytest.fixture
def sd():
    stock("sd")
    return shared("sd")


@pytest.fixture
def with_scheduler(sd):
    """Stable Diffusion with another scheduler, put back after the test."""
    original = sd.pipe.scheduler

    def put(scheduler_class, **config):
        sd.pipe.scheduler = scheduler_class.from_config(original.config, **config)
        return sd

    yield put
    sd.pipe.scheduler = original
