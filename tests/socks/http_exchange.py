"""The plainest exchange of HTTP, as an application sends it, as it is forwarded, and how it is answered.

Read first: ``support``, whose applications read the answers.
"""

from __future__ import annotations

from .support import Application

GET = b"GET http://a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n"
GET_SENT = b"GET /x HTTP/1.1\r\nHost: a.test\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def answered(application: Application, body: bytes = b"ok") -> dict[str, str]:
    status, fields, got = await application.read_response()
    assert status == 200
    assert got == body
    return fields
