import pytest


@pytest.fixture
def digits_for_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Experiments read scikit-learn's digits where they ask for MNIST."""
    from experiments import datasets

    monkeypatch.setattr(datasets, "mnist", lambda folder: datasets.digits())
