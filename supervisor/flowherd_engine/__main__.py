"""`python -m flowherd_engine`: the embedded engine with the flags that tests need."""

from .serve import serve
from .settings import EngineSettings

if __name__ == "__main__":
    raise SystemExit(serve(EngineSettings.from_flags("python -m flowherd_engine")))
