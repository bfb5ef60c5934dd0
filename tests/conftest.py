"""Set-up that all tests share."""

import gc


def pytest_collection_finish():
    """Exempt the libraries' objects from garbage collection.

    Every training run makes a full collection, which would walk through more than a million of them: half of the
    processor time of tests that train.
    """
    gc.collect()
    gc.freeze()
