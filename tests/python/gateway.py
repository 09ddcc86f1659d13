"""A home router as far as port mapping goes: PCP, NAT-PMP and UPnP, each as a thread.

What it is asked, it tells in `asked`; how it misbehaves is left to the tests. It knows nothing of
KadePy.
"""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue

EXTERNAL = "203.0.113.5"
SSDP = ("239.255.255.250", 1900)
NAMES = {"PCP": 2, "NAT-PMP": 0}
SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:1"

DESCRIPTION = f"""<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<serviceList><service><serviceType>{SERVICE}</serviceType>
<controlURL>/control</controlURL><SCPDURL>/actions</SCPDURL></service></serviceList>
</device></root>"""

ARGUMENTS = {
    "AddPortMapping": [
        "NewRemoteHost",
        "NewExternalPort",
        "NewProtocol",
        "NewInternalPort",
        "NewInternalClient",
        "NewEnabled",
        "NewPortMappingDescription",
        "NewLeaseDuration",
    ],
    "DeletePortMapping": ["NewRemoteHost", "NewExternalPort", "NewProtocol"],
    "GetExternalIPAddress": [],
}


def actions() -> str:
    """The service's description."""

    def argument(name: str) -> str:
        return f"<argument><name>{name}</name><direction>in</direction></argument>"

    listed = "".join(
        f"<action><name>{action}</name>"
        f"<argumentList>{''.join(map(argument, names))}</argumentList></action>"
        for action, names in ARGUMENTS.items()
    )
    return f"<scpd><actionList>{listed}</actionList></scpd>"


