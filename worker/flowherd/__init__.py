"""Runs Python activities on many processes; this module offers the public names and does nothing."""

from flowherd.errors import (
    ActivityError,
    AppImportError,
    ConfigurationError,
    FileError,
    FlowherdError,
    InvalidOutput,
    InvalidParameters,
    LeaseLost,
    LifespanFailed,
    RegistryError,
)
from flowherd.model import Usage
from flowherd.sdk.context import ActivityContext, CancelReason, SyncActivityContext
from flowherd.sdk.output import ActivityResult
from flowherd.sdk.registry import Registry, activity
from flowherd.sdk.streams import SyncTokenStream, TokenStream

__version__ = "0.1.0"

__all__ = [
    "ActivityContext",
    "ActivityError",
    "ActivityResult",
    "AppImportError",
    "CancelReason",
    "ConfigurationError",
    "FileError",
    "FlowherdError",
    "InvalidOutput",
    "InvalidParameters",
    "LeaseLost",
    "LifespanFailed",
    "Registry",
    "RegistryError",
    "SyncActivityContext",
    "SyncTokenStream",
    "TokenStream",
    "Usage",
    "__version__",
    "activity",
]
