"""`python -m flowherd_engine`: the embedded engine with the few flags that tests need."""

from __future__ import annotations

import argparse
import os

from .serve import EngineSettings, serve


def _settings() -> EngineSettings:
    parser = argparse.ArgumentParser(prog="python -m flowherd_engine")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080, help="0 takes an ephemeral port")
    parser.add_argument("--db", default=":memory:", help="a path, or :memory:")
    parser.add_argument("--client-id", help="enforce tokens; the secret is KRUXIAFLOW_CLIENT_SECRET")
    parser.add_argument("--default-lease", type=float, default=60.0, metavar="S")
    parser.add_argument("--sweep-interval", type=float, default=30.0, metavar="S")
    parser.add_argument("--workflow-timeout", type=float, default=300.0, metavar="S")
    parser.add_argument("--token-ttl", type=float, default=86_400.0, metavar="S")
    parser.add_argument("--test-hooks", action="store_true", help="open /__test__/…")
    flags = parser.parse_args()
    return EngineSettings(
        host=flags.host,
        port=flags.port,
        db=flags.db,
        client_id=flags.client_id,
        client_secret=os.environ.get("KRUXIAFLOW_CLIENT_SECRET") if flags.client_id is not None else None,
        default_lease_s=flags.default_lease,
        sweep_interval_s=flags.sweep_interval,
        workflow_timeout_s=flags.workflow_timeout,
        token_ttl_s=flags.token_ttl,
        test_hooks=flags.test_hooks,
    )


if __name__ == "__main__":
    raise SystemExit(serve(_settings()))
