"""HTTP/1.1 for small JSON POSTs: connections that are kept, bounded and never trusted; it knows no engine.

Two faces share one pool: `direct.DirectTransport` takes bytes and gives bytes, `httpx_face.PoolTransport` lets an
`httpx.AsyncClient` run on it. Neither follows redirects, asks proxies, decompresses or pipelines.
"""