class Router:
    """A router at `address` that takes the protocols `speaks`, and does nothing else.

    Args:
        lease: seconds that PCP and NAT-PMP grant; by default what is asked for.
        external: its address on the other side.
        refusal: the code by which PCP and NAT-PMP refuse, if they do.
        errors: UPnP's errors, as code and description, for one request to map after another.
        location: where its answer to a search points.
    """

    def __init__(
        self,
        address: str,
        speaks: str,
        *,
        lease: int | None = None,
        external: str = EXTERNAL,
        refusal: int = 0,
        errors: list[tuple[int, str]] | None = None,
        location: str | None = None,
        page: Callable[[BaseHTTPRequestHandler], None] | None = None,
    ) -> None:
        self.address = address
        self.lease = lease
        self.external = external
        self.refusal = refusal
        self.errors = errors or []
        self.location = location or f"http://{address}:5000/root.xml"
        self.page = page
        self.is_mute = False
        self.asked: SimpleQueue[str] = SimpleQueue()
        self._owners: dict[int, bytes] = {}
        self._speaks = speaks
        if speaks in NAMES:
            self._serve((address, 5351), lambda request: self._map(request))
        if speaks == "UPnP":
            self._serve(("", 1900), self._search)
            self._serve_http()

    def _serve(self, at: tuple[str, int], answer: Callable[[bytes], bytes | None]) -> None:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(at)
        if at[1] == SSDP[1]:
            group = socket.inet_aton(SSDP[0]) + socket.inet_aton(self.address)
            server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)

        def run() -> None:
            while True:
                request, source = server.recvfrom(2_000)
                reply = answer(request)
                if reply is not None and not self.is_mute:
                    server.sendto(reply, source)

        threading.Thread(target=run, daemon=True).start()

    def _map(self, request: bytes) -> bytes | None:
        version = NAMES[self._speaks]
        if request[0] != version:
            # As RFC 6886 and RFC 6887 have it: with the version that is spoken.
            head = struct.pack(">BBH", version, 0x80 | request[1], 1)
            return head.ljust(24 if version else 8, b"\0")
        return self._map_by_pcp(request) if version else self._map_by_nat_pmp(request)

    def _map_by_pcp(self, request: bytes) -> bytes:
        lease, client, nonce = request[4:8], request[20:24], request[24:36]
        (inside, outside) = struct.unpack(">HH", request[40:44])
        assert request[8:20] == bytes(10) + b"\xff\xff"
        assert request[36] == 17
        is_owner = self._owners.setdefault(inside, nonce) == nonce
        (seconds,) = struct.unpack(">I", lease)
        self._tell(seconds, client, inside, outside)
        granted = self._granted(seconds)
        ip = bytes(10) + b"\xff\xff" + socket.inet_aton(self.external)
        # RFC 6887, section 11.3: a mapping is its owner's, by the nonce.
        code = self.refusal if is_owner else 2
        head = struct.pack(">BBBBII", 2, 0x81, 0, code, granted, 42) + bytes(12)
        return head + request[24:42] + struct.pack(">H", outside or inside) + ip

    def _map_by_nat_pmp(self, request: bytes) -> bytes:
        if request[1] == 0:
            ip = socket.inet_aton(self.external)
            return struct.pack(">BBHI", 0, 0x80, self.refusal, 42) + ip
        inside, outside, seconds = struct.unpack(">HHI", request[4:12])
        self._tell(seconds, None, inside, outside)
        head = struct.pack(">BBHI", 0, 0x81, self.refusal, 42)
        return head + struct.pack(">HHI", inside, outside, self._granted(seconds))

    def _granted(self, seconds: int) -> int:
        return seconds if self.lease is None or not seconds else self.lease

    def _tell(self, seconds: int, client: bytes | None, inside: int, outside: int) -> None:
        to = f"{socket.inet_ntoa(client)}:{inside}" if client else f"{inside}"
        self.asked.put(f"{outside} to {to} for {seconds}" if seconds else f"no more to {to}")

    def _search(self, request: bytes) -> bytes | None:
        if b"device:InternetGatewayDevice:1" not in request:
            return None
        head = "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
        return f"{head}USN: uuid:1\r\nLOCATION: {self.location}\r\n\r\n".encode()

    def _serve_http(self) -> None:
        router = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if router.page is not None:
                    router.page(self)
                else:
                    page = DESCRIPTION if self.path == "/root.xml" else actions()
                    self.answer(200, page)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                action = self.headers["SOAPAction"].strip('"').partition("#")[2]
                while router.is_mute:
                    threading.Event().wait(60)
                self.answer(*router._act(action, body))

            def answer(self, status: int, page: str) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer((self.address, 5000), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _act(self, action: str, body: str) -> tuple[int, str]:
        given = dict(re.findall(r"<(New\w+)[^>]*>([^<]*)</", body))
        assert given.keys() <= set(ARGUMENTS[action])
        outside = given.get("NewExternalPort")
        result = ""
        if action == "GetExternalIPAddress":
            result = f"<NewExternalIPAddress>{self.external}</NewExternalIPAddress>"
        elif action == "DeletePortMapping":
            self.asked.put(f"no more of {outside}")
        else:
            to = f"{given['NewInternalClient']}:{given['NewInternalPort']}"
            assert given["NewProtocol"] == "UDP"
            self.asked.put(f"{outside} to {to} for {given['NewLeaseDuration']}")
            if self.errors:
                return 500, fault(*self.errors.pop(0))
        return 200, envelope(
            f'<u:{action}Response xmlns:u="{SERVICE}">{result}</u:{action}Response>'
        )


def fault(code: int, description: str) -> str:
    """A refusal of UPnP."""
    detail = f"<errorCode>{code}</errorCode><errorDescription>{description}</errorDescription>"
    error = f'<UPnPError xmlns="urn:schemas-upnp-org:control-1-0">{detail}</UPnPError>'
    return envelope(f"<s:Fault><faultcode>s:Client</faultcode><detail>{error}</detail></s:Fault>")


def envelope(body: str) -> str:
    """SOAP's."""
    space = "http://schemas.xmlsoap.org/soap/envelope/"
    return f'<s:Envelope xmlns:s="{space}"><s:Body>{body}</s:Body></s:Envelope>'
