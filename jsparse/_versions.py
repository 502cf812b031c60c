"""The version of jsparse, and the versions behind a measurement."""

import platform
from importlib import metadata

import jax

__version__ = "0.1.0"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """The versions behind a measurement: Python, libraries and the device."""
    return {
        "python": platform.python_version(),
        "jsparse": __version__,
        **{package: _version(package) for package in PACKAGES},
        "device": jax.devices()[0].device_kind,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
